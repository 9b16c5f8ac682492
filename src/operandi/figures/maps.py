"""Maps and composites side by side: states of a cell, frames of a series, phases of a frame."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from operandi.errors import ShapeError
from operandi.figures import style
from operandi.stages import defects
from operandi.stages.composites import PALETTES

REGIONS = tuple(zip(("white", "#9ab8d8", "#e69f00", "#a01a58"), defects.REGIONS, strict=True))
"""Colours of regions and what they are called, by their number."""
_COLUMNS = {1: 1, 2: 2, 3: 3, 4: 2}
_BAR_MM, _FOOT_MM, _TITLE_MM, _LEGEND_MM = 17.0, 6.0, 4.5, 6.0


@style.styled
def draw_maps(
    maps: Sequence[xr.DataArray],
    titles: Sequence[str],
    *,
    label: str,
    sigma: Sequence[xr.DataArray] = (),
    limits: tuple[float, float] | None = None,
    cmap: str = style.INTENSITY,
) -> Figure:
    """Maps (y, x), mm, one panel each under its title, all on one scale with one colour bar and a scale bar.

    Parameters
    ----------
    label : of the colour bar, with its unit.
    sigma : standard deviations of the maps; the median of all stands beside the colour bar as an error bar.
    limits : of the colour bar, else those of `operandi.figures.style.range_of`.
    """
    figure, panels = _grid(maps, titles, _BAR_MM)
    limits = limits or style.range_of(maps, sigma)
    shown = [style.show_map(panel, one, limits, cmap) for panel, one in zip(panels, maps, strict=True)]
    style.scale_bar(panels[0], colour="white" if cmap == style.INTENSITY else "black")
    bar = figure.colorbar(shown[0], ax=panels, label=label, extend=style.beyond(maps, limits), aspect=30, fraction=0.05, pad=0.02)
    known = [float(np.nanmedian(s)) for s in sigma if np.isfinite(s).any()]
    if known:
        mark_sigma(bar, float(np.median(known)))
    return figure


@style.styled
def draw_phases(
    maps: xr.DataArray, *, sigma: xr.DataArray | None = None, quantity: str = "intensity", cmap: str = style.INTENSITY
) -> Figure:
    """All maps (phase, y, x) of one frame or state, each on a scale of its own with its colour bar.

    ``sigma``, of the same dims, is drawn as an error bar beside each colour bar: its median over the map.
    """
    names = [str(name) for name in maps["phase"].to_numpy()]
    parts = [maps.isel(phase=n) for n in range(len(names))]
    figure, panels = _grid(parts, names, 14.0 * _columns(len(names)))
    for number, (panel, part) in enumerate(zip(panels, parts, strict=True)):
        noise = [] if sigma is None else [sigma.isel(phase=number)]
        limits = style.range_of([part], noise)
        if noise and style.only_noise(part, noise[0]):
            panel.set_title(f"{names[number]} (none above {style.SIGNIFICANT:g}σ)")
        bar = figure.colorbar(style.show_map(panel, part, limits, cmap), ax=panel, extend=style.beyond([part], limits), aspect=22, pad=0.03)
        bar.ax.ticklabel_format(axis="y", scilimits=(-2, 4))
        if noise and np.isfinite(noise[0]).any():
            mark_sigma(bar, float(np.nanmedian(noise[0])))
    style.scale_bar(panels[0])
    figure.suptitle(style.labelled(quantity, str(maps.attrs.get("units", "1"))), fontsize=7.5)
    return figure


@style.styled
def draw_composites(pictures: Sequence[xr.DataArray], titles: Sequence[str], *, legend: Sequence[tuple[Any, str]]) -> Figure:
    """Pictures (y, x, rgb), mm, one panel each under its title, with a scale bar and a legend of (colour, name)."""
    figure, panels = _grid(pictures, titles, 0.0, _LEGEND_MM)
    for panel, picture in zip(panels, pictures, strict=True):
        style.show_picture(panel, picture)
    style.scale_bar(panels[0])
    add_legend(figure, legend)
    return figure


@style.styled
def draw_regions(regions: Sequence[xr.DataArray], titles: Sequence[str]) -> Figure:
    """Regions (y, x) of each state: 0 outside, 1 normal, 2 bend, 3 agglomerate, with a legend and a scale bar."""
    figure, panels = _grid(regions, titles, 0.0, _LEGEND_MM)
    colours = ListedColormap([colour for colour, _ in REGIONS])
    for panel, region in zip(panels, regions, strict=True):
        style.show_map(panel, region.where(region >= 0), (-0.5, len(REGIONS) - 0.5), colours)
    style.scale_bar(panels[0], colour="black")
    add_legend(figure, REGIONS[1:])
    return figure


def legend_of(scheme: Mapping[str, Sequence[str]], palette: str = "paper") -> list[tuple[Any, str]]:
    """(colour, name) for the colours of a composite: colour → phases."""
    return [(rgb, " + ".join(scheme[colour])) for colour, rgb in PALETTES[palette].items() if scheme.get(colour)]


def add_legend(figure: Figure, legend: Sequence[tuple[Any, str]]) -> None:
    """A legend of colours above the panels."""
    handles = [Patch(facecolor=colour, edgecolor="0.3", linewidth=0.4, label=name) for colour, name in legend]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), handlelength=1.2, columnspacing=1.5)


def mark_sigma(bar: Any, sigma: float) -> None:
    """An error bar of one standard deviation to both sides, at the upper end of a colour bar."""
    low, high = bar.mappable.get_clim()
    middle = high - max(sigma, 0.0) - 0.04 * (high - low)
    if low < middle - sigma:
        for colour, width in (("white", 2.2), ("black", 0.8)):
            style_of = {"color": colour, "linewidth": width, "capthick": width, "capsize": 2.3}
            bar.ax.errorbar(0.5, middle, yerr=sigma, transform=bar.ax.get_yaxis_transform(), **style_of)


def _columns(panels: int) -> int:
    return _COLUMNS.get(panels, 3 if panels <= 9 else 4)


def _grid(maps: Sequence[xr.DataArray], titles: Sequence[str], beside_mm: float, above_mm: float = 0.0) -> tuple[Figure, list[Axes]]:
    """A sheet with a panel for each map; ``beside_mm`` and ``above_mm`` leave room for colour bars and legends."""
    if not maps or len(maps) != len(titles):
        raise ShapeError(f"{len(maps)} maps and {len(titles)} titles: give at least one map, and a title for each")
    columns = _columns(len(maps))
    rows = math.ceil(len(maps) / columns)
    width = style.ONE_COLUMN_MM if columns == 1 else style.TWO_COLUMNS_MM * (0.8 if columns == 2 else 1)
    left, right, bottom, top = style.extent(maps[0])
    panel = (width - beside_mm - 2.4 * columns) / columns
    height = rows * (panel * (top - bottom) / (right - left) + _TITLE_MM + 1.0) + _FOOT_MM + above_mm
    figure = style.sheet(width, height, layout="compressed")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel_axes, title in zip(grid, titles, strict=False):
        panel_axes.set_title(title)
    for unused in grid[len(maps) :]:
        unused.remove()
    return figure, list(grid[: len(maps)])
