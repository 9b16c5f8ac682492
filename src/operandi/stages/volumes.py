"""Sinograms to volumes: filtered back projection of all channels at once, with exact errors.

A projection at the rotation θ, measured at the translation t, is the line integral over all points with
``x cos θ + y sin θ = t - axis``. The grid has the pitch and the number of the translations and is centred on the axis; x runs
along columns, y along rows. A voxel is in the sinogram's unit per mm. Voxels outside the circle that every
projection sees are computed like all others, from the projections that do see them: what lies beyond the detector counts as 0 (as in
the astra toolbox).

Filtering: Kak & Slaney, Principles of Computerized Tomographic Imaging (1988), chapter 3. Filters are applied as convolutions in real
space with the exact kernel of the band-limited filter, which equals a Fourier filter with unlimited zero-padding.
"""

from collections.abc import Sequence

import numpy as np

from operandi.errors import ShapeError
from operandi.kernels import backprojection as kernel

PERIOD_DEG = 180.0
_SAME_ANGLE_DEG = 1e-6
_NO_SLAB = np.empty((0, 1, 1), np.float32)


def _ramp(n: np.ndarray) -> np.ndarray:
    """Kernel of the ramp, band-limited at half a cycle per sample, at ``n`` samples (may be fractional)."""
    return 0.5 * np.sinc(n) - 0.25 * np.sinc(n / 2) ** 2


FILTERS = {
    "ramp": _ramp,
    "shepp-logan": lambda n: -2 / (np.pi**2 * (4 * n**2 - 1)),
    "cosine": lambda n: 0.5 * (_ramp(n + 0.5) + _ramp(n - 0.5)),
    "hann": lambda n: 0.5 * _ramp(n) + 0.25 * (_ramp(n + 1) + _ramp(n - 1)),
}
"""Kernels, as functions of the distance in samples, for a pitch of 1."""


def filter_taps(name: str, n_samples: int, pitch_mm: float) -> np.ndarray:
    """The filter's kernel at -n … n - 1 samples, in 1/mm, so that its sum with a projection needs no further factor.

    Raises
    ------
    ShapeError
        If there is no filter of this name.
    """
    if name not in FILTERS:
        raise ShapeError(f"there is no filter {name!r}; choose one of {', '.join(FILTERS)}")
    taps = FILTERS[name](np.arange(-n_samples, n_samples, dtype=float))
    if name == "ramp":
        taps[n_samples % 2 :: 2] = 0.0
        taps[n_samples] = 0.25
    return taps / pitch_mm


def filter_projections(sinogram: np.ndarray, pitch_mm: float, name: str = "ramp") -> np.ndarray:
    """Filter the projections of a finite sinogram (rotation, translation, q); returns float32 of the same shape, in its unit per mm."""
    values = np.ascontiguousarray(sinogram, np.float32)
    taps = filter_taps(name, values.shape[1], pitch_mm).astype(np.float32)
    slab = np.empty((values.shape[0], values.shape[1] + 2, kernel.CHANNELS), np.float32)
    filtered = np.empty_like(values)
    for first in range(0, values.shape[2], kernel.CHANNELS):
        kernel.filter_slab(values, first, taps, slab)
        filtered[:, :, first : first + kernel.CHANNELS] = slab[:, 1:-1, : values.shape[2] - first]
    return filtered


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


