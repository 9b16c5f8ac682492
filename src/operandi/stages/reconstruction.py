"""A labelled sinogram to a labelled volume, by the method and engine of choice."""

from collections.abc import Hashable
from dataclasses import replace
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import xarray as xr

from operandi.errors import ShapeError
from operandi.stages import engines
from operandi.stages.axis import Axis, locate_axis
from operandi.stages.filters import FILTERS
from operandi.stages.iterations import Iterations, iterate
from operandi.stages.volumes import Prepared, grid_mm, prepare, project_back

Engine = Literal["native", "astra", "astra-cuda", "tomopy"]
Method = Literal["fbp", "sirt", "cgls", "mlem", "tv"]


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
    nonnegative: bool = False,
    tolerance: float = 1e-3,
    strength: float | None = None,
    bootstrap: int | None = None,
    seed: int = 0,
) -> xr.Dataset:
    """Reconstruct a sinogram, every channel on its own.

    Parameters
    ----------
    sinogram : dims rotation (deg), translation (mm)[, q], with their coordinates. NaN is not measured: fbp fills it (`partial_volume`), the
        native iterative methods leave it out.
    axis : the rotation axis on the translation axis, mm; None finds it (`find_axis`).
    method : fbp, or an iterative one: sirt, cgls, mlem (which takes negative cells as 0 and gives no negative voxel), tv.
    engine : native; or, for comparison and one channel after another, astra (fbp, sirt, cgls), astra-cuda (also mlem), tomopy (fbp by
        gridrec, sirt, mlem), which always run all ``iterations``.
    filter : of fbp: ramp, shepp-logan, cosine, hann.
    weights : (rotation,) radians, of fbp, in place of `angular_weights`.
    sigma : standard deviation of the sinogram, of the same dims; then fbp gives that of the volume, exact for independent cells.
        sirt, cgls and mlem stop where they describe the sinogram to within it, tv takes its strength from it; cells without it are not
        measured.
    iterations : upper bound, of iterative methods; None takes `iterations.DEFAULT_ITERATIONS`.
    nonnegative : of sirt and tv: no voxel below 0.
    tolerance, strength : of iterative methods and of tv, see `Iterations`.
    bootstrap : of native iterative methods, with ``sigma``: that of the volume from so many reconstructions with further noise of this size
        (Gaussian, seeded by ``seed``), each with as many iterations; 0 takes ``sigma`` for stopping and strength only.

    Returns
    -------
    Dataset (y, x[, q]): `intensity` in the sinogram's unit per mm, and `sigma` where asked for; x and y in mm from the axis. Its
    attributes say how it was made, ``iterations`` the largest number that a channel took. Iterative methods have no exact sigma: they
    stop early, and all but sirt are not linear in the data.

    Raises
    ------
    ShapeError
        If arrays do not fit each other, an option does not belong to the method or engine, or a name is unknown.
    MissingBackendError
        If the engine is not installed, or the machine has no CUDA.
    """
    _check_names(method, engine, filter)
    _check_options(method, engine, sigma, bootstrap, nonnegative)
    values, errors = _cells(sinogram), None if sigma is None else _cells(sigma)
    if errors is not None and errors.shape != values.shape:
        raise ShapeError(f"sigma of shape {errors.shape} does not fit the sinogram of shape {values.shape}: give one for each cell")
    rotation, translation = sinogram["rotation"].to_numpy(), sinogram["translation"].to_numpy()
    placed = axis if axis is not None else locate_axis(values, rotation, translation)
    position = placed.position if isinstance(placed, Axis) else float(placed)
    attrs: dict[str, Any] = {"method": method, "engine": engine, "axis_mm": position}
    if method == "fbp":
        prepared = prepare(values, rotation, translation, position, weights)
        volumes = {"intensity": _filtered(prepared, engine, filter)}
        if errors is not None:
            variance = np.where(np.isfinite(values), errors**2, np.nan)
            volumes["sigma"] = np.sqrt(project_back(prepare(variance, rotation, translation, position, weights), filter, variance=True))
        return _labelled(volumes, sinogram, grid_mm(translation), attrs | {"filter": filter})
    how = Iterations(method, iterations, nonnegative, tolerance, None, strength)
    prepared = prepare(values, rotation, translation, position, None)
    if engine != "native":
        found = _by_peer(prepared, engine, method, iterations=how.count, nonnegative=nonnegative)
        volumes, more = {"intensity": found}, {"iterations": how.count}
    else:
        scan = _scan(values, errors, rotation, translation)
        volumes, more = _iterated(scan, prepared.centre, prepared.pitch_mm, how, bootstrap or 0, seed)
    return _labelled(volumes, sinogram, grid_mm(translation), attrs | more)


