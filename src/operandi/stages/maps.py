"""Volumes to maps (Q-screening), and maps in false colour."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import xarray as xr

from operandi.errors import ShapeError
from operandi.experiment import DEFAULT_WINDOWS, QWindow

Background = Literal["linear", "constant", "none"]
Windows = Sequence[QWindow] | Mapping[str, tuple[float, float]]
Limits = Mapping[str, tuple[float, float]]
Phases = str | Sequence[str]

COLOURS = ("red", "green", "blue")
_BAND_SHARE = 1 / 3
_BAND_BINS = 2


def window_weights(q: np.ndarray, windows: Windows, background: Background | None = None) -> np.ndarray:
    """The weights (phase, q), float64, by which a pattern is summed into its intensity in each window, above background.

    A pattern is taken as constant within each bin, whose edges lie halfway between the points, and a window cuts bins where it
    begins and ends. The weights are bin widths within the window, less what the background adds there. Background is estimated from
    two side bands just outside the window, each a third of the window wide and at least 2 bins: ``linear`` is the straight line
    through the means of both; ``constant`` the mean of what there is of both, which needs but one; ``none`` is 0. For two whole bands
    linear and constant are the same. A band that lies mostly in another of the windows would take that phase's reflection for
    background: it is not used, and the other band alone gives a constant (NMC lithiated and delithiated touch at 4.62 Å⁻¹).

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
    edges, windows = _edges(q), as_windows(windows)
    return np.stack([_weights(q, edges, w, background or w.background, [o for o in windows if o.phase != w.phase]) for w in windows])


def _edges(q: np.ndarray) -> np.ndarray:
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


def _weights(q: np.ndarray, edges: np.ndarray, window: QWindow, background: str, others: Sequence[QWindow] = ()) -> np.ndarray:
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
    ranges = [(low - band, low), (high, high + band)]
    free = [r for r in ranges if sum(_shared(r, other) for other in others) <= 0.5 * band]
    if len(free) == 1:
        ranges, background = free, "constant"
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


def _shared(band: tuple[float, float], other: QWindow) -> float:
    """How much of a band another window takes, Å⁻¹."""
    return max(min(band[1], other.q_max_inv_angstrom) - max(band[0], other.q_min_inv_angstrom), 0.0)