def usable_projections(sinogram: np.ndarray) -> np.ndarray:
    """(rotation,) bool: the projections of a sinogram (rotation, translation, q) of which at least half the cells are measured.

    A cell is measured where any of its channels is finite.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        doubtful = ~np.isfinite(sinogram.sum(axis=2))
    measured = ~doubtful
    measured[doubtful] = np.isfinite(sinogram[doubtful]).any(axis=1)
    return (2 * measured.sum(axis=1) >= sinogram.shape[1]) & measured.any(axis=1)


def fill_gaps(projections: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Interpolate cells that are not finite linearly along the translation; beyond the first and last measured ones, hold those.

    Parameters
    ----------
    projections : (rotation, translation, q) float32.

    Returns
    -------
    The filled projections (the same array where nothing is to be filled), and (q,) bool: the channels for which some projection
    has no finite cell. These are 0 throughout, and nothing can be said about them.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        if np.isfinite(projections.sum(axis=2)).all():
            return projections, np.zeros(projections.shape[2], bool)
    projections = projections.copy()
    lost = np.zeros(projections.shape[2], bool)
    for projection in projections:
        lost |= ~np.isfinite(projection).any(axis=0)
    projections[:, :, lost] = 0.0
    for projection in projections:
        if not (finite := np.isfinite(projection)).all():
            _fill_projection(projection, finite)
    return projections, lost


def _fill_projection(projection: np.ndarray, finite: np.ndarray) -> None:
    n = projection.shape[0]
    channels = np.flatnonzero(~finite.all(axis=0))
    values, finite, at = projection[:, channels], finite[:, channels], np.arange(n)[:, None]
    before = np.maximum.accumulate(np.where(finite, at, -1), axis=0)
    after = np.minimum.accumulate(np.where(finite, at, n)[::-1], axis=0)[::-1]
    before, after = np.where(before < 0, after, before), np.where(after == n, before, after)
    fraction = (at - before) / np.maximum(after - before, 1)
    low, high = np.take_along_axis(values, before, axis=0), np.take_along_axis(values, after, axis=0)
    projection[:, channels] = low + fraction * (high - low)


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
    return _project_back(sinogram, rotation_deg, translation_mm, axis_mm, filter, weights, variance=False)


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
    return _project_back(variance, rotation_deg, translation_mm, axis_mm, filter, weights, variance=True)


def _project_back(sinogram, rotation_deg, translation_mm, axis_mm, filter, weights, *, variance: bool) -> np.ndarray:  # noqa: A002
    values = np.asarray(sinogram, np.float32)
    rotation, translation = np.asarray(rotation_deg, float), np.asarray(translation_mm, float)
    _check(values, rotation, translation, axis_mm, weights)
    pitch = _pitch(translation)
    usable = np.flatnonzero(usable_projections(values) & np.isfinite(rotation))
    usable = usable[np.argsort(rotation[usable], kind="stable")]
    n = translation.size
    if usable.size == 0:
        return np.full((n, n, values.shape[2]), np.nan, np.float32)
    if translation[0] > translation[-1]:
        values, translation = values[:, ::-1], translation[::-1]
    if not np.array_equal(usable, np.arange(values.shape[0])):
        values = values[usable]
    filled, lost = fill_gaps(np.ascontiguousarray(values))
    angular = angular_weights(rotation[usable]) if weights is None else np.asarray(weights, float)[usable]
    taps, cross = filter_taps(filter, n, pitch), None
    if variance:
        taps, cross = taps**2, taps * np.append(taps[1:], 0.0)
    volume = _backproject(filled, taps, cross, rotation[usable], angular, (axis_mm - translation[0]) / pitch)
    volume[:, :, lost] = np.nan
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


def _backproject(projections, taps, cross, rotation_deg, weights, centre) -> np.ndarray:
    """Filter with ``taps`` and backproject, slab by slab of channels; with ``cross``, as the kernel's variance."""
    n_projections, n_samples, n_channels = projections.shape
    padded = -(-n_projections // kernel.GROUP) * kernel.GROUP
    cosines, sines, angular = np.zeros((3, padded))
    cosines[:n_projections], sines[:n_projections] = np.cos(np.deg2rad(rotation_deg)), np.sin(np.deg2rad(rotation_deg))
    angular[:n_projections] = weights
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
    for row in range(total.shape[0]):  # row by row: no temporary array of the volume's size
        np.multiply(chosen[0][0][row], chosen[0][1], out=total[row])
        for partial, share in chosen[1:]:
            total[row] += partial[row] * share
    return total
