"""Patterns from files: those that operandi writes, and columns of text as other programs write them."""

import re
from pathlib import Path

import numpy as np
import xarray as xr

from operandi.errors import AssetError
from operandi.sources.assets import HDF5_SUFFIXES, open_hdf5

UNITS = {"1/angstrom": 1.0, "1/nm": 0.1}
_NAMES = {
    "1/angstrom": r"1/angstrom|q_A\^-1|[ÅA]\^?-1|Å⁻¹|1/Å|1/A\b",
    "1/nm": r"1/nm|q_nm\^-1|nm\^?-1|nm⁻¹",
}
_SEPARATOR = re.compile(r"[,;\s]+")


def read_pattern(path: str | Path, *, q_units: str | None = None) -> xr.Dataset:
    """The pattern of a file, of several patterns their mean.

    Parameters
    ----------
    path
        HDF5 (.h5, .hdf5, .nxs) or comma-separated text as `operandi integrate` writes it; or text with the columns q, intensity and
        perhaps sigma, between spaces, commas or semicolons, below any lines of a header.
    q_units
        1/angstrom or 1/nm; None: as the file says.

    Returns
    -------
    Dataset (q): ``intensity`` and ``sigma``, NaN where the file has it or has no sigma; q in Å⁻¹, increasing.

    Raises
    ------
    AssetError
        The file cannot be read, holds no pattern, or does not say the unit of q.
    """
    path = Path(path)
    if not path.is_file():
        raise AssetError(f"{path} is not there: give the file of a pattern")
    q, intensity, sigma, said = _read_hdf5(path) if path.suffix.lower() in HDF5_SUFFIXES else _read_text(path)
    unit = q_units or _unit_in(said)
    if unit not in UNITS:
        raise AssetError(f"{path} does not say whether q is in 1/angstrom or 1/nm: tell it with q_units")
    if q.size < 2 or not np.isfinite(q).all() or len(np.unique(q)) != q.size:
        raise AssetError(f"{path}: its {q.size} values of q are no axis of a pattern: each must be a number, and come once")
    order = np.argsort(q)
    sigma = np.sqrt(np.sum(sigma**2, axis=0)) / len(sigma)
    columns = {"intensity": ("q", intensity.mean(axis=0)[order]), "sigma": ("q", sigma[order])}
    return xr.Dataset(columns, {"q": ("q", q[order] * UNITS[unit], {"units": "1/angstrom"})})


def _unit_in(said: str) -> str | None:
    found = [unit for unit, names in _NAMES.items() if re.search(names, said)]
    return found[0] if len(found) == 1 else None


def _read_hdf5(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
    """q (q,), intensity and sigma (pattern, q), and the unit of q."""
    with open_hdf5(path) as file:
        try:
            q, intensity, sigma = (file[f"entry/patterns/{name}"] for name in ("q", "intensity", "intensity_errors"))
            unit = q.attrs.get("units", "")
            values = [np.atleast_2d(np.asarray(one, float)) for one in (q, intensity, sigma)]
        except (KeyError, OSError, TypeError, ValueError, AttributeError) as error:
            raise AssetError(f"{path} holds no patterns as `operandi integrate` writes them ({error}): give its output, or text") from error
    if not values[0].shape[1] == values[1].shape[1] == values[2].shape[1]:
        raise AssetError(f"{path}: q, intensity and intensity_errors differ in length: write the file again")
    return values[0][0], values[1], values[2], unit.decode() if isinstance(unit, bytes) else str(unit)


def _read_text(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
    """q (q,), intensity and sigma (pattern, q), and the lines above them."""
    header, rows = [], []
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError as error:
        raise AssetError(f"{path}: {error.strerror or error}; give the file of a pattern") from error
    for number, line in enumerate(lines, 1):
        row = _numbers(line)
        if row is None and not rows:
            header.append(line)
        elif row is not None and (not rows or len(row) == len(rows[0])):
            rows.append(row)
        elif line.strip() and not line.lstrip().startswith("#"):
            raise AssetError(f"{path}:{number}: {line.strip()[:40]!r} is no row of {len(rows[0]) if rows else 2} numbers: correct the line")
    if not rows:
        raise AssetError(f"{path} holds no columns of numbers: give text with the columns q, intensity and perhaps sigma")
    table, said = np.array(rows).T, "\n".join(header)
    if "sigma_2" in said:
        return table[0], table[1::2], table[2::2], said
    return table[0], table[1:2], table[2:3] if len(table) > 2 else np.full((1, table.shape[1]), np.nan), said


def _numbers(line: str) -> list[float] | None:
    """The numbers of a row; None where it is none."""
    try:
        row = [float(word) for word in _SEPARATOR.split(line.strip()) if word]
    except ValueError:
        return None
    return row if len(row) > 1 else None
