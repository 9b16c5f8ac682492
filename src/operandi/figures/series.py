"""One picture of a whole series: the composites of every frame above voltage and charge, with the frames marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from operandi.figures import style
from operandi.figures.echem import draw_cell_state
from operandi.figures.maps import add_legend

_CURVE_MM, _LEGEND_MM, _FOOT_MM, _MOST_COLUMNS = 42.0, 7.0, 9.0, 12


@style.styled
def draw_overview(
    composites: Mapping[str, xr.DataArray],
    titles: Sequence[str],
    *,
    legends: Mapping[str, Sequence[tuple[Any, str]]],
    echem: pd.DataFrame,
    steps: pd.DataFrame,
) -> Figure:
    """Composites (rows) of each frame (columns) under its title, over voltage and charge against time.

    Parameters
    ----------
    composites : name → (frame, y, x, rgb). A series of more than a dozen frames is thinned evenly.
    legends : name → (colour, phase).
    echem, steps : tables of a result, `Result.echem` and `Result.steps`; an empty log is said in words.
    """
    frames = next(iter(composites.values())).sizes["frame"]
    chosen = np.unique(np.linspace(0, frames - 1, min(frames, _MOST_COLUMNS)).round().astype(int)).tolist()
    left, right, bottom, top = style.extent(next(iter(composites.values())))
    panel = (style.TWO_COLUMNS_MM - 8) / max(len(chosen), 3) - 1.5
    rows_mm = len(composites) * (panel * (top - bottom) / (right - left) + 2.0) + 5.0
    figure = style.sheet(style.TWO_COLUMNS_MM, rows_mm + _CURVE_MM + _LEGEND_MM + _FOOT_MM)
    grid = figure.add_gridspec(2, 1, height_ratios=[rows_mm, _CURVE_MM])
    above = grid[0].subgridspec(len(composites), len(chosen))
    for row, (name, pictures) in enumerate(composites.items()):
        for column, frame in enumerate(chosen):
            panel_axes = figure.add_subplot(above[row, column])
            style.show_picture(panel_axes, pictures.isel(frame=frame))
            if row == 0:
                panel_axes.set_title(str(titles[frame]), fontsize=6.5)
            if column == 0:
                panel_axes.set_ylabel(name)
    style.scale_bar(figure.axes[0])
    add_legend(figure, _joined([legends[name] for name in composites]))
    panel_axes = figure.add_subplot(grid[1])
    draw_cell_state(panel_axes, echem, steps)
    return figure


def _joined(legends: Sequence[Sequence[tuple[Any, str]]]) -> list[tuple[Any, str]]:
    """One legend of several: each colour with all that it shows, in the order of the legends."""
    shown: dict[Any, list[str]] = {}
    for colour, name in (entry for legend in legends for entry in legend):
        shown.setdefault(tuple(colour), []).append(name)
    return [(colour, " / ".join(dict.fromkeys(names))) for colour, names in shown.items()]
