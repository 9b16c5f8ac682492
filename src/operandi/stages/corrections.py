"""Sinograms on one scale: incident flux, air scattering, transmission."""

from typing import Literal, TypeVar

import numpy as np
import xarray as xr

from operandi.errors import ShapeError

Data = TypeVar("Data", xr.DataArray, xr.Dataset)
_DIMS = ("rotation", "translation", "q")


def correct(
    sinogram: Data,
    *,
    monitor: xr.DataArray | np.ndarray | None = None,
    monitor_reference: float | None = None,
    air: Literal["rim"] | xr.Dataset | xr.DataArray | np.ndarray | None = None,
    rim_points: int = 2,
    transmission: xr.DataArray | np.ndarray | None = None,
    dead_time_s: float = 0.0,
    exposure_s: float | None = None,
) -> Data:
    """Normalise by the monitor and subtract air (WAXS), or divide by the transmission instead of both (SAXS).

    See `correct_values` for the parameters.

    Parameters
    ----------
    sinogram : dims rotation, translation[, q]: the intensity, or a Dataset of `intensity` and `sigma`.
    air : a Dataset of `intensity` and `sigma` (q) is a measured pattern with its own errors.
    dead_time_s, exposure_s : see `without_dead_time`; before all else.

    Returns
    -------
    What was given, corrected. Units stay: flux is relative to `monitor_reference`.

    Raises
    ------
    ShapeError
        If the arrays do not fit each other, or transmission is combined with monitor or air.
    """
    intensity = sinogram["intensity"] if isinstance(sinogram, xr.Dataset) else sinogram
    dims = tuple(d for d in _DIMS if d in intensity.dims)
    if dims[:2] != _DIMS[:2] or len(dims) != intensity.ndim:
        raise ShapeError(f"a sinogram has the dimensions rotation, translation and perhaps q; got {intensity.dims}")
    shape = tuple(intensity.sizes[d] for d in dims)

    def cells(data):
        return data.transpose(*dims).to_numpy().reshape(*shape[:2], -1)

    variance = cells(sinogram["sigma"]) ** 2 if isinstance(sinogram, xr.Dataset) and "sigma" in sinogram else None
    counts = cells(intensity)
    if dead_time_s:
        counts, variance = without_dead_time(counts, dead_time_s, exposure_s or np.nan, variance=variance)
    values, variance = correct_values(
        counts,
        variance=variance,
        monitor=_plain(monitor),
        monitor_reference=monitor_reference,
        air=air if isinstance(air, str) else _plain(air["intensity"] if isinstance(air, xr.Dataset) else air),
        air_variance=_plain(air["sigma"] ** 2) if isinstance(air, xr.Dataset) and "sigma" in air else None,
        rim_points=rim_points,
        transmission=_plain(transmission),
    )
    corrected = intensity.transpose(*dims).copy(data=values.reshape(shape))
    if isinstance(sinogram, xr.DataArray):
        return corrected
    result = sinogram.assign(intensity=corrected)
    return result if variance is None else result.assign(sigma=corrected.copy(data=np.sqrt(variance).reshape(shape)))


def _plain(data):
    return data.transpose(*(d for d in _DIMS if d in data.dims)).to_numpy() if isinstance(data, xr.DataArray) else data


