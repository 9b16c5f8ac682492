"""Hostile input that every layer meets: small good runs, and the documents that spoil them.

``RUN`` names the run; its stream ``primary`` has the data keys ``pilatus``, ``rotation``, ``translation``,
``monitor`` and ``time``. Documents are ``(name, doc)``.
"""

from dataclasses import dataclass
from typing import Any

RUN = "219cc7b4-5f3a-4c01-9d6e-0a1b2c3d4e5f"
START = 1_795_356_180.0
KEYS = {"image": "pilatus", "rotation": "rotation", "translation": "translation", "monitor": "monitor", "time": "time"}
IMAGE = {"source": "test", "dtype": "array", "dtype_numpy": "<i4", "shape": [1, 13, 17], "external": "STREAM:"}
Documents = list[tuple[str, dict[str, Any]]]


def start(run: str = RUN) -> tuple[str, dict[str, Any]]:
    return "start", {"uid": run, "time": START, "scan_id": 7, "plan_name": "fly", "operandi": {"sample": "cell-17"}}


def stop(count: int, run: str = RUN) -> tuple[str, dict[str, Any]]:
    return "stop", {
        "uid": f"stop-{run}", "run_start": run, "time": START + 60,
        "exit_status": "success", "reason": "", "num_events": {"primary": count},
    }  # fmt: skip


def descriptor(in_files: set[str], run: str = RUN, **changes: Any) -> tuple[str, dict[str, Any]]:
    number = {"source": "test", "dtype": "number", "dtype_numpy": "<f8"}
    keys = {k: number | ({"shape": [1], "external": "STREAM:"} if k in in_files else {"shape": []}) for k in KEYS.values()}
    keys["pilatus"] = IMAGE
    doc = {"uid": f"d-{run}", "run_start": run, "time": START, "name": "primary", "data_keys": keys, "configuration": {}, "object_keys": {}}
    return "descriptor", doc | changes


def resource(key: str, run: str = RUN, **changes: Any) -> tuple[str, dict[str, Any]]:
    doc = {
        "uid": f"{key}-{run}", "run_start": run, "data_key": key, "mimetype": "application/x-hdf5", "uri": "file://localhost/data/scan.h5",
        "parameters": {"dataset": f"/entry/{key}", "chunk_shape": [1]},
    }  # fmt: skip
    return "stream_resource", doc | changes


def datum(key: str, first: int, stop: int, run: str = RUN, **changes: Any) -> tuple[str, dict[str, Any]]:
    doc = {
        "uid": f"{key}-{first}-{stop}", "stream_resource": f"{key}-{run}", "descriptor": f"d-{run}",
        "seq_nums": {"start": first, "stop": stop}, "indices": {"start": first - 1, "stop": stop - 1},
    }  # fmt: skip
    return "stream_datum", doc | changes


