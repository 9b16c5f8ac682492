"""Tomograms of static cells at small angles: a detector 6 m away, the cells of Table S1, images and the regions that are true."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from operandi.experiment import Experiment, Geometry, Integration, Sample, Scan
from operandi.simulate.beamline import Rehearsal, rehearse
from operandi.simulate.detectors import Response, image, response
from operandi.simulate.phantom import CAPACITY_MAH, Cell, Layout, jelly_roll
from operandi.simulate.potentiostat import ChargeCurve, recorded_curve
from operandi.simulate.projections import FINE, line_integrals
from operandi.simulate.reference import silicon_of
from operandi.simulate.states import ANODE, NORMAL

WAVELENGTH_M, DISTANCE_M, PIXEL_M = 1.74625623831e-11, 6.0, 172e-6
AGGLOMERATE = (-1.35, 1.15, 0.8)
"""Centre x, y and radius, mm, of a cluster that such a coarse scan resolves."""
ROWS, COLUMNS = 48, 216
"""Half of a strip across the beam, which falls on the middle of its first column: q up to 0.22 Å⁻¹."""


def write_poni(path: Path) -> Path:
    """The calibration of the strip: the detector of the paper, 6 m behind the cell."""
    path.write_text(
        "poni_version: 2\nDetector: Detector\n"
        f'Detector_config: {{"pixel1": {PIXEL_M}, "pixel2": {PIXEL_M}, "max_shape": [{ROWS}, {COLUMNS}], "orientation": 3}}\n'
        f"Distance: {DISTANCE_M}\nPoni1: {ROWS / 2 * PIXEL_M}\nPoni2: {PIXEL_M / 2}\nRot1: 0\nRot2: 0\nRot3: 0\n"
        f"Wavelength: {WAVELENGTH_M}\n"
    )
    return path


def static_scan(poni: Path, *, rotations: int = 40, translations: int = 43) -> Experiment:
    """A tomogram of one set that sees the whole of the cell."""
    return Experiment(
        sample=Sample(name="static-cell"),
        geometry=Geometry(poni=poni),
        integration=Integration(q_min_inv_angstrom=0.01, q_max_inv_angstrom=0.2, bins=184),
        scan=Scan(
            sets=1,
            rotations_per_set=rotations,
            interlaces=1,
            window_sets=1,
            translations=translations,
            translation_start_mm=-4.2,
            translation_stop_mm=4.2,
            exposure_s=0.05,
        ),
    )


@dataclass(frozen=True, slots=True)
class StaticTomogram:
    """A cell that is ``fresh`` or ``aged``, and ``charged`` or ``discharged``; no charge passes while it is measured."""

    experiment: Experiment
    age: str
    state: str
    seed: int = 0
    strength: float = 0.2
    """Of all counts; at 1 the brightest pixels would reach the end of the detector's range."""
    layout: Layout = Layout(agglomerate=AGGLOMERATE)

    @property
    def cell(self) -> Cell:
        """The built-in jelly roll, on a grid finer than the scan's."""
        scan = self.experiment.scan
        return jelly_roll(scan.translations * FINE, self._pitch_mm / FINE, self.layout)

    @property
    def _pitch_mm(self) -> float:
        scan = self.experiment.scan
        return (scan.translation_stop_mm - scan.translation_start_mm) / (scan.translations - 1)

    @property
    def seen(self) -> Response:
        """What the detector sees of each material."""
        return response(self.experiment, strength=self.strength, scatterers=silicon_of(self.age, self.state))

    @property
    def charge(self) -> ChargeCurve:
        """The circuit is open: the charge stays as it is, and so does the voltage."""
        q, v = (CAPACITY_MAH, 4.16) if self.state == "charged" else (0.0, 2.9)
        return recorded_curve(np.array([0.0, 1.0]), np.full(2, q), np.full(2, v), np.zeros(2))

    def measure(self, folder: Path, **options: Any) -> Rehearsal:
        """Have the simulated beamline measure it, by a RunEngine and into files; options are those of `rehearse`."""
        return rehearse(self.experiment, folder=folder, cell=self.cell, echem=self.charge, seen=self.seen, seed=self.seed, **options)

    def lines(self) -> Iterator[tuple[float, np.ndarray]]:
        """For each rotation (deg) the images (translation, row, column), in increasing order of translation."""
        scan, cell = self.experiment.scan, self.cell
        seen = self.seen
        at = np.linspace(scan.translation_start_mm, scan.translation_stop_mm, scan.translations)
        charge = np.full(scan.translations, CAPACITY_MAH if self.state == "charged" else 0.0)
        for line in range(scan.rotations_per_set):
            rotation = line * scan.rotation_range_deg / scan.rotations_per_set
            lengths = line_integrals(cell, rotation, at, charge)
            number = line * scan.translations
            yield rotation, np.stack([image(seen, one, 1e6, seed=self.seed, number=number + i) for i, one in enumerate(lengths)])

    def labels(self) -> np.ndarray:
        """The regions of the anode (y, x) on the scan's grid, 1 normal, 2 bend, 3 agglomerate; 0 where half of a voxel is else."""
        cell, n = self.cell, self.experiment.scan.translations
        true = np.where(cell.host == ANODE, cell.region - NORMAL + 1, 0).reshape(n, FINE, n, FINE)
        shares = np.stack([(true == label).mean(axis=(1, 3)) for label in range(4)])
        return np.where(shares[1:].max(axis=0) > 0.5, shares[1:].argmax(axis=0) + 1, 0)
