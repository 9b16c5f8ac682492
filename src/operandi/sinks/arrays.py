"""Arrays on disk: zarr (format 3) that the worker writes itself and the Tiled server only reads.

Everything here is idempotent: a block always lands at the same offset, and a metadata file is replaced as a whole.
"""

import json
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import zarr
from zarr.codecs import BloscCodec

from ..errors import PublishError, ShapeError
from ..nodes import Array, Block, NodePath

# As fast to write as no compression at all (0.11 s for 40 MB) and two thirds of the size.
COMPRESSOR = BloscCodec(cname="lz4", clevel=1, shuffle="shuffle")
SLAB_BYTES = 32 << 20


class ArrayStore:
    """The arrays of one result, below ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder).resolve()
        self._open: dict[NodePath, zarr.Array] = {}
        self._syncing = _Syncing()

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
        self._syncing.add([place / "zarr.json"])

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
        array, place = self._array(block.path), self.location(block.path)
        stop = tuple(o + n for o, n in zip(block.offset, block.data.shape, strict=False))
        fits = len(block.offset) == block.data.ndim == array.ndim
        if not fits or any(s > n for s, n in zip(stop[1:], array.shape[1:], strict=True)):
            raise ShapeError(
                f"array {'/'.join(block.path)}: a block of shape {block.data.shape} at {block.offset} does not fit into {array.shape}"
            )
        if stop[0] > array.shape[0]:
            array.resize((stop[0], *array.shape[1:]))
            self._syncing.add([place / "zarr.json"])
        for part in _slabs(block, array.chunks):
            here = tuple(slice(o + p.start, o + p.stop) for o, p in zip(block.offset, part, strict=True))
            array[here] = np.asarray(block.data[part], dtype=array.dtype)
        self._syncing.add(place / key for key in _chunk_keys(block.offset, stop, array.chunks))
        return array.shape

    def shape(self, path: NodePath) -> tuple[int, ...]:
        """Shape on disk."""
        return self._array(path).shape

    def sync(self) -> None:
        """Return when everything written is on the disk, so that it may be announced."""
        self._syncing.wait()

    def close(self) -> None:
        """Force what is left to the disk, and end the thread that does it."""
        self._syncing.close()

    def _array(self, path: NodePath) -> zarr.Array:
        if path not in self._open:
            place = self.location(path)
            if not _is_array(place):
                raise ShapeError(f"array {'/'.join(path)} was not declared: send nodes.Array before its blocks")
            self._open[path] = zarr.open_array(place, mode="r+")
        return self._open[path]


class _Syncing:
    """Forces files to the disk in a thread, as they are written: what is to be announced then has little to wait for."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._files: dict[Path, None] = {}
        self._running = self._ended = False
        self._under_way: Sequence[Path] = ()
        self._fault: OSError | None = None

    def add(self, files: Iterable[Path]) -> None:
        """Files that were written."""
        with self._changed:
            self._files.update(dict.fromkeys(files))
            if not self._running:
                self._running, self._ended = True, False
                threading.Thread(target=self._sync_all, name="sync", daemon=True).start()
            self._changed.notify_all()

    def wait(self) -> None:
        """Return when every file added is on the disk; raises OSError where one is not."""
        with self._changed:
            self._changed.wait_for(lambda: not (self._files or self._under_way))
            if self._fault is not None:
                raise self._fault

    def close(self) -> None:
        """Wait, then end the thread."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._running)

    def _sync_all(self) -> None:
        while (files := self._next()) is not None:
            try:
                for file in files:
                    _sync(file)
            except OSError as error:
                self._fault = error  # whoever waits is told
            with self._changed:
                self._under_way = ()
                self._changed.notify_all()

    def _next(self) -> list[Path] | None:
        """Files to be forced to the disk, when there are any; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._files) or self._ended)
            self._under_way, self._files = list(self._files), {}
            self._running = bool(self._under_way)
            self._changed.notify_all()
            return self._under_way or None


def _sync(file: Path) -> None:
    if file.exists():  # a chunk of fill values only is not stored
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)


def _is_array(place: Path) -> bool:
    """Whether a zarr array is there. Tiled 0.2.20 makes an empty group where it is asked for an array whose folder is gone."""
    file = place / "zarr.json"
    return file.exists() and json.loads(file.read_bytes())["node_type"] == "array"


def _fill(array: Array) -> float | int:
    """The declared fill value; 0 where the dtype has no NaN."""
    dtype = np.dtype(array.dtype)
    return float(array.fill) if dtype.kind == "f" else 0 if np.isnan(array.fill) else int(array.fill)


def _slabs(block: Block, chunks: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """Parts of a block of some ``SLAB_BYTES``, of whole chunks: zarr keeps all of what it writes at once a second time in memory."""
    shape = block.data.shape
    axis = next((i for i, n in enumerate(shape) if n > 1), 0)
    row = max(1, block.data.nbytes // max(1, shape[axis])) * chunks[axis]
    step = max(1, SLAB_BYTES // row) * chunks[axis]
    ahead = block.offset[axis] % chunks[axis]
    edges = [0, *range(step - ahead, shape[axis], step), shape[axis]]
    for first, stop in pairwise(edges):
        yield tuple(slice(first, stop) if i == axis else slice(0, n) for i, n in enumerate(shape))


def _chunk_keys(start: tuple[int, ...], stop: tuple[int, ...], chunks: tuple[int, ...]) -> list[str]:
    """Keys of the chunks that the box [start, stop) touches."""
    ranges = [range(a // c, -(-b // c)) for a, b, c in zip(start, stop, chunks, strict=True)]
    return ["c/" + "/".join(map(str, index)) for index in product(*ranges)]
