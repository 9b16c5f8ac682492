"""What a frame was made of, and how well: sinograms with the rotation axis, and the resolution of every map."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from operandi.errors import NotPublishedError
from operandi.figures import style
from operandi.figures.profiles import CATEGORIES


@style.styled
def draw_sinograms(sinograms: xr.DataArray, *, axis_mm: float | None = None) -> Figure:
    """Sinograms (phase, rotation, translation), deg and mm, one panel a phase, lines in the order of their angles, with the axis.

    Each has a scale of its own; lines lie as far apart as their angles, up to the next one.
    """
    sinograms = sinograms.sortby("rotation")
    names = [str(name) for name in sinograms["phase"].to_numpy()]
    columns = min(4, len(names))
    rows = math.ceil(len(names) / columns)
    figure = style.sheet(style.TWO_COLUMNS_MM, 46 * rows + 8)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    across, down = (_corners(sinograms[dim].to_numpy()) for dim in ("translation", "rotation"))
    for number, (axes, name) in enumerate(zip(grid, names, strict=False)):
        part = sinograms.isel(phase=number)
        low, high = style.range_of([part])
        axes.pcolormesh(across, down, part.transpose("rotation", "translation"), cmap=style.INTENSITY, vmin=low, vmax=high, rasterized=True)
        if axis_mm is not None:
            axes.axvline(axis_mm, color="white", linewidth=0.6, linestyle="--")
        axes.set_title(name)
        axes.invert_yaxis() if number == 0 else None
    for axes in grid[len(names) :]:
        axes.remove()
    for number in range(len(names)):
        if number % columns == 0:
            grid[number].set_ylabel("Rotation (°)")
        if number + columns >= len(names):
            grid[number].set_xlabel("Translation (mm)")
            grid[number].tick_params(labelbottom=True)
    return figure


def _corners(centres: np.ndarray) -> np.ndarray:
    """Edges between positions that increase or fall, evenly spaced or not; equal ones get no room."""
    middle = (centres[1:] + centres[:-1]) / 2
    if not len(middle):
        return np.array([centres[0] - 0.5, centres[0] + 0.5])
    return np.concatenate([[2 * centres[0] - middle[0]], middle, [2 * centres[-1] - middle[-1]]])


@style.styled
def draw_resolution(convergence: pd.DataFrame, tags: dict[int, str]) -> Figure:
    """The resolution of every phase in every finished frame, and what the number of angles allows.

    Parameters
    ----------
    convergence : `Result.convergence`.
    tags : what is written below each frame.

    Raises
    ------
    NotPublishedError
        No resolution is known; the reason is that of the table, where it gives one.
    """
    convergence = convergence.set_index("frame").loc[lambda table: table.index.isin(list(tags))].reset_index()
    known = convergence[np.isfinite(convergence["resolution_mm"])]
    if known.empty:
        reasons = ", ".join(sorted({str(reason) for reason in convergence["reason"] if reason})) if len(convergence) else ""
        raise NotPublishedError(f"the resolution of no map is known{': ' + reasons if reasons else ''}")
    figure = style.sheet(style.ONE_COLUMN_MM * 1.4, 70)
    axes = figure.subplots()
    for number, (phase, rows) in enumerate(convergence.groupby("phase", sort=False)):
        marker = "os^vDPX*"[number // len(CATEGORIES) % 8]
        look = {"linestyle": "-", "markersize": 3, "color": CATEGORIES[number % len(CATEGORIES)]}
        axes.plot(rows["frame"], 1000 * rows["resolution_mm"], marker, label=phase, **look)
    allowed = convergence.groupby("frame")["angular_mm"].first()
    alone = {"marker": "_", "markersize": 14} if len(allowed) == 1 else {}
    axes.plot(allowed.index, 1000 * allowed, color="0.5", linestyle="--", label="allowed by the angles", **alone)
    frames = sorted(tags)
    axes.set_xticks(frames, [tags[frame] for frame in frames], rotation=45, ha="right", rotation_mode="anchor")
    axes.set(ylabel="Resolution (µm)", yscale="log")  # of a phase that goes it grows without end
    style.label_plainly(axes.yaxis)
    figure.legend(loc="outside right upper", handlelength=1.6)
    return figure
