"""The moment of every voxel of a frame: when the projections were taken that carry its contrast.

A tomogram of a reacting cell has no single time. A projection at the rotation θ looks along the direction (-sin θ, cos θ), so a
winding whose normal points to the azimuth φ is seen edge-on at θ = φ (modulo 180°), and there its contrast arises. For a ridge with
Gaussian widths a·L across and L along its course, the ramp-filtered projection is on its crest inversely proportional to the square of
its projected width, which makes the share of the angle δ = θ - φ

    K(δ) = (a / π) / (a² cos² δ + sin² δ),

a wrapped Cauchy density: all angles alike for a round feature (a = 1), the tangential one alone for an endless ridge (a → 0). A
voxel's moment is the mean of the projections' times under angular weight times K, and its spread their standard deviation.

Where the change of the cell over the frame is measured, it says more than geometry. To first order in it, the frame shows in a voxel
what the cell was at the time FBP[t · change] / FBP[change], whatever the shape of what changes there.
"""

from typing import NamedTuple

import numpy as np

from operandi.errors import ShapeError
from operandi.stages.volumes import angular_weights, grid_mm, partial_variance, partial_volume

ASPECT = 0.3
"""Width over length of the part of a winding that is seen at once, neighbours and unevenness included. The curvature of a winding of
width w and radius R alone, straight over √(8 R w), makes √(w / 8 R), about 0.1."""
CORE_PITCHES = 3.0


class Moments(NamedTuple):
    """Maps (y, x) of one quantity of the projections, in its unit; NaN where no projection counts."""

    mean: np.ndarray
    spread: np.ndarray


def tangential_windings(translation_mm: np.ndarray, centre_mm: tuple[float, float] = (0.0, 0.0), radius_mm: float = np.inf) -> np.ndarray:
    """The azimuth (y, x) in degrees of the normals of windings about a centre (x, y).

    NaN in the core, where there is no direction, and beyond ``radius_mm``.
    """
    grid = grid_mm(translation_mm)
    x, y = np.meshgrid(grid - centre_mm[0], grid - centre_mm[1])
    distance = np.hypot(x, y)
    core = CORE_PITCHES * abs(grid[1] - grid[0])
    return np.where((distance > core) & (distance <= radius_mm), np.rad2deg(np.arctan2(y, x)), np.nan)


def windings_of(image: np.ndarray, blur: float = 1.5, least_coherence: float = 0.3) -> np.ndarray:
    """The azimuth (y, x) in degrees of the normals of the windings that a map (y, x) shows; NaN where no direction stands out.

    From the structure tensor: its first eigenvector, smoothed over ``blur`` voxels, where its coherence (the difference of its
    eigenvalues over their sum) is at least ``least_coherence``. Source of the method: Bigün & Granlund, Proc. ICCV 1987, 433.
    """
    from scipy import ndimage

    values = np.nan_to_num(np.asarray(image, float))
    along_y, along_x = (
        ndimage.gaussian_filter1d(ndimage.gaussian_filter1d(values, 1.0, axis=1 - axis), 1.0, axis=axis, order=1) for axis in (0, 1)
    )
    xx, yy, xy = (ndimage.gaussian_filter(product, blur) for product in (along_x**2, along_y**2, along_x * along_y))
    strength = np.hypot(xx - yy, 2 * xy)
    total = xx + yy
    clear = (strength >= least_coherence * total) & (total > 1e-3 * total.max())
    return np.where(clear, 0.5 * np.rad2deg(np.arctan2(2 * xy, xx - yy)), np.nan)


