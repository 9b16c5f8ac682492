"""A bright ring in a map, and the ellipse through it. All in pixels."""

from dataclasses import dataclass

import numpy as np

from operandi.stages.layers import polar, smooth

_RAYS = 360
_LEAST_RAYS = 0.5
_SCATTER = 0.02
_CASING = 1.5


@dataclass(frozen=True, slots=True)
class Ring:
    """Centre and mean radius of an ellipse through a bright ring; ``uncertainty`` of the centre, one standard deviation."""

    x: float
    y: float
    radius: float
    uncertainty: float


def find_ring(values: np.ndarray, valid: np.ndarray, start: np.ndarray | None = None) -> Ring | None:
    """The brightest ring of a map (y, x), or None where no ring stands out.

    From a point within, the brightest place along every ray; an ellipse r(φ) about the centre through them with Tukey's weights, so that
    gaps, coarse grains and tabs are left out; again from the centre found. A ring stands out if it is the brightest on half of the
    rays, within 2 % of its radius.
    """
    bright = smooth(np.where(valid, values, np.min(values[valid])), 0.7)
    if start is None:
        excess = np.clip(bright - np.percentile(bright, 75), 0, None)
        y, x = np.indices(values.shape)
        start = np.array([np.average(x, weights=excess), np.average(y, weights=excess)]) if excess.any() else None
    if start is None or not (0 < start[0] < values.shape[1] - 1 and 0 < start[1] < values.shape[0] - 1):
        return None
    centre, ring = np.asarray(start, float), None
    for _ in range(8):
        fit = _ellipse(*_brightest(bright, centre))
        if fit is None:
            return None
        shift, mean_radius, uncertainty = fit
        centre = centre + shift
        ring = Ring(float(centre[0]), float(centre[1]), mean_radius, uncertainty)
    return ring


def within_casing(values: np.ndarray, valid: np.ndarray, start: np.ndarray) -> np.ndarray:
    """True within a ring that is far brighter than what it encloses; True everywhere if there is no such ring."""
    everywhere = np.ones(values.shape, bool)
    ring = find_ring(values, valid, start)
    if ring is None:
        return everywhere
    y, x = np.indices(values.shape)
    radius = np.hypot(x - ring.x, y - ring.y)
    bright = smooth(np.where(valid, values, np.min(values[valid])), 0.7)
    _, at, height = _brightest(bright, np.array([ring.x, ring.y]))
    floor, top = np.percentile(values[valid & (radius < 0.9 * ring.radius)], [5, 95])
    usual = float(np.median(height)) + float(bright.min())
    if usual - floor < _CASING * (top - floor):
        return everywhere
    profile = polar(bright, np.array([ring.x, ring.y]), np.arange(0, ring.radius, 0.25), np.arange(_RAYS) * (2 * np.pi / _RAYS))
    dark = np.median(profile, axis=1) < (top + usual) / 2
    inner = 0.25 * (len(dark) - 1 - np.argmax(dark[::-1])) - ring.radius - 2
    angle = np.mod(np.arctan2(y - ring.y, x - ring.x), 2 * np.pi) * _RAYS / (2 * np.pi)
    usable = np.abs(at - ring.radius) < 2 * _SCATTER * ring.radius
    outline = np.interp(angle, np.nonzero(usable)[0], at[usable], period=_RAYS)
    return radius < outline + inner


def _brightest(bright: np.ndarray, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Angles, radius of the brightest place to a fraction of a pixel, and how bright, for each ray."""
    angle = np.arange(_RAYS) * (2 * np.pi / _RAYS)
    step = 0.25
    radius = np.arange(0, np.hypot(*bright.shape) / 2, step)
    profile = polar(bright - bright.min(), centre, radius, angle)
    top = np.argmax(profile, axis=0)
    height = np.take_along_axis(profile, top[None], axis=0)[0]
    near = np.abs(np.arange(radius.size)[:, None] - top) <= 3 / step
    weight = np.where(near, np.clip(profile - 0.5 * height, 0, None), 0)
    return angle, np.sum(weight * radius[:, None], axis=0) / np.maximum(weight.sum(axis=0), 1e-12), height


def _ellipse(angle: np.ndarray, radius: np.ndarray, strength: np.ndarray) -> tuple[np.ndarray, float, float] | None:
    """Shift of the centre, mean radius and the centre's uncertainty; None where too few rays agree."""
    rays = strength > 0.2 * np.median(strength)
    basis = np.stack([np.ones_like(angle), *(f(k * angle) for k in (1, 2) for f in (np.cos, np.sin))], axis=1)
    weights = rays.astype(float)
    terms = np.array([np.median(radius[rays]), 0, 0, 0, 0]) if rays.any() else np.zeros(5)
    for scale in (0.2, 0.1, 0.05, *[_SCATTER] * 6):
        left = radius - basis @ terms
        weights = np.where(rays & (np.abs(left) < scale * 2 * terms[0]), (1 - (left / (scale * 2 * max(terms[0], 1e-9))) ** 2) ** 2, 0)
        if np.count_nonzero(weights) < _LEAST_RAYS * angle.size:
            return None
        terms = np.linalg.lstsq(basis * np.sqrt(weights)[:, None], radius * np.sqrt(weights), rcond=None)[0]
    left = radius - basis @ terms
    good = np.abs(left) < _SCATTER * terms[0]
    if good.sum() < _LEAST_RAYS * angle.size or terms[0] < 3 or not _all_around(angle[good]):
        return None
    scatter = np.sqrt(np.average(left**2, weights=weights))
    inverse = np.linalg.inv(basis.T @ (weights[:, None] * basis))
    # Neighbouring rays share pixels: about one in three is independent.
    uncertainty = scatter * np.sqrt(3 * max(inverse[1, 1], inverse[2, 2]))
    return terms[1:3], float(terms[0]), float(uncertainty)


def _all_around(angle: np.ndarray) -> bool:
    gaps = np.diff(np.concatenate([angle, angle[:1] + 2 * np.pi]))
    return bool(gaps.max() < np.pi * 2 / 3)
