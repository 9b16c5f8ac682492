"""The rotation axis, from the consistency of a sinogram with any object at all."""

from dataclasses import dataclass

import numpy as np
import xarray as xr

from operandi.errors import ShapeError
from operandi.stages.consistency import Places, harmonics, highest_order, inconsistency, place
from operandi.stages.sinograms import fill_gaps, usable_projections

_RIM_POINTS = 2
_COMPONENTS = 6
_NOISE_LINES = 48
"""Projections from which the noise of channels is read: enough of them, and quick."""
_SIGNIFICANT = 3.0


@dataclass(frozen=True, slots=True)
class Axis:
    """Where the rotation axis falls on the translation axis."""

    position: float
    """In the unit of the translation, mm."""
    uncertainty: float
    """One standard deviation, of the same unit."""
    wobble: float = 0.0
    """Standard deviation of single projections about it, of the same unit, as far as they show one."""


@dataclass(frozen=True, slots=True)
class Profiles:
    """What axis and wobble are found from."""

    values: np.ndarray
    """(component, rotation, translation) float64: usable projections, free of air, all components of the same noise."""
    theta: np.ndarray
    """(rotation,) rad"""
    usable: np.ndarray
    """(rotation,) bool, of all projections."""
    first: float
    """First translation, mm."""
    pitch: float
    """Step of the translation, mm; negative where it runs down."""


def find_axis(sinogram: xr.DataArray) -> Axis:
    """The rotation axis of a sinogram with dims rotation (deg), translation (mm)[, q], which are its coordinates.

    See `locate_axis`.
    """
    return locate_axis(*_plain(sinogram))


def compare_axes(sinogram: xr.DataArray) -> dict[str, Axis]:
    """The axis by each way by itself, to see whether they agree: ``"consistency"`` (`locate_axis`, which holds the other two),
    ``"centre of mass"``, ``"opposite projections"``; NaN for what the angles do not allow.

    Where they differ by more than their uncertainties, the sample leaves the field of view, or changes meanwhile.
    """
    profiles = profiles_of(*_plain(sinogram))
    ways = {"centre of mass": _centre_of_mass(profiles), "opposite projections": _opposite(profiles)}
    return {"consistency": locate_axis(*_plain(sinogram))} | {
        name: Axis(float(profiles.first + profiles.pitch * at), float(abs(profiles.pitch) * sigma)) for name, (at, sigma) in ways.items()
    }


