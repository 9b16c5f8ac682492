"""Patterns: azimuthal integration of images into I(q) with sigma.

pyFAI (10.1107/S1600576715004306) decides geometry, pixel splitting, solid angle and polarization; its sparse operator is
taken once and applied to blocks of images. Results equal ``AzimuthalIntegrator.integrate1d`` with the same splitting and the
Poisson error model; an empty bin is NaN.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pyFAI
import xarray as xr
from pyFAI.integrator.azimuthal import AzimuthalIntegrator
from pyFAI.units import Q_A as Q_UNIT
from scipy import sparse

from operandi.errors import GeometryError, ShapeError
from operandi.kernels.binning import Operator, bin_images, compile_operator
from operandi.stages.frames import as_images

SPLITTINGS = ("no", "bbox", "full")


Calibration = str | PathLike[str] | AzimuthalIntegrator


@dataclass(frozen=True, slots=True)
class Patterns:
    """Integrated images; arrays (image, q), float32, NaN where a bin is empty."""

    intensity: np.ndarray
    """Counts per pixel, normalised to the pixel at the beam's centre (solid angle, polarization, flat)."""
    sigma: np.ndarray
    """Standard error of ``intensity`` from Poisson statistics."""


@dataclass(frozen=True, slots=True)
class Integrator:
    """Azimuthal integration with one geometry: call it with images, get `Patterns`."""

    q: np.ndarray
    """(q,) centres of the bins in Å⁻¹, float64."""
    shape: tuple[int, int]
    """(rows, columns) of the images."""
    operator: Operator
    dummy: float | None
    """Value of an invalid pixel; None has none besides the negative."""
    delta_dummy: float

    def __call__(self, images: np.ndarray, monitor: np.ndarray | float | None = None) -> Patterns:
        """Integrate ``images``, (row, column), (image, row, column) or (image, 1, row, column).

        Negative values, NaN, infinities and the dummy are invalid: the pixel is left out of its image, in signal and in
        normalisation. Give images as measured; a dark image is subtracted after that check. ``monitor`` (image,) divides
        intensity and sigma; where it is zero, negative or not finite the pattern is NaN.
        """
        source = np.asarray(images)
        block = as_images(source, self.shape)
        dummy = _as_stored(self.dummy, source.dtype)
        sums = bin_images(self.operator, block.reshape(len(block), -1), dummy=dummy, delta_dummy=self.delta_dummy)
        norm = np.where(sums.norm != 0, sums.norm, np.nan)
        if monitor is not None:
            norm *= _usable_monitor(monitor, len(block))[:, None]
        return Patterns((sums.signal / norm).astype(np.float32), (np.sqrt(sums.variance) / norm).astype(np.float32))


def integrate(
    images: np.ndarray,
    poni: Calibration,
    *,
    mask: np.ndarray | None = None,
    q: Sequence[float] | np.ndarray | None = None,
    q_range: tuple[float, float] | None = None,
    n_q: int = 1000,
    dark: np.ndarray | None = None,
    flat: np.ndarray | None = None,
    polarization: float | None = 0.99,
    method: str = "full",
    monitor: np.ndarray | float | None = None,
    dummy: float | None = None,
) -> xr.Dataset:
    """Integrate images azimuthally.

    Parameters
    ----------
    images
        Counts, (row, column) or (image, row, column). Negative values, NaN, infinities and ``dummy`` are ignored.
    poni
        pyFAI calibration: a ``.poni`` file (of several calibrations in it the last counts) or an ``AzimuthalIntegrator``.
    mask
        (row, column), True where a pixel is to be ignored. None takes the detector's own.
    q
        Centres of the bins in Å⁻¹, equidistant and increasing; takes the place of ``q_range`` and ``n_q``.
    q_range
        Outer edges of the first and the last bin in Å⁻¹; None takes all that the detector sees.
    n_q
        Number of bins.
    dark, flat
        (row, column); dark is subtracted, flat divides.
    polarization
        Polarization factor, None for no correction.
    method
        Pixel splitting: ``"no"``, ``"bbox"`` or ``"full"``.
    monitor
        (image,) incident flux by which to divide; None does not.
    dummy
        Value of an invalid pixel; None takes the detector's own.

    Returns
    -------
    Dataset over (image, q) with ``intensity`` and ``sigma`` in counts per pixel (per monitor count), float32; NaN where a bin
    is empty. ``q`` in Å⁻¹.

    Raises
    ------
    GeometryError
        Where poni, mask, dark, flat or images cannot be read or do not fit each other.
    ShapeError
        Where q, q_range, n_q, method or monitor make no sense.
    """
    if q is not None:
        q_range, n_q = _range_of(q)
    shape = np.shape(images)[-2:]
    integrator = build_integrator(
        poni, shape=shape, mask=mask, q_range=q_range, n_q=n_q, method=method, polarization=polarization, dark=dark, flat=flat, dummy=dummy
    )
    patterns = integrator(images, monitor)
    unit = "counts/pixel" if monitor is None else "counts/pixel/monitor"
    return xr.Dataset(
        {
            "intensity": (("image", "q"), patterns.intensity, {"units": unit}),
            "sigma": (("image", "q"), patterns.sigma, {"units": unit}),
        },
        coords={"q": ("q", integrator.q, {"units": "1/angstrom"})},
        attrs={"method": f"azimuthal integration, {method} splitting, Poisson errors", "pyFAI": pyFAI.version},
    )


