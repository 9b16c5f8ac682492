"""When and where each image is taken: the beamline's virtual clock."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from operandi.experiment import Scan


@dataclass(frozen=True, slots=True)
class Line:
    """One travel of the translation at one rotation.

    ``columns`` (translation,) are positions in the plan's translations, in the order of travel; ``elapsed_s`` seconds
    from the first exposure of the scan to the start of each.
    """

    number: int
    set: int
    rotation_deg: float
    columns: np.ndarray
    translations_mm: np.ndarray
    elapsed_s: np.ndarray


@dataclass(frozen=True, slots=True)
class Schedule:
    """The plan of a scan. Images follow each other without dead time, so a set takes images × exposure."""

    scan: Scan
    axis_mm: float = 0.0

    @property
    def translations_mm(self) -> np.ndarray:
        """Planned translations (translation,), in the direction of the first line."""
        return np.linspace(self.scan.translation_start_mm, self.scan.translation_stop_mm, self.scan.translations)

    @property
    def pitch_mm(self) -> float:
        """Distance of neighbouring translations, and width of the beam."""
        return abs(self.scan.translation_stop_mm - self.scan.translation_start_mm) / (self.scan.translations - 1)

    @property
    def lines_per_set(self) -> int:
        """Lines in a set."""
        return self.scan.rotations_per_set

    @property
    def lines(self) -> int:
        """Lines in the whole scan."""
        return self.scan.sets * self.lines_per_set

    @property
    def images(self) -> int:
        """Images in the whole scan."""
        return self.lines * self.scan.translations

    @property
    def set_duration_s(self) -> float:
        """Time of one set."""
        return self.lines_per_set * self.scan.translations * self.scan.exposure_s

    @property
    def duration_s(self) -> float:
        """Time of the whole scan."""
        return self.scan.sets * self.set_duration_s

    def line(self, number: int) -> Line:
        """The line of that number, counted from 0 over the whole scan."""
        scan = self.scan
        which, row = divmod(number, self.lines_per_set)
        turned = row + (which % scan.interlaces) / scan.interlaces
        rotation = scan.rotation_start_deg + turned * scan.rotation_range_deg / scan.rotations_per_set
        columns = np.arange(scan.translations)
        if scan.travel == "alternating" and number % 2:
            columns = columns[::-1]
        elapsed = (number * scan.translations + np.arange(scan.translations)) * scan.exposure_s
        return Line(number, which, rotation, columns, self.translations_mm[columns], elapsed)

    def windows(self) -> list[range]:
        """The consecutive sets behind each frame."""
        scan = self.scan
        return [range(first, first + scan.window_sets) for first in range(0, scan.sets - scan.window_sets + 1, scan.window_step)]
