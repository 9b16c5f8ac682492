"""Broken lines through weighted points, row by row: where a line turns, and how sharply.

A turn is ``y = a - p x + c g(x)`` with g(x) = max(h - x, 0), whose corner is rounded by a parabola over h ± r, so that both straight ends
meet at h. All that least squares needs for any h and r are sums over stretches of points, which are differences of cumulated ones.
Points lie in falling order of x.
"""

import numpy as np
from numba import njit, typeof

from operandi.kernels.units import run_units

N_SUMS = 9
_ROWS = 512
_LEAST_ROUND, _MOST_ROUND = 0.02, 0.6
"""How far a corner may be rounded."""
_FIRST_H, _FIRST_STEP, _FIRST_N = -0.6, 0.08, 11
_FIRST_ROUNDS = (0.05, 0.2, 0.4)
_EXPECTED_ROUND = 0.3
_STEPS = (0.06, 0.04, 0.03, 0.03)


def find_corners(x, y, weight, limits, shape):
    """The first corner of each row, going down in x, from which y turns below the upper line, at once or further down.

    Parameters
    ----------
    x, y, weight : (point,) falling, (row, point) and (row, point) float64; weight is the inverse of the variance, 0 where there is nothing.
    limits : (top, first): the points by which the upper line begins, and at which a corner may lie.
    shape : (stretch, below, significant, least, telling): the length of the lower line, the points that it needs, standard deviations and
        change of slope from which a corner counts, and the change of slope that would have to show.

    Returns
    -------
    state (row,) int64, found (row, 3)
        state 1: there is a corner; 0: there is none; -1: most would not show. Of a corner its h, the variance of h by the scatter, and
        that by the choice of points; NaN where there is none.
    """
    state, found = np.zeros(len(y), np.int64), np.full((len(y), 3), np.nan)
    n_units = -(-len(y) // _ROWS)

    def work(unit):
        part = slice(unit * _ROWS, (unit + 1) * _ROWS)
        _find(x, y[part], weight[part], limits, shape, state[part], found[part])

    run_units(work, n_units, compiled=(_find, *map(typeof, (x, y, weight, limits, shape))))
    return state, found


@njit(cache=True, nogil=True)
def _find(x, y, weight, limits, shape, state, found):
    top, first = limits
    stretch, below, significant, least, telling = shape
    to = np.zeros((x.size + 1, N_SUMS))
    higher = top + (first - top) // 3
    for row in range(y.shape[0]):
        _accumulate(x, y[row], weight[row], to)
        state[row], at = _detect(x, to, top, first, stretch, below, significant, least, telling)
        if state[row] != 1:
            continue
        h, r = _search(x, to, top, below, stretch, at)
        variance = np.inf
        for step in _STEPS:
            h, r, variance = _climb(x, to, top, below, stretch, h, r, step)
        excess = 0.0
        for other in range(2):
            begin, length = (top, 1.33 * stretch) if other == 0 else (higher, stretch)
            moved, _, its = _climb(x, to, begin, below, length, h, r, _STEPS[-1])
            if np.isfinite(its) and np.isfinite(variance):
                excess += ((moved - h) ** 2 - abs(its - variance)) / 2
        found[row, 0], found[row, 1], found[row, 2] = h, variance, max(excess, 0.0)


@njit(cache=True, nogil=True)
def _accumulate(x, y, weight, to):
    """Sums over the points before each: of 1, x, x², x³, x⁴, y, xy, x²y by weight, and the number that has any."""
    for i in range(x.size):
        w = weight[i]
        wy = w * y[i]
        for k in range(5):
            to[i + 1, k] = to[i, k] + w
            w *= x[i]
        for k in range(5, 8):
            to[i + 1, k] = to[i, k] + wy
            wy *= x[i]
        to[i + 1, 8] = to[i, 8] + (weight[i] > 0)


@njit(cache=True, nogil=True)
def _index(x, at):
    """The first point not above ``at``."""
    low, high = 0, x.size
    while low < high:
        middle = (low + high) // 2
        if x[middle] > at:
            low = middle + 1
        else:
            high = middle
    return low


@njit(cache=True, nogil=True)
def _turn(to, top, start, corner, stop, h, r):
    """Change of slope c and the inverse of its variance; rounding and lower line lie between ``start``, ``corner`` and ``stop``."""
    n, sx, sxx = to[stop, 0] - to[top, 0], to[stop, 1] - to[top, 1], to[stop, 2] - to[top, 2]
    sy, sxy = to[stop, 5] - to[top, 5], to[stop, 6] - to[top, 6]
    ln, lx, lxx = to[stop, 0] - to[corner, 0], to[stop, 1] - to[corner, 1], to[stop, 2] - to[corner, 2]
    ly, lxy = to[stop, 5] - to[corner, 5], to[stop, 6] - to[corner, 6]
    g, gx, gg, gy = h * ln - lx, h * lx - lxx, h * (h * ln - 2 * lx) + lxx, h * ly - lxy
    if corner > start:
        rn, rx, rxx = to[corner, 0] - to[start, 0], to[corner, 1] - to[start, 1], to[corner, 2] - to[start, 2]
        rx3, rx4 = to[corner, 3] - to[start, 3], to[corner, 4] - to[start, 4]
        ry, rxy, rxxy = to[corner, 5] - to[start, 5], to[corner, 6] - to[start, 6], to[corner, 7] - to[start, 7]
        e, scale = h + r, 1 / (4 * r)
        g += (e * (e * rn - 2 * rx) + rxx) * scale
        gx += (e * (e * rx - 2 * rxx) + rx3) * scale
        gg += (e * (e * (e * (e * rn - 4 * rx) + 6 * rxx) - 4 * rx3) + rx4) * scale * scale
        gy += (e * (e * ry - 2 * rxy) + rxxy) * scale
    if n <= 0:
        return np.nan, np.nan
    spread = sxx - sx * sx / n
    gx_c, gy_c, gg_c = gx - g * sx / n, gy - g * sy / n, gg - g * g / n
    if spread <= 0:
        return np.nan, np.nan
    information = gg_c - gx_c * gx_c / spread
    if information <= 1e-12 * gg:
        return np.nan, np.nan
    return (gy_c - gx_c * (sxy - sx * sy / n) / spread) / information, information


@njit(cache=True, nogil=True)
def _detect(x, to, top, first, stretch, below, significant, least, telling):
    """1 and the x of the first point at which a turn counts, where any goes down; else 0, or -1 where at most points none would show."""
    shown, tried, at = 0, 0, -np.inf
    for i in range(first, x.size - below + 1):
        stop = min(max(_index(x, x[i] - stretch), i + below), x.size)
        tried += 1
        if to[stop, 8] - to[i, 8] < below - 1:
            continue
        turn, information = _turn(to, top, i, i, stop, x[i], 0.0)
        error = 1 / np.sqrt(information)
        shown += significant * error < telling
        if abs(turn) > significant * error and abs(turn) > least:
            at = max(at, x[i])
            if turn < 0:
                return 1, at
    return (0 if 2 * shown > tried else -1), np.nan


@njit(cache=True, nogil=True)
def _gain(x, to, top, stop, h, r):
    """By how much a corner lowers χ² of the points from ``top`` to ``stop``; -1 where it cannot be told."""
    start, corner = min(_index(x, h + r), stop), min(_index(x, h - r), stop)
    if start <= top or to[stop, 8] - to[corner, 8] < 2:
        return -1.0
    turn, information = _turn(to, top, start, corner, stop, h, r)
    gain = turn * turn * information
    return gain if np.isfinite(gain) else -1.0


@njit(cache=True, nogil=True)
def _end(x, below, stretch, h, r):
    """Where the lower line of a corner ends."""
    return min(max(_index(x, h - r - stretch), _index(x, h) + below), x.size)


@njit(cache=True, nogil=True)
def _search(x, to, top, below, stretch, at):
    """h and r of the clearest of the corners about ``at``."""
    stop = _end(x, below, stretch, at, _EXPECTED_ROUND)
    best, h, r = -1.0, at, _FIRST_ROUNDS[0]
    for i in range(_FIRST_N):
        for round_ in _FIRST_ROUNDS:
            gain = _gain(x, to, top, stop, at + _FIRST_H + i * _FIRST_STEP, round_)
            if gain > best:
                best, h, r = gain, at + _FIRST_H + i * _FIRST_STEP, round_
    return h, r


@njit(cache=True, nogil=True)
def _climb(x, to, top, below, stretch, h, r, width):
    """h and r after a step of Newton towards the largest gain, from differences over ``width``, and the variance of h."""
    r = min(max(r, _LEAST_ROUND + width), _MOST_ROUND - width)
    stop = _end(x, below, stretch, h, r)
    f = np.empty((3, 3))
    best, best_h, worst = -1.0, h, 0.0
    for i in range(3):
        for j in range(3):
            f[i, j] = _gain(x, to, top, stop, h + (i - 1) * width, r + (j - 1) * width)
            worst = min(worst, f[i, j])
            if f[i, j] > best:
                best, best_h = f[i, j], h + (i - 1) * width
    if worst < 0:
        return best_h, r, np.inf
    f_h, f_r = (f[2, 1] - f[0, 1]) / 2, (f[1, 2] - f[1, 0]) / 2
    hh, rr = f[2, 1] - 2 * f[1, 1] + f[0, 1], f[1, 2] - 2 * f[1, 1] + f[1, 0]
    hr = (f[2, 2] - f[2, 0] - f[0, 2] + f[0, 0]) / 4
    if hh >= 0:
        return best_h, r, np.inf
    free = rr < 0 and hh * rr > hr * hr
    step_r = min(max((hr * f_h - hh * f_r) / (hh * rr - hr * hr), -2.0), 2.0) if free else 0.0
    limited = min(max(r + step_r * width, _LEAST_ROUND), _MOST_ROUND)
    step_h = -(f_h + hr * (limited - r) / width) / hh
    curvature = hh - hr * hr / rr if free and limited > _LEAST_ROUND else hh
    return h + min(max(step_h, -2.0), 2.0) * width, limited, -2 * width * width / curvature
