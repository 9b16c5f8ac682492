"""The head of a potentiostat's text file: what its columns are, and when it began."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
from numpy.typing import NDArray

from operandi.errors import PotentiostatError
from operandi.sources.log_columns import Layout, assign_columns

LONGEST_HEADER = 1 << 20
_MAGIC = re.compile(rb"^(\xef\xbb\xbf)?(EC|BT)-Lab ASCII FILE")
_COUNT = re.compile(rb"Nb header lines\s*:\s*(\d{1,6})")
_DATE = re.compile(
    r"^\s*(\d{1,4})[-/.](\d{1,2})[-/.](\d{1,4})[ T]+(\d{1,2}):(\d{2}):(\d{2})(?:[.,](\d{1,9}))?\s*([AaPp][Mm])?\s*(Z|[+-]\d{2}:?\d{2})?\s*$"
)
_FACTS = {
    "Device": "instrument",
    "Run on channel": "channel",
    "Acquisition started on": "started",
    "Technique started on": "technique_started",
}
Start = float | str | datetime


@dataclass(frozen=True, slots=True)
class Header:
    """What the head of a file says. ``start`` is naive or aware; ``length`` the number of bytes before the first row."""

    layout: Layout
    length: int
    start: datetime | None = None
    attrs: Mapping[str, str] = field(default_factory=dict)
    epoch: bool = False
    """Whether the column of time is absolute: dates, or seconds from 1970."""


def zone(timezone: str) -> ZoneInfo:
    """The time zone of that name, or `PotentiostatError`."""
    try:
        return ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise PotentiostatError(f"there is no time zone {timezone!r}: give a name such as Europe/Paris") from error


def parse_date(text: str) -> datetime | None:
    """A date as potentiostats write it, aware if it states an offset; None if it is none.

    EC-Lab writes month before day with any of ``/ - .`` between; a first number over 12 is taken for the day, one of more than two
    digits for the year (ISO 8601).
    """
    found = _DATE.match(text)
    if not found:
        return None
    first, second, third, hour, minute, second_of_time = (int(found[i]) for i in range(1, 7))
    year, month, day = (first, second, third) if len(found[1]) > 2 else (third, first, second)
    if month > 12 and len(found[1]) <= 2:
        month, day = day, month
    if found[8]:
        hour = hour % 12 + (12 if found[8].lower() == "pm" else 0)
    micro = round(float(f"0.{found[7] or 0}") * 1e6)
    try:
        naive = datetime(year + 2000 if year < 100 else year, month, day, hour, minute, second_of_time) + timedelta(microseconds=micro)
        if found[9]:
            return datetime.fromisoformat(naive.isoformat() + found[9].replace("Z", "+00:00"))
    except (ValueError, OverflowError):
        return None
    return naive


def epoch(moment: datetime, timezone: str, where: str) -> float:
    """UTC epoch seconds of a moment; a naive one is local time in ``timezone``.

    Raises
    ------
    PotentiostatError
        A local time that the change to or from summer time skips or repeats: it could mean two moments, an hour apart.
    """
    if moment.tzinfo is None:
        local = moment.replace(tzinfo=zone(timezone))
        if local.utcoffset() != local.replace(fold=1).utcoffset():
            twice = f"{moment.isoformat(' ')} is skipped or happens twice in {timezone} (summer time)"
            raise PotentiostatError(f"{where}: {twice}: give start= with its offset from UTC")
        moment = local
    try:
        return round((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds(), 6)
    except OverflowError as error:
        raise PotentiostatError(f"{where}: {moment} is outside the calendar: give start=") from error


def resolve_start(header: Header, timezone: str, start: Start | None, where: str) -> float:
    """UTC epoch seconds at which the file's clock stood at 0: ``start`` if given, else what the file says.

    Raises
    ------
    PotentiostatError
        Neither says it, or it is no date.
    """
    zone(timezone)
    if header.epoch:
        return 0.0
    if isinstance(start, str):
        moment = parse_date(start)
        if moment is None:
            raise PotentiostatError(f"{where}: start={start!r} is no date: write it as 2026-11-22 14:03:00+01:00")
    elif start is None or isinstance(start, datetime):
        moment = start if start is not None else header.start
    else:
        if not math.isfinite(start):
            raise PotentiostatError(f"{where}: start={start} is no time: give UTC epoch seconds")
        return float(start)
    if moment is None:
        remedy = f"give start= (a date in {timezone}, or UTC epoch seconds)"
        raise PotentiostatError(f"{where}: the file does not say when it was started: {remedy}")
    return epoch(moment, timezone, where)


def read_header(head: bytes, path: Path, declared: Mapping[str, str] | None, units: Mapping[str, str] | None) -> Header | None:
    """The header in the first bytes of a .mpt or .csv file, None while it is not complete.

    Raises
    ------
    PotentiostatError
        It is no such file, or lacks what is needed.
    """
    if b"\n" not in head and len(head) < LONGEST_HEADER:
        return None
    header = _eclab(head, str(path), declared, units) if path.suffix.lower() == ".mpt" else _csv(head, str(path), declared, units)
    if header is None and len(head) >= LONGEST_HEADER:
        raise PotentiostatError(f"{path}: no column names within {LONGEST_HEADER} bytes: is it a potentiostat's file?")
    return header


def _eclab(head: bytes, where: str, declared, units) -> Header | None:
    if not _MAGIC.match(head):
        raise PotentiostatError(f"{where}: does not begin with 'EC-Lab ASCII FILE': export it again as text from EC-Lab, or read the .mpr")
    lines = head.split(b"\n")[:-1]
    if len(lines) < 2:
        return None
    count = _COUNT.search(lines[1])
    if not count:
        raise PotentiostatError(f"{where}: line 2 does not say 'Nb header lines': export it again as text from EC-Lab")
    number = int(count[1])
    if not 3 <= number <= 20000:
        raise PotentiostatError(f"{where}: {number} header lines: export it again as text from EC-Lab")
    if len(lines) < number + 1:
        # the decimal sign is known only from the first row
        return None
    names = lines[number - 1].decode("latin-1").strip("\r\n").split("\t")
    names = names[:-1] if names and not names[-1].strip() else names
    layout = assign_columns(names, where, declared, units)
    attrs, start = _eclab_facts([line.decode("latin-1").strip() for line in lines[: number - 1]])
    length = sum(len(line) + 1 for line in lines[:number])
    word = lines[number].split(b"\t")[layout.places["time"][0] :][:1]
    dates = bool(word) and parse_date(word[0].decode("latin-1")) is not None
    return Header(replace(layout, decimal_comma=b"," in lines[number]), length, start, attrs, epoch=dates)


def _eclab_facts(lines: list[str]) -> tuple[dict[str, str], datetime | None]:
    said: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(" : ")
        if colon:
            said.setdefault(name.strip(), value.strip())
    titles = [line for line in lines[2:5] if line and " : " not in line]
    attrs = {"technique": titles[0] if titles else ""} | {new: said[old] for old, new in _FACTS.items() if old in said}
    software = [line for line in lines if line.endswith("(software)")]
    return attrs | ({"software": software[0]} if software else {}), parse_date(said.get("Acquisition started on", ""))


def _csv(head: bytes, where: str, declared, units) -> Header | None:
    lines = head.removeprefix(b"\xef\xbb\xbf").split(b"\n")[:-1]
    first = next((i for i, line in enumerate(lines) if line.strip() and not line.lstrip().startswith(b"#")), None)
    if first is None or len(lines) < first + 2:
        return None
    text = lines[first].decode("utf-8", "replace")
    delimiter = max("\t;,", key=text.count)
    layout = assign_columns([name.strip() for name in text.split(delimiter)], where, declared, units)
    comma = delimiter != "," and b"," in lines[first + 1]
    remarks = (line.decode("utf-8", "replace").lstrip("# ").partition(":") for line in lines[:first])
    said = {name.strip().lower(): value.strip() for name, colon, value in remarks if colon}
    length = len(head) - len(head.removeprefix(b"\xef\xbb\xbf")) + sum(len(line) + 1 for line in lines[: first + 1])
    index, _ = layout.places["time"]
    word = lines[first + 1].split(delimiter.encode())[index : index + 1]
    attrs = {"technique": said.get("technique", ""), "instrument": said.get("instrument", "")}
    layout = replace(layout, delimiter=delimiter.encode(), decimal_comma=comma)
    return Header(layout, length, parse_date(said.get("start", "")), attrs, epoch=bool(word) and _counts_from_1970(word[0]))


def _counts_from_1970(word: bytes) -> bool:
    try:
        return float(word.replace(b",", b".")) > 1e8
    except ValueError:
        # a column of dates needs no start either
        return parse_date(word.decode("latin-1").strip().strip('"')) is not None


def elapsed_seconds(words: NDArray, scale: float, last: float, timezone: str, where: str) -> NDArray[np.float64]:
    """Seconds of a column of time: numbers as they are, dates as UTC epoch seconds.

    NaN where a word is neither. ``last`` is the value of the row before, NaN at the beginning: an hour that summer time repeats goes
    on from there.
    """
    try:
        return words.astype(np.float64) * scale
    except ValueError:
        pass
    values = np.full(len(words), np.nan)
    for i, word in enumerate(words):
        values[i] = last = _one_moment(word.decode("latin-1").strip().strip('"'), scale, last, timezone)
    return values


def _one_moment(text: str, scale: float, last: float, timezone: str) -> float:
    try:
        return float(text) * scale
    except ValueError:
        moment = parse_date(text)
    if moment is None:
        return math.nan
    if moment.tzinfo is not None:
        return moment.timestamp()
    local = [moment.replace(tzinfo=zone(timezone), fold=fold).timestamp() for fold in (0, 1)]
    return max(local) if math.isfinite(last) and min(local) < last <= max(local) else local[0]
