"""Filtering and backprojection of many channels that share one geometry.

Arrays are (projection, sample, channel) and (row, column, channel) with the channel last and contiguous. Channels are
processed in slabs of ``CHANNELS``, so that the filtered projections of a slab stay in cache while every pixel reads them;
within a slab the image is cut into tiles. Each voxel is the sum over the projections in the order in which they are given,
whichever thread computes it: results do not depend, bit by bit, on the number of threads.

A slab is (projection, sample + 2, ``CHANNELS``): a row of zeros at either end stands for what lies beyond the detector.
Inner loops index flat arrays with unsigned integers: numba then emits no wrap-around tests, and LLVM vectorises them.
"""

import math

import numpy as np
from numba import njit, prange

CHANNELS = 128
TILE = 8
GROUP = 4
"""Projections are added in groups of this many; their number must be a multiple of it."""

_BLOCK = 2 * GROUP
_WIDTH = np.uint64(CHANNELS)
_FAST = {"contract", "nsz", "arcp"}


@njit(nogil=True, fastmath=_FAST)
def _add_eight_rows(flat, at, step, weights, out, o):
    """``out[o:] += Σ weights[m] * flat[at + m * step:]`` over eight rows of ``CHANNELS``."""
    i, j, k, m = at, at + step, at + np.uint64(2) * step, at + np.uint64(3) * step
    i2, j2, k2, m2 = m + step, m + np.uint64(2) * step, m + np.uint64(3) * step, m + np.uint64(4) * step
    a, b, c, d, e, f, g, h = weights
    for q in range(_WIDTH):
        out[o + q] += (
            a * flat[i + q] + b * flat[j + q] + c * flat[k + q] + d * flat[m + q]
            + e * flat[i2 + q] + f * flat[j2 + q] + g * flat[k2 + q] + h * flat[m2 + q]
        )  # fmt: skip


@njit(nogil=True, fastmath=_FAST)
def _add_row(flat, at, weight, out, o):
    for q in range(_WIDTH):
        out[o + q] += weight * flat[at + q]


@njit(nogil=True, fastmath=_FAST)
def _convolve_one(block, n, taps, i, start, step, out, o):
    """Add ``taps[i - j] * block[j]`` to a row of ``out`` for j = start, start + step, …; ``taps`` has its 0 at index ``n``."""
    j = start
    stride = np.uint64(step) * _WIDTH
    while j + 7 * step < n:
        t = n + i - j
        weights = (taps[t], taps[t - step], taps[t - 2 * step], taps[t - 3 * step],
                   taps[t - 4 * step], taps[t - 5 * step], taps[t - 6 * step], taps[t - 7 * step])  # fmt: skip
        _add_eight_rows(block, np.uint64(j) * _WIDTH, stride, weights, out, o)
        j += 8 * step
    while j < n:
        _add_row(block, np.uint64(j) * _WIDTH, taps[n + i - j], out, o)
        j += step


@njit(cache=True, nogil=True, parallel=True, fastmath=_FAST)
def filter_slab(projections, first, taps, slab):
    """Convolve the channels from ``first`` on of every projection with a kernel, into ``slab``.

    Parameters
    ----------
    projections : (projection, sample, channel) float32, finite.
    first : first channel of the slab; channels beyond the last become 0.
    taps : (2 * sample,) float32, the kernel at -sample … sample - 1. Where every other tap but the middle one is zero (the ramp),
        only the others are summed.
    slab : (at least projection, sample + 2, CHANNELS) float32; rows of projections beyond the given ones become 0.
    """
    n_projections, n_samples = projections.shape[0], projections.shape[1]
    n = min(CHANNELS, projections.shape[2] - first)
    even = 0.0
    for m in range(2, n_samples, 2):
        even += abs(taps[n_samples + m]) + abs(taps[n_samples - m])
    for p in prange(slab.shape[0]):
        slab[p] = 0.0
        if p < n_projections:
            block = np.zeros((n_samples, CHANNELS), np.float32)
            for i in range(n_samples):
                for k in range(n):
                    block[i, k] = projections[p, i, first + k]
            flat, out = block.ravel(), slab[p].ravel()
            for i in range(n_samples):
                o = np.uint64(i + 1) * _WIDTH
                _convolve_one(flat, n_samples, taps, i, 1 - i % 2, 2, out, o)
                if even == 0.0:
                    _add_row(flat, np.uint64(i) * _WIDTH, taps[n_samples], out, o)
                else:
                    _convolve_one(flat, n_samples, taps, i, i % 2, 2, out, o)


