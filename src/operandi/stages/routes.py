"""Routes: which run a document belongs to, where documents of several runs are mixed."""

from collections.abc import Mapping
from typing import Any


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