def correct_values(
    values: np.ndarray,
    *,
    variance: np.ndarray | None = None,
    monitor: np.ndarray | None = None,
    monitor_reference: float | None = None,
    air: Literal["rim"] | np.ndarray | None = None,
    air_variance: np.ndarray | None = None,
    rim_points: int = 2,
    transmission: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Corrected values (rotation, translation, q) and their variance, float32.

    Parameters
    ----------
    values, variance : (rotation, translation, q); NaN is not measured.
    monitor : (rotation, translation) incident flux. Cells with a monitor that is zero, negative or not finite become NaN.
    monitor_reference : the flux to which cells are scaled; give the same one for all sets of a run, to keep them comparable. None
        takes the median of `monitor`.
    air : "rim" subtracts the mean pattern of the outermost cells on both sides, over all rotations (they must lie outside the
        sample); an array (q,) that pattern, on the scale of the normalised sinogram.
    air_variance : (q,) of a measured pattern of air; None takes it as exact. All cells share its error.
    rim_points : number of outermost cells on either side.
    transmission : (rotation, translation) surviving fraction, or transmitted flux, by which cells are divided; zero, negative or not
        finite gives NaN.

    Raises
    ------
    ShapeError
        If the arrays do not fit each other, or transmission is combined with monitor or air.
    """
    values = np.array(values, np.float32)
    variance = None if variance is None else np.array(variance, np.float32)
    correct_in_place(
        values, variance, monitor=monitor, monitor_reference=monitor_reference, air=air, air_variance=air_variance, rim_points=rim_points,
        transmission=transmission,
    )  # fmt: skip
    return values, variance


def correct_in_place(
    values: np.ndarray,
    variance: np.ndarray | None,
    *,
    monitor: np.ndarray | None = None,
    monitor_reference: float | None = None,
    air: Literal["rim"] | np.ndarray | None = None,
    air_variance: np.ndarray | None = None,
    rim_points: int = 2,
    transmission: np.ndarray | None = None,
) -> None:
    """What `correct_values` does, in the memory of the values and of their variance, both float32: nothing of their size is held beside."""
    _check(values, variance, transmission, monitor, air)
    if (flux := transmission if transmission is not None else monitor) is not None:
        reference = 1.0 if transmission is not None else monitor_reference
        scale = _scale(np.asarray(flux, float), values.shape[:2], reference)[:, :, None]
        values *= scale
        if variance is not None:
            variance *= scale**2
    if air is None:
        return
    if isinstance(air, str):
        if air != "rim":
            raise ShapeError(f'air is {air!r}; give "rim", the pattern of air (q,), or None')
        _subtract_rim(values, variance, rim_points)
        return
    pattern = np.asarray(air, np.float32)
    if pattern.shape not in {(), (values.shape[2],)}:
        raise ShapeError(f"the pattern of air has shape {pattern.shape}, the sinogram {values.shape[2]} points in q")
    if variance is not None and air_variance is not None:
        if np.shape(air_variance) != pattern.shape:
            raise ShapeError(f"the variance of air has shape {np.shape(air_variance)}, air itself {pattern.shape}")
        variance += np.asarray(air_variance, np.float32)
    values -= pattern


def without_dead_time(
    counts: np.ndarray, dead_time_s: float, exposure_s: float, *, variance: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Counts of pixels as they would be without dead time, and their variance.

    n = m / (1 - m·τ/t), for detectors that a photon in the dead time does not hold up longer (Knoll, Radiation Detection and Measurement,
    chapter 4). ``counts`` are per pixel in ``exposure_s``, or means of pixels that are alike; NaN where they reach t/τ.

    Raises
    ------
    ShapeError
        If the dead time is negative or the exposure not positive.
    """
    if not (dead_time_s >= 0 and exposure_s > 0):
        raise ShapeError(f"dead_time_s must be 0 or more and exposure_s positive, got {dead_time_s} and {exposure_s}")
    live = 1 - np.asarray(counts, np.float32) * np.float32(dead_time_s / exposure_s)
    live = np.where(live > 0, live, np.float32(np.nan))
    return counts / live, None if variance is None else variance / live**4


def flux(counts: np.ndarray, *, gain: np.ndarray | float = 1.0, dark: np.ndarray | float = 0.0) -> np.ndarray:
    """What a monitor or a diode saw, on one scale whatever the range of its amplifier: (counts - dark) / gain.

    ``gain`` (V/A or whatever the file says) broadcasts against the counts, so that it may change in a run; counts that
    are not positive, and gains that are not, give NaN.
    """
    counts, gain = np.asarray(counts, float) - dark, np.asarray(gain, float)
    good = np.isfinite(counts) & (counts > 0) & np.isfinite(gain) & (gain > 0)
    return np.where(good, counts / np.where(gain > 0, gain, 1), np.nan)


def transmission_of(transmitted: np.ndarray, incident: np.ndarray, *, blank_transmitted: float, blank_incident: float) -> np.ndarray:
    """Surviving fraction of the beam against a blank, from fluxes behind and before the sample (`flux`), NaN where one is none.

    Raises
    ------
    ShapeError
        If the blank has no flux.
    """
    if not (blank_transmitted > 0 and blank_incident > 0 and np.isfinite(blank_transmitted / blank_incident)):
        raise ShapeError(f"the blank has no flux: {blank_transmitted} behind, {blank_incident} before the sample")
    with np.errstate(divide="ignore", invalid="ignore"):
        result = np.asarray(transmitted, float) / np.asarray(incident, float) * (blank_incident / blank_transmitted)
    return np.where(np.isfinite(result) & (result > 0), result, np.nan)


def _check(values, variance, transmission, monitor, air) -> None:
    if values.ndim != 3:
        raise ShapeError(f"a sinogram is (rotation, translation, q), got shape {values.shape}")
    if variance is not None and variance.shape != values.shape:
        raise ShapeError(f"variance has shape {variance.shape}, the sinogram {values.shape}")
    if transmission is not None and (monitor is not None or air is not None):
        raise ShapeError("transmission corrects instead of monitor and air: give either transmission, or monitor and air")


def _scale(flux: np.ndarray, shape: tuple[int, ...], reference: float | None) -> np.ndarray:
    """reference / flux, float32, NaN where flux is no flux."""
    if flux.shape != shape:
        raise ShapeError(f"monitor or transmission has shape {flux.shape}, the sinogram has {shape} rotations and translations")
    good = np.isfinite(flux) & (flux > 0)
    if reference is None:
        reference = float(np.median(flux[good])) if good.any() else np.nan
    elif not (np.isfinite(reference) and reference > 0):
        raise ShapeError(f"monitor_reference must be a positive flux, got {reference}")
    with np.errstate(over="ignore"):
        scale = np.divide(reference, flux, out=np.full(shape, np.nan), where=good).astype(np.float32)
    return np.where(np.isfinite(scale), scale, np.float32(np.nan))


def _subtract_rim(values, variance, rim_points: int) -> None:
    if not 1 <= rim_points <= (values.shape[1] - 1) // 2:
        raise ShapeError(
            f"rim_points is {rim_points}, but the sinogram has {values.shape[1]} translations: take 1 to {(values.shape[1] - 1) // 2}"
        )
    rim = np.r_[:rim_points, -rim_points:0]
    cells = values[:, rim].astype(np.float64)
    finite = np.isfinite(cells)
    number = finite.sum(axis=(0, 1))
    # a channel without any cell on the rim has no air to subtract: NaN
    air = np.where(finite, cells, 0).sum(axis=(0, 1)) / np.where(number, number, np.nan)
    values -= air.astype(np.float32)
    if variance is not None:
        own = np.where(finite, variance[:, rim], 0).sum(axis=(0, 1)) / np.where(number, number, np.nan) ** 2
        variance += own.astype(np.float32)
