"""Robust averages over the pixels of each bin: what is left after sigma clipping, and the weighted median.

A pixel's value is its counts less dark, divided by its weight. Counts outside the valid ones are left out.
Pixels are not split: each belongs to one bin.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numba import njit, typeof
from scipy import sparse

from operandi.kernels.binning import Limits, usable_entries
from operandi.kernels.units import run_units

MODELS = AZIMUTHAL, POISSON, HYBRID = 0, 1, 2
"""Error models: scatter of the pixels in the bin; counting statistics; clipping by the former, errors of the latter."""

PARTS = 4
"""Parts of an image that different threads may work on."""


@dataclass(frozen=True, slots=True)
class Rings:
    """The pixels of each bin, one bin after the other."""

    bins: np.ndarray
    """(bin + 1,) int64, first pixel of each bin."""
    pixels: np.ndarray
    """(entry,) int32."""
    weight: np.ndarray
    """(entry,) float32, the correction by which a pixel's counts are to be divided."""
    dark: np.ndarray
    """(entry,) float32, subtracted from the counts."""


@dataclass(frozen=True, slots=True)
class Averages:
    """What stands for the pixels of each bin; arrays (image, bin), float64, NaN where a bin is empty."""

    value: np.ndarray
    sigma: np.ndarray
    norm: np.ndarray
    """Sum of the weights of the pixels that were averaged; 0 where a bin is empty."""
    mean: np.ndarray
    """Plain mean of all valid pixels."""
    mean_norm: np.ndarray
    """Sum of the weights of all valid pixels."""


def compile_rings(matrix: sparse.csr_array, weight: np.ndarray, dark: np.ndarray) -> Rings:
    """Take the pixels of each bin from a matrix (bin, pixel) without splitting; ``weight`` and ``dark`` are (pixel,)."""
    rows, columns, _ = usable_entries(matrix, weight, dark)
    bins = np.searchsorted(rows, np.arange(len(matrix.indptr)))
    return Rings(bins, columns.astype(np.int32), weight[columns].astype(np.float32), dark[columns].astype(np.float32))


def clip_rings(rings: Rings, images: np.ndarray, limits: Limits, *, model: int, threshold: float, rounds: int) -> Averages:
    """Sigma clipping of ``images`` (image, pixel), as pyFAI's ``sigma_clip_ng`` does it.

    In each of at most ``rounds`` rounds the pixels go that lie more than ``threshold`` standard deviations (of a pixel, by the error
    model) from the mean of those left; in large bins Chauvenet's criterion takes the place of a smaller threshold.
    """
    return _average(_clip_bins, rings, images, limits, (model, float(threshold), rounds))


def find_medians(rings: Rings, images: np.ndarray, limits: Limits) -> Averages:
    """Medians of ``images`` (image, pixel), weighted by the pixels' weights, as pyFAI's ``medfilt1d_ng`` defines them at 50 %.

    Sigma is √(π/2) times the Poisson error of the mean of as many pixels that all have the median intensity: outliers add nothing to it.
    """
    return _average(_median_bins, rings, images, limits, ())


def _average(kernel: Callable[..., None], rings: Rings, images: np.ndarray, limits: Limits, options: tuple) -> Averages:
    """Run a kernel on every bin of every image, an image in ``PARTS`` parts of as many pixels."""
    values = (np.float32(limits.low), np.float32(limits.high), np.float32(limits.dummy), np.float32(limits.delta_dummy))
    edges = np.searchsorted(rings.bins, np.linspace(0, rings.bins[-1], PARTS + 1)).tolist()
    edges[0], edges[-1] = 0, len(rings.bins) - 1
    out = np.empty((len(images), len(rings.bins) - 1, 5))

    def average_part(unit: int) -> None:
        image, part = divmod(unit, PARTS)
        bins = slice(edges[part], edges[part + 1])
        kernel(
            images[image],
            rings.bins[bins.start : bins.stop + 1],
            rings.pixels,
            rings.weight,
            rings.dark,
            values,
            *options,
            out[image, bins],
        )

    run_units(average_part, len(images) * PARTS, compiled=(kernel, typeof(images)))
    return Averages(*np.moveaxis(out, 2, 0))


@njit(cache=True, nogil=True)
def _gather(image, begin, end, pixels, weight, dark, limits, values, norms, variances):
    """Value, weight and Poisson variance of the counts of the valid pixels of a bin; returns their number."""
    low, high, dummy, delta_dummy = limits
    n = 0
    for e in range(begin, end):
        counts = np.float32(image[pixels[e]])
        if low <= counts <= high and not abs(counts - dummy) <= delta_dummy:
            norms[n] = weight[e]
            values[n] = np.float64(counts - dark[e]) / norms[n]
            variances[n] = max(counts, np.float32(1))
            n += 1
    return n


