"""Sinograms to volumes: filtered back projection of all channels at once, with exact errors.

A projection at the rotation θ, measured at the translation t, is the line integral over all points with
``x cos θ + y sin θ = t - axis``. The grid has the pitch and the number of the translations and is centred on the axis; x runs
along columns, y along rows. A voxel is in the sinogram's unit per mm. Voxels outside the circle that every
projection sees are computed like all others, from the projections that do see them: what lies beyond the detector counts as 0 (as in
the astra toolbox).

Filtering: Kak & Slaney, Principles of Computerized Tomographic Imaging (1988), chapter 3. Filters are applied as convolutions in real
space with the exact kernel of the band-limited filter, which equals a Fourier filter with unlimited zero-padding.
"""

from collections.abc import Hashable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import xarray as xr

from operandi.errors import ShapeError
from operandi.kernels import backprojection as kernel
from operandi.stages import engines
from operandi.stages import iterations as iterative
from operandi.stages.axis import Axis, locate_axis
from operandi.stages.sinograms import fill_gaps, usable_projections

Engine = Literal["native", "astra"]
Method = Literal["fbp", "sirt", "cgls", "mlem"]

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
    return _project_back(_prepare(sinogram, rotation_deg, translation_mm, axis_mm, weights), filter, variance=False)


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
    return _project_back(_prepare(variance, rotation_deg, translation_mm, axis_mm, weights), filter, variance=True)


class _Prepared(NamedTuple):
    """What there is to reconstruct, in increasing order of angle and translation."""

    projections: np.ndarray
    rotation_deg: np.ndarray
    weights: np.ndarray
    centre: float
    pitch_mm: float
    lost: np.ndarray


def _prepare(sinogram, rotation_deg, translation_mm, axis_mm, weights) -> _Prepared:
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
    return _Prepared(filled, rotation[usable], angular, (axis_mm - translation[0]) / pitch, pitch, lost)


def warm_up() -> None:
    """Compile what `partial_volume` and `partial_variance` run, or load it from the cache: seconds, once."""
    partial_variance(np.ones((4, 8, 1), np.float32), np.arange(4) * 45.0, np.arange(8.0), 3.5)


def _project_back(prepared: _Prepared, filter_name: str, *, variance: bool) -> np.ndarray:
    n = prepared.projections.shape[1]
    taps, cross = filter_taps(filter_name, n, prepared.pitch_mm), None
    if variance:
        taps, cross = taps**2, taps * np.append(taps[1:], 0.0)
    return _masked(_backproject(prepared, taps, cross), prepared)


def _masked(volume: np.ndarray, prepared: _Prepared) -> np.ndarray:
    """NaN where nothing can be said."""
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


def _backproject(prepared: _Prepared, taps: np.ndarray, cross: np.ndarray | None) -> np.ndarray:
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


def reconstruct(
    sinogram: xr.DataArray,
    *,
    axis: Axis | float | None = None,
    method: Method = "fbp",
    engine: Engine = "native",
    filter: str = "ramp",  # noqa: A002
    weights: np.ndarray | None = None,
    sigma: xr.DataArray | None = None,
    iterations: int | None = None,
) -> xr.Dataset:
    """Reconstruct a sinogram, every channel on its own.

    Parameters
    ----------
    sinogram : dims rotation (deg), translation (mm)[, q], with their coordinates. NaN is not measured: see `partial_volume`.
    axis : the rotation axis on the translation axis, mm; None finds it (`find_axis`).
    method : fbp, or an iterative one: sirt, cgls, mlem (which takes negative cells as 0 and gives no negative voxel).
    engine : native, or astra (fbp, sirt and cgls, one channel after another), for comparison.
    filter : of fbp: ramp, shepp-logan, cosine, hann.
    weights : (rotation,) radians, of fbp, in place of `angular_weights`.
    sigma : standard deviation of the sinogram, of the same dims; then fbp gives that of the volume, exact for independent cells.
    iterations : of iterative methods; None takes `iterations.DEFAULT_ITERATIONS`.

    Returns
    -------
    Dataset (y, x[, q]): `intensity` in the sinogram's unit per mm, and `sigma` where asked for; x and y in mm from the axis.
    There is no sigma for iterative methods, which are not linear in the data or stop early.

    Raises
    ------
    ShapeError
        If arrays do not fit each other, sigma is asked of another method than native fbp, or a name is unknown.
    MissingBackendError
        If the engine is not installed.
    """
    _check_names(method, engine, filter, sigma)
    values = _cells(sinogram)
    rotation, translation = sinogram["rotation"].to_numpy(), sinogram["translation"].to_numpy()
    found = axis if axis is not None else locate_axis(values, rotation, translation)
    position = found.position if isinstance(found, Axis) else float(found)
    prepared = _prepare(values, rotation, translation, position, weights)
    count = iterations if iterations is not None else iterative.DEFAULT_ITERATIONS.get(method, 1)
    volumes = {"intensity": _run(prepared, method, engine, filter, count)}
    if sigma is not None:
        variance = np.where(np.isfinite(values), _cells(sigma) ** 2, np.nan)
        volumes["sigma"] = np.sqrt(_project_back(_prepare(variance, rotation, translation, position, weights), filter, variance=True))
    attrs = {"method": method, "engine": engine, "axis_mm": position}
    attrs |= {"filter": filter} if method == "fbp" else {"iterations": count}
    return _labelled(volumes, sinogram, grid_mm(translation), attrs)


