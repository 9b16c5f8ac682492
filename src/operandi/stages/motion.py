"""To which set, line and column each exposure belongs: by the plan, by a number that came with it, or by the motion itself.

By the motion: what moves slowly (the angle from line to line, or the translation where the rotation is the inner motor) tells which sweep
of the scan an exposure is part of. In the plan the same slow position comes again and again, in every set or every few sets; of the
sweeps that fit, the one is taken that follows best on the sweep before:

- the same sweep, the next one, or the one before (a pause rewinds), and the first of the next set, when it begins at the end of its travel;
- else the nearest one that follows, up to the end of the next set; else one that came before in the same set, where the sets before and
  after stand at other angles (a set begun again); else the nearest one that follows at all. Such a leap is believed when `AGREEING`
  exposures agree on it; those before are not placed. One exposure that reads a wrong angle thus never closes a set.

Without interlaces nothing tells a set that stops in its first line from a pause there. Noise and offsets of the encoder may reach a fifth
of the distance of neighbouring angles of the whole scan.
"""

from dataclasses import dataclass

import numpy as np

from operandi.errors import ShapeError
from operandi.experiment import Scan
from operandi.stages import scans

AGREEING = 3
"""Exposures in a row that must agree on a leap before it is believed."""

UNPLACED = {
    -1: "beyond the plan: no set of the scan is left for it",
    -2: "its rotation and translation follow on nothing that was measured before: a leap that too few exposures agree on",
    -3: "its rotation or translation lies at no planned position",
}
"""What a negative set number means."""

_EDGE = 2


@dataclass(frozen=True, slots=True)
class Track:
    """How far the motion has come: the sweep, counted over the whole scan (-1 before the first exposure); and towards which other sweep
    the last exposures ``agreed`` to leap."""

    sweep: int = -1
    towards: int = -1
    agreed: int = 0


@dataclass(frozen=True, slots=True)
class Placement:
    """Where exposures belong: ``set`` (n,), negative as in `UNPLACED`, and ``index`` (n,) within it (`scans.route`), then -1."""

    set: np.ndarray
    index: np.ndarray


def place(
    scan: Scan,
    track: Track,
    rotation_deg: np.ndarray,
    translation_mm: np.ndarray,
    seq_num: np.ndarray,
    set_number: np.ndarray | None = None,
) -> tuple[Track, Placement]:
    """Place exposures as ``scan.sets_by`` says, in the order in which they were made.

    The result is the same whether exposures come one by one or all at once. A place that comes again is a repeated exposure. By the plan,
    only ``seq_num`` counts.

    Parameters
    ----------
    track : ``Track()``, or what the call before returned.
    rotation_deg, translation_mm, seq_num : (n,) as measured.
    set_number : (n,) what the data key ``scan.keys.set`` holds; needed for ``sets_by: key``.

    Raises
    ------
    ShapeError
        If ``sets_by`` is key and there is no ``set_number``.
    """
    if scan.sets_by == "plan":
        return track, Placement(*scans.set_and_index(scan, seq_num))
    column = scans.column(scan, translation_mm)
    if scan.sets_by == "motion":
        track, number, line = _follow(scan, track, np.asarray(rotation_deg, float), column)
    elif set_number is None:
        raise ShapeError("sets are to be told by a data key, but none is given: hand over what scan.keys.set holds")
    else:
        number = _whole(scan, np.asarray(set_number, float))
        line = _nearest_lines(scan, number, np.asarray(rotation_deg, float))
    number = np.where((number >= 0) & ((line < 0) | (column < 0)), -3, number)
    placed = number >= 0
    index = scans.index_of(scan, np.where(placed, number, 0), np.where(placed, line, 0), np.where(placed, column, 0))
    return track, Placement(number, np.where(placed, index, -1))


def _whole(scan: Scan, set_number: np.ndarray) -> np.ndarray:
    """Numbers of sets that the scan has; -1 for any other value."""
    fits = np.isfinite(set_number) & (set_number >= 0) & (set_number < scan.sets) & (set_number == np.round(set_number))
    return np.where(fits, set_number, -1).astype(np.int64)


def _nearest_lines(scan: Scan, number: np.ndarray, rotation_deg: np.ndarray) -> np.ndarray:
    """The line of its set whose planned angle is nearest to each measured one; -1 where none is within half a rotation step, or no set."""
    line = np.full(number.shape, -1, np.int64)
    reach = scan.rotation_range_deg / scan.rotations_per_set * (1.0 if scan.order == "golden" else 0.5)
    for one in np.unique(number[number >= 0]):
        members = np.flatnonzero(number == one)
        off = _off(scan, rotation_deg[members, None], scans.planned_rotations_deg(scan, int(one)))
        nearest = np.argmin(np.nan_to_num(off, nan=np.inf), axis=1)
        line[members] = np.where(off[np.arange(members.size), nearest] <= reach * (1 + 1e-9), nearest, -1)
    return line


def _off(scan: Scan, rotation_deg: np.ndarray, planned_deg: np.ndarray) -> np.ndarray:
    """How far angles are from planned ones, whole periods aside.

    With the translation inside, a line may be measured a range further on, as when the rotation runs through half turns.
    """
    turns = 360.0 % scan.rotation_range_deg == 0 and scan.inner == "translation"
    period = scan.rotation_range_deg if turns else 360.0
    return np.abs(np.mod(rotation_deg - planned_deg + period / 2, period) - period / 2)


