"""Patterns to sinograms: each into the cell of its rotation and translation."""

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
