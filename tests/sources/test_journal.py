"""The journal: what is written, what survives, what a follower sees."""

import errno
import json
import math
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import hostile
import numpy as np
import pytest
from hostile import RUN, event, fly_run, legacy_run, start, step_run, stop
from hypothesis import given, settings
from hypothesis import strategies as st
from shared import FOLDER

from operandi.errors import DocumentError
from operandi.sources import journal
from operandi.sources.journal import Journal, follow_run, read, runs
from operandi.sources.replay import from_journal
from operandi.stages.documents import Admission, Exposures, RunStopped


def write(folder, documents):
    with Journal(folder) as written:
        for name, doc in documents:
            written(name, doc)
    return written


def plain(documents):
    return json.loads(json.dumps(list(documents)))


@pytest.mark.parametrize("run", [fly_run, step_run, legacy_run])
def test_a_run_is_read_as_it_was_written(tmp_path, run):
    written = write(tmp_path, run())
    (path,) = tmp_path.iterdir()
    assert path.name == f"20261122-140300_{RUN}.jsonl"
    assert plain(read(path)) == plain(run())
    assert (written.faults, written.lost) == (0, 0)


@pytest.mark.parametrize("file", sorted(FOLDER.glob("bluesky_docs/*")), ids=lambda path: path.name)
def test_real_runs_survive_the_round_trip(tmp_path, file):
    text = file.read_text()
    documents = (
        [json.loads(line) for line in text.splitlines()] if file.suffix == ".jsonl" else [[d["name"], d["doc"]] for d in json.loads(text)]
    )
    assert write(tmp_path, documents).faults == 0
    assert plain(from_journal(tmp_path)) == documents


def test_numpy_nan_and_infinity_survive(tmp_path):
    doc = {"uid": RUN, "time": np.float64(hostile.START), "a": np.arange(4).reshape(2, 2), "n": np.int16(3), "t": (1, 2)}
    written = write(tmp_path, [("start", doc | {"nan": math.nan, "inf": -math.inf, "f": np.float32(0.5), "b": np.bool_(True), "é": "µ"})])
    ((_, back),) = from_journal(tmp_path)
    assert math.isnan(back.pop("nan"))
    assert back == {
        "uid": RUN, "time": hostile.START, "a": [[0, 1], [2, 3]], "n": 3, "t": [1, 2], "inf": -math.inf, "f": 0.5, "b": True, "é": "µ",
    }  # fmt: skip
    assert written.faults == 0


class Unspeakable:
    def __repr__(self):
        raise ValueError("no words")


def test_what_json_cannot_hold_is_written_as_its_repr_and_counted(tmp_path, caplog):
    circle: dict = {"uid": RUN, "time": hostile.START, "z": 1j, (1, 2): {3}, "deep": Unspeakable()}
    circle["itself"] = [circle, circle]
    written = write(tmp_path, [("start", circle)])
    ((_, back),) = from_journal(tmp_path)
    assert back["z"] == {"__repr__": "1j"}
    assert back["(1, 2)"] == [3]
    assert "Unspeakable" in back["deep"]["__repr__"]
    assert set(back["itself"][0]) == {"__repr__"}
    assert written.faults == 1
    assert "repr was written" in caplog.text


SIMPLE = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()


@given(st.recursive(SIMPLE, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10))
@settings(max_examples=50, deadline=None)
def test_any_value_becomes_one_line(value):
    line, marked = journal.encode("event", {"data": value})
    assert line.count(b"\n") == 1
    name, doc = journal.decode(line, Path("x"), 1)
    assert marked or repr(doc["data"]) == repr(value)
    assert name == "event"


@pytest.mark.parametrize("bad", hostile.DOCUMENTS, ids=lambda bad: bad.why)
def test_a_hostile_document_is_written_and_harms_nothing_else(tmp_path, bad):
    run = step_run(3)
    write(tmp_path, [*run[:4], (bad.name, bad.doc), *run[4:]])
    assert len(runs(tmp_path)) <= 2
    back = plain(from_journal(tmp_path, RUN))
    assert [document for document in back if document in plain(run)] == plain(run)


def test_interleaved_runs_do_not_mix(tmp_path):
    one, two = legacy_run(5, "run-one"), legacy_run(5, "run-two")
    mixed = [one[0], *(document for pair in zip(one[1:], two[:-1], strict=True) for document in pair), two[-1]]
    write(tmp_path, mixed)
    assert [run.finished for run in runs(tmp_path)] == [True, True]
    assert plain(from_journal(tmp_path, "run-two")) == plain(two)
    assert plain(from_journal(tmp_path, "run-one")) == plain(one)


