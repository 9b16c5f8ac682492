"""From the columns of a potentiostat's file to rows of a log: numbers out of text, and the signed charge.

Everything depends only on the rows before, never on how many come at once: a log that is followed while it grows
gives, bit by bit, the numbers of the finished file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from operandi.errors import PotentiostatError
from operandi.stages.charge import Log, increments
from operandi.stages.protocols import StepFinder

VOLTAGE_LIMIT_V, CURRENT_LIMIT_MA, CHARGE_LIMIT_MAH, ELAPSED_LIMIT_S = 20.0, 1e6, 1e8, 1e10
LONGEST_FIELD = 64
MEAN_CURRENT = "mean since the row before"
_BOUNDS = {"voltage": (VOLTAGE_LIMIT_V, "V"), "current": (CURRENT_LIMIT_MA, "mA")}
_BOUNDS |= {role: (CHARGE_LIMIT_MAH, "mAh") for role in ("charge", "increment", "half")}
_BOUNDS |= {role: (1e9, "") for role in ("step", "cycle", "half_cycle", "mode")}
Columns = Mapping[str, NDArray[np.float64]]

_SCALES: Mapping[str, Mapping[str, float]] = {
    "time": {"s": 1.0, "ms": 1e-3, "min": 60.0, "h": 3600.0},
    "voltage": {"v": 1.0, "mv": 1e-3},
    "current": {"ma": 1.0, "a": 1e3, "ua": 1e-3, "na": 1e-6},
    "charge": {"mah": 1.0, "ah": 1e3, "uah": 1e-3, "c": 1 / 3.6, "mc": 1 / 3600},
}
_SCALES = _SCALES | {"increment": _SCALES["charge"], "half": _SCALES["charge"]}
_NAMES: Mapping[str, tuple[str, ...]] = {
    "time": ("time", "t", "elapsed", "test time", "elapsed time", "total time"),
    "voltage": ("ewe", "ecell", "<ewe>", "<ecell>", "voltage", "e", "u", "potential", "cell voltage"),
    "current": ("i", "<i>", "current"),
    "charge": ("(q-qo)", "charge", "q", "capacity"),
    "increment": ("dq",),
    "half": ("q charge/discharge", "q charge or discharge"),
    "step": ("ns", "step", "step index", "step number"),
    "mode": ("mode",),
    "half_cycle": ("half cycle",),
    "cycle": ("cycle number", "cycle", "cycle index"),
}
_UNIT = re.compile(r"^(?P<name>.*?)\s*(?:/\s*(?P<slash>[^/()\[\]]+)|\((?P<round>[^()]+)\)|\[(?P<square>[^\[\]]+)\])$")


@dataclass(frozen=True, slots=True)
class Layout:
    """How a line becomes numbers: ``places`` says which field plays a role and by what it is multiplied."""

    delimiter: bytes
    fields: int
    places: Mapping[str, tuple[int, float]]
    names: Mapping[str, str]
    decimal_comma: bool = False


def split_unit(header: str) -> tuple[str, str | None]:
    """Name and unit of a column, from ``Ewe/V``, ``voltage (V)`` or ``voltage [V]``; unit None where it states none."""
    text = header.strip().strip('"').strip()
    found = _UNIT.match(text)
    if found and found["name"] and text != "Q charge/discharge":
        return found["name"].strip(), (found["slash"] or found["round"] or found["square"]).strip()
    return text, None


def scale_of(role: str, header: str, unit: str | None, where: str) -> float:
    """What values of ``role`` in ``unit`` are multiplied by to be in ours (V, mA, mAh, s); 1 where no unit is stated."""
    if role not in _SCALES or unit is None:
        return 1.0
    plain = unit.lower().replace("µ", "u").replace("μ", "u").replace(".", "").replace(" ", "").replace("·", "")
    if plain not in _SCALES[role]:
        known = ", ".join(_SCALES[role])
        raise PotentiostatError(f"{where}: column {header!r} of {role} is in {unit!r}, which is none of {known}: declare its unit")
    return _SCALES[role][plain]


def assign_columns(
    headers: list[str], where: str, declared: Mapping[str, str] | None = None, units: Mapping[str, str] | None = None
) -> Layout:
    """Find the columns that matter among ``headers``.

    ``declared`` maps a role (time, voltage, current, charge, step, cycle) to the header of its column, ``units`` a role to
    its unit; where they are silent, EC-Lab's names and the plain ones are recognised, with the unit that the header states.

    Raises
    ------
    PotentiostatError
        A column that is declared but absent, an unknown unit, or no column of time or voltage.
    """
    declared, units = declared or {}, units or {}
    plain = [split_unit(h) for h in headers]
    places: dict[str, tuple[int, float]] = {}
    names: dict[str, str] = {}
    for role in dict.fromkeys([*declared, *_NAMES]):
        index = _find(role, headers, plain, declared.get(role), where)
        if index is not None:
            unit = units.get(role, plain[index][1])
            places[role], names[role] = (index, scale_of(role, headers[index], unit, where)), headers[index].strip()
    if "charge" not in declared and "mode" in places and names.get("charge", "").lower().startswith("capacity"):
        # EC-Lab's has no sign and starts over with each half cycle
        del places["charge"], names["charge"]
    for role in ("time", "voltage"):
        if role not in places:
            known = ", ".join(headers)[:300]
            raise PotentiostatError(f"{where}: no column of {role} among {known}: declare it with columns={{{role!r}: …}}")
    return Layout(b"\t", len(headers), places, names)


def _find(role: str, headers: list[str], plain: list[tuple[str, str | None]], declared: str | None, where: str) -> int | None:
    if declared is not None:
        wanted = declared.strip().lower()
        for index, (header, (name, _)) in enumerate(zip(headers, plain, strict=True)):
            if wanted in (header.strip().strip('"').lower(), name.lower()):
                return index
        raise PotentiostatError(f"{where}: the column {declared!r} declared for {role} is not among {', '.join(headers)[:300]}")
    for candidate in _NAMES.get(role, ()):
        for index, (name, _) in enumerate(plain):
            # EC-Lab's dQ/C, unlike its dq/mA.h, is a running sum
            if name.lower().replace("_", " ") == candidate and name != "dQ":
                return index
    return None


def numbers(block: bytes, layout: Layout) -> tuple[dict[str, NDArray], NDArray[np.int64], list[tuple[int, str]]]:
    """Numbers out of complete lines.

    Returns
    -------
    columns, lines, refused
        Role → values (text as bytes for ``time``, still); the line, from 0, of every value; the refused lines, with their reasons.
    """
    if layout.decimal_comma:
        block = block.replace(b",", b".")
    buffer = np.frombuffer(block, np.uint8)
    edges, lines, refused = _edges(block, buffer, layout)
    columns: dict[str, NDArray] = {}
    keep = np.ones(len(lines), bool)
    for role, (index, scale) in layout.places.items():
        words = _words(buffer, edges[:, index] + 1, edges[:, index + 1])
        columns[role] = words
        if role != "time":
            values, wrong = _floats(words)
            columns[role] = values * scale
            keep &= ~wrong
            refused += [(int(lines[i]), f"has {words[i][:40]!r} for {role}, which is no number") for i in np.flatnonzero(wrong)]
    return {role: values[keep] for role, values in columns.items()}, lines[keep], refused


def _edges(block: bytes, buffer: NDArray[np.uint8], layout: Layout) -> tuple[NDArray[np.int64], NDArray[np.int64], list[tuple[int, str]]]:
    """Places of what stands before and after each field, (line, field + 1); the lines that are rows; the others, with their reasons."""
    ends = np.flatnonzero(buffer == 0x0A)
    starts = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)
    marks = np.flatnonzero(buffer == layout.delimiter[0])
    first = np.searchsorted(marks, starts)
    counts = np.searchsorted(marks, ends) - first
    blank = _blank(block, starts, ends)
    carriage = buffer[np.maximum(ends - 1, 0)] == 0x0D
    before_end = buffer[np.maximum(ends - 1 - carriage, 0)]
    # EC-Lab ends the line of names with a tab, and some versions end each row with one
    right = ~blank & ((counts == layout.fields - 1) | ((counts == layout.fields) & (before_end == layout.delimiter[0])))
    refused = [(int(i), f"has {counts[i] + 1} fields, {layout.fields} expected") for i in np.flatnonzero(~right & ~blank)]
    lines = np.flatnonzero(right)
    inner = first[lines, None] + np.arange(layout.fields - 1)
    edges = np.column_stack([starts[lines] - 1, marks[inner], np.where(counts[lines] == layout.fields, ends[lines] - 1, ends[lines])])
    return edges, lines, refused


def _blank(block: bytes, starts: NDArray, ends: NDArray) -> NDArray[np.bool_]:
    blank = ends - starts < 2
    for i in np.flatnonzero(blank):
        blank[i] = not block[starts[i] : ends[i]].strip()
    return blank


def _words(buffer: NDArray[np.uint8], left: NDArray, right: NDArray) -> NDArray:
    width = int(min(LONGEST_FIELD, (right - left).max(initial=1)))
    places = left[:, None] + np.arange(max(width, 1))
    inside = places < right[:, None]
    letters = np.where(inside, buffer[np.minimum(places, len(buffer) - 1)], 0x20) if len(buffer) else np.empty((0, 1), np.uint8)
    words = np.ascontiguousarray(letters, np.uint8).view(f"S{max(width, 1)}").ravel()
    too_long = right - left > LONGEST_FIELD
    return np.where(too_long, np.bytes_(b"(too long)"), words) if too_long.any() else words


def _floats(words: NDArray) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Numbers, and which of the words are none; EC-Lab's XXX (not measured) is NaN."""
    try:
        return words.astype(np.float64), np.zeros(len(words), bool)
    except ValueError:
        values, wrong = np.full(len(words), np.nan), np.zeros(len(words), bool)
    for i, word in enumerate(words):
        try:
            values[i] = float(word)
        except ValueError:
            wrong[i] = word.strip().upper() not in (b"XXX", b"")
    return values, wrong


