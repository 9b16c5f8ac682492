"""Sinograms that were measured as such, with one value for each position of the beam: read from HDF5 and NeXus files."""

from datetime import datetime
from pathlib import Path

import h5py
import numpy as np
import xarray as xr

from operandi.errors import AssetError
from operandi.sources.assets import open_hdf5

DEGREES = {"deg": 1.0, "degree": 1.0, "degrees": 1.0, "°": 1.0, "rad": 180 / np.pi, "radian": 180 / np.pi, "radians": 180 / np.pi}
MILLIMETRES = {"m": 1e3, "cm": 10.0, "mm": 1.0, "um": 1e-3, "µm": 1e-3, "μm": 1e-3, "micron": 1e-3, "nm": 1e-6}
_NAMED = 12


def read_sinogram(
    path: str | Path, *, signal: str, rotation: str, translation: str, monitor: str | None = None, row: int | None = None
) -> xr.Dataset:
    """A sinogram, line by line in the order in which it was measured.

    Parameters
    ----------
    path
        HDF5 or NeXus file.
    signal, monitor
        Datasets (rotation, translation), or (rotation, row, translation) of a scan of several rows, one of which is taken.
    rotation
        Dataset (rotation,); in degrees unless its attribute ``units`` says otherwise.
    translation
        Dataset (translation,) or (row, translation), equally spaced; in mm unless its attribute ``units`` says otherwise.
    row
        Which row, from 0; not needed where there is one.

    Returns
    -------
    Dataset (rotation, translation) of ``signal`` and, where asked for, ``monitor``, float64, NaN where the file has it; coordinates
    ``rotation`` deg and ``translation`` mm; attrs ``file``, ``row``, the paths, and ``started`` (UTC epoch s) where the file tells.

    Raises
    ------
    AssetError
        The file or a dataset cannot be read, or the datasets do not fit each other.
    """
    path = Path(path)
    if not path.is_file():
        raise AssetError(f"{path} is not there: give the HDF5 or NeXus file of the scan")
    with open_hdf5(path) as file:
        values = _line(file, path, signal, row)
        angles, unit_of_angles = _values(file, path, rotation)
        positions, unit_of_positions = _values(file, path, translation)
        flux = None if monitor is None else _line(file, path, monitor, row)
        started = _started(file, signal)
    positions = _row_of(positions, path, translation, row, 1)
    for name, of_another, shape in ((rotation, angles, values.shape[:1]), (translation, positions, values.shape[1:])):
        if of_another.shape != shape:
            raise AssetError(f"{path}: {name} has shape {of_another.shape}, but {signal} is {values.shape}: give its {_last(name)}")
    if flux is not None and flux.shape != values.shape:
        raise AssetError(f"{path}: {monitor} has shape {flux.shape}, but {signal} is {values.shape}: give the monitor of this scan")
    dims, paths = ("rotation", "translation"), {"signal": signal, "rotation": rotation, "translation": translation, "monitor": monitor}
    return xr.Dataset(
        {"signal": (dims, values)} | ({} if flux is None else {"monitor": (dims, flux)}),
        coords={
            "rotation": ("rotation", angles * _factor(unit_of_angles, DEGREES, path, rotation), {"units": "deg"}),
            "translation": ("translation", positions * _factor(unit_of_positions, MILLIMETRES, path, translation), {"units": "mm"}),
        },
        attrs={"file": str(path), "row": row, "started": started, **paths},
    )


def _line(file: h5py.File, path: Path, name: str, row: int | None) -> np.ndarray:
    """One row of a dataset, (rotation, translation)."""
    return _row_of(_values(file, path, name)[0], path, name, row, 2)


def _row_of(values: np.ndarray, path: Path, name: str, row: int | None, dimensions: int) -> np.ndarray:
    """``values``, or where it has one dimension more than ``dimensions`` its entry ``row`` along the last but one."""
    if values.ndim == dimensions:
        return values
    if values.ndim != dimensions + 1:
        raise AssetError(f"{path}: {name} has shape {values.shape}: give a dataset of {dimensions} or {dimensions + 1} dimensions")
    rows = values.shape[-2]
    chosen = 0 if row is None and rows == 1 else row
    if chosen is None or not 0 <= chosen < rows:
        given = "none is chosen" if chosen is None else f"row {chosen} is not among them"
        raise AssetError(f"{path}: {name} has {rows} rows, and {given}: give one of 0 to {rows - 1} as row")
    return values.take(chosen, axis=-2)


def _values(file: h5py.File, path: Path, name: str) -> tuple[np.ndarray, str | None]:
    """A dataset's numbers and its unit."""
    found = file.get(name)
    if not isinstance(found, h5py.Dataset):
        what = "there is no" if found is None else "a group, not a dataset, is"
        raise AssetError(f"{path}: {what} {name}: give the path of a dataset, such as {', '.join(_datasets(file))}")
    if found.dtype.kind not in "iuf":
        raise AssetError(f"{path}: {name} holds no numbers ({found.dtype}): give another dataset")
    try:
        values = np.asarray(found[()], np.float64)
    except (OSError, RuntimeError) as error:
        raise AssetError(f"{path}: {name} cannot be read ({error}): restore the file") from error
    unit = found.attrs.get("units")
    return values, None if unit is None else _text(unit)


def _datasets(file: h5py.File) -> list[str]:
    """Paths of the first numeric datasets."""
    names: list[str] = []

    def note(name: str, item: object) -> bool | None:
        if isinstance(item, h5py.Dataset) and item.ndim and item.dtype.kind in "iuf":
            names.append(name)
        return True if len(names) == _NAMED else None

    file.visititems(note)
    return names


def _factor(unit: str | None, factors: dict[str, float], path: Path, name: str) -> float:
    if not unit:
        return 1.0
    if unit.strip().lower() not in factors:
        raise AssetError(f"{path}: {name} is in {unit!r}, which is none of {', '.join(factors)}: correct its attribute units")
    return factors[unit.strip().lower()]


def _started(file: h5py.File, signal: str) -> float | None:
    """When the scan began, by the nearest ``start_time`` above the signal; a time without a zone is taken for UTC."""
    above = Path(signal.strip("/"))
    for group in [str(folder) for folder in above.parents]:
        found = file.get("start_time" if group == "." else f"{group}/start_time")
        if isinstance(found, h5py.Dataset):
            try:
                moment = datetime.fromisoformat(_text(np.ravel(found[()])[0]))
            except (ValueError, IndexError, OSError):
                continue
            return moment.timestamp() if moment.tzinfo else datetime.fromisoformat(f"{moment.isoformat()}+00:00").timestamp()
    return None


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _last(name: str) -> str:
    return f"own {name.rsplit('/', 1)[-1]}"