def _plain(sinogram: xr.DataArray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if not {"rotation", "translation"} <= set(sinogram.coords) or not set(sinogram.dims) <= {"rotation", "translation", "q"}:
        raise ShapeError(f"the axis needs a sinogram over rotation and translation with their coordinates, got {dict(sinogram.sizes)}")
    values = sinogram.transpose("rotation", "translation", ...).to_numpy()
    return values, sinogram["rotation"].to_numpy(), sinogram["translation"].to_numpy()


def locate_axis(sinogram: np.ndarray, rotation_deg: np.ndarray, translation_mm: np.ndarray) -> Axis:
    """The rotation axis of a sinogram (rotation, translation[, q]).

    The axis is where the projections are least inconsistent with any object (`operandi.stages.consistency`); this holds the centre of
    mass (order 1), the comparison of opposite projections (all orders together), and all between. Any angles will do. Channels are
    weighted by their noise and combined by principal components, so that each tells of the axis what its signal allows. What the
    outermost cells see is taken as air. Single projections may lie off the axis (wobble); how far is found with it.

    How exact it is, over 60 angles of half a turn, for discs in 121 samples: 0.04 samples (median) where each cell of 200 equal channels
    has a signal-to-noise ratio of 3 at the sinogram's maximum. One channel of that ratio, or a sum over channels that has no more, cannot
    give better than 0.6 (Cramér-Rao bound), 0.15 over a full turn. A wobble of 0.5 samples leaves, without any noise, 0.15 over half a
    turn, 0.065 over a full one: what of it goes like the sine of the rotation cannot be told from a move of the sample. The axis about
    which the sample turned in the mean, as reconstruction needs it, is found as well as without wobble.

    Returns
    -------
    The axis; its uncertainty follows from the scatter among projections, and does not know of a sample that leaves the field of
    view or changes meanwhile.

    Raises
    ------
    ShapeError
        If there are fewer than 4 usable projections at 4 angles (modulo 180°) or 8 translations, or there is no signal.
    """
    profiles = profiles_of(sinogram, rotation_deg, translation_mm)
    found = locate(profiles)
    size = abs(profiles.pitch)
    return Axis(float(profiles.first + profiles.pitch * found.axis), float(size * found.axis_sigma), float(size * found.wobble))


def locate(profiles: Profiles) -> Places:
    """Axis and offsets of the projections, in samples."""
    values, theta = profiles.values, profiles.theta
    n_samples = values.shape[2]
    highest = highest_order(theta, n_samples)
    bases = harmonics(theta, highest)
    best, reach = (n_samples - 1) / 2, n_samples / 4
    for orders in (1, min(4, highest), min(12, highest), highest):
        trial = best + np.linspace(-reach, reach, 33)
        best = trial[np.argmin([inconsistency(values, bases[: orders + 1], a, _reach(n_samples, a)) for a in trial])]
        reach = max(reach / 4, 1.0)
    found = place(values, theta, best, _support(values, best))
    return place(values, theta, found.axis, _support(values, found.axis))


def _reach(n_samples: int, axis: float) -> float:
    return max(axis, n_samples - 1 - axis) + 0.5


def _support(profiles: np.ndarray, axis: float) -> float:
    """Radius about the axis beyond which there is nothing but noise, in samples."""
    n_components, n_angles, n_samples = profiles.shape
    noise = max(second_difference_noise(profiles), 1e-6 * float(np.abs(profiles).max()))
    squares = np.sum(profiles**2, axis=(0, 1)) / noise**2
    number = n_components * n_angles
    energy = (squares - number) / np.sqrt(2 * number)
    mean = profiles.sum(axis=1) / (noise * np.sqrt(n_angles))
    distance = np.abs(np.arange(n_samples) - axis)
    inwards = np.argsort(-distance)
    count = np.sqrt(np.arange(1, n_samples + 1))
    seen = np.cumsum(energy[inwards]) / count > _SIGNIFICANT
    seen |= (np.abs(np.cumsum(mean[:, inwards], axis=1)) / count > _SIGNIFICANT).any(axis=0)
    edge = distance[inwards][np.argmax(seen)] if seen.any() else distance.max()
    return 1.25 * edge + 4  # what is cut off weighs more than the noise that is let in


def second_difference_noise(profiles: np.ndarray) -> float:
    """Standard deviation of the noise of cells, from how they differ from the mean of their neighbours along the last axis."""
    change = profiles[..., 2:] - 2 * profiles[..., 1:-1] + profiles[..., :-2]
    return float(1.4826 * np.median(np.abs(change)) / np.sqrt(6))


def profiles_of(sinogram: np.ndarray, rotation_deg: np.ndarray, translation_mm: np.ndarray) -> Profiles:
    """The usable projections of a sinogram (rotation, translation[, q]), its channels combined.

    Raises
    ------
    ShapeError
        As `locate_axis`.
    """
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
    filled = filled[:, :, ~lost] if lost.any() else filled
    profiles = _components(filled - filled[:, _rim(translation.size)].mean(axis=(0, 1), dtype=np.float64).astype(np.float32))
    if not profiles.any():
        raise ShapeError("the sinogram has no signal above air, or no channel that every projection measures: the axis cannot be found")
    pitch = (translation[-1] - translation[0]) / (translation.size - 1)
    return Profiles(profiles, np.deg2rad(rotation[usable]), usable, translation[0], pitch)


def _rim(n_samples: int) -> np.ndarray:
    return np.r_[:_RIM_POINTS, n_samples - _RIM_POINTS : n_samples]


def _components(values: np.ndarray) -> np.ndarray:
    """(component, rotation, translation) float64: sums over channels that together hold what stands out of noise.

    Channels are scaled to one noise; the components are the first left singular vectors, found by subspace iteration.
    """
    n_angles, n_samples, n_q = values.shape
    if n_q == 0:
        return np.zeros((1, n_angles, n_samples))
    if n_q == 1:
        return np.moveaxis(values, -1, 0).astype(np.float64)
    lines = values[:: max(n_angles // _NOISE_LINES, 1)]
    change = np.abs(lines[:, 2:] - 2 * lines[:, 1:-1] + lines[:, :-2])
    noise = np.median(change, axis=(0, 1)) * (1.4826 / np.sqrt(6))
    largest = np.abs(lines).max(axis=(0, 1))
    scale = np.where(largest > 0, 1 / np.maximum(np.maximum(noise, 1e-6 * largest), np.finfo(np.float32).tiny), 0).astype(np.float32)
    cells = values.reshape(-1, n_q) * scale
    basis = np.random.default_rng(0).normal(size=(n_q, min(2 * _COMPONENTS, n_q))).astype(np.float32)
    for _ in range(3):
        basis = np.linalg.qr(cells.T @ (cells @ basis))[0]
    left, strength, _ = np.linalg.svd((cells @ basis).astype(np.float64), full_matrices=False)
    telling = strength > np.sqrt(len(cells)) + np.sqrt(n_q)  # what noise alone reaches (Marchenko & Pastur)
    telling[0] = True
    chosen = np.flatnonzero(telling)[:_COMPONENTS]
    return np.moveaxis((left * strength)[:, chosen].reshape(n_angles, n_samples, -1), -1, 0)


def _centre_of_mass(profiles: Profiles) -> tuple[float, float]:
    """Axis and its standard deviation, in samples, from the first component's centre of mass."""
    values, theta = profiles.values[0], profiles.theta
    mass = values.sum(axis=1)
    lit = np.abs(mass) > 0.1 * np.abs(np.median(mass))
    centre = values[lit] @ np.arange(values.shape[1]) / mass[lit]
    waves = np.stack([np.ones(lit.sum()), np.cos(theta[lit]), np.sin(theta[lit])], axis=1)
    if lit.sum() < 4:
        return np.nan, np.nan
    inverse = np.linalg.pinv(waves)
    found = inverse @ centre
    variance = np.sum((centre - waves @ found) ** 2) / (lit.sum() - 3)
    return float(found[0]), float(np.sqrt(variance * np.sum(inverse[0] ** 2)))


def _opposite(profiles: Profiles) -> tuple[float, float]:
    """Axis and its standard deviation, in samples, from the pairs of projections half a turn apart: one mirrors the other about it."""
    theta, n_samples = profiles.theta, profiles.values.shape[2]
    gap = np.abs(np.angle(np.exp(1j * (theta[:, None] - theta[None] - np.pi))))
    here, there = np.nonzero(np.triu(gap < 1e-3))
    if here.size < 2:
        return np.nan, np.nan
    spectra = np.fft.rfft(profiles.values, 2 * n_samples)
    single = np.fft.irfft(np.sum(spectra[:, here] * spectra[:, there], axis=0), 2 * n_samples)
    total = single.sum(axis=0)
    leave_one_out = np.array([_peak(total - one) / 2 for one in single])
    return _peak(total) / 2, float(np.sqrt((len(single) - 1) * np.mean((leave_one_out - leave_one_out.mean()) ** 2)))


def _peak(values: np.ndarray) -> float:
    """Place of the maximum, by a parabola through three points."""
    at = int(np.argmax(values[1:-1])) + 1
    before, here, after = values[at - 1 : at + 2]
    curvature = before - 2 * here + after
    return at + (0.5 * (before - after) / curvature if curvature else 0.0)
