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
from operandi.kernels.binning import Limits, Operator, bin_correlations, bin_images, compile_operator
from operandi.kernels.clipping import AZIMUTHAL, HYBRID, POISSON, Averages, Rings, clip_rings, compile_rings, find_medians
from operandi.stages.frames import as_images

SPLITTINGS = ("no", "bbox", "full")
AVERAGES = ("mean", "clipped", "median")
ERROR_MODELS = {"azimuthal": AZIMUTHAL, "poisson": POISSON, "hybrid": HYBRID}
_LARGEST = np.finfo(np.float32).max


Calibration = str | PathLike[str] | AzimuthalIntegrator


@dataclass(frozen=True, slots=True)
class Patterns:
    """Integrated images; arrays (image, q), float32, NaN where a bin is empty."""

    intensity: np.ndarray
    """Counts per pixel, normalised to the pixel at the beam's centre (solid angle, polarization, flat)."""
    sigma: np.ndarray
    """Standard error of ``intensity``."""
    weight: np.ndarray
    """Sum of the pixels' corrections (times monitor) by which the counts were divided; 0 where a bin is empty."""
    spottiness: np.ndarray | None = None
    """(image,) how much of the intensity stands out of smooth rings, see `spottiness`; None of plain means."""


@dataclass(frozen=True, slots=True)
class Averaging:
    """How the pixels of a bin are averaged.

    ``average``: ``"mean"`` of all; ``"clipped"``, the mean after sigma clipping (pyFAI's ``sigma_clip_ng``), or ``"median"``
    (``medfilt1d_ng``). ``clip_sigma``, ``clip_rounds`` and ``error_model`` (``"azimuthal"``, the scatter along the ring; ``"poisson"``;
    ``"hybrid"``, clipping by the former and errors of the latter) belong to ``"clipped"``; all else has Poisson errors.
    """

    average: str = "mean"
    error_model: str = "azimuthal"
    clip_sigma: float = 5.0
    clip_rounds: int = 5

    def __post_init__(self) -> None:
        if self.average not in AVERAGES:
            raise ShapeError(f"average is {self.average!r}: give one of {', '.join(AVERAGES)}")
        if self.error_model not in ERROR_MODELS:
            raise ShapeError(f"error_model is {self.error_model!r}: give one of {', '.join(ERROR_MODELS)}")
        if not (self.clip_sigma > 0 and self.clip_rounds >= 0):
            raise ShapeError(f"clip_sigma is {self.clip_sigma}, clip_rounds {self.clip_rounds}: give positive numbers")


@dataclass(frozen=True, slots=True)
class Integrator:
    """Azimuthal integration with one geometry: call it with images, get `Patterns`."""

    q: np.ndarray
    """(q,) centres of the bins in Å⁻¹, float64."""
    shape: tuple[int, int]
    """(rows, columns) of the images."""
    operator: Operator | Rings
    """Pixels of each bin: `Operator` for means, `Rings` for what needs all pixels of a bin at once."""
    dummy: float | None
    """Value of an invalid pixel; None has none."""
    delta_dummy: float
    averaging: Averaging = Averaging()
    correlation: np.ndarray | None = None
    """(lag, q) of each bin with itself, the next, …, through the pixels that they share; None where none is split."""

    def __call__(self, images: np.ndarray, monitor: np.ndarray | float | None = None) -> Patterns:
        """Integrate ``images``, (row, column), (image, row, column) or (image, 1, row, column).

        NaN, infinities, the dummy and negative integers (a detector's flags) are invalid: the pixel is left out of its image, in signal
        and in normalisation. Give images as measured; a dark image is subtracted after that check. ``monitor`` (image,) divides
        intensity and sigma; where it is zero, negative or not finite the pattern is NaN with weight 0.
        """
        source = np.asarray(images)
        block = as_images(source, self.shape)
        flat = block.reshape(len(block), -1)
        limits = _limits(source.dtype, self.dummy, self.delta_dummy)
        scale = np.ones((len(block), 1)) if monitor is None else _usable_monitor(monitor, len(block))[:, None]
        if isinstance(self.operator, Rings):
            floats = flat.astype(np.float32, copy=False)  # compiled for one type only
            return _robust_patterns(_averages(self.operator, self.averaging, floats, limits), scale)
        sums = bin_images(self.operator, flat, limits)
        norm = np.where(sums.norm != 0, sums.norm, np.nan) * scale
        intensity, sigma = sums.signal / norm, np.sqrt(sums.variance) / norm
        return Patterns(intensity.astype(np.float32), sigma.astype(np.float32), np.nan_to_num(norm).astype(np.float32))


