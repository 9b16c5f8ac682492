"""Sinograms to volumes: filtered back projection of all channels at once, with exact errors.

A projection at the rotation θ, measured at the translation t, is the line integral over all points with
``x cos θ + y sin θ = t - axis``. The grid has the pitch and the number of the translations and is centred on the axis; x runs
along columns, y along rows. A voxel is in the sinogram's unit per mm. Voxels outside the circle that every
projection sees are computed like all others, from the projections that do see them: what lies beyond the detector counts as 0 (as in
the astra toolbox).

A voxel takes from each projection what two samples see of it: the sample beyond the nearest one gets the share of the voxel's area that
lies in its strip, the nearest one the rest (in the strip model of the astra toolbox a third sample gets up to 4 %).

Source of the method: Kak & Slaney, Principles of Computerized Tomographic Imaging (1988), chapter 3.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from operandi.errors import ShapeError
from operandi.kernels import backprojection as kernel
from operandi.stages.filters import filter_taps, tap_lists, that_counts
from operandi.stages.sinograms import fill_gaps, usable_projections

PERIOD_DEG = 180.0
_SAME_ANGLE_DEG = 1e-6
_SLAB_BYTES = 8 << 20
"""A slab of filtered projections is to stay in the caches."""
_WIDEST = 4 * kernel.CHANNELS
"""Channels of the widest slab, of a few projections: beyond, the sums of a tile leave the nearer caches. Where gaps are to be filled, so
many channels are copied at a time."""


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


def write_partial_volume(
    sinogram: np.ndarray,
    rotation_deg: np.ndarray,
    translation_mm: np.ndarray,
    axis_mm: float,
    filter: str,  # noqa: A002
    volume: np.ndarray,
    first: int,
) -> None:
    """`partial_volume`, written into the channels from ``first`` on of a volume (y, x, q) float32 that may have more of them."""
    prepared = prepare(sinogram, rotation_deg, translation_mm, axis_mm, None)
    n_samples, n_channels = prepared.values.shape[1:]
    if volume.shape[:2] != (n_samples, n_samples) or not 0 <= first <= volume.shape[2] - n_channels:
        raise ShapeError(
            f"{n_channels} channels of {n_samples} samples do not fit a volume of shape {volume.shape} from channel {first} on"
        )
    _write(prepared, filter, volume, first, variance=False)


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


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where samples lie: their number, the sample (fractional) on which the rotation axis falls, and their pitch."""

    n_samples: int
    centre: float
    pitch_mm: float

    @classmethod
    def of(cls, translation_mm: np.ndarray, axis_mm: float) -> "Geometry":
        """For translations in increasing order.

        Raises
        ------
        ShapeError
            If they do not increase in equal steps, or the axis is not finite.
        """
        translation, pitch = np.asarray(translation_mm, float), _pitch(translation_mm)
        if translation[0] > translation[-1] or not np.isfinite(axis_mm):
            raise ShapeError(
                f"translations must increase and the axis be finite, got {translation[0]} … {translation[-1]} and {axis_mm} mm"
            )
        return cls(translation.size, (axis_mm - translation[0]) / pitch, pitch)


@dataclass(frozen=True, slots=True)
class Prepared:
    """What there is to reconstruct: values (any, translation, q) in increasing order of translation."""

    values: np.ndarray
    order: np.ndarray
    """(rotation,) which projections are used, in increasing order of angle."""
    complete: bool
    """Every used cell is finite."""
    rotation_deg: np.ndarray
    weights: np.ndarray
    centre: float
    pitch_mm: float

    @property
    def geometry(self) -> Geometry:
        """Of the values."""
        return Geometry(self.values.shape[1], self.centre, self.pitch_mm)

    def filled(self, channels: slice = slice(None)) -> tuple[np.ndarray, np.ndarray]:
        """The used projections in their order, without gaps, and (q,) bool: the channels of which nothing is known (`fill_gaps`)."""
        used = np.ascontiguousarray(self.values[self.order, :, channels])
        return (used, np.zeros(used.shape[2], bool)) if self.complete else fill_gaps(used)


