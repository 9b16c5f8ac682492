"""Peers for the native reconstruction: other packages behind the same function."""

from typing import Any

import numpy as np
from scipy import ndimage

from operandi.errors import MissingBackendError

_ALGORITHMS = {"fbp": "FBP", "sirt": "SIRT", "cgls": "CGLS"}
_FILTERS = {"ramp": "ram-lak", "shepp-logan": "shepp-logan", "cosine": "cosine", "hann": "hann"}


def astra_volume(
    projections: np.ndarray, rotation_deg: np.ndarray, centre: float, pitch_mm: float, method: str, filter_name: str, iterations: int
) -> np.ndarray:
    """Reconstruct each channel by the astra toolbox on the CPU (strip model).

    The axis is brought to the detector's middle by columns of zeros and, for what remains (at most a quarter of a sample), a spline.

    Parameters
    ----------
    projections : (rotation, translation, q) float32, finite; for fbp already multiplied by relative angular weights.
    centre : the sample, fractional, on which the rotation axis falls.

    Raises
    ------
    MissingBackendError
        If astra is not installed.
    """
    try:
        import astra
    except ImportError as error:
        raise MissingBackendError("engine 'astra' needs the astra toolbox: pip install operandi[astra], or use engine='native'") from error
    n = projections.shape[1]
    centred = _centred(projections, centre)
    volume_geometry = astra.create_vol_geom(n, n)
    projection_geometry = astra.create_proj_geom("parallel", 1.0, centred.shape[1], np.deg2rad(rotation_deg))
    projector = astra.create_projector("strip", projection_geometry, volume_geometry)
    data = astra.data2d.create("-sino", projection_geometry)
    result = astra.data2d.create("-vol", volume_geometry)
    settings: dict[str, Any] = astra.astra_dict(_ALGORITHMS[method])
    settings |= {"ProjectorId": projector, "ProjectionDataId": data, "ReconstructionDataId": result}
    if method == "fbp":
        settings["option"] = {"FilterType": _FILTERS[filter_name]}
    volume = np.empty((n, n, projections.shape[2]), np.float32)
    try:
        for channel in range(projections.shape[2]):
            astra.data2d.store(data, np.ascontiguousarray(centred[:, :, channel]))
            astra.data2d.store(result, 0.0)
            algorithm = astra.algorithm.create(settings)  # CGLS keeps its state: a new one for each channel
            astra.algorithm.run(algorithm, iterations)
            astra.algorithm.delete(algorithm)
            volume[:, :, channel] = astra.data2d.get(result)[::-1]  # astra's first row is at the largest y
    finally:
        astra.data2d.delete([data, result])
        astra.projector.delete(projector)
    return volume / np.float32(pitch_mm)


def _centred(projections: np.ndarray, centre: float) -> np.ndarray:
    """Projections with zeros on one side, so that ``centre`` is in the middle."""
    n = projections.shape[1]
    columns = round(2 * centre - (n - 1))
    padded = np.pad(projections, ((0, 0), (max(-columns, 0), max(columns, 0)), (0, 0)))
    remainder = centre + max(-columns, 0) - (padded.shape[1] - 1) / 2
    return padded if abs(remainder) < 1e-6 else ndimage.shift(padded, (0, -remainder, 0), order=5, mode="constant")
