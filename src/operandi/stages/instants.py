"""Frames of one instant: the projections of all sets, weighted so that together they show the cell at one moment.

A projection has its own time, so a frame made of consecutive sets shows different times in different directions. Filtered back
projection is linear: a frame of one instant is a weighted sum of projections, whose weights depend on their angles and times alone (and on
the channel, where the model holds one covariance for each), and so is its variance. Repetitions of an angle are summed up to one
projection each; what comes out is reconstructed like any sinogram.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from operandi.errors import ShapeError
from operandi.stages.temporal import Band, TemporalModel, angles_apart, distinct_angles, neighbours, smoothing
from operandi.stages.volumes import angular_weights

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
        Angles that never repeat (a golden-angle scan) need the model; their rows are the measured ones times their weight, which only
        together make a frame.
    model : what `learn` gave, for the scheme ``model``: of the same channels, or pooled, which serves any.

    Raises
    ------
    ShapeError
        The scheme is unknown, needs a model or one of other channels, or needs angles that repeat; the moment is not finite.
    """
    if not np.isfinite(moment):
        raise ShapeError(f"the moment is {moment}: give a charge or a time")
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
    measured &= np.isfinite(progress) & np.isfinite(projections.rotation_deg)[:, None]
    bands = model.bands if model and scheme == "model" else (None,)
    weights = np.zeros((len(bands), *measured.shape, model.channels if bands[0] and model else 1))
    for columns in _alike_columns(progress, measured):
        used = np.flatnonzero(measured[:, columns[0]])
        if used.size:
            at = progress[used, columns[0]]
            for which, band in enumerate(bands):
                found = _band_weights(angle[used], at, moment, band, rows) if band else _repeated(row[used], at, moment, scheme)[:, None]
                weights[which][np.ix_(used, columns)] = found[:, None]
    sided, provisional = _sides(progress, measured, row, moment)
    intensity, variance = _apply(projections, weights, measured, row, rows.size)
    return Instant(moment, rows, intensity, variance, sided, provisional)


def _alike_columns(progress: np.ndarray, measured: np.ndarray) -> list[np.ndarray]:
    """Translations in groups that were measured in the same projections at the same progress."""
    key = np.concatenate([np.where(measured, progress, 0.0), measured]).T
    group = np.unique(key, axis=0, return_inverse=True)[1].ravel()
    return [np.flatnonzero(group == i) for i in range(group.max() + 1)]


def _repeated(row: np.ndarray, progress: np.ndarray, moment: float, scheme: str) -> np.ndarray:
    """Weights (n,) of the projections, of which those of one ``row`` (n,) repeat an angle."""
    weights = np.zeros(row.size)
    span = max(float(np.ptp(progress)), 1e-12)
    for number in np.unique(row):
        own = np.flatnonzero(row == number)
        own = own[np.argsort(progress[own], kind="stable")]
        weights[own] = _interpolation((progress[own] - moment) / span, quadratic=scheme == "quadratic")
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


def _band_weights(angle: np.ndarray, progress: np.ndarray, moment: float, band: Band, rows: np.ndarray) -> np.ndarray:
    """Weights (n, m) of the projections in the rows of their own angles, for each covariance of the band.

    What a neighbour adds to the prediction of an angle is the change between its own repetitions. It is added where it was measured, at
    the neighbour's angle: nothing is blurred, and rows stay independent of each other. A row's share of the frame is its angular weight.
    """
    share = dict(zip(rows.tolist(), angular_weights(rows).tolist(), strict=True))
    weights = np.zeros((angle.size, len(band.covariance)))
    for middle in np.unique(angle):
        near = neighbours(angle, middle, band.change_deg, band.most)
        at = angle[near]
        own = band.weights(angles_apart(at[:, None], at), progress[near], angles_apart(at, middle), moment)
        weights[near] += own.T * share[float(middle)]
    return weights / np.array([share[a] for a in angle.tolist()])[:, None]


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


def _apply(
    projections: Projections, weights: np.ndarray, measured: np.ndarray, row: np.ndarray, n_rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """Weighted sums over the repetitions of each angle: intensity and variance (rotation, translation, q), float32.

    ``weights`` (band, n, translation, m): of the fine part, and of the coarse part if there is one. With the smoothing S, a projection p
    contributes f (p - S p) + c S p = f p + d S p, where d = c - f.
    """
    shape = (n_rows, *projections.intensity.shape[1:])
    intensity, variance = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for i in np.flatnonzero((weights != 0).any(axis=(0, 2, 3))):
        where = measured[i]
        values, spread = projections.intensity[i, where], projections.variance[i, where]
        fine = weights[0, i, where].astype(np.float32)
        made, square = fine * values, fine**2 * spread
        if len(weights) > 1:
            share = smoothing(where)[np.ix_(where, where)].astype(np.float32)
            excess = weights[1, i, where].astype(np.float32) - fine
            made += excess * (share @ values)
            square += 2 * fine * excess * np.diag(share)[:, None] * spread + excess**2 * (share**2 @ spread)
        intensity[row[i], where] += made
        variance[row[i], where] += square
    nothing = np.ones(shape[:2], bool)
    np.logical_and.at(nothing, row, ~measured)
    intensity[nothing] = variance[nothing] = np.nan
    return intensity, variance
