"""Columns: what is known of a run's exposures, by seq_num."""

import numpy as np


class Column:
    """What is known of one role, by seq_num: float64 values, or int64 pairs (source, index in it)."""

    def __init__(self, in_files: bool):
        self.in_files = in_files
        self.data = np.zeros((64, 2), np.int64) if in_files else np.zeros(64)
        self.have = np.zeros(64, bool)
        self.top = 1

    def put(self, first: int, rows: np.ndarray) -> np.ndarray:
        """Store rows from seq_num ``first``; True where that changed anything."""
        stop = first + len(rows)
        cells = slice(first, stop)
        same = self.data[cells] == rows
        changed = ~(self.have[cells] & (same.all(axis=1) if self.in_files else same))
        self.data[cells] = rows
        self.have[cells] = True
        self.top = max(self.top, stop)
        return changed

    def grow(self, size: int) -> None:
        self.data, self.have = grown(self.data, size), grown(self.have, size)


def grown(array: np.ndarray, size: int) -> np.ndarray:
    if len(array) >= size:
        return array
    grown = np.zeros((size, *array.shape[1:]), array.dtype)
    grown[: len(array)] = array
    return grown


def stretches(which: np.ndarray) -> list[tuple[int, int]]:
    """``[start, stop)`` of each stretch of True."""
    if not which.any():
        return []
    edges = np.flatnonzero(which[1:] != which[:-1]) + 1
    bounds = [0] * bool(which[0]) + edges.tolist() + [len(which)] * bool(which[-1])
    return list(zip(bounds[::2], bounds[1::2], strict=True))
