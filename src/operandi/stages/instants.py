"""Frames of one instant: the projections of all sets, weighted so that together they show the cell at one moment.

A projection has its own time, so a frame made of consecutive sets shows different times in different directions. Filtered back
projection is linear: a frame of one instant is a weighted sum of projections, whose weights depend on their angles and times alone (and on
the channel, where the model holds one covariance for each), and so is its variance. Repetitions of an angle are summed up to one
projection each; what comes out is reconstructed like any sinogram.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from operandi.errors import ShapeError
from operandi.stages.temporal import Band, TemporalModel, angles_apart, distinct_angles, neighbours, smoothing

Scheme = Literal["linear", "quadratic", "model"]


@dataclass(frozen=True, slots=True)
class Projections:
    """The projections of several sets, one after another in the order in which they were measured.

    ``rotation_deg`` (n,). ``progress`` (n,) or (n, translation): how far the reaction was, the charge in mAh where the log tells it (it
    follows the reaction more closely), else the time in s. ``intensity`` and ``variance`` (n, translation, q); NaN is not measured.
    """

    rotation_deg: np.ndarray
    progress: np.ndarray
    intensity: np.ndarray
    variance: np.ndarray

    def __post_init__(self) -> None:
        n = self.rotation_deg.shape
        fits = self.intensity.ndim == 3 and self.variance.shape == self.intensity.shape and len(n) == 1 and self.intensity.shape[:1] == n
        if not fits or self.progress.shape not in (n, self.intensity.shape[:2]):
            raise ShapeError(
                f"rotation {n}, progress {self.progress.shape}, intensity {self.intensity.shape} and variance {self.variance.shape} "
                "do not fit: give (n,), (n,) or (n, translation), and twice (n, translation, q)"
            )


@dataclass(frozen=True, slots=True)
class Instant:
    """A sinogram (rotation, translation, q) of one moment and its variance, exact for independent cells; NaN is not measured.

    ``rotation_deg`` (rotation,) increases. ``one_sided`` (rotation,): the moment lies outside what was measured at this angle.
    ``provisional``: at some angle nothing is measured at or after the moment yet, so that the next sets change the result.
    """

    moment: float
    rotation_deg: np.ndarray
    intensity: np.ndarray
    variance: np.ndarray
    one_sided: np.ndarray
    provisional: bool


def instant_sinogram(projections: Projections, moment: float, scheme: Scheme = "model", model: TemporalModel | None = None) -> Instant:
    """The sinogram of the cell at one moment, from the projections of all sets.

    Parameters
    ----------
    moment : the wanted progress, in the unit of ``projections.progress``.
    scheme : ``linear`` between the two repetitions of an angle about the moment; ``quadratic`` through the three nearest, which keeps
        the curvature (linear outside); ``model``: the best linear prediction by ``model`` from all repetitions and the neighbouring angles.
        Angles that never repeat (a golden-angle scan) need the model.
    model : what `learn` gave, for the scheme ``model``: of the same channels, or pooled, which serves any.

    Raises
    ------
    ShapeError
        The scheme is unknown, needs a model or one of other channels, or needs angles that repeat; the moment is not finite.
    """
    return instant_sinograms(projections, [moment], scheme, model)[0]


def instant_sinograms(
    projections: Projections, moments: Sequence[float], scheme: Scheme = "model", model: TemporalModel | None = None
) -> list[Instant]:
    """The sinograms of several moments, for not much more than the cost of one; see `instant_sinogram`."""
    wanted = np.array(moments, float)
    if not np.isfinite(wanted).all():
        raise ShapeError(f"the moment is {wanted[~np.isfinite(wanted)][0]}: give a charge or a time")
    if scheme not in ("linear", "quadratic", "model"):
        raise ShapeError(f"there is no scheme {scheme!r}; choose linear, quadratic or model")
    if scheme == "model" and model is None:
        raise ShapeError("the scheme 'model' needs a temporal model: learn one from the projections of all sets")
    if scheme == "model" and model and model.channels not in (1, projections.intensity.shape[2]):
        raise ShapeError(
            f"the model holds {model.channels} channels, the projections {projections.intensity.shape[2]}: learn it from the same, "
            "or pooled, for any"
        )
    angle = distinct_angles(projections.rotation_deg)
    rows, row = np.unique(angle, return_inverse=True)
    if scheme != "model" and np.bincount(row).max() < 2:
        raise ShapeError(f"no angle is measured twice: {scheme} interpolation needs repetitions, use the scheme 'model'")
    measured = np.isfinite(projections.intensity).any(axis=2)
    progress = np.broadcast_to(projections.progress.reshape(len(angle), -1), measured.shape)
    trend = model.trend if scheme == "model" and model else None
    if trend is not None:
        projections = replace(projections, intensity=projections.intensity - trend.at(angle, projections.progress))
    measured &= np.isfinite(progress) & np.isfinite(projections.rotation_deg)[:, None]
    parts = _parts(projections, measured, smoothed=model is not None and scheme == "model" and model.coarse is not None)
    intensity, variance = np.full((2, wanted.size, rows.size, *projections.intensity.shape[1:]), np.nan, np.float32)
    for columns in _alike_columns(progress, measured):
        used = np.flatnonzero(measured[:, columns[0]])
        if not used.size:
            continue
        at, (there, own) = progress[used, columns[0]], np.unique(row[used], return_inverse=True)
        weights = _weights(angle[used], own, at, wanted, scheme, model)
        some = parts.of(used, columns)
        for i, (fine, coarse) in enumerate(weights):
            here = np.ix_(there, columns)
            intensity[i][here], variance[i][here] = _combine(some, fine, coarse)
    if trend is not None:
        intensity += np.stack([trend.at(rows, np.full(rows.size, moment)) for moment in wanted])
    sides = [_sides(progress, measured, row, float(moment)) for moment in wanted]
    return [Instant(float(wanted[i]), rows, intensity[i], variance[i], *sides[i]) for i in range(wanted.size)]


def _weights(
    angle: np.ndarray, own: np.ndarray, progress: np.ndarray, moments: np.ndarray, scheme: Scheme, model: TemporalModel | None
) -> list[tuple[np.ndarray, np.ndarray | None]]:
    """For each moment the weights (m, row, n) of the fine part of the projections, and of the coarse part where there is one."""
    if scheme != "model" or model is None:
        return [(_repeated(own, progress, float(moment), scheme), None) for moment in moments]
    fine = _predictions(angle, progress, moments, model.fine)
    coarse = [None] * len(moments) if model.coarse is None else _predictions(angle, progress, moments, model.coarse)
    return list(zip(fine, coarse, strict=True))


class _Parts(NamedTuple):
    """Projections (n, translation, channel), 0 where not measured: intensity and variance as measured, the coarse part of the intensity,
    and what the variance of that has in common with the measured one, and is. The last three are None where nothing is smoothed."""

    intensity: np.ndarray
    variance: np.ndarray
    coarse: np.ndarray | None
    shared: np.ndarray | None
    spread: np.ndarray | None

    def of(self, used: np.ndarray, columns: np.ndarray) -> "_Parts":
        """Of some projections and translations."""
        here = np.ix_(used, columns)
        smoothed = (None if part is None else part[here] for part in self[2:])
        return _Parts(self.intensity[here], self.variance[here], *smoothed)


def _parts(projections: Projections, measured: np.ndarray, *, smoothed: bool) -> _Parts:
    # a channel that is missing where others are measured makes NaN, as it must
    intensity, variance = (np.where(measured[..., None], a, 0).astype(np.float32) for a in (projections.intensity, projections.variance))
    if not smoothed:
        return _Parts(intensity, variance, None, None, None)
    coarse, shared, spread = (np.empty_like(intensity) for _ in range(3))
    for i, there in enumerate(measured):
        share = smoothing(there).astype(np.float32)
        coarse[i], shared[i], spread[i] = share @ intensity[i], np.diag(share)[:, None] * variance[i], share**2 @ variance[i]
    return _Parts(intensity, variance, coarse, shared, spread)


def _combine(parts: _Parts, fine: np.ndarray, coarse: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Intensity and variance (row, translation, channel) of weights (m, row, n) for the fine part of projections, and for the coarse one.

    With the smoothing S, a projection p contributes f (p - S p) + c S p = f p + d S p, where d = c - f.
    """
    intensity, variance = _sum(fine, parts.intensity), _sum(fine**2, parts.variance)
    if coarse is not None and parts.coarse is not None and parts.shared is not None and parts.spread is not None:
        excess = coarse - fine
        intensity += _sum(excess, parts.coarse)
        variance += 2 * _sum(fine * excess, parts.shared) + _sum(excess**2, parts.spread)
    return intensity, variance


