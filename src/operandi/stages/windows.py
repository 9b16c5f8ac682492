"""Windows in q to weights: how a pattern is summed into the intensity of each window, above its background."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from operandi.errors import ShapeError
from operandi.experiment import QWindow

Background = Literal["linear", "constant", "none"]
Windows = Sequence[QWindow] | Mapping[str, tuple[float, float]]

_BAND_SHARE = 1 / 3
_BAND_BINS = 2


def plain_weights(q: np.ndarray, windows: Windows, background: Background | None = None) -> np.ndarray:
    """The weights (phase, q), float64, by which a pattern is summed into its intensity in each window, above background.

    A pattern is taken as constant within each bin, whose edges lie halfway between the points, and a window cuts bins where it
    begins and ends. The weights are bin widths within the window, less what the background adds there. Background is estimated from
    two side bands just outside the window, each a third of the window wide and at least 2 bins: ``linear`` is the straight line
    through the means of both; ``constant`` the mean of what there is of both, which needs but one; ``none`` is 0. For two whole bands
    linear and constant are the same. What of a band lies in another of the windows would take that phase's reflection for background: it is
    cut off, and where that is more than half of the band, the other alone gives a constant (NMC lithiated and delithiated touch at
    4.62 Å⁻¹). What windows subtract from each other is left out (`window_weights`).

    Parameters
    ----------
    q : (q,) increasing, Å⁻¹.
    windows : windows of an experiment, or phase → (q_min, q_max) in Å⁻¹.
    background : in place of each window's own.

    Raises
    ------
    ShapeError
        If q does not increase, or a window or its background reaches beyond q.
    """
    q = np.asarray(q, float)
    edges, windows = bin_edges(q), as_windows(windows)
    return np.stack([weights_of(q, edges, w, background or w.background, [o for o in windows if o.phase != w.phase]) for w in windows])


def bin_edges(q: np.ndarray) -> np.ndarray:
    """(q + 1,) edges of the bins, halfway between the points."""
    if q.ndim != 1 or q.size < 2 or not (np.diff(q) > 0).all() or not np.isfinite(q).all():
        raise ShapeError(f"q must be at least 2 finite, increasing points, got shape {q.shape}: sort the axis first")
    middle = (q[1:] + q[:-1]) / 2
    return np.concatenate([[q[0] - (middle[0] - q[0])], middle, [q[-1] + (q[-1] - middle[-1])]])


def as_windows(windows: Windows) -> tuple[QWindow, ...]:
    """Windows of an experiment, from these or from phase → (q_min, q_max)."""
    if isinstance(windows, Mapping):
        windows = [QWindow(phase=k, q_min_inv_angstrom=low, q_max_inv_angstrom=high) for k, (low, high) in windows.items()]
    if not windows:
        raise ShapeError("there is no window to screen: give at least one")
    return tuple(windows)


def weights_of(q: np.ndarray, edges: np.ndarray, window: QWindow, background: str, others: Sequence[QWindow] = ()) -> np.ndarray:
    low, high = window.q_min_inv_angstrom, window.q_max_inv_angstrom
    tolerance = 1e-6 * (edges[-1] - edges[0])
    if low < edges[0] - tolerance or high > edges[-1] + tolerance:
        raise ShapeError(
            f"window {window.phase!r} ({low:g} to {high:g} Å⁻¹) reaches beyond the patterns ({edges[0]:.4g} to {edges[-1]:.4g} Å⁻¹): "
            "integrate a wider range of q, or leave the window out"
        )
    inside = _overlap(edges, low, high)
    if background == "none":
        return inside
    band = max((high - low) * _BAND_SHARE, _BAND_BINS * inside.sum() / np.count_nonzero(inside))
    ranges = [_free(r, others) for r in ((low - band, low), (high, high + band))]
    free = [r for r in ranges if r[1] - r[0] > 0.5 * band]
    if len(free) == 1:
        ranges, background = free, "constant"
    elif not free:
        ranges = [(low - band, low), (high, high + band)]
    sides = [side for side in (_overlap(edges, *r) for r in ranges) if side.sum() > 0.5 * band]
    if len(sides) < (2 if background == "linear" else 1):
        raise ShapeError(
            f"window {window.phase!r} ({low:g} to {high:g} Å⁻¹) has no room for its {background} background within the patterns "
            f"({edges[0]:.4g} to {edges[-1]:.4g} Å⁻¹): integrate a wider range of q, or set its background to "
            + ("constant or none" if background == "linear" else "none")
        )
    means = [side / side.sum() for side in sides]
    if background == "constant":
        return inside - inside.sum() * sum(sides) / np.sum(sides)
    left, right = (mean @ q for mean in means)
    share = (inside @ q / inside.sum() - left) / (right - left)
    return inside - inside.sum() * ((1 - share) * means[0] + share * means[1])


def _free(band: tuple[float, float], others: Sequence[QWindow]) -> tuple[float, float]:
    """The longest stretch of a band that no other window takes."""
    stretches = [band]
    for other in others:
        taken = other.q_min_inv_angstrom, other.q_max_inv_angstrom
        stretches = [part for s in stretches for part in ((s[0], min(s[1], taken[0])), (max(s[0], taken[1]), s[1])) if part[0] < part[1]]
    return max(stretches, key=lambda s: s[1] - s[0], default=(band[0], band[0]))


def _overlap(edges: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.clip(np.minimum(edges[1:], high) - np.maximum(edges[:-1], low), 0, None)
