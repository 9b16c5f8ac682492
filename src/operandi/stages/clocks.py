"""The clock of the potentiostat against the beamline's: the offset to add, its uncertainty, and the drift.

Where the offset cannot be known it is NaN with the reason; nothing is placed by a guess.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.signal import savgol_coeffs

from operandi.errors import ShapeError

Signal = tuple[NDArray[np.float64], NDArray[np.float64]]
_GRID = 1 << 18
_FEWEST, _MOST = 16, 12_000
_LEAST_CORRELATION = 0.8
_USUAL_DRIFT_PPM, _DRIFT_LIMIT_PPM, _LARGEST_DRIFT_PPM = 50.0, 25.0, 300.0


@dataclass(frozen=True, slots=True)
class ClockOffset:
    """Seconds to add to potentiostat time to get beamline time.

    ``offset_s`` holds at ``reference_s`` (potentiostat time) and grows by ``drift_ppm`` millionths of the time since;
    ``uncertainty_s`` is one standard deviation there. The drift is 0 where the measurement is too short to tell it; the reference then is
    the middle of what was compared, else the log's begin. NaN, with a ``reason``: the offset is unknown.
    """

    offset_s: float
    uncertainty_s: float
    drift_ppm: float
    reference_s: float = 0.0
    reason: str = ""

    def to_beamline(self, time: ArrayLike) -> NDArray[np.float64]:
        """Potentiostat time → beamline time, s; NaN where the offset is unknown."""
        time = np.asarray(time, np.float64)
        return time + self.offset_s + 1e-6 * self.drift_ppm * (time - self.reference_s)


def unknown(reason: str) -> ClockOffset:
    """An offset that cannot be known, and why."""
    return ClockOffset(np.nan, np.nan, np.nan, reason=reason)


def find_offset(
    log_time: ArrayLike, log_signal: ArrayLike, beamline_time: ArrayLike, beamline_signal: ArrayLike, *, search_s: float = 3 * 3600.0
) -> ClockOffset:
    """Find the offset by matching the beamline's own reading of voltage or current to the log.

    The two readings may differ by a factor and a constant (uncalibrated converters). A normalised cross-correlation over the parts
    that both cover (Padfield 2012, 10.1109/TIP.2011.2181402) finds the offset to a sample, a least-squares fit refines it together
    with the drift.

    Parameters
    ----------
    log_time, log_signal
        Potentiostat time, s, and the reading (row,). NaN is left out.
    beamline_time, beamline_signal
        Beamline time, s, and its own reading (sample,).
    search_s
        Largest offset that is looked for, either way.

    Returns
    -------
    ClockOffset
        NaN with its reason where the readings do not vary, do not match, match at several offsets, or determine the offset to worse than
        ten rows of the log and a minute.

    Raises
    ------
    ShapeError
        Times and readings of different lengths.
    """
    log, beamline = _clean(log_time, log_signal, "log"), _clean(beamline_time, beamline_signal, "beamline")
    for name, (time, signal) in (("log", log), ("beamline", beamline)):
        if len(time) < _FEWEST:
            return unknown(f"the {name} has only {len(time)} readings: {_FEWEST} are needed")
        if np.ptp(signal) <= 1e-9 * max(float(np.abs(signal).max()), 1e-30):
            return unknown(f"the reading of the {name} does not vary: any offset would do")
    period = max(
        float(np.median(np.diff(log[0]))), float(np.median(np.diff(beamline[0]))), np.ptp(log[0]) / _GRID, np.ptp(beamline[0]) / _GRID
    )
    if period <= 0:
        return unknown("the readings have no time between them")
    lags, correlation = _correlations(log, beamline, period, search_s)
    if not len(lags) or correlation.max() < _LEAST_CORRELATION:
        best = correlation.max(initial=0.0)
        return unknown(
            f"the beamline's reading does not match the log at any offset within {search_s:.0f} s (correlation {best:.2f} at best)"
        )
    best = int(np.argmax(correlation))
    if (rival := _rival(lags, correlation, best)) is not None:
        return unknown(f"the readings match at offsets of {lags[best]:.0f} s and {rival:.0f} s alike: give clock_offset_s, or search_s")
    return _refined(log, beamline, float(lags[best]), period)


def marked_offset(
    log_time: ArrayLike, log_current: ArrayLike, marker_s: float, *, stop_s: float | None = None, rest_ma: float = 1e-3
) -> ClockOffset:
    """The offset by one marker, or offset and drift by two.

    Parameters
    ----------
    log_time, log_current
        Potentiostat time, s, and the current, mA (row,). Currents up to ``rest_ma`` are none.
    marker_s
        Beamline time at which the current was switched on for the first time.
    stop_s
        Beamline time at which it was switched off for the last time, if that was marked too.

    Returns
    -------
    ClockOffset
        NaN with its reason where the log has no row without current before the first with one (or after the last, with ``stop_s``), a
        marker has no time, or two markers would need a drift of over 300 ppm.
    """
    time, current = _clean(log_time, log_current, "log")
    on = np.flatnonzero(np.abs(current) > rest_ma)
    if not len(on) or on[0] == 0:
        return unknown("the log does not show the start of the current")
    if not np.isfinite(marker_s) or (stop_s is not None and not np.isfinite(stop_s)):
        return unknown("the beamline's marker has no time")
    start = _switched(time, int(on[0]), float(marker_s))
    if stop_s is None:
        return start
    if on[-1] == len(time) - 1:
        return unknown("the log does not show the end of the current (yet)")
    return _joined(start, _switched(time, int(on[-1]) + 1, float(stop_s)))


def _switched(time: NDArray[np.float64], row: int, marker_s: float) -> ClockOffset:
    """The offset by a switch between a row and the one before it."""
    before, after = float(time[row - 1]), float(time[row])
    return ClockOffset(marker_s - 0.5 * (before + after), (after - before) / math.sqrt(12), 0.0, 0.5 * (before + after))


def _joined(first: ClockOffset, second: ClockOffset) -> ClockOffset:
    """Offset and drift of two switches; where they are too near to tell the drift, their mean at the middle."""
    apart, moved = second.reference_s - first.reference_s, second.offset_s - first.offset_s
    sigma = math.hypot(first.uncertainty_s, second.uncertainty_s)
    if abs(moved) > 1e-6 * _LARGEST_DRIFT_PPM * apart + 4 * sigma:
        return unknown(
            f"the markers say offsets of {first.offset_s:.1f} s and {second.offset_s:.1f} s: they mark other switches than the log's"
        )
    if 1e6 * sigma / apart < _DRIFT_LIMIT_PPM:
        return replace(first, drift_ppm=1e6 * moved / apart)
    middle = 0.5 * (first.reference_s + second.reference_s)
    return ClockOffset(0.5 * (first.offset_s + second.offset_s), 0.5 * sigma, 0.0, middle)


def _clean(time: ArrayLike, signal: ArrayLike, name: str) -> Signal:
    t, s = np.asarray(time, np.float64), np.asarray(signal, np.float64)
    if t.ndim != 1 or t.shape != s.shape:
        raise ShapeError(f"{name}: times of shape {t.shape}, readings of shape {s.shape}: give one reading for each time")
    finite = np.isfinite(t) & np.isfinite(s)
    order = np.argsort(t[finite], kind="stable")
    t, s = t[finite][order], s[finite][order]
    first = np.concatenate([[True], np.diff(t) > 0]) if len(t) else np.empty(0, bool)
    return t[first], s[first]


def _on_grid(signal: Signal, period: float) -> tuple[float, NDArray[np.float64]]:
    """First time, and the reading every ``period`` from there."""
    time, values = signal
    grid = np.arange(time[0], time[-1] + 0.5 * period, period)
    return float(time[0]), np.interp(grid, time, values)


def _correlations(log: Signal, beamline: Signal, period: float, search_s: float) -> Signal:
    """Correlation of the overlapping parts at every offset, where they overlap by a quarter of the shorter at least."""
    begun_log, a = _on_grid(log, period)
    begun_beamline, b = _on_grid(beamline, period)
    a, b = (a - a.mean()) / a.std(), (b - b.mean()) / b.std()
    size = 1 << (len(a) + len(b)).bit_length()

    def correlated(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.fft.irfft(np.fft.rfft(y, size) * np.conj(np.fft.rfft(x, size)), size)

    ones_a, ones_b = np.ones(len(a)), np.ones(len(b))
    n = np.round(correlated(ones_a, ones_b))
    sum_a, sum_b = correlated(a, ones_b), correlated(ones_a, b)
    overlap = np.maximum(n, 1)
    variance_a = correlated(a * a, ones_b) - sum_a**2 / overlap
    variance_b = correlated(ones_a, b * b) - sum_b**2 / overlap
    spread = np.sqrt(np.maximum(variance_a, 0) * np.maximum(variance_b, 0))
    covariance = correlated(a, b) - sum_a * sum_b / overlap
    # an overlap in which either hardly varies says nothing
    telling = (n >= max(_FEWEST, 0.25 * min(len(a), len(b)))) & (variance_a > 0.02 * n) & (variance_b > 0.02 * n)
    correlation = np.divide(covariance, spread, out=np.full(size, -1.0), where=telling & (spread > 0))
    shift = np.arange(size)
    shift[shift > size // 2] -= size
    # beamline sample k + shift goes with log sample k
    lags: NDArray[np.float64] = np.asarray(begun_beamline - begun_log + shift * period, np.float64)
    chosen = (shift > -len(a)) & (shift < len(b)) & telling & (np.abs(lags) <= search_s)
    order = np.argsort(lags[chosen])
    return lags[chosen][order], np.minimum(correlation[chosen][order], 1.0)


def _rival(lags: NDArray, correlation: NDArray, best: int) -> float | None:
    """Another offset, beyond the peak of the best, whose mismatch is less than twice that of the best."""
    mismatch = 1 - correlation
    level = max(2 * mismatch[best], 1e-4)
    alike = mismatch < level
    left, right = best, best
    while left > 0 and alike[left - 1]:
        left -= 1
    while right < len(lags) - 1 and alike[right + 1]:
        right += 1
    if left == 0 or right == len(lags) - 1:
        # the match does not end within the search: the readings vary too evenly to tell
        return float(lags[right] if best - left < right - best else lags[left])
    alike[max(left - 2, 0) : right + 3] = False
    return float(lags[np.flatnonzero(alike)[0]]) if alike.any() else None


@dataclass(frozen=True, slots=True)
class _Match:
    """Compares beamline samples with the log, as far as a factor and a constant do not explain the difference.

    ``offset`` holds at the time ``middle``, where it is least entangled with the drift.
    """

    log: Signal
    time: NDArray[np.float64]
    signal: NDArray[np.float64]
    middle: float
    noise: float = 0.0

    def potentiostat_time(self, offset: float, drift_ppm: float) -> NDArray[np.float64]:
        return self.middle - offset + (self.time - self.middle) / (1 + 1e-6 * drift_ppm)

    def predicted(self, offset: float, drift_ppm: float) -> NDArray[np.float64]:
        return np.interp(self.potentiostat_time(offset, drift_ppm), *self.log)

    def intervals(self, offset: float, drift_ppm: float) -> NDArray[np.int64]:
        """The two rows of the log, by the first, between which each sample lies."""
        rows = np.searchsorted(self.log[0], self.potentiostat_time(offset, drift_ppm), "right") - 1
        return np.clip(rows, 0, len(self.log[0]) - 2)

    def variance(self, offset: float, drift_ppm: float) -> NDArray[np.float64]:
        """Variance of each sample about the prediction.

        Where the log jumps from one row to the next, the moment of the jump is known to that interval only: all samples in it share
        an error of the jump's height over sqrt(12).
        """
        rows = self.intervals(offset, drift_ppm)
        jump = _jumps(self.log[1])
        together = np.bincount(rows, minlength=len(jump))
        return self.noise**2 + together[rows] * jump[rows] ** 2 / 12

    def misfit(self, offset: float, drift_ppm: float, variance: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
        """Residuals in standard deviations, and the factor; the noise counts in units of the beamline's signal."""
        weight = 1 / variance
        x = self.predicted(offset, drift_ppm)
        total = weight.sum()
        x, y = x - (weight @ x) / total, self.signal - (weight @ self.signal) / total
        factor = float((weight * x) @ y) / max(float((weight * x) @ x), 1e-300)
        return (y - factor * x) * np.sqrt(weight), factor

    def cost(self, offset: float, drift_ppm: float) -> float:
        """Chi-square; computers' clocks drift by some ten millionths, so much larger drifts count against a match."""
        residual, factor = self.misfit(offset, drift_ppm, self.variance(offset, drift_ppm))
        return float(residual @ residual) + (drift_ppm / _USUAL_DRIFT_PPM) ** 2 if factor > 0 else np.inf