def _sum(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Sums (row, translation, channel) of values (n, translation, channel) by weights (m, row, n), m = 1 or channel."""
    if len(weights) == 1:
        return np.tensordot(weights[0].astype(np.float32), values, 1)
    return np.moveaxis(weights.astype(np.float32) @ np.moveaxis(values, 2, 0), 0, 2)


def _alike_columns(progress: np.ndarray, measured: np.ndarray) -> list[np.ndarray]:
    """Translations in groups that were measured in the same projections at the same progress."""
    key = np.concatenate([np.where(measured, progress, 0.0), measured]).T
    group = np.unique(key, axis=0, return_inverse=True)[1].ravel()
    return [np.flatnonzero(group == i) for i in range(group.max() + 1)]


def _repeated(row: np.ndarray, progress: np.ndarray, moment: float, scheme: str) -> np.ndarray:
    """Weights (1, row, n) of the projections, of which those of one ``row`` (n,) repeat an angle."""
    weights = np.zeros((1, row.max() + 1, row.size))
    span = max(float(np.ptp(progress)), 1e-12)
    for number in np.unique(row):
        own = np.flatnonzero(row == number)
        own = own[np.argsort(progress[own], kind="stable")]
        weights[0, number, own] = _interpolation((progress[own] - moment) / span, quadratic=scheme == "quadratic")
    return weights


def _interpolation(at: np.ndarray, *, quadratic: bool) -> np.ndarray:
    """Weights (n,) of values at the increasing positions ``at`` (n,) that give the value at 0."""
    weights = np.zeros(at.size)
    if at.size == 1:
        weights[0] = 1.0
        return weights
    left = int(np.clip(np.searchsorted(at, 0.0) - 1, 0, at.size - 2))
    chosen = np.array([left, left + 1])
    if quadratic and at.size > 2 and at[0] <= 0 <= at[-1]:
        first = int(np.argmin([max(-at[i], at[i + 2]) for i in range(at.size - 2)]))
        chosen = np.arange(first, first + 3)
        chosen = chosen if np.diff(at[chosen]).min() > 1e-6 else np.array([left, left + 1])
    if at[chosen[-1]] - at[chosen[0]] < 1e-6:  # the reaction stood still: both show the same
        weights[chosen] = 1 / chosen.size
        return weights
    for i in chosen:
        others = chosen[chosen != i]
        weights[i] = np.prod(at[others] / (at[others] - at[i]))
    return weights


def _predictions(angle: np.ndarray, progress: np.ndarray, moments: np.ndarray, band: Band) -> np.ndarray:
    """Weights (moment, m, row, n) of the projections that predict each angle, for each covariance of the band."""
    rows = np.unique(angle)
    weights = np.zeros((moments.size, len(band.covariance), rows.size, angle.size))
    for i, middle in enumerate(rows):
        near = neighbours(angle, middle, band.change_deg, band.most)
        at = angle[near]
        weights[:, :, i, near] = band.weights(angles_apart(at[:, None], at), progress[near], angles_apart(at, middle), moments)
    return weights


def _sides(progress: np.ndarray, measured: np.ndarray, row: np.ndarray, moment: float) -> tuple[np.ndarray, bool]:
    """Which rows (rotation,) are measured on one side of the moment only, and whether on some of them the newest side is the open one."""
    count = np.maximum(measured.sum(axis=1), 1)
    mean = np.where(measured.any(axis=1), np.where(measured, progress, 0.0).sum(axis=1) / count, np.nan)
    sided, provisional = np.zeros(row.max() + 1, bool), False
    if row.size == sided.size:  # no angle repeats: neighbours, at any time, take the place of repetitions
        own = mean[np.isfinite(mean)]
        outside = own.size == 0 or not own.min() <= moment <= own.max()
        return np.full_like(sided, outside), bool(outside and own.size and abs(own[-1] - moment) <= abs(own[0] - moment))
    for number in range(sided.size):
        own = mean[row == number]
        own = own[np.isfinite(own)]
        sided[number] = own.size == 0 or not own.min() <= moment <= own.max()
        provisional |= bool(sided[number] and own.size and abs(own[-1] - moment) <= abs(own[0] - moment))
    return sided, provisional
