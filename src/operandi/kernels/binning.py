"""Sparse binning of images: sums over the pixels of each bin, for blocks of images at once.

A pixel contributes to some bins, with one coefficient for each (the share of the pixel that falls into the bin).
"""

from dataclasses import dataclass

import numpy as np
from numba import typeof
from scipy import sparse

from operandi.kernels.counting import SMALL, count_patches
from operandi.kernels.lanes import LANES, PATCH, SPAN, sum_patches
from operandi.kernels.units import run_units

LAGS = 32
"""Bins next to each other that may share a pixel and be told of it."""
STRETCHES = 4
"""Parts of an image that may be summed by different threads; fixed, so that sums do not depend on their number."""
GROUP = 8
"""Blocks of sixteen images at work at a time, which bounds the memory for their sums."""
LONGEST_RUN = 64
"""Entries that are summed in single precision before they are added to sums in double."""


@dataclass(frozen=True, slots=True)
class Operator:
    """Which share of which pixel falls into which bin; pixels in patches of ``PATCH``, entries of a patch by bin.

    A run is a row of at most ``LONGEST_RUN`` entries of one patch and one bin.
    """

    patches: np.ndarray
    """(patch + 1,) int64, first run of each patch."""
    runs: np.ndarray
    """(run + 1,) int64, first entry of each run."""
    bins: np.ndarray
    """(run,) int64."""
    pixels: np.ndarray
    """(entry,) uint16, the pixel's place in its patch."""
    shares: np.ndarray
    """(entry,) float32."""
    used: np.ndarray
    """(patch, place) bool, whether any entry has the pixel."""
    spans: np.ndarray
    """(patch, span) bool, whether any entry has a pixel of the span."""
    weight: np.ndarray
    """(patch, place) float32, the correction by which a pixel's counts are to be divided."""
    dark: np.ndarray
    """(patch, place) float32, subtracted from the counts."""
    norm: np.ndarray
    """(bin,) float64, sum of share times weight over all pixels of the operator."""
    entries: np.ndarray
    """(bin,) int64, number of pixels that reach the bin."""

    only: np.ndarray | None
    """(patch, place) int32, the bin of each pixel, -1 for none; None where pixels have several bins, shares other than 1, or a dark."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Which counts are valid: those in [low, high] that are not within ``delta_dummy`` of ``dummy`` (NaN: there is none)."""

    low: float
    high: float
    dummy: float = np.nan
    delta_dummy: float = 0.0

    @property
    def allow_small(self) -> bool:
        """Every count in [0, `SMALL`] is valid."""
        return self.low <= 0 and self.high >= SMALL and not (self.dummy + self.delta_dummy >= 0 and self.dummy - self.delta_dummy <= SMALL)


@dataclass(frozen=True, slots=True)
class Sums:
    """What the pixels of each bin add up to; arrays (image, bin), float64."""

    signal: np.ndarray
    """Sum of share times (counts - dark)."""
    variance: np.ndarray
    """Sum of share squared times counts, at least 1 for each pixel (Poisson)."""
    norm: np.ndarray
    """Sum of share times weight; exactly 0 where no valid pixel reaches the bin."""


