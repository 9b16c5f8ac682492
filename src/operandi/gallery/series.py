"""The figures of one result: a series of frames, or a single one."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import xarray as xr
from matplotlib.figure import Figure

from operandi.errors import NotPublishedError
from operandi.figures import echem, maps, measurements, profiles, scans, series, style
from operandi.gallery import electrodes, lithium, small_angles
from operandi.gallery.items import Item, Look, Scheme
from operandi.gallery.material import Material
from operandi.stages.composites import PaletteName, composite, composite_limits


def items_of(material: Material, look: Look) -> Iterator[Item]:
    """Every figure of a result, the most telling first."""
    if "experiment" not in material.metadata:
        yield Item("tomogram", f"{material.sample}: the sinogram and the slice made of it.", partial(_tomogram, material), material.frames)
        return
    yield Item("overview", _overview_caption(material), partial(overview, material, look), material.frames)
    yield Item(
        "electrochemistry",
        f"Voltage, current and charge of {material.sample} while it was measured; above, what each frame spans, and on the charge its tag.",
        lambda: echem.draw_cycling(material.echem, material.steps),
        material.frames,
    )
    yield from _composites(material, look)
    yield from _maps(material)
    yield from _patterns(material)
    yield from electrodes.items_of(material, look)
    yield from small_angles.items_of(material)
    yield from lithium.items_of(material)
    yield from _frames(material, look)
    yield from _times(material)


def overview(material: Material, look: Look) -> Figure:
    """The composites of every frame over voltage and charge, in the first of the palettes."""
    palette = look.palettes[0]
    schemes = material.schemes | dict(look.schemes)
    if not schemes:
        raise NotPublishedError(f"result {material.key} has no composite: name one with --composite, or in the experiment file")
    pictures = {name: _coloured(material.maps, scheme, look, palette) for name, scheme in schemes.items()}
    legends = {name: maps.legend_of(scheme, palette) for name, scheme in schemes.items()}
    return series.draw_overview(pictures, material.tags, legends=legends, echem=material.echem, steps=material.steps)


def _overview_caption(material: Material) -> str:
    return f"{material.sample}: composites of each frame under its charge, and the cell's voltage and charge, with the tag of each frame."


def _composites(material: Material, look: Look) -> Iterator[Item]:
    for name, scheme in (material.schemes | dict(look.schemes)).items():
        shown = "; ".join(f"{colour} {' + '.join(phases)}" for colour, phases in scheme.items() if phases)
        scaled = "one scale over the series" if look.over == "series" else "a scale for each frame"
        for palette in look.palettes:
            end, told = ("", shown) if palette == "paper" else ("-safe", "in colours that everybody tells apart: see the legend")
            caption = f"{material.sample}: the {name} in false colour ({told}), {scaled}."
            yield Item(f"composite-{name}{end}", caption, partial(_composite, material, scheme, look, palette), material.frames)
            caption = f"{material.sample}: the {name} of the series in false colour ({told}), each frame at one moment, {scaled}."
            draw = partial(_composite, material, scheme, look, palette, at_instants=True)
            yield Item(f"composite-{name}{end}-instants", caption, draw, material.frames)


def _composite(material: Material, scheme: Scheme, look: Look, palette: PaletteName, *, at_instants: bool = False) -> Figure:
    taken = material.instants if at_instants else material.maps
    pictures = _coloured(taken, scheme, look, palette)
    return maps.draw_composites(list(pictures), material.tags[: pictures.sizes["frame"]], legend=maps.legend_of(scheme, palette))


def _coloured(taken: xr.Dataset, scheme: Scheme, look: Look, palette: PaletteName) -> xr.DataArray:
    colours = (scheme.get("red", ()), scheme.get("green", ()), scheme.get("blue", ()))
    return composite(taken, *colours, percentiles=look.percentiles, gamma=look.gamma, over=look.over, palette=palette)


def _maps(material: Material) -> Iterator[Item]:
    for window in material.windows:
        low, high = window.q_min_inv_angstrom, window.q_max_inv_angstrom
        caption = (
            f"{material.sample}: {window.phase}, the intensity of every voxel's pattern from q = {low:g} to {high:g} Å⁻¹ "
            f"({window.background} background), under the charge of each frame. One scale; beside it the median standard deviation."
        )
        yield Item(f"map-{window.phase}", caption, partial(_map, material, window.phase), material.frames)


def _map(material: Material, phase: str) -> Figure:
    intensity, sigma = (list(material.maps[name].sel(phase=phase)) for name in ("intensity", "sigma"))
    label = style.labelled(f"{phase}, intensity", str(material.maps["intensity"].attrs.get("units", "1")))
    return maps.draw_maps(intensity, material.tags, label=label, sigma=sigma)


def _patterns(material: Material) -> Iterator[Item]:
    caption = f"{material.sample}: the mean pattern of the slice in each frame, with the q windows of the maps shaded."
    for name, draw in (("patterns", profiles.draw_mean_patterns), ("windows", profiles.draw_windows)):
        caption = caption if name == "patterns" else f"{material.sample}: the mean pattern about each q window, which is shaded."
        yield Item(name, caption, partial(_draw_patterns, material, draw), material.frames)


def _draw_patterns(material: Material, draw) -> Figure:
    return draw(material.patterns, material.tags, material.ranges, charge_mah=material.charge_mah)


def _frames(material: Material, look: Look) -> Iterator[Item]:
    for row, number in enumerate(material.numbers):
        where, title = f"frame {number}", f"{material.sample}, frame {number} ({material.title(row)})"
        yield Item(
            f"frame-{number}-maps",
            f"{title}: all maps, each on its own scale, with the median standard deviation beside it.",
            partial(_phases, material, number),
            where,
        )
        yield Item(f"frame-{number}-sigma", f"{title}: the standard deviation of all maps.", partial(_sigmas, material, number), where)
        yield Item(f"frame-{number}-sinograms", f"{title}: the sinograms of the maps' q windows; dashed, the rotation axis.",
                   partial(_sinograms, material, number), where)  # fmt: skip
        for name, scheme in (material.schemes | dict(look.schemes)).items():
            for palette in look.palettes:
                end = "" if palette == "paper" else "-safe"
                draw = partial(_one_composite, material, scheme, look, palette, row)
                scaled = "on the scale of the series" if look.over == "series" else "on a scale of its own"
                yield Item(f"frame-{number}-composite-{name}{end}", f"{title}: the {name} in false colour, {scaled}.", draw, where)


def _phases(material: Material, number: int) -> Figure:
    frame = material.maps.sel(frame=number)
    return maps.draw_phases(frame["intensity"], sigma=frame["sigma"], quantity="Intensity")


def _sigmas(material: Material, number: int) -> Figure:
    return maps.draw_phases(material.maps["sigma"].sel(frame=number), quantity="Standard deviation of the intensity", cmap=style.AMOUNT)


def _sinograms(material: Material, number: int) -> Figure:
    sinograms = material.sinograms(number)
    return scans.draw_sinograms(sinograms, axis_mm=sinograms.attrs.get("axis_mm"))


def _one_composite(material: Material, scheme: Scheme, look: Look, palette: PaletteName, row: int) -> Figure:
    taken = material.maps if look.over == "series" else material.maps.isel(frame=[row])
    colours = (scheme.get("red", ()), scheme.get("green", ()), scheme.get("blue", ()))
    limits = composite_limits(taken, *colours, percentiles=look.percentiles)
    picture = composite(material.maps.isel(frame=row), *colours, limits=limits, gamma=look.gamma, palette=palette)
    return maps.draw_composites([picture], [material.title(row)], legend=maps.legend_of(scheme, palette))


def _times(material: Material) -> Iterator[Item]:
    yield Item(
        "moment-charge",
        f"{material.sample}: the charge at which each voxel was seen, less the tag of its frame: a frame is not one moment; "
        "grey outside of the cell.",
        partial(_moments, material),
        material.frames,
    )
    yield Item(
        "resolution",
        f"{material.sample}: the resolution of each map by the correlation of its halves, and what the number of angles allows.",
        lambda: scans.draw_resolution(material.result.convergence, dict(zip(material.numbers, material.tags, strict=True))),
        material.frames,
    )


def _moments(material: Material) -> Figure:
    charge = material.moments["charge"]
    if not charge.notnull().any():
        raise NotPublishedError("the charge is unknown, so that no voxel has one")
    differences = list(charge - xr.DataArray(material.charge_mah[: charge.sizes["frame"]], dims="frame"))
    differences = [one.where(material.inside) for one in differences]
    layers = material.layers  # where there is nothing to see its moment is noise
    limits = style.symmetric_range([one.where(layers > layers.quantile(0.8)) for one in differences])
    label = "Charge less the frame's tag (mAh)"
    return maps.draw_maps(differences, material.tags, label=label, limits=limits, cmap=style.CHANGE)


def _tomogram(material: Material) -> Figure:
    number = material.numbers[0]
    sinogram, volume = material.result.sinogram(number).isel(q=0), material.volume(number)["intensity"].isel(q=0)
    axis = float(material.metadata.get("axis_mm", sinogram.attrs.get("axis_mm", 0.0)))
    return measurements.draw_tomogram(sinogram, volume, axis_mm=axis, title=material.sample)
