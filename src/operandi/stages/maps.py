"""Volumes to maps (Q-screening), and maps in false colour."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from operandi.errors import ShapeError
from operandi.experiment import DEFAULT_WINDOWS, QWindow
from operandi.stages.overlaps import mixing
from operandi.stages.windows import Background, Windows, as_windows, bin_edges, plain_weights, weights_of

Limits = Mapping[str, tuple[float, float]]
Phases = str | Sequence[str]

COLOURS = ("red", "green", "blue")


@dataclass(frozen=True, slots=True)
class Screening:
    """What patterns are summed by into maps: weights (phase, q) of intensities, and of variances (`variance_weights`)."""

    weights: np.ndarray
    variance: np.ndarray

    @classmethod
    def of(
        cls, q: np.ndarray, windows: Windows, *, background: Background | None = None, correlation: np.ndarray | None = None
    ) -> "Screening":
        """For windows on the points q, whose channels are correlated (lag, q) or not."""
        weights = window_weights(q, windows, background)
        return cls(weights, variance_weights(weights, correlation))


def window_weights(q: np.ndarray, windows: Windows, background: Background | None = None) -> np.ndarray:
    """The weights (phase, q), float64, by which a pattern is summed into its map of each window: `plain_weights`, less what is subtracted.

    A window's subtractions take the plain map of another window, times a ratio. As the sum over q that it is, the map's sigma is exact with
    them: what both windows count is not counted twice.

    Raises
    ------
    ShapeError
        As `plain_weights` and `mixing` do.
    """
    windows = as_windows(windows)
    return mixing(windows) @ plain_weights(q, windows, background)


def variance_weights(weights: np.ndarray, correlation: np.ndarray | None = None) -> np.ndarray:
    """The weights (phase, q), none negative, by which variances of channels are summed into those of sums by ``weights`` (phase, q).

    A pixel that is split between bins correlates them: for ``correlation`` (lag, q), that of each channel with itself, the next, the one
    after it, …, the variance of a sum is Σ w_b w_b' ρ_bb' σ_b σ_b', here with σ_b' as σ_b: right to a few percent where lines are not much
    narrower than pixels. None takes channels as independent.
    """
    if correlation is None:
        return weights**2
    products = weights * correlated(weights, correlation)
    total, kept = products.sum(axis=-1, keepdims=True), np.maximum(products, 0)
    return kept * np.maximum(total, 0) / np.maximum(kept.sum(axis=-1, keepdims=True), np.finfo(float).tiny)


def map_correlations(weights: np.ndarray, correlation: np.ndarray | None = None) -> np.ndarray:
    """(phase, phase) correlation coefficients of sums by ``weights`` (phase, q), for the same noise in all channels."""
    covariance = weights @ (weights if correlation is None else correlated(weights, correlation)).T
    sigma = np.sqrt(np.diagonal(covariance))
    return covariance / np.outer(sigma, sigma)


def correlated(weights: np.ndarray, correlation: np.ndarray) -> np.ndarray:
    """Weights (phase, q) times the matrix of correlations between channels."""
    n = weights.shape[-1]
    if correlation.ndim != 2 or correlation.shape[1] != n:
        raise ShapeError(f"correlations of shape {correlation.shape} do not fit {n} channels: give (lag,) or (lag, q)")
    spread = weights * correlation[0]
    for lag, rho in enumerate(correlation[1:n], 1):
        spread[:, : n - lag] += rho[: n - lag] * weights[:, lag:]
        spread[:, lag:] += rho[: n - lag] * weights[:, : n - lag]
    return spread


def apply_weights(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Sums (phase, …) float32 of values (…, q) by weights (phase, q); NaN where a channel that counts is NaN."""
    flat = values.reshape(-1, values.shape[-1])
    sums = np.empty((len(weights), len(flat)), np.float32)
    for total, weight in zip(sums, weights, strict=True):
        counts = np.flatnonzero(weight)
        span = counts
        if counts.size and counts[-1] - counts[0] + 1 == counts.size:
            span = slice(counts[0], counts[-1] + 1)
        # einsum, not BLAS: the same sums whatever the number of threads, and no channel without weight is touched
        np.einsum("pq,q->p", flat[:, span], weight[span].astype(flat.dtype), out=total, casting="same_kind")
    return sums.reshape(len(weights), *values.shape[:-1])