def _averages(rings: Rings, averaging: Averaging, images: np.ndarray, limits: Limits) -> Averages:
    if averaging.average == "median":
        return find_medians(rings, images, limits)
    model = ERROR_MODELS[averaging.error_model]
    return clip_rings(rings, images, limits, model=model, threshold=averaging.clip_sigma, rounds=averaging.clip_rounds)


def _robust_patterns(averages: Averages, scale: np.ndarray) -> Patterns:
    intensity, sigma = (array.astype(np.float32) for array in (averages.value / scale, averages.sigma / scale))
    weight = np.nan_to_num(averages.norm * scale).astype(np.float32)
    return Patterns(intensity, sigma, weight, spottiness(averages.mean, averages.value, averages.mean_norm).astype(np.float32))


def spottiness(mean: np.ndarray, robust: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The share of the intensity that stands out of smooth rings.

    Σ weight·(mean − robust) / Σ weight·mean over the bins: 0 where every ring is smooth, towards 1 where all intensity lies in few
    pixels (large grains, hot spots); negative where pixels stand out by having less. Arrays are (image, q), ``robust`` the clipped mean
    or the median; empty bins (NaN) do not count. NaN where there is no intensity.
    """
    filled = np.isfinite(mean) & np.isfinite(robust)
    above = np.where(filled, weight * (mean - robust), 0).sum(axis=1)
    total = np.where(filled, weight * mean, 0).sum(axis=1)
    return np.divide(above, total, out=np.full(len(total), np.nan), where=total > 0)


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
    method: str | None = None,
    averaging: Averaging | str = "mean",
    monitor: np.ndarray | float | None = None,
    dummy: float | None = None,
) -> xr.Dataset:
    """Integrate images azimuthally.

    Parameters
    ----------
    images
        Counts, (row, column) or (image, row, column). NaN, infinities, ``dummy`` and negative integers (a detector's flags) are
        ignored; negative floats count.
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
        (row, column); dark is subtracted, flat divides. None takes the detector's own, if it has one.
    polarization
        Polarization factor, None for no correction.
    method
        Pixel splitting: ``"no"``, ``"bbox"`` or ``"full"``. None takes full for means and none for clipped means and medians, which need
        whole pixels.
    averaging
        ``"mean"``, ``"clipped"`` or ``"median"`` of the pixels of a bin, or an `Averaging` with its options.
    monitor
        (image,) incident flux by which to divide; None does not.
    dummy
        Value of an invalid pixel; None takes the detector's own.

    Returns
    -------
    Dataset over (image, q) with ``intensity`` and ``sigma`` in counts per pixel (per monitor count), float32, NaN where a bin
    is empty, and ``weight``, by which the counts were divided, 0 there: Σ weight·intensity / Σ weight combines patterns. Of clipped means
    and medians also ``spottiness`` (image,), see `spottiness`. ``q`` in Å⁻¹.

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
        poni, shape=shape, mask=mask, q_range=q_range, n_q=n_q, method=method, averaging=averaging, polarization=polarization, dark=dark,
        flat=flat, dummy=dummy,
    )  # fmt: skip
    patterns = integrator(images, monitor)
    unit = "counts/pixel" if monitor is None else "counts/pixel/monitor"
    variables: dict[str, tuple] = {
        "intensity": (("image", "q"), patterns.intensity, {"units": unit}),
        "sigma": (("image", "q"), patterns.sigma, {"units": unit, **correlation_attrs(integrator)}),
        "weight": (("image", "q"), patterns.weight, {"units": "pixel" if monitor is None else "pixel*monitor"}),
    }
    if patterns.spottiness is not None:
        variables["spottiness"] = ("image", patterns.spottiness, {"units": "1"})
    return xr.Dataset(
        variables,
        coords={"q": ("q", integrator.q, {"units": "1/angstrom"})},
        attrs={"method": f"azimuthal integration, {_described(integrator.averaging, method)}", "pyFAI": pyFAI.version},
    )


def correlation_attrs(integrator: Integrator) -> dict[str, list[float]]:
    """``channel_correlation``: the mean correlation of a bin with itself, the next, …, for `screen`; nothing where there is none."""
    if integrator.correlation is None:
        return {}
    return {"channel_correlation": [round(float(rho[: len(rho) - lag].mean()), 6) for lag, rho in enumerate(integrator.correlation)]}


def _described(averaging: Averaging, method: str | None) -> str:
    if averaging.average == "mean":
        return f"mean, {method or 'full'} splitting, Poisson errors"
    if averaging.average == "median":
        return "median, no splitting, Poisson errors"
    return f"clipped at {averaging.clip_sigma:g} sigma, no splitting, {averaging.error_model} errors"


def build_integrator(
    poni: Calibration,
    *,
    shape: tuple[int, int],
    mask: np.ndarray | None = None,
    q_range: tuple[float, float] | None = None,
    n_q: int = 1000,
    method: str | None = None,
    averaging: Averaging | str = "mean",
    polarization: float | None = 0.99,
    dark: np.ndarray | None = None,
    flat: np.ndarray | None = None,
    dummy: float | None = None,
) -> Integrator:
    """Take pyFAI's geometry and pixel splitting once, for images of ``shape`` (rows, columns).

    Parameters are those of `integrate`. Takes a second or two for a detector of two million pixels.
    """
    averaging = averaging if isinstance(averaging, Averaging) else Averaging(averaging)
    whole = averaging.average != "mean"
    method = method or ("no" if whole else "full")
    _check_binning(q_range, n_q, method)
    if whole and method != "no":
        raise ShapeError(f"average {averaging.average!r} needs whole pixels, method is {method!r}: give no method, or 'no'")
    calibration = load_calibration(poni)
    shape = _detector_shape(calibration, shape)
    ignored = _ignored(calibration, shape, mask)
    dummy, delta_dummy = _dummies(calibration, dummy)
    weight = _weight(calibration, shape, polarization, flat, dummy, delta_dummy)
    dark = getattr(calibration.detector, "darkcurrent", None) if dark is None else dark
    dark = np.zeros(shape, np.float32) if dark is None else _fitting("dark", dark, shape).astype(np.float32)
    q, matrix = _pyfai_matrix(calibration, shape, ignored, q_range, n_q, method)
    operator = (compile_rings if whole else compile_operator)(matrix, weight.ravel(), dark.ravel())
    return Integrator(q, shape, operator, dummy, delta_dummy, averaging, None if method == "no" else bin_correlations(matrix))


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


def _weight(calibration, shape, polarization, flat, dummy, delta_dummy) -> np.ndarray:
    """Solid angle × polarization × flat, (row, column) float32; NaN where the flat has the dummy, as pyFAI leaves such pixels out."""
    weight = np.asarray(calibration.solidAngleArray(shape), np.float32).copy()
    if polarization is not None:
        weight *= np.asarray(calibration.polarization(shape, polarization), np.float32)
    flat = calibration.detector.flatfield if flat is None else flat
    if flat is not None:
        flat = _fitting("flat", flat, shape).astype(np.float32)
        weight *= flat if dummy is None else np.where(np.abs(flat - dummy) <= delta_dummy, np.float32(np.nan), flat)
    return weight


def _dummies(calibration, dummy: float | None) -> tuple[float | None, float]:
    detector = calibration.detector
    if dummy is not None or detector.dummy is None:
        return dummy, 0.0
    delta = detector.delta_dummy
    return float(detector.dummy), float(np.finfo(np.float32).eps if delta is None else delta)


def _limits(dtype: np.dtype, dummy: float | None, delta_dummy: float) -> Limits:
    """Which counts of images of ``dtype`` are valid; a dummy at the end of what is valid needs no test of its own."""
    if dtype.kind == "f":
        low, high = -float(_LARGEST), float(_LARGEST)
    else:
        low, high = 0.0, float(np.iinfo(dtype).max)
    if dummy is None:
        return Limits(low, high)
    if dtype.kind == "u" and dummy < 0:
        dummy = float(np.iinfo(dtype).max + 1 + int(dummy))  # as pyFAI takes it: the value that a negative flag has in unsigned images
    if dtype.kind != "f" and dummy + delta_dummy < low:
        return Limits(low, high)
    if dtype.kind != "f" and dummy + delta_dummy >= high:
        return Limits(low, float(np.nextafter(np.float32(dummy - delta_dummy), np.float32(0))))
    return Limits(low, high, float(dummy), delta_dummy)


def _usable_monitor(monitor: np.ndarray | float, n_images: int) -> np.ndarray:
    values = np.atleast_1d(_numbers("monitor", monitor))
    if values.shape not in ((1,), (n_images,)):
        raise ShapeError(f"monitor has shape {values.shape} for {n_images} image(s): give one value for each image")
    return np.where(np.isfinite(values) & (values > 0), values, np.nan)


def _numbers(name: str, values: object) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise ShapeError(f"{name} is of dtype {array.dtype}: give real numbers")
    return array.astype(np.float64)


def _range_of(q: Sequence[float] | np.ndarray) -> tuple[tuple[float, float], int]:
    """Edges and number of the bins whose centres are ``q``."""
    centres = _numbers("q", q)
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
    if q_range is not None and not (
        np.shape(_numbers("q_range", q_range)) == (2,) and np.isfinite(q_range).all() and 0 <= q_range[0] < q_range[1]
    ):
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
