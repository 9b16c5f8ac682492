"""HDF5 files that a reader can follow while they grow (SWMR)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np

IMAGES = "/entry/data/data"


class ImageFile:
    """Images as bitshuffle-LZ4 chunks of one image, at ``/entry/data/data`` (image, row, column)."""

    def __init__(self, path: Path, shape: tuple[int, int]):
        self.path = path
        self.shape = shape
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = h5py.File(path, "w", libver="latest")
        self._data = self._file.create_dataset(
            IMAGES, (0, *shape), "<i4", maxshape=(None, *shape), chunks=(1, *shape), **hdf5plugin.Bitshuffle(nelems=0, cname="lz4")
        )
        self._data.attrs["interpretation"] = "image"
        self._file["/entry"].attrs["NX_class"] = "NXentry"
        self._file["/entry/data"].attrs["NX_class"] = "NXdata"
        self._file["/entry/data"].attrs["signal"] = "data"
        self._file.swmr_mode = True

    def write(self, number: int, image: np.ndarray) -> None:
        """Put one image (row, column) at position ``number``, counted from 0."""
        if number >= self._data.shape[0]:
            self._data.resize(number + 1, axis=0)
        self._data[number] = image

    def flush(self) -> None:
        """Let readers see what was written."""
        self._data.flush()

    def close(self) -> None:
        """Write no more."""
        if self._file:
            self._file.close()


class PositionFile:
    """One column (image,), float64, for each recorded position, at ``/entry/data/<name>``."""

    def __init__(self, path: Path, units: Mapping[str, str]):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = h5py.File(path, "w", libver="latest")
        self._columns = {}
        for name, unit in units.items():
            column = self._file.create_dataset(position_dataset(name), (0,), "<f8", maxshape=(None,), chunks=(1024,))
            column.attrs["units"] = unit
            self._columns[name] = column
        self._file.swmr_mode = True

    def write(self, first: int, columns: Mapping[str, np.ndarray]) -> None:
        """Put columns (image,) at ``first`` and the positions that follow."""
        for name, values in columns.items():
            column = self._columns[name]
            if first + values.size > column.shape[0]:
                column.resize(first + values.size, axis=0)
            column[first : first + values.size] = values

    def flush(self) -> None:
        """Let readers see what was written."""
        for column in self._columns.values():
            column.flush()

    def close(self) -> None:
        """Write no more."""
        if self._file:
            self._file.close()


def position_dataset(name: str) -> str:
    """Path of a column inside the file."""
    return f"/entry/data/{name}"