def _jumps(signal: NDArray[np.float64]) -> NDArray[np.float64]:
    """By how much each change from row to row exceeds those before and after it."""
    change = np.abs(np.diff(signal))
    around = np.concatenate([[0.0], change, [0.0]])
    return np.maximum(change - np.maximum(around[:-2], around[2:]), 0.0)


def _smooth(signal: NDArray[np.float64]) -> NDArray[np.float64]:
    """The log with less noise: a parabola through up to nine rows, never across a jump.

    Unsmoothed, the log's noise would have slopes that look like information about the offset.
    """
    if len(signal) < 9:
        return signal
    noise = 1.4826 * float(np.median(np.abs(np.diff(signal, 2)))) / math.sqrt(6)
    row, edges = np.arange(len(signal)), np.flatnonzero(_jumps(signal) > 8 * noise)
    after = np.concatenate([[0], edges + 1])[np.searchsorted(edges, row)]
    before = np.concatenate([edges, [len(signal) - 1]])[np.searchsorted(edges, row)]
    half = np.minimum(np.minimum(row - after, before - row), 4)
    smooth = signal.copy()
    for h in (2, 3, 4):
        smooth[half == h] = np.convolve(signal, savgol_coeffs(2 * h + 1, 2), "same")[half == h]
    return smooth


