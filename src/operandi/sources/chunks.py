"""Bitshuffle-LZ4 chunks of HDF5, read as bytes and decoded outside HDF5, which has one lock for the whole process."""

import struct
from dataclasses import dataclass

import bitshuffle
import h5py
import numpy as np

_BITSHUFFLE, _LZ4 = 32008, 2
_HEADER = struct.Struct(">QI")
_LENGTH = struct.Struct(">I")


@dataclass(frozen=True, slots=True)
class ChunkLayout:
    """How the images of a dataset lie in its chunks: one image a chunk, bitshuffle-LZ4."""

    shape: tuple[int, ...]
    """Shape of one image."""
    dtype: np.dtype


def bitshuffle_layout(dataset: h5py.Dataset) -> ChunkLayout | None:
    """The layout where each chunk holds one whole image, compressed by bitshuffle-LZ4 and nothing else; None otherwise."""
    creation = dataset.id.get_create_plist()
    if dataset.chunks is None or creation.get_nfilters() != 1 or dataset.is_virtual:
        return None
    code, _, options, _ = creation.get_filter(0)
    image = tuple(dataset.shape[1:])
    if code != _BITSHUFFLE or len(options) < 5 or options[4] != _LZ4 or tuple(dataset.chunks) != (1, *image):
        return None
    return ChunkLayout(image, dataset.dtype)


def decode(chunk: bytes, layout: ChunkLayout) -> np.ndarray:
    """One image from its chunk.

    Raises
    ------
    ValueError
        Where the chunk is cut or corrupted.
    """
    data = np.frombuffer(chunk, np.uint8)
    n_values = int(np.prod(layout.shape))
    if len(chunk) < _HEADER.size:
        raise ValueError(f"chunk of {len(chunk)} bytes has no header")
    n_bytes, block_bytes = _HEADER.unpack_from(chunk)
    block, rest = divmod(block_bytes, layout.dtype.itemsize)
    if n_bytes != n_values * layout.dtype.itemsize or rest or block % 8 or (block == 0 and n_values):
        raise ValueError(f"chunk says that it holds {n_bytes} bytes in blocks of {block_bytes}")
    _check_lengths(chunk, n_values, block, layout.dtype.itemsize)
    try:
        return bitshuffle.decompress_lz4(data[_HEADER.size :], layout.shape, layout.dtype, block)
    except RuntimeError as error:
        raise ValueError(f"chunk does not decompress: {error}") from error


def _check_lengths(chunk: bytes, n_values: int, block: int, item: int) -> None:
    """Follow the lengths of the compressed blocks: the decoder trusts them and would read past the end."""
    position, end = _HEADER.size, len(chunk)
    whole, rest = divmod(n_values, block)
    for _ in range(whole + (rest >= 8)):
        if position + 4 > end:
            raise ValueError("chunk is cut")
        position += 4 + _LENGTH.unpack_from(chunk, position)[0]
    if position + (n_values % 8) * item != end:
        raise ValueError(f"chunk has {end} bytes, its blocks say {position + (n_values % 8) * item}")
