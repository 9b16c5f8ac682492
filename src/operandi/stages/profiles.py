"""Small-angle profiles on a logarithmic axis: what a power law is fitted to."""

from dataclasses import dataclass, replace

import numpy as np

from operandi.errors import ShapeError
from operandi.kernels.units import run_units

BIN_WIDTH = 0.03
"""Width in ln q up to which points are taken together; d* is found between bins."""
_STEEPNESS = 3.5
"""Exponent by which points are weighed within a bin and its neighbours; it need only be near that of the data."""
_LINEAR_ABOVE = 0.1
"""Relative error from which on the logarithm is linearised: that of a noisy value is biased by half the error squared."""
_NEIGHBOURS = 2
_LEAST_SIGMA = 1e-6
_AT_ONCE = 2048
"""Spectra whose lines are fitted at a time: as many as a processor's cache holds."""
_MEAN_LOG_NORMAL = -0.635181
"""Expectation of ln |z| of a standard normal z, -(γ + ln 2)/2."""


@dataclass(frozen=True, slots=True)
class LogBins:
    """Bins of a q axis, highest q first.

    ``order`` (point,) picks the points, ``starts`` (bin,) where each bin begins among them, ``shape`` (point,) their expected share of
    it, ``log_q`` (bin,) falls, ``counts`` (bin,) of points.
    """

    order: np.ndarray
    starts: np.ndarray
    shape: np.ndarray
    log_q: np.ndarray
    counts: np.ndarray


@dataclass(frozen=True, slots=True)
class LogProfiles:
    """``log_q`` (bin,) falls; ``log_intensity`` and ``weight`` (n, bin), the inverse of its variance, 0 where there is nothing to use;
    ``measured`` (n,) whether any value is finite."""

    log_q: np.ndarray
    log_intensity: np.ndarray
    weight: np.ndarray
    measured: np.ndarray


def log_bins(q: np.ndarray, q_range: tuple[float, float]) -> LogBins:
    """Bins of the points of ``q`` (q,) Å⁻¹ above 0 within ``q_range`` (both ends included)."""
    inside = np.flatnonzero((q >= q_range[0]) & (q <= q_range[1]) & (q > 0))
    order = inside[np.argsort(-q[inside], kind="stable")]
    x = np.log(q[order])
    starts = [0]
    for i in range(1, len(x)):
        if x[starts[-1]] - x[i] >= BIN_WIDTH:
            starts.append(i)
    counts = np.diff([*starts, len(x)])
    centre = np.add.reduceat(x, starts) / counts
    return LogBins(order, np.array(starts), np.exp(-_STEEPNESS * (x - np.repeat(centre, counts))), centre, counts)


def profiles_of(bins: LogBins, intensity: np.ndarray, sigma: np.ndarray | None) -> LogProfiles:
    """Spectra (n, q), NaN where not measured, as profiles. Their error is ``sigma``, or what neighbours scatter by where that is more.

    No value is taken for another's error, and negative ones count: what is weak is not biased by its noise, unless it is lost in it.
    """
    values, variance = _binned(bins, intensity, sigma)
    flat = np.exp(_STEEPNESS * (bins.log_q - bins.log_q.mean()))
    measured = np.asarray(np.isfinite(values).any(axis=1))
    values = values * flat
    level = _smooth(values)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        level[~(level > 0)] = np.nan
        linear = np.log(level) + values / level - 1
        if variance is None:
            error = _scatter(bins, linear)
        else:
            error = np.sqrt(variance) * flat / level
            error *= np.maximum(_typical(*_apart(bins.log_q, linear, error)), 1.0)[:, None]
        error = np.maximum(error, _LEAST_SIGMA)
        exact = np.where((error < _LINEAR_ABOVE) & (values > 0), np.log(values), linear)
        usable = np.isfinite(exact) & (error < 1)
        weight = np.where(usable, error**-2.0, 0.0)
    return LogProfiles(bins.log_q, np.where(usable, exact, 0.0) - np.log(flat), weight, measured)