def _check_names(method: str, engine: str, filter_name: str) -> None:
    if method not in get_args(Method) or engine not in get_args(Engine) or filter_name not in FILTERS:
        raise ShapeError(
            f"cannot reconstruct by method {method!r}, engine {engine!r}, filter {filter_name!r}; methods: {', '.join(get_args(Method))}; "
            f"engines: {', '.join(get_args(Engine))}; filters: {', '.join(FILTERS)}"
        )
    if engine != "native" and method not in engines.METHODS[engine]:
        raise ShapeError(f"engine {engine!r} has no {method}, only {', '.join(engines.METHODS[engine])}: use engine='native'")


def _check_options(method: str, engine: str, sigma, bootstrap: int | None, nonnegative: bool) -> None:
    if engine != "native" and sigma is not None:
        raise ShapeError(f"engine {engine!r} knows no sigma: use engine='native', or leave sigma out")
    if engine != "native" and nonnegative and (engine, method) not in engines.NONNEGATIVE:
        raise ShapeError(f"engine {engine!r} cannot keep {method} from being negative: use engine='native', or leave nonnegative out")
    if method == "fbp" and (nonnegative or bootstrap is not None):
        raise ShapeError("fbp can be negative, and its sigma is exact: leave nonnegative and bootstrap out, or use an iterative method")
    if method != "fbp" and (sigma is None) != (bootstrap is None):
        raise ShapeError(
            f"{method} has no exact sigma: give both sigma and bootstrap, e.g. bootstrap=20 for that many realisations of the noise, "
            "or bootstrap=0 to use sigma only for stopping; or leave both out"
        )
    if bootstrap is not None and (not isinstance(bootstrap, int | np.integer) or bootstrap < 0 or bootstrap == 1):
        raise ShapeError(f"bootstrap={bootstrap!r}: give 0, or at least 2 realisations of the noise")


def _cells(data: xr.DataArray) -> np.ndarray:
    """(rotation, translation, q), with one q where there is none."""
    if not {"rotation", "translation"} <= set(data.dims) <= {"rotation", "translation", "q"}:
        raise ShapeError(f"a sinogram has the dimensions rotation, translation and perhaps q; got {data.dims}")
    if missing := {"rotation", "translation"} - set(data.coords):
        raise ShapeError(f"the sinogram lacks the coordinates of {' and '.join(sorted(missing))}: assign them (deg, mm)")
    values = data.transpose("rotation", "translation", ...).to_numpy()
    return values if values.ndim == 3 else values[:, :, None]


def _filtered(prepared: Prepared, engine: str, filter_name: str) -> np.ndarray:
    if engine == "native" or len(prepared.order) == 0:
        return project_back(prepared, filter_name, variance=False)
    relative = (prepared.weights * len(prepared.weights) / np.pi).astype(np.float32)
    return _by_peer(prepared, engine, "fbp", relative[:, None, None], filter_name=filter_name)