@njit(nogil=True, fastmath=_FAST)
def _trace_tile(row, column, shape, cosines, sines, weights, centre, n_samples, offset, low, high):
    """For every pixel of a tile and projection, the flat offset in the slab and the weights there and on the next sample.

    Beyond the detector the weights are 0.
    """
    for p in range(cosines.shape[0]):
        for pixel in range(TILE * TILE):
            y = row + pixel // TILE - 0.5 * (shape[0] - 1)
            x = column + pixel % TILE - 0.5 * (shape[1] - 1)
            position = x * cosines[p] + y * sines[p] + centre
            inside = -1.0 < position < n_samples
            position = position if inside else 0.0
            below = math.floor(position)
            fraction = position - below
            weight = weights[p] if inside else 0.0
            offset[pixel, p] = np.uint64(p * (n_samples + 2) + int(below) + 1) * _WIDTH
            low[pixel, p] = weight * (1.0 - fraction)
            high[pixel, p] = weight * fraction


@njit(nogil=True, fastmath=_FAST)
def _add_between(flat, offset, low, high, pixel, p, out, o):
    """Add four interpolated projections from ``p`` on to a row of ``out``."""
    i, j, k, m = offset[pixel, p], offset[pixel, p + 1], offset[pixel, p + 2], offset[pixel, p + 3]
    a, b, c, d = low[pixel, p], low[pixel, p + 1], low[pixel, p + 2], low[pixel, p + 3]
    e, f, g, h = high[pixel, p], high[pixel, p + 1], high[pixel, p + 2], high[pixel, p + 3]
    for q in range(_WIDTH):
        out[o + q] += (
            a * flat[i + q] + e * flat[i + _WIDTH + q] + b * flat[j + q] + f * flat[j + _WIDTH + q]
            + c * flat[k + q] + g * flat[k + _WIDTH + q] + d * flat[m + q] + h * flat[m + _WIDTH + q]
        )  # fmt: skip


@njit(nogil=True, fastmath=_FAST)
def _add_at(flat, offset, weights, pixel, p, out, o):
    """Add four projections at their lower sample only."""
    i, j, k, m = offset[pixel, p], offset[pixel, p + 1], offset[pixel, p + 2], offset[pixel, p + 3]
    a, b, c, d = weights[pixel, p], weights[pixel, p + 1], weights[pixel, p + 2], weights[pixel, p + 3]
    for q in range(_WIDTH):
        out[o + q] += a * flat[i + q] + b * flat[j + q] + c * flat[k + q] + d * flat[m + q]


