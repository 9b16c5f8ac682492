"""What Tiled cannot take now waits on disk, in order.

One file of JSON lines, appended, and beside it the number of bytes that are done with. A process may be killed at any
point: a torn last line is forgotten (its operation was never acknowledged), and an operation whose completion was not
noted is carried out again, so operations must be idempotent.
"""

import fcntl
import json
import os
import threading
from collections import deque
from pathlib import Path
from typing import Any

from ..errors import PublishError

Operation = dict[str, Any]
COMPACT_BYTES = 4_000_000


class Spool:
    """An ordered, durable queue of small JSON operations; ``file`` is created where it is not there.

    One process at a time: the second one is refused.
    """

    def __init__(self, file: Path) -> None:
        self.file = Path(file)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self._changed = threading.Condition()
        self._lock_file = _lock(self.file.with_suffix(".lock"))
        self._descriptor = os.open(self.file, os.O_RDWR | os.O_CREAT, 0o644)
        self._cursor = os.open(self.file.with_suffix(".done"), os.O_RDWR | os.O_CREAT, 0o644)
        self._done, self._pending = self._recover()

    def _recover(self) -> tuple[int, deque[tuple[int, Operation]]]:
        """Number of bytes done, and what waits, each with its length in bytes."""
        content = self.file.read_bytes()
        end = content.rfind(b"\n") + 1
        os.ftruncate(self._descriptor, end)
        noted = os.pread(self._cursor, 32, 0).strip()
        done = int(noted) if noted.isdigit() and int(noted) <= end else 0
        self._note(done)
        lines = content[done:end].splitlines(keepends=True)
        try:
            return done, deque((len(line), json.loads(line)) for line in lines)
        except ValueError as error:
            raise PublishError(f"{self.file}: line that is not JSON; move the file away and replay the run from its journal") from error

    def _note(self, done: int) -> None:
        os.pwrite(self._cursor, f"{done:<31d}\n".encode(), 0)

    def append(self, operation: Operation, *, durable: bool) -> None:
        """Add ``operation`` to the end. ``durable`` returns only when it, and all before it, would survive a power cut."""
        line = json.dumps(operation, separators=(",", ":")).encode() + b"\n"
        with self._changed:
            size = os.lseek(self._descriptor, 0, os.SEEK_END)
            if not self._pending and size > COMPACT_BYTES:
                self._compact()
            self._write(line)
            if durable:
                os.fdatasync(self._descriptor)
            self._pending.append((len(line), operation))
            self._changed.notify_all()

    def _write(self, line: bytes) -> None:
        """Write all of ``line`` at the end, or, where the disk is full, none of it."""
        end = os.lseek(self._descriptor, 0, os.SEEK_END)
        try:
            written = os.write(self._descriptor, line)
        except OSError as error:
            os.ftruncate(self._descriptor, end)
            raise PublishError(f"{self.file}: {error.strerror}; make room and start the worker again") from error
        if written != len(line):
            os.ftruncate(self._descriptor, end)
            raise PublishError(f"{self.file}: the disk is full; make room and start the worker again")

    def _compact(self) -> None:
        """Empty the file, when nothing waits: first the file, for then a cursor beyond its end means none."""
        os.ftruncate(self._descriptor, 0)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        self._done = 0
        self._note(0)

    def first(self, timeout_s: float) -> Operation | None:
        """The oldest operation that waits; None where there is none after ``timeout_s``."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._pending), timeout_s)
            return self._pending[0][1] if self._pending else None

    def done(self) -> None:
        """The oldest operation is carried out: forget it."""
        with self._changed:
            length, _ = self._pending.popleft()
            self._done += length
            self._note(self._done)
            self._changed.notify_all()

    def __len__(self) -> int:
        return len(self._pending)

    def wait_until_empty(self, timeout_s: float) -> bool:
        """Whether nothing waits, at most ``timeout_s`` from now."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._pending, timeout_s)

    def close(self) -> None:
        """Close the files; what waits is there for the next one."""
        os.fdatasync(self._descriptor)
        for descriptor in (self._descriptor, self._cursor, self._lock_file):
            os.close(descriptor)


def _lock(file: Path) -> int:
    """Hold ``file`` until this process ends or closes it.

    Raises
    ------
    PublishError
        Another process holds it.
    """
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise PublishError(f"{file}: another worker publishes this result; stop it first") from error
    return descriptor
