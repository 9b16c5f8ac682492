"""The pattern of air, as it was measured: on the points in q of the patterns that it is subtracted from."""

from dataclasses import dataclass

import numpy as np

from operandi.errors import ShapeError


@dataclass(frozen=True, slots=True)
class Air:
    """Intensity (q,) of a pixel in counts and its variance, at the flux ``monitor``; NaN: patterns are taken as they are."""

    intensity: np.ndarray
    variance: np.ndarray
    monitor: float = np.nan

    def at(self, flux: float) -> tuple[np.ndarray, np.ndarray]:
        """Intensity and variance at another flux."""
        scale = np.float32(flux / self.monitor) if np.isfinite(self.monitor) else np.float32(1)
        return self.intensity * scale, self.variance * scale**2


def resample(q: np.ndarray, q_measured: np.ndarray, intensity: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Intensity and variance (q,) float32 at the points ``q``, between neighbouring points on a line; points that are NaN are left out.

    Raises
    ------
    ShapeError
        If what was measured does not reach, but for one step, as far as ``q``.
    """
    good = np.isfinite(intensity) & np.isfinite(variance) & np.isfinite(q_measured)
    at, order = q_measured[good], np.argsort(q_measured[good], kind="stable")
    at, values, spread = at[order], intensity[good][order], variance[good][order]
    step = float(np.median(np.diff(q))) if len(q) > 1 else 0.0
    if len(at) < 2 or at[0] > q[0] + step or at[-1] < q[-1] - step:
        seen = f"{at[0]:.4g} to {at[-1]:.4g}" if len(at) else "nothing"
        raise ShapeError(
            f"air was measured over {seen} Å⁻¹, but patterns reach from {q[0]:.4g} to {q[-1]:.4g}: measure it over all of that"
        )
    after = np.clip(np.searchsorted(at, q), 1, len(at) - 1)
    width = at[after] - at[after - 1]
    part = np.clip((q - at[after - 1]) / np.where(width > 0, width, 1), 0, 1)
    between = (1 - part) * values[after - 1] + part * values[after]
    spread = (1 - part) ** 2 * spread[after - 1] + part**2 * spread[after]
    return between.astype(np.float32), spread.astype(np.float32)


def mean_air(intensity: np.ndarray, variance: np.ndarray, monitor: np.ndarray | None) -> Air:
    """The mean of patterns (image, q) of air, NaN where none has the channel, at their mean ``monitor`` (image,).

    The sum of counts over the sum of fluxes, so that the brightest patterns count most. Patterns without flux are left out; without
    ``monitor`` all count alike.

    Raises
    ------
    ShapeError
        If there is no pattern with a flux.
    """
    flux = np.ones(len(intensity)) if monitor is None else np.asarray(monitor, float)
    used = np.isfinite(flux) & (flux > 0) & np.isfinite(intensity).any(axis=1)
    if not used.any():
        text = f"none of {len(intensity)} patterns of air has both counts and a flux: measure it with the monitor"
        raise ShapeError(f"{text}, or make corrections.monitor false")
    flux, counts, spread = flux[used], intensity[used].astype(float), variance[used].astype(float)
    there = np.isfinite(counts) & np.isfinite(spread)
    share = flux.mean() / np.where(there.any(axis=0), flux @ there, np.nan)
    total, total_spread = (np.where(there, values, 0).sum(axis=0) for values in (counts, spread))
    return Air(total * share, total_spread * share**2, np.nan if monitor is None else float(flux.mean()))
