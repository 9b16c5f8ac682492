"""Image blocks: from whatever shape and type a detector's writer chose to (image, row, column)."""

import numpy as np

from operandi.errors import GeometryError

_KERNEL_TYPES = {
    "int8": "int32",
    "int16": "int32",
    "int32": "int32",
    "uint8": "uint16",
    "uint16": "uint16",
    "uint32": "uint32",
    "int64": "float32",
    "uint64": "float32",
    "float16": "float32",
    "float32": "float32",
    "float64": "float32",
}


def as_images(block: np.ndarray, shape: tuple[int, int] | None = None) -> np.ndarray:
    """Images as a C-contiguous, writeable (image, row, column) array of int32, uint16, uint32 or float32.

    Accepts (row, column), (image, row, column) and (image, 1, row, column), the forms in which bluesky's writers store images.
    64-bit types become float32, the precision of pyFAI. ``shape`` is (rows, columns) of the detector; None accepts any.

    Raises
    ------
    GeometryError
        Where the block is empty, not numeric, of another number of dimensions, or of another shape than the detector.
    """
    block = np.asarray(block)
    if block.dtype.name not in _KERNEL_TYPES:
        raise GeometryError(f"images are of dtype {block.dtype}: give integers or real floating-point numbers")
    images = _three_dimensional(block)
    if images.size == 0:
        raise GeometryError(f"images of shape {block.shape} are empty: give at least one image")
    if shape is not None and images.shape[1:] != tuple(shape):
        raise GeometryError(f"images are {_by(images.shape[1:])} pixels, the detector {_by(shape)}: check data key and calibration")
    return np.require(images, _KERNEL_TYPES[block.dtype.name], ["C", "W"])


def _three_dimensional(block: np.ndarray) -> np.ndarray:
    if block.ndim == 2:
        return block[None]
    if block.ndim == 3:
        return block
    if block.ndim == 4 and block.shape[1] == 1:
        return block[:, 0]
    raise GeometryError(f"images have shape {block.shape}: expected (row, column), (image, row, column) or (image, 1, row, column)")


def _by(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))
