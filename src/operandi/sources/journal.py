"""The journal: a run's documents on disk, one JSON line each, written where the RunEngine runs and followed elsewhere."""

import json
import logging
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from operandi.errors import DocumentError
from operandi.stages.documents import Document
from operandi.stages.routes import Routes

log = logging.getLogger(__name__)

REPR = "__repr__"
"""Marks, as the only key of a mapping, a value that JSON cannot hold and that was written as its repr."""
UNREADABLE = "unreadable"
"""Name under which a line that is no document is handed on, so that it ends in the ledger."""
STRAY = "stray.jsonl"
"""File for documents of no known run."""

_NAME = re.compile(r"(\d{8}-\d{6})_(.+)\.jsonl")
_DEEPEST = 100
LOG_EVERY_S = 10.0


class _File:
    """One journal file: bytes that the disk would not take wait in memory, in order, so that no line is torn."""

    def __init__(self, path: Path):
        self.path, self.waiting, self.finished = path, b"", False
        self._fd: int | None = None
        self._lock = threading.Lock()

    def append(self, line: bytes, most_waiting: int) -> bool:
        """Hand ``line`` to the operating system, after what waits; False where it was lost, OSError where it waits."""
        with self._lock:
            if self.waiting and len(self.waiting) + len(line) > most_waiting:
                return False
            self.waiting += line
            if self._fd is None:
                self._fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            while self.waiting:
                self.waiting = self.waiting[os.write(self._fd, self.waiting) :]
            return True

    def sync(self) -> None:
        if self._fd is not None:
            os.fdatasync(self._fd)

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


class Journal:
    """A bluesky callback that appends every document to ``<folder>/<YYYYmmdd-HHMMSS>_<uid>.jsonl`` (UTC), one file a run.

    Each document is handed to the operating system at once, so that it survives the death of the process, and is
    forced to the disk when a run starts or stops and once a second. Nothing is raised into the RunEngine: where
    the disk fails, lines wait in memory (``most_waiting`` bytes a run) and are written when it is back.

    Attributes
    ----------
    faults
        How often writing failed, or a value had to be written as its repr. Not 0 means: look at the log.
    lost
        Documents that found no place on disk nor in memory.
    """

    def __init__(self, folder: str | os.PathLike[str], *, sync_s: float = 1.0, most_waiting: int = 64 << 20):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.faults = self.lost = 0
        self._sync_s, self._most_waiting = sync_s, most_waiting
        self._routes = Routes()
        self._files: dict[str, _File] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._syncing: threading.Thread | None = None
        self._logged = -LOG_EVERY_S

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        name = str(getattr(name, "value", name))
        line, marked = encode(name, doc)
        run = self._routes.run_of(name, doc) if isinstance(doc, Mapping) else None
        if marked:
            self._fault("a value of the %s document of run %s is no JSON; its repr was written", name, run)
        with self._lock:
            file = self._file(run, doc)
        written = self._write(file, line)
        file.finished = name == "stop" and run is not None
        if name in ("start", "stop") and written:
            with self._lock:
                self._settle(run or "", file)

    def close(self) -> None:
        """Write what waits, force it to the disk and close the files."""
        self._closed.set()
        if self._syncing is not None:
            self._syncing.join()
        for file in self._files.values():
            if self._write(file, b""):
                file.sync()
            file.close()
        self._files.clear()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _file(self, run: str | None, doc: Mapping[str, Any]) -> _File:
        if (run or "") not in self._files:
            self._files[run or ""] = _File(self.folder / (_file_name(run, doc) if run else STRAY))
            if self._syncing is None:
                self._syncing = threading.Thread(target=self._sync_always, name="journal-sync", daemon=True)
                self._syncing.start()
        return self._files[run or ""]

    def _write(self, file: _File, line: bytes) -> bool:
        try:
            if file.append(line, self._most_waiting):
                return True
            self.lost += 1
            self._fault("journal %s cannot be written and its memory is full: %d documents are lost", file.path, self.lost)
        except OSError as fault:
            self._fault("journal %s cannot be written (%s); %d bytes wait in memory. Free the disk", file.path, fault, len(file.waiting))
        return False

    def _settle(self, run: str, file: _File) -> None:
        """Force a file to the disk, and close it if its run has stopped; under the lock."""
        try:
            file.sync()
        except OSError as fault:
            self._fault("journal %s cannot be forced to the disk (%s)", file.path, fault)
        if file.finished and not file.waiting:
            file.close()
            self._files.pop(run, None)

    def _sync_always(self) -> None:
        while not self._closed.wait(self._sync_s):
            with self._lock:
                for run, file in list(self._files.items()):
                    if not file.waiting or self._write(file, b""):
                        self._settle(run, file)

    def _fault(self, message: str, *values: object) -> None:
        self.faults += 1
        if time.monotonic() - self._logged >= LOG_EVERY_S:
            self._logged = time.monotonic()
            log.error(message, *values)


@dataclass(frozen=True, slots=True)
class Run:
    """A run in a folder of journals; ``started`` in UTC epoch seconds, NaN where the start document does not say."""

    uid: str
    path: Path
    started: float
    finished: bool


def encode(name: str, doc: Any) -> tuple[bytes, bool]:
    """One line of a journal, and whether values in it had to be marked; NaN and infinities are kept."""
    text, marked = to_json([name, doc])
    return text.encode() + b"\n", marked