def prepare(
    sinogram: np.ndarray, rotation_deg: np.ndarray, translation_mm: np.ndarray, axis_mm: float, weights: np.ndarray | None
) -> Prepared:
    """Bring what `partial_volume` takes in order: leave out what is not usable, weigh the angles. Copies no array that is in order.

    Raises
    ------
    ShapeError
        If the arrays do not fit each other or translations are not equally spaced.
    """
    values = real_array(sinogram, np.float32, "sinogram")
    rotation, translation = real_array(rotation_deg, float, "rotations"), real_array(translation_mm, float, "translations")
    _check(values, rotation, translation, axis_mm, weights)
    pitch = _pitch(translation)
    if translation[0] > translation[-1]:
        values, translation = values[:, ::-1], translation[::-1]
    values = np.ascontiguousarray(values)
    finite = count_finite(values)
    usable = np.flatnonzero(usable_projections(np.where(finite > 0, 0.0, np.nan)[:, :, None]) & np.isfinite(rotation))
    order = usable[np.argsort(rotation[usable], kind="stable")]
    angular = angular_weights(rotation[order]) if weights is None else np.asarray(weights, float)[order]
    complete = bool((finite[order] == values.shape[2]).all())
    return Prepared(values, order, complete, rotation[order], angular, (axis_mm - translation[0]) / pitch, pitch)


def real_array(data: Any, dtype: type, name: str) -> np.ndarray:
    """An array of real numbers.

    Raises
    ------
    ShapeError
        If the data are no numbers, or complex ones.
    """
    array = np.asarray(data)
    if array.dtype.kind not in "fiub":
        raise ShapeError(f"the {name} must be real numbers, got an array of dtype {array.dtype}: convert it, or take its real part")
    with np.errstate(over="ignore"):
        return array.astype(dtype, copy=False)


