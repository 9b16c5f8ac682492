"""Unrolled electrodes: depth against arc length, both in mm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from operandi.errors import ShapeError
from operandi.figures import style
from operandi.figures.maps import add_legend, mark_sigma

_MOST_MM, _LEAST_MM, _LEAST_ALONE_MM = 34.0, 11.0, 24.0


@style.styled
def draw_unrolled(
    pictures: Sequence[xr.DataArray],
    titles: Sequence[str],
    *,
    label: str = "",
    legend: Sequence[tuple[Any, str]] = (),
    limits: tuple[float, float] | None = None,
    sigma_level: float | None = None,
    cmap: str = style.INTENSITY,
) -> Figure:
    """Unrolled maps (depth, arc) on one scale with a colour bar, or pictures (depth, arc, rgb) with a legend, one below the other.

    Depth grows outwards. Where lengths allow, both axes have one scale, else depth is stretched, which its label tells. Maps that have the
    coordinate `angle` (arc), degrees, are drawn over that: around the centre no other length is true.

    Parameters
    ----------
    label : of the colour bar, with its unit.
    legend : (colour, name) of a picture's colours.
    sigma_level : drawn as an error bar beside the colour bar.
    """
    if not pictures or len(pictures) != len(titles):
        raise ShapeError(f"{len(pictures)} maps and {len(titles)} titles: give at least one map, and a title for each")
    left, right, low, high = style.extent(pictures[0], "arc", "depth")
    around = _around(pictures[0])
    width = style.TWO_COLUMNS_MM - (12 if legend else 26)
    true = width * abs(high - low) / max(abs(right - left), 1e-12) if not around else _MOST_MM
    panel = min(max(true, _LEAST_MM if len(pictures) > 1 else _LEAST_ALONE_MM), _MOST_MM)
    figure = style.sheet(style.TWO_COLUMNS_MM, len(pictures) * (panel + 5.5) + 15 + (6 if legend else 0))
    grid = figure.subplots(len(pictures), 1, squeeze=False, sharex=True).ravel()
    limits = limits or style.range_of([one for one in pictures if "rgb" not in one.dims] or [xr.DataArray([0.0])])
    stretched = panel / true if not around and not 0.98 < panel / true < 1.02 else None
    shown = None
    for axes, picture, title in zip(grid, pictures, titles, strict=True):
        axes.set_facecolor(style.NOT_MEASURED)  # of states the lengths differ
        shown = _show(axes, picture, limits, cmap)
        axes.set_title(title)
    depth = "From the centre (mm)" if around else "Depth (mm)"
    if stretched is not None:
        apart = " " if len(pictures) > 1 else "\n"
        depth = f"{depth},{apart}{stretched:.2g} × as long"
    figure.supylabel(depth, fontsize=7.5, multialignment="center")
    grid[-1].set_xlabel("Angle (°)" if around else "Arc length (mm)")
    if legend:
        add_legend(figure, legend)
    elif shown is not None:
        look = {"label": label.replace(" (", "\n("), "aspect": 25, "fraction": 0.03, "pad": 0.015}
        bar = figure.colorbar(shown, ax=list(grid), extend=style.beyond(pictures, limits), **look)
        if sigma_level is not None:
            mark_sigma(bar, sigma_level)
    return figure


def _around(picture: xr.DataArray) -> bool:
    """Whether the map was unrolled around a centre."""
    return "angle" in picture.coords


def _across(picture: xr.DataArray) -> tuple[float, float]:
    """The edges of the horizontal axis."""
    return style.extent(picture.assign_coords(arc=picture["angle"].to_numpy()) if _around(picture) else picture, "arc", "depth")[:2]


def _show(axes: Axes, picture: xr.DataArray, limits: tuple[float, float], cmap: str) -> Any:
    (left, right), (low, high) = _across(picture), style.extent(picture, "arc", "depth")[2:]
    kept = picture.transpose("depth", "arc", ...).sortby(["depth", "arc"]).to_numpy()
    options: dict[str, Any] = {"origin": "lower", "extent": (left, right, low, high), "aspect": "auto"}
    if picture.ndim == 3:
        return axes.imshow(kept, **options)
    colours = mpl.colormaps[cmap].with_extremes(bad=style.NOT_MEASURED)
    return axes.imshow(kept, cmap=colours, vmin=limits[0], vmax=limits[1], **options)


@style.styled
def draw_winding(layers: xr.DataArray, curve: xr.Dataset) -> Figure:
    """A map (y, x) that shows the layers with the middle of the winding on it, each turn numbered.

    ``curve`` (arc): `x`, `y` mm and `turn`, as `Winding.curve` of `operandi.follow_winding` gives it.
    """
    figure = style.sheet(style.ONE_COLUMN_MM, style.ONE_COLUMN_MM + 6)
    axes = figure.subplots()
    style.show_map(axes, layers, style.range_of([layers]), "gray")
    axes.plot(curve["x"], curve["y"], color="#e69f00", linewidth=0.8, scalex=False, scaley=False)
    turn = curve["turn"].to_numpy()
    for number in range(math.ceil(turn[0]), math.floor(turn[-1]) + 1):
        at = int(np.abs(turn - number).argmin())
        look: dict[str, Any] = {"color": "#56b4e9", "fontsize": 8, "ha": "center", "va": "center"}
        outlined = axes.annotate(f"{number}", (float(curve["x"][at]), float(curve["y"][at])), **look)
        outlined.set_path_effects([withStroke(linewidth=2, foreground="black")])
    style.scale_bar(axes)
    return figure
