"""Patterns: of frames and states with the windows shaded, and of regions at small angles with the power law and where it is left."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from operandi.errors import ShapeError
from operandi.figures import style

Windows = Mapping[str, tuple[float, float]]

CATEGORIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")
"""Colours of states and regions (Okabe and Ito): told apart however colours are seen."""
_SHADE = "#f0e9d8"
_SMALL_ANGLES = 0.05
"""Patterns that begin below this (Å⁻¹) fall by powers of ten: their axes are logarithmic."""


@style.styled
def draw_mean_patterns(patterns: xr.DataArray, titles: Sequence[str], windows: Windows, *, charge_mah: np.ndarray | None = None) -> Figure:
    """Patterns (pattern, q) over the whole range of q, the windows shaded and named.

    Parameters
    ----------
    titles : of each pattern, for the legend.
    windows : phase → (q_min, q_max), Å⁻¹; those beyond the patterns are left out.
    charge_mah : (pattern,) colours the patterns by charge, with a colour bar in place of the legend.
    """
    q, windows = patterns["q"].to_numpy(), _within(windows, patterns)
    figure = style.sheet(style.TWO_COLUMNS_MM, 95)
    axes = figure.subplots()
    _shade(axes, windows, named=True)
    _draw_lines(figure, [axes], patterns, titles, charge_mah)
    axes.set(xlim=(q[0], q[-1]), xlabel="q (Å⁻¹)", ylabel=_intensity(patterns))
    if _falls(q):
        make_logarithmic(axes)
    else:
        axes.set_ylim(bottom=min(0.0, float(patterns.min())))
    return figure


@style.styled
def draw_windows(patterns: xr.DataArray, titles: Sequence[str], windows: Windows, *, charge_mah: np.ndarray | None = None) -> Figure:
    """Patterns (pattern, q) about each window, one panel each, on scales of their own: how a peak moves, and what stands beside it.

    Parameters are those of `draw_mean_patterns`.
    """
    windows = _within(windows, patterns)
    columns = min(4, len(windows))
    rows = math.ceil(len(windows) / columns)
    figure = style.sheet(style.TWO_COLUMNS_MM, 34 * rows + (34 if rows == 1 else 18))
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, (phase, (low, high)) in zip(grid, windows.items(), strict=False):
        margin = 1.5 * (high - low)
        first, last = max(low - margin, float(patterns["q"][0])), min(high + margin, float(patterns["q"][-1]))
        near = patterns.sel(q=slice(first, last))
        _shade(panel, {phase: (low, high)})
        panel.set_title(phase)
        _plot(panel, near, titles, charge_mah)
        panel.set_xlim(first, last)
        if _falls(near["q"].to_numpy()):
            make_logarithmic(panel)
        else:
            panel.locator_params(nbins=4)
    for unused in grid[len(windows) :]:
        unused.remove()
    _draw_key(figure, list(grid[: len(windows)]), titles, charge_mah)
    figure.supylabel(_intensity(patterns), fontsize=7.5)
    for lowest in range(columns):
        grid[max(n for n in range(lowest, len(windows), columns))].set_xlabel("q (Å⁻¹)")
    return figure


def _falls(q: np.ndarray) -> bool:
    return bool(0 < q[0] < _SMALL_ANGLES)


def make_logarithmic(axes: Axes) -> None:
    """Both axes, with plain numbers along q."""
    axes.set(xscale="log", yscale="log")
    style.label_plainly(axes.xaxis)


def _within(windows: Windows, patterns: xr.DataArray) -> Windows:
    q = patterns["q"].to_numpy()
    kept = {phase: (low, high) for phase, (low, high) in windows.items() if low >= q[0] and high <= q[-1]}
    if not kept:
        raise ShapeError(f"no window lies within the patterns, {q[0]:.3g} to {q[-1]:.3g} Å⁻¹: {', '.join(windows) or 'there is none'}")
    return dict(sorted(kept.items(), key=lambda item: item[1]))


def _intensity(patterns: xr.DataArray) -> str:
    return style.labelled("Mean intensity", str(patterns.attrs.get("units", "1")))


def _shade(axes: Axes, windows: Windows, *, named: bool = False) -> None:
    """Windows as bands; their names above the panel stand apart where the windows are close."""
    for low, high in windows.values():
        axes.axvspan(low, high, color=_SHADE, linewidth=0, zorder=0)
    if not named:
        return
    last = -np.inf
    span = 0.022 * (max(high for _, high in windows.values()) - min(low for low, _ in windows.values()))
    for phase, (low, high) in windows.items():
        at = last = max((low + high) / 2, last + span)
        arrow = {"arrowstyle": "-", "linewidth": 0.4, "color": style.FAINT, "shrinkA": 0, "shrinkB": 0}
        axes.annotate(
            phase, ((low + high) / 2, 1.0), xytext=(at, 1.06), xycoords=axes.get_xaxis_transform(), textcoords=axes.get_xaxis_transform(),
            rotation=90, fontsize=6, ha="center", va="bottom", arrowprops=arrow, annotation_clip=False,
        )  # fmt: skip


def _draw_lines(figure: Figure, panels: list[Axes], patterns: xr.DataArray, titles: Sequence[str], charge_mah: np.ndarray | None) -> None:
    for panel in panels:
        _plot(panel, patterns, titles, charge_mah)
    _draw_key(figure, panels, titles, charge_mah)


def _plot(axes: Axes, patterns: xr.DataArray, titles: Sequence[str], charge_mah: np.ndarray | None) -> None:
    for row, title, colour in zip(patterns.to_numpy(), titles, _colours(len(titles), charge_mah), strict=True):
        axes.plot(patterns["q"], row, color=colour, linewidth=0.7, label=title)


def _known(charge_mah: np.ndarray | None) -> np.ndarray | None:
    """The charges, if they can colour anything."""
    return charge_mah if charge_mah is not None and len(charge_mah) > 1 and np.isfinite(charge_mah).all() else None


def _colours(count: int, charge_mah: np.ndarray | None) -> list[Any]:
    charges = _known(charge_mah)
    if charges is None:
        return [CATEGORIES[n % len(CATEGORIES)] for n in range(count)]
    return list(mpl.colormaps[style.AMOUNT](Normalize(charges.min(), charges.max())(charges)))


def _draw_key(figure: Figure, panels: list[Axes], titles: Sequence[str], charge_mah: np.ndarray | None) -> None:
    """A colour bar of charge, or a legend."""
    charges = _known(charge_mah)
    if charges is not None:
        mappable = ScalarMappable(Normalize(charges.min(), charges.max()), style.AMOUNT)
        figure.colorbar(mappable, ax=panels, label="Charge (mAh)", aspect=30, pad=0.02, fraction=0.03)
    elif len(titles) > 1:
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside right upper", handlelength=1.2)
