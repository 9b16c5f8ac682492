"""Images of a photon-counting detector: expected counts of every pixel, and their Poisson noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit

from operandi.errors import GeometryError
from operandi.experiment import Experiment
from operandi.simulate.reference import Scatterer, profiles

GAP, DEAD, HOT = -1, -2, 1_048_575
DRIFT = 0.05
"""Relative amplitude of the monitor's slow drift: 10 % from top to bottom."""
NOMINAL_MONITOR = 1.0e6

Q_MIN, Q_MAX = 0.01, 6.0
"""Range of the forward model, Å⁻¹; beyond it the patterns go on as at its ends."""
_GRID = 16384
_TABULATED, _STEPS = 16.0, 32


@dataclass(frozen=True, slots=True)
class Response:
    """A detector in front of the cell, ready to make images.

    ``table`` (point, species + 1), float32: counts of a pixel for one millimetre of each species, the last for the air, at
    the nominal monitor, on a fine and even grid in q. ``position`` (pixel,), float32: where each pixel lies on that grid;
    ``weight`` (pixel,), float32: its polarization × solid angle. ``flags`` (pixel,), int32: 0 for a good pixel, else the
    value that it shows. ``shape`` is (rows, columns).
    """

    table: np.ndarray
    position: np.ndarray
    weight: np.ndarray
    flags: np.ndarray
    shape: tuple[int, int]
    air_mm: float = 1.0


def response(experiment: Experiment, *, strength: float = 1.0, scatterers: Mapping[str, Scatterer] | None = None) -> Response:
    """The response of an experiment's detector; ``strength`` scales all counts (flux × exposure), ``scatterers`` are what is in the cell.

    Polarization and solid angle follow pyFAI, so that an integration with the same calibration undoes them.

    Raises
    ------
    GeometryError
        The calibration or the mask cannot be read, or they differ in shape.
    """
    import pyFAI

    try:
        calibration: Any = pyFAI.load(str(experiment.geometry.poni))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise GeometryError(f"{experiment.geometry.poni} cannot be read as a calibration ({error}): give a pyFAI .poni file") from error
    if calibration.detector is None or calibration.detector.pixel1 is None or not calibration.wavelength:
        raise GeometryError(f"{experiment.geometry.poni} tells no pixel size or wavelength: give a complete pyFAI .poni file")
    mask = read_mask(experiment.geometry.mask)
    shape = calibration.detector.shape or (mask.shape if mask is not None else None)
    if shape is None:
        raise GeometryError(f"{experiment.geometry.poni} names no detector of known shape: give one, or a mask")
    shape = (int(shape[0]), int(shape[1]))
    if mask is None:
        mask = np.zeros(shape, bool)
    if mask.shape != shape:
        raise GeometryError(f"mask {experiment.geometry.mask} has shape {mask.shape}, the detector {shape}: give the detector's mask")
    q = calibration.array_from_unit(shape, unit="q_A^-1").astype(float)
    weight = calibration.solidAngleArray(shape)
    if experiment.integration.polarization is not None:
        weight = weight * calibration.polarization(shape, experiment.integration.polarization)
    grid = np.linspace(max(float(q.min()), Q_MIN), min(float(q.max()), Q_MAX), _GRID)
    position = np.clip((q.ravel() - grid[0]) / (grid[1] - grid[0]), 0, _GRID - 1.001)
    return Response(
        table=profiles(grid, scatterers).astype(np.float32),
        position=position.astype(np.float32),
        weight=(strength * weight.ravel()).astype(np.float32),
        flags=_flags(mask),
        shape=shape,
    )


def read_mask(path: Path | None) -> np.ndarray | None:
    """A mask image, True where a pixel is to be ignored: .npy, or anything that fabio opens.

    Raises
    ------
    GeometryError
        The file cannot be read.
    """
    if path is None:
        return None
    try:
        if path.suffix == ".npy":
            return np.load(path) != 0
        import fabio

        return fabio.open(str(path)).data != 0
    except (OSError, ValueError) as error:
        raise GeometryError(f"mask {path} cannot be read ({error}): give an .npy or .edf image of the detector's shape") from error


def _flags(mask: np.ndarray) -> np.ndarray:
    """What masked pixels show: module gaps -1 as a Pilatus does, single pixels -2 when dead, every fourth of them hot."""
    crowded = np.zeros(mask.shape, int)
    padded = np.pad(mask, 1, constant_values=True).astype(int)
    for i in range(3):
        for j in range(3):
            crowded += padded[i : i + mask.shape[0], j : j + mask.shape[1]]
    single = mask & (crowded == 1)
    flags = np.where(mask, GAP, 0).astype(np.int32).ravel()
    which = np.flatnonzero(single.ravel())
    flags[which] = DEAD
    flags[which[::4]] = HOT
    return flags


