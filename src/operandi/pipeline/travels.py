"""How the lines of a set lie beside the planned positions, and how they are brought onto them: what backlash asks for.

Positions of lines that run backwards may be read as planned, while the true ones are off by the backlash; or the plan makes up for the
backlash, the true positions are the planned ones, and what is read is off. Either way a line keeps its own positions until the backlash is
known; then it moves by whole columns, and by interpolation for the rest.
"""

from dataclasses import dataclass

import numpy as np

from operandi.experiment import Scan
from operandi.stages import backlash, scans
from operandi.stages.sinograms import fill_gaps

_ON_GRID = 0.01
"""Steps by which a line may lie off the grid: far below what a map shows."""
_READ_OFF = 8
"""A line may be read off the plan by one part in so many of its positions."""


@dataclass(frozen=True, slots=True)
class Travel:
    """How the lines of a set were run through, both (line,): ``backwards``, and how many steps their readings lie off their columns."""

    backwards: np.ndarray
    off_grid: np.ndarray


def travel_columns(translation_mm: np.ndarray, admitted: np.ndarray, scan: Scan) -> tuple[np.ndarray, np.ndarray]:
    """The column of each exposure of a set (exposure,), -1 for none; and by how many steps each line (line,) is read off its columns.

    Exposures of a line are rounded together, so that a line that lies half a step off the grid still has one in each column. A line that
    as a whole lies beyond the first or last position is moved so far that as many exposures as can be have a column.

    Parameters
    ----------
    translation_mm, admitted : (exposure,) by index (`scans.route`); those that are not admitted have no column.
    """
    places = _in_steps(scan, translation_mm).reshape(-1, scan.translations)
    column, off = np.full(places.shape, -1, np.int64), np.zeros(len(places))
    for line, here in enumerate(admitted.reshape(places.shape) & np.isfinite(places)):
        if here.any():
            column[line, here], off[line] = _columns_of_line(places[line, here], scan.translations)
    return column.reshape(-1), off


def _in_steps(scan: Scan, translation_mm: np.ndarray) -> np.ndarray:
    positions = scans.translations_mm(scan)
    return (np.asarray(translation_mm, float) - positions[0]) / pitch_mm(scan)


def pitch_mm(scan: Scan) -> float:
    """Distance of neighbouring positions."""
    positions = scans.translations_mm(scan)
    return float(positions[1] - positions[0])


def _columns_of_line(place: np.ndarray, n: int) -> tuple[np.ndarray, float]:
    """Columns (exposure,) of one line, -1 for none, of its positions in steps from the first column; and how far it lies off them."""
    part = float(np.angle(np.exp(2j * np.pi * place).mean()) / (2 * np.pi))
    whole = np.rint(np.clip(place - part, -2 * n, 2 * n)).astype(np.int64)
    ordered, shifts = np.sort(whole), np.arange(-(n // _READ_OFF), n // _READ_OFF + 1)
    shifts = shifts[np.argsort(np.abs(shifts), kind="stable")]
    fitting = np.searchsorted(ordered, shifts + n) - np.searchsorted(ordered, shifts)
    column = whole - (shift := int(shifts[np.argmax(fitting)]))
    return np.where((column >= 0) & (column < n), column, -1), part + shift


def travel_of(translation_mm: np.ndarray, time: np.ndarray, admitted: np.ndarray, scan: Scan) -> Travel:
    """How the lines of a set were run through; ``admitted`` (n,) the indices of the exposures that count."""
    lines = scan.rotations_per_set
    direction = backlash.directions(admitted // scan.translations, translation_mm[admitted], time[admitted], lines)
    forwards = 1 if scan.translation_start_mm < scan.translation_stop_mm else -1
    counting = np.zeros(translation_mm.shape, bool)
    counting[admitted] = True
    return Travel(direction * forwards < 0, travel_columns(translation_mm, counting, scan)[1])


def within_travel(scan: Scan, translation_mm: np.ndarray) -> np.ndarray:
    """Translations of which those a little beyond the planned positions are moved to the other end of the line.

    Only to give every exposure of a line an index of its own where lines as a whole are read off the plan, not a position.
    """
    place, n = _in_steps(scan, translation_mm), scan.translations
    below = (place < -0.5) & (place >= -0.5 - n // _READ_OFF)
    above = (place > n - 0.5) & (place <= n - 0.5 + n // _READ_OFF)
    return np.asarray(translation_mm, float) + (1.0 * below - 1.0 * above) * n * pitch_mm(scan)


def true_offsets(travel: Travel, scan: Scan, backlash_mm: float) -> np.ndarray:
    """(line,) by how many steps the true positions of each line lie off its columns."""
    return travel.off_grid + np.where(travel.backwards, backlash_mm / pitch_mm(scan), 0.0)


def moved(line: np.ndarray, off: float) -> np.ndarray:
    """A line (translation, q) measured ``off`` steps beside its columns, brought onto them; a cell stays empty where nothing was near.

    By whole columns, then by `operandi.stages.backlash.onto_grid`; for that gaps are filled, so that they do not grow.
    """
    onto, rest = _by_columns(line, off)
    if abs(rest) < _ON_GRID:
        return onto
    filled, _ = fill_gaps(onto[None])
    return np.where(np.isfinite(onto), backlash.onto_grid(filled, np.array([rest]))[0], onto)


def moved_variance(line: np.ndarray, off: float) -> np.ndarray:
    """The variance that goes with `moved`, interpolated linearly: each cell keeps its level, and none gets below 0."""
    onto, rest = _by_columns(line, off)
    if abs(rest) < _ON_GRID:
        return onto
    filled = fill_gaps(onto[None])[0][0]
    neighbour = np.concatenate([filled[:1], filled[:-1]]) if rest > 0 else np.concatenate([filled[1:], filled[-1:]])
    part = np.float32(abs(rest))
    return np.where(np.isfinite(onto), (1 - part) * filled + part * neighbour, onto)


def _by_columns(line: np.ndarray, off: float) -> tuple[np.ndarray, float]:
    """The line moved by whole columns, NaN where it came from beyond its ends; and what is left of ``off``."""
    whole, n = int(np.rint(off)), len(line)
    onto = np.full_like(line, np.nan)
    if abs(whole) < n:
        onto[max(whole, 0) : n + min(whole, 0)] = line[max(-whole, 0) : n - max(whole, 0)]
    return onto, off - whole