# Sets by the motion itself


@dataclass(frozen=True, slots=True)
class _Plan:
    """The sweeps of the whole scan, and which exposures fit into them."""

    scan: Scan
    sweeps_per_set: int
    starts: np.ndarray
    """(sweep,) its angle; with the rotation inside, the angle of its set's first line."""
    reach_deg: float
    """Half the distance of neighbouring angles of the whole scan."""

    @classmethod
    def of(cls, scan: Scan) -> "_Plan":
        per_set = scans.sweeps_per_set(scan)
        rotations = np.stack([scans.planned_rotations_deg(scan, number) for number in range(scan.sets)])
        starts = rotations.ravel() if scan.inner == "translation" else np.repeat(rotations[:, 0], per_set)
        cycle = scan.sets if scan.order == "golden" else min(scan.interlaces, scan.sets)
        return cls(scan, per_set, starts, scan.rotation_range_deg / (scan.rotations_per_set * cycle) / 2)

    def fits(self, sweep: np.ndarray | int, rotation_deg: np.ndarray | float, column: np.ndarray | int) -> np.ndarray:
        """Whether exposures belong to sweeps; broadcasts."""
        known = (np.asarray(sweep) >= 0) & (np.asarray(sweep) < len(self.starts))
        start = self.starts[np.where(known, sweep, 0)]
        if self.scan.inner == "translation":
            return known & (_off(self.scan, np.asarray(rotation_deg), start) <= self.reach_deg)
        step = self.scan.rotation_range_deg / self.scan.rotations_per_set
        off = np.abs(np.mod(rotation_deg - start + step / 2, step) - step / 2)
        along = np.asarray(sweep) % self.sweeps_per_set
        position = along if self.scan.translation_start_mm < self.scan.translation_stop_mm else self.scan.translations - 1 - along
        return known & (column == position) & (off <= self.reach_deg)


def _follow(scan: Scan, track: Track, rotation_deg: np.ndarray, column: np.ndarray) -> tuple[Track, np.ndarray, np.ndarray]:
    """The track after exposures, their sets (negative: `UNPLACED`) and lines."""
    plan = _Plan.of(scan)
    step_deg = scan.rotation_range_deg / scan.rotations_per_set
    turned = np.nan_to_num(np.rint((rotation_deg - scan.rotation_start_deg) / step_deg), posinf=0.0, neginf=0.0)
    along = column if scan.inner == "translation" else np.mod(turned, scan.rotations_per_set)
    sweep, length, done = np.full(rotation_deg.shape, -3, np.int64), scans.images_per_set(scan) // plan.sweeps_per_set, 0
    while done < len(sweep):
        ahead = slice(done, done + length)
        same = plan.fits(track.sweep, rotation_deg[ahead], column[ahead])
        count = len(same) if same.all() else max(1, int(np.argmin(same)))
        if same[0]:
            track = Track(track.sweep)
            sweep[done : done + count] = track.sweep
        elif column[done] >= 0:
            begins = along[done] < _EDGE or along[done] >= length - _EDGE
            track, sweep[done] = _step(plan, track, float(rotation_deg[done]), int(column[done]), bool(begins))
        done += count
    number, line = np.where(sweep < 0, sweep, sweep // plan.sweeps_per_set), sweep % plan.sweeps_per_set
    return track, number, line if scan.inner == "translation" else _nearest_lines(scan, number, rotation_deg)


def _step(plan: _Plan, track: Track, rotation_deg: float, column: int, begins: bool) -> tuple[Track, int]:
    """The track after an exposure that is not of the sweep before, and its own sweep (negative: `UNPLACED`).

    ``begins``: it was made where a travel of the inner motor begins or ends.
    """
    next_set = (track.sweep // plan.sweeps_per_set + 1) * plan.sweeps_per_set
    for sweep in (track.sweep + 1, track.sweep - 1, *([next_set] if begins else [])):
        if plan.fits(sweep, rotation_deg, column):
            return Track(sweep), sweep
    leap = _leap(plan, track.sweep, rotation_deg, column)
    if leap < 0:
        return Track(track.sweep), leap
    agreed = track.agreed + 1 if track.agreed and abs(leap - track.towards) <= 1 else 1
    return (Track(leap), leap) if agreed >= AGREEING else (Track(track.sweep, leap, agreed), -2)


def _leap(plan: _Plan, sweep: int, rotation_deg: float, column: int) -> int:
    """The sweep that an exposure out of turn belongs to; negative as in `UNPLACED`."""
    every = np.arange(len(plan.starts))
    fitting = every[plan.fits(every, rotation_deg, column)]
    if fitting.size == 0:
        return -3
    first = sweep // plan.sweeps_per_set * plan.sweeps_per_set
    later = fitting[fitting > sweep]
    soon = later[later < first + 2 * plan.sweeps_per_set]
    again = fitting[(fitting >= first) & (fitting < sweep)][::-1]
    if plan.scan.order != "golden" and plan.scan.interlaces == 1:
        again = again[:0]  # the next set stands at the same angles, and is likelier than the same once more
    return next((int(choice[0]) for choice in (soon, again, later) if choice.size), -1)
