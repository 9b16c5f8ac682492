"""Sparse binning of images: sums over the pixels of each bin, for blocks of images at once.

A pixel contributes to a run of neighbouring bins, with one coefficient for each (the share of the pixel that falls
into the bin).
"""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from operandi.kernels.lanes import LANES, sum_stretches

STRETCHES = 4
"""Parts of an image that may be summed by different threads; fixed, so that sums do not depend on their number."""
GROUP = 8
"""Blocks of sixteen images at work at a time, which bounds the memory for their sums."""


@dataclass(frozen=True, slots=True)
class Operator:
    """Which share of which pixel falls into which bin; pixels in the order of the image.

    Pixel ``p`` falls into the bins ``first[p] … first[p] + n - 1`` with the shares ``shares[start[p]:start[p + 1]]``,
    n being their number; a pixel to be ignored has none.
    """

    first: np.ndarray
    """(pixel,) int32."""
    start: np.ndarray
    """(pixel + 1,) int32."""
    shares: np.ndarray
    """(entry,) float32."""
    weight: np.ndarray
    """(pixel,) float32, the correction by which a pixel's counts are to be divided."""
    dark: np.ndarray
    """(pixel,) float32, subtracted from the counts."""
    norm: np.ndarray
    """(bin,) float64, sum of share times weight over all pixels of the operator."""
    entries: np.ndarray
    """(bin,) int64, number of pixels that reach the bin."""


@dataclass(frozen=True, slots=True)
class Sums:
    """What the pixels of each bin add up to; arrays (image, bin), float64."""

    signal: np.ndarray
    """Sum of share times (counts - dark)."""
    variance: np.ndarray
    """Sum of share squared times counts, at least 1 for each pixel (Poisson)."""
    norm: np.ndarray
    """Sum of share times weight; exactly 0 where no valid pixel reaches the bin."""


def compile_operator(matrix: sparse.csr_array, weight: np.ndarray, dark: np.ndarray) -> Operator:
    """Reorder a sparse matrix (bin, pixel) of shares by pixel.

    ``weight`` and ``dark`` are (pixel,). Pixels whose weight is zero or not finite, or whose dark is not finite, are left out.
    Gaps in a pixel's run of bins are filled with shares of zero.
    """
    n_bins, n_pixels = len(matrix.indptr) - 1, weight.size
    usable = np.isfinite(weight) & (weight != 0) & np.isfinite(dark)
    rows = np.repeat(np.arange(n_bins, dtype=np.int32), np.diff(matrix.indptr))
    keep = usable[matrix.indices] & (matrix.data != 0)
    rows, columns, values = rows[keep], matrix.indices[keep], matrix.data[keep]
    first = np.full(n_pixels, n_bins, np.int32)
    last = np.full(n_pixels, -1, np.int32)
    np.minimum.at(first, columns, rows)
    np.maximum.at(last, columns, rows)
    length = np.where(last >= 0, last - first + 1, 0)
    start = np.zeros(n_pixels + 1, np.int32)
    np.cumsum(length, out=start[1:])
    shares = np.zeros(start[-1], np.float32)
    shares[start[columns] + rows - first[columns]] = values
    first[length == 0] = 0
    weight = np.where(usable, weight, 0).astype(np.float32)
    norm = np.bincount(rows, values.astype(np.float64) * weight[columns], n_bins).astype(np.float64)
    return Operator(first, start, shares, weight, np.where(usable, dark, 0).astype(np.float32), norm, np.bincount(rows, minlength=n_bins))


def bin_images(operator: Operator, images: np.ndarray, *, dummy: float = np.nan, delta_dummy: float = 0.0) -> Sums:
    """Sum ``images`` (image, pixel) into the bins.

    A pixel is ignored in an image, in signal and in norm, where its value is negative, not finite, or within
    ``delta_dummy`` of ``dummy`` (NaN: there is none).
    """
    parts = [_bin_group(operator, images[i : i + GROUP * LANES], dummy, delta_dummy) for i in range(0, len(images), GROUP * LANES)]
    signal, variance, norm = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return Sums(signal, variance, norm)


def _bin_group(operator: Operator, images: np.ndarray, dummy: float, delta_dummy: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Signal, variance and norm (image, bin) of at most ``GROUP * LANES`` images."""
    n_images, n_pixels = images.shape
    shape = (-(-n_images // LANES), STRETCHES, len(operator.norm))
    totals = np.zeros((*shape, 2 * LANES))
    lost_norm, lost = np.zeros((*shape, LANES)), np.zeros((*shape, LANES), np.int32)
    stretch = -(-n_pixels // (STRETCHES * 8)) * 8
    sum_stretches(
        images, stretch, operator.first, operator.start, operator.shares, operator.weight, operator.dark,
        np.float32(dummy), np.float32(delta_dummy), totals, lost_norm, lost,
    )  # fmt: skip
    sums = totals.sum(axis=1)
    norm = np.broadcast_to(operator.norm[:, None], (shape[0], shape[2], LANES))
    if lost.any():
        left = operator.entries[:, None] > lost.sum(axis=1)
        norm = np.where(left, norm - lost_norm.sum(axis=1), 0.0)
    return _by_image(sums[..., :LANES], n_images), _by_image(sums[..., LANES:], n_images), _by_image(norm, n_images)


def _by_image(lanes: np.ndarray, n_images: int) -> np.ndarray:
    """(block, bin, lane) as (image, bin)."""
    return lanes.transpose(0, 2, 1).reshape(-1, lanes.shape[1])[:n_images]