def test_documents_of_no_known_run_are_kept_apart(tmp_path):
    write(tmp_path, [event(1), *step_run(2)])
    assert plain(read(tmp_path / journal.STRAY)) == plain([event(1)])
    assert [run.uid for run in runs(tmp_path)] == [RUN]


def test_a_uid_cannot_leave_the_folder(tmp_path):
    folder = tmp_path / "journal"
    write(folder, [start("../../etc/passwd")])
    assert [path.parent for path in tmp_path.rglob("*.jsonl")] == [folder]


def test_a_full_disk_loses_nothing_that_memory_can_hold(tmp_path, monkeypatch, caplog):
    run = step_run(8)
    real, full = os.write, threading.Event()

    def write_some(fd, data):
        if full.is_set():
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, data[: max(1, len(data) // 2)])

    with Journal(tmp_path, sync_s=1000) as written:
        monkeypatch.setattr(os, "write", write_some)
        for i, (name, doc) in enumerate(run):
            if i in (4, 12):
                full.set() if i == 4 else full.clear()
            written(name, doc)
    assert plain(from_journal(tmp_path)) == plain(run)
    assert (written.faults, written.lost) == (8, 0)
    assert "Free the disk" in caplog.text


def test_a_full_memory_is_counted_and_tears_no_line(tmp_path, monkeypatch):
    real = os.write
    run = step_run(8)
    with Journal(tmp_path, sync_s=1000, most_waiting=1000) as written:
        for name, doc in run[:6]:
            written(name, doc)
        monkeypatch.setattr(os, "write", lambda fd, data: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        for name, doc in run[6:16]:
            written(name, doc)
        monkeypatch.setattr(os, "write", real)
        for name, doc in run[16:]:
            written(name, doc)
    back = plain(from_journal(tmp_path))
    assert written.lost > 0
    assert len(back) == len(run) - written.lost
    assert [document for document in plain(run) if document in back] == back


def test_a_torn_last_line_is_not_handed_on_but_reported(tmp_path, caplog):
    write(tmp_path, step_run(3)[:-1])
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-20])
    assert plain(read(path)) == plain(step_run(3)[:-2])
    assert "ends in the middle of a document" in caplog.text


def test_a_spoilt_line_is_handed_on_as_unreadable(tmp_path):
    write(tmp_path, step_run(2))
    (path,) = tmp_path.iterdir()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], b"\x00\xff{[\n", b"[1, 2, 3]\n", b'"text"\n', b"\n", b"[" * 100_000 + b"\n", *lines[3:]]))
    documents = list(read(path))
    assert [name for name, _ in documents].count(journal.UNREADABLE) == 5
    assert "line 4 of" in documents[3][1]["reason"]
    assert plain(document for document in documents if document[0] != journal.UNREADABLE) == plain(step_run(2))


def test_a_journal_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DocumentError, match=r"no journal .*nothing\.jsonl"):
        read(tmp_path / "nothing.jsonl")


def test_runs_are_found_by_uid_by_its_beginning_and_from_the_end(tmp_path):
    write(tmp_path, [*step_run(1, "aaaa-1"), *step_run(2, "aaab-2"), *step_run(3, "bbbb-3")])
    assert len(list(from_journal(tmp_path, "bb"))) == len(step_run(3))
    assert len(list(from_journal(tmp_path, -3))) == len(step_run(1))
    assert len(list(from_journal(tmp_path, "-2"))) == len(step_run(2))
    with pytest.raises(DocumentError, match="several runs 'aaa' .* aaaa-1, aaab-2, bbbb-3"):
        from_journal(tmp_path, "aaa")
    with pytest.raises(DocumentError, match="no run 'x'"):
        from_journal(tmp_path, "x")
    with pytest.raises(DocumentError, match="there: none"):
        from_journal(tmp_path / "empty", -1)


# -- following ----------------------------------------------------------------------------------------------------


def test_a_follower_sees_the_run_as_it_grows_to_its_end(tmp_path):
    run = step_run(30)
    with Journal(tmp_path) as written:
        written(*run[0])
        (path,) = tmp_path.iterdir()
        seen = []
        reader = threading.Thread(target=lambda: seen.extend(follow_run(path, poll_s=0.001)))
        reader.start()
        for name, doc in run[1:]:
            written(name, doc)
        reader.join(10)
    assert plain(seen) == plain(run)


