"""How the projections of a reacting cell change from set to set: a covariance over its progress, learned from all sets.

Progress is the charge, or the time where no charge is known. A projection is a constant of its own angle plus a change that
neighbouring angles share; the covariance of that change is learned from the measured projections by expectation maximisation, and
the best linear prediction for a moment follows from it (kriging with unknown constants). Source of the method: Rasmussen & Williams,
Gaussian Processes for Machine Learning (2006), sections 2.7 and 5.4; James, Hastie & Sugar, Biometrika 87, 587 (2000) for the sparse
curves.

What is wide in a projection stays alike over larger angles than what is narrow, and stands further above the noise. So each projection is
split into a coarse part, smoothed along its translations, and the fine rest, which are predicted apart: the coarse one by projections
further around, which were taken at other moments. Without it a phase that begins within a frame begins too early in some directions.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from operandi.errors import ShapeError

if TYPE_CHECKING:
    from operandi.stages.trends import Trend

SAME_ANGLE_DEG = 0.05
"""Projections closer than this are repetitions of one angle: an encoder's noise, far below the blur of a voxel at the rim."""
_KNOTS = 15
_ITERATIONS = 60
_MISFIT = 1e-4
_FLAT = 1e4
_BLUR = 3.0
"""Standard deviation, in translations, of the smoothing that makes the coarse part."""
_GROUPS, _MOST = 45, 24
_COARSE_GROUPS, _COARSE_MOST = 15, 90


