"""Figures of the roll unrolled: along its electrode, and around its centre as the paper shows it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

from matplotlib.figure import Figure

from operandi.figures import maps, style, unrolled
from operandi.gallery.items import Item, Look, Scheme
from operandi.gallery.material import Material
from operandi.stages.composites import PaletteName, composite, composite_limits

Rows = Mapping[str, tuple[Material, int]]
"""Title → a frame of a result."""

WAYS = {"electrode": "along the electrode, to true lengths", "angle": "around the centre, so that only depths are true"}


def items_of(material: Material, look: Look) -> Iterator[Item]:
    """The unrolled composites and maps of a series."""
    rows = dict(zip(material.tags, ((material, number) for number in material.numbers), strict=True))
    winding = f"{material.sample}: the middle of the winding, as it was followed through the roll; numbers count its turns."
    yield Item("winding", winding, partial(_winding, material), material.frames)
    yield from _unrolled(material.sample, rows, material.schemes | dict(look.schemes), look, material.frames, "")
    if any(window.phase == "silicon" for window in material.windows):
        told = f"{material.sample}: silicon at small angles, unrolled along the electrode."
        yield Item("unrolled-map-silicon", told, partial(_map, rows, "silicon"), material.frames)


def comparison(states: Mapping[str, Material], look: Look) -> Iterator[Item]:
    """The unrolled composites of states, one below the other."""
    schemes = {name: one for material in states.values() for name, one in material.schemes.items()} | dict(look.schemes)
    rows = {name: (material, material.numbers[0]) for name, material in states.items()}
    where = "; ".join(f"{name}: {material.frames}" for name, material in states.items())
    yield from _unrolled(", ".join(states), rows, schemes, look, where, "states-")
    if any(window.phase == "silicon" for material in states.values() for window in material.windows):
        told = f"Silicon at small angles, unrolled along the electrode: {', '.join(states)}."
        yield Item("states-unrolled-map-silicon", told, partial(_map, rows, "silicon"), where)


def _unrolled(told: str, rows: Rows, schemes: Mapping[str, Scheme], look: Look, where: str, prefix: str) -> Iterator[Item]:
    for name, scheme in schemes.items():
        for way, words in WAYS.items():
            for palette in look.palettes:
                end = ("" if way == "electrode" else "-around") + ("" if palette == "paper" else "-safe")
                draw = partial(_composite, rows, scheme, look, palette, way)
                yield Item(f"{prefix}unrolled-{name}{end}", f"{told}: the {name} in false colour, unrolled {words}.", draw, where)


def _winding(material: Material) -> Figure:
    return unrolled.draw_winding(material.layers, material.winding.curve())


def _composite(rows: Rows, scheme: Scheme, look: Look, palette: PaletteName, way: str) -> Figure:
    colours = (scheme.get("red", ()), scheme.get("green", ()), scheme.get("blue", ()))
    each = [composite_limits(material.maps.sel(frame=number), *colours, percentiles=look.percentiles) for material, number in rows.values()]
    joint = {colour: (min(one[colour][0] for one in each), max(one[colour][1] for one in each)) for colour in each[0]}
    pictures = []
    for (material, number), own in zip(rows.values(), each, strict=True):
        straight = material.unrolled(number, way)
        limits = joint if look.over == "series" else own
        pictures.append(composite(straight, *colours, limits=limits, gamma=look.gamma, palette=palette))
    return unrolled.draw_unrolled(pictures, list(rows), legend=maps.legend_of(scheme, palette))


def _map(rows: Rows, phase: str) -> Figure:
    pictures = [material.unrolled(number, "electrode").sel(phase=phase) for material, number in rows.values()]
    label = style.labelled(f"{phase}, intensity", str(pictures[0].attrs.get("units", "1")))
    return unrolled.draw_unrolled(pictures, list(rows), label=label)
