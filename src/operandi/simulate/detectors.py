"""Images of a photon-counting detector: expected counts of every pixel, and their Poisson noise."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numba import njit

from operandi.errors import GeometryError
from operandi.experiment import Experiment
from operandi.simulate.reference import profiles

GAP, DEAD, HOT = -1, -2, 1_048_575
DRIFT = 0.05
"""Relative amplitude of the monitor's slow drift: 10 % from top to bottom."""
NOMINAL_MONITOR = 1.0e6

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True)
class Response:
    """A detector in front of the cell, ready to make images.

    ``counts`` (pixel, species + 1), float32: counts for one millimetre of each species, the last for the air, at the
    nominal monitor. ``flags`` (pixel,), int32: 0 for a good pixel, else the value that it shows. ``shape`` is (rows, columns).
    """

    counts: np.ndarray
    flags: np.ndarray
    shape: tuple[int, int]
    air_mm: float = 1.0


def response(experiment: Experiment, *, strength: float = 1.0) -> Response:
    """The response of an experiment's detector; ``strength`` scales all counts (flux × exposure).

    Polarization and solid angle follow pyFAI, so that an integration with the same calibration undoes them.

    Raises
    ------
    GeometryError
        The calibration or the mask cannot be read, or they differ in shape.
    """
    import pyFAI

    try:
        calibration = pyFAI.load(str(experiment.geometry.poni))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise GeometryError(f"{experiment.geometry.poni} cannot be read as a calibration ({error}): give a pyFAI .poni file") from error
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
    counts = strength * weight.ravel()[:, None] * profiles(q.ravel())
    return Response(counts.astype(np.float32), _flags(mask), shape)


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


def monitor_counts(elapsed_s: np.ndarray, duration_s: float) -> np.ndarray:
    """Expected counts of the monitor: slow refills and decay about the nominal value, 10 % in all."""
    phase = np.asarray(elapsed_s, float) / duration_s
    return NOMINAL_MONITOR * (1 + DRIFT * (0.7 * np.cos(2 * np.pi * 1.7 * phase) + 0.3 * np.sin(2 * np.pi * 11 * phase)))


@njit(cache=True, nogil=True)
def _mix(state):
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


@njit(cache=True, nogil=True)
def _poisson(expected, bits, normal):
    """A Poisson number from 64 random bits: inversion below 12, above it the normal quantile with its first correction."""
    if expected < 12.0:
        uniform = (bits >> np.uint64(11)) * (1.0 / 9007199254740992.0)
        term = np.exp(-expected)
        below, k = term, 0
        while uniform > below and k < 80:
            k += 1
            term *= expected / k
            below += term
        return k
    z = normal[bits >> np.uint64(48)]
    value = expected + np.sqrt(expected) * z + (z * z - 1) / 6 + 0.5
    return int(value) if value > 0 else 0


@njit(cache=True, nogil=True, fastmath=True)
def _expected(counts, lengths, scale, out):
    for p in range(counts.shape[0]):
        total = np.float32(0.0)
        for k in range(counts.shape[1]):
            total += counts[p, k] * lengths[k]
        out[p] = total * scale


@njit(cache=True, nogil=True)
def _draw(expected, flags, key, normal, out):
    for p in range(expected.size):
        if flags[p] != 0:
            out[p] = flags[p]
        else:
            out[p] = _poisson(expected[p], _mix(key + np.uint64(p) * np.uint64(0x9E3779B97F4A7C15)), normal)


def expected_image(response: Response, lengths_mm: np.ndarray, monitor: float) -> np.ndarray:
    """Expected counts (row, column), float32, for path lengths (species,) in mm and a number of monitor counts."""
    out = np.empty(response.counts.shape[0], np.float32)
    lengths = np.append(lengths_mm, response.air_mm).astype(np.float32)
    _expected(response.counts, lengths, np.float32(monitor / NOMINAL_MONITOR), out)
    return out.reshape(response.shape)


def image(response: Response, lengths_mm: np.ndarray, monitor: float, *, seed: int, number: int) -> np.ndarray:
    """Counts (row, column), int32, of image ``number``: the same for the same seed, in whatever order images are made.

    Masked pixels show what a Pilatus shows: -1 in gaps, -2 when dead, the largest count when hot.
    """
    expected = expected_image(response, lengths_mm, monitor).ravel()
    out = np.empty(expected.size, np.int32)
    _draw(expected, response.flags, _key(seed, number), _NORMAL, out)
    return out.reshape(response.shape)


def _key(seed: int, number: int) -> np.uint64:
    return np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0]


def _normal_table(size: int = 65536) -> np.ndarray:
    from scipy.special import ndtri

    return ndtri((np.arange(size) + 0.5) / size).astype(np.float32)


_NORMAL = _normal_table()
