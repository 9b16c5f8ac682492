"""Replay: the documents of a run that is over, from where they were kept."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tiled.queries import Like

from operandi.errors import DocumentError, NotPublishedError
from operandi.nodes import RAW
from operandi.sources import journal
from operandi.sources.journal import Run
from operandi.stages.documents import Document

EXPORT = "application/json-seq"
_RESERVED = ("time", "seq_num")


def _as_renamed(doc: dict[str, Any]) -> dict[str, Any]:
    return doc | {"data_key": f"{doc['data_key']}_"} if doc.get("data_key") in _RESERVED else doc


TILED_PATCHES = {"stream_resource": _as_renamed}
"""For ``TiledWriter(patches=…)``: bluesky-tiled-plugins 2.0.12 renames the data key ``time`` in descriptors and
events, but not in stream_resources, and so raises KeyError on a fly scan that has it."""


def from_journal(folder: str | os.PathLike[str], uid: str | int = -1) -> Iterator[Document]:
    """The documents of a run from a folder of journals, in the order in which they were written.

    ``uid`` may be abbreviated, or count from the end (-1 the latest). Raises DocumentError, with what there is,
    where it names no run or several.
    """
    return journal.read(find(journal.runs(folder), uid, str(folder)).path)


def find(runs: Sequence[Run], uid: str | int, where: str) -> Run:
    """The one run that ``uid`` (whole, abbreviated, or a negative index) names."""
    if isinstance(uid, int) or (uid.startswith("-") and uid[1:].isdigit()):
        if -len(runs) <= int(uid) < 0:
            return runs[int(uid)]
        matches = []
    else:
        matches = [run for run in runs if run.uid == uid] or [run for run in runs if run.uid.startswith(uid)]
    if len(matches) == 1:
        return matches[0]
    there = ", ".join(run.uid for run in runs[-10:]) or "none"
    raise DocumentError(f"{'several runs' if matches else 'no run'} {uid!r} in {where}; the latest there: {there}")


def from_tiled(client: Any, uid: str | int = -1) -> Iterator[Document]:
    """The documents of a run that TiledWriter has put on a Tiled server.

    They say the same as the ones that were written, in another order: all events, then one stream_datum a key.
    Data keys that TiledWriter renamed get their own name back, and a run that was killed has no stop.

    Parameters
    ----------
    client
        The root of the server, or the container of the runs.
    uid
        As in `from_journal`.

    Raises
    ------
    NotPublishedError
        It names no run, or several; the message says what there is.
    DocumentError
        The run cannot be told from the server: it is no BlueskyRun 3, or a key lies in several files, of which
        the server does not keep how many exposures each holds.
    """
    catalog = client.get(RAW, client)
    run = catalog[_key(catalog, uid)]
    if not hasattr(run, "documents"):
        raise DocumentError(f"{run.uri} is no BlueskyRun (its specs: {list(run.specs)}); give the container of the runs")
    if EXPORT not in run.context.server_info.formats.get("BlueskyRun", ()):
        raise DocumentError(
            f"the Tiled server at {run.context.api_uri} cannot tell runs as documents: add to the media_types of its configuration "
            f"'BlueskyRun: {{{EXPORT}: bluesky_tiled_plugins.exporters:json_seq_exporter}}', or replay from the journal"
        )
    rows = {
        (stream, key): _rows(run, stream, key)
        for stream in run
        for key, described in run[stream].metadata.get("data_keys", {}).items()
        if described.get("external")
    }
    return _restored(run, rows)


def _key(catalog: Any, uid: str | int) -> str:
    if isinstance(uid, int) or (uid.startswith("-") and uid[1:].isdigit()):
        matches = [catalog.keys()[int(uid)]] if -len(catalog) <= int(uid) < 0 else []
    else:
        matches = [uid] if uid in catalog else list(catalog.search(Like("start.uid", f"{uid}%")).keys().head(2))
    if len(matches) == 1:
        return matches[0]
    there = ", ".join(catalog.keys().tail(10)) or "none"
    raise NotPublishedError(f"{'several runs' if matches else 'no run'} {uid!r} in {catalog.uri}; the latest there: {there}")


def _rows(run: Any, stream: str, key: str) -> int:
    """Length of the first axis of an external key; refuses a key in several files."""
    part = run[stream].base[key]
    for source in part.data_sources() or ():
        if source.mimetype == "application/x-hdf5" and len(source.assets) > 1:
            raise DocumentError(
                f"{stream}/{key} of run {run.start['uid']} lies in {len(source.assets)} files, and Tiled does not keep how many "
                "exposures each holds: replay it from the journal"
            )
    return part.shape[0]


def _restored(run: Any, rows: Mapping[tuple[str, str], int]) -> Iterator[Document]:
    """The run's documents, as they were before TiledWriter.

    It writes the data keys ``time`` and ``seq_num`` as ``time_`` and ``seq_num_``, and says so when the run stops;
    and of a legacy resource with ``frame_per_point`` the server tells an empty stream_datum (2.0.12).
    """
    notes = " ".join(map(str, run.metadata.get("notes") or ()))
    stopped = bool(run.metadata.get("stop"))
    back = {f"{name}_": name for name in _RESERVED if not stopped or f"Renamed data_key '{name}'" in notes}
    places: dict[str, str] = {}
    for name, read_only in run.documents():
        doc = dict(read_only)
        if name == "stop" and not doc:
            return
        if name in ("descriptor", "stream_resource"):
            places[doc["uid"]] = doc["name"] if name == "descriptor" else doc["data_key"]
        elif name == "stream_datum" and doc["indices"]["stop"] <= doc["indices"]["start"]:
            count = rows[places[doc["descriptor"]], places[doc["stream_resource"]]]
            doc |= {"indices": {"start": 0, "stop": count}, "seq_nums": {"start": 1, "stop": count + 1}}
        yield name, _renamed(name, doc, back)


def _renamed(name: str, doc: dict[str, Any], back: Mapping[str, str]) -> dict[str, Any]:
    if name == "descriptor":
        doc["data_keys"] = {back.get(key, key): value for key, value in doc["data_keys"].items()}
    elif name == "event":
        doc["data"] = {back.get(key, key): value for key, value in doc["data"].items()}
        doc["timestamps"] = {back.get(key, key): value for key, value in doc["timestamps"].items()}
    elif name == "stream_resource":
        doc["data_key"] = back.get(doc["data_key"], doc["data_key"])
    return doc
