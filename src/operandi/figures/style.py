"""What all figures share: size, type, colour maps, units, scale bars, and the line that says what made them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ParamSpec

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

ONE_COLUMN_MM, TWO_COLUMNS_MM, MM_PER_INCH = 85.0, 176.0, 25.4
"""Widths of a figure in a journal of two columns."""
INTENSITY, AMOUNT, CHANGE = "inferno", "viridis", "RdBu_r"
"""Colour maps of intensities, of other quantities, and of those with a sign: even steps, and told apart however colours are seen."""
NOT_MEASURED, FAINT = "0.82", "0.4"
STYLE: Any = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same figure on every machine
    "font.size": 7.5,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7.5,
    "axes.linewidth": 0.6,
    "axes.titlepad": 3.0,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.fontsize": 7.0,
    "legend.frameon": False,
    "lines.linewidth": 0.9,
    "savefig.dpi": 300,
    "savefig.facecolor": "white",
    "pdf.fonttype": 42,  # embeds TrueType, which editors can select and search
    "image.interpolation": "none",
}
SIGNIFICANT = 5.0
"""A colour bar reaches this many standard deviations at least, so that noise does not look like a phase."""
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_FOOT_PT, _CHARACTER_MM = 5.0, 1.15
_BAR_STEPS = (1.0, 2.0, 5.0)

P = ParamSpec("P")


@dataclass(frozen=True, slots=True)
class Source:
    """What a figure was made of, and how to make it again.

    ``results`` are keys, each perhaps after the name of its state; ``version`` is that of operandi which draws.
    """

    name: str
    results: tuple[str, ...]
    frames: str = ""
    version: str = ""
    command: str = ""
    caption: str = ""

    def lines(self, width: int = 1000) -> str:
        """What stands below a figure: a line for each result where there are several, broken where one is longer than ``width``."""
        made = [part for part in (self.frames, self.name, f"operandi {self.version}".strip()) if part]
        lines = [[*self.results, *made]] if len(self.results) == 1 else [*([one] for one in self.results), made]
        broken: list[str] = []
        for parts in lines:
            broken.append(parts[0])
            for part in parts[1:]:
                joined = f"{broken[-1]} · {part}"
                broken[-1:] = [joined] if len(joined) <= width else [broken[-1], part]
        return "\n".join(broken)


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """A function that draws in the style of all figures."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with mpl.rc_context(STYLE):
            return draw(*args, **kwargs)

    return drawn


def sheet(width_mm: float, height_mm: float, *, layout: str = "constrained") -> Figure:
    """An empty figure of this size."""
    figure = Figure(figsize=(width_mm / MM_PER_INCH, height_mm / MM_PER_INCH), layout=layout)  # pyright: ignore[reportArgumentType]
    engine: Any = figure.get_layout_engine()
    engine.set(w_pad=1.2 / MM_PER_INCH, h_pad=1.2 / MM_PER_INCH)
    return figure


def stamp(figure: Figure, source: Source) -> Figure:
    """The same figure with the line of its source at its foot."""
    with mpl.rc_context(STYLE):
        characters = int(figure.get_figwidth() * MM_PER_INCH / _CHARACTER_MM)
        figure.supxlabel(source.lines(characters), fontsize=_FOOT_PT, color=FAINT, linespacing=1.3)
    return figure


def metadata(source: Source, form: str) -> dict[str, str | None]:
    """What to write into a file of this form, ``png`` or ``pdf``: the same each time, so without a date."""
    maker, results = f"operandi {source.version}".strip(), "; ".join(source.results)
    if form == "pdf":
        return {
            "Title": source.name,
            "Subject": f"{source.caption} Made again by: {source.command}",
            "Keywords": results,
            "Creator": maker,
            "CreationDate": None,
        }
    return {"Title": source.name, "Description": source.caption, "Source": results, "Software": maker, "Comment": source.command}


def unit_text(units: str) -> str:
    """Units as they are printed: ``counts/mm 1/angstrom`` becomes ``counts mm⁻¹ Å⁻¹``; empty for ``1``."""
    factors = []
    for part in units.split():
        first, *divisors = part.split("/")
        factors += [first] * (first != "1") + [_inverse(divisor) for divisor in divisors]
    return " ".join(factors).replace("angstrom", "Å").replace("deg", "°")


def _inverse(unit: str) -> str:
    symbol = unit.rstrip("0123456789")
    return symbol + f"-{unit[len(symbol) :] or 1}".translate(_SUPERSCRIPTS)


def labelled(quantity: str, units: str) -> str:
    """Name of an axis with its unit in brackets, where it has one."""
    text = unit_text(units)
    return f"{quantity} ({text})" if text else quantity