def _check_names(method: str, engine: str, filter_name: str, sigma) -> None:
    if method not in get_args(Method) or engine not in get_args(Engine) or filter_name not in FILTERS:
        raise ShapeError(
            f"cannot reconstruct by method {method!r}, engine {engine!r}, filter {filter_name!r}; methods: {', '.join(get_args(Method))}; "
            f"engines: {', '.join(get_args(Engine))}; filters: {', '.join(FILTERS)}"
        )
    if engine == "astra" and method == "mlem":
        raise ShapeError("the astra toolbox has no mlem on the CPU: use engine='native'")
    if sigma is not None and (method, engine) != ("fbp", "native"):
        raise ShapeError(f"sigma is exact for the native fbp only; {engine} {method} has none: leave sigma out")


def _cells(data: xr.DataArray) -> np.ndarray:
    """(rotation, translation, q), with one q where there is none."""
    if not {"rotation", "translation"} <= set(data.dims) <= {"rotation", "translation", "q"}:
        raise ShapeError(f"a sinogram has the dimensions rotation, translation and perhaps q; got {data.dims}")
    if missing := {"rotation", "translation"} - set(data.coords):
        raise ShapeError(f"the sinogram lacks the coordinates of {' and '.join(sorted(missing))}: assign them (deg, mm)")
    values = data.transpose("rotation", "translation", ...).to_numpy()
    return values if values.ndim == 3 else values[:, :, None]


def _run(prepared: _Prepared, method: str, engine: str, filter_name: str, iterations: int) -> np.ndarray:
    if method == "fbp" and engine == "native" or len(prepared.projections) == 0:
        return _project_back(prepared, filter_name, variance=False)
    projections, rotation, centre, pitch = prepared.projections, prepared.rotation_deg, prepared.centre, prepared.pitch_mm
    if engine == "native":
        return _masked(iterative.iterate(projections, rotation, centre, pitch, method, iterations), prepared)
    if method == "fbp":
        projections = projections * (prepared.weights * len(rotation) / np.pi).astype(np.float32)[:, None, None]
    return _masked(engines.astra_volume(projections, rotation, centre, pitch, method, filter_name, iterations), prepared)


def _labelled(volumes: dict[str, np.ndarray], sinogram: xr.DataArray, grid: np.ndarray, attrs: dict) -> xr.Dataset:
    dims = ("y", "x", "q") if "q" in sinogram.dims else ("y", "x")
    shape = (grid.size, grid.size, *([sinogram.sizes["q"]] if "q" in dims else []))
    units = {"units": f"{sinogram.attrs.get('units', '1')}/mm"}
    coords: dict[Hashable, Any] = {name: (name, grid, {"units": "mm"}) for name in ("y", "x")}
    coords |= {name: c for name, c in sinogram.coords.items() if "q" in c.dims and c.ndim == 1}
    return xr.Dataset({name: (dims, v.reshape(shape), units) for name, v in volumes.items()}, coords, attrs)