@dataclass(frozen=True, slots=True)
class Band:
    """The covariance of one part of the projections, one for all channels together (m = 1) or one for each (m = channel), intensity².

    ``covariance`` (m, knot, knot) is at equidistant ``knots`` of progress. ``noise`` (m,) is the variance of a single cell, ``change_deg``
    how far changes of two angles stay alike, and ``static`` (m,) and ``static_deg`` (m,) the variance and reach in angle of what does not
    change; at ``static_deg`` 0 nothing is assumed of it, and it must be measured at each angle. ``most`` neighbours are counted.
    """

    knots: np.ndarray
    covariance: np.ndarray
    noise: np.ndarray
    change_deg: float
    static: np.ndarray
    static_deg: np.ndarray
    most: int

    @property
    def repeats(self) -> bool:
        """Whether angles are measured again, so that nothing need be assumed of what does not change."""
        return not self.static_deg.any()

    def prior(self, apart_deg: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Covariance (m, a, b) of cells at progress ``first`` (a,) and ``second`` (b,), ``apart_deg`` (a, b) from each other."""
        changing = splines(first, self.knots) @ self.covariance @ splines(second, self.knots).T
        return _static(self, apart_deg) + _alike(apart_deg, self.change_deg) * changing

    def weights(self, apart_deg: np.ndarray, progress: np.ndarray, from_deg: np.ndarray, moments: np.ndarray) -> np.ndarray:
        """Weights (moment, m, n), sum 1, of projections at ``progress`` (n,) that give the one ``from_deg`` (n,) away at ``moments``."""
        noise = self.noise[:, None, None] * np.eye(progress.size)
        wanted = self.prior(from_deg[:, None], progress, moments)
        solved = np.linalg.solve(
            self.prior(apart_deg, progress, progress) + noise, np.concatenate([wanted, np.ones_like(wanted[..., :1])], 2)
        )
        simple, constant = np.moveaxis(solved[..., :-1], 2, 0), solved[..., -1]
        lacking = 1 - simple.sum(axis=-1, keepdims=True)
        return simple + constant * lacking / constant.sum(axis=-1, keepdims=True)


@dataclass(frozen=True, slots=True)
class TemporalModel:
    """How projections change: their ``coarse`` part, smoothed along the translations, and the ``fine`` rest; None: all of it is fine.

    With a ``trend``, what the cell does as a whole, both are of what it leaves.
    """

    fine: Band
    coarse: Band | None = None
    trend: "Trend | None" = None

    @property
    def bands(self) -> tuple[Band, ...]:
        """The fine one, and the coarse one if there is any."""
        return (self.fine,) if self.coarse is None else (self.fine, self.coarse)

    @property
    def channels(self) -> int:
        """Of how many channels it holds a covariance each; 1: one for all."""
        return len(self.fine.covariance)


class Groups(NamedTuple):
    """Neighbours in angle, for each group: positions (g, n), -1 where there are fewer; distances from the middle and from each other.

    ``moments`` (m, g, n, n) are the second moments of their cells, 0 where nobody is.
    """

    members: np.ndarray
    from_deg: np.ndarray
    apart_deg: np.ndarray
    moments: np.ndarray

    @property
    def present(self) -> np.ndarray:
        """(g, n) where a member is."""
        return self.members >= 0


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


def neighbours(rotation_deg: np.ndarray, middle_deg: float, reach_deg: float, most: int) -> np.ndarray:
    """Positions of the projections within ``reach_deg`` of an angle, at most the ``most`` nearest."""
    apart = angles_apart(rotation_deg, middle_deg)
    near = np.flatnonzero(apart <= reach_deg + SAME_ANGLE_DEG)
    return near if near.size <= most else near[np.argsort(apart[near], kind="stable")[:most]]


def smoothing(measured: np.ndarray) -> np.ndarray:
    """What makes the coarse part of a projection of its cells (translation,): (translation, translation).

    Cells that are not ``measured`` (translation,) are interpolated between those that are, and have no share.
    """
    at = np.arange(measured.size)
    share = np.exp(-0.5 * ((at[:, None] - at) / _BLUR) ** 2)
    share /= share.sum(axis=1, keepdims=True)
    if measured.all() or not measured.any():
        return share * measured
    there = np.flatnonzero(measured)
    left = np.clip(np.searchsorted(there, at, side="right") - 1, 0, max(there.size - 2, 0))
    right = np.minimum(left + 1, there.size - 1)
    part = np.clip((at - there[left]) / np.maximum(there[right] - there[left], 1), 0, 1)
    filled = np.zeros((at.size, at.size))
    np.add.at(filled, (at, there[left]), 1 - part)
    np.add.at(filled, (at, there[right]), part)
    return share @ filled


def learn(
    intensity: np.ndarray, variance: np.ndarray, rotation_deg: np.ndarray, progress: np.ndarray, *, pooled: bool = False
) -> TemporalModel:
    """The temporal model of the projections of several sets.

    A voxel's change is shared by the angles between which a feature two voxels wide at the rim moves by its own width: 4 / translations
    rad.

    Parameters
    ----------
    intensity, variance : (n, translation, channel), of few channels that show what changes (maps of phases rather than all q); NaN is
        not measured.
    rotation_deg, progress : (n,), charge in mAh or time in s at the middle of each projection.
    pooled : one covariance for all channels, which then must have a common scale, in place of one for each. It serves any other channel
        too; but phases turn at charges of their own, and what does not change is best averaged, so that one for each is closer.

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
    angle, reach = distinct_angles(rotation_deg), float(np.rad2deg(4 / intensity.shape[1]))
    if np.median(np.unique(angle, return_counts=True)[1]) == 1 or intensity.shape[1] < 4 * _BLUR:
        return TemporalModel(_learn_band(intensity, variance, angle, progress, _Reach(reach, _MOST, _GROUPS), pooled=pooled))
    coarse = _coarse_part(intensity)
    kernel = smoothing(np.ones(intensity.shape[1]))[intensity.shape[1] // 2]
    share = float((kernel**2).sum())
    left = 1 - 2 * float(kernel.max()) + share
    wide = _Reach(2 * _BLUR * reach, _COARSE_MOST, _COARSE_GROUPS)
    return TemporalModel(
        _learn_band(intensity - coarse, left * variance, angle, progress, _Reach(reach, _MOST, _GROUPS), pooled=pooled),
        _learn_band(coarse, share * variance, angle, progress, wide, pooled=pooled),
    )


class _Reach(NamedTuple):
    """How far in angle changes stay alike, how many neighbours count, and about how many angles the covariance is learned."""

    change_deg: float
    most: int
    groups: int


def _coarse_part(intensity: np.ndarray) -> np.ndarray:
    """The coarse part (n, translation, channel); NaN is not measured."""
    known = np.isfinite(intensity)
    coarse = np.where(known, intensity, 0.0)
    for row, there in zip(coarse, known, strict=True):
        row[:] = smoothing(there.any(axis=1)) @ row
    return np.where(known, coarse, np.nan)


def _learn_band(
    intensity: np.ndarray, variance: np.ndarray, angle: np.ndarray, progress: np.ndarray, reach: _Reach, *, pooled: bool
) -> Band:
    cells = intensity.reshape(1, len(angle), -1) if pooled else np.moveaxis(intensity, 2, 0)
    groups = _groups(cells.astype(float), angle, reach)
    change = _spread(groups)
    if not (change > 0).any():
        raise ShapeError("no cell is measured twice at neighbouring angles: a temporal model needs at least two sets that have some")
    change = np.maximum(change, 1e-9 * change.max())
    knots = np.linspace(progress.min(), progress.max(), _KNOTS)
    start = change[:, None, None] * _matern((knots[:, None] - knots) / max(0.5 * np.ptp(knots), 1e-12))
    noise = _mean_over_cells(variance, pooled=pooled) + _MISFIT * change
    static, static_deg = _FLAT * change, np.zeros_like(change)
    if np.median(np.unique(angle, return_counts=True)[1]) == 1:
        static, static_deg = _smooth_static(cells.astype(float), angle, change)
    return _improve(Band(knots, start, noise, reach.change_deg, static, static_deg, reach.most), groups, progress)


def splines(progress: np.ndarray, knots: np.ndarray) -> np.ndarray:
    """Natural cubic splines (n, knot) that are 1 at one knot each, at ``progress`` (n,); beyond the knots as at the nearest one."""
    if np.ptp(knots) == 0:
        return np.full((progress.size, knots.size), 1 / knots.size)
    return _spline(tuple(knots.tolist()))(np.clip(progress, knots[0], knots[-1]))


@lru_cache(maxsize=8)
def _spline(knots: tuple[float, ...]) -> Any:
    from scipy.interpolate import CubicSpline

    return CubicSpline(knots, np.eye(len(knots)), bc_type="natural")


def _mean_over_cells(values: np.ndarray, *, pooled: bool) -> np.ndarray:
    """Mean (m,) of what is known of (n, translation, channel); 0 where nothing is."""
    known, over = np.isfinite(values), None if pooled else (0, 1)
    total = np.where(known, values, 0.0).sum(axis=over, dtype=float) / np.maximum(known.sum(axis=over), 1)
    return np.atleast_1d(total)


def _groups(cells: np.ndarray, angle: np.ndarray, reach: _Reach) -> Groups:
    """Groups about angles all around, of cells (m, n, cell); members that are measured less than half are left out."""
    known = np.isfinite(cells).mean(axis=2)
    usable = known[known.any(axis=1)].mean(axis=0) > 0.5 if known.any() else np.zeros(angle.size, bool)
    middles = np.unique(angle)
    middles = middles[:: -(-middles.size // reach.groups)]
    found = [(neighbours(angle, middle, reach.change_deg, reach.most), middle) for middle in middles]
    found = [(members[usable[members]], middle) for members, middle in found if np.count_nonzero(usable[members]) > 1]
    size = max((members.size for members, _ in found), default=0)
    members = np.full((len(found), size), -1)
    moments = np.zeros((len(cells), len(found), size, size))
    for g, (own, _) in enumerate(found):
        members[g, : own.size] = own
        for m, values in enumerate(cells[:, own]):
            values = values[:, np.isfinite(values).all(axis=0)]
            moments[m, g, : own.size, : own.size] = values @ values.T / max(values.shape[1], 1)
    at, middle = angle[members], np.array([middle for _, middle in found])
    return Groups(members, angles_apart(at, middle[:, None]), angles_apart(at[..., None], at[:, None]), moments)


def _spread(groups: Groups) -> np.ndarray:
    """Mean variance (m,) of the cells of groups about their mean over members of the same angle (all, where none repeats)."""
    if not groups.members.size:
        return np.zeros(len(groups.moments))
    both = groups.present[:, :, None] & groups.present[:, None]
    same = both & (groups.apart_deg == 0)
    alone = same.sum(axis=(1, 2)) == groups.present.sum(axis=1)
    same = np.where(alone[:, None, None], both, same)
    centred = np.eye(same.shape[1]) - same / np.maximum(same.sum(axis=2, keepdims=True), 1)
    spread = np.einsum("gij,mgjk,gik->mg", centred, groups.moments, centred, optimize=True)
    return (spread / groups.present.sum(axis=1)).mean(axis=1)


def _smooth_static(cells: np.ndarray, angle: np.ndarray, change: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Variance (m,) of what does not change, and how far in angle it stays alike: from the mean square difference of next angles."""
    order = np.argsort(angle, kind="stable")
    ordered = cells[:, order]
    variance = np.maximum(np.nanmean(np.nanvar(ordered, axis=1), axis=1), change)
    lag = max(1, angle.size // 60)
    apart = float(np.median(angles_apart(angle[order][lag:], angle[order][:-lag])))
    share = np.clip(0.5 * np.nanmean((ordered[:, lag:] - ordered[:, :-lag]) ** 2, axis=(1, 2)) / variance, 1e-4, 0.9)
    reach = np.geomspace(0.1, 90.0, 200)
    return variance, reach[np.argmin(np.abs(1 - _matern(apart / reach) - share[:, None]), axis=1)]


def _improve(band: Band, groups: Groups, progress: np.ndarray) -> Band:
    """Expectation maximisation: the covariance becomes the mean posterior second moment of the change in the middle of each group."""
    covariance = band.covariance
    present = groups.present
    basis = splines(progress[groups.members].ravel(), band.knots).reshape(*present.shape, -1) * present[..., None]
    alike = _alike(groups.apart_deg, band.change_deg)
    near = _alike(groups.from_deg, band.change_deg)[..., None] * basis
    both = present[:, :, None] & present[:, None]
    fixed = np.where(both, _static(band, groups.apart_deg), 0.0)
    fixed += np.where(present[:, None], band.noise[:, None, None, None], 1.0) * np.eye(present.shape[1])
    for _ in range(_ITERATIONS):
        spread = covariance[:, None]
        prior = fixed + alike * (basis @ spread @ basis.swapaxes(1, 2))
        across = near @ spread
        gain = np.linalg.solve(prior, across)
        second = gain.swapaxes(2, 3) @ (groups.moments @ gain - across)
        covariance = covariance + second.mean(axis=1)
    return replace(band, covariance=covariance)


def _static(band: Band, apart_deg: np.ndarray) -> np.ndarray:
    """Covariance (m, …) of what does not change, of cells ``apart_deg`` (…) from each other."""
    shape = (-1, *(1,) * apart_deg.ndim)
    if band.repeats:
        return band.static.reshape(shape) * (apart_deg <= SAME_ANGLE_DEG)
    return band.static.reshape(shape) * _matern(apart_deg / band.static_deg.reshape(shape))


def _alike(apart_deg: np.ndarray, reach_deg: float) -> np.ndarray:
    return np.exp(-0.5 * (apart_deg / reach_deg) ** 2)


def _matern(distance: np.ndarray) -> np.ndarray:
    r = np.sqrt(5) * np.abs(distance)
    return (1 + r + r**2 / 3) * np.exp(-r)