def test_a_line_that_is_half_written_waits_for_its_other_half(tmp_path):
    path = tmp_path / f"20261122-140300_{RUN}.jsonl"
    line, _ = journal.encode(*start())
    path.write_bytes(line[:30])
    halt = threading.Event()
    documents = follow_run(path, poll_s=0.001, stop=halt)
    threading.Timer(0.02, lambda: path.write_bytes(line)).start()
    assert next(documents) == start()
    halt.set()
    assert list(documents) == []


# -- processes ----------------------------------------------------------------------------------------------------

KILLED = """
import itertools, sys
sys.path[:0] = {paths!r}
from hostile import event, start, descriptor
from operandi.sources.journal import Journal
journal = Journal({folder!r})
journal(*start())
journal(*descriptor({{"pilatus"}}))
for n in itertools.count(1):
    journal(*event(n))
    print(n, flush=True)
"""


def test_a_killed_process_loses_at_most_its_last_document(tmp_path):
    paths = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "src")]
    command = [sys.executable, "-c", KILLED.format(paths=paths, folder=str(tmp_path))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) == 300:
                process.send_signal(signal.SIGKILL)
                break
        said = [int(line) for line in process.stdout]
    written = [doc["seq_num"] for name, doc in from_journal(tmp_path) if name == "event"]
    assert written[:1] == [1]
    assert written[-1] >= max(said, default=300)
    assert written == list(range(1, len(written) + 1))
    assert runs(tmp_path)[0].finished is False


class Number:
    """A bluesky device that reads one number."""

    parent = None

    def __init__(self, name):
        self.name, self.value, self.reads = name, 0.0, 0

    def describe(self):
        return {self.name: {"source": "test", "dtype": "number", "shape": []}}

    def read(self):
        self.reads += 1
        return {self.name: {"value": np.float64(self.value), "timestamp": hostile.START}}

    def describe_configuration(self):
        return {}

    def read_configuration(self):
        return {}


ROLES = {"rotation": "rotation", "translation": "translation"}


@pytest.fixture
def engine():
    from bluesky import RunEngine

    engine = RunEngine({}, context_managers=[])
    yield engine
    engine.loop.call_soon_threadsafe(engine.loop.stop)
    engine._th.join()
    engine.loop.close()


def test_a_run_engine_is_journalled_and_admitted(tmp_path, engine):
    from bluesky.plans import count

    rotation, translation = Number("rotation"), Number("translation")
    with Journal(tmp_path) as written:
        engine.subscribe(written)
        engine(count([rotation, translation], 12))
    admission = Admission("primary", ROLES)
    outcomes = [outcome for name, doc in from_journal(tmp_path) for outcome in admission.admit(name, doc)]
    assert sum(len(e) for e in outcomes if isinstance(e, Exposures)) == 12
    assert outcomes[-1] == RunStopped("success", "", {"primary": 12})
    assert written.faults == 0


def test_a_paused_and_rewound_run_engine_repeats_seq_nums_and_the_last_one_wins(tmp_path, engine):
    from bluesky import Msg
    from bluesky.utils import RunEngineInterrupted

    rotation, translation = Number("rotation"), Number("translation")

    def point(angle):
        yield Msg("create", name="primary")
        rotation.value += angle
        yield Msg("read", rotation)
        yield Msg("read", translation)
        yield Msg("save")

    def plan():
        yield Msg("open_run")
        yield from point(1)
        yield Msg("checkpoint")
        yield from point(1)
        yield from point(1)
        if rotation.reads == 3:
            yield Msg("pause")
        yield from point(1)
        yield Msg("close_run")

    with Journal(tmp_path) as written:
        engine.subscribe(written)
        with pytest.raises(RunEngineInterrupted):
            engine(plan())
        rotation.value = 40.0
        engine.resume()
    documents = list(from_journal(tmp_path))
    numbers = [doc["seq_num"] for name, doc in documents if name == "event"]
    admission = Admission("primary", ROLES)
    released = [o for name, doc in documents for o in admission.admit(name, doc) if isinstance(o, Exposures)]
    assert numbers == [1, 2, 3, 2, 3, 4]
    last = {e.seq_first: float(e.values["rotation"][0]) for e in released}
    assert last == {1: 1.0, 2: 40.0, 3: 40.0, 4: 41.0}


def test_the_stop_of_a_run_is_on_the_disk_when_the_callback_returns(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fdatasync", lambda fd: synced.append(os.fstat(fd).st_size))
    with Journal(tmp_path, sync_s=1000) as written:
        for name, doc in [*step_run(2)[:-1]]:
            written(name, doc)
        assert len(synced) == 1
        written(*stop(2))
        (path,) = tmp_path.iterdir()
        assert synced[-1] == path.stat().st_size
