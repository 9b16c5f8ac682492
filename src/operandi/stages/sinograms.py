"""Patterns to sinograms, each into the cell of its rotation and translation; and what to make of cells that were not measured."""

from typing import NamedTuple

import numpy as np

from operandi.errors import ShapeError


class Sinogram(NamedTuple):
    """Cells of a scan."""

    values: np.ndarray
    """(rotation, translation, q) float32; NaN where nothing was measured, never 0."""
    coverage: np.ndarray
    """(rotation, translation) int32: patterns behind the cell, 1 or 0 (not measured)."""


def assemble(patterns: np.ndarray, row: np.ndarray, column: np.ndarray, n_rotation: int, n_translation: int) -> Sinogram:
    """Put patterns into their cells; of several for one cell the last counts.

    A pattern that is NaN throughout (an image without a valid pixel) covers nothing and does not replace an earlier one.

    Parameters
    ----------
    patterns : (n, q); intensity, or any other quantity of each pattern.
    row, column : (n,) integers, the cell along rotation and translation.

    Raises
    ------
    ShapeError
        If the arrays do not fit each other, or a cell lies outside the sinogram.
    """
    patterns, row, column = np.asarray(patterns, np.float32), np.asarray(row), np.asarray(column)
    if patterns.ndim != 2 or row.shape != (len(patterns),) or column.shape != (len(patterns),):
        raise ShapeError(f"patterns {patterns.shape} (n, q) need a row and a column each, got {row.shape} and {column.shape}")
    if len(patterns) and not (np.issubdtype(row.dtype, np.integer) and np.issubdtype(column.dtype, np.integer)):
        raise ShapeError(f"rows and columns must be integers, got {row.dtype} and {column.dtype}")
    outside = (row < 0) | (row >= n_rotation) | (column < 0) | (column >= n_translation)
    if outside.any():
        i = int(np.argmax(outside))
        raise ShapeError(
            f"pattern {i} belongs to cell ({row[i]}, {column[i]}), outside a sinogram of {n_rotation} rotations and "
            f"{n_translation} translations"
        )
    values = np.full((n_rotation * n_translation, patterns.shape[1]), np.nan, np.float32)
    coverage = np.zeros(n_rotation * n_translation, np.int32)
    valid = np.flatnonzero(~np.isnan(patterns).all(axis=1))
    cell = np.asarray(row[valid], np.int64) * n_translation + np.asarray(column[valid], np.int64)
    cells, from_end = np.unique(cell[::-1], return_index=True)
    values[cells] = patterns[valid[valid.size - 1 - from_end]]
    coverage[cells] = 1
    return Sinogram(values.reshape(n_rotation, n_translation, -1), coverage.reshape(n_rotation, n_translation))


def usable_projections(sinogram: np.ndarray) -> np.ndarray:
    """(rotation,) bool: the projections of a sinogram (rotation, translation, q) of which at least half the cells are measured.

    A cell is measured where any of its channels is finite.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        doubtful = ~np.isfinite(sinogram.sum(axis=2))
    measured = ~doubtful
    measured[doubtful] = np.isfinite(sinogram[doubtful]).any(axis=1)
    return (2 * measured.sum(axis=1) >= sinogram.shape[1]) & measured.any(axis=1)


def fill_gaps(projections: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Interpolate cells that are not finite linearly along the translation; beyond the first and last measured ones, hold those.

    Parameters
    ----------
    projections : (rotation, translation, q) float32.

    Returns
    -------
    The filled projections (the same array where nothing is to be filled), and (q,) bool: the channels for which some projection
    has no finite cell. These are 0 throughout, and nothing can be said about them.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        if np.isfinite(projections.sum(axis=2)).all():
            return projections, np.zeros(projections.shape[2], bool)
    projections = projections.copy()
    lost = np.zeros(projections.shape[2], bool)
    for projection in projections:
        lost |= ~np.isfinite(projection).any(axis=0)
    projections[:, :, lost] = 0.0
    for projection in projections:
        if not (finite := np.isfinite(projection)).all():
            _fill_projection(projection, finite)
    return projections, lost


def _fill_projection(projection: np.ndarray, finite: np.ndarray) -> None:
    n = projection.shape[0]
    channels = np.flatnonzero(~finite.all(axis=0))
    values, finite, at = projection[:, channels], finite[:, channels], np.arange(n)[:, None]
    before = np.maximum.accumulate(np.where(finite, at, -1), axis=0)
    after = np.minimum.accumulate(np.where(finite, at, n)[::-1], axis=0)[::-1]
    before, after = np.where(before < 0, after, before), np.where(after == n, before, after)
    fraction = (at - before) / np.maximum(after - before, 1)
    low, high = np.take_along_axis(values, before, axis=0), np.take_along_axis(values, after, axis=0)
    projection[:, channels] = low + fraction * (high - low)
