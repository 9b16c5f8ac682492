"""Nodes that the server computes when they are asked for: maps of any window of q, from a result's volumes."""

import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from fastapi import HTTPException
from starlette.status import HTTP_400_BAD_REQUEST, HTTP_404_NOT_FOUND
from tiled.adapters.core import Adapter
from tiled.adapters.mapping import MapAdapter
from tiled.ndslice import NDBlock, NDSlice
from tiled.structures.array import ArrayStructure, BuiltinDtype
from tiled.structures.core import StructureFamily
from tiled.structures.data_source import DataSource
from tiled.utils import BrokenLink, path_from_uri

from operandi.errors import ShapeError
from operandi.experiment import QWindow
from operandi.nodes import read_window_key
from operandi.stages.maps import apply_weights, window_weights

MAPS_KEPT, ARRAYS_KEPT = 256, 64

Stamp = tuple[int, ...]
"""Tells one state of a file or folder from another."""


class WindowsAdapter:
    """What Tiled asks for a container of mimetype `operandi.nodes.WINDOWS_MIMETYPE`."""

    @classmethod
    def from_catalog(cls, data_source: DataSource, node: Any, /, **_parameters: Any) -> MapAdapter:
        """The container; runs on every request, and opens nothing."""
        return MapAdapter(Windows(_location(data_source), node.metadata_), metadata=node.metadata_, specs=node.specs)


class Windows(Mapping[str, "WindowAdapter"]):
    """Windows by their keys, as `operandi.nodes.read_window_key` reads them. None is listed: there is no end of them.

    Parameters
    ----------
    location : folder of the zarr array of volumes (frame, y, x, q).
    about : the node's metadata: ``coords`` (y, x, q), ``units`` of the maps, ``windows`` of the published ones, and the ``result``.
    """

    def __init__(self, location: Path, about: Mapping[str, Any]) -> None:
        self._location, self._about = location, about

    def __getitem__(self, key: str) -> "WindowAdapter":
        """Maps of a window; an HTTP error that says what is wrong, where it is none or nothing is measured yet."""
        about = self._about
        try:
            window, weights = weights_of(key, np.array(about["coords"]["q"]["values"]), [QWindow(**w) for w in about["windows"]])
        except ShapeError as error:
            raise HTTPException(HTTP_400_BAD_REQUEST, str(error)) from error
        shape = opened(self._location).shape[:3]
        if not shape[0]:
            raise HTTPException(HTTP_404_NOT_FOUND, "no frame has a volume yet: ask again when the first one is committed")
        told = {name: about[name] for name in ("units", "result")} | {"of": "volumes/intensity", **window.model_dump(mode="json")}
        coords = {axis: about["coords"][axis] for axis in ("y", "x")}
        return WindowAdapter(self._location, weights, shape, {**told, "coords": coords})

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


class WindowAdapter(Adapter[ArrayStructure]):
    """Maps (frame, y, x) float32 of one window; each frame is read and summed when it is asked for."""

    structure_family = StructureFamily.array

    def __init__(self, location: Path, weights: np.ndarray, shape: Sequence[int], metadata: dict[str, Any]) -> None:
        self._location, self._weights = location, weights
        chunks = ((1,) * shape[0], *((n,) for n in shape[1:]))
        data_type = BuiltinDtype.from_numpy_dtype(np.dtype(np.float32))
        super().__init__(ArrayStructure(data_type, chunks, tuple(shape), dims=("frame", "y", "x")), metadata=metadata)

    def read(self, slice: NDSlice = NDSlice(...)) -> np.ndarray:  # noqa: A002, B008 - what Tiled calls it
        """The part of the maps that ``slice`` selects."""
        shape = self.structure().shape
        frames, *plane = slice.expand_for_shape(shape)
        if isinstance(frames, int):
            return self._map(frames)[tuple(plane)]
        maps = [self._map(frame)[tuple(plane)] for frame in range(shape[0])[frames]]
        return np.stack(maps) if maps else np.empty((0, *shape[1:]), np.float32)[(..., *plane)]

    def read_block(self, block: NDBlock, slice: NDSlice = NDSlice(...)) -> np.ndarray:  # noqa: A002, B008
        """The part of one block, which is one frame, that ``slice`` selects."""
        (frame,) = block[:1]
        return self._map(frame)[None][tuple(slice) or ...]

    def _map(self, frame: int) -> np.ndarray:
        return _computed(self._location, frame, _stamp_of_folder(self._location / "c" / str(frame)), self._weights.tobytes())