def _by_peer(prepared: Prepared, engine: str, method: str, weights: np.ndarray | float = 1.0, **options: Any) -> np.ndarray:
    """The volume by another engine, NaN for channels of which nothing is known."""
    projections, lost = prepared.filled()
    scan = engines.Scan(projections * np.float32(weights), prepared.rotation_deg, prepared.centre, prepared.pitch_mm)
    shape = (projections.shape[1], *projections.shape[1:])
    volume = engines.volume(engine, scan, method, **options) if len(projections) else np.full(shape, np.nan, np.float32)
    volume[:, :, lost] = np.nan
    return volume


class _Scan(NamedTuple):
    """Projections with a measured cell, in increasing order of angle and translation, and sigma where it is known; NaN is not measured."""

    projections: np.ndarray
    sigma: np.ndarray | None
    rotation_deg: np.ndarray


def _scan(values: np.ndarray, sigma: np.ndarray | None, rotation: np.ndarray, translation: np.ndarray) -> _Scan:
    if sigma is not None:
        values = np.where(np.isfinite(sigma) & (sigma >= 0), values, np.nan)
    usable = np.flatnonzero(np.isfinite(values).any(axis=(1, 2)) & np.isfinite(rotation))
    usable = usable[np.argsort(rotation[usable], kind="stable")]
    forward = slice(None) if translation[0] < translation[-1] else slice(None, None, -1)
    ordered = (None if v is None else np.asarray(v[usable][:, forward], np.float32) for v in (values, sigma))
    return _Scan(next(ordered), next(ordered), rotation[usable])  # type: ignore[arg-type]


def _iterated(scan: _Scan, centre: float, pitch_mm: float, how: Iterations, bootstrap: int, seed: int) -> tuple[dict, dict]:
    known = np.isfinite(scan.projections)
    if scan.sigma is not None:
        energy = np.sum(scan.sigma**2, axis=(0, 1), where=known, dtype=float)
        how = replace(how, noise=np.sqrt(energy / np.maximum(known.sum(axis=(0, 1)), 1)))
    volume, used = iterate(scan.projections, scan.rotation_deg, centre, pitch_mm, how)
    volumes: dict[str, np.ndarray] = {"intensity": volume}
    attrs: dict[str, Any] = {"iterations": int(used.max()), "nonnegative": int(how.nonnegative or how.method == "mlem")}
    if scan.sigma is not None and bootstrap:
        volumes["sigma"] = _spread(scan, centre, pitch_mm, how, used, bootstrap, seed)
        attrs["sigma_from"] = f"bootstrap of {bootstrap} realisations of Gaussian noise, seed {seed}"
    return volumes, attrs


def _spread(scan: _Scan, centre: float, pitch_mm: float, how: Iterations, used: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Standard deviation of ``n`` reconstructions with further noise, by Welford's update."""
    assert scan.sigma is not None
    sigma, random = np.where(np.isfinite(scan.projections), scan.sigma, 0), np.random.default_rng(seed)
    mean, squares = np.float32(0), np.float32(0)
    for i in range(1, n + 1):
        noisy = scan.projections + sigma * random.standard_normal(sigma.shape, np.float32)
        volume, _ = iterate(noisy, scan.rotation_deg, centre, pitch_mm, how, limits=used)
        step = volume - mean
        mean = mean + step / i
        squares = squares + step * (volume - mean)
    return np.sqrt(squares / (n - 1))


def _labelled(volumes: dict[str, np.ndarray], sinogram: xr.DataArray, grid: np.ndarray, attrs: dict) -> xr.Dataset:
    dims = ("y", "x", "q") if "q" in sinogram.dims else ("y", "x")
    shape = (grid.size, grid.size, *([sinogram.sizes["q"]] if "q" in dims else []))
    units = {"units": f"{sinogram.attrs.get('units', '1')}/mm"}
    coords: dict[Hashable, Any] = {name: (name, grid, {"units": "mm"}) for name in ("y", "x")}
    coords |= {name: c for name, c in sinogram.coords.items() if "q" in c.dims and c.ndim == 1}
    return xr.Dataset({name: (dims, v.reshape(shape), units) for name, v in volumes.items()}, coords, attrs)
