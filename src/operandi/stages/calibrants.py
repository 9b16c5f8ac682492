"""Calibrants: where the reflections of a known powder lie in a pattern, and where they should."""

from dataclasses import dataclass

import numpy as np
from pyFAI.calibrant import CALIBRANT_FACTORY
from scipy.optimize import least_squares

from operandi.errors import ShapeError

HALF_WIDTH_INV_ANGSTROM = 0.06
LEAST_POINTS = 7


@dataclass(frozen=True, slots=True)
class Reflection:
    """One ring of a calibrant, Å⁻¹; ``found`` is NaN where the pattern shows no peak."""

    expected: float
    found: float

    @property
    def difference(self) -> float:
        """How far the peak lies from its place, Å⁻¹."""
        return self.found - self.expected


def find_reflections(q: np.ndarray, intensity: np.ndarray, calibrant: str, *, most: int = 12) -> list[Reflection]:
    """The first reflections of a calibrant inside the range of q, each fitted by a Gaussian on a line.

    Parameters
    ----------
    q
        (q,) Å⁻¹, increasing.
    intensity
        (q,) one pattern; NaN where a bin is empty.
    calibrant
        Name of pyFAI's, such as CeO2, LaB6, Si or AgBh.
    most
        Number of reflections.

    Raises
    ------
    ShapeError
        pyFAI knows no such calibrant.
    """
    known = sorted(CALIBRANT_FACTORY.keys())
    if calibrant not in known:
        raise ShapeError(f"calibrant {calibrant!r} is not known: give one of {', '.join(known)}")
    expected = np.sort(2 * np.pi / np.array(CALIBRANT_FACTORY(calibrant).dspacing))
    inside = expected[(expected > q[0]) & (expected < q[-1])][: most + 1]
    gaps = np.concatenate([[np.inf], np.diff(inside), [np.inf]])
    half = np.minimum(HALF_WIDTH_INV_ANGSTROM, np.minimum(gaps[:-1], gaps[1:]) / 2)
    return [Reflection(float(q0), _peak(q, intensity, q0, h)) for q0, h in zip(inside[:most], half, strict=False)]


def _peak(q: np.ndarray, intensity: np.ndarray, expected: float, half: float) -> float:
    """Centre of the peak within ``half`` of ``expected``; NaN where there is none."""
    near = (np.abs(q - expected) <= half) & np.isfinite(intensity)
    x, y = q[near] - expected, intensity[near]
    if len(x) < LEAST_POINTS:
        return float("nan")
    floor, height = float(np.min(y)), float(np.ptp(y))
    start = (float(x[np.argmax(y)]), half / 4, height, floor, 0.0)
    fit = least_squares(lambda p: _gaussian_on_line(x, *p) - y, start, x_scale=(half, half, height or 1, height or 1, (height or 1) / half))
    centre, width, strength = fit.x[:3]
    if not fit.success or strength <= 0 or abs(centre) > half or not 0 < abs(width) < half:
        return float("nan")
    return float(expected + centre)


def _gaussian_on_line(x: np.ndarray, centre: float, width: float, strength: float, floor: float, slope: float) -> np.ndarray:
    return strength * np.exp(-0.5 * ((x - centre) / width) ** 2) + floor + slope * x
