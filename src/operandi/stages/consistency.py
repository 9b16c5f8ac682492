"""How far projections are from being those of any object at all: what axis and wobble are found by.

The n-th moment of the projections of any object along the translation, taken about the axis, is a homogeneous polynomial of degree n in
the cosine and sine of the rotation (Helgason 1965; Ludwig 1966, doi:10.1002/cpa.3160190207). n = 1 says that the centre of mass moves on
a sine curve about the axis; all n together that opposite projections mirror each other. What the moments have beside these harmonics is
noise, or a projection in the wrong place, and the moments themselves tell how it grows with the place. Legendre moments of white noise
are white, so the places follow from linear least squares with one random offset for each projection (restricted maximum likelihood),
a few times over.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.polynomial import legendre

_MAX_ORDER = 60
_ROUNDS = 8
_CONVERGED = 1e-4
_MOST_BLURRED = 0.7
_RATIOS = np.r_[0.0, np.geomspace(1e-4, 1e4, 65)]
"""Variances of the offsets that are tried, each relative to what the projections could tell of one."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where projections lie, in samples: each at ``axis`` plus its ``offset`` (rotation,).

    Offsets are the least that explain the projections; what of them goes like the cosine or sine of the rotation is a move of the sample,
    and is not known. ``axis_sigma`` and ``offset_sigma`` (rotation,) are standard deviations, ``wobble`` that of the offsets' population.
    """

    axis: float
    axis_sigma: float
    offset: np.ndarray
    offset_sigma: np.ndarray
    wobble: float


def harmonics(theta: np.ndarray, highest: int) -> list[np.ndarray]:
    """For each order up to ``highest`` an orthonormal basis (rotation, …) of the harmonics that its moment has."""
    bases: list[np.ndarray] = []
    for order in range(highest + 1):
        basis = bases[order - 2] if order > 1 else np.empty((len(theta), 0))
        for wave in (np.cos(order * theta), np.sin(order * theta)):
            for _ in range(2):  # once more, for what rounding leaves
                wave = wave - basis @ (basis.T @ wave)
            if (size := np.linalg.norm(wave)) > 1e-6 * np.sqrt(len(theta)):
                basis = np.column_stack([basis, wave / size])
        bases.append(basis)
    return bases


def highest_order(theta: np.ndarray, n_samples: int) -> int:
    """The highest order of which the projections leave something to compare, and that the samples resolve."""
    directions = np.unique(np.round(np.mod(theta, 2 * np.pi), 9)).size
    return max(1, min((directions - 2) // 2, n_samples // 4, _MAX_ORDER))


def moments(profiles: np.ndarray, axis: float, radius: float, highest: int) -> np.ndarray:
    """(…, rotation, order) Legendre moments of order 0 to ``highest`` about ``axis``, of the samples within ``radius`` of it.

    Samples so near to ``radius`` that the polynomials are too fine there for the pitch are left out: they would count many times.
    """
    where = (np.arange(profiles.shape[-1]) - axis) / radius
    inside = np.abs(where) <= np.sqrt(1 - min(highest / (np.pi * radius), 0.5) ** 2)
    return profiles[..., inside] @ (legendre.legvander(where[inside], highest) * _scales(highest, radius))


def _scales(highest: int, radius: float) -> np.ndarray:
    return np.sqrt((2 * np.arange(highest + 1) + 1) / (2 * radius))


def _slope_matrix(highest: int, radius: float) -> np.ndarray:
    """(order, order): what moments are multiplied by to get their slopes with the axis; slopes come from lower orders."""
    scales, result = _scales(highest, radius), np.zeros((highest + 1, highest + 1))
    for order in range(1, highest + 1):
        lower = np.arange(order - 1, -1, -2)
        result[lower, order] = -(2 * lower + 1) / radius * scales[order] / scales[lower]
    return result


def inconsistency(profiles: np.ndarray, bases: list[np.ndarray], axis: float, radius: float) -> float:
    """Sum of the squares of what the moments have beside the harmonics of an object about ``axis``."""
    measured = moments(profiles, axis, radius, len(bases) - 1)
    return float(sum(np.sum(_beside(measured[..., n], bases[n]) ** 2) for n in range(1, len(bases))))


def _beside(values: np.ndarray, basis: np.ndarray) -> np.ndarray:
    return values - (values @ basis) @ basis.T


@dataclass(frozen=True, slots=True)
class _System:
    """Normal equations of the offsets of the projections from where they are taken to lie."""

    matrix: np.ndarray
    """(rotation, rotation)"""
    right: np.ndarray
    """(rotation,)"""
    squares: float
    number: int
    """Of the residuals whose ``squares`` are summed."""
    blurred: float = 0.0
    """Share of noise in what the slopes tell of the axis."""

    def about(self, offset: np.ndarray) -> "_System":
        """The same for offsets counted from where ``offset`` is zero."""
        squares = self.squares + 2 * offset @ self.right + offset @ self.matrix @ offset
        return replace(self, right=self.right + self.matrix @ offset, squares=squares)


def _system(profiles: np.ndarray, bases: list[np.ndarray], axis: float, radius: float) -> _System:
    """The equations of components (component, rotation, translation) together."""
    n_angles, highest = profiles.shape[1], len(bases) - 1
    measured = moments(profiles, axis, radius, highest)
    inside = [measured[..., n] @ bases[n] for n in range(highest + 1)]
    residuals = [measured[..., n] - inside[n] @ bases[n].T for n in range(highest + 1)]
    number = len(profiles) * sum(n_angles - b.shape[1] for b in bases[1:])
    squares = float(sum(np.sum(r**2) for r in residuals[1:]))
    noise = squares / max(number, 1)
    object_moments = np.stack([(_share(part, noise) * part) @ b.T for part, b in zip(inside, bases, strict=True)], axis=-1)
    slopes = object_moments @ _slope_matrix(highest, radius)
    return _assemble(slopes, residuals, bases, squares, number, _slope_noise(inside, bases, noise, radius))


def _assemble(slopes, residuals, bases, squares: float, number: int, slope_noise: float) -> _System:
    n_angles = slopes.shape[1]
    matrix, right = np.zeros((n_angles, n_angles)), np.zeros(n_angles)
    for n in range(1, len(bases)):
        gram = slopes[..., n].T @ slopes[..., n]
        matrix += np.diag(np.diag(gram)) - gram * (bases[n] @ bases[n].T)
        right -= np.sum(slopes[..., n] * residuals[n], axis=0)
    blurred = slope_noise / max(float(matrix.sum()), np.finfo(float).tiny)
    return _System(matrix, right, squares, number, min(blurred, _MOST_BLURRED))


def _slope_noise(inside: list[np.ndarray], bases: list[np.ndarray], noise: float, radius: float) -> float:
    """What noise adds to the squares of the slopes, all projections moved together."""
    square = _slope_matrix(len(bases) - 1, radius) ** 2
    kept = np.array([np.sum(_share(part, noise) ** 2) for part in inside])
    return noise * float(np.sum(square * kept[:, None] * _apart(bases)))


def _apart(bases: list[np.ndarray]) -> np.ndarray:
    """(order, order) how many dimensions of the one's harmonics the other's lack, where one is even and one odd; 0 elsewhere.

    A basis holds that of the order two below as its first columns.
    """
    sizes, result = np.array([basis.shape[1] for basis in bases]), np.zeros((len(bases), len(bases)))
    even, odd = (bases[max(n for n in range(len(bases)) if n % 2 == parity)] for parity in (0, 1))
    shared = np.zeros((even.shape[1] + 1, odd.shape[1] + 1))
    shared[1:, 1:] = np.cumsum(np.cumsum((even.T @ odd) ** 2, axis=0), axis=1)
    result[::2, 1::2] = sizes[::2, None] - shared[np.ix_(sizes[::2], sizes[1::2])]
    result[1::2, ::2] = sizes[1::2, None] - shared[np.ix_(sizes[::2], sizes[1::2])].T
    return result


def _share(part: np.ndarray, noise: float) -> np.ndarray:
    """(component, 1) share of signal, not noise, in the moments of one order (Wiener's filter)."""
    energy, expected = np.sum(part**2, axis=1, keepdims=True), noise * part.shape[1]
    significant = energy > expected * (1 + 3 * np.sqrt(2 / part.shape[1]))
    return np.where(significant, 1 - expected / np.maximum(energy, np.finfo(float).tiny), 0)


def _telling(profiles: np.ndarray, bases: list[np.ndarray], axis: float, radius: float) -> list[np.ndarray]:
    """The bases up to the order after the last whose moments stand out of noise: beyond, slopes would be noise alone."""
    measured = moments(profiles, axis, radius, len(bases) - 1)
    inside = [measured[..., n] @ basis for n, basis in enumerate(bases)]
    beside = sum(np.sum(measured[..., n] ** 2) - np.sum(inside[n] ** 2) for n in range(1, len(bases)))
    noise = beside / max(len(profiles) * sum(b.shape[0] - b.shape[1] for b in bases[1:]), 1)
    last = max((n for n, part in enumerate(inside) if _share(part, noise).any()), default=0)
    return bases[: max(last, 1) + 2]


def place(profiles: np.ndarray, theta: np.ndarray, axis: float, radius: float, *, wobbles: bool = True) -> Places:
    """The places of projections (component, rotation, translation) of one noise throughout, air-free, from near ``axis``.

    ``wobbles=False`` takes them to lie all about one axis.
    """
    bases = _telling(profiles, harmonics(theta, highest_order(theta, profiles.shape[2])), axis, radius)
    total = np.full(len(theta), axis, float)
    found = Places(axis, np.inf, np.zeros(len(theta)), np.zeros(len(theta)), 0.0)
    for _ in range(_ROUNDS):
        centre = float(total.mean())
        system = _system(shifted(profiles, total - centre), bases, centre, radius)
        found = _solve(system.about(total - centre), _RATIOS if wobbles else _RATIOS[:1])
        found = replace(found, axis=found.axis + centre)
        step = np.clip(found.axis + found.offset - total, -2, 2)
        total = total + step
        if np.abs(step).max() < _CONVERGED:
            break
    return found


def _solve(system: _System, ratios: np.ndarray) -> Places:
    """Axis and offsets, averaged over the variances that the offsets may have, each weighted by its restricted likelihood."""
    values, vectors = np.linalg.eigh(system.matrix)
    values = np.clip(values, 0, None)
    ones, right = vectors.T @ np.ones(len(values)), vectors.T @ system.right
    scale = max(float(np.median(values)), 1e-9 * float(values.max()), np.finfo(float).tiny)
    rho = ratios[:, None] / scale
    damping = 1 + rho * values
    information = np.sum(ones**2 * values / damping, axis=1) + np.finfo(float).tiny
    axis = np.sum(ones * right / damping, axis=1) / information
    freedom = max(system.number - 1, 1)
    squares = system.squares - np.sum(right**2 * rho / damping, axis=1) - axis**2 * information
    variance = np.maximum(squares, 1e-12 * system.squares + np.finfo(float).tiny) / freedom
    likelihood = -0.5 * (freedom * np.log(variance) + np.sum(np.log(damping), axis=1) + np.log(information))
    weight = np.exp(likelihood - likelihood.max())
    weight /= weight.sum()
    mean = float(weight @ axis)
    left = rho / damping * (right - values * ones * axis[:, None])
    offset = left @ vectors.T
    spread = (variance[:, None] * rho / damping) @ (vectors**2).T + ((rho * values / damping * ones) @ vectors.T) ** 2 * (
        variance / information
    )[:, None]
    mean_offset = weight @ offset
    return Places(
        axis=mean,
        axis_sigma=float(np.sqrt(weight @ (variance / information + (axis - mean) ** 2))) / (1 - system.blurred),
        offset=mean_offset,
        offset_sigma=np.sqrt(weight @ (spread + (offset - mean_offset) ** 2)),
        wobble=float(np.sqrt(weight @ (rho[:, 0] * variance))),
    )


def shifted(profiles: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Projections (…, rotation, translation) as they would be without ``offset`` (rotation,), in samples: sample i takes what lay at
    i + offset. Band-limited interpolation; beyond the ends is nothing, so that air has to be subtracted before."""
    if not offset.any():
        return profiles
    n_samples = profiles.shape[-1]
    width = 2 * n_samples
    turn = np.exp(2j * np.pi * np.fft.rfftfreq(width) * offset[:, None])
    return np.fft.irfft(np.fft.rfft(profiles, width) * turn, width)[..., :n_samples]