def averages(layout: Layout, technique: str) -> bool:
    """Whether the file's current is the mean since the row before: EC-Lab's ``<I>``, but not in voltammetry.

    There it is the mean over the last part of each potential step (EC-Lab's "Measure <I> over the last 50 % of the step").
    """
    voltammetry = technique.upper() == "CV" or "voltammetry" in technique.lower()
    return layout.names.get("current", "").strip('" ').startswith("<") and not voltammetry


def tell_current(layout: Layout, technique: str) -> str:
    """What a row's current is, in words; `MEAN_CURRENT` where it is a mean."""
    return MEAN_CURRENT if "current" not in layout.places or averages(layout, technique) else "of the row's moment"


@dataclass(slots=True)
class Accumulator:
    """Makes rows of a log from columns as they come, and remembers what the next rows need.

    The charge is the file's own column, (Q-Qo) or that of the half cycle, with every restart of its counter undone; without one,
    the sum of the file's dq; without that, the integral of the current (`operandi.stages.charge.increments`), NaN in rows whose current
    is. A current that the file lacks is the charge's rate, and the mean over the time before its row. Steps and cycles that the file lacks
    are recognised (`StepFinder`).
    """

    where: str
    averaged: bool = False
    last: dict[str, float] = field(default_factory=dict)
    found: StepFinder = field(default_factory=StepFinder)

    def rows(self, elapsed: NDArray[np.float64], columns: Columns, start: float) -> Log:
        """Rows at ``start + elapsed`` (s) with the values of ``columns``, which must be inside `limits`.

        Raises
        ------
        PotentiostatError
            The time goes back.
        """
        n = len(elapsed)
        previous = np.concatenate([[self.last.get("elapsed", elapsed[0] if n else 0.0)], elapsed])
        period = np.diff(previous)
        if n and period.min() < 0:
            at = int(np.argmin(period))
            jump = f"the time goes back from {previous[at]:.4f} to {previous[at + 1]:.4f} s"
            raise PotentiostatError(f"{self.where}: {jump}: rows are damaged or logs were joined; give one technique's log")
        step = self._steps(columns, n)
        own = columns.get("current")
        given = self._increments(elapsed, own, columns.get("increment"), step)
        charge, passed = self._charge(columns, given, own, period)
        current = own if own is not None else np.divide(passed * 3600.0, period, out=np.zeros(n), where=period > 0)
        if n:
            self.last["elapsed"] = float(elapsed[-1])
        voltage = columns["voltage"].astype(np.float64)
        found_step, found_cycle = self._recognised(columns, voltage, current)
        cycle = self._cycles(columns, found_cycle)
        return Log(start + elapsed, voltage, current, charge, found_step if step is None else step, cycle)

    def _before(self, name: str, values: NDArray[np.float64], first: float) -> NDArray[np.float64]:
        """``values`` one row earlier; remembers the last for the rows that follow."""
        earlier = np.concatenate([[self.last.get(name, first)], values[:-1]]) if len(values) else values
        if len(values):
            self.last[name] = float(values[-1])
        return earlier

    def _increments(self, elapsed, current, increment, step) -> NDArray[np.float64] | None:
        """Charge that passed since the row before, mAh, by dq or by the current; from known current to known current."""
        if increment is not None:
            return np.nan_to_num(increment)
        if current is None:
            return None
        passed, known = np.zeros(len(current)), np.flatnonzero(np.isfinite(current))
        if len(known):
            kept = [elapsed[known], current[known], np.zeros(len(known)) if step is None else step[known].astype(np.float64)]
            names = ("known_time", "known_current", "known_step")
            earlier = [self._before(name, values, float(values[0]))[:1] for name, values in zip(names, kept, strict=True)]
            time, now, steps = (np.concatenate(pair) for pair in zip(earlier, kept, strict=True))
            passed[known] = increments(time, now, np.diff(steps) != 0, averaged=self.averaged)
        return passed

    def _charge(self, columns, given, current, period) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        counter = columns.get("charge", columns.get("half"))
        n = len(period)
        if counter is None:
            passed = np.zeros(n) if given is None else given
            total = self._summed("charge", passed)
            return total if current is None or "increment" in columns else np.where(np.isnan(current), np.nan, total), passed
        earlier = self._before("counter", counter, counter[0] if n else 0.0)
        moved = counter - earlier
        restart = self._restarts(columns, counter, earlier, given, None if "increment" in columns else current, period)
        lost = np.where(restart, earlier - counter + (0.0 if given is None else given), 0.0)
        charge = counter + self._summed("lost", np.nan_to_num(lost))
        return charge, np.where(restart, 0.0 if given is None else given, np.nan_to_num(moved))

    def _summed(self, name: str, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Running sum that continues the one before; strictly from left to right, so it does not matter how the rows are cut."""
        total = np.add.accumulate(np.concatenate([[self.last.get(name, 0.0)], values]))[1:]
        if len(total):
            self.last[name] = float(total[-1])
        return total

    def _restarts(self, columns, counter, earlier, given, current, period) -> NDArray[np.bool_]:
        """Where the counter fell back to nothing though no charge passed that explains it."""
        expected = np.zeros(len(counter)) if given is None else given
        bound = np.abs(expected)
        if current is not None:
            now = np.nan_to_num(current)
            bound = np.maximum(bound, np.maximum(np.abs(now), np.abs(self._before("current_bound", now, 0.0))) * period / 3600.0)
        with np.errstate(invalid="ignore"):
            nothing = np.abs(counter - expected) <= 0.05 * np.abs(earlier)
            unexplained = (np.abs(counter - earlier - expected) > 1e-9) & (np.abs(counter - earlier) > 1.5 * bound)
        if "charge" not in columns and "half_cycle" in columns:
            halves = np.nan_to_num(columns["half_cycle"])
            return halves != self._before("halves", halves, halves[0] if len(halves) else 0.0)
        return nothing & unexplained

    def _steps(self, columns: Columns, n: int) -> NDArray[np.int64] | None:
        """The file's own steps, else a new one wherever its mode of control changes; None where it says neither."""
        if "step" in columns:
            return np.nan_to_num(columns["step"]).astype(np.int64)
        if "mode" not in columns:
            return None
        mode = np.nan_to_num(columns["mode"])
        changed = mode != self._before("mode", mode, mode[0] if n else 0.0)
        return self._summed("steps", changed.astype(np.float64)).astype(np.int64)

    def _recognised(self, columns: Columns, voltage, current) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        if ("step" in columns or "mode" in columns) and ("half_cycle" in columns or "cycle" in columns):
            nothing = np.zeros(len(voltage), np.int64)
            return nothing, nothing
        return self.found.number(voltage, current)

    @staticmethod
    def _cycles(columns: Columns, found: NDArray[np.int64]) -> NDArray[np.int64]:
        if "half_cycle" in columns:
            return np.nan_to_num(columns["half_cycle"]).astype(np.int64) // 2
        return np.nan_to_num(columns["cycle"]).astype(np.int64) if "cycle" in columns else found


def limits(columns: Columns, elapsed: NDArray[np.float64]) -> list[tuple[int, str]]:
    """Rows, from 0, whose values no potentiostat can mean, with the reason: a file read with the wrong decimal sign shows here."""
    beyond: list[tuple[int, str]] = []
    remedy = "check the decimal sign and the unit"
    for role, values in columns.items():
        limit, unit = _BOUNDS[role]
        with np.errstate(invalid="ignore"):
            wrong = np.flatnonzero(np.isinf(values) | (np.abs(values) > limit))
        beyond += [(int(i), f"{role} {values[i]:.4g} {unit} is beyond ±{limit:g} {unit}: {remedy}") for i in wrong]
    wrong = np.flatnonzero(~(np.abs(elapsed) < ELAPSED_LIMIT_S))
    return beyond + [(int(i), f"time {elapsed[i]:.4g} s is no time of this log: {remedy}") for i in wrong]
