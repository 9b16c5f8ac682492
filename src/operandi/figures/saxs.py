"""Small angles: profiles in log-log with the power law and where they leave it, and the table of d*."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from operandi.errors import ShapeError
from operandi.figures import style
from operandi.figures.profiles import CATEGORIES, make_logarithmic

_BELOW, _ABOVE = 0.7, 1.0
"""The power law is drawn from somewhat below q* to the highest q."""


@style.styled
def draw_departures(profiles: Mapping[str, xr.Dataset], found: Mapping[str, xr.Dataset]) -> Figure:
    """Profiles of the regions of each state in log-log, one panel a state, with the power law, q* and d*.

    Parameters
    ----------
    profiles : state → Dataset (region, q): `intensity`, and perhaps `spread` (drawn as a band) or `sigma`.
    found : state → Dataset (region): `dstar` nm, `sigma` nm, `q_star` Å⁻¹, `slope` and `reason`, as `operandi.fit_dstar` gives it.
    """
    if not profiles or set(profiles) != set(found):
        raise ShapeError(
            f"profiles are of {', '.join(profiles) or 'nothing'}, d* of {', '.join(found) or 'nothing'}: give both of each state"
        )
    columns = 1 if len(profiles) == 1 else 2
    rows = math.ceil(len(profiles) / columns)
    width = style.ONE_COLUMN_MM * (1.2 if columns == 1 else 2)
    figure = style.sheet(width, 68 * rows + 6)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    regions = dict.fromkeys(str(region) for one in profiles.values() for region in one["region"].to_numpy())
    colours = {region: CATEGORIES[n % len(CATEGORIES)] for n, region in enumerate(regions)}
    for axes, (state, one) in zip(grid, profiles.items(), strict=False):
        for region in one["region"].to_numpy():
            _draw_profile(axes, one.sel(region=region), found[state].sel(region=region), colours[str(region)])
        axes.set(title=state, xlabel="q (Å⁻¹)", ylabel=_intensity(one))
        if not any(np.size(line.get_ydata()) for line in axes.lines):
            axes.text(0.5, 0.5, "no intensity above 0", ha="center", transform=axes.transAxes)
            continue
        make_logarithmic(axes)
        axes.legend(loc="best", handlelength=1.0, frameon=True, framealpha=0.85, edgecolor="none", borderpad=0.2)
    for unused in grid[len(profiles) :]:
        unused.remove()
    return figure


def _intensity(profiles: xr.Dataset) -> str:
    return style.labelled("Intensity", str(profiles["intensity"].attrs.get("units", "1")))


def _draw_profile(axes: Axes, profile: xr.Dataset, found: xr.Dataset, colour: str) -> None:
    region, q, intensity = str(profile["region"].values), profile["q"].to_numpy(), profile["intensity"].to_numpy()
    seen = np.isfinite(intensity) & (intensity > 0) & (q > 0)
    axes.plot(q[seen], intensity[seen], ".", markersize=2.2, color=colour, label=f"{region}: {dstar_text(found)}")
    band = next((name for name in ("spread", "sigma") if name in profile), None)
    if band is not None:
        value, width = intensity[seen], profile[band].to_numpy()[seen]
        axes.fill_between(q[seen], np.maximum(value - width, 0.3 * value), value + width, color=colour, alpha=0.18, linewidth=0)
    slope, q_star = float(found["slope"]), float(found["q_star"])
    if not np.isfinite(slope) or not seen.any():
        return
    decides = seen & (q >= (q_star if np.isfinite(q_star) else np.quantile(q, 0.3)))
    offset = float(np.median(np.log(intensity[decides]) - slope * np.log(q[decides])))
    line = np.geomspace(max(_BELOW * q_star, q[seen][0]) if np.isfinite(q_star) else q[seen][0], _ABOVE * q[seen][-1], 50)
    axes.plot(line, np.exp(offset + slope * np.log(line)), color=colour, linewidth=0.8, linestyle="--")
    if np.isfinite(q_star):
        axes.axvline(q_star, color=colour, linewidth=0.6, linestyle=":")


def dstar_text(found: xr.Dataset) -> str:
    """d* with its standard deviation, or none with the reason, of one profile."""
    value, sigma = float(found["dstar"]), float(found["sigma"])
    if not np.isfinite(value):
        return f"no d* ({str(found['reason'].values) or 'not measured'})"
    return f"d* = {_number(value, sigma)} nm"


@style.styled
def draw_table(table: xr.Dataset) -> Figure:
    """The table of d* in nm, states down and regions across: value ± standard deviation, or none with the reason.

    ``table`` (state, region): `dstar`, `sigma` and `reason`, as `operandi.fit_dstar` gives them.
    """
    states, regions = ([str(name) for name in table[dim].to_numpy()] for dim in ("state", "region"))
    figure = style.sheet(style.TWO_COLUMNS_MM * 0.8, 12 + 6.5 * (len(states) + 1))
    axes = figure.subplots()
    axes.axis("off")
    cells = [[_cell(table.sel(state=state, region=region)) for region in regions] for state in states]
    names = [f"{region}, nm" for region in regions]
    drawn = axes.table(cells, rowLabels=states, colLabels=names, loc="center", cellLoc="center", edges="horizontal")
    for cell in drawn.get_celld().values():
        cell.set_linewidth(0.5)
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(7.5)
    drawn.scale(1, 1.35)
    return figure


def _cell(found: xr.Dataset) -> str:
    value, sigma, reason = float(found["dstar"]), float(found["sigma"]), str(found["reason"].values)
    if not np.isfinite(value):
        return f"none ({reason})" if reason else "none"
    return _number(value, sigma)


def _number(value: float, sigma: float) -> str:
    """A value with its standard deviation, which is never shown as 0."""
    digits = 1 if not 0 < sigma < 0.05 else 2
    return f"{value:.{digits}f} ± {max(sigma, 0.01):.{digits}f}" if np.isfinite(sigma) else f"{value:.1f}"
