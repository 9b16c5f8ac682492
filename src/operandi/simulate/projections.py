"""Line integrals through a cell, and the maps that a reconstruction of them should give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from operandi.simulate.phantom import PHASES, SPECIES, Cell, layer, phase_maps
from operandi.simulate.states import project
from operandi.stages.scans import planned_rotations_deg

if TYPE_CHECKING:
    from collections.abc import Callable

    from operandi.simulate.schedules import Schedule

FINE = 7
"""Points of the phantom's grid for one voxel of the scan's; odd, so that the centres coincide."""

PRESENT = 0.10
"""Mean volume fraction of a phase in its layer from which on it counts as present."""


def line_integrals(cell: Cell, rotation_deg: float, offsets_mm: np.ndarray, charge_mah: np.ndarray) -> np.ndarray:
    """Path length of every species (translation, species), mm, through the cell along one line of the scan.

    ``offsets_mm`` (translation,) are translations less the axis, evenly spaced and increasing; the beam is as wide as
    they are apart, and sees the points with x·cosθ + y·sinθ = offset. ``charge_mah`` (translation,) is the charge at
    each exposure, for the cell reacts while it is scanned.
    """
    angle = np.deg2rad(rotation_deg)
    width = float(offsets_mm[-1] - offsets_mm[0]) / (offsets_mm.size - 1)
    out = np.zeros((offsets_mm.size, len(SPECIES)))
    states = cell.state(charge_mah)
    project(cell.host, cell.region, cell.lag, cell.pitch_mm, np.cos(angle), np.sin(angle), float(offsets_mm[0]), width, states, out)
    return out


def simulated_line_integrals(cell: Cell, schedule: Schedule, charge_at: Callable[[np.ndarray], np.ndarray], sets: range) -> np.ndarray:
    """Noise-free sinograms (line, translation, species), mm, of some sets, line after line.

    Columns are in increasing order of translation whatever the direction of travel; ``charge_at`` maps seconds after the
    first exposure to mAh. Rotations are `planned_rotations_deg` of each set.
    """
    offsets = np.sort(schedule.translations_mm) - schedule.axis_mm
    sinogram = []
    for number in sets:
        charge = charge_at(schedule.elapsed_s(number))
        rotations = planned_rotations_deg(schedule.scan, number)
        sinogram += [line_integrals(cell, r, offsets, q) for r, q in zip(rotations, charge, strict=True)]
    return np.stack(sinogram)


def to_scan_grid(fine: np.ndarray, pitch_mm: float) -> np.ndarray:
    """Maps (…, y, x) on the phantom's grid, averaged over the scan's voxels and blurred by the width of its beam."""
    sigma = FINE / np.sqrt(12)
    blurred = np.asarray(ndimage.gaussian_filter(fine, [0] * (fine.ndim - 2) + [sigma, sigma], mode="constant"))
    n = fine.shape[-1] // FINE
    shape = (*fine.shape[:-2], n, FINE, n, FINE)
    return blurred.reshape(shape).mean(axis=(-3, -1))


@dataclass(frozen=True, slots=True)
class Truth:
    """Fractions (phase, y, x) averaged over a frame's time, mean in their layer (phase,), and which are present (phase,)."""

    phases: tuple[str, ...]
    maps: np.ndarray
    in_layer: np.ndarray
    present: np.ndarray


def truth(cell: Cell, charges_mah: np.ndarray, pitch_mm: float) -> Truth:
    """What a frame should show that was measured while the charge went through ``charges_mah`` (evenly in time)."""
    fine: np.ndarray = np.zeros((len(PHASES), *cell.host.shape), np.float32)
    for charge in charges_mah:
        fine = fine + phase_maps(cell, float(charge)) / len(charges_mah)
    inside = [layer(cell, phase) for phase in PHASES]
    mean = np.array([m[where].mean() if where.any() else 0.0 for m, where in zip(fine, inside, strict=True)])
    return Truth(PHASES, to_scan_grid(fine, pitch_mm), mean, mean > PRESENT)
