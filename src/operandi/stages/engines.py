"""Peers for the native reconstruction: other packages behind the same function.

The astra toolbox: van Aarle et al. 2016, doi:10.1364/OE.24.025129. TomoPy: Gürsoy et al. 2014, doi:10.1107/S1600577514013939.
"""

from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from operandi.errors import MissingBackendError

METHODS = {"astra": ("fbp", "sirt", "cgls"), "astra-cuda": ("fbp", "sirt", "cgls", "mlem"), "tomopy": ("fbp", "sirt", "mlem")}
"""What each engine can do."""
NONNEGATIVE = {("astra", "sirt"), ("astra-cuda", "sirt")}

_ASTRA = {"fbp": "FBP", "sirt": "SIRT", "cgls": "CGLS", "mlem": "EM"}
_ASTRA_FILTERS = {"ramp": "ram-lak", "shepp-logan": "shepp-logan", "cosine": "cosine", "hann": "hann"}
_TOMOPY = {"fbp": "gridrec", "sirt": "sirt", "mlem": "mlem"}
_TOMOPY_FILTERS = {"ramp": "ramlak", "shepp-logan": "shepp", "cosine": "cosine", "hann": "hann"}
_TOMOPY_CUTOFF = (1.0, 8.0)
"""hann reaches 0 at the highest frequency, not at half of it, which is TomoPy's default."""


class Scan(NamedTuple):
    """What an engine reconstructs."""

    projections: np.ndarray
    """(rotation, translation, q) float32, finite; for fbp already multiplied by relative angular weights."""
    rotation_deg: np.ndarray
    centre: float
    """The sample, fractional, on which the rotation axis falls."""
    pitch_mm: float


def volume(
    engine: str, scan: Scan, method: str, *, filter_name: str = "ramp", iterations: int = 1, nonnegative: bool = False
) -> np.ndarray:
    """Volume (y, x, q) float32, per mm, one channel after another.

    Raises
    ------
    MissingBackendError
        If the engine is not installed, or astra-cuda is asked for where there is no CUDA.
    """
    if engine == "tomopy":
        return _by_tomopy(scan, method, filter_name, iterations)
    return _by_astra(scan, method, filter_name, iterations, nonnegative=nonnegative, cuda=engine == "astra-cuda")


def _package(name: str, engine: str, install: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingBackendError(f"engine {engine!r} needs the package {name}: {install}, or use engine='native'") from error


def _by_astra(scan: Scan, method: str, filter_name: str, iterations: int, *, nonnegative: bool, cuda: bool) -> np.ndarray:
    """By the strip model on the CPU, by astra's own interpolation on CUDA.

    The axis is brought to the detector's middle by columns of zeros and, for what remains (at most a quarter of a sample), a spline.
    """
    astra: Any = _package("astra", "astra-cuda" if cuda else "astra", "pip install operandi[astra]")
    if cuda and not astra.use_cuda():
        raise MissingBackendError("engine 'astra-cuda' finds no CUDA on this machine: use engine='astra' or engine='native'")
    n, centred = scan.projections.shape[1], _centred(scan.projections, scan.centre)
    volume_geometry = astra.create_vol_geom(n, n)
    projection_geometry = astra.create_proj_geom("parallel", 1.0, centred.shape[1], np.deg2rad(scan.rotation_deg))
    projector = astra.create_projector("cuda" if cuda else "strip", projection_geometry, volume_geometry)
    data = astra.data2d.create("-sino", projection_geometry)
    result = astra.data2d.create("-vol", volume_geometry)
    settings: dict[str, Any] = astra.astra_dict(_ASTRA[method] + "_CUDA" * cuda)
    settings |= {"ProjectorId": projector, "ProjectionDataId": data, "ReconstructionDataId": result}
    settings["option"] = {"FilterType": _ASTRA_FILTERS[filter_name]} if method == "fbp" else {"MinConstraint": 0.0} if nonnegative else {}
    out = np.empty((n, n, scan.projections.shape[2]), np.float32)
    try:
        for channel in range(out.shape[2]):
            astra.data2d.store(data, np.ascontiguousarray(centred[:, :, channel]))
            astra.data2d.store(result, 1.0 if method == "mlem" else 0.0)
            algorithm = astra.algorithm.create(settings)  # CGLS keeps its state: a new one for each channel
            astra.algorithm.run(algorithm, iterations)
            astra.algorithm.delete(algorithm)
            out[:, :, channel] = astra.data2d.get(result)[::-1]  # astra's first row is at the largest y
    finally:
        astra.data2d.delete([data, result])
        astra.projector.delete(projector)
    return out / np.float32(scan.pitch_mm)


def _by_tomopy(scan: Scan, method: str, filter_name: str, iterations: int) -> np.ndarray:
    """fbp is gridrec, padded with zeros to twice the width, without which it folds over at the rim.

    TomoPy's first row is at the largest y. Its iterative methods count ``center`` from the edge of the first sample (libtomo
    ``preprocessing``), gridrec from its middle; but gridrec lays the axis on a pixel, ceil(width / 2), where ours may be on an edge.
    What gridrec gives is about a tenth too large, and is left so.
    """
    tomopy: Any = _package("tomopy", "tomopy", "conda install -c conda-forge tomopy")
    n, gridrec = scan.projections.shape[1], method == "fbp"
    side = n // 2 if gridrec else 0
    padded = np.pad(scan.projections, ((0, 0), (side, side), (0, 0)))
    sinograms = np.ascontiguousarray(np.moveaxis(padded if method != "mlem" else np.maximum(padded, 0), 2, 0))
    settings: dict[str, Any] = {"num_iter": iterations}
    if gridrec:
        settings = {"filter_name": _TOMOPY_FILTERS[filter_name], "filter_par": _TOMOPY_CUTOFF}
    angle, centre = np.deg2rad(scan.rotation_deg), scan.centre + (side if gridrec else 0.5)
    found = tomopy.recon(sinograms, angle, center=centre, sinogram_order=True, algorithm=_TOMOPY[method], **settings)[:, ::-1]
    if gridrec:
        found = found if n % 2 else ndimage.shift(found, (0, -0.5, -0.5), order=5, mode="constant")
        first = (padded.shape[1] + 1) // 2 - n // 2
        found = found[:, first : first + n, first : first + n]
    return np.ascontiguousarray(np.moveaxis(found, 0, 2)).astype(np.float32) / np.float32(scan.pitch_mm)


def _centred(projections: np.ndarray, centre: float) -> np.ndarray:
    """Projections with zeros on one side, so that ``centre`` is in the middle."""
    n = projections.shape[1]
    columns = round(2 * centre - (n - 1))
    padded = np.pad(projections, ((0, 0), (max(-columns, 0), max(columns, 0)), (0, 0)))
    remainder = centre + max(-columns, 0) - (padded.shape[1] - 1) / 2
    return padded if abs(remainder) < 1e-6 else ndimage.shift(padded, (0, -remainder, 0), order=5, mode="constant")
