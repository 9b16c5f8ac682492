"""Outliers of sinograms: spots and streaks of single grains, and stripes that become rings."""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from operandi.errors import ShapeError

FEWEST_LINES = 5
"""Rotations below which there is nothing to compare with."""
_TURNS, _SIDES = (-2, -1, 1, 2), (-1, 0, 1)
_MEDIAN_SHARE = np.pi / 2 / 12
"""Variance of the median of the neighbours, as a share of theirs, where they all see the same."""


class Cleaned(NamedTuple):
    """A sinogram (rotation, translation, q) without spots."""

    values: np.ndarray
    variance: np.ndarray | None
    replaced: np.ndarray
    """(rotation, translation, q) bool: cells that are no longer what was measured."""


def without_spots(
    values: np.ndarray, rotation_deg: np.ndarray, *, variance: np.ndarray | None = None, limit: float = 8.0, fill: bool = True
) -> Cleaned:
    """Replace cells that single grains light up in one or two projections by the median of neighbours at other rotations.

    A grain fulfils Bragg's law at few rotations only, so the same place is dark in the projections before and after; a streak of several
    translations in one projection is found as well as a spot. A cell counts as lit where it is more than ``limit`` standard
    deviations above the median of its 12 neighbours: those two rotations before and after, at the same and both adjacent translations. The
    deviation is that of such differences over all rotations at the same translation and q (robust), or that of the cell, whichever is
    more; edges of the sample thus count as what they are.

    Parameters
    ----------
    values, variance : (rotation, translation, q); NaN is not measured, and stays so.
    rotation_deg : (rotation,), in any order.
    fill : False makes lit cells NaN instead.

    Returns
    -------
    Values, variance (of what was replaced that of the median, with the change from rotation to rotation), and which.

    Raises
    ------
    ShapeError
        If arrays do not fit each other, there are fewer than 5 rotations, or the limit is not positive.
    """
    values = np.asarray(values, np.float32)
    if values.ndim != 3 or np.shape(rotation_deg) != values.shape[:1] or (variance is not None and variance.shape != values.shape):
        raise ShapeError(f"spots need (rotation, translation, q) with variance and rotations that fit, got {values.shape}")
    if len(values) < FEWEST_LINES or not limit > 0:
        raise ShapeError(f"spots are found by comparing rotations: at least 5, there are {len(values)}, and a positive limit, got {limit}")
    order = np.argsort(rotation_deg, kind="stable")
    median = np.empty_like(values)
    median[order] = _neighbours_median(values[order])
    difference = values - median
    with np.errstate(invalid="ignore"):
        scale = 1.4826 * _median_of_finite(np.abs(difference))
        own = 0.0 if variance is None else np.sqrt(variance)
        lit = difference > limit * np.maximum(np.maximum(scale, own), 1e-6 * np.abs(median))
    result = np.where(lit, median if fill else np.float32(np.nan), values)
    if variance is None:
        return Cleaned(result, None, lit)
    typical = _median_of_finite(np.asarray(variance, np.float32))
    # what the differences scatter by is the noise of the cell and the error of the median, which alone is left
    left = np.maximum(scale**2 - typical, _MEDIAN_SHARE * typical) if fill else np.full(scale.shape, np.nan)
    return Cleaned(result, np.where(lit, left.astype(np.float32), variance).astype(np.float32), lit)


def _neighbours_median(values: np.ndarray) -> np.ndarray:
    """Median of the finite neighbours at other rotations; NaN where there is none."""
    padded = np.pad(values, ((2, 2), (1, 1), (0, 0)), constant_values=np.nan)
    n_rotation, n_translation, _ = values.shape
    return _median_of_finite(
        np.stack([padded[2 + turn :][:n_rotation, 1 + side : 1 + side + n_translation] for turn in _TURNS for side in _SIDES])
    )


def _median_of_finite(values: np.ndarray) -> np.ndarray:
    """Median along the first axis, NaN left out."""
    ordered = np.sort(np.where(np.isfinite(values), values, np.nan), axis=0)
    number = np.isfinite(ordered).sum(axis=0)[None]
    ranks = (np.maximum(number - 1, 0) // 2, np.minimum(number // 2, np.maximum(number - 1, 0)))
    low, high = (np.take_along_axis(ordered, rank, axis=0)[0] for rank in ranks)
    return (low + high) / 2


def without_stripes(values: np.ndarray, *, width: int = 9) -> np.ndarray:
    """Take out offsets that are the same at all rotations and narrower than about half of ``width`` translations: they become rings.

    Each translation is sorted over the rotations, so that what is compared with its neighbours by a median filter is the same rank of
    intensity (after algorithm 3 of Vo, Atwood & Drakopoulos 2018, doi:10.1364/OE.26.028396); the median over ranks of what the filter
    takes away is the offset. Not for samples that are rings themselves about the axis: a can or a jelly roll that turns about
    its own centre looks like stripes.

    Parameters
    ----------
    values : (rotation, translation, q); NaN is not measured, and stays so.
    width : of the filter, odd.
    """
    if values.ndim != 3 or not (width > 1 and width % 2 and width <= values.shape[1]):
        raise ShapeError(
            f"stripes need (rotation, translation, q), got {values.shape}, and an odd width up to the translations, got {width}"
        )
    ranked = np.sort(values, axis=0)
    number = np.isfinite(ranked).sum(axis=0)
    middle = np.linspace(0.25, 0.75, 9)[:, None, None] * np.maximum(number - 1, 0)
    ranks = np.take_along_axis(ranked, np.rint(middle).astype(int), axis=0)
    smooth = ndimage.median_filter(np.nan_to_num(ranks), size=(1, width, 1), mode="nearest")
    return (values - np.nan_to_num(np.median(ranks - smooth, axis=0))).astype(values.dtype)
