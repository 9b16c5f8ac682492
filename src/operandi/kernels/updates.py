"""Passes over slabs (slab, row, column, channel) between two projections; what is per channel is (slab, channel)."""

import numpy as np
from numba import njit, prange

_FAST = {"contract", "nsz", "arcp"}
_TINY = np.float32(1e-30)


@njit(cache=True, nogil=True, parallel=True, fastmath=_FAST)
def combine(a, x, b, y, squares):
    """``y`` becomes ``a * x + b * y``, with (slab, channel) factors; ``squares`` (row, slab, channel) the sums of its squares."""
    for row in prange(y.shape[1]):
        for s in range(y.shape[0]):
            squares[row, s] = 0.0
            for i in range(y.shape[2]):
                for q in range(y.shape[3]):
                    value = a[s, q] * x[s, row, i, q] + b[s, q] * y[s, row, i, q]
                    y[s, row, i, q] = value
                    squares[row, s, q] += value * value


@njit(cache=True, nogil=True, parallel=True, fastmath=_FAST)
def divide(measured, projected, squares):
    """``projected`` becomes ``measured / projected``, 0 where that is NaN; ``squares`` (row, slab, channel) of what they differ by."""
    for row in prange(projected.shape[1]):
        for s in range(projected.shape[0]):
            squares[row, s] = 0.0
            for i in range(projected.shape[2]):
                for q in range(projected.shape[3]):
                    value, found = measured[s, row, i, q], projected[s, row, i, q]
                    known = value == value
                    left = value - found if known else np.float32(0.0)
                    squares[row, s, q] += left * left
                    projected[s, row, i, q] = value / max(found, _TINY) if known else np.float32(0.0)


@njit(cache=True, nogil=True, parallel=True, fastmath=_FAST)
def rise(volumes, step, strength, slopes):
    """``step`` times the gradient of ``volumes`` is added to ``slopes`` (2, slab, row, column, channel), cut to
    ``strength`` (slab, channel).

    The gradient is of forward differences, 0 across the volume's end.
    """
    n_slabs, n_rows, n_columns, n_channels = volumes.shape
    for y in prange(n_rows):
        below = min(y + 1, n_rows - 1)
        for s in range(n_slabs):
            for x in range(n_columns):
                right = min(x + 1, n_columns - 1)
                for q in range(n_channels):
                    here = volumes[s, y, x, q]
                    down = slopes[0, s, y, x, q] + step * (volumes[s, below, x, q] - here)
                    across = slopes[1, s, y, x, q] + step * (volumes[s, y, right, q] - here)
                    length = np.sqrt(down * down + across * across)
                    shorter = min(np.float32(1.0), strength[s, q] / max(length, _TINY))
                    slopes[0, s, y, x, q] = shorter * down
                    slopes[1, s, y, x, q] = shorter * across


@njit(cache=True, nogil=True, parallel=True, fastmath=_FAST)
def descend(raised, slopes, step, lowest, volumes, ahead):
    """``volumes`` go by ``step`` (row, column) along ``raised`` plus the divergence of ``slopes``, not below ``lowest``;
    ``ahead`` twice as far.
    """
    n_slabs, n_rows, n_columns, n_channels = volumes.shape
    for y in prange(n_rows):
        for s in range(n_slabs):
            for x in range(n_columns):
                for q in range(n_channels):
                    force = raised[s, y, x, q]
                    force += slopes[0, s, y, x, q] if y < n_rows - 1 else np.float32(0.0)
                    force += slopes[1, s, y, x, q] if x < n_columns - 1 else np.float32(0.0)
                    force -= slopes[0, s, y - 1, x, q] if y > 0 else np.float32(0.0)
                    force -= slopes[1, s, y, x - 1, q] if x > 0 else np.float32(0.0)
                    before = volumes[s, y, x, q]
                    after = max(before + step[y, x] * force, lowest)
                    volumes[s, y, x, q] = after
                    ahead[s, y, x, q] = 2 * after - before


@njit(cache=True, nogil=True, parallel=True, fastmath=_FAST)
def sum_squares(x, squares):
    """``squares`` (row, slab, channel) become the sums over columns of ``x²``."""
    for row in prange(x.shape[1]):
        for s in range(x.shape[0]):
            squares[row, s] = 0.0
            for i in range(x.shape[2]):
                for q in range(x.shape[3]):
                    squares[row, s, q] += x[s, row, i, q] * x[s, row, i, q]