def count_finite(values: np.ndarray) -> np.ndarray:
    """(projection, translation) int: of how many channels (projection, translation, q) is finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        count = np.where(np.isfinite(values.sum(axis=2)), values.shape[2], 0)  # a sum is finite only if each of its terms is
    for p, i in np.argwhere(count == 0):
        count[p, i] = np.count_nonzero(np.isfinite(values[p, i]))
    return count


def warm_up() -> None:
    """Compile what `partial_volume` and `partial_variance` run, or load it from the cache: seconds, once."""
    partial_variance(np.ones((4, 8, 1), np.float32), np.arange(4) * 45.0, np.arange(8.0), 3.5)


def project_back(prepared: Prepared, filter_name: str, *, variance: bool) -> np.ndarray:
    """The volume (y, x, q) of what `prepare` gave, or its variance if that were variances."""
    n_samples, n_channels = prepared.values.shape[1:]
    volume = np.empty((n_samples, n_samples, n_channels), np.float32)
    _write(prepared, filter_name, volume, 0, variance=variance)
    return volume


def _write(prepared: Prepared, filter_name: str, volume: np.ndarray, first: int, *, variance: bool) -> None:
    n_channels = prepared.values.shape[2]
    chain = Chain.of(prepared.geometry, prepared.rotation_deg, prepared.weights, filter_name, variance=variance)
    chunk = n_channels if prepared.complete else _WIDEST
    for channel in range(0, n_channels, chunk):
        chain.write(prepared, slice(channel, min(channel + chunk, n_channels)), volume, first + channel)


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


@dataclass(frozen=True, slots=True)
class Chain:
    """Filter and backprojection of one geometry, with room for one slab of channels."""

    taps: tuple[np.ndarray, np.ndarray, np.ndarray]
    """Lags, values and ranges of the filter, or for variances of h² and of h·h₊₁ (`tap_lists`)."""
    weights: np.ndarray
    beams: tuple[np.ndarray, np.ndarray]
    slab: np.ndarray

    @classmethod
    def of(
        cls,
        geometry: Geometry,
        rotation_deg: np.ndarray,
        weights: np.ndarray,
        filter_name: str,
        *,
        variance: bool = False,
        widest: int = _WIDEST,
    ) -> "Chain":
        """For projections at these angles, with these weights in radians; slabs have at most ``widest`` channels.

        Raises
        ------
        ShapeError
            If there is no filter of this name.
        """
        n_samples, angle = geometry.n_samples, np.deg2rad(rotation_deg)
        taps = filter_taps(filter_name, n_samples, geometry.pitch_mm)
        kernels = tuple(map(that_counts, (taps**2, taps * np.append(taps[1:], 0.0)))) if variance else (taps,)
        beams = kernel.beams(np.cos(angle), np.sin(angle), geometry.centre, n_samples, n_samples)
        width = min(_width(len(kernels) * angle.size * (n_samples + 2)), widest)
        slab = aligned((len(kernels), angle.size, n_samples + 2, width))
        return cls(tap_lists(*kernels), (weights**2 if variance else weights).astype(np.float32), beams, slab)

    @property
    def width(self) -> int:
        """Channels of a slab."""
        return self.slab.shape[3]

    def write(self, prepared: Prepared, part: slice, volume: np.ndarray, first: int) -> None:
        """Write the channels ``part`` of the sinogram into the volume's channels from ``first`` on."""
        values, order, source, lost = prepared.values, prepared.order, part.start, None
        if not prepared.complete:
            values, lost = prepared.filled(part)
            order, source = np.arange(len(values)), 0
        for channel in range(0, part.stop - part.start, self.width):
            count = min(self.width, part.stop - part.start - channel)
            self.slab_into([(values, order)], source + channel, volume, (first + channel, count), add=False)
        if order.size == 0:
            volume[:, :, first : first + part.stop - part.start] = np.nan
        elif lost is not None and lost.any():
            volume[:, :, first + np.flatnonzero(lost)] = np.nan

    def slab_into(
        self, sources: Sequence[tuple[np.ndarray, np.ndarray]], source: int, volume: np.ndarray, channels: tuple[int, int], *, add: bool
    ) -> None:
        """Filter and backproject channels from ``source`` on of finite projections, by their order in each array.

        ``channels`` are the first of the volume's and how many, at most ``width``.
        """
        filter_sources(sources, source, self.taps, self.weights, self.slab)
        if len(self.slab) == 2:
            self.slab[1, :, -2] = 0.0  # the last sample has no neighbour to be correlated with
        kernel.backproject_slab(self.slab, channels, *self.beams, volume, add)


def filter_sources(
    sources: Sequence[tuple[np.ndarray, np.ndarray]],
    first: int,
    taps: tuple[np.ndarray, np.ndarray, np.ndarray],
    weights: np.ndarray,
    slab: np.ndarray,
) -> None:
    """Filter channels from ``first`` on of finite projections, by their order in each array, one array after the other, into ``slab``."""
    begin = 0
    for values, order in sources:
        part = slice(begin, begin + len(order))
        if len(order):
            kernel.filter_slab(values, order, first, *taps, weights[part], slab[:, part])
        begin = part.stop


def _width(n_rows: int) -> int:
    """Channels of a slab of so many rows, a multiple of those that the kernels take at once."""
    return min(max(_SLAB_BYTES // (4 * kernel.CHANNELS * max(n_rows, 1)), 1) * kernel.CHANNELS, _WIDEST)


def aligned(shape: tuple[int, ...]) -> np.ndarray:
    """An uninitialised float32 array that begins on a cache line: vectors that straddle lines cost twice."""
    count = int(np.prod(shape))
    room = np.empty(count + 16, np.float32)
    start = -room.ctypes.data % 64 // room.itemsize
    return room[start : start + count].reshape(shape)
