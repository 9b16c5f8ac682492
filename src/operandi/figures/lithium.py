"""Lithium against charge, and what falls into the windows that tell it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from operandi.errors import NotPublishedError
from operandi.figures import style
from operandi.figures.profiles import CATEGORIES

_LEAST_SHARE = 1e-3


@style.styled
def draw_contents(charge_mah: np.ndarray, contents: Mapping[str, xr.Dataset]) -> Figure:
    """Lithium of each electrode against charge, with standard errors.

    Parameters
    ----------
    charge_mah : (frame,) mAh; frames whose charge is NaN are left out.
    contents : electrode → `lithium` and `sigma` (frame,): for six carbons of graphite, for a formula unit of oxide.

    Raises
    ------
    NotPublishedError
        No charge is known.
    """
    known = np.isfinite(charge_mah)
    if not known.any():
        raise NotPublishedError("the charge is unknown, so that nothing can be drawn against it")
    figure = style.sheet(style.ONE_COLUMN_MM * 1.2, 68)
    axes = figure.subplots()
    for colour, (name, found) in zip(CATEGORIES, contents.items(), strict=False):
        look = {"fmt": "o-", "color": colour, "markersize": 3, "capsize": 2, "linewidth": 0.9}
        axes.errorbar(charge_mah[known], found["lithium"].to_numpy()[known], found["sigma"].to_numpy()[known], label=name, **look)
    axes.set(xlabel="Charge (mAh)", ylabel="x in $\\mathrm{Li}_x\\mathrm{C}_6$ and $\\mathrm{Li}_x$NMC", ylim=(-0.05, 1.1))
    axes.legend()
    return figure


@style.styled
def draw_balance(table: pd.DataFrame) -> Figure:
    """Lithium lost by the oxide and gained by the graphite against the charge passed, and what is in neither, with standard errors.

    Parameters
    ----------
    table : `Result.lithium`.

    Raises
    ------
    NotPublishedError
        The balance is not known; the reason is that of the table.
    """
    known = table[np.isfinite(table["passed_mah"]) & np.isfinite(table["residual_mah"])]
    if known.empty:
        reasons = "; ".join(dict.fromkeys(str(reason) for reason in table["reason"] if reason))
        raise NotPublishedError(f"the balance of lithium is not known{': ' + reasons if reasons else ''}")
    figure = style.sheet(style.ONE_COLUMN_MM * 1.3, 95)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    look = {"fmt": "o-", "markersize": 3, "capsize": 2, "linewidth": 0.9}
    parts = {"left the oxide": (upper, "oxide"), "in the graphite": (upper, "graphite"),
             "oxide less graphite": (lower, "residual"), "charge less graphite": (lower, "unseen")}  # fmt: skip
    for colour, (label, (axes, name)) in zip(CATEGORIES, parts.items(), strict=False):
        axes.errorbar(known["passed_mah"], known[f"{name}_mah"], known[f"{name}_sigma_mah"], label=label, color=colour, **look)
    upper.axline((0, 0), slope=1, color=style.FAINT, linewidth=0.6, linestyle="--", label="charge")
    lower.axhline(0, color=style.FAINT, linewidth=0.6)
    upper.set(ylabel="Lithium (mAh)")
    lower.set(xlabel="Charge since the first frame (mAh)", ylabel="In neither (mAh)")
    for axes in (upper, lower):
        axes.legend()
    return figure


@style.styled
def draw_overlaps(share: xr.DataArray) -> Figure:
    """What each crystal puts into each map (phase, crystal), relative to the crystal that the map is meant for; empty below 0.1 %."""
    share = share.transpose("phase", "crystal").dropna("phase", how="all").dropna("crystal", how="all")
    if not share.size:
        raise NotPublishedError("no window is meant for a crystal that is known, so that nothing tells what else falls into them")
    values = np.where(share.to_numpy() > _LEAST_SHARE, share.to_numpy(), np.nan)
    figure = style.sheet(style.TWO_COLUMNS_MM, 30 + 7 * share.sizes["phase"])
    axes = figure.subplots()
    shown = axes.imshow(values, norm=LogNorm(_LEAST_SHARE, 10), cmap="cividis_r", aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            colour = "white" if value > 0.15 else "black"
            axes.text(column, row, f"{value:.2g}", ha="center", va="center", fontsize=6, color=colour)
    axes.set_xticks(range(share.sizes["crystal"]), [str(name) for name in share["crystal"].to_numpy()], rotation=40, ha="right")
    axes.set_yticks(range(share.sizes["phase"]), [str(name) for name in share["phase"].to_numpy()])
    axes.set(xlabel="Crystal", ylabel="Map")
    figure.colorbar(shown, ax=axes, label="Share of equal volumes", aspect=25, pad=0.02, fraction=0.04, extend="min")
    return figure
