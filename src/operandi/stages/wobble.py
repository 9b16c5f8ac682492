"""Wobble and drift: how far single projections lie off, and projections put back where they belong."""

import numpy as np
import xarray as xr

from operandi.errors import ShapeError
from operandi.stages.axis import locate, profiles_of
from operandi.stages.backlash import cubic_weights, onto_grid


def find_wobble(sinogram: xr.DataArray) -> xr.Dataset:
    """How far each projection of a sinogram with dims rotation (deg), translation (mm)[, q] lies off the axis.

    See `locate_wobble`.

    Returns
    -------
    Dataset (rotation): `offset` and `sigma` in the unit of the translation; attributes `axis`, `axis_uncertainty`, `wobble`.
    """
    if not {"rotation", "translation"} <= set(sinogram.coords) or not set(sinogram.dims) <= {"rotation", "translation", "q"}:
        raise ShapeError(f"wobble needs a sinogram over rotation and translation with their coordinates, got {dict(sinogram.sizes)}")
    values = sinogram.transpose("rotation", "translation", ...).to_numpy()
    offset, sigma, about = locate_wobble(values, sinogram["rotation"].to_numpy(), sinogram["translation"].to_numpy())
    units = sinogram["translation"].attrs.get("units", "mm")
    columns = {name: ("rotation", data, {"units": units}) for name, data in (("offset", offset), ("sigma", sigma))}
    return xr.Dataset(columns, {"rotation": sinogram["rotation"]}, about)


def locate_wobble(
    sinogram: np.ndarray, rotation_deg: np.ndarray, translation_mm: np.ndarray
) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """Offsets (rotation,) of the projections of a sinogram (rotation, translation[, q]) and their standard deviations, mm.

    The offsets are the least that make the projections consistent with an object that turns about one axis, as far as the noise lets
    them show (`operandi.stages.consistency`); drifts are part of them. What goes like the cosine or sine of the rotation is a move of the
    sample, and no wobble. A projection that cannot be used has offset 0 and infinite sigma.

    Raises
    ------
    ShapeError
        As `operandi.stages.axis.locate_axis`.
    """
    profiles = profiles_of(sinogram, rotation_deg, translation_mm)
    found = locate(profiles)
    offset, sigma = np.zeros(len(profiles.usable)), np.full(len(profiles.usable), np.inf)
    offset[profiles.usable] = profiles.pitch * found.offset
    size = abs(profiles.pitch)
    sigma[profiles.usable] = size * found.offset_sigma
    axis = profiles.first + profiles.pitch * found.axis
    return offset, sigma, {"axis": float(axis), "axis_uncertainty": size * found.axis_sigma, "wobble": size * found.wobble}


def straighten(sinogram: xr.DataArray | xr.Dataset, offset: xr.DataArray | np.ndarray) -> xr.DataArray | xr.Dataset:
    """A sinogram, or a Dataset of `intensity` and `sigma`, with each projection moved back by its ``offset`` (rotation,).

    Parameters
    ----------
    sinogram : dims rotation, translation[, q]; NaN is not measured.
    offset : in the unit of the translation, such as `find_wobble` gives; or a drift known otherwise.

    Returns
    -------
    What was given; cells that nothing was measured near are NaN. Neighbouring cells then share noise, which sigma does not tell.
    """
    intensity = sinogram["intensity"] if isinstance(sinogram, xr.Dataset) else sinogram
    dims = [d for d in ("rotation", "translation", "q") if d in intensity.dims]
    if dims[:2] != ["rotation", "translation"] or len(dims) != intensity.ndim or "translation" not in intensity.coords:
        raise ShapeError(
            f"straightening needs the dimensions rotation, translation and perhaps q, with their coordinates; got {intensity.dims}"
        )
    translation = intensity["translation"].to_numpy()
    steps = np.asarray(offset, float) / ((translation[-1] - translation[0]) / (translation.size - 1))

    def moved(data: xr.DataArray, square: bool) -> xr.DataArray:
        plain = data.transpose(*dims)
        values = plain.to_numpy()
        values = values if values.ndim == 3 else values[:, :, None]
        result = np.sqrt(straighten_variance(values**2, steps)) if square else straighten_values(values, steps)
        return plain.copy(data=result.reshape(plain.shape))

    if isinstance(sinogram, xr.DataArray):
        return moved(sinogram, False)
    result = sinogram.assign(intensity=moved(intensity, False))
    return result.assign(sigma=moved(sinogram["sigma"], True)) if "sigma" in sinogram else result


def straighten_values(sinogram: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Projections (rotation, translation, q) moved back by ``offset`` (rotation,) in steps of the translation: cell i takes what was
    measured at i + offset, by cubic convolution; NaN beyond the ends."""
    whole, part = _split(sinogram, offset)
    return onto_grid(_by_whole_steps(sinogram, whole), -part)


def straighten_variance(variance: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """The variance of `straighten_values` for independent cells of this variance (rotation, translation, q)."""
    whole, part = _split(variance, offset)
    moved, n = _by_whole_steps(variance, whole), variance.shape[1]
    result = moved.copy()
    for line in np.flatnonzero(part):
        first, rest = int(np.floor(part[line])), float(part[line] - np.floor(part[line]))
        at = [np.clip(np.arange(n) + first + shift, 0, n - 1) for shift in range(-1, 3)]
        result[line] = sum(np.float32(w**2) * moved[line, i] for w, i in zip(cubic_weights(rest), at, strict=True))
    return result


def _split(sinogram: np.ndarray, offset: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whole steps of the offsets, and what is left over, within ±½."""
    offset = np.asarray(offset, float)
    if sinogram.ndim != 3 or offset.shape != sinogram.shape[:1] or not np.isfinite(offset).all():
        raise ShapeError(f"offsets must be one finite number for each projection of (rotation, translation, q) {sinogram.shape}")
    whole = np.clip(np.rint(offset), -sinogram.shape[1], sinogram.shape[1]).astype(int)
    return whole, np.clip(offset - whole, -0.5, 0.5)


def _by_whole_steps(sinogram: np.ndarray, whole: np.ndarray) -> np.ndarray:
    n = sinogram.shape[1]
    at = np.arange(n)[None] + whole[:, None]
    moved = np.take_along_axis(np.asarray(sinogram, np.float32), np.clip(at, 0, n - 1)[:, :, None], axis=1)
    moved[(at < 0) | (at >= n)] = np.nan
    return moved
