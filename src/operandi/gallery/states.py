"""The figures of several states of cells side by side: fresh and aged, charged and discharged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import xarray as xr
from matplotlib.figure import Figure

from operandi.errors import NotPublishedError
from operandi.figures import maps, profiles, style
from operandi.gallery import electrodes, small_angles
from operandi.gallery.items import Item, Look, Scheme
from operandi.gallery.material import Material
from operandi.stages.composites import PaletteName, composite, composite_limits

States = Mapping[str, Material]
"""Name of the state → the result, reduced to one frame."""


def items_of(states: States, look: Look) -> Iterator[Item]:
    """Every figure that compares states, on one scale each."""
    where = "; ".join(f"{name}: {material.frames}" for name, material in states.items())
    cells = ", ".join(f"{name} ({material.sample}, {material.title(0)})" for name, material in states.items())
    for phase in dict.fromkeys(window.phase for material in states.values() for window in material.windows):
        low, high = next(material.ranges[phase] for material in states.values() if phase in material.ranges)
        caption = f"{phase}, the intensity of every voxel's pattern from q = {low:g} to {high:g} Å⁻¹, on one scale: {cells}."
        yield Item(f"states-map-{phase}", caption, partial(_map, states, phase), where)
    schemes: dict[str, Scheme] = {name: one for material in states.values() for name, one in material.schemes.items()} | dict(look.schemes)
    for name, scheme in schemes.items():
        for palette in look.palettes:
            end = "" if palette == "paper" else "-safe"
            caption = f"The {name} in false colour, on one scale: {cells}."
            yield Item(f"states-composite-{name}{end}", caption, partial(_composite, states, scheme, look, palette), where)
    yield Item("states-patterns", f"The mean pattern of the slice with the q windows shaded: {cells}.",
               partial(_patterns, states, profiles.draw_mean_patterns), where)  # fmt: skip
    yield Item("states-windows", f"The mean pattern about each q window, which is shaded: {cells}.",
               partial(_patterns, states, profiles.draw_windows), where)  # fmt: skip
    yield from electrodes.comparison(states, look)
    yield from small_angles.comparison(states)


def _map(states: States, phase: str) -> Figure:
    found = {name: material.maps.isel(frame=0) for name, material in states.items()}
    if missing := [name for name, one in found.items() if phase not in one["phase"]]:
        raise NotPublishedError(f"{', '.join(missing)} have no map of {phase}: process them with its window")
    chosen = [one.sel(phase=phase) for one in found.values()]
    label = style.labelled(f"{phase}, intensity", str(chosen[0]["intensity"].attrs.get("units", "1")))
    return maps.draw_maps([one["intensity"] for one in chosen], list(states), label=label, sigma=[one["sigma"] for one in chosen])


def _composite(states: States, scheme: Scheme, look: Look, palette: PaletteName) -> Figure:
    colours = (scheme.get("red", ()), scheme.get("green", ()), scheme.get("blue", ()))
    found = [material.maps.isel(frame=0) for material in states.values()]
    each = [composite_limits(one, *colours, percentiles=look.percentiles) for one in found]
    joint = {colour: (min(one[colour][0] for one in each), max(one[colour][1] for one in each)) for colour in each[0]}
    pictures = [
        composite(one, *colours, limits=joint if look.over == "series" else own, gamma=look.gamma, palette=palette)
        for one, own in zip(found, each, strict=True)
    ]
    return maps.draw_composites(pictures, list(states), legend=maps.legend_of(scheme, palette))


def _patterns(states: States, draw) -> Figure:
    """Patterns of all states on the q of the first."""
    found = [material.patterns.isel(frame=0, drop=True) for material in states.values()]
    low, high = (max(float(p["q"][0]) for p in found), min(float(p["q"][-1]) for p in found))
    if low >= high:
        raise NotPublishedError("the patterns of these states share no range of q")
    shared = found[0].sel(q=slice(low, high))
    patterns = xr.concat([one.interp(q=shared["q"]) for one in found], "state").assign_attrs(found[0].attrs)
    windows = {phase: limits for material in states.values() for phase, limits in material.ranges.items()}
    return draw(patterns, list(states), windows)
