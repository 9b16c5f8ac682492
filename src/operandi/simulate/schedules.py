"""When and where each image is taken: the beamline's virtual clock."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from operandi.experiment import Scan
from operandi.stages import scans


@dataclass(frozen=True, slots=True)
class Line:
    """What the inner motor runs through without a halt: a line of translations, or all angles of a set at one translation.

    Arrays are (image,), in the order of travel: ``columns`` are positions in the plan's translations, ``elapsed_s`` seconds
    from the first exposure of the scan to the start of each. ``rotation_deg`` is where the travel begins.
    """

    number: int
    set: int
    rotation_deg: float
    columns: np.ndarray
    translations_mm: np.ndarray
    rotations_deg: np.ndarray
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
        """Travels of the inner motor in a set."""
        return scans.sweeps_per_set(self.scan)

    @property
    def images_per_line(self) -> int:
        """Images of one travel."""
        return scans.images_per_set(self.scan) // self.lines_per_set

    @property
    def lines(self) -> int:
        """Travels in the whole scan."""
        return self.scan.sets * self.lines_per_set

    @property
    def images(self) -> int:
        """Images in the whole scan."""
        return self.lines * self.images_per_line

    @property
    def line_duration_s(self) -> float:
        """Time of one travel."""
        return self.images_per_line * self.scan.exposure_s

    @property
    def set_duration_s(self) -> float:
        """Time of one set."""
        return self.lines_per_set * self.line_duration_s

    @property
    def duration_s(self) -> float:
        """Time of the whole scan."""
        return self.scan.sets * self.set_duration_s

    def line(self, number: int) -> Line:
        """The travel of that number, counted from 0 over the whole scan."""
        which, sweep = divmod(number, self.lines_per_set)
        route, part = scans.route(self.scan, which), slice(sweep * self.images_per_line, (sweep + 1) * self.images_per_line)
        ascending = self.scan.translation_start_mm < self.scan.translation_stop_mm
        columns = route.column[part] if ascending else self.scan.translations - 1 - route.column[part]
        rotations = route.rotation_deg[part]
        if self.scan.inner == "rotation" and self.scan.travel == "forward" and self.scan.rotation_range_deg == 360:
            rotations = rotations + 360.0 * number  # the rotation never turns back
        elapsed = (number * self.images_per_line + np.arange(self.images_per_line)) * self.scan.exposure_s
        return Line(number, which, float(rotations[0]), columns, self.translations_mm[columns], rotations, elapsed)

    def elapsed_s(self, number: int) -> np.ndarray:
        """Seconds from the first exposure of the scan to each of set ``number``, (line, translation) with translations ascending."""
        route, elapsed = scans.route(self.scan, number), np.empty((self.scan.rotations_per_set, self.scan.translations))
        elapsed[route.line, route.column] = number * self.set_duration_s + np.arange(len(route.line)) * self.scan.exposure_s
        return elapsed

    def windows(self) -> list[range]:
        """The consecutive sets behind each frame."""
        return [span.sets for span in scans.spans(self.scan)]
