"""A labelled sinogram to a labelled volume, by the method and engine of choice."""

from collections.abc import Hashable
from typing import Any, Literal, get_args

import numpy as np
import xarray as xr

from operandi.errors import ShapeError
from operandi.stages import engines
from operandi.stages import iterations as iterative
from operandi.stages.axis import Axis, locate_axis
from operandi.stages.filters import FILTERS
from operandi.stages.volumes import Prepared, grid_mm, mask_lost, prepare, project_back

Engine = Literal["native", "astra"]
Method = Literal["fbp", "sirt", "cgls", "mlem"]


def reconstruct(
    sinogram: xr.DataArray,
    *,
    axis: Axis | float | None = None,
    method: Method = "fbp",
    engine: Engine = "native",
    filter: str = "ramp",  # noqa: A002
    weights: np.ndarray | None = None,
    sigma: xr.DataArray | None = None,
    iterations: int | None = None,
) -> xr.Dataset:
    """Reconstruct a sinogram, every channel on its own.

    Parameters
    ----------
    sinogram : dims rotation (deg), translation (mm)[, q], with their coordinates. NaN is not measured: see `partial_volume`.
    axis : the rotation axis on the translation axis, mm; None finds it (`find_axis`).
    method : fbp, or an iterative one: sirt, cgls, mlem (which takes negative cells as 0 and gives no negative voxel).
    engine : native, or astra (fbp, sirt and cgls, one channel after another), for comparison.
    filter : of fbp: ramp, shepp-logan, cosine, hann.
    weights : (rotation,) radians, of fbp, in place of `angular_weights`.
    sigma : standard deviation of the sinogram, of the same dims; then fbp gives that of the volume, exact for independent cells.
    iterations : of iterative methods; None takes `iterations.DEFAULT_ITERATIONS`.

    Returns
    -------
    Dataset (y, x[, q]): `intensity` in the sinogram's unit per mm, and `sigma` where asked for; x and y in mm from the axis.
    There is no sigma for iterative methods, which are not linear in the data or stop early.

    Raises
    ------
    ShapeError
        If arrays do not fit each other, sigma is asked of another method than native fbp, or a name is unknown.
    MissingBackendError
        If the engine is not installed.
    """
    _check_names(method, engine, filter, sigma)
    values = _cells(sinogram)
    rotation, translation = sinogram["rotation"].to_numpy(), sinogram["translation"].to_numpy()
    found = axis if axis is not None else locate_axis(values, rotation, translation)
    position = found.position if isinstance(found, Axis) else float(found)
    prepared = prepare(values, rotation, translation, position, weights)
    count = iterations if iterations is not None else iterative.DEFAULT_ITERATIONS.get(method, 1)
    volumes = {"intensity": _run(prepared, method, engine, filter, count)}
    if sigma is not None:
        variance = np.where(np.isfinite(values), _cells(sigma) ** 2, np.nan)
        volumes["sigma"] = np.sqrt(project_back(prepare(variance, rotation, translation, position, weights), filter, variance=True))
    attrs = {"method": method, "engine": engine, "axis_mm": position}
    attrs |= {"filter": filter} if method == "fbp" else {"iterations": count}
    return _labelled(volumes, sinogram, grid_mm(translation), attrs)


def _check_names(method: str, engine: str, filter_name: str, sigma) -> None:
    if method not in get_args(Method) or engine not in get_args(Engine) or filter_name not in FILTERS:
        raise ShapeError(
            f"cannot reconstruct by method {method!r}, engine {engine!r}, filter {filter_name!r}; methods: {', '.join(get_args(Method))}; "
            f"engines: {', '.join(get_args(Engine))}; filters: {', '.join(FILTERS)}"
        )
    if engine == "astra" and method == "mlem":
        raise ShapeError("the astra toolbox has no mlem on the CPU: use engine='native'")
    if sigma is not None and (method, engine) != ("fbp", "native"):
        raise ShapeError(f"sigma is exact for the native fbp only; {engine} {method} has none: leave sigma out")


def _cells(data: xr.DataArray) -> np.ndarray:
    """(rotation, translation, q), with one q where there is none."""
    if not {"rotation", "translation"} <= set(data.dims) <= {"rotation", "translation", "q"}:
        raise ShapeError(f"a sinogram has the dimensions rotation, translation and perhaps q; got {data.dims}")
    if missing := {"rotation", "translation"} - set(data.coords):
        raise ShapeError(f"the sinogram lacks the coordinates of {' and '.join(sorted(missing))}: assign them (deg, mm)")
    values = data.transpose("rotation", "translation", ...).to_numpy()
    return values if values.ndim == 3 else values[:, :, None]


def _run(prepared: Prepared, method: str, engine: str, filter_name: str, iterations: int) -> np.ndarray:
    if method == "fbp" and engine == "native" or len(prepared.projections) == 0:
        return project_back(prepared, filter_name, variance=False)
    projections, rotation, centre, pitch = prepared.projections, prepared.rotation_deg, prepared.centre, prepared.pitch_mm
    if engine == "native":
        return mask_lost(iterative.iterate(projections, rotation, centre, pitch, method, iterations), prepared)
    if method == "fbp":
        projections = projections * (prepared.weights * len(rotation) / np.pi).astype(np.float32)[:, None, None]
    return mask_lost(engines.astra_volume(projections, rotation, centre, pitch, method, filter_name, iterations), prepared)


def _labelled(volumes: dict[str, np.ndarray], sinogram: xr.DataArray, grid: np.ndarray, attrs: dict) -> xr.Dataset:
    dims = ("y", "x", "q") if "q" in sinogram.dims else ("y", "x")
    shape = (grid.size, grid.size, *([sinogram.sizes["q"]] if "q" in dims else []))
    units = {"units": f"{sinogram.attrs.get('units', '1')}/mm"}
    coords: dict[Hashable, Any] = {name: (name, grid, {"units": "mm"}) for name in ("y", "x")}
    coords |= {name: c for name, c in sinogram.coords.items() if "q" in c.dims and c.ndim == 1}
    return xr.Dataset({name: (dims, v.reshape(shape), units) for name, v in volumes.items()}, coords, attrs)
