"""Figures of small angles: d* of every voxel and of regions, and the table of d* for states or frames."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from operandi.errors import NotPublishedError
from operandi.figures import maps, saxs, style
from operandi.gallery.items import Item
from operandi.gallery.material import Material, Regions
from operandi.stages.regions import TABLE_COLUMNS

HIGHEST_FIRST_Q = 0.05
"""Patterns that begin above this (Å⁻¹) hold no small angles."""


def items_of(material: Material) -> Iterator[Item]:
    """d* of a series: maps, the regions, their profiles, and a table over the frames."""
    told, where = material.sample, material.frames
    rows = dict(zip(material.tags, ((material, number) for number in material.numbers), strict=True))
    yield Item(
        "dstar", f"{told}: d* of every voxel of the anode, on one scale; grey where there is none.", partial(_dstar, rows, "dstar"), where
    )
    yield Item("dstar-slope", f"{told}: the exponent of the power law above q*, in the anode.", partial(_dstar, rows, "slope"), where)
    yield from _region_items(told, rows, where, "")


def comparison(states: Mapping[str, Material]) -> Iterator[Item]:
    """The same for states of cells side by side: the paper's Table S1 is the last of them."""
    where = "; ".join(f"{name}: {material.frames}" for name, material in states.items())
    rows = {name: (material, material.numbers[0]) for name, material in states.items()}
    told = ", ".join(states)
    yield Item(
        "states-dstar",
        f"d* of every voxel of the anode, on one scale; grey where there is none: {told}.",
        partial(_dstar, rows, "dstar"),
        where,
    )
    yield from _region_items(told, rows, where, "states-")


Rows = Mapping[str, tuple[Material, int]]
"""Title → a frame of a result."""


def _region_items(told: str, rows: Rows, where: str, prefix: str) -> Iterator[Item]:
    yield Item(f"{prefix}regions", f"{told}: normal material, bends and agglomerates.", partial(_regions, rows), where)
    yield Item(
        f"{prefix}profiles",
        f"{told}: mean profile of each region with its spread over the voxels; dashed the power law, dotted q*, where it is left.",
        partial(_departures, rows),
        where,
    )
    yield Item(
        f"{prefix}dstar-table",
        f"{told}: d* of the mean profile of each region, nm, with its standard deviation; none where the profile leaves no power law.",
        lambda: saxs.draw_table(_as_dataset(_table(rows), "state", "region")),
        where,
        table=lambda: _table(rows).to_csv(index=False, na_rep="nan", float_format="%.6g"),
    )


def _small_angles(material: Material) -> None:
    """Raise NotPublishedError where a result has no small angles."""
    low = float(material.patterns["q"][0])
    if low > HIGHEST_FIRST_Q:
        raise NotPublishedError(f"the patterns of {material.key} begin at q = {low:.3g} Å⁻¹: nothing was measured at small angles")


def _dstar(rows: Rows, quantity: str) -> Figure:
    found = []
    for material, number in rows.values():
        _small_angles(material)
        anode = material.regions(number).label > 0  # elsewhere streaks carry the profile of what they come from
        found.append(material.dstar(number)[quantity].where(anode))
    if not any(bool(one.notnull().any()) for one in found):
        raise NotPublishedError("no voxel has a d*: none of their profiles leaves a power law")
    label = {"dstar": "d* (nm)", "slope": "Exponent of the power law"}[quantity]
    return maps.draw_maps(found, list(rows), label=label, limits=style.span_of(found), cmap=style.AMOUNT)


def _regions(rows: Rows) -> Figure:
    found = []
    for material, number in rows.values():
        _small_angles(material)
        found.append(material.regions(number).label)
    return maps.draw_regions(found, list(rows))


def _departures(rows: Rows) -> Figure:
    found = {title: _found(material, number) for title, (material, number) in rows.items()}
    tables = {title: _as_dataset(one.table, "region") for title, one in found.items()}
    return saxs.draw_departures({title: one.profiles for title, one in found.items()}, tables)


def _found(material: Material, number: int) -> Regions:
    _small_angles(material)
    return material.regions(number)


def _table(rows: Rows) -> pd.DataFrame:
    """The rows of all states, in the columns of `region_table`."""
    found = [_found(material, number).table.assign(state=title) for title, (material, number) in rows.items()]
    return pd.concat(found, ignore_index=True).reindex(columns=list(TABLE_COLUMNS))


def _as_dataset(table: pd.DataFrame, *dims: str) -> xr.Dataset:
    """Rows as `fit_dstar` gives d*, over these columns, whose values keep their order."""
    named = table.rename(columns={"dstar_nm": "dstar", "sigma_nm": "sigma", "q_star_inv_angstrom": "q_star"}).set_index(list(dims))
    values = {dim: list(dict.fromkeys(table[dim])) for dim in dims}
    return named[["dstar", "sigma", "q_star", "slope", "reason"]].to_xarray().reindex(values, fill_value={"reason": ""})