@njit(cache=True, nogil=True)
def _moments(n, values, norms, variances, poisson):
    """Weighted mean, variance of the sum, sum of norms and of their squares of the first n pixels."""
    total = norm = squares = variance = 0.0
    for i in range(n):
        total += norms[i] * values[i]
        norm += norms[i]
        squares += norms[i] * norms[i]
        variance += variances[i]
    mean = total / norm
    if not poisson:
        variance = 0.0
        for i in range(n):
            apart = norms[i] * (values[i] - mean)
            variance += apart * apart
    return mean, variance, norm, squares


@njit(cache=True, nogil=True)
def _keep_near(n, values, norms, variances, mean, reach):
    """Move the pixels within ``reach`` of the mean to the front; returns their number."""
    kept = 0
    for i in range(n):
        if abs(values[i] - mean) <= reach:
            values[kept], norms[kept], variances[kept] = values[i], norms[i], variances[i]
            kept += 1
    return kept


@njit(cache=True, nogil=True)
def _clip_bins(image, bins, pixels, weight, dark, limits, model, threshold, rounds, out):
    """Fill ``out`` (bin, 5) with value, sigma and norm of what is left, mean and norm of all; NaN and 0 where a bin is empty.

    ``bins`` (bin + 1,) are those of ``out``.
    """
    longest = 0
    for b in range(len(out)):
        longest = max(longest, bins[b + 1] - bins[b])
    values, norms, variances = np.empty(longest), np.empty(longest), np.empty(longest)
    for b in range(len(out)):
        n = _gather(image, bins[b], bins[b + 1], pixels, weight, dark, limits, values, norms, variances)
        result = out[b]
        if n == 0:
            result[0], result[1], result[2], result[3], result[4] = np.nan, np.nan, 0.0, np.nan, 0.0
            continue
        mean, variance, norm, squares = _moments(n, values, norms, variances, model == POISSON)
        result[3], result[4] = mean, norm
        for _ in range(rounds):
            cutoff = max(threshold, math.sqrt(2 * math.log(max(n, 3) / math.sqrt(2 * math.pi))))
            kept = _keep_near(n, values, norms, variances, mean, cutoff * math.sqrt(variance / squares))
            if kept == n:
                break
            n = kept
            if n == 0:
                break
            mean, variance, norm, squares = _moments(n, values, norms, variances, model == POISSON)
        if n == 0:
            result[0], result[1], result[2] = np.nan, np.nan, 0.0
            continue
        if model == HYBRID:
            mean, variance, norm, squares = _moments(n, values, norms, variances, True)
        result[0], result[1], result[2] = mean, math.sqrt(variance) / norm, norm


@njit(cache=True, nogil=True)
def _weighted_median(n, values, norms):
    """The value at half of the summed norms; where two share that place, their average, weighted by their norms."""
    half = 0.0
    for i in range(n):
        half += norms[i]
    half *= 0.5
    low, high, before = 0, n, 0.0
    while True:
        pivot = values[(low + high) // 2]
        less, i, top, below, at = low, low, high, 0.0, 0.0
        while i < top:
            if values[i] < pivot:
                below += norms[i]
                values[less], values[i] = values[i], values[less]
                norms[less], norms[i] = norms[i], norms[less]
                less += 1
                i += 1
            elif values[i] > pivot:
                top -= 1
                values[top], values[i] = values[i], values[top]
                norms[top], norms[i] = norms[i], norms[top]
            else:
                at += norms[i]
                i += 1
        if before + below > half:
            high = less
        elif before + below + at < half and top < high:
            low, before = top, before + below + at
        else:
            return _with_neighbour(pivot, less, top, low, high, before + below == half, before + below + at == half, values, norms)


@njit(cache=True, nogil=True)
def _with_neighbour(pivot, less, top, low, high, at_begin, at_end, values, norms):
    """The pivot, averaged with the next smaller (``at_begin``) or larger (``at_end``) value where the half falls between them."""
    norm, other = norms[less:top].mean(), -1
    if at_end:
        for i in range(top, high):
            if other < 0 or values[i] < values[other]:
                other = i
    elif at_begin:
        for i in range(low, less):
            if other < 0 or values[i] > values[other]:
                other = i
    if other < 0:
        return pivot
    return (norm * pivot + norms[other] * values[other]) / (norm + norms[other])


@njit(cache=True, nogil=True)
def _median_bins(image, bins, pixels, weight, dark, limits, out):
    """Fill ``out`` as `_clip_bins` does."""
    longest = 0
    for b in range(len(out)):
        longest = max(longest, bins[b + 1] - bins[b])
    values, norms, variances = np.empty(longest), np.empty(longest), np.empty(longest)
    for b in range(len(out)):
        n = _gather(image, bins[b], bins[b + 1], pixels, weight, dark, limits, values, norms, variances)
        result = out[b]
        if n == 0:
            result[0], result[1], result[2], result[3], result[4] = np.nan, np.nan, 0.0, np.nan, 0.0
            continue
        result[3], _, result[4], _ = _moments(n, values, norms, variances, True)
        median = _weighted_median(n, values, norms)
        variance = 0.0
        for i in range(n):
            variance += max(median * norms[i], 1.0)
        result[0], result[1], result[2] = median, math.sqrt(0.5 * math.pi * variance) / result[4], result[4]
