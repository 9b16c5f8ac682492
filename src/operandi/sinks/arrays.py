"""Arrays on disk: zarr (format 3) that the worker writes itself and the Tiled server only reads.

Everything here is idempotent: a block always lands at the same offset, and a metadata file is replaced as a whole.
"""

import json
import os
from itertools import product
from pathlib import Path

import numpy as np
import zarr
from zarr.codecs import BloscCodec

from ..errors import PublishError, ShapeError
from ..nodes import Array, Block, NodePath

# As fast to write as no compression at all (0.11 s for 40 MB) and two thirds of the size.
COMPRESSOR = BloscCodec(cname="lz4", clevel=1, shuffle="shuffle")


class ArrayStore:
    """The arrays of one result, below ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder).resolve()
        self._open: dict[NodePath, zarr.Array] = {}
        self._unsynced: set[Path] = set()

    def location(self, path: NodePath) -> Path:
        """Folder of the array at ``path``.

        Raises
        ------
        ShapeError
            A key of ``path`` is empty, begins with a dot, or holds a separator: it could lead out of the folder.
        """
        for key in path:
            if not key or key.startswith(".") or "/" in key or "\\" in key:
                raise ShapeError(f"array {'/'.join(path)!r}: {key!r} cannot be the key of a node")
        return self.folder.joinpath(*path)

    def create(self, array: Array) -> None:
        """Create ``array``, or accept the one that is there.

        Raises
        ------
        ShapeError
            dims, shape and chunks do not have the same length.
        PublishError
            An array of other dtype, chunks or shape (apart from a grown first axis) is there.
        """
        if not len(array.dims) == len(array.shape) == len(array.chunks):
            raise ShapeError(
                f"array {'/'.join(array.path)}: dims {array.dims}, shape {array.shape}, chunks {array.chunks} differ in length"
            )
        place = self.location(array.path)
        if _is_array(place):
            self._open[array.path] = self._accept(array, zarr.open_array(place, mode="r+"))
            return
        self._open[array.path] = zarr.create_array(
            place,
            shape=array.shape,
            chunks=array.chunks,
            dtype=np.dtype(array.dtype),
            fill_value=_fill(array),
            compressors=COMPRESSOR,
            overwrite=True,
            dimension_names=array.dims,
        )
        self._unsynced.add(place / "zarr.json")

    @staticmethod
    def _accept(array: Array, there: zarr.Array) -> zarr.Array:
        wanted = (np.dtype(array.dtype), array.chunks, array.shape[1:])
        found = (there.dtype, there.chunks, there.shape[1:])
        if wanted != found or there.shape[0] < array.shape[0]:
            raise PublishError(
                f"{there.store_path}: an array of dtype {there.dtype}, shape {there.shape}, chunks {there.chunks} is there, but dtype "
                f"{array.dtype}, shape {array.shape}, chunks {array.chunks} is to be written; move the folder away to write it anew"
            )
        return there

    def write(self, block: Block) -> tuple[int, ...]:
        """Write a block, grow the first axis where it must, and return the array's shape.

        Raises
        ------
        ShapeError
            The array was never declared, or the block does not fit into it.
        """
        array = self._array(block.path)
        stop = tuple(o + n for o, n in zip(block.offset, block.data.shape, strict=False))
        fits = len(block.offset) == block.data.ndim == array.ndim
        if not fits or any(s > n for s, n in zip(stop[1:], array.shape[1:], strict=True)):
            raise ShapeError(
                f"array {'/'.join(block.path)}: a block of shape {block.data.shape} at {block.offset} does not fit into {array.shape}"
            )
        if stop[0] > array.shape[0]:
            array.resize((stop[0], *array.shape[1:]))
        array[tuple(slice(o, s) for o, s in zip(block.offset, stop, strict=True))] = np.asarray(block.data, dtype=array.dtype)
        place = self.location(block.path)
        self._unsynced.add(place / "zarr.json")
        self._unsynced.update(place / key for key in _chunk_keys(block.offset, stop, array.chunks))
        return array.shape

    def shape(self, path: NodePath) -> tuple[int, ...]:
        """Shape on disk."""
        return self._array(path).shape

    def sync(self) -> None:
        """Return when everything written is on the disk, so that it may be announced."""
        for place in self._unsynced:
            if place.exists():  # a chunk of fill values only is not stored
                descriptor = os.open(place, os.O_RDONLY)
                try:
                    os.fdatasync(descriptor)
                finally:
                    os.close(descriptor)
        self._unsynced.clear()

    def _array(self, path: NodePath) -> zarr.Array:
        if path not in self._open:
            place = self.location(path)
            if not _is_array(place):
                raise ShapeError(f"array {'/'.join(path)} was not declared: send nodes.Array before its blocks")
            self._open[path] = zarr.open_array(place, mode="r+")
        return self._open[path]


def _is_array(place: Path) -> bool:
    """Whether a zarr array is there. Tiled 0.2.20 makes an empty group where it is asked for an array whose folder is gone."""
    file = place / "zarr.json"
    return file.exists() and json.loads(file.read_bytes())["node_type"] == "array"


def _fill(array: Array) -> float | int:
    """The declared fill value; 0 where the dtype has no NaN."""
    dtype = np.dtype(array.dtype)
    return float(array.fill) if dtype.kind == "f" else 0 if np.isnan(array.fill) else int(array.fill)


def _chunk_keys(start: tuple[int, ...], stop: tuple[int, ...], chunks: tuple[int, ...]) -> list[str]:
    """Keys of the chunks that the box [start, stop) touches."""
    ranges = [range(a // c, -(-b // c)) for a, b, c in zip(start, stop, chunks, strict=True)]
    return ["c/" + "/".join(map(str, index)) for index in product(*ranges)]
