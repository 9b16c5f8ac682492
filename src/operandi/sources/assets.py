"""Assets: the files that documents point to, read as arrays.

Images of bitshuffle-LZ4 files, one to a chunk, are read as bytes and decoded in threads; every other layout goes through h5py.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import NoReturn
from urllib.parse import unquote, urlsplit

import fabio
import h5py
import numpy as np

from operandi.errors import AssetError, GeometryError
from operandi.sources.chunks import ChunkLayout, bitshuffle_layout, decode

HDF5_SUFFIXES = {".h5", ".hdf5", ".hdf", ".nxs", ".nx5"}
_RESTORE = "restore the file and replay the run"


def path_of(uri: str) -> Path:
    """The local path behind ``file://localhost/abs/path`` (percent-encoded) or a plain absolute path; AssetError for anything else."""
    parts = urlsplit(uri)
    path = unquote(parts.path) if parts.scheme else uri
    if parts.scheme not in ("file", "") or parts.netloc not in ("", "localhost"):
        raise AssetError(f"{uri} is not a file of this machine: mount the storage and give file://localhost/absolute/path")
    if not path.startswith("/"):
        raise AssetError(f"{uri} is not an absolute path: give file://localhost/absolute/path")
    return Path(path)


class AssetReader:
    """Reads blocks of datasets, keeping files open between calls; not for use from several threads at once.

    ``threads`` decode compressed images. Close it (or use it in a ``with`` statement) to release the files.
    """

    def __init__(self, *, threads: int = 2, max_open: int = 16) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._files: dict[Path, tuple[tuple[int, int], h5py.File]] = {}
        self._max_open = max_open

    def read_block(
        self, path: str | Path, dataset: str | None, start: int = 0, stop: int | None = None, *, out: np.ndarray | None = None
    ) -> np.ndarray:
        """Entries ``[start, stop)`` along the first axis of ``dataset``; None for ``stop`` reads to the end.

        The beginning of ``out`` is filled and returned where it fits (same dtype and image shape, long enough): fresh memory for
        images costs more time than decoding them.

        An image file (.cbf, .edf, .tif …) has no datasets and holds one image, entry 0.

        Raises
        ------
        AssetError
            Where file or dataset is missing, the file is cut, an index lies beyond the end, or an image was never written or
            does not decompress. The file is opened anew at the next call.
        """
        path = Path(path)
        if not path.is_file():
            raise AssetError(f"{path} is not there: {_RESTORE}")
        if path.suffix.lower() not in HDF5_SUFFIXES and not h5py.is_hdf5(path):
            return _entries(load_image(path)[None], path, dataset, start, stop)
        try:
            found = self._dataset(path, dataset, stop)
            return _read(found, start, _checked_stop(found, path, dataset, start, stop), self._pool.map, out)
        except AssetError:
            self._forget(path)
            raise
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            self._forget(path)
            raise AssetError(f"{path}, dataset {dataset}, entries [{start}, {stop}): {error}; {_RESTORE}") from error

    def close(self) -> None:
        """Close all files and end the decoding threads."""
        for path in list(self._files):
            self._forget(path)
        self._pool.shutdown()

    def __enter__(self) -> "AssetReader":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _dataset(self, path: Path, name: str | None, stop: int | None) -> h5py.Dataset:
        """The dataset with its present length; a file that grew without SWMR is opened anew."""
        cached = path in self._files
        found = _find(self._file(path), path, name)
        if found.file.swmr_mode and found.chunks is not None and not found.is_virtual:
            found.refresh()
        if cached and (stop is None or not found.shape or stop > found.shape[0]):
            self._forget(path)
            found = _find(self._file(path), path, name)
        return found

    def _file(self, path: Path) -> h5py.File:
        stat = path.stat()
        identity = (stat.st_dev, stat.st_ino)
        if path in self._files and self._files[path][0] != identity:
            self._forget(path)
        if path not in self._files:
            if len(self._files) >= self._max_open:
                self._forget(next(iter(self._files)))
            self._files[path] = (identity, open_hdf5(path))
        return self._files[path][1]

    def _forget(self, path: Path) -> None:
        _, handle = self._files.pop(path, (None, None))
        if handle is not None:
            handle.close()


def read_block(path: str | Path, dataset: str | None, start: int = 0, stop: int | None = None) -> np.ndarray:
    """Read one block, as `AssetReader.read_block`, and close the file again."""
    with AssetReader() as reader:
        return reader.read_block(path, dataset, start, stop)


def load_image(path: str | Path) -> np.ndarray:
    """The image (row, column) of a .cbf, .edf, .tif or any other format that fabio reads; AssetError where it cannot."""
    path = Path(path)
    if not path.is_file():
        raise AssetError(f"{path} is not there: {_RESTORE}")
    try:
        with fabio.open(str(path)) as image:
            return np.asarray(image.data)
    except (OSError, ValueError, KeyError, IndexError, RuntimeError, AttributeError, TypeError, AssertionError) as error:
        raise AssetError(f"{path} is not an image that fabio can read ({error}): {_RESTORE}") from error


def load_mask(path: str | Path) -> np.ndarray:
    """A mask (row, column), True where a pixel is to be ignored: non-zero in .edf, .tif, .cbf, .npy or HDF5.

    HDF5 takes ``file.h5::/path/in/file``, or the first two-dimensional dataset. Raises GeometryError where there is none.
    """
    return load_correction(path) != 0