def _overlap(edges: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.clip(np.minimum(edges[1:], high) - np.maximum(edges[:-1], low), 0, None)


def apply_weights(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Sums (phase, …) float32 of values (…, q) by weights (phase, q); NaN where a channel that counts is NaN."""
    flat = values.reshape(-1, values.shape[-1])
    sums = np.empty((len(weights), len(flat)), np.float32)
    for total, weight in zip(sums, weights, strict=True):
        counts = np.flatnonzero(weight)
        span = slice(counts[0], counts[-1] + 1)
        # einsum, not BLAS: the same sums whatever the number of threads, and no channel outside the span is touched
        np.einsum("pq,q->p", flat[:, span], weight[span].astype(flat.dtype), out=total, casting="same_kind")
    return sums.reshape(len(weights), *values.shape[:-1])


def screen_values(
    intensity: np.ndarray, variance: np.ndarray | None, q: np.ndarray, windows: Windows, background: Background | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Maps (phase, y, x) of a volume (y, x, q) and their sigma; see `screen`."""
    weights = window_weights(q, windows, background)
    maps = apply_weights(intensity, weights)
    return maps, None if variance is None else np.sqrt(apply_weights(variance, weights**2))


def screen(volume: xr.Dataset | xr.DataArray, windows: Windows | None = None, *, background: Background | None = None) -> xr.Dataset:
    """One map for each phase: each voxel's pattern integrated over a q window, above its local background.

    Parameters
    ----------
    volume : dims …, q (Å⁻¹), with its coordinate: the intensity, or a Dataset of `intensity` and perhaps `sigma`.
    windows : windows of an experiment, or phase → (q_min, q_max) in Å⁻¹. None takes those of `DEFAULT_WINDOWS` that the volume holds with
        the bands of their background.
    background : linear, constant or none, in place of each window's own; linear unless that says otherwise. See `window_weights`.

    Returns
    -------
    Dataset (phase, …): `intensity` in the volume's unit times Å⁻¹, and `sigma`, its standard deviation with that of the background,
    NaN where the volume has none. Channels are taken as independent.

    Raises
    ------
    ShapeError
        If q does not increase, or a window or its background reaches beyond q.
    """
    dataset = volume if isinstance(volume, xr.Dataset) else volume.rename("intensity").to_dataset()
    if "q" not in dataset.coords:
        raise ShapeError(f"the volume needs the dimension q and its coordinate; it has {dict(dataset.sizes)}")
    intensity = dataset["intensity"].transpose(..., "q")
    variance = dataset["sigma"].transpose(*intensity.dims).to_numpy() ** 2 if "sigma" in dataset else None
    q = dataset["q"].to_numpy()
    windows = _fitting(q, background) if windows is None else as_windows(windows)
    maps, sigma = screen_values(intensity.to_numpy(), variance, q, windows, background)
    coords = {name: c for name, c in intensity.coords.items() if "q" not in c.dims}
    coords["phase"] = [window.phase for window in windows]
    attrs = {"units": f"{intensity.attrs.get('units', '1')} 1/angstrom"}
    dims = ("phase", *intensity.dims[:-1])
    sigma = np.full_like(maps, np.nan) if sigma is None else sigma
    return xr.Dataset({"intensity": (dims, maps, attrs), "sigma": (dims, sigma, attrs)}, coords, _provenance(windows, background))


def _fitting(q: np.ndarray, background: Background | None) -> tuple[QWindow, ...]:
    """The default windows for which these q suffice."""
    edges = _edges(q)
    fitting = []
    for window in DEFAULT_WINDOWS:
        with contextlib.suppress(ShapeError):
            _weights(q, edges, window, background or window.background)
            fitting.append(window)
    if not fitting:
        raise ShapeError(f"q from {edges[0]:.4g} to {edges[-1]:.4g} Å⁻¹ holds no default window: give windows of your own")
    return tuple(fitting)


def _provenance(windows: Sequence[QWindow], background: Background | None) -> dict:
    return {
        "q_min_inv_angstrom": [w.q_min_inv_angstrom for w in windows],
        "q_max_inv_angstrom": [w.q_max_inv_angstrom for w in windows],
        "background": [background or w.background for w in windows],
    }


def composite(
    maps: xr.Dataset | xr.DataArray,
    red: Phases = (),
    green: Phases = (),
    blue: Phases = (),
    *,
    limits: Limits | None = None,
    percentiles: tuple[float, float] = (1.0, 99.5),
    gamma: float = 1.0,
) -> xr.DataArray:
    """Maps in false colour, uint8 (…, rgb), ready for any image file or screen.

    Each colour is a phase or the sum of several, scaled linearly from black at the lower to full at the upper limit, then raised to
    ``1 / gamma``. NaN is black, as is a colour without phase.

    Parameters
    ----------
    maps : dims phase, …: the intensity, or a Dataset that holds `intensity`.
    limits : colour → (lower, upper), such as `composite_limits` of a whole series gives; colours that it lacks get their own.
    percentiles : of the finite voxels, the limits of the other colours.

    Raises
    ------
    ShapeError
        If a phase is unknown, no colour has one, or percentiles, limits or gamma make no scale.
    """
    intensity = _intensity(maps)
    chosen = _chosen(intensity, red, green, blue)
    scales = composite_limits(intensity, red, green, blue, percentiles=percentiles) | dict(limits or {})
    if not gamma > 0:
        raise ShapeError(f"gamma must be above 0, got {gamma}")
    template = intensity.isel(phase=0, drop=True)
    rgb = np.zeros((*template.shape, 3), np.uint8)
    for channel, colour in enumerate(COLOURS):
        if colour in chosen:
            rgb[..., channel] = _shade(chosen[colour], *scales[colour], gamma)
    attrs = {"units": "1", **{colour: list(_names(phases)) for colour, phases in zip(COLOURS, (red, green, blue), strict=True)}}
    attrs |= {f"{colour}_limits": [float(v) for v in scales[colour]] for colour in chosen}
    return xr.DataArray(rgb, {**template.coords, "rgb": list(COLOURS)}, (*template.dims, "rgb"), "rgb", attrs)


def composite_limits(
    maps: xr.Dataset | xr.DataArray,
    red: Phases = (),
    green: Phases = (),
    blue: Phases = (),
    *,
    percentiles: tuple[float, float] = (1.0, 99.5),
) -> dict[str, tuple[float, float]]:
    """Colour → (lower, upper) limit from percentiles of the finite voxels; of maps with a frame dimension, one scale for the series."""
    if not 0 <= percentiles[0] < percentiles[1] <= 100:
        raise ShapeError(f"percentiles must be two increasing numbers from 0 to 100, got {percentiles}")
    limits = {}
    for colour, values in _chosen(_intensity(maps), red, green, blue).items():
        finite = values[np.isfinite(values)]
        low, high = np.percentile(finite, percentiles) if finite.size else (0.0, 0.0)
        limits[colour] = (float(low), float(high))
    return limits


def composite_arrays(layers: Sequence[np.ndarray], upper: float, *, lower: float = 0.0, gamma: float = 1.0) -> np.ndarray:
    """Red, green and blue layers (y, x) as one picture (y, x, rgb) uint8, on one scale from black at ``lower`` to full at ``upper``."""
    return np.stack([_shade(layer, lower, upper, gamma) for layer in layers], axis=-1)


def _names(phases: Phases) -> tuple[str, ...]:
    return (phases,) if isinstance(phases, str) else tuple(phases)


def _intensity(maps: xr.Dataset | xr.DataArray) -> xr.DataArray:
    intensity = maps["intensity"] if isinstance(maps, xr.Dataset) else maps
    if "phase" not in intensity.coords:
        raise ShapeError(f"maps need the dimension phase and its names; they have {dict(intensity.sizes)}")
    return intensity


def _chosen(intensity: xr.DataArray, red: Phases, green: Phases, blue: Phases) -> dict[str, np.ndarray]:
    """Colour → sum of its phases, for the colours that have some."""
    known = [str(name) for name in intensity["phase"].to_numpy()]
    chosen = {}
    for colour, phases in zip(COLOURS, (red, green, blue), strict=True):
        if unknown := [name for name in _names(phases) if name not in known]:
            raise ShapeError(f"{colour} shows {', '.join(map(repr, unknown))}, but the maps are {', '.join(map(repr, known))}")
        if _names(phases):
            chosen[colour] = sum(intensity.isel(phase=known.index(name), drop=True).to_numpy() for name in _names(phases))
    if not chosen:
        raise ShapeError(f"a composite needs a phase for at least one of red, green, blue; the maps are {', '.join(map(repr, known))}")
    return chosen


def _shade(values: np.ndarray, low: float, high: float, gamma: float) -> np.ndarray:
    """uint8 brightness; all black where there is no range."""
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ShapeError(f"limits of a colour must be finite, got {low} and {high}")
    if high <= low:
        return np.zeros(values.shape, np.uint8)
    share = np.clip(np.nan_to_num((values - low) / (high - low), nan=0.0), 0, 1)
    return np.rint(255 * share ** (1 / gamma)).astype(np.uint8)
