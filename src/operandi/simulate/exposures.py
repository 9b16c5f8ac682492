"""Exposures of a virtual beamline: for each image its counts, and where and when it was taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from operandi.simulate.detectors import DRIFT, Response, image, monitor_counts
from operandi.simulate.phantom import Cell
from operandi.simulate.potentiostat import ChargeCurve
from operandi.simulate.projections import line_integrals
from operandi.simulate.schedules import Line, Schedule

ROTATION_NOISE_DEG, TRANSLATION_NOISE_MM = 0.003, 0.0015
"""Standard deviations of what the encoders read."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """What was read for each image of a line (image,): degrees, mm, counts, and the UTC epoch s of its start."""

    rotation_deg: np.ndarray
    translation_mm: np.ndarray
    monitor: np.ndarray
    time_s: np.ndarray


@dataclass(frozen=True, slots=True)
class Beam:
    """How bright the beam is (``strength`` scales all counts), how far its flux drifts either way, and how much air it passes.

    ``counted`` gives, for a translation in mm, the share that is counted of what is scattered there: absorption, or an error of the gain.
    """

    strength: float = 1.0
    drift: float = DRIFT
    air_mm: float = 1.0
    counted: Callable[[float], float] | None = None


@dataclass(frozen=True, slots=True)
class Exposures:
    """The beam, the cell and the detector. The same ``seed`` gives the same images, in whatever order they are made."""

    schedule: Schedule
    cell: Cell
    curve: ChargeCurve
    response: Response
    first_image_s: float
    seed: int = 0
    drift: float = DRIFT
    counted: Callable[[float], float] | None = None
    """As that of the beam."""

    def record(self, line: Line) -> Recorded:
        """Positions, monitor and time of every image of a line."""
        random = np.random.default_rng([self.seed, 1, line.number])
        n = line.elapsed_s.size
        expected = monitor_counts(line.elapsed_s, self.schedule.duration_s, self.drift)
        return Recorded(
            line.rotations_deg + ROTATION_NOISE_DEG * random.standard_normal(n),
            line.translations_mm + TRANSLATION_NOISE_MM * random.standard_normal(n),
            random.poisson(expected).astype(float),
            self.first_image_s + line.elapsed_s,
        )

    def lengths(self, line: Line) -> np.ndarray:
        """Path lengths (image, species), mm, in the order of travel."""
        charge = self.curve.charge(line.elapsed_s + self.schedule.scan.exposure_s / 2)
        if self.schedule.scan.inner == "rotation":
            beam = line.translations_mm[0] - self.schedule.axis_mm + np.array([0.0, self.schedule.pitch_mm])
            at = zip(line.rotations_deg, charge, strict=True)
            return np.stack([line_integrals(self.cell, rotation, beam, np.full(2, q))[0] for rotation, q in at])
        order = np.argsort(line.translations_mm)
        offsets = line.translations_mm[order] - self.schedule.axis_mm
        return line_integrals(self.cell, line.rotation_deg, offsets, charge[order])[np.argsort(order)]

    def image(self, line: Line, index: int, lengths_mm: np.ndarray) -> np.ndarray:
        """Counts (row, column) of image ``index`` of a line, with the path lengths (species,) behind it."""
        monitor = float(monitor_counts(line.elapsed_s[index], self.schedule.duration_s, self.drift))
        number = line.number * self.schedule.images_per_line + index
        monitor *= 1.0 if self.counted is None else self.counted(float(line.translations_mm[index]))
        return image(self.response, lengths_mm, monitor, seed=self.seed, number=number)

    def images(self, line: Line, pool: ThreadPoolExecutor, ahead: int = 4) -> Iterator[np.ndarray]:
        """Every image of a line in order; up to ``ahead`` are being made at a time."""
        lengths = self.lengths(line)
        waiting = []
        for index in range(lengths.shape[0]):
            waiting.append(pool.submit(self.image, line, index, lengths[index]))
            compiling = line.number == 0 and index == 0  # threads that ask numba for the same code at once can fail
            if compiling or len(waiting) >= ahead:
                yield waiting.pop(0).result()
        for last in waiting:
            yield last.result()