def weights_of(key: str, q: np.ndarray, published: Sequence[QWindow]) -> tuple[QWindow, np.ndarray]:
    """The window that ``key`` asks for, and the weights (q,) by which it sums patterns on the points q (Å⁻¹).

    It counts as one more window beside those published: their reflections are no background of it. With the q of a published window it is
    that one, with its background unless the key has another.

    Raises
    ------
    ShapeError
        The key is none, or the window or its background reaches beyond q.
    """
    low, high, background = read_window_key(key)
    window = QWindow(phase=key, q_min_inv_angstrom=low, q_max_inv_angstrom=high)
    for one in published:
        if np.allclose((one.q_min_inv_angstrom, one.q_max_inv_angstrom), (low, high), rtol=1e-9, atol=0):
            window = one
    if background is not None:
        window = window.model_copy(update={"background": background})
    weights = window_weights(q, [*(one for one in published if one.phase != window.phase), window])[-1]
    if not weights.any():
        raise ShapeError(f"window {key!r} lies outside of the patterns ({q[0]:.4g} to {q[-1]:.4g} Å⁻¹): ask for one within")
    return window, weights


def opened(location: Path) -> zarr.Array:
    """The zarr array at ``location`` as it is now, opened once for each of its shapes.

    Raises
    ------
    BrokenLink
        There is none (any more).
    """
    try:
        return _open(location, _stamp(location / "zarr.json"))
    except (OSError, ValueError) as error:  # zarr has a ValueError for a group where an array is asked for
        raise BrokenLink(f"no volumes are on the server's disk ({type(error).__name__}): replay the run to make them anew") from error


@functools.lru_cache(maxsize=ARRAYS_KEPT)
def _open(location: Path, stamp: Stamp) -> zarr.Array:
    return zarr.open_array(location, mode="r")


@functools.lru_cache(maxsize=MAPS_KEPT)
def _computed(location: Path, frame: int, stamp: Stamp, weights: bytes) -> np.ndarray:
    """Map (y, x) of a frame, some rows of the volume at a time; ``stamp`` tells its states, for it may be written anew."""
    volumes, by = opened(location), np.frombuffer(weights)
    counts = np.flatnonzero(by)
    span = slice(counts[0], counts[-1] + 1)
    values, rows = np.empty(volumes.shape[1:3], np.float32), volumes.chunks[1]
    for y in range(0, len(values), rows):
        values[y : y + rows] = apply_weights(np.asarray(volumes[frame, y : y + rows, :, span]), by[None, span])[0]
    values.flags.writeable = False
    return values


def _location(data_source: DataSource) -> Path:
    """Folder of the volumes; Tiled has compared it with the folders that it may read, but not looked for steps back out of them."""
    (uri,) = (asset.data_uri for asset in data_source.assets if asset.parameter == "data_uris")
    path = path_from_uri(uri)
    if os.path.normpath(path) != str(path):
        raise BrokenLink(f"{uri} leads back out of its folder: register the array by its plain path")
    return path


def _stamp(file: Path) -> Stamp:
    of = file.stat()
    return of.st_ino, of.st_mtime_ns, of.st_size


def _stamp_of_folder(folder: Path) -> Stamp:
    stamps = [_stamp(file) for file in folder.rglob("*")]
    return (len(stamps), *(hash(tuple(column)) for column in zip(*sorted(stamps), strict=True)))
