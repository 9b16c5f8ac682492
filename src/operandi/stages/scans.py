"""Where an exposure belongs: set, line and column of an interlaced scan, and the frames that its sets make.

A *line* is what one projection needs: all translations at one angle. What the inner motor runs through without a halt is a *sweep*: a line
where that is the translation, all angles of a set at one translation where it is the rotation. Every exposure of a set has an *index*,
line · translations + its place in its line; where sweeps are lines and nothing goes wrong, that is the order of the exposures.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from operandi.experiment import Scan

GOLDEN = (1 + 5**0.5) / 2


@dataclass(frozen=True, slots=True)
class Span:
    """The consecutive sets ``[set_first, set_last]`` behind frame number ``frame``."""

    frame: int
    set_first: int
    set_last: int

    @property
    def sets(self) -> range:
        """The numbers of the sets, in order."""
        return range(self.set_first, self.set_last + 1)


@dataclass(frozen=True, slots=True)
class Route:
    """The exposures of one set in the order in which they are planned; every array is (exposure,).

    ``line`` and ``index`` are as the module says, ``column`` counts the translations in ascending order.
    """

    line: np.ndarray
    column: np.ndarray
    index: np.ndarray
    rotation_deg: np.ndarray
    translation_mm: np.ndarray


def images_per_set(scan: Scan) -> int:
    """Number of exposures that one set plans."""
    return scan.rotations_per_set * scan.translations


def sweeps_per_set(scan: Scan) -> int:
    """How often the inner motor runs through its range in one set."""
    return scan.rotations_per_set if scan.inner == "translation" else scan.translations


def spans(scan: Scan) -> tuple[Span, ...]:
    """The frames of the scan, in order: windows of ``window_sets`` sets, sliding by ``window_step``."""
    firsts = range(0, scan.sets - scan.window_sets + 1, scan.window_step)
    return tuple(Span(i, first, first + scan.window_sets - 1) for i, first in enumerate(firsts))


# The plan


def interlace_fractions(scan: Scan) -> np.ndarray:
    """(interlaces,) by what part of a rotation step the sets are turned, one after another.

    Bit-reversed sets take the same turns in the order of van der Corput's sequence (1935): for a power of two the bits of the number,
    reversed; for other numbers the ranks within the sequence, so that the turns are evenly spaced all the same.
    """
    number = np.arange(scan.interlaces)
    if scan.order == "bit-reversed":
        number = np.argsort(np.argsort([_van_der_corput(i) for i in range(scan.interlaces)]))
    return number / scan.interlaces


def _van_der_corput(number: int) -> float:
    """The digits of a binary number mirrored at the point: 0, 1/2, 1/4, 3/4, 1/8, …"""
    bits = f"{number:b}"[::-1]
    return int(bits, 2) / 2 ** len(bits)


def planned_rotations_deg(scan: Scan, number: int) -> np.ndarray:
    """Planned angles (rotations_per_set,) of set ``number``, in the order of its lines."""
    line = np.arange(scan.rotations_per_set)
    if scan.order == "golden":
        turn = np.mod((number * scan.rotations_per_set + line) / GOLDEN, 1.0)
        return scan.rotation_start_deg + turn * scan.rotation_range_deg
    step = scan.rotation_range_deg / scan.rotations_per_set
    return scan.rotation_start_deg + (line + interlace_fractions(scan)[number % scan.interlaces]) * step


def translations_mm(scan: Scan) -> np.ndarray:
    """Planned positions (translations,) in mm, in ascending order."""
    low, high = sorted((scan.translation_start_mm, scan.translation_stop_mm))
    return np.linspace(low, high, scan.translations)


def runs_backwards(scan: Scan, number: np.ndarray | int, sweep: np.ndarray | int) -> np.ndarray:
    """Whether sweeps of sets are planned to run backwards, against the direction of the scan's first."""
    count = np.asarray(number) * sweeps_per_set(scan) + np.asarray(sweep)
    return (count % 2 == 1) & (scan.travel == "alternating")


def route(scan: Scan, number: int) -> Route:
    """Line, column, angle and position of every exposure of set ``number``, in the order of the exposures."""
    sweeps, length = sweeps_per_set(scan), images_per_set(scan) // sweeps_per_set(scan)
    sweep, place = np.divmod(np.arange(sweeps * length), length)
    place = np.where(runs_backwards(scan, number, sweep), length - 1 - place, place)
    line, along = (sweep, place) if scan.inner == "translation" else (place, sweep)
    column = along if scan.translation_start_mm < scan.translation_stop_mm else scan.translations - 1 - along
    index = index_of(scan, np.full(line.shape, number), line, column)
    return Route(line, column, index, planned_rotations_deg(scan, number)[line], translations_mm(scan)[column])


