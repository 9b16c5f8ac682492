"""Voxels that differ from their layer: from what lies at the same depth of the electrode, along half a turn of it."""

import numpy as np
from scipy import ndimage

from operandi.stages.electrodes import ElectrodePositions

_TURNS = 0.5
_LEAST_PEERS = 8
_LOW_PERCENT, _LOW_SIGMAS = 2.5, 1.96


def against_layer(
    values: np.ndarray, at: ElectrodePositions, inside: np.ndarray, depths: int, *, both_tails: bool = False, least: float = 0.05
) -> np.ndarray:
    """How many standard deviations each voxel (y, x) lies above its peers; NaN where it or most of its peers are unknown.

    Peers lie in the same of ``depths`` slices of the winding, within a quarter of a turn either way. Their deviation is the larger of that
    from the median absolute deviation and from the lowest 2.5 % (and highest, with ``both_tails``): at the faces of a layer voxels are
    part of two, which is no normal scatter. It is at least half of that of the whole map, and ``least`` of its typical value.
    """
    scores = np.full(values.shape, np.nan)
    usable = inside & np.isfinite(values) & np.isfinite(at.theta)
    if not usable.any():
        return scores
    left, spread = np.full(values.shape, np.nan), np.full(values.shape, np.nan)
    for members, window in _slices(at, usable, depths):
        ordered = values.ravel()[members]
        apart = ordered - _running(ordered, window, 50)
        left.ravel()[members] = apart
        below = -_running(apart, window, _LOW_PERCENT) / _LOW_SIGMAS
        above = _running(apart, window, 100 - _LOW_PERCENT) / _LOW_SIGMAS if both_tails else below
        spread.ravel()[members] = np.maximum(1.4826 * _running(np.abs(apart), window, 50), np.maximum(below, above))
    known = np.isfinite(left)
    if not known.any():
        return scores
    usual = 1.4826 * float(np.median(np.abs(left[known])))
    floor = max(0.5 * usual, least * float(np.percentile(np.abs(values[known]), 90)), np.finfo(float).tiny)
    return np.where(known, left / np.maximum(spread, floor), np.nan)


def _running(values: np.ndarray, window: int, percent: float) -> np.ndarray:
    """Percentiles of windows a quarter of their length apart, and straight lines between."""
    if values.size <= window:
        return np.full(values.size, np.percentile(values, percent))
    starts = np.linspace(0, values.size - window, int(np.ceil(4 * (values.size - window) / window)) + 1).astype(int)
    found = [np.percentile(values[s : s + window], percent) for s in starts]
    return np.interp(np.arange(values.size), starts + (window - 1) / 2, found)


def share_known(values: np.ndarray, at: ElectrodePositions, inside: np.ndarray, depths: int) -> np.ndarray:
    """Share of a voxel's peers whose value is known (y, x); NaN outside."""
    shares = np.full(values.shape, np.nan)
    usable = inside & np.isfinite(at.theta)
    for members, window in _slices(at, usable, depths):
        shares.ravel()[members] = ndimage.uniform_filter1d(np.isfinite(values.ravel()[members]).astype(float), window, mode="nearest")
    return shares


def _slices(at: ElectrodePositions, usable: np.ndarray, depths: int):
    """Flat indices of each slice's voxels, ordered along the electrode, and how many make half a turn."""
    number = np.where(usable, np.floor((np.nan_to_num(at.share) + 0.5) * depths), -1)
    for k in range(depths + 1):
        members = np.nonzero((number == k).ravel())[0]
        if members.size < _LEAST_PEERS:
            continue
        theta = at.theta.ravel()[members]
        turns = max(np.ptp(theta) / (2 * np.pi), _TURNS)
        window = max(int(members.size * _TURNS / turns), _LEAST_PEERS) | 1
        yield members[np.argsort(theta)], window
