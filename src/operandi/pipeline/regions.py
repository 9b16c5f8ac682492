"""Normal material, bends and agglomerates of every frame, their profiles and d*, and the size of each defect."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import xarray as xr

from operandi.errors import ShapeError
from operandi.experiment import Experiment
from operandi.nodes import (
    DEFECT_COLUMNS,
    DEFECTS,
    REGION_COLUMNS,
    REGION_TABLE,
    REGIONS,
    Array,
    Block,
    Container,
    Product,
    Rows,
    Table,
    typed,
)
from operandi.pipeline.tomograms import plane_coords
from operandi.stages import defects
from operandi.stages.regions import REGIONS as NAMES
from operandi.stages.regions import region_profiles, region_table, survey_regions

_MAPS = {"label": ("uint8", 0.0), "defect": ("int32", 0.0), "score": ("float32", float("nan"))}
_PROFILES = ("intensity", "sigma", "spread")
_SIZES = {
    "number": "defect_number", "kind": "kind", "centre_x_mm": "centre_x", "centre_y_mm": "centre_y", "radius_mm": "radius", "turn": "turn",
    "arc_mm": "arc", "depth_mm": "depth", "voxels": "voxels", "area_mm2": "area", "diameter_um": "diameter", "length_um": "length",
    "critical": "critical", "severity": "severity", "bend_radius_mm": "bend_radius", "reason": "reason",
}  # fmt: skip
"""Columns of the table of defects, and what `find_regions` calls them."""
_UNITS = {"nm": "nm", "mm": "mm", "um": "µm", "mm2": "mm²", "angstrom": "1/angstrom"}
_MOST = 1_000_000
"""More defects than a frame can have: they are numbered over all frames."""


def tree(experiment: Experiment, q: np.ndarray, units: str) -> Iterator[Product]:
    """Declare arrays and tables; ``q`` and ``units`` are those of the volumes."""
    n, plane, names = experiment.scan.translations, plane_coords(experiment.scan), list(NAMES.values())
    yield Container(REGIONS, {"labels": list(defects.REGIONS), "critical_um": defects.CRITICAL_UM, "source": "10.1039/D4EE00590B"})
    for name, (dtype, fill) in _MAPS.items():
        yield Array((*REGIONS, name), ("frame", "y", "x"), (0, n, n), (1, n, n), dtype, fill, {"units": "1", "coords": plane})
    coords = {"region": {"values": names}, "q": {"values": q.tolist(), "units": "1/angstrom"}}
    for name in _PROFILES:
        shape = (len(names), len(q))
        about = {"units": units, "coords": coords}
        yield Array((*REGIONS, name), ("frame", "region", "q"), (0, *shape), (1, *shape), "float32", metadata=about)
    yield Table(REGION_TABLE, REGION_COLUMNS, "entry", {"units": _units(REGION_COLUMNS)})
    yield Table(DEFECTS, DEFECT_COLUMNS, "entry", {"units": _units(DEFECT_COLUMNS)})


def products(frame: int, maps: xr.DataArray, volume: xr.DataArray, dstar: np.ndarray, how: Mapping[str, Any]) -> Iterator[Product]:
    """The regions of a frame, by its maps (phase, y, x), volume (y, x, q) and d* (y, x) nm; where none are found, the reason.

    ``how`` are options of `fit_dstar`.
    """
    found, reason = _found(maps, maps.isel(phase=0, drop=True).copy(data=dstar))
    for name, (dtype, _) in _MAPS.items():
        yield Block((*REGIONS, name), (frame, 0, 0), found[name].to_numpy()[None].astype(dtype))
    profiles = region_profiles(volume, found["label"])
    for name in _PROFILES:
        yield Block((*REGIONS, name), (frame, 0, 0), profiles[name].to_numpy()[None].astype(np.float32))
    table = region_table({"": profiles}, **how).to_dict("list")
    count = len(table["region"])
    reasons = [reason or one for one in table["reason"]]
    numbered = {"entry": frame * count + np.arange(count), "frame": np.full(count, frame), "reason": reasons}
    yield Rows(REGION_TABLE, typed(REGION_COLUMNS, {**table, **numbered}))
    sizes = {column: found[name].to_numpy() for column, name in _SIZES.items() if name in found}
    if sizes:
        number = sizes["number"]
        numbered = {"entry": frame * _MOST + number, "frame": np.full(len(number), frame)}
        yield Rows(DEFECTS, typed(DEFECT_COLUMNS, {**sizes, **numbered}))


def _found(maps: xr.DataArray, dstar: xr.DataArray) -> tuple[xr.Dataset, str]:
    """What `survey_regions` finds; else empty maps and the reason."""
    try:
        return survey_regions(maps, dstar).rename(region="label"), ""
    except ShapeError as error:
        nothing = dstar.copy(data=np.zeros(dstar.shape, np.int32))
        return xr.Dataset({"label": nothing, "defect": nothing, "score": dstar.copy(data=np.full(dstar.shape, np.nan))}), str(error)


def _units(columns: Mapping[str, str]) -> dict[str, str]:
    """Units of columns, as their names end."""
    return {name: unit for name in columns if (unit := _UNITS.get(name.rsplit("_", 1)[-1]))}
