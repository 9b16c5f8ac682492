"""Volumes to maps (Q-screening)."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from operandi.errors import ShapeError
from operandi.experiment import DEFAULT_WINDOWS, QWindow
from operandi.stages.overlaps import mixing
from operandi.stages.windows import Background, Windows, as_windows, bin_edges, plain_weights, weights_of


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