def usable_entries(matrix: sparse.csr_array, weight: np.ndarray, dark: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bin, pixel and share of each entry of a matrix (bin, pixel) that counts.

    Pixels whose weight is zero or not finite, or whose dark is not finite, are left out; ``weight`` and ``dark`` are (pixel,).
    """
    usable = np.isfinite(weight) & (weight != 0) & np.isfinite(dark)
    rows = np.repeat(np.arange(len(matrix.indptr) - 1), np.diff(matrix.indptr))
    keep = usable[matrix.indices] & (matrix.data != 0)
    return rows[keep], matrix.indices[keep], matrix.data[keep].astype(np.float32)


def bin_correlations(matrix: sparse.csr_array) -> np.ndarray:
    """Correlation (lag, bin) of each bin with itself, the next, …, as far as they share pixels, for the same counts in all pixels.

    ``matrix`` (bin, pixel) holds the shares; an empty bin is correlated with itself alone. At most ``LAGS`` neighbours are told.
    """
    matrix = sparse.csr_array(matrix, dtype=np.float64)
    variance = np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel()
    sigma = np.sqrt(np.where(variance > 0, variance, 1.0))
    found = [np.ones(len(sigma))]
    for lag in range(1, min(LAGS, len(sigma))):
        shared = np.asarray(matrix[:-lag].multiply(matrix[lag:]).sum(axis=1)).ravel() / (sigma[:-lag] * sigma[lag:])
        if shared.max(initial=0.0) < 1e-3:
            break
        found.append(np.append(shared, np.zeros(lag)))
    return np.stack(found)


def compile_operator(matrix: sparse.csr_array, weight: np.ndarray, dark: np.ndarray) -> Operator:
    """Reorder a sparse matrix (bin, pixel) of shares by patch; ``weight`` and ``dark`` are (pixel,).

    Entries of pixels that are not usable (see `usable_entries`) are left out.
    """
    n_bins, n_patches = len(matrix.indptr) - 1, -(-weight.size // PATCH)
    rows, pixels, shares = usable_entries(matrix, weight, dark)
    patch = (pixels // PATCH).astype(np.min_scalar_type(n_patches))
    order = np.argsort(patch, kind="stable")  # entries come by bin and stay so within each patch
    rows, patch, shares = rows[order], patch[order], shares[order]
    place = (pixels[order] % PATCH).astype(np.uint16)
    starts = _run_starts(patch, rows)
    used = np.zeros((n_patches, PATCH), bool)
    used[patch, place] = True
    field, weights = _in_patches(dark), weight[pixels[order]]
    return Operator(
        patches=np.searchsorted(patch[starts], np.arange(n_patches + 1)), runs=np.append(starts, len(patch)),
        bins=rows[starts], pixels=place, shares=shares, used=used,
        spans=np.logical_or.reduce(used.reshape(n_patches, -1, SPAN), axis=2), weight=_in_patches(weight), dark=field,
        norm=np.bincount(rows, shares.astype(np.float64) * weights, n_bins), entries=np.bincount(rows, minlength=n_bins),
        only=None if field.any() else _only_bins(rows, shares, weights, used, (patch, place)),
    )  # fmt: skip


def _only_bins(rows: np.ndarray, shares: np.ndarray, weights: np.ndarray, used: np.ndarray, places: tuple) -> np.ndarray | None:
    """(patch, place) int32, the bin of each pixel, -1 for none; None where a pixel is in two, or not with a share of 1.

    Also None where a sum would not be exact, and so depend on its order: of small counts in 32 bits, of weights in double precision.
    """
    most, weights = np.bincount(rows, minlength=1).max(), abs(weights)
    exact = most * SMALL < 2**32 and most * weights.max(initial=0) < 2**29 * weights.min(initial=np.inf)
    if np.count_nonzero(used) != rows.size or (shares != 1).any() or not exact:
        return None
    bins = np.full(used.shape, -1, np.int32)
    bins[places] = rows
    return bins


def _run_starts(patch: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """First entry of each run: where patch or bin change, and after every ``LONGEST_RUN`` entries."""
    if len(patch) == 0:
        return np.zeros(0, np.int64)
    changes = np.flatnonzero((np.diff(patch) != 0) | (np.diff(rows) != 0)) + 1
    starts = np.concatenate([[0], changes])
    pieces = -(-np.diff(np.append(starts, len(patch))) // LONGEST_RUN)
    within = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    return np.repeat(starts, pieces) + within * LONGEST_RUN


def _in_patches(values: np.ndarray) -> np.ndarray:
    """(pixel,) as (patch, place) float32, 0 beyond the image and where not finite."""
    padded = np.zeros((-(-values.size // PATCH), PATCH), np.float32)
    padded.ravel()[: values.size] = np.where(np.isfinite(values), values, 0)
    return padded


def bin_images(operator: Operator, images: np.ndarray, limits: Limits) -> Sums:
    """Sum ``images`` (image, pixel) into the bins; a pixel is left out, in signal and in norm, of the images where it is not valid."""
    parts = [_bin_group(operator, images[i : i + GROUP * LANES], limits) for i in range(0, len(images), GROUP * LANES)]
    signal, variance, norm = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return Sums(signal, variance, norm)


def _bin_group(operator: Operator, images: np.ndarray, limits: Limits) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Signal, variance and norm (image, bin) of at most ``GROUP * LANES`` images."""
    shape = (-(-len(images) // LANES), STRETCHES, len(operator.norm))
    totals = np.zeros((*shape, 2 * LANES))
    lost_norm, lost = np.zeros((*shape, LANES)), np.zeros((*shape, LANES), np.int32)
    values = (np.float32(limits.low), np.float32(limits.high), np.float32(limits.dummy), np.float32(limits.delta_dummy))
    entries = (operator.patches, operator.runs, operator.bins, operator.pixels)
    fields = (operator.used, operator.weight, operator.dark, operator.spans)
    has_dark = operator.only is None and bool(operator.dark.any())
    counts = limits.allow_small and images.dtype.kind in "iu" and images.itemsize in (2, 4)
    edges = np.linspace(0, len(operator.used), STRETCHES + 1).astype(int)

    def sum_unit(unit: int) -> None:
        block, part = divmod(unit, STRETCHES)
        patches, sums = np.arange(edges[part], edges[part + 1]), (totals[block, part], lost_norm[block, part], lost[block, part])
        if operator.only is not None and counts:
            counted, only = np.zeros(sums[0].shape, np.uint32), (operator.only, operator.weight, operator.used, operator.spans)
            left = count_patches(images, block * LANES, edges[part], edges[part + 1], entries, only, values, counted, *sums, patches)
            patches, sums[0][:] = patches[:left], sums[0] + counted
        sum_patches(images, block * LANES, patches, (*entries, operator.shares), fields, has_dark, values, *sums)

    run_units(sum_unit, shape[0] * STRETCHES, compiled=(sum_patches, typeof(images), counts and operator.only is not None))
    sums = totals.sum(axis=1)
    norm = np.broadcast_to(operator.norm[:, None], (shape[0], shape[2], LANES))
    if lost.any():
        left = operator.entries[:, None] > lost.sum(axis=1)
        norm = np.where(left, norm - lost_norm.sum(axis=1), 0.0)
    return tuple(_by_image(part, len(images)) for part in (sums[..., :LANES], sums[..., LANES:], norm))  # pyright: ignore[reportReturnType]


def _by_image(lanes: np.ndarray, n_images: int) -> np.ndarray:
    """(block, bin, lane) as (image, bin)."""
    return lanes.transpose(0, 2, 1).reshape(-1, lanes.shape[1])[:n_images]