def build_integrator(
    poni: Calibration,
    *,
    shape: tuple[int, int],
    mask: np.ndarray | None = None,
    q_range: tuple[float, float] | None = None,
    n_q: int = 1000,
    method: str = "full",
    polarization: float | None = 0.99,
    dark: np.ndarray | None = None,
    flat: np.ndarray | None = None,
    dummy: float | None = None,
) -> Integrator:
    """Take pyFAI's geometry and pixel splitting once, for images of ``shape`` (rows, columns).

    Parameters are those of `integrate`. Takes a second or two for a detector of two million pixels.
    """
    _check_binning(q_range, n_q, method)
    calibration = load_calibration(poni)
    shape = _detector_shape(calibration, shape)
    ignored = _ignored(calibration, shape, mask)
    weight = _weight(calibration, shape, polarization, flat)
    dark = np.zeros(shape, np.float32) if dark is None else _fitting("dark", dark, shape).astype(np.float32)
    q, matrix = _pyfai_matrix(calibration, shape, ignored, q_range, n_q, method)
    dummy, delta_dummy = _dummies(calibration, dummy)
    return Integrator(q, shape, compile_operator(matrix, weight.ravel(), dark.ravel()), dummy, delta_dummy)


def warm_up(integrator: Integrator, dtype: Any = np.int32) -> None:
    """Compile (or load from the cache) what `Integrator` runs for images of ``dtype``."""
    integrator(np.zeros((1, *integrator.shape), dtype))


def load_calibration(poni: Calibration) -> AzimuthalIntegrator:
    """Read a ``.poni`` file; GeometryError where it is missing, unreadable or has no wavelength."""
    if isinstance(poni, AzimuthalIntegrator):
        calibration, name = poni, "the calibration"
    else:
        path, name = Path(poni), f"calibration {poni}"
        if not path.is_file():
            raise GeometryError(f"{name} is not there: give the .poni file of this detector position")
        try:
            calibration = pyFAI.load(str(path))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, AssertionError) as error:
            raise GeometryError(f"{name} is not a pyFAI calibration ({error}): write it anew with pyFAI-calib2") from error
    if not calibration.wavelength or not calibration.dist > 0:
        raise GeometryError(f"{name} has no wavelength or no distance, so q is unknown: complete it")
    return calibration


def _ignored(calibration: AzimuthalIntegrator, shape: tuple[int, int], mask: np.ndarray | None) -> np.ndarray | None:
    """(row, column) int8, 1 where a pixel is to be ignored; None where none is."""
    chosen = calibration.mask if mask is None else _fitting("mask", mask, shape)
    return None if chosen is None else np.ascontiguousarray(np.asarray(chosen) != 0, np.int8)


def _pyfai_matrix(calibration, shape, mask, q_range, n_q, method) -> tuple[np.ndarray, sparse.csr_array]:
    """Bin centres in Å⁻¹ and shares (bin, pixel) of pyFAI's CSR engine."""
    if mask is not None and mask.all():
        return _all_masked(q_range, n_q, shape)
    engine = calibration.setup_sparse_integrator(shape, n_q, mask=mask, pos0_range=q_range, unit=Q_UNIT, split=method, algo="CSR")
    matrix = sparse.csr_array((engine.data, engine.indices, engine.indptr), shape=(n_q, shape[0] * shape[1]))
    return np.asarray(engine.bin_centers, np.float64) * Q_UNIT.scale, matrix


