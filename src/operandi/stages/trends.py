"""What a reacting cell does as a whole, which a few numbers describe and all projections together tell.

What a projection shows between two of its repetitions is not measured. But the turns of a cell react much alike: the cell is a map that
stands still, and a change that is, to first order, its own map times a course that depends on the distance from the axis alone. Every
projection, at its own moment, shows a sum of these courses, so that they are known as finely as projections were taken. They are the best
linear prediction under the temporal covariance that was learned (explicit basis functions: Rasmussen & Williams, Gaussian Processes for
Machine Learning, 2006, section 2.7); what they leave of the projections is predicted angle by angle.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse

from operandi.stages.instants import Projections, instant_sinograms
from operandi.stages.temporal import TemporalModel, distinct_angles, learn, splines
from operandi.stages.volumes import grid_mm, partial_volume

_RINGS = 6
"""Courses, at so many distances from the axis; linear between."""
_MOMENTS = 7
"""At so many the maps are made that tell what stands still and what changes."""
_MISFIT, _STILL = 0.02, 0.02
"""Shares of the mean square change: what the courses leave of it, and how far what stands still is off at each angle."""


@dataclass(frozen=True, slots=True)
class Trend:
    """The change of the cell as a whole: at the distinct angles ``rotation_deg`` (row,) the ``patterns`` (row, translation, channel, ring)
    of what changes, times ``courses`` (channel, ring, knot) at ``knots`` of progress."""

    rotation_deg: np.ndarray
    patterns: np.ndarray
    knots: np.ndarray
    courses: np.ndarray

    def at(self, rotation_deg: np.ndarray, progress: np.ndarray) -> np.ndarray:
        """Its projections (n, translation, channel) at progress (n,) and angles (n,), of those that it was learned at."""
        heights = np.einsum("crk,nk->ncr", self.courses, splines(progress, self.knots)).astype(np.float32)
        return np.einsum("nscr,ncr->nsc", self.patterns[np.searchsorted(self.rotation_deg, rotation_deg)], heights, optimize=True)


def with_trend(projections: Projections, model: TemporalModel, translation_mm: np.ndarray, axis_mm: float) -> TemporalModel:
    """The model of what the change of the cell as a whole leaves, together with that change.

    The ``model`` itself where it serves any channel, and where the reaction stands still or projections have gaps or last about as long as
    their sets.

    Parameters
    ----------
    model : learned from the same projections, a covariance for each channel.
    translation_mm, axis_mm : the positions of the cells of a projection (translation,) and the rotation axis on these.
    """
    intensity, variance, rotation, progress = (getattr(projections, n) for n in ("intensity", "variance", "rotation_deg", "progress"))
    if progress.ndim > 1 or np.ptp(progress) == 0 or model.channels != intensity.shape[2] or not np.isfinite(intensity).all():
        return model
    trend = _fit(projections, model, translation_mm, axis_mm)
    return replace(learn(intensity - trend.at(distinct_angles(rotation), progress), variance, rotation, progress), trend=trend)


def _fit(projections: Projections, model: TemporalModel, translation_mm: np.ndarray, axis_mm: float) -> Trend:
    band, progress = model.bands[-1], projections.progress
    angles, row = np.unique(distinct_angles(projections.rotation_deg), return_inverse=True)
    moments = np.linspace(progress.min(), progress.max(), _MOMENTS)
    instants = instant_sinograms(projections, moments.tolist(), "model", model)
    maps = np.stack([partial_volume(one.intensity, one.rotation_deg, translation_mm, axis_mm) for one in instants])
    still = _project(maps.mean(axis=0), angles, translation_mm, axis_mm)
    patterns = _project(_rings(maps.std(axis=0), translation_mm), angles, translation_mm, axis_mm)
    basis, unit = splines(progress, band.knots), splines(moments, band.knots)
    unit = unit - unit.mean(axis=0)
    courses = []
    for channel, covariance in enumerate(band.covariance):
        square = float(np.trace(unit @ covariance @ unit.T)) / _MOMENTS
        prior = covariance / square if square > 0 else np.zeros_like(covariance)
        values = projections.intensity[..., channel] - still[row, :, channel]
        noise = float(projections.variance[..., channel].mean())
        courses.append(_courses(patterns[:, :, channel].astype(float), values.astype(float), noise, basis, row, prior))
    return Trend(angles, patterns, band.knots, np.stack(courses))


def _courses(patterns: np.ndarray, values: np.ndarray, noise: float, basis: np.ndarray, row: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Courses (ring, knot) that make ``values`` (n, translation) of the ``patterns`` (row, translation, ring).

    Parameters
    ----------
    basis : (n, knot), what each knot contributes at the progress of each projection.
    row : (n,), the angle of each projection. Its values share an unknown constant, so that a part of their mean is no evidence.
    prior : (knot, knot), the covariance of a course.
    """
    count = np.bincount(row)
    square = float(np.mean(values**2))
    spread = max(_MISFIT * square + noise, 1e-300)
    constant = 1 - np.sqrt(spread / (spread + count * _STILL * square))
    mean = np.zeros((count.size, row.size))
    mean[row, np.arange(row.size)] = (constant / count)[row]
    values, basis = values - (mean @ values)[row], basis - (mean @ basis)[row]
    alike = np.stack([basis[row == i].T @ basis[row == i] for i in range(count.size)])
    rings, knots, n = patterns.shape[2], len(prior), patterns.shape[2] * len(prior)
    gram = np.einsum("akl,amn->kmln", patterns.swapaxes(1, 2) @ patterns, alike, optimize=True).reshape(n, n)
    seen = np.einsum("nsk,ns,nm->km", patterns[row], values, basis, optimize=True).ravel()
    both = np.kron(np.eye(rings), prior)
    return (both @ np.linalg.solve(spread * np.eye(n) + gram @ both, seen)).reshape(rings, knots)