def to_json(document: Any) -> tuple[str, bool]:
    """JSON on one line of whatever a document may hold, and whether values in it had to be marked."""
    marks: list[str] = []

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return value.tolist()
        if isinstance(value, np.generic) and not isinstance(value.item(), np.generic):
            return value.item()
        if isinstance(value, Mapping):
            return dict(value)
        if isinstance(value, set | frozenset):
            return sorted(value, key=repr)
        return str(value) if isinstance(value, Path) else _marked(value, marks)

    try:
        line = json.dumps(document, default=plain)
    except (TypeError, ValueError, RecursionError):
        line = json.dumps(_forced(document, marks, plain, ()))
    return line, bool(marks)


def _forced(value: Any, marks: list[str], plain: Any, above: tuple[int, ...]) -> Any:
    """``value`` in JSON's own types whatever it holds: keys that are no text, circles, depths."""
    if value is None or isinstance(value, bool | str) or type(value) in (int, float):
        return value
    if isinstance(value, int | float):
        return float(value) if isinstance(value, float) else int(value)
    if len(above) >= _DEEPEST or id(value) in above:
        return _marked(value, marks)
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else str(key): _forced(item, marks, plain, (*above, id(value))) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_forced(item, marks, plain, (*above, id(value))) for item in value]
    return _forced(plain(value), marks, plain, (*above, id(value)))


def _marked(value: Any, marks: list[str]) -> dict[str, str]:
    try:
        text = repr(value)
    except (TypeError, ValueError, AttributeError, LookupError, RuntimeError, OSError):
        text = object.__repr__(value)
    marks.append(text)
    return {REPR: text[:1000]}


def decode(line: bytes, path: Path, number: int) -> Document:
    """The document of one line; a line that holds none becomes an ``UNREADABLE`` one that says why."""
    try:
        name, doc = json.loads(line)
    except (ValueError, TypeError, RecursionError) as fault:
        return UNREADABLE, {"reason": f"line {number} of {path.name} is no document: {str(fault)[:200]}"}
    if isinstance(name, str) and isinstance(doc, dict):
        return name, doc
    return UNREADABLE, {"reason": f"line {number} of {path.name} is no [name, document]"}


def decode_payload(name: str, payload: bytes, where: str) -> Document:
    """The document ``name`` whose content travelled on its own."""
    try:
        doc = json.loads(payload)
    except (ValueError, RecursionError) as fault:
        return UNREADABLE, {"reason": f"{where} ({name}) is no JSON: {str(fault)[:200]}. Publish with operandi's zmq_publisher"}
    return (name, doc) if isinstance(doc, dict) else (UNREADABLE, {"reason": f"{where} ({name}) is no document"})


class _Tail:
    """What a growing file has gained since the last look, in whole lines."""

    def __init__(self, path: Path):
        self.path, self.ended = path, False
        self._offset = self._number = 0

    def new(self) -> Iterator[Document]:
        if os.stat(self.path).st_size <= self._offset:
            return
        with open(self.path, "rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                self._number += 1
                document = decode(line, self.path, self._number)
                self.ended = self.ended or document[0] == "stop"
                yield document

    def torn(self) -> int:
        """Bytes behind the last whole line."""
        return os.stat(self.path).st_size - self._offset


def read(path: str | os.PathLike[str]) -> Iterator[Document]:
    """The documents of one journal, as they were written.

    A torn last line, as a killed RunEngine leaves it, is not handed on but logged; other lines that hold no
    document come as ``("unreadable", {"reason": …})``. Raises DocumentError where there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise DocumentError(f"there is no journal {path}")
    return _read(path)


def _read(path: Path) -> Iterator[Document]:
    tail = _Tail(path)
    yield from tail.new()
    if left := tail.torn():
        log.warning("journal %s ends in the middle of a document: %d bytes were not read", path, left)


def runs(folder: str | os.PathLike[str]) -> list[Run]:
    """The runs in a folder of journals, in the order of their starts."""
    found = [run for path in _journals(Path(folder)) if (run := _run(path)) is not None]
    return sorted(found, key=lambda run: (run.path.name[:15], run.started, run.uid))


def follow_run(path: str | os.PathLike[str], *, poll_s: float = 0.1, stop: threading.Event | None = None) -> Iterator[Document]:
    """The documents of one run as they are written, until its stop document has come or ``stop`` is set."""
    tail, stop = _Tail(Path(path)), stop or threading.Event()
    while not stop.is_set():
        yield from tail.new()
        if tail.ended:
            return
        stop.wait(poll_s)


def _journals(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.jsonl") if _NAME.fullmatch(path.name))


def _run(path: Path) -> Run | None:
    with open(path, "rb") as file:
        line = file.readline()
        if not line.endswith(b"\n"):
            return None
        file.seek(max(os.stat(path).st_size - (1 << 16), 0))
        last = file.read().rstrip(b"\n").rsplit(b"\n", 1)[-1]
    name, start = decode(line, path, 1)
    started = start.get("time")
    if name != "start" or not isinstance(start.get("uid"), str):
        return None
    return Run(start["uid"], path, float(started) if isinstance(started, int | float) else float("nan"), last.startswith(b'["stop"'))


def _file_name(run: str, doc: Mapping[str, Any]) -> str:
    started = doc.get("time")
    try:
        moment = datetime.fromtimestamp(float(started), UTC) if started is not None else datetime.now(UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        moment = datetime.now(UTC)
    name = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "-" for c in run)[:120]
    return f"{moment:%Y%m%d-%H%M%S}_{name}.jsonl"