def _all_masked(q_range, n_q, shape) -> tuple[np.ndarray, sparse.csr_array]:
    if q_range is None:
        raise GeometryError("the mask ignores every pixel, so the range of q is unknown: give another mask, or q_range")
    edges = np.linspace(q_range[0], q_range[1], n_q + 1)
    return (edges[1:] + edges[:-1]) / 2, sparse.csr_array((n_q, shape[0] * shape[1]), dtype=np.float32)


def _weight(calibration, shape, polarization, flat) -> np.ndarray:
    weight = np.asarray(calibration.solidAngleArray(shape), np.float32).copy()
    if polarization is not None:
        weight *= np.asarray(calibration.polarization(shape, polarization), np.float32)
    if flat is not None:
        weight *= _fitting("flat", flat, shape).astype(np.float32)
    return weight


def _dummies(calibration, dummy: float | None) -> tuple[float | None, float]:
    detector = calibration.detector
    if dummy is not None or detector.dummy is None:
        return dummy, 0.0
    delta = detector.delta_dummy
    return float(detector.dummy), float(np.finfo(np.float32).eps if delta is None else delta)


def _as_stored(dummy: float | None, dtype: np.dtype) -> float:
    """The dummy as an image of ``dtype`` holds it (-1 in an unsigned one is its largest value); NaN for none."""
    if dummy is None:
        return float("nan")
    if dtype.kind == "u" and dummy < 0:
        return float(np.iinfo(dtype).max + 1 + int(dummy))
    return float(dummy)


def _usable_monitor(monitor: np.ndarray | float, n_images: int) -> np.ndarray:
    values = np.atleast_1d(np.asarray(monitor, np.float64))
    if values.shape not in ((1,), (n_images,)):
        raise ShapeError(f"monitor has shape {values.shape} for {n_images} image(s): give one value for each image")
    return np.where(np.isfinite(values) & (values > 0), values, np.nan)


def _range_of(q: Sequence[float] | np.ndarray) -> tuple[tuple[float, float], int]:
    """Edges and number of the bins whose centres are ``q``."""
    centres = np.asarray(q, np.float64)
    if centres.ndim != 1 or centres.size < 2 or not np.isfinite(centres).all():
        raise ShapeError(f"q has shape {centres.shape}: give at least two finite bin centres in Å⁻¹")
    steps = np.diff(centres)
    width = (centres[-1] - centres[0]) / (centres.size - 1)
    if width <= 0 or np.abs(steps - width).max() > 1e-3 * width:
        raise ShapeError("q is not increasing in equal steps: give equidistant bin centres in Å⁻¹, or q_range and n_q")
    return (centres[0] - width / 2, centres[-1] + width / 2), centres.size


def _check_binning(q_range, n_q, method) -> None:
    if method not in SPLITTINGS:
        raise ShapeError(f"method is {method!r}: give one of {', '.join(SPLITTINGS)}")
    if n_q < 1:
        raise ShapeError(f"n_q is {n_q}: give at least one bin")
    if q_range is not None and not (len(q_range) == 2 and np.isfinite(q_range).all() and 0 <= q_range[0] < q_range[1]):
        raise ShapeError(f"q_range is {q_range}: give (lower, upper) in Å⁻¹ with 0 ≤ lower < upper")


def _detector_shape(calibration, shape) -> tuple[int, int]:
    shape = (int(shape[0]), int(shape[1])) if len(shape) == 2 else tuple(shape)
    expected = calibration.detector.max_shape
    if len(shape) != 2 or min(shape) < 1:
        raise GeometryError(f"images have shape {shape}: give at least one image of (row, column)")
    if expected is not None and tuple(expected) != shape:
        raise GeometryError(f"images are {shape} pixels, the detector of the calibration {tuple(expected)}: they do not belong together")
    return shape


def _fitting(name: str, array: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    array = np.asarray(array)
    if array.shape != shape:
        raise GeometryError(f"{name} has shape {array.shape}, the images {shape}: give the {name} of this detector")
    if array.dtype.kind not in "biuf":
        raise GeometryError(f"{name} is of dtype {array.dtype}: give numbers")
    return array