def screen(
    volume: xr.Dataset | xr.DataArray,
    windows: Windows | None = None,
    *,
    background: Background | None = None,
    correlation: np.ndarray | None = None,
) -> xr.Dataset:
    """One map for each phase: each voxel's pattern integrated over a q window, above its local background.

    Parameters
    ----------
    volume : dims …, q (Å⁻¹), with its coordinate: the intensity, or a Dataset of `intensity` and perhaps `sigma`.
    windows : windows of an experiment, or phase → (q_min, q_max) in Å⁻¹. None takes those of `DEFAULT_WINDOWS` that the volume holds with
        the bands of their background.
    background : linear, constant or none, in place of each window's own; linear unless that says otherwise. See `plain_weights`.
    correlation : (lag,) or (lag, q), of each channel with itself, the next, …: that of pixels split between bins. None takes
        ``channel_correlation`` of the attributes of `sigma`, as `integrate` writes it, and without that channels as independent.

    Returns
    -------
    Dataset (phase, …): `intensity` in the volume's unit times Å⁻¹, and `sigma`, its standard deviation with that of the background,
    NaN where the volume has none. Maps that subtract each other or share channels are correlated: `correlation` (phase, other) tells
    how, for noise that is the same in all channels.

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
    if correlation is None and "sigma" in dataset:
        correlation = dataset["sigma"].attrs.get("channel_correlation")
    correlation = None if correlation is None else _by_channel(correlation, q.size)
    by = Screening.of(q, windows, background=background, correlation=correlation)
    maps = apply_weights(intensity.to_numpy(), by.weights)
    sigma = np.full_like(maps, np.nan) if variance is None else np.sqrt(apply_weights(variance, by.variance))
    coords = {name: c for name, c in intensity.coords.items() if "q" not in c.dims}
    coords["phase"] = [window.phase for window in windows]
    attrs = {"units": f"{intensity.attrs.get('units', '1')} 1/angstrom"}
    dims = ("phase", *intensity.dims[:-1])
    together = map_correlations(by.weights, correlation)
    variables = {"intensity": (dims, maps, attrs), "sigma": (dims, sigma, attrs), "correlation": (("phase", "other"), together)}
    return xr.Dataset(variables, coords | {"other": coords["phase"]}, _provenance(windows, background))


def _by_channel(correlation: np.ndarray, n: int) -> np.ndarray:
    """(lag, q) of correlations (lag,) or (lag, q)."""
    values = np.asarray(correlation, float)
    return np.broadcast_to(values[:, None], (values.size, n)) if values.ndim == 1 else values


def _fitting(q: np.ndarray, background: Background | None) -> tuple[QWindow, ...]:
    """The default windows for which these q suffice."""
    edges = bin_edges(q)
    fitting = []
    for window in DEFAULT_WINDOWS:
        with contextlib.suppress(ShapeError):
            weights_of(q, edges, window, background or window.background)
            fitting.append(window)
    if not fitting:
        raise ShapeError(f"q from {edges[0]:.4g} to {edges[-1]:.4g} Å⁻¹ holds no default window: give windows of your own")
    return tuple(fitting)


def _provenance(windows: Sequence[QWindow], background: Background | None) -> dict:
    return {
        "q_min_inv_angstrom": [w.q_min_inv_angstrom for w in windows],
        "q_max_inv_angstrom": [w.q_max_inv_angstrom for w in windows],
        "background": [background or w.background for w in windows],
        "subtract": [", ".join(f"{t.ratio} × {t.phase}" for t in w.subtract) for w in windows],
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
