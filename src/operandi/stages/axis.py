"""The rotation axis, from the consistency of a sinogram with any object at all."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.polynomial import legendre
from scipy.optimize import minimize_scalar

from operandi.errors import ShapeError
from operandi.stages.sinograms import fill_gaps, usable_projections

_MAX_ORDER = 60
_RIM_POINTS = 2
_SHIFT = 0.05


@dataclass(frozen=True, slots=True)
class Axis:
    """Where the rotation axis falls on the translation axis."""

    position: float
    """In the unit of the translation, mm."""
    uncertainty: float
    """One standard deviation, of the same unit."""


def find_axis(sinogram: xr.DataArray) -> Axis:
    """The rotation axis of a sinogram with dims rotation (deg), translation (mm)[, q], which are its coordinates.

    See `locate_axis`.
    """
    if not {"rotation", "translation"} <= set(sinogram.coords) or not set(sinogram.dims) <= {"rotation", "translation", "q"}:
        raise ShapeError(f"the axis needs a sinogram over rotation and translation with their coordinates, got {dict(sinogram.sizes)}")
    values = sinogram.transpose("rotation", "translation", ...).to_numpy()
    return locate_axis(values, sinogram["rotation"].to_numpy(), sinogram["translation"].to_numpy())


def locate_axis(sinogram: np.ndarray, rotation_deg: np.ndarray, translation_mm: np.ndarray) -> Axis:
    """The rotation axis of a sinogram (rotation, translation[, q]).

    The n-th moment of the projections of any object along the translation, taken about the axis, is a homogeneous polynomial of
    degree n in the cosine and sine of the rotation (Helgason 1965; Ludwig 1966, doi:10.1002/cpa.3160190207). n = 1 says that the
    centre of mass moves on a sine curve about the axis; all n together that opposite projections mirror each other. About any other
    point, harmonics of the other parity appear. The axis is where these are least: their squares are summed over orders, each
    weighted by the share of signal, not noise, in its dependence on the axis. Any angles will do; all channels are
    summed, and what the outermost cells see is taken as air.

    Returns
    -------
    The axis; its uncertainty follows from the scatter among projections, and does not know of a sample that leaves the field of
    view or changes meanwhile.

    Raises
    ------
    ShapeError
        If there are fewer than 4 usable projections at 4 angles (modulo 180°) or 8 translations, or there is no signal.
    """
    profiles, theta, first, pitch = _profiles(sinogram, rotation_deg, translation_mm)
    n_angles, n_samples = profiles.shape
    highest = max(1, min((n_angles - 2) // 2, n_samples // 4, _MAX_ORDER))
    bases = [_AngularBases.of(theta, order) for order in range(1, highest + 1)]
    best, reach = (n_samples - 1) / 2, n_samples / 4
    for orders in (1, min(4, highest), min(12, highest), highest):
        used = bases[:orders]
        weights = _weights(profiles, used, best)
        trial = best + np.linspace(-reach, reach, 33)
        best = trial[np.argmin([_cost(profiles, used, weights, a) for a in trial])]
        reach = max(reach / 4, 1.0)
    for _ in range(2):
        weights = _weights(profiles, bases, best)
        best = _least(lambda trial, weights=weights: _cost(profiles, bases, weights, trial), best)
    return Axis(float(first + pitch * best), abs(pitch) * _uncertainty(profiles, bases, best))


def _least(cost: Callable[[float], float], best: float) -> float:
    found: Any = minimize_scalar(cost, bounds=(best - 0.5, best + 0.5), method="bounded", options={"xatol": 1e-4})
    return float(found.x)


def _rim(n_samples: int) -> np.ndarray:
    return np.r_[:_RIM_POINTS, n_samples - _RIM_POINTS : n_samples]


def _profiles(sinogram, rotation_deg, translation_mm):
    """Air-free channel sums of the usable projections (float64), angles in radians, first translation and pitch."""
    values = np.asarray(sinogram, np.float32)
    values = values[:, :, None] if values.ndim == 2 else values
    rotation, translation = np.asarray(rotation_deg, float), np.asarray(translation_mm, float)
    if values.ndim != 3 or values.shape[:2] != (rotation.size, translation.size):
        raise ShapeError(f"sinogram of shape {values.shape} does not fit {rotation.size} rotations and {translation.size} translations")
    usable = usable_projections(values) & np.isfinite(rotation)
    distinct = np.unique(np.round(np.mod(rotation[usable], 180), 6)).size
    if usable.sum() < 4 or distinct < 4 or translation.size < 8:
        raise ShapeError(
            "the axis needs at least 4 usable projections at 4 angles, opposite ones being the same, with 8 translations; "
            f"there are {usable.sum()} at {distinct} with {translation.size}"
        )
    filled, lost = fill_gaps(np.ascontiguousarray(values[usable]))
    profiles = filled[:, :, ~lost].sum(axis=2, dtype=np.float64)
    profiles -= profiles[:, _rim(translation.size)].mean()
    if not profiles.any():
        raise ShapeError("the sinogram has no signal above air, or no channel that every projection measures: the axis cannot be found")
    pitch = (translation[-1] - translation[0]) / (translation.size - 1)
    return profiles, np.deg2rad(rotation[usable]), translation[0], pitch


@dataclass(frozen=True, slots=True)
class _AngularBases:
    """Orthonormal trigonometric polynomials on the angles of the projections, for one order."""

    every: np.ndarray
    """(projection, …) up to this degree."""
    wrong: np.ndarray
    """(projection, …) those of the other parity that are not of the right one too: what no moment about the axis has."""

    @classmethod
    def of(cls, theta: np.ndarray, order: int) -> "_AngularBases":
        right, wrong = (_harmonics(theta, np.arange(start % 2, order + 1, 2)) for start in (order, order + 1))
        basis, triangle = np.linalg.qr(np.concatenate([right, wrong], axis=1))
        real = np.abs(np.diag(triangle)) > 1e-6 * np.sqrt(len(theta))
        return cls(basis[:, real], basis[:, right.shape[1] :][:, real[right.shape[1] :]])


def _harmonics(theta: np.ndarray, multiples: np.ndarray) -> np.ndarray:
    return np.concatenate([np.cos(np.outer(theta, multiples)), np.sin(np.outer(theta, multiples[multiples > 0]))], axis=1)


def _moments(profiles: np.ndarray, n_orders: int, axis: float) -> np.ndarray:
    """(projection, order) moments about ``axis`` (in samples) with Legendre polynomials of degree 1 …, of equal noise."""
    return profiles @ _polynomials(profiles.shape[1], n_orders, axis)


def _polynomials(n_samples: int, n_orders: int, axis: float) -> np.ndarray:
    radius = max(axis, n_samples - 1 - axis) + 0.5
    polynomials = legendre.legvander((np.arange(n_samples) - axis) / radius, n_orders)[:, 1:]
    return polynomials / np.linalg.norm(polynomials, axis=0)


def _cost(profiles: np.ndarray, bases: list[_AngularBases], weights: np.ndarray, axis: float) -> float:
    moments = _moments(profiles, len(bases), axis)
    return float(sum(w * np.sum((b.wrong.T @ moments[:, i]) ** 2) for i, (b, w) in enumerate(zip(bases, weights, strict=True))))


def _slopes(profiles: np.ndarray, bases: list[_AngularBases], axis: float) -> tuple[np.ndarray, np.ndarray]:
    """Slope of the wrong harmonics with the axis (projection, order), and the sum of squares expected of it from noise alone (order,)."""
    n_samples, n_orders = profiles.shape[1], len(bases)
    change = (_polynomials(n_samples, n_orders, axis + _SHIFT) - _polynomials(n_samples, n_orders, axis - _SHIFT)) / (2 * _SHIFT)
    raw = profiles @ change
    slopes = np.stack([b.wrong @ (b.wrong.T @ raw[:, i]) for i, b in enumerate(bases)], axis=1)
    dimensions = np.array([b.wrong.shape[1] for b in bases])
    return slopes, dimensions * _noise(profiles, bases, axis)[1] * np.sum(change**2, axis=0)


def _noise(profiles: np.ndarray, bases: list[_AngularBases], axis: float) -> tuple[np.ndarray, np.ndarray]:
    """Scatter of the moments (projection, order) that no object has about any axis, scaled to its full size, and its variance (order,)."""
    moments = _moments(profiles, len(bases), axis)
    scatter = np.stack([moments[:, i] - b.every @ (b.every.T @ moments[:, i]) for i, b in enumerate(bases)], axis=1)
    free = np.array([max(len(profiles) - b.every.shape[1], 1) for b in bases])
    return scatter * np.sqrt(len(profiles) / free), np.sum(scatter**2, axis=0) / free


def _weights(profiles: np.ndarray, bases: list[_AngularBases], axis: float) -> np.ndarray:
    """(order,) share of signal in the squared slopes; the first order, the centre of mass, always counts."""
    slopes, noise = _slopes(profiles, bases, axis)
    weights = np.clip(1 - noise / np.maximum(np.sum(slopes**2, axis=0), np.finfo(float).tiny), 0, 1)
    weights[0] = max(weights[0], 0.1)
    return weights


def _uncertainty(profiles: np.ndarray, bases: list[_AngularBases], axis: float) -> float:
    """Standard deviation of the axis in samples: the larger of that for uniform noise and that for noise as scattered among the
    projections (sandwich estimator); and what the uncertainty of air adds."""
    weights = _weights(profiles, bases, axis)
    slopes, noise = _slopes(profiles, bases, axis)
    scatter, variance = _noise(profiles, bases, axis)
    energy = np.sum(slopes**2, axis=0)
    information = np.sum(weights * np.maximum(energy - noise, 0.1 * energy))
    uniform = np.sum(weights**2 * variance * energy)
    scattered = np.sum(np.sum(weights * scatter * slopes, axis=1) ** 2)
    rim = profiles[:, _rim(profiles.shape[1])]
    per_air = _moments(np.ones_like(profiles), len(bases), axis)
    from_air = np.sum(weights * slopes * per_air) * np.std(rim) / np.sqrt(rim.size)
    return float(np.sqrt(max(uniform, scattered) + from_air**2) / information)
