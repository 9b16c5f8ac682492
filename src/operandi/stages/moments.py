"""The moment of every voxel of a frame: when the projections were taken that carry its contrast.

A tomogram of a reacting cell has no single time. A projection at the rotation θ looks along the direction (-sin θ, cos θ), so a
winding whose normal points to the azimuth φ is seen edge-on at θ = φ (modulo 180°), and there its contrast arises. For a ridge with
Gaussian widths a·L across and L along its course, the ramp-filtered projection is on its crest inversely proportional to the square of
its projected width, which makes the share of the angle δ = θ - φ

    K(δ) = (a / π) / (a² cos² δ + sin² δ),

a wrapped Cauchy density: all angles alike for a round feature (a = 1), the tangential one alone for an endless ridge (a → 0). A
voxel's moment is the mean of the projections' times under angular weight times K, and its spread their standard deviation.

Where the change of the cell over the frame is measured, it says more than geometry. From the projections of the same angles at several
moments (`instant_sinograms`) follow the course of each voxel, and what the frame shows of it: the back projection of each projection at
its own time. The moment is that at which the course comes nearest to what the frame shows, in all channels together.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.interpolate import CubicSpline

from operandi.errors import ShapeError
from operandi.stages.volumes import angular_weights, grid_mm, partial_variance, partial_volume

ASPECT = 0.3
"""Width over length of the part of a winding that is seen at once, neighbours and unevenness included. The curvature of a winding of
width w and radius R alone, straight over √(8 R w), makes √(w / 8 R), about 0.1."""
CORE_PITCHES = 3.0
SINGLE = 0.3
"""Up to this bend a voxel has one moment."""
_STEPS = 151
_SHARED = 0.3
"""The course and what the frame shows of it are made of the same projections, so that their difference has so much less variance."""


class Moments(NamedTuple):
    """Maps (y, x) of one quantity of the projections, in its unit; NaN where no projection counts.

    ``bend``: how far the voxel's course, in its middle, is off the straight line, as a share of its change. Above `SINGLE` what changes
    there comes, goes or turns within the frame, and there is no single moment. NaN where that is not known.
    """

    mean: np.ndarray
    spread: np.ndarray
    bend: np.ndarray


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
    return Moments(mean + middle, np.sqrt(np.maximum(square - mean**2, 0.0)), np.full((n, n), np.nan))


def course_times(
    geometric: Moments,
    times: np.ndarray,
    course: np.ndarray,
    course_times: Sequence[float],
    variance: np.ndarray,
    at: tuple[np.ndarray, np.ndarray, float, str],
) -> Moments:
    """The moment of every voxel by the course that its projections take over the frame.

    What the frame shows is compared with the course in each channel in units of its noise; the moment is the mean of the times by their
    likelihood and by the geometric moment and its spread. A voxel without measurable change keeps its geometric moment.

    Parameters
    ----------
    geometric : what `voxel_times` gave, of times.
    times : as there.
    course : (moment, rotation, translation, channel), the frame's projections if all were taken at each of the ``course_times`` (moment,),
        three or more from the first to the last of the frame; NaN is not known.
    variance : (rotation, translation, channel) of one of them.
    at : rotation (rotation,) in degrees, translation (translation,) in mm, the axis on the translations, and the filter.

    Raises
    ------
    ShapeError
        The arrays do not fit each other, or there are fewer than three times.
    """
    course, times, when = np.asarray(course, float), np.asarray(times, float), np.asarray(course_times, float)
    fits = course.ndim == 4 and course.shape[0] == when.size and times.shape in (course.shape[1:2], course.shape[1:3])
    if not fits or np.shape(variance) != course.shape[1:] or when.size < 3:
        raise ShapeError(
            f"times {times.shape}, course {course.shape} at {when.size} moments and its variance {np.shape(variance)} do not fit: give "
            "(rotation, translation), (moment, rotation, translation, channel), three moments or more, and (rotation, translation, channel)"
        )
    between = CubicSpline(when, np.eye(when.size))
    shares = between(np.broadcast_to(times.reshape(len(times), -1), course.shape[1:3]))
    shown = partial_volume(np.einsum("rtm,mrtc->rtc", shares, course), *at)
    noise = _SHARED * np.median(partial_variance(np.asarray(variance), *at), axis=(0, 1))
    # beyond the ends nothing changes, which leaves the geometric moment whole where nothing is measured
    steps = when[0] + np.linspace(-0.75, 1.75, _STEPS) * np.ptp(when)
    inside = np.clip(steps, when[0], when[-1])
    misfit = ((steps[:, None, None] - geometric.mean) / np.maximum(geometric.spread, np.ptp(when) / _STEPS)) ** 2
    net, bent = np.zeros((2, *geometric.mean.shape))
    for channel in np.flatnonzero(noise > 0):
        values = np.moveaxis(partial_volume(np.moveaxis(course[..., channel], 0, -1), *at), -1, 0)
        misfit += (np.tensordot(between(inside), values, 1) - shown[..., channel]) ** 2 / noise[channel]
        net += (values[-1] - values[0]) ** 2 / noise[channel]
        bent += (np.tensordot(between(0.5 * (when[0] + when[-1])), values, 1) - 0.5 * (values[0] + values[-1])) ** 2 / noise[channel]
    likely = np.exp(-0.5 * (misfit - misfit.min(axis=0)))
    mean = np.clip(np.tensordot(steps, likely, 1) / likely.sum(axis=0), when[0], when[-1])
    known = np.isfinite(mean)
    bend = np.sqrt(np.divide(bent, net, out=np.full(net.shape, np.nan), where=known & (net > 0)))
    return Moments(np.where(known, mean, geometric.mean), geometric.spread, bend)