@njit(cache=True, nogil=True, parallel=True, fastmath=_FAST)
def backproject_slab(slab, cross, first, cosines, sines, weights, centre, volume):
    """Write the weighted backprojection of a slab into the channels from ``first`` on of ``volume``.

    Parameters
    ----------
    slab : (projection, sample + 2, CHANNELS) float32; the number of projections is a multiple of ``GROUP``.
    cross : the same, or no projection at all. Where given, ``slab`` and ``cross`` hold variances filtered by h² and by h·h₊₁, and what is
        written is the variance: the sum of squares of the interpolation weights, and twice their product times ``cross``.
    cosines, sines, weights : (projection,) float64; a projection of weight 0 adds nothing.
    centre : the sample, fractional, on which the rotation axis falls.
    volume : (row, column, channel) float32. The axis runs through its middle; row and column step by one sample.
    """
    n_rows, n_columns = volume.shape[0], volume.shape[1]
    n_projections, n_samples = slab.shape[0], slab.shape[1] - 2
    n = min(CHANNELS, volume.shape[2] - first)
    across = (n_columns + TILE - 1) // TILE
    flat, flat_cross, variance = slab.ravel(), cross.ravel(), cross.shape[0] > 0
    for tile in prange(((n_rows + TILE - 1) // TILE) * across):
        row, column = (tile // across) * TILE, (tile % across) * TILE
        offset = np.empty((TILE * TILE, n_projections), np.uint64)
        low = np.empty((TILE * TILE, n_projections), np.float32)
        high = np.empty((TILE * TILE, n_projections), np.float32)
        _trace_tile(row, column, (n_rows, n_columns), cosines, sines, weights, centre, n_samples, offset, low, high)
        both = 2 * low * high if variance else low
        if variance:
            low, high = low * low, high * high
        out = np.zeros(TILE * TILE * CHANNELS, np.float32)
        for block in range(0, n_projections, _BLOCK):
            for pixel in range(TILE * TILE):
                for p in range(block, min(block + _BLOCK, n_projections), GROUP):
                    _add_between(flat, offset, low, high, pixel, p, out, np.uint64(pixel) * _WIDTH)
                    if variance:
                        _add_at(flat_cross, offset, both, pixel, p, out, np.uint64(pixel) * _WIDTH)
        for pixel in range(TILE * TILE):
            y, x = row + pixel // TILE, column + pixel % TILE
            if y < n_rows and x < n_columns:
                for k in range(n):
                    volume[y, x, first + k] = out[pixel * CHANNELS + k]


@njit(nogil=True, fastmath=_FAST)
def _spread(flat_volume, at, low, high, flat, o):
    """Add a voxel to the two samples between which it falls."""
    for q in range(_WIDTH):
        flat[o + q] += low * flat_volume[at + q]
    for q in range(_WIDTH):
        flat[o + _WIDTH + q] += high * flat_volume[at + q]


@njit(cache=True, nogil=True, parallel=True, fastmath=_FAST)
def project_slab(volume, cosines, sines, centre, slab):
    """Project a volume: the transpose of `backproject_slab` with weights of 1.

    Parameters
    ----------
    volume : (row, column, CHANNELS) float32.
    slab : (projection, sample + 2, CHANNELS) float32, overwritten; what falls beyond the detector is dropped, its end rows are 0.
    """
    n_rows, n_columns = volume.shape[0], volume.shape[1]
    n_projections, n_samples = slab.shape[0], slab.shape[1] - 2
    across, down = (n_columns + TILE - 1) // TILE, (n_rows + TILE - 1) // TILE
    flat, flat_volume = slab.ravel(), volume.ravel()
    for group in prange((n_projections + _BLOCK - 1) // _BLOCK):
        start, stop = group * _BLOCK, min((group + 1) * _BLOCK, n_projections)
        weights = np.ones(stop - start)
        offset = np.empty((TILE * TILE, stop - start), np.uint64)
        low = np.empty((TILE * TILE, stop - start), np.float32)
        high = np.empty((TILE * TILE, stop - start), np.float32)
        slab[start:stop] = 0.0
        for tile in range(across * down):
            row, column = (tile // across) * TILE, (tile % across) * TILE
            size = (n_rows, n_columns)
            _trace_tile(row, column, size, cosines[start:stop], sines[start:stop], weights, centre, n_samples, offset, low, high)
            for p in range(stop - start):
                base = np.uint64(start * (n_samples + 2)) * _WIDTH
                for pixel in range(TILE * TILE):
                    y, x = row + pixel // TILE, column + pixel % TILE
                    if y < n_rows and x < n_columns and (low[pixel, p] != 0.0 or high[pixel, p] != 0.0):
                        at = np.uint64(y * n_columns + x) * _WIDTH
                        _spread(flat_volume, at, low[pixel, p], high[pixel, p], flat, base + offset[pixel, p])
        slab[start:stop, 0] = 0.0
        slab[start:stop, n_samples + 1] = 0.0
