"""Bitshuffle-LZ4 chunks of HDF5, read as bytes and decoded outside HDF5, which has one lock for the whole process."""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np
from numba import njit

import operandi.kernels  # noqa: F401  chooses where compiled code is kept

_BITSHUFFLE, _LZ4 = 32008, 2
_HEADER = 12
"""Bytes before the blocks: number of bytes decoded (8) and bytes in a block (4), big-endian."""


@dataclass(frozen=True, slots=True)
class ChunkLayout:
    """How the images of a dataset lie in its chunks: one image a chunk, bitshuffle-LZ4."""

    shape: tuple[int, ...]
    """Shape of one image."""
    dtype: np.dtype


def bitshuffle_layout(dataset: h5py.Dataset) -> ChunkLayout | None:
    """The layout where each chunk holds one whole image, compressed by bitshuffle-LZ4 and nothing else; None otherwise."""
    creation = dataset.id.get_create_plist()
    if dataset.chunks is None or creation.get_nfilters() != 1 or dataset.is_virtual or _decoder() is None:
        return None
    code, _, options, _ = creation.get_filter(0)
    image = tuple(dataset.shape[1:])
    if code != _BITSHUFFLE or len(options) < 5 or options[4] != _LZ4 or tuple(dataset.chunks) != (1, *image):
        return None
    return ChunkLayout(image, dataset.dtype)


def decode(chunk: bytes, layout: ChunkLayout, image: np.ndarray) -> None:
    """Decode a chunk into ``image``, C-contiguous, of the layout's shape and dtype; other threads go on meanwhile.

    Raises
    ------
    ValueError
        Where the chunk is cut or corrupted.
    """
    decoder = _decoder()
    if decoder is None:
        raise ValueError("hdf5plugin has no bitshuffle")
    item, n_values = layout.dtype.itemsize, image.size
    if len(chunk) < _HEADER:
        raise ValueError(f"chunk of {len(chunk)} bytes has no header")
    n_bytes, block_bytes = int.from_bytes(chunk[:8], "big"), int.from_bytes(chunk[8:_HEADER], "big")
    block, rest = divmod(block_bytes, item)
    if n_bytes != n_values * item or rest or block == 0 or block % 8:
        raise ValueError(f"chunk says that it holds {n_bytes} bytes in blocks of {block_bytes}")
    data = np.frombuffer(chunk, np.uint8)[_HEADER:]
    expected = _length_by_blocks(data, n_values // block + (n_values % block >= 8), n_values % 8 * item)
    if expected != data.size:
        raise ValueError(f"chunk has {data.size} bytes of data, its blocks say {expected}")
    if decoder(data.ctypes.data, image.ctypes.data, n_values, item, block) != data.size:
        raise ValueError("chunk does not decompress")


@njit(cache=True, nogil=True)
def _length_by_blocks(data, n_blocks, tail):
    """Bytes that the blocks say they have; -1 where they reach beyond the end, as the decoder trusts them and would follow."""
    position = 0
    for _ in range(n_blocks):
        if position + 4 > data.size:
            return -1
        length = 0
        for k in range(4):
            length = length * 256 + np.int64(data[position + k])
        position += 4 + length
    return position + tail


@cache
def _decoder() -> Callable[[int, int, int, int, int], int] | None:
    """``bshuf_decompress_lz4(in, out, values, bytes of a value, values in a block)`` of hdf5plugin's library; None where it is hidden."""
    for path in Path(hdf5plugin.PLUGIN_PATH).glob("*h5bshuf*"):
        function = getattr(ctypes.CDLL(str(path)), "bshuf_decompress_lz4", None)
        if function is not None:
            _length_by_blocks(np.frombuffer(b"", np.uint8), 0, 0)  # compiled here: threads that ask numba for it at once can fail
            function.restype = ctypes.c_int64
            function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_size_t]
            return function
    return None
