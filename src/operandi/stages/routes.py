"""Routes: which run a document belongs to, and whether that run is an experiment's."""

from collections.abc import Iterable, Mapping
from typing import Any

from operandi.experiment import Scan


class Routes:
    """Which run a document belongs to, where documents of several runs are mixed."""

    def __init__(self):
        self._runs: dict[str, str] = {}
        self._open: list[str] = []

    def run_of(self, name: str, doc: Mapping[str, Any]) -> str | None:
        """Uid of the document's run; None where it names nothing that was seen before.

        A legacy resource that names no run belongs to the run that started last and has not stopped.
        """
        run = self._find(name, doc)
        if run is None:
            return None
        if name == "start" and run not in self._open:
            self._open.append(run)
        if name == "stop":
            self._open = [uid for uid in self._open if uid != run]
            self._runs = {uid: of for uid, of in self._runs.items() if of != run}
        elif isinstance(uid := doc.get("uid"), str) and name in ("start", "descriptor", "resource", "stream_resource"):
            self._runs[uid] = run
        return run

    def _find(self, name: str, doc: Mapping[str, Any]) -> str | None:
        if name == "start":
            return doc["uid"] if isinstance(doc.get("uid"), str) else None
        for field in ("run_start", "descriptor", "resource", "stream_resource"):
            if isinstance(uid := doc.get(field), str):
                return self._runs.get(uid)
        return self._open[-1] if name == "resource" and self._open else None


def describes(scan: Scan, name: str, doc: Mapping[str, Any]) -> bool:
    """Whether a document is the descriptor of the scan's stream, with all its data keys: its run is the experiment's."""
    keys = doc.get("data_keys")
    if name != "descriptor" or doc.get("name") != scan.stream or not isinstance(keys, Mapping):
        return False
    return all(key in keys for key in _wanted(scan))


def why_not_ours(scan: Scan, documents: Iterable[tuple[str, Mapping[str, Any]]]) -> str:
    """Why a run that is over is not the experiment's, from its documents."""
    uid, seen = None, []
    for name, doc in documents:
        if name == "start":
            uid = doc.get("uid")
        elif name == "descriptor" and isinstance(keys := doc.get("data_keys"), Mapping):
            seen.append(f"{doc.get('name')!r} with {', '.join(map(str, keys))}")
    return (
        f"run {uid} has no stream {scan.stream!r} with the data keys {', '.join(_wanted(scan))}, only {'; '.join(seen) or 'none'}: "
        "it is not of this experiment, or scan.stream and scan.keys are to be corrected"
    )


def set_key(scan: Scan) -> str | None:
    """The data key that tells the set of each exposure; None where none is needed, whether or not it is named."""
    return scan.keys.set if scan.sets_by == "key" else None


def _wanted(scan: Scan) -> list[str]:
    return [key for key in (scan.keys.model_dump() | {"set": set_key(scan)}).values() if key is not None]
