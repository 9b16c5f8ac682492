"""Where an exposure belongs: set, line and column of an interlaced scan, and the frames that its sets make."""

from dataclasses import dataclass

import numpy as np

from operandi.experiment import Scan


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


def images_per_set(scan: Scan) -> int:
    """Number of exposures that one set plans."""
    return scan.rotations_per_set * scan.translations


def spans(scan: Scan) -> tuple[Span, ...]:
    """The frames of the scan, in order: windows of ``window_sets`` sets, sliding by ``window_step``."""
    firsts = range(0, scan.sets - scan.window_sets + 1, scan.window_step)
    return tuple(Span(i, first, first + scan.window_sets - 1) for i, first in enumerate(firsts))


def set_and_line(scan: Scan, seq_num: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Set and line (from 0) of exposures by their ``seq_num`` (from 1); a set beyond the plan is -1."""
    position = np.asarray(seq_num, np.int64) - 1
    number, within = np.divmod(position, images_per_set(scan))
    beyond = (position < 0) | (number >= scan.sets)
    return np.where(beyond, -1, number), within // scan.translations


def translations_mm(scan: Scan) -> np.ndarray:
    """Planned positions (translations,) in mm, in ascending order."""
    low, high = sorted((scan.translation_start_mm, scan.translation_stop_mm))
    return np.linspace(low, high, scan.translations)


def column(scan: Scan, translation_mm: np.ndarray) -> np.ndarray:
    """Index of the planned position nearest to each measured one; -1 where none lies within half a step, or for NaN."""
    positions = translations_mm(scan)
    pitch = positions[1] - positions[0]
    index = (np.asarray(translation_mm, float) - positions[0]) / pitch
    nearest = np.rint(np.nan_to_num(index, nan=-1.0, posinf=-1.0, neginf=-1.0)).astype(np.int64)
    off = (nearest < 0) | (nearest >= scan.translations) | ~np.isfinite(index)
    return np.where(off, -1, nearest)


def planned_rotations_deg(scan: Scan, number: int) -> np.ndarray:
    """Planned angles (rotations_per_set,) of set ``number``."""
    step = scan.rotation_range_deg / scan.rotations_per_set
    fraction = (number % scan.interlaces) / scan.interlaces
    return scan.rotation_start_deg + (np.arange(scan.rotations_per_set) + fraction) * step
