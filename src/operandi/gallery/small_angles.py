"""Figures of small angles: d* of every voxel and of regions, and the table of d* for states or frames."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import xarray as xr
from matplotlib.figure import Figure

from operandi.errors import NotPublishedError
from operandi.figures import maps, saxs, style
from operandi.gallery.items import Item
from operandi.gallery.material import Material
from operandi.stages.dstar import fit_dstar

HIGHEST_FIRST_Q = 0.05
"""Patterns that begin above this (Å⁻¹) hold no small angles."""


def items_of(material: Material) -> Iterator[Item]:
    """d* of a series: maps, the regions, their profiles, and a table over the frames."""
    told, where = material.sample, material.frames
    rows = dict(zip(material.tags, ((material, number) for number in material.numbers), strict=True))
    yield Item("dstar", f"{told}: d* of every voxel, on one scale; grey where there is none.", partial(_dstar, rows, "dstar"), where)
    yield Item("dstar-slope", f"{told}: the exponent of the power law above q*.", partial(_dstar, rows, "slope"), where)
    yield from _region_items(told, rows, where, "")


def comparison(states: Mapping[str, Material]) -> Iterator[Item]:
    """The same for states of cells side by side: the paper's Table S1 is the last of them."""
    where = "; ".join(f"{name}: {material.frames}" for name, material in states.items())
    rows = {name: (material, material.numbers[0]) for name, material in states.items()}
    told = ", ".join(states)
    yield Item("states-dstar", f"d* of every voxel, on one scale; grey where there is none: {told}.", partial(_dstar, rows, "dstar"), where)
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
        lambda: saxs.draw_table(_table(rows)),
        where,
        table=lambda: table_text(_table(rows)),
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
        found.append(material.dstar(number)[quantity])
    if not any(bool(one.notnull().any()) for one in found):
        raise NotPublishedError("no voxel has a d*: none of their profiles leaves a power law")
    label = {"dstar": "d* (nm)", "slope": "Exponent of the power law"}[quantity]
    return maps.draw_maps(found, list(rows), label=label, limits=style.span_of(found), cmap=style.AMOUNT)


def _regions(rows: Rows) -> Figure:
    found = []
    for material, number in rows.values():
        _small_angles(material)
        found.append(material.regions(number)["region"])
    return maps.draw_regions(found, list(rows))


def _departures(rows: Rows) -> Figure:
    profiles = {title: _profiles(material, number) for title, (material, number) in rows.items()}
    return saxs.draw_departures(profiles, {title: _departure(profile) for title, profile in profiles.items()})


def _profiles(material: Material, number: int) -> xr.Dataset:
    _small_angles(material)
    return material.region_profiles(number)


def _departure(profiles: xr.Dataset) -> xr.Dataset:
    return fit_dstar(profiles[["intensity"]])


def _table(rows: Rows) -> xr.Dataset:
    """d* (state, region) of the mean profiles."""
    found = [_departure(_profiles(material, number)) for material, number in rows.values()]
    return xr.concat(found, "state", join="outer", coords="minimal", compat="override").assign_coords(state=list(rows))


def table_text(table: xr.Dataset) -> str:
    """The table as CSV: a line for each state and region."""
    lines = ["state,region,dstar_nm,sigma_nm,q_star_inv_angstrom,slope,reason"]
    for state in table["state"].to_numpy():
        for region in table["region"].to_numpy():
            one = table.sel(state=state, region=region)
            numbers = ",".join(f"{float(one[name]):.6g}" for name in ("dstar", "sigma", "q_star", "slope"))
            lines.append(f'"{state}",{region},{numbers},{one["reason"].values!s}')
    return "\n".join(lines) + "\n"