def _refined(log: Signal, beamline: Signal, offset: float, period: float) -> ClockOffset:
    begun = float(log[0][0])
    inside = (beamline[0] >= begun + offset + 2 * period) & (beamline[0] <= log[0][-1] + offset - 2 * period)
    time, signal = beamline[0][inside], beamline[1][inside]
    stride = max(1, len(time) // _MOST)
    time, signal = time[::stride], signal[::stride]
    if len(time) < _FEWEST:
        return unknown("the log and the beamline's reading overlap too little")
    match = _scaled(_Match((log[0], _smooth(log[1])), time, signal, float(time.mean())), offset)
    # the drift that shifts either end by a period
    unit = 2e6 * period / float(np.ptp(time))
    offsets, drifts = offset + period * np.linspace(-2, 2, 17), np.linspace(-1, 1, 9) * min(unit, _LARGEST_DRIFT_PPM)
    _, offset, drift = min((match.cost(a, b), a, b) for a in offsets.tolist() for b in drifts.tolist())
    match = _scaled(match, offset, drift)
    _, sigma_drift = _uncertainty(match, offset, drift, period, unit)
    if sigma_drift < _DRIFT_LIMIT_PPM:
        offset, drift = _minimum(match, offset, drift, (0.25 * period, 0.1 * unit))
    else:
        drift = 0.0
        offset = _minimum(match, min(offsets.tolist(), key=lambda a: match.cost(a, 0.0)), 0.0, (0.25 * period, 0.0))[0]
    sigma, sigma_drift = _uncertainty(match, offset, drift, period, unit)
    if sigma > max(60.0, 10 * float(np.median(np.diff(log[0])))):
        return unknown(f"the reading varies too evenly: it tells the offset only to {sigma:.0f} s")
    middle = match.middle - offset
    if sigma_drift >= _DRIFT_LIMIT_PPM:
        return ClockOffset(offset, sigma, 0.0, middle)
    there = math.hypot(sigma, 1e-6 * sigma_drift * (middle - begun))
    return ClockOffset(offset + 1e-6 * drift * (begun - middle), there, drift, begun)


def _scaled(match: _Match, offset: float, drift_ppm: float = 0.0) -> _Match:
    """With the beamline's signal in units of the log's, and the noise of their difference estimated from its median."""
    flat = np.ones(len(match.time))
    factor = match.misfit(offset, drift_ppm, flat)[1]
    match = replace(match, signal=match.signal / factor if factor > 0 else match.signal)
    total = 1.4826 * float(np.median(np.abs(match.misfit(offset, drift_ppm, flat)[0])))
    return replace(match, noise=max(total, 1e-5 * float(np.std(match.signal))))


def _minimum(match: _Match, offset: float, drift_ppm: float, scale: tuple[float, float]) -> tuple[float, float]:
    """Offset and drift of the least chi-square near the given ones; a scale of 0 keeps the drift."""
    size = 2 if scale[1] else 1

    def there(p: NDArray[np.float64]) -> tuple[float, float]:
        return offset + float(p[0]) * scale[0], drift_ppm + (float(p[1]) * scale[1] if size == 2 else 0.0)

    options = {"initial_simplex": np.vstack([np.full(size, -0.6), np.eye(size)]), "xatol": 1e-3, "fatol": 1e-3, "maxiter": 120}
    return there(minimize(lambda p: match.cost(*there(p)), np.zeros(size), method="Nelder-Mead", options=options).x)


def _uncertainty(match: _Match, offset: float, drift_ppm: float, period: float, unit: float) -> tuple[float, float]:
    """One standard deviation of offset (s) and drift (ppm).

    From the slopes of the prediction that a factor and a constant cannot imitate. Residuals within three rows of the log may share
    their error: the larger of the two estimates, independent (weighted least squares) and shared (clusters), counts.
    """
    variance = match.variance(offset, drift_ppm)
    root = 1 / np.sqrt(variance)
    residual, _ = match.misfit(offset, drift_ppm, variance)
    by_offset = (match.predicted(offset + 0.5 * period, drift_ppm) - match.predicted(offset - 0.5 * period, drift_ppm)) / period
    by_drift = (match.predicted(offset, drift_ppm + 0.5 * unit) - match.predicted(offset, drift_ppm - 0.5 * unit)) / unit
    basis, _ = np.linalg.qr(np.column_stack([match.predicted(offset, drift_ppm), np.ones(len(root))]) * root[:, None])
    slopes = np.column_stack([by_offset, by_drift]) * root[:, None]
    telling = slopes - basis @ (basis.T @ slopes)
    length = np.linalg.norm(telling, axis=0)
    if length[0] <= 1e-4 * max(float(np.linalg.norm(slopes[:, 0])), 1e-300):
        return np.inf, np.inf
    clusters = match.intervals(offset, drift_ppm) // 3
    shared = np.column_stack([np.bincount(clusters, telling[:, i] * residual) for i in range(2)])
    scatter, information = shared.T @ shared, telling.T @ telling
    inflation = max(float(residual @ residual) / max(len(root) - 4, 1), 1.0)

    def spread(chosen: list[int]) -> NDArray[np.float64]:
        block = np.ix_(chosen, chosen)
        inverse = np.linalg.pinv(information[block])
        return np.sqrt(np.maximum(np.diag(inverse) * inflation, np.diag(inverse @ scatter[block] @ inverse)))

    information[1, 1] += _USUAL_DRIFT_PPM**-2
    apart = abs(information[0, 1]) < (1 - 1e-9) * np.sqrt(information[0, 0] * information[1, 1])
    both = spread([0, 1]) if apart else np.full(2, np.inf)
    sigma = both[0] if both[1] < _DRIFT_LIMIT_PPM else spread([0])[0]
    # a row of the log tells no finer
    return max(float(sigma), period / math.sqrt(12)), float(both[1])