def index_of(scan: Scan, number: np.ndarray, line: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Index within its set of each exposure (n,), of its set, line and column; whether or not the plan was kept to."""
    place = column if scan.translation_start_mm < scan.translation_stop_mm else scan.translations - 1 - column
    if scan.inner == "translation":
        place = np.where(runs_backwards(scan, number, line), scan.translations - 1 - place, place)
    return line * scan.translations + place


# Exposures as they were made


def set_and_index(scan: Scan, seq_num: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Set and index within it of exposures by their ``seq_num`` (from 1), as the plan has it; beyond the plan both are -1."""
    number, order = np.divmod(np.asarray(seq_num, np.int64) - 1, images_per_set(scan))
    beyond = (number < 0) | (number >= scan.sets)
    indices = _indices_of_two_sets(scan)  # pyright: ignore[reportArgumentType] (pydantic gives frozen models a hash, unseen by pyright)
    index = indices[number % 2, order]  # directions repeat after two sets
    return np.where(beyond, -1, number), np.where(beyond, -1, index)


@lru_cache(maxsize=4)
def _indices_of_two_sets(scan: Scan) -> np.ndarray:
    """(2, exposure) the indices of a set and the next, in the order of the plan; kept, as every block of images asks for them."""
    indices = np.stack([route(scan, parity).index for parity in (0, 1)])
    indices.setflags(write=False)
    return indices


def set_and_line(scan: Scan, seq_num: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Set and line (from 0) of exposures by their ``seq_num`` (from 1), as the plan has it; beyond the plan both are -1."""
    number, index = set_and_index(scan, seq_num)
    return number, index // scan.translations


def planned_seq_num(scan: Scan, number: int) -> np.ndarray:
    """(exposure,) the ``seq_num`` that the plan gives to the exposures of set ``number``, by their index: what undoes `set_and_index`."""
    order = np.empty(images_per_set(scan), np.int64)
    order[route(scan, number).index] = np.arange(images_per_set(scan))
    return number * images_per_set(scan) + 1 + order


def column(scan: Scan, translation_mm: np.ndarray) -> np.ndarray:
    """Index of the planned position nearest to each measured one; -1 where none lies within half a step, or for NaN."""
    positions = translations_mm(scan)
    pitch = positions[1] - positions[0]
    index = (np.asarray(translation_mm, float) - positions[0]) / pitch
    nearest = np.rint(np.nan_to_num(index, nan=-1.0, posinf=-1.0, neginf=-1.0)).astype(np.int64)
    off = (nearest < 0) | (nearest >= scan.translations) | ~np.isfinite(index)
    return np.where(off, -1, nearest)


def line_rotations_deg(scan: Scan, number: int, line: np.ndarray, rotation_deg: np.ndarray) -> np.ndarray:
    """(rotations_per_set,) mean measured angle of each line of a set; the planned one where nothing was measured.

    Angles are averaged as deviations from the plan, whole turns aside: a rotation that runs through reads 360° more from turn to turn.
    A line that was measured half a turn on keeps that, for it saw the sample mirrored.

    Parameters
    ----------
    line, rotation_deg : (n,) of the exposures that count.
    """
    planned = planned_rotations_deg(scan, number)
    deviation = np.asarray(rotation_deg, float) - planned[line]
    count = np.bincount(line, minlength=len(planned))
    first = np.zeros(len(planned))
    first[line[::-1]] = deviation[::-1]
    turned = _wrapped(deviation - first[line], 360.0)
    mean = np.bincount(line, turned, minlength=len(planned)) / np.maximum(count, 1)
    return planned + _wrapped(first + mean, 360.0)


def _wrapped(angle_deg: np.ndarray, period_deg: float) -> np.ndarray:
    """Angles brought into [-period/2, period/2)."""
    return np.mod(angle_deg + period_deg / 2, period_deg) - period_deg / 2


# Windows by time and charge


def span_by_time(set_start: np.ndarray, set_end: np.ndarray, start: float, end: float) -> Span | None:
    """The sets whose exposures cover ``[start, end]``: from the first to the last that overlap it; None where none does.

    Parameters
    ----------
    set_start, set_end : (set,) start of the first and end of the last exposure, as ``start`` and ``end`` in UTC epoch s; NaN where a set
        has none.
    """
    found = np.flatnonzero((np.asarray(set_start) <= end) & (np.asarray(set_end) >= start))
    return Span(0, int(found[0]), int(found[-1])) if found.size else None


def spans_by_charge(lowest_mah: np.ndarray, highest_mah: np.ndarray, low_mah: float, high_mah: float) -> tuple[Span, ...]:
    """The stretches of sets, in order, during which the charge was within ``[low_mah, high_mah]`` at some time.

    A charge that goes back comes more than once through the same range: each time is a stretch of its own.

    Parameters
    ----------
    lowest_mah, highest_mah : (set,) extremes of the charge during each set; NaN where it is not known, which ends a stretch.
    """
    within = (np.asarray(lowest_mah) <= high_mah) & (np.asarray(highest_mah) >= low_mah)
    edges = np.flatnonzero(np.diff(within, prepend=False, append=False))
    return tuple(Span(i, int(a), int(b) - 1) for i, (a, b) in enumerate(zip(edges[::2], edges[1::2], strict=True)))


def spans_of_width(lowest: np.ndarray, highest: np.ndarray, width: float, *, step: int = 1) -> tuple[Span, ...]:
    """Windows of as many consecutive sets as come closest to a ``width`` in time or charge, each from ``step`` sets after the one before.

    The width of a window is the greatest less the least value in it: it never shrinks as the window grows, even where the charge goes back.
    Of two windows equally close the shorter one is taken. A window that the end of the scan cuts short is left out: one that a further set
    like its last would have brought closer.

    Parameters
    ----------
    lowest, highest : (set,) extremes of time (its start and end) or of charge during each set; windows end before a NaN.
    """
    lowest, highest, found = np.asarray(lowest, float), np.asarray(highest, float), []
    for first in range(0, len(lowest), step):
        widths = np.maximum.accumulate(highest[first:]) - np.minimum.accumulate(lowest[first:])
        known = np.isfinite(widths)
        widths = widths if known.all() else widths[: int(np.argmin(known))]
        if not widths.size:
            continue
        count = int(np.argmin(np.abs(widths - width)))
        last = widths[count] - (widths[count - 1] if count else 0.0)
        if count + 1 < widths.size or width - widths[count] <= last / 2:
            found.append(Span(len(found), first, first + count))
    return tuple(found)