def _binned(bins: LogBins, intensity: np.ndarray, sigma: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Mean intensity and its variance (n, bin) at the centre of each bin; NaN where no point is finite."""
    values = intensity[:, bins.order]
    good = np.isfinite(values)
    errors = None if sigma is None else sigma[:, bins.order]
    if errors is not None:
        good &= np.isfinite(errors) & (errors > 0)
    if good.all():
        share = np.add.reduceat(bins.shape, bins.starts)
    else:
        values = np.where(good, values, 0)
        share = np.add.reduceat(np.where(good, bins.shape, 0.0), bins.starts, axis=1)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        mean = np.add.reduceat(values, bins.starts, axis=1, dtype=np.float64) / share
        if errors is None:
            return np.where(share > 0, mean, np.nan), None
        squares = np.square(np.where(good, errors, 0), dtype=np.float64)
        return np.where(share > 0, mean, np.nan), np.add.reduceat(squares, bins.starts, axis=1) / share**2


def _smooth(values: np.ndarray) -> np.ndarray:
    """The mean of each value and its neighbours, NaN left out."""
    good = np.isfinite(values)
    padded = np.pad(np.where(good, values, 0.0), ((0, 0), (_NEIGHBOURS, _NEIGHBOURS)))
    number = np.pad(good.astype(np.float64), ((0, 0), (_NEIGHBOURS, _NEIGHBOURS)))
    width, n = 2 * _NEIGHBOURS + 1, values.shape[1]
    total, count = (np.sum([array[:, i : i + n] for i in range(width)], axis=0) for array in (padded, number))
    with np.errstate(invalid="ignore", divide="ignore"):
        return total / count


def _apart(x: np.ndarray, y: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ln (n, bin - 2) of what each value lies off the line through its neighbours, over what ``error`` makes of it; and which are known.

    Its mean is that of ln |z| of a standard normal z. A knee or an outlier counts in it no more than its place.
    """
    share = (x[1:-1] - x[:-2]) / (x[2:] - x[:-2])
    off = y[:, 1:-1] - (1 - share) * y[:, :-2] - share * y[:, 2:]
    expected = np.sqrt(error[..., 1:-1] ** 2 + (share * error[..., 2:]) ** 2 + ((1 - share) * error[..., :-2]) ** 2)
    ratio = np.abs(off) / expected
    good = np.isfinite(ratio)
    return np.log(np.maximum(np.where(good, ratio, 1.0), _LEAST_SIGMA)), good


def _typical(logs: np.ndarray, good: np.ndarray) -> np.ndarray:
    """By what factor (n,) the scatter is more than expected; NaN where there is none."""
    return np.exp(np.where(good, logs, 0).sum(axis=1) / good.sum(axis=1) - _MEAN_LOG_NORMAL)


def _scatter(bins: LogBins, y: np.ndarray) -> np.ndarray:
    """Standard deviation (n, bin) by the scatter of each profile itself: for a point a power law of q."""
    x, single = bins.log_q - bins.log_q.mean(), 1 / np.sqrt(bins.counts)
    logs, good = _apart(x, y, single)
    logs, middle = np.where(good, logs, 0), x[1:-1]
    # einsum, not BLAS: the same sums whatever the number of threads
    sx, sxx, sxy = (np.einsum("nb,b->n", a, b) for a, b in ((good, middle), (good, middle**2), (logs, middle)))
    n, sy = good.sum(axis=1), logs.sum(axis=1)
    spread = sxx - sx**2 / n
    slope = np.where((n >= 10) & (spread > 0), (sxy - sx * sy / n) / spread, 0.0)
    return np.exp(((sy - slope * sx) / n - _MEAN_LOG_NORMAL)[:, None] + slope[:, None] * x) * single


def without_outliers(profiles: LogProfiles, sigmas: float = 6.0) -> LogProfiles:
    """The same, without single values that stand out of the median of five neighbours by more than so many standard deviations."""
    y = np.where(profiles.weight > 0, profiles.log_intensity, np.nan)
    padded = np.pad(y, ((0, 0), (_NEIGHBOURS, _NEIGHBOURS)), constant_values=np.nan)
    n = y.shape[1]
    median = _median_of_five([padded[:, i : i + n] for i in range(2 * _NEIGHBOURS + 1)])
    with np.errstate(invalid="ignore"):
        out = np.abs(y - median) * np.sqrt(profiles.weight) > sigmas
    return replace(profiles, weight=np.where(out, 0.0, profiles.weight))


def _median_of_five(of: list[np.ndarray]) -> np.ndarray:
    """NaN where any of them is."""
    a, b, c, d, e = of
    a, b = np.minimum(a, b), np.maximum(a, b)
    d, e = np.minimum(d, e), np.maximum(d, e)
    low, high = np.maximum(a, d), np.minimum(b, e)
    return np.maximum(np.minimum(low, high), np.minimum(np.maximum(low, high), c))


def fit_power_law(q: np.ndarray, intensity: np.ndarray, sigma: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The power laws amplitude · q^slope of many spectra at once: least squares in log-log, weighed by the errors.

    Parameters
    ----------
    q : (q,) Å⁻¹, above 0.
    intensity : (n, q); what is not finite or not above 0 is left out.
    sigma : its standard deviation, of the same shape; None weighs all points alike.

    Returns
    -------
    amplitude, slope
        (n,) float64; NaN where fewer than two points are there.

    Raises
    ------
    ShapeError
        If the arrays do not fit each other, or q is not above 0.
    """
    q, intensity = np.asarray(q, np.float64), np.asarray(intensity)
    if q.ndim != 1 or intensity.shape[1:] != q.shape or (sigma is not None and sigma.shape != intensity.shape):
        raise ShapeError(f"q of shape {q.shape} and intensity of shape {intensity.shape}, or sigma, do not fit: give (q,) and (n, q)")
    if not (np.isfinite(q).all() and (q > 0).all()):
        raise ShapeError("a power law needs q above 0: leave other points out")
    middle = np.log(q).mean()
    x = np.log(q) - middle
    if sigma is None:
        level, slope = _lines(x, intensity)
        some = np.flatnonzero(~np.isfinite(slope))
    else:
        level, slope = np.full((2, len(intensity)), np.nan)
        some = np.arange(len(intensity))
    if len(some):
        level[some], slope[some] = _weighted_lines(x, intensity[some], None if sigma is None else sigma[some])
    with np.errstate(over="ignore"):
        return np.exp(level - slope * middle), slope


def _lines(x: np.ndarray, intensity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Value at 0 and slope (n,) of the lines through all of ln intensity over ``x``, whose mean is 0; not finite where a point is none."""
    project = np.stack([np.full_like(x, 1 / x.size), x / (x @ x)], axis=1).astype(intensity.dtype)
    found = np.empty((len(intensity), 2))

    def work(unit: int) -> None:
        part = slice(unit * _AT_ONCE, (unit + 1) * _AT_ONCE)
        with np.errstate(invalid="ignore", divide="ignore"):
            found[part] = np.log(intensity[part]) @ project

    run_units(work, -(-len(intensity) // _AT_ONCE))
    return found[:, 0], found[:, 1]


def _weighted_lines(x: np.ndarray, intensity: np.ndarray, sigma: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """The same, by the weight of each point; NaN where fewer than two points are there."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        y = np.log(intensity.astype(np.float64))
        weight = np.isfinite(y).astype(np.float64) if sigma is None else np.square(intensity / sigma.astype(np.float64))
        bad = ~(np.isfinite(y) & np.isfinite(weight))
        y[bad], weight[bad] = 0, 0
        n, sx, sxx = (weight @ np.stack([np.ones_like(x), x, x * x], axis=1)).T
        sy, sxy = ((weight * y) @ np.stack([np.ones_like(x), x], axis=1)).T
        slope = (sxy - sx * sy / n) / (sxx - sx**2 / n)
        slope[np.count_nonzero(weight, axis=-1) < 2] = np.nan
        return (sy - slope * sx) / n, slope
