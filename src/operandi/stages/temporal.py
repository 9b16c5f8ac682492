"""How the projections of a reacting cell change from set to set: a covariance over its progress, learned from all sets.

Progress is the charge, or the time where no charge is known. A projection is a constant of its own angle plus a change that
neighbouring angles share; the covariance of that change is learned from the measured projections by expectation maximisation, and
the best linear prediction for a moment follows from it (kriging with unknown constants). Source of the method: Rasmussen & Williams,
Gaussian Processes for Machine Learning (2006), sections 2.7 and 5.4; James, Hastie & Sugar, Biometrika 87, 587 (2000) for the sparse
curves.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from operandi.errors import ShapeError

SAME_ANGLE_DEG = 0.05
"""Projections closer than this are repetitions of one angle: an encoder's noise, far below the blur of a voxel at the rim."""
_KNOTS = 15
_ITERATIONS = 8
_GROUPS = 45
_MOST = 24
_MISFIT = 1e-4
_FLAT = 1e4


@dataclass(frozen=True, slots=True)
class TemporalModel:
    """The covariance of projections, (knot, knot) at equidistant ``knots`` of progress, in the unit of intensity².

    ``noise`` is the variance of a single cell, ``change_deg`` how far changes of two angles stay alike, and ``static`` and
    ``static_deg`` the variance and reach in angle of what does not change; at ``static_deg`` 0 nothing is assumed of it, and it must be
    measured at each angle.
    """

    knots: np.ndarray
    covariance: np.ndarray
    noise: float
    change_deg: float
    static: float
    static_deg: float

    def prior(self, apart_deg: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Covariance (a, b) of cells at progress ``first`` (a,) and ``second`` (b,), ``apart_deg`` (a, b) from each other."""
        return _static(self, apart_deg) + _alike(apart_deg, self.change_deg) * (
            splines(first, self.knots) @ self.covariance @ splines(second, self.knots).T
        )

    def weights(self, apart_deg: np.ndarray, progress: np.ndarray, from_deg: np.ndarray, moment: float) -> np.ndarray:
        """Weights (n,), sum 1, of projections at ``progress`` (n,) that give the one ``from_deg`` (n,) away at ``moment``."""
        inverse = np.linalg.inv(self.prior(apart_deg, progress, progress) + self.noise * np.eye(progress.size))
        simple = inverse @ self.prior(from_deg[:, None], progress, np.array([moment]))[:, 0]
        constant = inverse.sum(axis=1)
        return simple + constant * (1 - simple.sum()) / constant.sum()


class Group(NamedTuple):
    """Neighbours in angle: their positions, distances from the middle, distances from each other, and second moments of their cells."""

    members: np.ndarray
    from_deg: np.ndarray
    apart_deg: np.ndarray
    moments: np.ndarray


def angles_apart(first_deg: np.ndarray, second_deg: np.ndarray | float) -> np.ndarray:
    """Distance of two angles, 0 … 180°. Opposite projections count as far apart: theirs are other translations."""
    apart = np.mod(np.abs(first_deg - second_deg), 360.0)
    return np.minimum(apart, 360.0 - apart)


def distinct_angles(rotation_deg: np.ndarray) -> np.ndarray:
    """The angle (n,) that each of the projections (n,) repeats: the first of those within `SAME_ANGLE_DEG`."""
    order = np.argsort(rotation_deg, kind="stable")
    starts = np.flatnonzero(np.diff(rotation_deg[order], prepend=-np.inf) > SAME_ANGLE_DEG)
    angle = np.empty(rotation_deg.size)
    angle[order] = np.repeat(rotation_deg[order][starts], np.diff(np.append(starts, rotation_deg.size)))
    return angle


def neighbours(rotation_deg: np.ndarray, middle_deg: float, reach_deg: float) -> np.ndarray:
    """Positions of the projections within ``reach_deg`` of an angle, at most the nearest 24."""
    apart = angles_apart(rotation_deg, middle_deg)
    near = np.flatnonzero(apart <= reach_deg + SAME_ANGLE_DEG)
    return near if near.size <= _MOST else near[np.argsort(apart[near], kind="stable")[:_MOST]]


def learn(intensity: np.ndarray, variance: np.ndarray, rotation_deg: np.ndarray, progress: np.ndarray) -> TemporalModel:
    """The temporal model of the projections of several sets.

    A voxel's change is shared by the angles between which a feature two voxels wide at the rim moves by its own width: 4 / translations
    rad.

    Parameters
    ----------
    intensity, variance : (n, translation, channel), of few channels that show what changes (maps of phases rather than all q); NaN is
        not measured. The cells of all channels are pooled, so bring them to a common scale.
    rotation_deg, progress : (n,), charge in mAh or time in s at the middle of each projection.

    Raises
    ------
    ShapeError
        The arrays do not fit, or no cell is measured in two neighbouring projections at different progress.
    """
    if intensity.ndim != 3 or variance.shape != intensity.shape or not rotation_deg.shape == progress.shape == intensity.shape[:1]:
        raise ShapeError(
            f"intensity {intensity.shape}, variance {variance.shape}, "
            f"rotation {rotation_deg.shape} and progress {progress.shape} do not fit: "
            "give (n, translation, channel) twice and (n,) twice"
        )
    angle, change_deg = distinct_angles(rotation_deg), float(np.rad2deg(4 / intensity.shape[1]))
    cells = intensity.reshape(len(intensity), -1).astype(float)
    middles = np.unique(angle)
    middles = middles[:: -(-middles.size // _GROUPS)]
    groups = [g for middle in middles if (g := _group(cells, angle, middle, change_deg)) is not None]
    change = _spread(groups)
    if not change > 0:
        raise ShapeError("no cell is measured twice at neighbouring angles: a temporal model needs at least two sets that have some")
    knots = np.linspace(progress.min(), progress.max(), _KNOTS)
    start = change * _matern((knots[:, None] - knots) / max(0.5 * np.ptp(knots), 1e-12))
    noise = (float(np.nanmean(variance)) if np.isfinite(variance).any() else 0.0) + _MISFIT * change
    repeated = np.median(np.unique(angle, return_counts=True)[1]) > 1
    static, static_deg = (_FLAT * change, 0.0) if repeated else _smooth_static(cells, angle, change)
    return _improve(TemporalModel(knots, start, noise, change_deg, static, static_deg), groups, progress)


def splines(progress: np.ndarray, knots: np.ndarray) -> np.ndarray:
    """Natural cubic splines (n, knot) that are 1 at one knot each, at ``progress`` (n,); beyond the knots as at the nearest one."""
    if np.ptp(knots) == 0:
        return np.full((progress.size, knots.size), 1 / knots.size)
    return _spline(tuple(knots.tolist()))(np.clip(progress, knots[0], knots[-1]))


@lru_cache(maxsize=8)
def _spline(knots: tuple[float, ...]) -> Any:
    from scipy.interpolate import CubicSpline

    return CubicSpline(knots, np.eye(len(knots)), bc_type="natural")


def _group(cells: np.ndarray, angle: np.ndarray, middle_deg: float, reach_deg: float) -> Group | None:
    members = neighbours(angle, middle_deg, reach_deg)
    members = members[np.isfinite(cells[members]).mean(axis=1) > 0.5]
    values = cells[members]
    values = values[:, np.isfinite(values).all(axis=0)]
    if members.size < 2 or values.shape[1] == 0:
        return None
    at = angle[members]
    return Group(members, angles_apart(at, middle_deg), angles_apart(at[:, None], at), values @ values.T / values.shape[1])


def _spread(groups: list[Group]) -> float:
    """Mean variance of the cells of a group about their mean over its members of the same angle (all, where none repeats)."""
    total = []
    for group in groups:
        same = (group.apart_deg == 0).astype(float)
        if same.sum() == len(same):
            same[:] = 1.0
        share = same / same.sum(axis=1)
        centred = np.eye(len(same)) - share
        total.append(np.trace(centred @ group.moments @ centred.T) / len(same))
    return float(np.mean(total)) if total else 0.0


def _smooth_static(cells: np.ndarray, angle: np.ndarray, change: float) -> tuple[float, float]:
    """Variance of what does not change, and how far in angle it stays alike: from the mean square difference of next angles."""
    order = np.argsort(angle, kind="stable")
    ordered = cells[order]
    variance = max(float(np.nanmean(np.nanvar(ordered, axis=0))), change)
    lag = max(1, angle.size // 60)
    apart = float(np.median(angles_apart(angle[order][lag:], angle[order][:-lag])))
    share = np.clip(0.5 * float(np.nanmean((ordered[lag:] - ordered[:-lag]) ** 2)) / variance, 1e-4, 0.9)
    reach = np.geomspace(0.1, 90.0, 200)
    return variance, float(reach[np.argmin(np.abs(1 - _matern(apart / reach) - share))])


def _improve(model: TemporalModel, groups: list[Group], progress: np.ndarray) -> TemporalModel:
    """Expectation maximisation: the covariance becomes the mean posterior second moment of the change in the middle of each group."""
    covariance = model.covariance
    fixed = [
        (splines(progress[g.members], model.knots), _alike(g.apart_deg, model.change_deg), _static(model, g.apart_deg)) for g in groups
    ]
    for _ in range(_ITERATIONS):
        total = np.zeros_like(covariance)
        for group, (basis, alike, static) in zip(groups, fixed, strict=True):
            prior = static + alike * (basis @ covariance @ basis.T) + model.noise * np.eye(len(basis))
            across = (covariance @ basis.T) * _alike(group.from_deg, model.change_deg)
            gain = np.linalg.solve(prior, across.T).T
            total += gain @ group.moments @ gain.T + covariance - gain @ across.T
        covariance = total / len(groups)
    return TemporalModel(model.knots, covariance, model.noise, model.change_deg, model.static, model.static_deg)


def _static(model: TemporalModel, apart_deg: np.ndarray) -> np.ndarray:
    if model.static_deg == 0:
        return model.static * (apart_deg <= SAME_ANGLE_DEG)
    return model.static * _matern(apart_deg / model.static_deg)


def _alike(apart_deg: np.ndarray, reach_deg: float) -> np.ndarray:
    return np.exp(-0.5 * (apart_deg / reach_deg) ** 2)


def _matern(distance: np.ndarray) -> np.ndarray:
    r = np.sqrt(5) * np.abs(distance)
    return (1 + r + r**2 / 3) * np.exp(-r)