def extent(picture: xr.DataArray, across: str = "x", up: str = "y") -> tuple[float, float, float, float]:
    """Left, right, bottom and top edge of a map, half a step beyond the centres of its outer points, whatever their order."""
    return (*_edges(picture[across].to_numpy()), *_edges(picture[up].to_numpy()))


def _edges(centres: np.ndarray) -> tuple[float, float]:
    low, high = float(np.min(centres)), float(np.max(centres))
    half = (high - low) / (2 * (len(centres) - 1)) if len(centres) > 1 else 0.5
    return low - half, high + half


def show_map(axes: Axes, picture: xr.DataArray, limits: tuple[float, float], cmap: str | Colormap) -> Any:
    """A map (y, x) in its true proportions, without ticks; what was not measured is grey."""
    colours = mpl.colormaps.get_cmap(cmap).with_extremes(bad=NOT_MEASURED)
    picture = picture.transpose("y", "x").sortby(["y", "x"])
    image = axes.imshow(picture.to_numpy(), origin="lower", extent=extent(picture), vmin=limits[0], vmax=limits[1], cmap=colours)
    axes.set(xticks=[], yticks=[])
    return image


def show_picture(axes: Axes, picture: xr.DataArray) -> Any:
    """A picture (y, x, rgb) in its true proportions, without ticks."""
    picture = picture.transpose("y", "x", "rgb").sortby(["y", "x"])
    image = axes.imshow(picture.to_numpy(), origin="lower", extent=extent(picture))
    axes.set(xticks=[], yticks=[])
    return image


def scale_bar(axes: Axes, *, colour: str = "white") -> float:
    """A bar of a round length, about a fifth of the width, in the lower left corner; its length in mm."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    width, height = right - left, top - bottom
    decade = 10.0 ** math.floor(math.log10(0.25 * width))
    length = max(step * decade for step in _BAR_STEPS if step * decade <= 0.25 * width)
    x, y = left + 0.05 * width, bottom + 0.05 * height
    axes.plot([x, x + length], [y, y], color=colour, linewidth=1.8, solid_capstyle="butt", scalex=False, scaley=False, gid="scale bar")
    text = f"{length:g} mm" if length >= 0.1 else f"{1000 * length:g} µm"
    axes.text(x, y + 0.025 * height, text, color=colour, fontsize=6, ha="left", va="bottom")
    return length


def range_of(maps: Sequence[xr.DataArray], sigma: Sequence[xr.DataArray] = ()) -> tuple[float, float]:
    """Limits of a colour bar: 0 (or the least percent, where that is higher) to the highest half percent, 5 median sigma at least."""
    finite = np.concatenate([m.to_numpy()[np.isfinite(m.to_numpy())] for m in maps])
    if not finite.size:
        return 0.0, 1.0
    low, high = np.percentile(finite, [1, 99.5])
    noise = [float(np.nanmedian(s)) for s in sigma if np.isfinite(s).any()]
    high = max(float(high), SIGNIFICANT * float(np.median(noise)) if noise else -np.inf)
    low = float(max(low, 0.0)) if high > 0 else float(low)
    return (low, high) if high > low else (low, low + 1.0)


def only_noise(picture: xr.DataArray, sigma: xr.DataArray) -> bool:
    """Whether less than half a percent of a map is significant."""
    known = np.isfinite(picture) & np.isfinite(sigma)
    return bool(known.any()) and float(((picture > SIGNIFICANT * sigma) & known).sum() / known.sum()) < 0.005


def span_of(maps: Sequence[xr.DataArray]) -> tuple[float, float]:
    """Limits of a colour bar of a quantity that need not begin at 0: from the lowest to the highest hundredth."""
    finite = np.concatenate([m.to_numpy()[np.isfinite(m.to_numpy())] for m in maps])
    low, high = np.percentile(finite, [1, 99]) if finite.size else (0.0, 1.0)
    return (float(low), float(high)) if high > low else (float(low) - 0.5, float(low) + 0.5)


def symmetric_range(maps: Sequence[xr.DataArray]) -> tuple[float, float]:
    """Limits of a colour bar about 0."""
    finite = np.concatenate([np.abs(m.to_numpy()[np.isfinite(m.to_numpy())]) for m in maps])
    high = float(np.percentile(finite, 99.5)) if finite.size else 1.0
    return -(high or 1.0), high or 1.0


def beyond(maps: Sequence[xr.DataArray], limits: tuple[float, float]) -> str:
    """At which ends of a colour bar values go on, as matplotlib calls it."""
    below = any(bool((one < limits[0]).any()) for one in maps)
    above = any(bool((one > limits[1]).any()) for one in maps)
    return {(True, True): "both", (True, False): "min", (False, True): "max"}.get((below, above), "neither")


def label_plainly(axis: Axis) -> None:
    """Plain numbers along a logarithmic axis, at 1, 2 and 5 of each decade."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
