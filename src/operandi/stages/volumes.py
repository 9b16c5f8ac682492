"""Sinograms to volumes: filtered back projection of all channels at once, with exact errors.

A projection at the rotation θ, measured at the translation t, is the line integral over all points with
``x cos θ + y sin θ = t - axis``. The grid has the pitch and the number of the translations and is centred on the axis; x runs
along columns, y along rows. A voxel is in the sinogram's unit per mm. Voxels outside the circle that every
projection sees are computed like all others, from the projections that do see them: what lies beyond the detector counts as 0 (as in
the astra toolbox).

Source of the method: Kak & Slaney, Principles of Computerized Tomographic Imaging (1988), chapter 3.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from operandi.errors import ShapeError
from operandi.kernels import backprojection as kernel
from operandi.stages.filters import filter_taps
from operandi.stages.sinograms import fill_gaps, usable_projections

PERIOD_DEG = 180.0
_SAME_ANGLE_DEG = 1e-6
_NO_SLAB = np.empty((0, 1, 1), np.float32)


def angular_weights(rotation_deg: np.ndarray, period_deg: float = PERIOD_DEG) -> np.ndarray:
    """The angle in radians for which each projection stands; the weights sum to π.

    A projection stands for half the gap to its neighbours on either side, where angles are taken modulo 180° (opposite
    projections mirror each other) and the last neighbours the first. Projections at the same angle share theirs equally.

    Parameters
    ----------
    rotation_deg : (rotation,), finite, in any order.
    """
    angle = np.mod(np.asarray(rotation_deg, float) + _SAME_ANGLE_DEG, period_deg) - _SAME_ANGLE_DEG
    if angle.size == 0:
        return np.zeros(0)
    order = np.argsort(angle, kind="stable")
    starts = np.diff(angle[order], prepend=-np.inf) > _SAME_ANGLE_DEG
    group = np.cumsum(starts) - 1
    distinct = angle[order][starts]
    gap = np.diff(np.append(distinct, distinct[0] + period_deg))
    weights = np.empty(angle.size)
    weights[order] = (0.5 * (gap + np.roll(gap, 1)) / np.bincount(group))[group]
    return weights * (np.pi / period_deg)


def grid_mm(translation_mm: np.ndarray) -> np.ndarray:
    """Coordinates of the volume along x and y, in mm from the rotation axis."""
    n = translation_mm.size
    return (np.arange(n) - (n - 1) / 2) * _pitch(translation_mm)


def _pitch(translation_mm: np.ndarray) -> float:
    translation = np.asarray(translation_mm, float)
    if translation.ndim != 1 or translation.size < 2:
        raise ShapeError(f"a volume needs at least 2 translations, got an array of shape {translation.shape}")
    pitch = (translation[-1] - translation[0]) / (translation.size - 1)
    if not (np.isfinite(pitch) and pitch != 0 and np.allclose(np.diff(translation), pitch, rtol=1e-3, atol=0)):
        raise ShapeError("translations must be finite and equally spaced: bring the sinogram onto its planned positions (assemble)")
    return abs(pitch)


def partial_volume(
    sinogram: np.ndarray,
    rotation_deg: np.ndarray,
    translation_mm: np.ndarray,
    axis_mm: float,
    filter: str = "ramp",  # noqa: A002
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """Filtered back projection of one set (or of any projections), normalised by its own angular weights.

    A set alone is thus a valid, if undersampled, tomogram; `combine` makes the mean of several. Projections are taken in the order of their
    angles, whatever the order in which they are given. Projections that are not usable (`usable_projections`) or have no finite angle
    are left out, and the weights follow from the gaps; single missing cells are filled (`fill_gaps`).

    Parameters
    ----------
    sinogram : (rotation, translation, q); NaN is not measured.
    rotation_deg, translation_mm : (rotation,), (translation,); translations equally spaced, in either direction.
    axis_mm : the rotation axis on the translation axis.
    filter : one of `FILTERS`.
    weights : (rotation,) radians, in place of `angular_weights`.

    Returns
    -------
    (y, x, q) float32, in the sinogram's unit per mm. NaN everywhere if no projection is usable, and for channels
    that some used projection lacks altogether.

    Raises
    ------
    ShapeError
        If the arrays do not fit each other, translations are not equally spaced, or the filter is unknown.
    """
    return project_back(prepare(sinogram, rotation_deg, translation_mm, axis_mm, weights), filter, variance=False)


def partial_variance(
    variance: np.ndarray,
    rotation_deg: np.ndarray,
    translation_mm: np.ndarray,
    axis_mm: float,
    filter: str = "ramp",  # noqa: A002
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """The variance (y, x, q) of `partial_volume` from the variance (rotation, translation, q) of its sinogram.

    Exact for independent cells: filter and interpolation enter with the square of the coefficient of each cell, correlations
    between neighbouring filtered samples included. The variance of a filled cell is interpolated like its value.
    """
    return project_back(prepare(variance, rotation_deg, translation_mm, axis_mm, weights), filter, variance=True)


class Prepared(NamedTuple):
    """What there is to reconstruct, in increasing order of angle and translation."""

    projections: np.ndarray
    rotation_deg: np.ndarray
    weights: np.ndarray
    centre: float
    pitch_mm: float
    lost: np.ndarray


def prepare(
    sinogram: np.ndarray, rotation_deg: np.ndarray, translation_mm: np.ndarray, axis_mm: float, weights: np.ndarray | None
) -> Prepared:
    """Bring what `partial_volume` takes in order: leave out what is not usable, fill gaps, weigh the angles.

    Raises
    ------
    ShapeError
        If the arrays do not fit each other or translations are not equally spaced.
    """
    values = np.asarray(sinogram, np.float32)
    rotation, translation = np.asarray(rotation_deg, float), np.asarray(translation_mm, float)
    _check(values, rotation, translation, axis_mm, weights)
    pitch = _pitch(translation)
    usable = np.flatnonzero(usable_projections(values) & np.isfinite(rotation))
    usable = usable[np.argsort(rotation[usable], kind="stable")]
    if translation[0] > translation[-1]:
        values, translation = values[:, ::-1], translation[::-1]
    if not np.array_equal(usable, np.arange(values.shape[0])):
        values = values[usable]
    filled, lost = fill_gaps(np.ascontiguousarray(values))
    angular = angular_weights(rotation[usable]) if weights is None else np.asarray(weights, float)[usable]
    return Prepared(filled, rotation[usable], angular, (axis_mm - translation[0]) / pitch, pitch, lost)


def warm_up() -> None:
    """Compile what `partial_volume` and `partial_variance` run, or load it from the cache: seconds, once."""
    partial_variance(np.ones((4, 8, 1), np.float32), np.arange(4) * 45.0, np.arange(8.0), 3.5)


def project_back(prepared: Prepared, filter_name: str, *, variance: bool) -> np.ndarray:
    """The volume (y, x, q) of what `prepare` gave, or its variance if that were variances."""
    n = prepared.projections.shape[1]
    taps, cross = filter_taps(filter_name, n, prepared.pitch_mm), None
    if variance:
        taps, cross = taps**2, taps * np.append(taps[1:], 0.0)
    return mask_lost(_backproject(prepared, taps, cross), prepared)


def mask_lost(volume: np.ndarray, prepared: Prepared) -> np.ndarray:
    """A volume, in place: NaN where nothing can be said."""
    if len(prepared.projections) == 0:
        volume[:] = np.nan
    volume[:, :, prepared.lost] = np.nan
    return volume


def _check(values: np.ndarray, rotation: np.ndarray, translation: np.ndarray, axis_mm: float, weights) -> None:
    if values.ndim != 3 or values.shape[2] == 0 or values.shape[:2] != (rotation.size, translation.size):
        raise ShapeError(
            f"sinogram of shape {values.shape} does not fit {rotation.size} rotations and {translation.size} translations: "
            "give (rotation, translation, q) with at least one q"
        )
    if weights is not None and (np.shape(weights) != rotation.shape or not np.isfinite(weights).all()):
        raise ShapeError(f"weights must be one finite number for each of the {rotation.size} rotations, got shape {np.shape(weights)}")
    if not np.isfinite(axis_mm):
        raise ShapeError(f"the rotation axis is at {axis_mm} mm: give a finite position on the translation axis")


def _backproject(prepared: Prepared, taps: np.ndarray, cross: np.ndarray | None) -> np.ndarray:
    """Filter with ``taps`` and backproject, slab by slab of channels; with ``cross``, as the kernel's variance."""
    projections, centre = prepared.projections, prepared.centre
    n_projections, (n_samples, n_channels) = len(projections), projections.shape[1:]
    padded = -(-n_projections // kernel.GROUP) * kernel.GROUP
    cosines, sines, angular = np.zeros(padded), np.zeros(padded), np.zeros(padded)
    cosines[:n_projections], sines[:n_projections] = np.cos(np.deg2rad(prepared.rotation_deg)), np.sin(np.deg2rad(prepared.rotation_deg))
    angular[:n_projections] = prepared.weights
    slab = np.empty((padded, n_samples + 2, kernel.CHANNELS), np.float32)
    slab_cross = _NO_SLAB if cross is None else np.empty_like(slab)
    volume = np.empty((n_samples, n_samples, n_channels), np.float32)
    for first in range(0, n_channels, kernel.CHANNELS):
        kernel.filter_slab(projections, first, taps.astype(np.float32), slab)
        if cross is not None:
            kernel.filter_slab(projections, first, cross.astype(np.float32), slab_cross)
            slab_cross[:, n_samples] = 0.0  # the last sample has no neighbour to be correlated with
        kernel.backproject_slab(slab, slab_cross, first, cosines, sines, angular, centre, volume)
    return volume


def combine(partials: Sequence[np.ndarray], counts: Sequence[int]) -> np.ndarray:
    """The volume of a window: the mean of its sets' partial volumes, weighted by their numbers of measured projections.

    Computed in the order given; sets of count 0 are left out. NaN everywhere if every count is 0.

    Raises
    ------
    ShapeError
        If there is no set, or numbers or shapes differ.
    """
    return _weighted_sum(partials, _shares(partials, counts))


def combine_variances(partials: Sequence[np.ndarray], counts: Sequence[int]) -> np.ndarray:
    """The variance of `combine` from the variances of its partial volumes, which are independent."""
    return _weighted_sum(partials, _shares(partials, counts) ** 2)


def _shares(partials: Sequence[np.ndarray], counts: Sequence[int]) -> np.ndarray:
    if len(partials) == 0 or len(partials) != len(counts) or any(p.shape != partials[0].shape for p in partials):
        raise ShapeError(f"cannot combine partial volumes of shapes {[p.shape for p in partials]} with counts {list(counts)}")
    weights = np.asarray(counts, float)
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise ShapeError(f"counts of projections must be 0 or more, got {list(counts)}")
    total = weights.sum()
    return weights / total if total else weights


def _weighted_sum(partials: Sequence[np.ndarray], shares: np.ndarray) -> np.ndarray:
    chosen = [(p, np.float32(share)) for p, share in zip(partials, shares, strict=True) if share]
    if not chosen:
        return np.full(partials[0].shape, np.nan, np.float32)
    total = np.empty(partials[0].shape, np.float32)
    for row in range(len(total)):  # row by row: no temporary array of the volume's size
        np.multiply(chosen[0][0][row], chosen[0][1], out=total[row])
        for partial, share in chosen[1:]:
            total[row] += partial[row] * share
    return total
