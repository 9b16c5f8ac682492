"""Electrode coordinates: the spiral that the middle of a winding follows, and where every point lies along and beside it.

All in pixels of a square grid, positions (x, y). Coordinates are those of Fermi: the length along the curve of the nearest of its points,
and the distance from it along the normal, so that thicknesses are true however the roll is bent.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import ndimage
from scipy.interpolate import CubicSpline

from operandi.errors import ShapeError
from operandi.stages.spirals import Windings, winding_shape

_LEAST_LOCK = 0.3
_HALF_LOCK = 0.6
_LONGEST_GAP = 0.75
_STEPS = 6


@dataclass(frozen=True)
class Spiral:
    """The curve that the middle of a winding follows from the inner end to the outer.

    ``theta`` (n,) rad, increasing outwards from within the first turn, on the side to which ``windings.hand`` turns; ``x``, ``y`` (n,) px,
    ``arc`` (n,) px from the inner end; ``lock`` (n,) 0 … 1, how well the winding is seen there.
    ``origin``: the count of windings at theta 0.
    """

    windings: Windings
    theta: np.ndarray
    x: np.ndarray
    y: np.ndarray
    arc: np.ndarray
    lock: np.ndarray
    origin: float

    @cached_property
    def position(self) -> CubicSpline:
        """theta → (x, y)."""
        return CubicSpline(self.theta, np.stack([self.x, self.y], axis=-1))

    def theta_at(self, arc: np.ndarray) -> np.ndarray:
        """Angle at a length along the curve; NaN beyond its ends."""
        return np.interp(arc, self.arc, self.theta, left=np.nan, right=np.nan)

    def normal(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Unit normal (x, y), outwards."""
        slope = self.position(theta, 1)
        size = np.hypot(slope[..., 0], slope[..., 1])
        hand = self.windings.hand
        return hand * slope[..., 1] / size, -hand * slope[..., 0] / size


@dataclass(frozen=True, slots=True)
class ElectrodePositions:
    """Where points lie in the electrode: angle along the spiral (rad), length and depth (px; depth 0 at the middle, positive outwards).

    ``share``: position across the winding, −½ at its inner face, ½ at its outer. All NaN outside the roll.
    """

    theta: np.ndarray
    arc: np.ndarray
    depth: np.ndarray
    share: np.ndarray


def trace(windings: Windings, image: np.ndarray, cut: float | None = None) -> Spiral:
    """The spiral in the middle between cuts through the windings.

    Parameters
    ----------
    image : (radius, angle) on the grid of the windings. Where no cut is given, it is where the mean winding is darkest.
    cut : count of windings, modulo 1, at which one winding ends and the next begins.

    Raises
    ------
    ShapeError
        If less than one turn is locked.
    """
    turn = windings.angle / (2 * np.pi)
    if cut is None:
        shape = winding_shape(windings.count - turn, image, np.where(windings.lock > _LEAST_LOCK, windings.lock, 0))
        fine = np.arange(1024) / 1024
        cut = float(fine[np.argmin(shape(fine))])
    middle = (cut + 0.5) % 1
    low, high = np.floor(windings.count.min()), np.ceil(windings.count.max())
    numbers = np.arange(low, high + 1)
    radius = np.stack(
        [np.interp(middle + numbers + t, column, windings.radius) for t, column in zip(turn, windings.count.T, strict=True)], axis=1
    )
    lock = _lock_at(windings, radius)
    theta = 2 * np.pi * (numbers[:, None] + turn).ravel()
    first, last = _ends(lock.ravel(), turn.size)
    start = 2 * np.pi * np.floor(theta[first] / (2 * np.pi))
    part = slice(first, last)
    return _curve(windings, theta[part] - start, radius.ravel()[part], lock.ravel()[part], middle + start / (2 * np.pi))


def half_thickness(spiral: Spiral) -> float:
    """Half the thickness of the winding, px, that all but a hundredth of its length stays below."""
    outwards, inwards = (place(spiral, spiral.arc, np.full(spiral.arc.shape, d))[2] for d in (0.5, -0.5))
    rate = np.maximum(outwards - inwards, 1e-3)
    return float(np.percentile(0.5 / rate, 99))


def _lock_at(windings: Windings, radius: np.ndarray) -> np.ndarray:
    step = windings.radius[1] - windings.radius[0]
    at = [radius / step, np.broadcast_to(np.arange(windings.angle.size), radius.shape)]
    inside = (radius > windings.radius[0]) & (radius < windings.radius[-1])
    return np.where(inside, ndimage.map_coordinates(windings.lock, at, order=1, mode="nearest"), 0)


