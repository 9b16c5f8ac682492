"""Parallax: voxels nearer to the detector than the axis appear at lower q, those behind it at higher q."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from operandi.errors import ShapeError

_ROUNDING = 1e-9


class Overlap(NamedTuple):
    """A phase whose intensity parallax carries into the window of another."""

    phase: str
    into: str
    reach_inv_angstrom: float
    """How far it reaches beyond its own window, Å⁻¹."""


def smear(q: np.ndarray, *, radius_mm: float, distance_mm: float, wavelength_angstrom: float) -> tuple[np.ndarray, np.ndarray]:
    """(lower, upper) q in Å⁻¹ at which what scatters at ``q`` appears, from the nearest and the farthest voxels of a sample.

    A voxel z before the axis is ``distance_mm - z`` from the detector, and tan 2θ is taken as if it lay at ``distance_mm``, which is from
    the axis to a detector that stands across the beam. For a uniform sample the standard deviation is half of the reach. Exact in 2θ; about
    q · radius/distance at small angles.

    Raises
    ------
    ShapeError
        If the sample reaches to the detector, or q is beyond forward scattering (2θ ≥ 90°).
    """
    if not 0 <= radius_mm < distance_mm:
        raise ShapeError(f"a sample of radius {radius_mm:g} mm must be smaller than its distance to the detector, {distance_mm:g} mm")
    sine = np.asarray(q, float) * wavelength_angstrom / (4 * np.pi)
    if not (np.abs(sine) < np.sqrt(0.5)).all():
        raise ShapeError("q reaches 2θ of 90° or more at this wavelength: no detector across the beam sees it")
    tangent = np.tan(2 * np.arcsin(sine))
    lower, upper = (
        4 * np.pi / wavelength_angstrom * np.sin(np.arctan(tangent * (1 + side * radius_mm / distance_mm)) / 2) for side in (-1, 1)
    )
    return lower, upper


def find_overlaps(
    windows: Sequence[tuple[str, float, float]], *, radius_mm: float, distance_mm: float, wavelength_angstrom: float
) -> list[Overlap]:
    """What reaches into the window of another because of parallax; windows that share q anyhow are not told.

    Parameters
    ----------
    windows : (phase, lower, upper) of each, Å⁻¹.
    """
    at = {"radius_mm": radius_mm, "distance_mm": distance_mm, "wavelength_angstrom": wavelength_angstrom}
    found = []
    for phase, low, high in windows:
        lowest, highest = float(smear(np.array(low), **at)[0]), float(smear(np.array(high), **at)[1])
        for other, other_low, other_high in windows:
            if high <= other_low < highest - _ROUNDING:
                found.append(Overlap(phase, other, highest - high))
            if lowest + _ROUNDING < other_high <= low:
                found.append(Overlap(phase, other, low - lowest))
    return found
