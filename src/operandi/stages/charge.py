"""The potentiostat's log in memory, the charge at any moment, and the frames of an interlaced series.

Charge is signed and may go back: nothing here assumes that it grows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import ArrayLike, NDArray

from operandi.errors import ShapeError


@dataclass(frozen=True, slots=True)
class Window:
    """The consecutive sets behind one frame: ``set_first`` to ``set_last``, both included, counted from 0.

    ``q_start_mah`` and ``q_end_mah`` are the charge at its first and last moment, ``q_mah`` the middle of the two
    (the tag); NaN where the charge is unknown.
    """

    set_first: int
    set_last: int
    q_start_mah: float
    q_end_mah: float
    q_mah: float


def windows(set_boundaries_mah: ArrayLike, *, length: int = 2, step: int = 1) -> list[Window]:
    """The frames of an interlaced series.

    Parameters
    ----------
    set_boundaries_mah
        Charge at the start of every set and at the end of the last, mAh: one more than there are sets. NaN where unknown;
        need not grow.
    length
        Sets behind one frame.
    step
        Sets from one frame to the next.

    Returns
    -------
    list of Window
        Empty while there are fewer sets than ``length``. Lübke et al., Energy Environ. Sci. 2024 (10.1039/D4EE00590B): ten
        sets, length 2, step 1 → nine frames.

    Raises
    ------
    ShapeError
        Boundaries that are not one row of numbers; a length or step below 1.
    """
    boundaries = np.asarray(set_boundaries_mah, dtype=np.float64)
    if boundaries.ndim != 1:
        raise ShapeError(f"set_boundaries_mah has shape {boundaries.shape}: give one row, a charge for every boundary between sets")
    if length < 1 or step < 1:
        raise ShapeError(f"windows of length {length} and step {step}: both must be at least 1 set")
    q = boundaries.tolist()
    starts = range(0, len(q) - length, step)
    return [Window(i, i + length - 1, q[i], q[i + length], 0.5 * (q[i] + q[i + length])) for i in starts]


@dataclass(frozen=True, slots=True)
class Log:
    """Rows of a potentiostat's log, all of one length, in the order of time.

    ``time`` UTC epoch s, ``voltage`` V, ``current`` mA (positive charges the cell), ``charge`` mAh (signed, from the start),
    ``step`` of the protocol, ``cycle``. NaN in voltage, current or charge: not recorded.
    """

    time: NDArray[np.float64]
    voltage: NDArray[np.float64]
    current: NDArray[np.float64]
    charge: NDArray[np.float64]
    step: NDArray[np.int64]
    cycle: NDArray[np.int64]

    def __post_init__(self) -> None:
        lengths = {f.name: np.shape(getattr(self, f.name)) for f in fields(self)}
        if len(set(lengths.values())) != 1 or len(lengths["time"]) != 1:
            raise ShapeError(f"the columns of a log must be of one length: {lengths}")

    def __len__(self) -> int:
        return len(self.time)

    @classmethod
    def empty(cls) -> Log:
        """A log without rows."""
        number, count = np.empty(0, np.float64), np.empty(0, np.int64)
        return cls(number, number, number, number, count, count)

    @classmethod
    def joined(cls, logs: Sequence[Log]) -> Log:
        """The rows of several logs, one after another, as they are."""
        return cls(*(np.concatenate([getattr(log, f.name) for log in logs]) for f in fields(cls))) if logs else cls.empty()

    def append(self, rows: Log) -> Log:
        """This log with ``rows`` after it.

        Raises
        ------
        ShapeError
            The new rows begin before this log ends.
        """
        if len(self) and len(rows) and rows.time[0] < self.time[-1]:
            raise ShapeError(f"rows from {rows.time[0]:.3f} s on cannot follow a log that ends at {self.time[-1]:.3f} s: start a new log")
        return Log.joined([self, rows])

    def part(self, start: float, end: float) -> Log:
        """The rows with ``start <= time <= end``."""
        rows = slice(np.searchsorted(self.time, start, "left"), np.searchsorted(self.time, end, "right"))
        return Log(*(getattr(self, f.name)[rows] for f in fields(self)))

    def after(self, count: int) -> Log:
        """The rows without the first ``count``."""
        return Log(*(getattr(self, f.name)[count:] for f in fields(self)))

    def covers(self, time: float) -> bool:
        """Whether ``time`` lies between the first and the last row, both included."""
        return len(self) > 0 and bool(self.time[0] <= time <= self.time[-1])


@dataclass(frozen=True, slots=True)
class Readings:
    """What the log says at given moments; all arrays have the shape of those. NaN, and step or cycle -1: the log does not know."""

    charge: NDArray[np.float64]
    voltage: NDArray[np.float64]
    current: NDArray[np.float64]
    step: NDArray[np.int64]
    cycle: NDArray[np.int64]


def longest_gap(time: NDArray[np.float64]) -> float:
    """The longest time between two rows, s, that still counts as continuous: ten times the median period, and 60 s at least."""
    return max(60.0, 10.0 * float(np.median(np.diff(time)))) if len(time) > 1 else 60.0


def at(log: Log, times: ArrayLike, *, gap_s: float | None = None) -> Readings:
    """Charge, voltage, current, step and cycle at ``times``, linear between rows.

    Parameters
    ----------
    log
        Rows in beamline time.
    times
        Beamline time, UTC epoch s, of any shape and order; NaN gives NaN.
    gap_s
        Between rows further apart nothing is known; None takes `longest_gap` of the log. A live run that must equal its replay states it.

    Returns
    -------
    Readings
        NaN outside the log, never an extrapolation, and inside gaps. ``step`` and ``cycle`` are those of the row before.
    """
    wanted = np.asarray(times, dtype=np.float64)
    if not len(log):
        nothing, none = np.full(wanted.shape, np.nan), np.full(wanted.shape, -1)
        return Readings(nothing, nothing, nothing, none, none)
    gap_s = longest_gap(log.time) if gap_s is None else gap_s
    with np.errstate(invalid="ignore"):
        inside = (wanted >= log.time[0]) & (wanted <= log.time[-1])
    before = np.maximum(np.searchsorted(log.time, np.where(inside, wanted, log.time[0]), "right") - 1, 0)
    after = np.minimum(before + 1, len(log) - 1)
    period = log.time[after] - log.time[before]
    elapsed = np.where(inside, wanted - log.time[before], 0.0)
    weight = np.divide(elapsed, period, out=np.zeros_like(elapsed), where=period > 0)
    known = inside & ((elapsed == 0) | (period <= gap_s))

    def between(column: NDArray[np.float64]) -> NDArray[np.float64]:
        left = column[before]
        value = np.where(elapsed == 0, left, left + weight * (column[after] - left))
        return np.where(known, value, np.nan)

    step, cycle = (np.where(known, column[before], -1) for column in (log.step, log.cycle))
    return Readings(between(log.charge), between(log.voltage), between(log.current), step, cycle)


@dataclass(frozen=True, slots=True)
class ChargeTag:
    """The charge of a set or a frame, mAh: at its first and last exposure, the middle of the two, and the mean by dose.

    ``first`` and ``last`` are those of mid-exposure in order of time; ``lowest`` and ``highest`` differ from them where the charge turned
    on the way. ``mean`` weights each exposure by its dose, ``spread`` is the weighted standard deviation about it. NaN where unknown.
    """

    first: float
    last: float
    middle: float
    lowest: float
    highest: float
    mean: float
    spread: float
    known: float
    """Share of the dose whose charge is known; below 1 the tag is provisional."""


def tag_of_exposures(charge_mah: ArrayLike, dose: ArrayLike | None = None) -> ChargeTag:
    """The tag of the exposures behind a set or a frame.

    Parameters
    ----------
    charge_mah
        Charge at mid-exposure (exposure,), in the order of time; NaN where unknown.
    dose
        What each exposure contributes (exposure,): monitor counts times exposure time, in any unit; None: all the same. NaN counts as 0.

    Returns
    -------
    ChargeTag
        Of the exposures whose charge is known. All NaN where there are none, mean and spread also where they had no dose. ``first`` and
        ``last`` are NaN where that very exposure is unknown.

    Raises
    ------
    ShapeError
        Charges and doses of different shapes, or a negative dose.
    """
    charge = np.asarray(charge_mah, np.float64)
    weight = np.ones(charge.shape) if dose is None else np.nan_to_num(np.asarray(dose, np.float64))
    if charge.ndim != 1 or weight.shape != charge.shape:
        raise ShapeError(f"charges of shape {charge.shape}, doses of shape {weight.shape}: give one dose for each exposure")
    if np.any(weight < 0):
        raise ShapeError(f"a dose of {weight.min():.4g}: give the monitor counts, which cannot be negative")
    there = np.isfinite(charge)
    q, w = charge[there], weight[there]
    if not len(q):
        return ChargeTag(*[np.nan] * 7, known=0.0)
    total, whole = float(w.sum()), float(weight.sum())
    mean = float(w @ q) / total if total else np.nan
    spread = float(np.sqrt(w @ (q - mean) ** 2 / total)) if total else np.nan
    first, last = float(charge[0]), float(charge[-1])
    known = total / whole if whole else 0.0
    return ChargeTag(first, last, 0.5 * (first + last), float(q.min()), float(q.max()), mean, spread, known)


def increments(
    time: NDArray[np.float64], current: NDArray[np.float64], changed: NDArray[np.bool_], *, averaged: bool = False
) -> NDArray[np.float64]:
    """Charge that passed between one row and the next, mAh (row - 1,), from the current in mA.

    ``averaged``: the current of a row is the mean since the row before, as EC-Lab's ``<I>`` under galvanostatic control, and the product is
    exact. Else it is that of its moment: trapezoids; but where ``changed`` (row - 1,), the protocol's step changed between the two, and
    as EC-Lab writes a row where a step begins, the current of the step before flowed until then.
    """
    period = np.diff(time)
    if averaged:
        return current[1:] * period / 3600.0
    return np.where(changed, current[:-1], 0.5 * (current[:-1] + current[1:])) * period / 3600.0


REST, CHARGE_CC, CHARGE_CV, DISCHARGE_CC, DISCHARGE_CV = range(5)
PHASES = ("rest", "charge CC", "charge CV", "discharge CC", "discharge CV")


def _held_voltage(voltage: NDArray[np.float64], current: NDArray[np.float64], sign: int) -> NDArray[np.bool_]:
    """Rows of one uninterrupted charge (sign +1) or discharge (-1) at which the voltage, not the current, is held."""
    strength = np.abs(current)
    full = np.percentile(strength, 95)
    # a hold may be short: 23 minutes after nine hours are 4 % of the rows; but one row may catch the current while it sets in
    if np.sort(strength)[min(1 + int(0.005 * len(strength)), len(strength) - 1)] > 0.97 * full:
        return np.zeros(len(current), bool)
    limit = np.percentile(sign * voltage, 99.5)
    near = np.abs(sign * voltage - limit) < 2e-3 * max(abs(limit), 1.0)
    # with a stretch of constant current before it, the falling current says where the hold begins; alone, all of it is held
    return near if near.mean() > 0.9 else near & (strength < 0.99 * full)


def phases(log: Log, *, rest_ma: float | None = None) -> NDArray[np.int8]:
    """The phase of the cycle at every row, as an index into `PHASES`.

    Constant current is told from constant voltage by their variation within each uninterrupted charge or discharge. Below
    ``rest_ma``, mA (None: a thousandth of the largest current, and 1 nA at least) the cell rests; so it does where the current was not
    recorded.
    """
    current = np.nan_to_num(log.current)
    threshold = max(1e-6, 1e-3 * float(np.abs(current).max(initial=0.0))) if rest_ma is None else rest_ma
    sign = np.where(np.abs(current) > threshold, np.sign(current), 0).astype(np.int8)
    labels = np.full(len(sign), REST, np.int8)
    edges = np.flatnonzero(np.diff(sign)) + 1
    for first, last in zip([0, *edges], [*edges, len(sign)], strict=True):
        if last > first and sign[first]:
            held = _held_voltage(np.nan_to_num(log.voltage[first:last]), current[first:last], int(sign[first]))
            constant = CHARGE_CC if sign[first] > 0 else DISCHARGE_CC
            labels[first:last] = constant + held
    return labels


def phase_of_cycle(log: Log, start: float, end: float, *, rest_ma: float | None = None) -> str:
    """The phase of the cycle from ``start`` to ``end`` (beamline time, s), such as ``"charge CC"`` or ``"charge CC + charge CV"``.

    Names that take less than 5 % of the time are left out; in the order in which they come. ``"OCV"`` where no current has passed
    since the log began; ``""`` where the log has no row. Only rows up to ``end`` count.
    """
    part = log.part(start, end)
    if not len(part):
        return ""
    labels = phases(part, rest_ma=rest_ma)
    share = np.gradient(part.time) if len(part) > 1 else np.ones(1)
    total = max(float(share.sum()), 1e-12)
    named = [i for i in dict.fromkeys(labels.tolist()) if share[labels == i].sum() >= 0.05 * total]
    if named == [REST] and not np.any(np.abs(np.nan_to_num(log.part(-np.inf, end).current)) > (rest_ma or 1e-6)):
        return "OCV"
    return " + ".join(PHASES[i] for i in named)