def _rings(maps: np.ndarray, translation_mm: np.ndarray) -> np.ndarray:
    """Maps (y, x, channel) cut into overlapping rings about the axis, (y, x, channel, ring); their sum is the map within the scan."""
    grid = grid_mm(translation_mm)
    distance = np.hypot(grid, grid[:, None])[..., None] / np.abs(grid).max()
    rings = np.clip(1 - np.abs(distance * (_RINGS - 1) - np.arange(_RINGS)), 0, 1)
    return maps[..., None] * np.where(distance <= 1, rings, 0)[:, :, None]


def _project(maps: np.ndarray, rotation_deg: np.ndarray, translation_mm: np.ndarray, axis_mm: float) -> np.ndarray:
    """Projections (row, translation, …) of maps (y, x, …): each voxel is shared between the two cells next to its centre.

    Coarser than the projector of iterations, and good enough for what is smooth; that one would add to what a worker compiles at its start.
    """
    grid, order = grid_mm(translation_mm), np.argsort(translation_mm)
    n, pitch = grid.size, abs(grid[1] - grid[0])
    x, y = (a.ravel() for a in np.meshgrid(grid, grid))
    flat = maps.reshape(n * n, -1) * pitch
    sinograms = np.empty((rotation_deg.size, n, flat.shape[1]), np.float32)
    for i, angle in enumerate(np.deg2rad(rotation_deg)):
        at = (x * np.cos(angle) + y * np.sin(angle) + axis_mm - translation_mm[order[0]]) / pitch
        left, inside = np.clip(at.astype(int), 0, n - 2), (at >= 0) & (at <= n - 1)
        share = np.stack([1 - (at - left), at - left], axis=1) * inside[:, None]
        shared = sparse.csc_matrix((share.ravel(), (left[:, None] + [0, 1]).ravel(), np.arange(0, 2 * n * n + 1, 2)), shape=(n, n * n))
        sinograms[i, order] = shared @ flat
    return sinograms.reshape(rotation_deg.size, n, *maps.shape[2:])
