"""Peaks of every voxel's pattern: position, width and area with their errors, all voxels at once.

A least-squares fit by Levenberg's and Marquardt's method (Moré 1978, 10.1007/BFb0067700) in which each voxel has its own damping: lines of
Gaussian or pseudo-Voigt shape, normalised to their area, on a straight background.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import xarray as xr
from scipy import ndimage

from operandi.errors import ShapeError

Shape = Literal["gaussian", "pseudo-voigt"]

REASONS = (
    "",
    "not measured",
    "no peak above the noise",
    "no convergence",
    "the peak lies at the edge of the range",
    "the width is at its limit",
)
FITTED, NOT_MEASURED, NO_PEAK, NO_CONVERGENCE, AT_EDGE, WIDTH_AT_LIMIT = range(len(REASONS))

_LOG2 = np.log(2)
_BACKGROUND = 2
_VOXELS = 512
"""Fitted at once: few enough for the cache."""
_MOST_STEPS = 60
_SETTLED = 1e-7


@dataclass(frozen=True, slots=True)
class Model:
    """Lines on a straight background: ``q`` (q,) and, for each line, where it may lie (line, 2) and how wide it may be.

    Parameters (line · size + 2): for each line area, position, full width at half maximum and, of a pseudo-Voigt, the Lorentzian share;
    then the background at the middle of the range and its slope over the range.
    """

    q: np.ndarray
    ranges: np.ndarray
    widths: tuple[float, float]
    shape: Shape

    @property
    def size(self) -> int:
        """Parameters of one line."""
        return 3 if self.shape == "gaussian" else 4

    @property
    def n_parameters(self) -> int:
        """Of all lines with the background."""
        return self.size * len(self.ranges) + _BACKGROUND

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest values (parameter,)."""
        low, high = np.full((2, self.n_parameters), np.inf)
        low *= -1
        for k, (first, last) in enumerate(self.ranges):
            at = k * self.size
            low[at + 1 : at + 3], high[at + 1 : at + 3] = (first, self.widths[0]), (last, self.widths[1])
            if self.shape == "pseudo-voigt":
                low[at + 3], high[at + 3] = 0.0, 1.0
        return low, high

    def evaluate(self, parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Values (voxel, q) and their derivatives (voxel, parameter, q) by parameters (voxel, parameter)."""
        middle, span = (self.q[0] + self.q[-1]) / 2, self.q[-1] - self.q[0]
        slope = (self.q - middle) / span
        derivatives = np.empty((len(parameters), self.n_parameters, self.q.size))
        derivatives[:, -2], derivatives[:, -1] = 1.0, slope
        values = parameters[:, -2, None] + parameters[:, -1, None] * slope
        for k in range(len(self.ranges)):
            here = slice(k * self.size, (k + 1) * self.size)
            values = values + self._line(parameters[:, here], derivatives[:, here])
        return values, derivatives

    def _line(self, parameters: np.ndarray, derivatives: np.ndarray) -> np.ndarray:
        """Values of one line; its derivatives are written."""
        area, position, width = (parameters[:, i, None] for i in range(3))
        t = (self.q - position) / width
        gauss = np.sqrt(4 * _LOG2 / np.pi) / width * np.exp(-4 * _LOG2 * t**2)
        by_gauss = gauss * 8 * _LOG2 * t / width
        shape, by_position = gauss, by_gauss
        if self.shape == "pseudo-voigt":
            share, below = parameters[:, 3, None], 1 / (1 + 4 * t**2)
            lorentz = 2 / np.pi / width * below
            shape = (1 - share) * gauss + share * lorentz
            by_position = (1 - share) * by_gauss + share * lorentz * 8 * t * below / width
            derivatives[:, 3] = area * (lorentz - gauss)
        derivatives[:, 0], derivatives[:, 1] = shape, area * by_position
        derivatives[:, 2] = area * (by_position * t - shape / width)
        return area * shape


@dataclass(frozen=True, slots=True)
class Fits:
    """Parameters and their standard deviations (voxel, parameter), Σ of squared residuals in units of sigma per degree of freedom and the
    reason (voxel,) for which there is no fit."""

    parameters: np.ndarray
    sigma: np.ndarray
    chi2: np.ndarray
    reason: np.ndarray


def fit_voxels(
    model: Model, values: np.ndarray, sigma: np.ndarray | None, start: np.ndarray, correlation: np.ndarray | None = None
) -> Fits:
    """Fit a model to values (voxel, q); NaN is left out, and a voxel with too few of them is not measured.

    Parameters
    ----------
    sigma : (voxel, q), of the values; None takes errors from the scatter about the fit.
    start : (voxel, parameter).
    correlation : (lag, q) of channels, which the errors heed.
    """
    parts = [
        _fit(model, values[p], None if sigma is None else sigma[p], start[p], correlation)
        for p in (slice(i, i + _VOXELS) for i in range(0, len(values), _VOXELS))
    ]
    names = ("parameters", "sigma", "chi2", "reason")
    return Fits(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def _fit(model: Model, values: np.ndarray, sigma: np.ndarray | None, start: np.ndarray, correlation: np.ndarray | None) -> Fits:
    good = np.isfinite(values) if sigma is None else np.isfinite(values) & np.isfinite(sigma) & (sigma > 0)
    scale = np.where(good, 1.0 if sigma is None else 1 / np.where(good, sigma, 1.0), 0.0)
    values = np.where(good, values, 0.0)
    free = good.sum(axis=1) - model.n_parameters
    parameters, settled = np.clip(start, *model.bounds()), free <= 0
    cost, damping = np.full(len(values), np.inf), np.full(len(values), 1e-3)
    for _ in range(_MOST_STEPS):
        active = np.flatnonzero(~settled)
        if not active.size:
            break
        settled[active] = _improve(model, values[active], scale[active], active, parameters, cost, damping)
    errors = _errors(model, parameters, scale, correlation)
    chi2 = np.where(free > 0, _cost(model, parameters, values, scale) / np.maximum(free, 1), np.nan)
    if sigma is None:
        errors = errors * np.sqrt(chi2)[:, None]
    reason = np.where(free <= 0, NOT_MEASURED, np.where(settled, FITTED, NO_CONVERGENCE)).astype(np.uint8)
    return Fits(parameters, errors, chi2, reason)


def _cost(model: Model, parameters: np.ndarray, values: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return np.sum(((values - model.evaluate(parameters)[0]) * scale) ** 2, axis=1)


def _improve(model, values, scale, active, parameters, cost, damping) -> np.ndarray:
    """One step of the active voxels, kept where it improves the fit; whether each has settled."""
    fitted, derivatives = model.evaluate(parameters[active])
    residual = (values - fitted) * scale
    jacobian = derivatives * scale[:, None]
    before = np.sum(residual**2, axis=1)
    curvature, gradient = jacobian @ jacobian.swapaxes(1, 2), (jacobian @ residual[..., None])
    diagonal = np.einsum("vii->vi", curvature)
    floor = 1e-12 * diagonal.max(axis=1, keepdims=True) + np.finfo(float).tiny
    diagonal += np.maximum(diagonal, floor) * damping[active][:, None] + floor
    trial = np.clip(parameters[active] + np.linalg.solve(curvature, gradient)[..., 0], *model.bounds())
    after = _cost(model, trial, values, scale)
    better = after <= before
    parameters[active[better]] = trial[better]
    cost[active] = np.where(better, after, before)
    damping[active] = np.where(better, damping[active] / 5, damping[active] * 6)
    return (better & (before - after <= _SETTLED * before)) | (damping[active] > 1e10)


def _errors(model: Model, parameters: np.ndarray, scale: np.ndarray, correlation: np.ndarray | None) -> np.ndarray:
    """Standard deviations (voxel, parameter) of a linear estimate from channels of unit variance, correlated or not."""
    jacobian = model.evaluate(parameters)[1] * scale[:, None]
    curvature = jacobian @ jacobian.swapaxes(1, 2)
    diagonal = np.einsum("vii->vi", curvature)
    diagonal += 1e-12 * diagonal.max(axis=1, keepdims=True) + np.finfo(float).tiny
    inverse = np.linalg.inv(curvature)
    if correlation is None:
        return np.sqrt(np.einsum("vii->vi", inverse).clip(0))
    spread = jacobian @ jacobian.swapaxes(1, 2)
    for lag, rho in enumerate(correlation[1 : model.q.size], 1):
        shared = (jacobian[..., :-lag] * rho[:-lag]) @ jacobian[..., lag:].swapaxes(1, 2)
        spread += shared + shared.swapaxes(1, 2)
    return np.sqrt(np.einsum("vii->vi", inverse @ spread @ inverse).clip(0))


def fit_peaks(
    volume: xr.Dataset | xr.DataArray,
    q_range: tuple[float, float],
    *,
    centres: Sequence[float] | None = None,
    shape: Shape = "gaussian",
    width: float | None = None,
    at_least: float = 5.0,
    correlation: np.ndarray | None = None,
) -> xr.Dataset:
    """Position, width and area of the peaks between two q, in every voxel.

    Parameters
    ----------
    volume : dims …, q (Å⁻¹): the intensity, or a Dataset of `intensity` and perhaps `sigma`. Without sigma the errors come from the scatter
        about the fit.
    q_range : (q_min, q_max), Å⁻¹; as much beside the peak as tells its background.
    centres : where peaks are expected, one fit of all of them; each may lie as far off as half-way to the next. None: one peak, wherever
        in the range the pattern is highest.
    shape : gaussian, or pseudo-voigt with a Lorentzian share for each peak.
    width : expected full width at half maximum; None takes an eighth of the range, or of the least distance of centres if less.
    at_least : a peak whose area is below so many of its sigma is none.
    correlation : (lag,) or (lag, q) of channels; None takes ``channel_correlation`` of the attributes of `sigma` or of the intensity.

    Returns
    -------
    Dataset (peak, …): `position` and `width` (full, at half maximum) in Å⁻¹, `area` in the volume's unit times Å⁻¹, each with `…_sigma`;
    `lorentzian` of a pseudo-Voigt; `chi2` (…) per degree of freedom; `reason` (peak, …), 0 where there is a peak, else the number of why
    there is none, which then is NaN: `REASONS`, also in its attributes.

    Raises
    ------
    ShapeError
        If there is no q, the range holds too few points, or centres lie outside.
    """
    dataset = volume if isinstance(volume, xr.Dataset) else volume.rename("intensity").to_dataset()
    if "q" not in dataset.coords or "intensity" not in dataset:
        raise ShapeError(f"the volume needs intensity over the dimension q with its coordinate; it has {dict(dataset.sizes)}")
    intensity = dataset["intensity"].transpose(..., "q")
    q = dataset["q"].to_numpy().astype(float)
    here = (q >= q_range[0]) & (q <= q_range[1])
    model = _model(q[here], q_range, centres, shape, width)
    cells = intensity.to_numpy()[..., here].reshape(-1, here.sum()).astype(float)
    errors = None
    if "sigma" in dataset:
        errors = dataset["sigma"].transpose(*intensity.dims).to_numpy()[..., here].reshape(cells.shape).astype(float)
    known = _correlation(dataset, correlation)
    known = None if known is None else np.broadcast_to(known if known.ndim == 2 else known[:, None], (len(known), q.size))[:, here]
    fits = fit_voxels(model, cells, errors, _start(model, cells, centres, width), known)
    return _labelled(model, fits, intensity, at_least, q_range)


def _correlation(dataset: xr.Dataset, given: np.ndarray | None) -> np.ndarray | None:
    for name in ("sigma", "intensity"):
        if given is None and name in dataset:
            given = dataset[name].attrs.get("channel_correlation")
    return None if given is None else np.asarray(given, float)


def _model(q: np.ndarray, q_range, centres: Sequence[float] | None, shape: Shape, width: float | None) -> Model:
    low, high = q_range
    at = [(low + high) / 2] if centres is None else sorted(centres)
    if shape not in ("gaussian", "pseudo-voigt"):
        raise ShapeError(f"a peak is gaussian or pseudo-voigt, not {shape!r}")
    if not (low < high and all(low < c < high for c in at) and (np.diff(at) > 0).all()):
        raise ShapeError(f"peaks at {list(at)} Å⁻¹ are not distinct places within {low} to {high} Å⁻¹")
    edges = [low, *((a + b) / 2 for a, b in zip(at, at[1:], strict=False)), high]
    ranges = np.array(list(zip(edges[:-1], edges[1:], strict=True)))
    model = Model(q, ranges, (0.0, 0.0), shape)
    if q.size <= model.n_parameters or not (np.diff(q) > 0).all():
        raise ShapeError(
            f"{low:g} to {high:g} Å⁻¹ holds {q.size} increasing points for {model.n_parameters} parameters: "
            "widen the range, integrate finer, or fit fewer peaks"
        )
    if width is not None and not 0 < width < np.inf:
        raise ShapeError(f"the expected width is {width} Å⁻¹: give one above 0")
    step = float(np.median(np.diff(q)))
    return Model(q, ranges, (step, max((high - low) / 1.5, 2 * step)), shape)


def _start(model: Model, cells: np.ndarray, centres: Sequence[float] | None, width: float | None) -> np.ndarray:
    """Parameters (voxel, parameter) to begin with: a line through the ends for background, and the highest point of what is above it."""
    q, filled = model.q, np.nan_to_num(cells, nan=0.0, posinf=0.0, neginf=0.0)
    ends = max(q.size // 10, 1)
    first, last = np.median(filled[:, :ends], axis=1), np.median(filled[:, -ends:], axis=1)
    span = q[-1] - q[0]
    above = filled - first[:, None] - (last - first)[:, None] * (q - q[0]) / span
    wide = width or min(span / 8, *(np.diff(sorted(centres)) / 4 if centres is not None and len(centres) > 1 else [np.inf]))
    kernel = np.exp(-4 * _LOG2 * ((q - q[q.size // 2]) / wide) ** 2)
    smooth = ndimage.convolve1d(above, kernel[kernel > 1e-4], axis=1, mode="constant") / kernel.sum()
    start = np.zeros((len(cells), model.n_parameters))
    start[:, -2], start[:, -1] = (first + last) / 2, last - first
    for k, (low, high) in enumerate(model.ranges):
        inside = np.flatnonzero((q >= low) & (q <= high))
        top = inside[np.argmax(smooth[:, inside], axis=1)] if inside.size else np.zeros(len(cells), int)
        position = q[top] if centres is None else np.full(len(cells), float(sorted(centres)[k]))
        height = np.maximum(np.take_along_axis(smooth, top[:, None], axis=1)[:, 0], 0) * np.sqrt(2)
        start[:, k * model.size : k * model.size + 3] = np.stack([height * wide * 1.06, position, np.full(len(cells), wide)], axis=1)
        if model.shape == "pseudo-voigt":
            start[:, k * model.size + 3] = 0.3
    return start


def _labelled(model: Model, fits: Fits, intensity: xr.DataArray, at_least: float, q_range) -> xr.Dataset:
    shape, dims = intensity.shape[:-1], ("peak", *intensity.dims[:-1])
    reason = np.stack([_reason(model, fits, k, at_least) for k in range(len(model.ranges))])
    units = {"area": f"{intensity.attrs.get('units', '1')} 1/angstrom", "position": "1/angstrom", "width": "1/angstrom"}
    variables: dict[str, tuple] = {}
    for name, offset in [("position", 1), ("width", 2), ("area", 0), *([("lorentzian", 3)] if model.size == 4 else [])]:
        for suffix, source in (("", fits.parameters), ("_sigma", fits.sigma)):
            values = np.where(reason == FITTED, source[:, offset :: model.size][:, : len(model.ranges)].T, np.nan)
            variables[name + suffix] = (dims, values.reshape(-1, *shape), {"units": units.get(name, "1")})
    chi2 = np.where(fits.reason == NOT_MEASURED, np.nan, fits.chi2)
    variables["chi2"] = (dims[1:], chi2.reshape(shape), {"units": "1"})
    flags = {"flag_values": list(range(len(REASONS))), "flag_meanings": list(REASONS)}
    variables["reason"] = (dims, reason.reshape(-1, *shape), flags)
    coords = {name: c for name, c in intensity.coords.items() if "q" not in c.dims}
    attrs = {"shape": model.shape, "q_min_inv_angstrom": q_range[0], "q_max_inv_angstrom": q_range[1], "at_least_sigma": at_least}
    return xr.Dataset(variables, coords | {"peak": np.arange(len(model.ranges))}, attrs)


def _reason(model: Model, fits: Fits, line: int, at_least: float) -> np.ndarray:
    """(voxel,) why there is no such peak; 0 where there is."""
    at = line * model.size
    area, position, width = fits.parameters[:, at], fits.parameters[:, at + 1], fits.parameters[:, at + 2]
    low, high = model.ranges[line]
    reason = np.zeros(len(area), np.uint8)
    reason[(width <= model.widths[0] * (1 + 1e-9)) | (width >= model.widths[1] * (1 - 1e-9))] = WIDTH_AT_LIMIT
    reason[(position <= low) | (position >= high)] = AT_EDGE
    reason[~(area > at_least * fits.sigma[:, at])] = NO_PEAK
    unfit = (fits.reason == NOT_MEASURED) | ((fits.reason == NO_CONVERGENCE) & (reason == FITTED))
    return np.where(unfit, fits.reason, reason)
