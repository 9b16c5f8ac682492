"""Where a winding is bent: its departure from the smooth spiral that a roll would be, and its curvature. In pixels."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from operandi.stages.electrodes import Spiral

_MANY_TURNS = 4
_SIGNIFICANT = 4.0


@dataclass(frozen=True, slots=True)
class Bends:
    """Over the samples of a spiral: ``departure`` px, positive outwards; ``curvature`` 1/px; ``bent`` True in a bend; ``hinted`` where the
    winding departs by half of what makes one, which alone proves nothing."""

    departure: np.ndarray
    curvature: np.ndarray
    bent: np.ndarray
    hinted: np.ndarray


def find_bends(spiral: Spiral, thickness_px: float, least_share: float = 0.05) -> Bends:
    """Bends of a winding of this thickness.

    The smooth spiral is one whose radius, and the harmonics up to the fourth (second where there are less than 4 turns) that make it
    eccentric and oval, change steadily from turn to turn; it is fitted robustly (Tukey's weights), so that bends do not bend it. A bend
    departs from it by more than ``least_share`` of the thickness and four times the scatter, over a length of at least half of the
    thickness. A stretch that reaches an end of the winding is none: how an electrode ends bends nothing.
    """
    centre = spiral.windings.centre
    radius = np.hypot(spiral.x - centre[0], spiral.y - centre[1])
    departure = radius - _smooth(spiral.theta, radius)
    scatter = 1.4826 * float(np.median(np.abs(departure - np.median(departure))))
    # Half of what a roll of ordinary unevenness does is its median: only what exceeds that by far is a bend.
    least = max(least_share * thickness_px, _SIGNIFICANT * scatter)
    length = max(int(round(0.5 * thickness_px / np.median(np.diff(spiral.arc)))), 1)
    bent, hinted = (_long_enough(np.abs(departure) > limit, length) for limit in (least, least / 2))
    first, second = spiral.position(spiral.theta, 1), spiral.position(spiral.theta, 2)
    speed = np.hypot(first[:, 0], first[:, 1])
    curvature = spiral.windings.hand * (first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]) / speed**3
    return Bends(departure, curvature, bent, hinted | bent)


def beside(bent: np.ndarray, theta: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Whether places at these angles (any shape, rad) have a bend at their azimuth, in whichever turn: in its middle or its length from it.

    ``bent`` and ``theta`` (n,) are those of the spiral: windings press on each other, so that a bend reaches through several.
    """
    near = np.zeros(at.shape, bool)
    edges = np.flatnonzero(np.diff(np.pad(bent.astype(np.int8), 1)))
    for first, last in zip(theta[edges[::2]], theta[edges[1::2] - 1], strict=True):
        near |= np.abs((at - (first + last) / 2 + np.pi) % (2 * np.pi) - np.pi) < last - first
    return near


def _long_enough(bent: np.ndarray, length: int) -> np.ndarray:
    """Stretches of at least so many samples, small gaps closed; none that reaches an end."""
    bent = ndimage.binary_closing(np.pad(bent, length), np.ones(length))
    bent = ndimage.binary_opening(bent, np.ones(length))[length:-length]
    groups = np.zeros(bent.shape, np.int32)
    ndimage.label(bent, output=groups)  # pyright: ignore[reportArgumentType]
    return bent & ~np.isin(groups, [n for n in (groups[0], groups[-1]) if n])


def _smooth(theta: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """The smooth spiral's radius."""
    every = slice(None, None, max(theta.size // 4000, 1))
    basis = _basis(theta)
    fitted, known = basis[every], radius[every]
    weights, terms = np.ones(known.size), np.zeros(basis.shape[1])
    for _ in range(30):
        weighted = fitted.T * weights
        terms = np.linalg.lstsq(weighted @ fitted, weighted @ known, rcond=1e-12)[0]
        left = known - fitted @ terms
        scale = max(1.4826 * float(np.median(np.abs(left))), 1e-3)
        weights = np.clip(1 - (left / (4.685 * scale)) ** 2, 0, None) ** 2
    return basis @ terms


def _basis(theta: np.ndarray) -> np.ndarray:
    along = 2 * (theta - theta[0]) / np.ptp(theta) - 1
    turns = np.ptp(theta) / (2 * np.pi)
    # Few turns tell a bend from an uneven roll only if the roll is an ellipse about another centre.
    degrees = (2, 2, 2, 1, 1) if turns >= _MANY_TURNS else (1, 0, 1)
    columns = [along**p for p in range(degrees[0] + 1)]
    for k, degree in enumerate(degrees[1:], start=1):
        columns += [f(k * theta) * along**p for f in (np.cos, np.sin) for p in range(degree + 1)]
    return np.stack(columns, axis=1)
