"""Backlash: lines of translations that run backwards are measured off from where they say, by the slack of the drive.

The true translation of a line that runs backwards is the measured one plus the backlash; lines that run forwards are right. A backlash
need not be a whole number of steps. Whole steps move a line's exposures to other columns (`true_translations_mm`, then `scans.column`).
What is left over is how far the line lies off the grid (`off_grid_mm`); two ways serve it: back projection about an axis of its own for
each line, ``axis - off``, which interpolates nothing beyond what it does anyway; or the line brought onto the grid (`onto_grid`).
"""

from dataclasses import dataclass

import numpy as np

from operandi.errors import ShapeError
from operandi.stages.sinograms import fill_gaps, usable_projections

_RIM_POINTS = 2
_DARK = 0.1
"""Part of the median line's signal below which a line tells nothing."""
_ROUNDS = 30
_TUKEY = 4.685
"""Standard deviations beyond which a line does not count at all: the usual choice for the biweight."""


@dataclass(frozen=True, slots=True)
class Backlash:
    """What to add to the translation of lines that run backwards, mm."""

    value: float
    uncertainty: float
    """One standard deviation, of the same unit."""


def directions(line: np.ndarray, translation_mm: np.ndarray, time: np.ndarray, lines: int) -> np.ndarray:
    """(lines,) int8: 1 where a line was measured with growing translation, -1 where it ran backwards, 0 where nothing tells.

    Parameters
    ----------
    line, translation_mm, time : (n,) of the exposures that count, in any order. Of exposures that were repeated the last should count.
    """
    count = np.maximum(np.bincount(line, minlength=lines), 1)
    deviations = [v - (np.bincount(line, v, minlength=lines) / count)[line] for v in (np.asarray(translation_mm), np.asarray(time))]
    return np.sign(np.bincount(line, deviations[0] * deviations[1], minlength=lines)).astype(np.int8)


def true_translations_mm(translation_mm: np.ndarray, direction: np.ndarray, backlash_mm: float) -> np.ndarray:
    """Translations of exposures, or of whole lines, freed from backlash; ``direction`` broadcasts against them, negative is backwards."""
    return np.asarray(translation_mm, float) + np.where(np.asarray(direction) < 0, backlash_mm, 0.0)


def off_grid_mm(line: np.ndarray, translation_mm: np.ndarray, planned_mm: np.ndarray, lines: int) -> np.ndarray:
    """(lines,) how far the exposures of each line lie, in the mean, from the planned positions of their columns; 0 for an empty line.

    Parameters
    ----------
    line, translation_mm, planned_mm : (n,) of the exposures that count: their lines, true translations, and planned ones.
    """
    count = np.maximum(np.bincount(line, minlength=lines), 1)
    return np.bincount(line, np.asarray(translation_mm) - np.asarray(planned_mm), minlength=lines) / count


def onto_grid(sinogram: np.ndarray, off: np.ndarray) -> np.ndarray:
    """A sinogram whose lines lie ``off`` the grid, interpolated onto it along the translation.

    Cubic convolution over four neighbours (Keys 1981, doi:10.1109/TASSP.1981.1163711), exact for parabolas; beyond the ends the end
    values go on. A cell that has a NaN among the neighbours that count is NaN: reconstruction fills it.

    Parameters
    ----------
    sinogram : (rotation, translation, q).
    off : (rotation,) in steps of the translation, within ±1: the cell i of a line was measured at i + off.
    """
    off = np.asarray(off, float)
    if off.shape != sinogram.shape[:1] or not (np.abs(off) <= 1).all():
        raise ShapeError(f"offsets must be one number within ±1 for each of the {len(sinogram)} lines: move whole steps by columns first")
    n, result = sinogram.shape[1], sinogram.copy()
    for line in np.flatnonzero(off):
        first, part = int(np.floor(-off[line])), float(-off[line] - np.floor(-off[line]))
        result[line] = 0
        for shift, weight in zip(range(first - 1, first + 3), cubic_weights(part), strict=True):
            if weight:
                result[line] += np.float32(weight) * sinogram[line, np.clip(np.arange(n) + shift, 0, n - 1)]
    return result