def _ends(lock: np.ndarray, columns: int) -> tuple[int, int]:
    """First and last place of the spiral that is locked; gaps of less than a turn (tabs, uncoated ends) stay."""
    even = ndimage.uniform_filter1d(lock, max(columns // 24, 1), mode="constant")
    usual = np.median(even[even > _LEAST_LOCK]) if (even > _LEAST_LOCK).any() else 1.0
    good = np.nonzero(even > max(_LEAST_LOCK, _HALF_LOCK * usual))[0]
    runs = np.split(good, np.nonzero(np.diff(good) > _LONGEST_GAP * columns)[0] + 1)
    longest = max(runs, key=len)
    if longest.size < columns:
        raise ShapeError("less than one turn of a winding can be followed: give a map that shows the windings more clearly")
    return int(longest[0]), int(longest[-1]) + 1


def _curve(windings: Windings, theta: np.ndarray, radius: np.ndarray, lock: np.ndarray, origin: float) -> Spiral:
    even = ndimage.gaussian_filter1d(radius, 2, mode="nearest")
    even = 2 * even - ndimage.gaussian_filter1d(even, 2, mode="nearest")
    outline = CubicSpline(theta, even)
    slope = outline(theta, 1)
    speed = CubicSpline(theta, np.hypot(even, slope))
    angle = windings.hand * theta
    x, y = windings.centre[0] + even * np.cos(angle), windings.centre[1] + even * np.sin(angle)
    return Spiral(windings, theta, x, y, speed.antiderivative()(theta), lock, origin)


def locate(spiral: Spiral, x: np.ndarray, y: np.ndarray) -> ElectrodePositions:
    """Where points (px) lie in the electrode: the nearest point of their own winding's spiral."""
    windings = spiral.windings
    across, around = x - windings.centre[0], y - windings.centre[1]
    radius, angle = np.hypot(across, around), np.mod(windings.hand * np.arctan2(around, across), 2 * np.pi)
    share = _count_at(windings, radius, angle) - spiral.origin - angle / (2 * np.pi)
    number = np.rint(share)
    theta = angle + 2 * np.pi * number
    reach = 2 * np.pi * 0.02
    inside = (theta > spiral.theta[0] - reach) & (theta < spiral.theta[-1] + reach) & (radius < windings.radius[-1])
    foot = np.where(inside, theta, spiral.theta[0])
    point = np.stack([x, y], axis=-1)
    for _ in range(_STEPS):
        at, along, bend = (spiral.position(np.clip(foot, spiral.theta[0], spiral.theta[-1]), k) for k in (0, 1, 2))
        pull = np.sum((point - at) * along, axis=-1)
        stiff = np.sum(along**2, axis=-1) - np.sum((point - at) * bend, axis=-1)
        size = np.sum(along**2, axis=-1)
        foot = foot + np.clip(pull / np.maximum(stiff, 0.2 * size), -0.1, 0.1)
    inside &= (foot >= spiral.theta[0]) & (foot <= spiral.theta[-1])
    foot = np.clip(foot, spiral.theta[0], spiral.theta[-1])
    n_x, n_y = spiral.normal(foot)
    at = spiral.position(foot)
    depth = (x - at[..., 0]) * n_x + (y - at[..., 1]) * n_y
    arc = np.interp(foot, spiral.theta, spiral.arc)
    return ElectrodePositions(*(np.where(inside, a, np.nan) for a in (foot, arc, depth, share - number)))


def place(spiral: Spiral, arc: np.ndarray, depth: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The points x, y (px) at a length and depth in the electrode, and their position across the winding (beyond ±½: in another)."""
    theta = spiral.theta_at(arc)
    known = np.isfinite(theta)
    safe = np.where(known, theta, spiral.theta[0])
    at, (n_x, n_y) = spiral.position(safe), spiral.normal(safe)
    x, y = at[..., 0] + depth * n_x, at[..., 1] + depth * n_y
    windings = spiral.windings
    across, around = x - windings.centre[0], y - windings.centre[1]
    angle = windings.hand * np.arctan2(around, across)
    own = safe + (angle - safe + np.pi) % (2 * np.pi) - np.pi
    share = _count_at(windings, np.hypot(across, around), own % (2 * np.pi)) - spiral.origin - own / (2 * np.pi)
    return tuple(np.where(known, a, np.nan) for a in (x, y, share))  # type: ignore[return-value]


def _count_at(windings: Windings, radius: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """The periodic count of windings at polar positions (angle in the direction of winding, 0 … 2π)."""
    step, turn = windings.radius[1] - windings.radius[0], windings.angle[1] - windings.angle[0]
    at = [np.clip(radius / step, 0, windings.radius.size - 1), angle / turn]
    return ndimage.map_coordinates(windings.count, at, order=1, mode="grid-wrap")