def monitor_counts(elapsed_s: np.ndarray, duration_s: float, drift: float = DRIFT) -> np.ndarray:
    """Expected counts of the monitor: slow refills and decay about the nominal value, by up to ``drift`` either way."""
    phase = np.asarray(elapsed_s, float) / duration_s
    return NOMINAL_MONITOR * (1 + drift * (0.7 * np.cos(2 * np.pi * 1.7 * phase) + 0.3 * np.sin(2 * np.pi * 11 * phase)))


@njit(cache=True, nogil=True)
def _mix(state):
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


@njit(cache=True, nogil=True)
def _poisson(expected, bits, normal, cumulative, guide):
    """A Poisson number from 64 random bits: tabulated inversion below ``_TABULATED``, above it the normal quantile with its
    first correction for skewness (Cornish and Fisher, 1938)."""
    if expected >= _TABULATED:
        z = normal[bits >> np.uint64(48)]
        return int(expected + np.sqrt(expected) * z + (z * z - 1) / 6 + np.float32(0.5))
    # Expectations are tabulated in steps; rounding them at random leaves the mean exact.
    row = int(expected * _STEPS + (bits & np.uint64(0xFFFFF)) * np.float32(2.0**-20))
    uniform = (bits >> np.uint64(32)) * np.float32(2.0**-32)
    k = guide[row, bits >> np.uint64(56)]
    while uniform > cumulative[row, k]:
        k += 1
    return int(k)


@njit(cache=True, nogil=True)
def _expected(curve, position, weight):
    at = int(position)
    share = position - at
    return min(weight * (curve[at] * (1 - share) + curve[at + 1] * share), np.float32(1e6))


@njit(cache=True, nogil=True)
def _expect(curve, position, weight, out):
    for p in range(out.size):
        out[p] = _expected(curve, position[p], weight[p])


@njit(cache=True, nogil=True)
def _draw(curve, position, weight, flags, key, normal, cumulative, guide, out):
    for p in range(out.size):
        if flags[p] != 0:
            out[p] = flags[p]
        else:
            bits = _mix(key + np.uint64(p) * np.uint64(0x9E3779B97F4A7C15))
            out[p] = _poisson(_expected(curve, position[p], weight[p]), bits, normal, cumulative, guide)


def _curve(response: Response, lengths_mm: np.ndarray, monitor: float) -> np.ndarray:
    lengths = np.append(lengths_mm, response.air_mm).astype(np.float32)
    return response.table @ lengths * np.float32(monitor / NOMINAL_MONITOR)


def expected_image(response: Response, lengths_mm: np.ndarray, monitor: float) -> np.ndarray:
    """Expected counts (row, column), float32, for path lengths (species,) in mm and a number of monitor counts."""
    out = np.empty(response.position.size, np.float32)
    _expect(_curve(response, lengths_mm, monitor), response.position, response.weight, out)
    return out.reshape(response.shape)


def image(response: Response, lengths_mm: np.ndarray, monitor: float, *, seed: int, number: int) -> np.ndarray:
    """Counts (row, column), int32, of image ``number``: the same for the same seed, in whatever order images are made.

    Masked pixels show what a Pilatus shows: -1 in gaps, -2 when dead, the largest count when hot.
    """
    out = np.empty(response.position.size, np.int32)
    curve = _curve(response, lengths_mm, monitor)
    _draw(curve, response.position, response.weight, response.flags, _key(seed, number), _NORMAL, *_POISSON, out)
    return out.reshape(response.shape)


def _key(seed: int, number: int) -> np.uint64:
    return np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0]


def _normal_table(size: int = 65536) -> np.ndarray:
    from scipy.special import ndtri

    return ndtri((np.arange(size) + 0.5) / size).astype(np.float32)


def _poisson_tables() -> tuple[np.ndarray, np.ndarray]:
    """Cumulative probabilities (expectation, count), and for each 256th of them the count where to begin."""
    from scipy.special import pdtr

    expectations = np.arange(int(_TABULATED * _STEPS) + 1) / _STEPS
    cumulative = pdtr(np.arange(64)[None, :], expectations[:, None]).astype(np.float32)
    cumulative[:, -1] = 2.0
    edges = (np.arange(256) / 256).astype(np.float32)
    guide = np.stack([np.searchsorted(row, edges, side="left") for row in cumulative]).astype(np.uint8)
    return cumulative, guide


_NORMAL, _POISSON = _normal_table(), _poisson_tables()