def cubic_weights(part: float) -> tuple[float, float, float, float]:
    """Weights of the neighbours at -1, 0, 1 and 2 for a place ``part`` of the way from 0 to 1."""
    a, b, c = part, part**2, part**3
    return (-a + 2 * b - c) / 2, (2 - 5 * b + 3 * c) / 2, (a + 4 * b - 3 * c) / 2, (c - b) / 2


def estimate_backlash(sinogram: np.ndarray, rotation_deg: np.ndarray, translation_mm: np.ndarray, direction: np.ndarray) -> Backlash:
    """The backlash, from a sinogram (rotation, translation[, q]) of which some lines ran backwards.

    The centre of mass of a projection is ``axis + a cos θ + b sin θ`` whatever the sample (the first of the conditions of Helgason 1965 and
    Ludwig 1966, doi:10.1002/cpa.3160190207); lines that ran backwards show it moved by minus the backlash. The four unknowns are fitted
    to all lines, weighted by Tukey's biweight, so that a line that a single grain lights up does not count. Channels are summed; what the
    outermost cells see is taken as air; single missing cells are filled (`fill_gaps`).

    Parameters
    ----------
    rotation_deg, direction : (rotation,) angle, and 1 or -1 (backwards); lines of direction 0 are left out.
    translation_mm : (translation,) as measured, equally spaced.

    Returns
    -------
    The backlash; its uncertainty follows from the scatter of the lines about the fit.

    Raises
    ------
    ShapeError
        If the arrays do not fit each other, or fewer than 3 usable lines run in either direction.
    """
    profiles, theta, way, translation = _profiles(sinogram, rotation_deg, translation_mm, direction)
    if min(np.count_nonzero(way > 0), np.count_nonzero(way < 0)) < 3:
        raise ShapeError("the backlash needs at least 3 usable lines in either direction: give scan.backlash_mm as a number")
    centre = profiles @ translation / profiles.sum(axis=1)
    unknowns = np.stack([np.ones_like(theta), np.cos(theta), np.sin(theta), -1.0 * (way < 0)], axis=1)
    found, deviation = _robust_fit(unknowns, centre)
    return Backlash(float(found[3]), float(deviation[3]))


def _profiles(sinogram, rotation_deg, translation_mm, direction):
    """Channel sums, free of air, of the lines that tell something; their angles in radians and directions; and the translations."""
    values, translation = np.asarray(sinogram, np.float32), np.asarray(translation_mm, float)
    values = values[:, :, None] if values.ndim == 2 else values
    rotation, way = np.asarray(rotation_deg, float), np.asarray(direction)
    if values.ndim != 3 or values.shape[:2] != (rotation.size, translation.size) or way.shape != rotation.shape:
        raise ShapeError(
            f"sinogram of shape {values.shape} does not fit {rotation.size} angles, {way.size} directions and {translation.size} positions"
        )
    used = usable_projections(values) & np.isfinite(rotation) & (way != 0)
    filled, lost = fill_gaps(np.ascontiguousarray(values[used]))
    profiles = filled[:, :, ~lost].sum(axis=2, dtype=np.float64)
    if profiles.size:
        profiles -= profiles[:, np.r_[:_RIM_POINTS, translation.size - _RIM_POINTS : translation.size]].mean()
    mass = profiles.sum(axis=1)
    lit = mass > _DARK * np.median(mass) if mass.size else np.zeros(0, bool)
    return profiles[lit], np.deg2rad(rotation[used][lit]), way[used][lit], translation


def _robust_fit(unknowns: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients of a linear fit that outliers hardly move, by iterated weights (Tukey's biweight), and their standard deviations."""
    weights, found, off = np.ones(values.size), np.zeros(unknowns.shape[1]), values
    for _ in range(_ROUNDS):
        root = np.sqrt(weights)
        found = np.linalg.lstsq(unknowns * root[:, None], values * root, rcond=None)[0]
        off = values - unknowns @ found
        scale = 1.4826 * np.median(np.abs(off)) + np.finfo(float).tiny
        weights = np.clip(1 - (off / (_TUKEY * scale)) ** 2, 0, None) ** 2
    free = max(np.count_nonzero(weights) - unknowns.shape[1], 1)
    variance = np.sum(weights * off**2) / free
    return found, np.sqrt(variance * np.diag(np.linalg.pinv(unknowns.T @ (weights[:, None] * unknowns))))
