"""One picture of a whole series: the composites of every frame above the curve of voltage and charge."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

HOURS = 3600.0
PICTURE_IN, CURVE_IN = 1.7, 3.2
COLOURS = ("red", "green", "blue")


def draw_montage(result: Any, *, names: tuple[str, ...] | None = None) -> Figure:
    """Composites (rows) of each frame (columns) with its charge, over voltage and charge against time.

    ``result`` is a client's result (:class:`operandi.client.Result`); ``names`` picks composites, all by default.
    """
    steps, pictures = result.steps, result.composites
    names = names or tuple(str(name) for name in pictures["composite"].values)
    legends = {c["name"]: c for c in result.metadata["experiment"]["composites"]}
    figure: Any = Figure(figsize=(PICTURE_IN * len(steps) + 1.8, PICTURE_IN * len(names) + CURVE_IN + 0.6), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[PICTURE_IN * len(names) + 0.3, CURVE_IN])
    axes = above.subplots(len(names), len(steps), squeeze=False)
    for row, name in zip(axes, names, strict=True):
        for ax, step in zip(row, steps.itertuples(), strict=True):
            _draw_picture(ax, pictures.sel(composite=name).isel(frame=step.frame))
        row[0].set_ylabel(name, fontsize=12)
        row[-1].legend(handles=_legend(legends[name]), loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=8, frameon=False)
    for ax, step in zip(axes[0], steps.itertuples(), strict=True):
        ax.set_title(f"{step.q_mah:.2f} mAh", fontsize=11)
    _draw_scale_bar(axes[-1][0])
    _draw_curve(below.subplots(), result.echem, steps)
    figure.suptitle(result.key, fontsize=9, color="0.4")
    return figure


def _draw_picture(ax: Any, picture: Any) -> None:
    x, y = picture["x"].values, picture["y"].values
    half = (x[1] - x[0]) / 2
    ax.imshow(picture.values, origin="lower", extent=(x[0] - half, x[-1] + half, y[0] - half, y[-1] + half), interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])


def _draw_scale_bar(ax: Any, length_mm: float = 2.0) -> None:
    low, high = ax.get_xlim()
    bottom, top = ax.get_ylim()
    x, y = low + 0.06 * (high - low), bottom + 0.06 * (top - bottom)
    ax.plot([x, x + length_mm], [y, y], color="white", linewidth=2.5, solid_capstyle="butt")
    ax.text(x + length_mm / 2, y + 0.03 * (top - bottom), f"{length_mm:g} mm", color="white", fontsize=7, ha="center", va="bottom")


def _legend(composite: dict[str, Any]) -> list[Patch]:
    shown = {"red": "red", "green": "lime", "blue": "blue"}
    return [Patch(color=shown[c], label=" + ".join(composite[c])) for c in COLOURS if composite[c]]


def _draw_curve(ax: Any, echem: Any, steps: Any) -> None:
    if echem.empty:
        ax.text(0.5, 0.5, "the charge is unknown: no potentiostat log covers the run", ha="center", va="center", transform=ax.transAxes)
        return
    start = steps["t_start"].min()
    hours = (echem["time"] - start) / HOURS
    ax.plot(hours, echem["voltage"], color="tab:blue")
    ax.set_xlabel("time since the first projection, h")
    ax.set_ylabel("cell voltage, V", color="tab:blue")
    charge = ax.twinx()
    charge.plot(hours, echem["charge"], color="tab:red")
    charge.set_ylabel("charge passed, mAh", color="tab:red")
    known = np.isfinite(steps["q_mah"])
    middle = ((steps["t_start"] + steps["t_end"]) / 2 - start) / HOURS
    charge.plot(middle[known], steps["q_mah"][known], "o", color="tab:red", markersize=5)
    for number, (x, tag) in enumerate(zip(middle[known], steps["q_mah"][known], strict=True), start=1):
        charge.annotate(str(number), (x, tag), textcoords="offset points", xytext=(0, 6), ha="center", fontsize=8)