def load_correction(path: str | Path) -> np.ndarray:
    """A mask, dark or flat (row, column) from a file, as `load_mask` finds it, with its values."""
    name, _, dataset = str(path).partition("::")
    try:
        image = _load_array(Path(name), dataset or None)
    except (AssetError, OSError, ValueError, EOFError) as error:
        raise GeometryError(f"{path} cannot be read ({error}): give an image file, .npy or HDF5 of the detector's shape") from error
    if image.ndim == 3 and len(image) == 1:
        image = image[0]
    if image.ndim != 2:
        raise GeometryError(f"{path} has shape {image.shape}: give an image of (row, column)")
    return image


def _load_array(path: Path, dataset: str | None) -> np.ndarray:
    if path.suffix.lower() == ".npy":
        return np.load(path, allow_pickle=False)
    if path.suffix.lower() not in HDF5_SUFFIXES:
        return load_image(path)
    if not path.is_file():
        raise AssetError(f"{path} is not there: {_RESTORE}")
    with open_hdf5(path) as handle:
        if dataset is None:
            dataset = handle.visititems(lambda name, item: name if isinstance(item, h5py.Dataset) and item.ndim == 2 else None)
            if dataset is None:
                raise AssetError(f"{path} holds no two-dimensional dataset: name one as {path}::/path/in/file")
        return np.asarray(_find(handle, path, dataset)[()])


def open_hdf5(path: Path) -> h5py.File:
    """Open for reading, also where a writer has the file open: as SWMR where its format allows that, plainly, or without a lock."""
    attempts: list[dict] = [{"libver": "latest", "swmr": True}] if _may_be_swmr(path) else []
    for options in [*attempts, {}]:
        try:
            return h5py.File(path, "r", **options)
        except (OSError, ValueError):
            continue
    try:
        return h5py.File(path, "r", locking=False)
    except (OSError, ValueError) as error:
        raise AssetError(f"{path} cannot be opened ({error}): {_RESTORE}") from error


def _may_be_swmr(path: Path) -> bool:
    """Whether the superblock is of version 3, which SWMR needs; refreshing an older file breaks its other handles in this process."""
    with path.open("rb") as file:
        return file.read(9)[8:] >= b"\x03"


def _find(handle: h5py.File, path: Path, name: str | None) -> h5py.Dataset:
    if not name:
        raise AssetError(f"{path}: the documents name no dataset: correct the stream_resource's parameters")
    try:
        found = handle[name]
    except (KeyError, OSError) as error:
        raise AssetError(f"{path} has no dataset {name} ({error}): correct the stream_resource's parameters, or {_RESTORE}") from error
    if not isinstance(found, h5py.Dataset):
        raise AssetError(f"{path}: {name} is a group: name the dataset in it")
    return found


def _checked_stop(found: h5py.Dataset, path: Path, name: str | None, start: int, stop: int | None) -> int:
    if found.ndim == 0:
        raise AssetError(f"{path}, dataset {name} is a single value: correct the stream_resource's parameters")
    length = found.shape[0]
    stop = length if stop is None else stop
    if start < 0 or stop < start or stop > length:
        raise AssetError(f"{path}, dataset {name}: entries [{start}, {stop}) asked for, it holds {length}: await the writer, or {_RESTORE}")
    return stop


def _entries(stack: np.ndarray, path: Path, dataset: str | None, start: int, stop: int | None) -> np.ndarray:
    if dataset:
        raise AssetError(f"{path} is an image file and holds no dataset {dataset}: correct the stream_resource's parameters")
    if start < 0 or start > (stop if stop is not None else 1) or (stop or 0) > 1:
        raise AssetError(f"{path}: entries [{start}, {stop}) asked for, it holds 1 image: correct the stream_datum's indices")
    return stack[start:stop]


def _read(dataset: h5py.Dataset, start: int, stop: int, spread: Callable, out: np.ndarray | None) -> np.ndarray:
    layout = bitshuffle_layout(dataset) if dataset.ndim >= 2 else None
    block = _space(out, (stop - start, *dataset.shape[1:]), dataset.dtype)
    if layout is None:
        _refuse_unwritten(dataset, start, stop)
        if stop > start:
            dataset.read_direct(block, np.s_[start:stop])
        return block
    chunks = ((block[i - start], i, _chunk(dataset, i)) for i in range(start, stop))
    for _ in spread(lambda job: _decode_into(job[0], job[1], job[2], layout), chunks):
        pass
    return block


def _space(out: np.ndarray | None, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """The beginning of ``out`` where it fits, new memory otherwise."""
    if out is not None and out.dtype == dtype and out.shape[1:] == shape[1:] and len(out) >= shape[0] and out.flags.c_contiguous:
        return out[: shape[0]]
    return np.empty(shape, dtype)


def _decode_into(image: np.ndarray, index: int, raw: tuple[int, bytes], layout: ChunkLayout) -> None:
    unfiltered, chunk = raw
    try:
        if unfiltered:
            image[...] = np.frombuffer(chunk, layout.dtype).reshape(layout.shape)
        else:
            decode(chunk, layout, image)
    except ValueError as error:
        raise ValueError(f"image {index}: {error}") from error


def _chunk(dataset: h5py.Dataset, index: int) -> tuple[int, bytes]:
    try:
        return dataset.id.read_direct_chunk((index,) + (0,) * (dataset.ndim - 1))
    except RuntimeError as error:
        if "not allocated" in str(error):  # get_chunk_info_by_coord would tell before, but walks through all chunks: 4 ms at 30 000
            _never_written(index)
        raise


def _refuse_unwritten(dataset: h5py.Dataset, start: int, stop: int) -> None:
    """HDF5 reads a chunk that was never written as zeros, which would pass for a measurement."""
    if dataset.chunks is None or dataset.is_virtual or dataset.ndim < 2:
        return
    length = dataset.chunks[0]
    for index in range(start // length * length, stop, length):
        _chunk(dataset, index)


def _never_written(index: int) -> NoReturn:
    raise ValueError(f"image {index} was never written")
