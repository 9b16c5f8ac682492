"""Follow a potentiostat's log while it is written."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from operandi.errors import PotentiostatError
from operandi.sources import log_headers
from operandi.sources.log_binaries import is_begun, read_columns, rows_of
from operandi.sources.log_columns import Accumulator, averages, limits, numbers
from operandi.sources.log_headers import Header, Start
from operandi.stages.charge import Log

BLOCK = 1 << 23
PATIENCE_S = 60.0
"""How long a .mpr file may stay unreadable and unchanged before it counts as damaged, not as half written."""
_SEAL = 64


@dataclass(frozen=True, slots=True)
class NewRows:
    """What a poll found. ``restarted``: the file was replaced or cut, ``rows`` begin anew and what was read of it before is void."""

    rows: Log
    restarted: bool = False

    def onto(self, log: Log) -> Log:
        """``log`` with these rows after it, or these rows alone where the file was restarted."""
        return self.rows if self.restarted else log.append(self.rows)


class TextLog:
    """Reads the complete rows of a growing .mpt or .csv file, each once.

    ``header`` is None until the file's head is complete. ``refused`` counts the complete lines that were no rows, ``reasons``
    keeps the first ones.
    """

    def __init__(self, path: Path, timezone: str, start: Start | None, columns: Mapping[str, str] | None, units: Mapping[str, str] | None):
        self.path, self.timezone, self._start, self._declared, self._units = path, timezone, start, columns, units
        self.header: Header | None = None
        self.refused, self.reasons = 0, []
        self._zero, self._offset, self._line = 0.0, 0, 0
        self._head, self._tail = b"", b""
        self._accumulator = Accumulator(str(path))

    def unchanged(self, file: BinaryIO, size: int) -> bool:
        """Whether the file still begins and goes on as it was read: else it was replaced or cut."""
        if size < self._offset:
            return False
        file.seek(0)
        if file.read(len(self._head)) != self._head:
            return False
        file.seek(self._offset - len(self._tail))
        return file.read(len(self._tail)) == self._tail

    def read(self, file: BinaryIO, *, final: bool) -> Log:
        """The complete rows from where the last call ended to the end of the file.

        ``final`` takes a last line without its end for complete, as nothing more will come.
        """
        parts: list[Log] = []
        if self.header is None and not self._open(file, final):
            return Log.empty()
        while True:
            file.seek(self._offset)
            block = file.read(BLOCK)
            complete = self._complete(block, final and len(block) < BLOCK)
            if not complete:
                break
            parts.append(self._rows(complete))
            consumed = min(len(complete), len(block))
            self._offset += consumed
            self._tail = (self._tail + block[:consumed])[-_SEAL:]
        return Log.joined(parts)

    def _open(self, file: BinaryIO, final: bool) -> bool:
        file.seek(0)
        head = file.read(log_headers.LONGEST_HEADER)
        if final and head and not head.endswith(b"\n"):
            head += b"\n"
        self.header = log_headers.read_header(head, self.path, self._declared, self._units)
        if self.header is None:
            return False
        self._zero = log_headers.resolve_start(self.header, self.timezone, self._start, str(self.path))
        self._accumulator = Accumulator(str(self.path), averages(self.header.layout, self.header.attrs.get("technique", "")))
        self._offset, self._line = self.header.length, head[: self.header.length].count(b"\n")
        self._head, self._tail = head[:_SEAL], head[: self.header.length][-_SEAL:]
        return True

    def _complete(self, block: bytes, final: bool) -> bytes:
        """The whole lines of a block; a share that lags shows zeros where the rows are not there yet."""
        end = block.rfind(b"\n") + 1
        rest = block[end:]
        if len(block) == BLOCK and not end:
            raise PotentiostatError(f"{self.path}: a line of over {BLOCK} bytes: this is no potentiostat's file")
        if final and rest.strip() and self._whole(rest, block[:end]):
            return block + b"\n"
        hole = block.find(b"\0", 0, end)
        return block[: block.rfind(b"\n", 0, hole) + 1] if hole >= 0 and not final else block[:end]

    def _whole(self, rest: bytes, before: bytes) -> bool:
        assert self.header is not None
        if rest.count(self.header.layout.delimiter) < self.header.layout.fields - 1:
            return False
        # EC-Lab's numbers end with three digits of an exponent, which a torn line would lack
        last = before.rstrip().rsplit(self.header.layout.delimiter, 1)[-1]
        return not (last[-5:-4] in (b"E", b"e") and rest.rstrip()[-5:-4] not in (b"E", b"e"))

    def _refuse(self, line: int, reason: str) -> None:
        self.refused += 1
        if len(self.reasons) < 100:
            self.reasons.append(f"{self.path}, line {line + 1}: {reason}")

    def _rows(self, block: bytes) -> Log:
        assert self.header is not None
        layout = self.header.layout
        block = block.replace(b'"', b"") if b'"' in block else block
        columns, lines, refused = numbers(block, layout)
        last = self._accumulator.last.get("elapsed", float("nan"))
        elapsed = log_headers.elapsed_seconds(columns.pop("time"), layout.places["time"][1], last, self.timezone, str(self.path))
        beyond = limits(columns, elapsed)
        refused += [(int(lines[i]), reason) for i, reason in beyond]
        keep = np.ones(len(elapsed), bool)
        keep[[i for i, _ in beyond]] = False
        for line, reason in sorted(refused):
            self._refuse(self._line + line, reason)
        rows = self._accumulator.rows(elapsed[keep], {role: values[keep] for role, values in columns.items()}, self._zero)
        self._line += block.count(b"\n")
        return rows


class Follower:
    """The new rows of a growing log at every `poll`, in beamline time.

    Parameters
    ----------
    path
        .mpt, .csv (each row is read once) or .mpr (read again when its size changes); may not be there yet.
    timezone
        Time zone of the computer that writes the log.
    clock_offset_s
        Added to potentiostat time to get beamline time.
    start, columns, units
        As in `read_potentiostat`.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        timezone: str = "UTC",
        clock_offset_s: float = 0.0,
        start: Start | None = None,
        columns: Mapping[str, str] | None = None,
        units: Mapping[str, str] | None = None,
    ):
        self.path, self.clock_offset_s = Path(path), clock_offset_s
        self._settings = (timezone, start, columns, units)
        self._text = TextLog(self.path, *self._settings)
        self._seen = Log.empty()
        self._stamp: tuple[int, int] | None = None
        self._torn: tuple[tuple[int, int], float] | None = None
        self.note = ""
        """Why the last poll brought nothing; empty where it is only that nothing is new."""

    @property
    def refused(self) -> tuple[str, ...]:
        """Complete lines that were no rows, as ``file, line: reason`` (the first hundred)."""
        return tuple(self._text.reasons)

    def poll(self, *, final: bool = False) -> NewRows | None:
        """The complete rows that came since the last poll; None if none did.

        ``final``: nothing more will be written, so a last line without its end counts as complete.

        Raises
        ------
        PotentiostatError
            The file cannot be understood, or does not say when it was started; a .mpr file, which may be half written, once it has
            not changed for `PATIENCE_S`, or with ``final``.
        """
        self.note = ""
        try:
            news = self._poll_binary(final) if self.path.suffix.lower() == ".mpr" else self._poll_text(final)
        except FileNotFoundError:
            self.note = f"{self.path} is not there (yet)"
            return None
        except OSError as error:
            self.note = f"{self.path} cannot be read now: {error}"
            return None
        return news and replace(news, rows=replace(news.rows, time=news.rows.time + self.clock_offset_s))

    def _poll_text(self, final: bool) -> NewRows | None:
        with self.path.open("rb") as file:
            size = file.seek(0, 2)
            restarted = self._text.header is not None and not self._text.unchanged(file, size)
            if restarted:
                self._text = TextLog(self.path, *self._settings)
            rows = self._text.read(file, final=final)
        return NewRows(rows, restarted) if len(rows) or restarted else None

    def _poll_binary(self, final: bool) -> NewRows | None:
        stat = self.path.stat()
        stamp = (stat.st_size, stat.st_mtime_ns)
        if stamp == self._stamp:
            return None
        timezone, start, _, _ = self._settings
        try:
            recorded = read_columns(self.path)
        except PotentiostatError as error:
            self._await(stamp, error, final)
            return None
        log, _ = rows_of(recorded, self.path, timezone, start)
        self._stamp, self._torn = stamp, None
        known, self._seen = self._seen, log
        same = len(log) >= len(known) and all(
            np.array_equal(getattr(log, name)[: len(known)], getattr(known, name), equal_nan=True) for name in ("time", "voltage", "charge")
        )
        rows = log.after(len(known)) if same else log
        return NewRows(rows, not same) if len(rows) or not same else None

    def _await(self, stamp: tuple[int, int], error: PotentiostatError, final: bool) -> None:
        """Take a .mpr file that cannot be read for one that is being written, as long as it goes on changing."""
        if self._torn is None or self._torn[0] != stamp:
            self._torn = (stamp, time.monotonic())
        if final or time.monotonic() - self._torn[1] > PATIENCE_S or not is_begun(self.path):
            raise error
        self.note = f"{self.path} cannot be read yet, it may be half written: {error}"