def voxel_times(
    times: np.ndarray,
    rotation_deg: np.ndarray,
    translation_mm: np.ndarray,
    axis_mm: float,
    winding_deg: np.ndarray | None = None,
    aspect: float = ASPECT,
) -> Moments:
    """The moment of every voxel of a frame, and its spread.

    Parameters
    ----------
    times : (rotation, translation), or (rotation,) where a projection is taken at once: seconds; a charge or a voltage works alike. NaN is
        not measured.
    rotation_deg, translation_mm : (rotation,), (translation,) of the frame's projections.
    axis_mm : the rotation axis on the translation axis.
    winding_deg : (y, x), azimuth of the normals of the windings, NaN where there is none: there all projections count by their
        angular weight. None takes `tangential_windings`.
    aspect : a in (0, 1] above.

    Raises
    ------
    ShapeError
        The arrays do not fit each other, or the aspect is not in (0, 1].
    """
    times, rotation, translation = np.asarray(times, float), np.asarray(rotation_deg, float), np.asarray(translation_mm, float)
    n = translation.size
    if times.shape not in ((rotation.size,), (rotation.size, n)):
        raise ShapeError(
            f"times of shape {times.shape} do not fit {rotation.size} rotations and {n} translations: give (rotation, translation)"
        )
    if not 0 < aspect <= 1:
        raise ShapeError(f"the aspect of a winding is {aspect}: give a number above 0 and up to 1")
    winding = tangential_windings(translation) if winding_deg is None else np.asarray(winding_deg, float)
    if winding.shape != (n, n):
        raise ShapeError(f"directions of shape {winding.shape} do not fit a grid of {n} by {n} voxels: give one for each")
    normal, directed = np.deg2rad(np.nan_to_num(winding)), np.isfinite(winding)
    grid = grid_mm(translation)
    order = np.argsort(translation)
    times = np.broadcast_to(times.reshape(rotation.size, -1), (rotation.size, n))[:, order]
    sums = np.zeros((3, n, n))
    middle = float(np.nanmean(times)) if np.isfinite(times).any() else 0.0
    for angle, weight, row in zip(np.deg2rad(rotation), angular_weights(rotation), times, strict=True):
        delta = angle - normal
        share = aspect / (aspect**2 * np.cos(delta) ** 2 + np.sin(delta) ** 2)
        at = axis_mm + grid * np.cos(angle) + grid[:, None] * np.sin(angle)
        seen = np.interp(at, translation[order], row - middle)
        counted = weight * np.where(directed, share, 1.0) * np.isfinite(seen)
        seen = np.nan_to_num(seen)
        sums += np.stack([counted, counted * seen, counted * seen**2])
    with np.errstate(invalid="ignore", divide="ignore"):
        mean, square = sums[1] / sums[0], sums[2] / sums[0]
    return Moments(mean + middle, np.sqrt(np.maximum(square - mean**2, 0.0)))


def refine_times(
    moments: Moments,
    times: np.ndarray,
    change: np.ndarray,
    change_variance: np.ndarray,
    rotation_deg: np.ndarray,
    translation_mm: np.ndarray,
    axis_mm: float,
) -> np.ndarray:
    """The moment (y, x) of every voxel from the measured change of its projections, and from ``moments`` where too little changes.

    The ratio of the two back projections, over all channels by least squares, is drawn to ``moments`` by a ridge that is the variance of
    the change in the voxel: a voxel without measurable change keeps its geometric moment.

    Parameters
    ----------
    moments : what `voxel_times` gave.
    times : as there.
    change, change_variance : (rotation, translation, channel), the difference of the projections at the end and the start of the frame (two
        `instant_sinogram`) and its variance; NaN is not known.
    rotation_deg, translation_mm, axis_mm : of the projections.

    Raises
    ------
    ShapeError
        The arrays do not fit each other.
    """
    change, times = np.asarray(change, float), np.asarray(times, float)
    if change.ndim != 3 or times.shape not in (change.shape[:1], change.shape[:2]) or np.shape(change_variance) != change.shape:
        raise ShapeError(
            f"times {times.shape}, change {change.shape} and its variance {np.shape(change_variance)} do not fit: give "
            "(rotation, translation) and twice (rotation, translation, channel)"
        )
    middle = float(np.nanmean(times)) if np.isfinite(times).any() else 0.0
    elapsed = times.reshape(len(change), -1, 1) - middle
    at = (rotation_deg, translation_mm, axis_mm)
    total, timed = partial_volume(change, *at).astype(float), partial_volume(change * elapsed, *at).astype(float)
    ridge = partial_variance(np.asarray(change_variance), *at).astype(float)
    geometric = moments.mean - middle
    excess = (total * (timed - geometric[..., None] * total)).sum(axis=-1)
    strength = (total**2 + ridge).sum(axis=-1)
    return moments.mean + np.divide(excess, strength, out=np.zeros_like(excess), where=strength > 0)
