"""Figures of lithium: where it is in both electrodes, how the lattice tells it, and what else falls into the windows."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from operandi.errors import NotPublishedError
from operandi.figures import lithium, maps, style
from operandi.gallery.items import Item
from operandi.gallery.material import Material
from operandi.stages.lithium import lithium_in_graphite, lithium_in_oxide
from operandi.stages.overlaps import overlaps
from operandi.stages.peaks import fit_peaks

LAYER_LINE = (1.66, 1.90)
"""Where graphite 002 and its lithiated stages lie, Å⁻¹."""
ELECTRODES = {"graphite": ("graphite", "LiC12", "LiC6"), "oxide": ("NMC lithiated", "NMC delithiated")}
LEAST_SHARE = 0.15
"""Of the brightest twentieth of an electrode's maps: below, a voxel does not belong to it."""


def items_of(material: Material) -> Iterator[Item]:
    """Lithium of a series, and the honesty of its windows."""
    told, where = material.sample, material.frames
    yield Item("lithium-graphite", f"{told}: lithium for six carbons, from graphite, LiC12 and LiC6; grey outside of the anode.",
               partial(_lithium, material, "graphite"), where)  # fmt: skip
    yield Item("lithium-oxide", f"{told}: lithium in the formula unit of NMC, from both of its maps; grey outside of the cathode.",
               partial(_lithium, material, "oxide"), where)  # fmt: skip
    yield Item("lithium", f"{told}: lithium in both electrodes, summed over the cell, against the charge passed.",
               partial(_contents, material), where)  # fmt: skip
    yield Item("lithium-balance", f"{told}: lithium that the oxide has lost and the graphite gained, against coulombs; what is in neither.",
               partial(_balance, material), where, partial(_table, material))  # fmt: skip
    low, high = LAYER_LINE
    line = f"{told}: position of the strongest peak of every voxel from q = {low:g} to {high:g} Å⁻¹, LiCx; grey outside the anode."
    yield Item("peak-LiCx", line, partial(_layer_line, material), where)
    yield Item("overlaps", f"{told}: what an equal volume of each crystal would put into each map, relative to that which it is meant for.",
               partial(_overlaps, material), where)  # fmt: skip


def _content(material: Material, electrode: str, taken: xr.Dataset) -> xr.Dataset:
    return lithium_in_graphite(taken) if electrode == "graphite" else lithium_in_oxide(taken)


def _lithium(material: Material, electrode: str) -> Figure:
    found = _content(material, electrode, material.maps)["lithium"].where(_there(material, electrode))
    label = "x in $\\mathrm{Li}_x\\mathrm{C}_6$" if electrode == "graphite" else "x in $\\mathrm{Li}_x$NMC"
    return maps.draw_maps(list(found.transpose("frame", "y", "x")), material.tags, label=label, limits=(0.0, 1.0), cmap=style.AMOUNT)


def _there(material: Material, electrode: str) -> xr.DataArray:
    """Where (frame, y, x) the electrode is: what streaks put elsewhere is far less, but for corners that few beams cross."""
    phases = [phase for phase in ELECTRODES[electrode] if phase in material.maps["phase"]]
    held = material.maps["intensity"].sel(phase=phases).sum("phase", skipna=False)
    crossed = np.hypot(held["x"], held["y"]) < float(np.abs(held["x"]).max())
    return (held > LEAST_SHARE * held.quantile(0.95, ("y", "x"))) & crossed


def _contents(material: Material) -> Figure:
    table = material.lithium
    if table is not None:
        published = {
            name: xr.Dataset({"lithium": ("frame", table[name]), "sigma": ("frame", table[f"{name}_sigma"])}) for name in ELECTRODES
        }
        return lithium.draw_contents(table["charge_mah"].to_numpy(), published)
    cell = material.maps.sum(("y", "x"), keep_attrs=True).assign(sigma=(material.maps["sigma"] ** 2).sum(("y", "x")) ** 0.5)
    return lithium.draw_contents(material.charge_mah, {name: _content(material, name, cell) for name in ELECTRODES})


def _table(material: Material) -> str:
    return "" if material.lithium is None else material.lithium.to_csv(index=False)


def _balance(material: Material) -> Figure:
    table = material.lithium
    if table is None:
        raise NotPublishedError(f"result {material.key} holds no balance of lithium: its windows do not show both electrodes")
    return lithium.draw_balance(table)


def _layer_line(material: Material) -> Figure:
    low, high = LAYER_LINE
    found = []
    for number in material.numbers:
        volume = material.volume(number)["intensity"]
        q = volume["q"]
        if q[0] > low or q[-1] < high:
            raise NotPublishedError(f"the patterns reach from {float(q[0]):.3g} to {float(q[-1]):.3g} Å⁻¹, not over {low:g} to {high:g}")
        position = fit_peaks(volume, LAYER_LINE)["position"].isel(peak=0)
        found.append(position.where(_there(material, "graphite").sel(frame=number)))
    return maps.draw_maps(found, material.tags, label="Position of the peak (Å⁻¹)", limits=(1.69, 1.88), cmap=style.AMOUNT)


def _overlaps(material: Material) -> Figure:
    return lithium.draw_overlaps(overlaps(material.windows)["share"])