def event(seq_num: Any, run: str = RUN, *, descriptor: Any = None, **data: Any) -> tuple[str, dict[str, Any]]:
    number = seq_num if isinstance(seq_num, int) else 0
    when = START + 0.1 * (number % 1000)
    planned = {"rotation": float(number // 5), "translation": number % 5 * 0.1, "monitor": 1e6 + number, "time": when}
    values = {key: value for key, value in (planned | data).items() if value is not ...}
    return "event", {
        "uid": f"e-{seq_num}", "descriptor": descriptor or f"d-{run}", "seq_num": seq_num, "time": START, "data": values,
        "timestamps": dict.fromkeys(values, START), "filled": {},
    }  # fmt: skip


def fly_run(count: int = 40, line: int = 8, run: str = RUN) -> Documents:
    """A fly scan: everything in files, one stream_datum a line and key."""
    keys = list(KEYS.values())
    lines = [(first, min(first + line, count + 1)) for first in range(1, count + 1, line)]
    head = [start(run), descriptor(set(keys), run), *(resource(key, run) for key in keys)]
    return [*head, *(datum(key, *span, run) for span in lines for key in keys), stop(count, run)]


def step_run(count: int = 20, run: str = RUN) -> Documents:
    """A step scan: numbers in the events, images in files."""
    points = [document for n in range(1, count + 1) for document in (datum("pilatus", n, n + 1, run), event(n, run))]
    return [start(run), descriptor({"pilatus"}, run), resource("pilatus", run), *points, stop(count, run)]


def legacy_run(count: int = 20, run: str = RUN) -> Documents:
    """A step scan with resource and datum, as before 2020."""
    image = {"source": "test", "dtype": "array", "shape": [13, 17], "external": "FILESTORE:"}
    name, doc = descriptor(set(), run)
    doc["data_keys"]["pilatus"] = image
    kept = {
        "uid": f"res-{run}",
        "run_start": run,
        "spec": "AD_HDF5",
        "root": "/data",
        "resource_path": "old.h5",
        "resource_kwargs": {"frame_per_point": 1},
    }
    points: Documents = []
    for n in range(1, count + 1):
        points.append(("datum", {"datum_id": f"res-{run}/{n}", "resource": f"res-{run}", "datum_kwargs": {"point_number": n - 1}}))
        points.append(event(n, run, pilatus=f"res-{run}/{n}"))
    return [start(run), (name, doc), ("resource", kept), *points, stop(count, run)]


@dataclass(frozen=True)
class Hostile:
    """A document that must be refused, never raised about, wherever it comes in a step run."""

    why: str
    name: Any
    doc: Any
    ignored: bool = False
    """It says nothing wrong, and brings nothing about."""


def _nested(depth: int) -> Any:
    value: Any = 1.0
    for _ in range(depth):
        value = [value]
    return value


NAN, INFINITE = float("nan"), float("inf")
BEYOND = 10**6
"""A seq_num that no good run has; what is wrong with these documents must not touch the good ones."""

DOCUMENTS: tuple[Hostile, ...] = (
    Hostile("no document at all", "event", None),
    Hostile("a list", "event", [1, 2, 3]),
    Hostile("a text", "stop", "success"),
    Hostile("an unknown name", "evnt", {}),
    Hostile("a name that is no text", 7, {}),
    Hostile("a line that was no document", "unreadable", {"reason": "line 3 of x.jsonl is no document"}),
    Hostile("an empty event", "event", {}),
    Hostile("an empty event page", "event_page", {}),
    Hostile("an empty descriptor", "descriptor", {}),
    Hostile("an empty stream_resource", "stream_resource", {}),
    Hostile("an empty stream_datum", "stream_datum", {}),
    Hostile("an empty resource", "resource", {}),
    Hostile("an empty datum", "datum", {}),
    Hostile("an empty datum page", "datum_page", {}),
    Hostile("an empty stop", "stop", {}),
    Hostile("a second start", "start", {"uid": "another-run", "time": START}),
    Hostile("the stop of another run", "stop", stop(3, "another-run")[1]),
    Hostile("the descriptor of another run", *descriptor(set(), "another-run")),
    Hostile("the stream_resource of another run", *resource("pilatus", "another-run")),
    Hostile("a descriptor that changed under its uid", *descriptor({"pilatus"}, hints={"changed": True})),
    Hostile("a descriptor without the rotation", *descriptor({"pilatus"}, uid="d-2", data_keys={"pilatus": IMAGE})),
    Hostile("a descriptor whose data_keys are a list", *descriptor(set(), uid="d-3", data_keys=["pilatus"])),
    Hostile("a descriptor that moves the rotation into files", *descriptor({"pilatus", "rotation"}, uid="d-4")),
    Hostile("an event of an unknown descriptor", *event(BEYOND, descriptor="nobody")),
    Hostile("an event whose descriptor is a number", *event(BEYOND, descriptor=12)),
    Hostile("seq_num 0", *event(0)),
    Hostile("a negative seq_num", *event(-3)),
    Hostile("a seq_num beyond belief", *event(10**18)),
    Hostile("a seq_num that is a text", *event("12")),
    Hostile("a seq_num that is a fraction", *event(12.5)),
    Hostile("a seq_num that is true", *event(True)),
    Hostile("no seq_num", *event(None)),
    Hostile("an event without rotation", *event(BEYOND, rotation=...)),
    Hostile("a rotation that is NaN", *event(BEYOND, rotation=NAN)),
    Hostile("a translation that is infinite", *event(BEYOND, translation=INFINITE)),
    Hostile("a translation too large for a float", *event(BEYOND, translation=10**400)),
    Hostile("a monitor that is a text", *event(BEYOND, monitor="1e6")),
    Hostile("a monitor that is null", *event(BEYOND, monitor=None)),
    Hostile("a monitor that is true", *event(BEYOND, monitor=True)),
    Hostile("a rotation of three numbers", *event(BEYOND, rotation=[1.0, 2.0, 3.0])),
    Hostile("a ragged rotation", *event(BEYOND, rotation=[[1.0], [2.0, 3.0]])),
    Hostile("an empty rotation", *event(BEYOND, rotation=[])),
    Hostile("a marked value", *event(BEYOND, rotation={"__repr__": "<Quantity 1 deg>"})),
    Hostile("data that is a list", "event", event(BEYOND)[1] | {"data": [1, 2]}),
    Hostile("a page of unequal columns", "event_page", event(BEYOND)[1] | {"seq_num": [BEYOND, BEYOND + 1], "time": [1.0]}),
    Hostile("a stream_datum of an unknown resource", *datum("nothing", BEYOND, BEYOND + 5)),
    Hostile("a stream_datum of an unknown descriptor", *datum("pilatus", BEYOND, BEYOND + 5, descriptor="nobody")),
    Hostile("seq_nums from 0", *datum("pilatus", 0, 3)),
    Hostile("empty seq_nums", *datum("pilatus", BEYOND, BEYOND)),
    Hostile("seq_nums that run backwards", *datum("pilatus", BEYOND + 3, BEYOND)),
    Hostile("seq_nums beyond belief", *datum("pilatus", BEYOND, 10**12)),
    Hostile("fewer indices than seq_nums", *datum("pilatus", BEYOND, BEYOND + 5, indices={"start": 0, "stop": 3})),
    Hostile("negative indices", *datum("pilatus", BEYOND, BEYOND + 2, indices={"start": -2, "stop": 0})),
    Hostile("indices that are texts", *datum("pilatus", BEYOND, BEYOND + 2, indices={"start": "0", "stop": "2"})),
    Hostile("a stream_resource that changed under its uid", *resource("pilatus", uri="file://localhost/other.h5")),
    Hostile("a datum of an unknown resource", "datum", {"datum_id": "x/1", "resource": "x", "datum_kwargs": {}}),
    Hostile("a datum page that is ragged", "datum_page", {"datum_id": ["a", "b"], "resource": "x", "datum_kwargs": {"frame": [1]}}),
    Hostile("nested without end", *event(BEYOND, rotation=_nested(400), monitor=_nested(400))),
    Hostile("another stream", *descriptor(set(), uid="d-baseline", name="baseline"), ignored=True),
)
