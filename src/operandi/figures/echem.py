"""The electrochemistry: figures and words for a potentiostat's log, and figures of the cell while it was measured."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from operandi.errors import NotPublishedError
from operandi.figures import style
from operandi.stages.charge import PHASES, Log, longest_gap, phases

_PANELS = (("voltage", "Voltage", "V", "#1f4e79"), ("current", "Current", "mA", "#a23b3b"), ("charge", "Charge", "mAh", "#3b7a3b"))
_SHADES = ("#ececec", "#d3e4f5", "#e9dcf5", "#fbe0c8", "#fbf0b8")
"""Behind rest, charge at constant current and at constant voltage, discharge likewise."""
_TIMES = ((120.0, 1.0, "Seconds"), (7200.0, 60.0, "Minutes"), (10 * 86400.0, 3600.0, "Hours"), (np.inf, 86400.0, "Days"))
_THOUSANDTH = {"V": "mV", "mA": "µA", "mAh": "µAh"}
_MOST_STEPS = 40


@style.styled
def draw_echem(dataset: xr.Dataset) -> Figure:
    """Voltage, current and charge over time, shaded by the phase of the cycle; steps of the protocol are parted by lines and numbered.

    Where the log has no rows for long, nothing is drawn.

    Parameters
    ----------
    dataset
        As `read_potentiostat` gives it.

    Returns
    -------
    matplotlib.figure.Figure
        Write it with ``savefig``; it belongs to no window.
    """
    elapsed = dataset["time"].values - dataset["time"].values[0]
    second, unit = next((scale, name) for most, scale, name in _TIMES if elapsed[-1] <= most)
    time, stretches, labels = elapsed / second, list(_stretches(dataset["step"].values)), phases(_log(dataset))
    silent = np.flatnonzero(np.diff(elapsed) > longest_gap(elapsed)) + 1
    figure = style.sheet(style.TWO_COLUMNS_MM, 124)
    panels = figure.subplots(len(_PANELS), 1, sharex=True)
    for panel, (name, quantity, of, colour) in zip(panels, _PANELS, strict=True):
        _shade(panel, time, labels, longest_gap(elapsed) / second)
        if len(stretches) <= _MOST_STEPS:
            panel.vlines(
                [time[first] for first, _ in stretches[1:]], 0, 1, transform=panel.get_xaxis_transform(), color="0.7", linewidth=0.5
            )
        values, prefix = _readable(dataset[name].values)
        panel.plot(
            np.insert(time, silent, np.nan),
            np.insert(values, silent, np.nan),
            color=colour,
            linewidth=1,
            marker="." if len(time) == 1 else "",
        )
        panel.set_ylabel(f"{quantity} ({of if prefix == 1 else _THOUSANDTH[of]})")
        panel.margins(x=0)
        panel.grid(axis="y", color="0.85", linewidth=0.5)
    _name_steps(panels[0], time, dataset["step"].values, stretches)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(PHASES))
    panels[-1].set_xlabel(f"{unit} since {_local(dataset, 0)[:19]} ({dataset.attrs.get('timezone', 'UTC')})")
    panels[0].set_title("  ".join(filter(None, [Path(str(dataset.attrs.get("file", ""))).name, str(dataset.attrs.get("technique", ""))])))
    return figure


def _readable(values: np.ndarray) -> tuple[np.ndarray, float]:
    """Values a thousandfold where they are tiny, and by what they were multiplied."""
    largest = np.abs(values[np.isfinite(values)]).max(initial=0.0)
    return (values * 1e3, 1e3) if 0 < largest < 0.02 else (values, 1)


def _shade(panel, time: np.ndarray, labels: np.ndarray, longest: float) -> None:
    """Each row's phase behind the time until the next row, where that comes soon.

    Phases of under half a percent of the time are no name in the legend.
    """
    ends = np.append(np.where(np.diff(time) > longest, time[:-1], time[1:]), time[-1])
    for phase, colour in enumerate(_SHADES):
        spans = [(time[i], ends[j] - time[i]) for i, j in _stretches(labels) if labels[i] == phase]
        if sum(width for _, width in spans) > 0:
            long = sum(width for _, width in spans) > 0.005 * time[-1]
            label = PHASES[phase] if long else None
            panel.broken_barh(spans, (0, 1), transform=panel.get_xaxis_transform(), facecolor=colour, linewidth=0, label=label)


def _stretches(step: np.ndarray) -> Iterator[tuple[int, int]]:
    """First and last row of every uninterrupted step."""
    edges = np.flatnonzero(np.diff(step)) + 1
    return zip([0, *edges.tolist()], [*(edges - 1).tolist(), len(step) - 1], strict=True)


def _name_steps(panel, hours: np.ndarray, step: np.ndarray, stretches: list[tuple[int, int]]) -> None:
    """Write a step's number above its stretch where there is room."""
    room = 0.02 * max(hours[-1] - hours[0], 1e-12)
    for first, last in stretches:
        if len(stretches) > 1 and hours[last] - hours[first] > room:
            middle = 0.5 * (hours[first] + hours[last])
            style = {"ha": "center", "va": "top", "fontsize": 6.5, "color": "0.25"}
            panel.text(middle, 0.98, str(step[first]), transform=panel.get_xaxis_transform(), **style)


@style.styled
def draw_cycling(echem: pd.DataFrame, steps: pd.DataFrame) -> Figure:
    """Voltage, current and charge of the cell over the time of a result, its frames marked.

    Parameters
    ----------
    echem : `Result.echem`: time (UTC epoch s), voltage (V), current (mA), charge (mAh).
    steps : `Result.steps`: what each frame spans in time and in charge, and its tag.

    Raises
    ------
    NotPublishedError
        The log is empty.
    """
    if echem.empty:
        raise NotPublishedError("no potentiostat log covers the run, so that voltage, current and charge are unknown")
    hours = _hours(echem["time"].to_numpy(), steps)
    figure = style.sheet(style.TWO_COLUMNS_MM, 110)
    above, *panels = figure.subplots(len(_PANELS) + 1, 1, sharex=True, height_ratios=[0.9, 2, 2, 2.6])
    _draw_spans(above, steps)
    for panel, (name, quantity, unit, colour) in zip(panels, _PANELS, strict=True):
        values, factor = _readable(echem[name].to_numpy())
        panel.plot(hours, values, color=colour)
        panel.set_ylabel(f"{quantity} ({unit if factor == 1 else _THOUSANDTH[unit]})")
        panel.grid(axis="y", color="0.88", linewidth=0.5)
    _mark_tags(panels[-1], steps, _readable(echem["charge"].to_numpy())[1])
    panels[-1].set_xlabel("Time since the first projection (h)")
    figure.align_ylabels()
    return figure


def draw_cell_state(axes: Axes, echem: pd.DataFrame, steps: pd.DataFrame) -> None:
    """Voltage and charge against time on one panel, the tags of the frames on the charge; an empty log is said in words."""
    if echem.empty:
        axes.text(0.5, 0.5, "the charge is unknown: no potentiostat log covers the run", ha="center", va="center", transform=axes.transAxes)
        axes.set(yticks=[], xlabel="Time since the first projection (h)")
        return
    hours = _hours(echem["time"].to_numpy(), steps)
    (_, voltage, unit, blue), _, (_, charge, amount, green) = _PANELS
    axes.plot(hours, echem["voltage"], color=blue)
    axes.set_xlabel("Time since the first projection (h)")
    axes.set_ylabel(f"{voltage} ({unit})", color=blue)
    right = axes.twinx()
    right.plot(hours, echem["charge"], color=green)
    right.set_ylabel(f"{charge} ({amount})", color=green)
    _mark_tags(right, steps, 1.0)


def _draw_spans(axes: Axes, steps: pd.DataFrame) -> None:
    """A numbered bar for each frame over the time that it spans; those that overlap lie one above the other."""
    begin, end = _hours(steps["t_start"].to_numpy(), steps), _hours(steps["t_end"].to_numpy(), steps)
    free: list[float] = []
    for number, first, last in zip(steps["frame"], begin, end, strict=True):
        lane = next((n for n, until in enumerate(free) if until <= first + 0.02 * (last - first)), len(free))
        free[lane : lane + 1] = [last]
        axes.plot([first, last], [lane, lane], color="0.6", linewidth=1.5, solid_capstyle="butt")
        axes.annotate(f"{number}", ((first + last) / 2, lane), fontsize=6, ha="center", va="center",
                      bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8})  # fmt: skip
    axes.set(yticks=[], ylabel="Frames", ylim=(len(free) - 0.4, -0.6))


def _hours(time: np.ndarray, steps: pd.DataFrame) -> np.ndarray:
    return (time - steps["t_start"].min()) / 3600


def _mark_tags(axes: Axes, steps: pd.DataFrame, factor: float) -> None:
    """The tag of each frame whose charge is known, with its number."""
    known = steps[np.isfinite(steps["q_mah"])]
    middle = _hours((np.asarray(known["t_start"]) + np.asarray(known["t_end"])) / 2, steps)
    axes.plot(middle, known["q_mah"] * factor, "o", color=_PANELS[2][3], markersize=3.5)
    for number, x, tag in zip(known["frame"], middle, known["q_mah"] * factor, strict=True):
        axes.annotate(f"{number}", (x, tag), textcoords="offset points", xytext=(0, 5), ha="center", fontsize=6)
    axes.margins(y=0.12)


def summary(dataset: xr.Dataset) -> list[str]:
    """What a log contains, as lines of text: the file, its extent and ranges, and a table of its steps."""
    time, charge = dataset["time"].values, dataset["charge"].values
    moved = np.nan_to_num(np.diff(charge))
    period = float(np.median(np.diff(time))) if len(time) > 1 else 0.0
    facts = {
        "file": dataset.attrs.get("file", ""),
        "technique": dataset.attrs.get("technique", ""),
        "instrument": dataset.attrs.get("instrument", ""),
        "from": _local(dataset, 0),
        "to": f"{_local(dataset, -1)}, {_duration(time[-1] - time[0])}",
        "rows": f"{len(time)}, every {period:.3g} s (median)",
        "voltage": _range(dataset["voltage"].values, "V"),
        "current": _range(dataset["current"].values, "mA"),
        "charge": f"{charge[-1]:.4g} mAh at the end; {moved[moved > 0].sum():.4g} mAh in, {abs(moved[moved < 0].sum()):.4g} mAh out",
    }
    lines = [f"{name:<11}{value}" for name, value in facts.items() if value]
    return [*lines, "", *_table(dataset)]


def _table(dataset: xr.Dataset) -> Iterator[str]:
    log = _log(dataset)
    labels = phases(log)
    stretches = list(_stretches(log.step))
    shown = stretches[:_MOST_STEPS]
    shares = [np.gradient(log.time[a : b + 1]) if b > a else np.ones(1) for a, b in shown]
    named = [_named(labels[a : b + 1], share) for (a, b), share in zip(shown, shares, strict=True)]
    wide = max(map(len, named), default=5)
    yield f"{'step':>5} {'cycle':>5}  {'phase':<{wide}} {'from':>10} {'for':>10} {'V from':>8} {'V to':>8} {'I, mA':>10} {'Q, mAh':>10}"
    for (first, last), phase in zip(shown, named, strict=True):
        gained = log.charge[last] - log.charge[max(first - 1, 0)]
        begun, lasted = _duration(log.time[first] - log.time[0]), _duration(log.time[last] - log.time[first])
        current = np.median(log.current[first : last + 1])
        yield (
            f"{log.step[first]:>5} {log.cycle[first]:>5}  {phase:<{wide}} {begun:>10} {lasted:>10} "
            f"{log.voltage[first]:>8.4f} {log.voltage[last]:>8.4f} {current:>10.4g} {gained:>10.4g}"
        )
    if len(stretches) > _MOST_STEPS:
        yield f"… and {len(stretches) - _MOST_STEPS} more"


def _log(dataset: xr.Dataset) -> Log:
    return Log(*(dataset[name].values for name in ("time", "voltage", "current", "charge", "step", "cycle")))


def _named(labels: np.ndarray, share: np.ndarray) -> str:
    """The phases that take a tenth of a step's time at least, shortly: ``charge CC-CV``."""
    took = np.bincount(labels, share, minlength=len(PHASES))
    names = [PHASES[i] for i in np.flatnonzero(took >= 0.1 * took.sum())]
    return names[0] if len(names) == 1 else " + ".join(names).replace("CC + discharge CV", "CC-CV").replace("CC + charge CV", "CC-CV")


def _local(dataset: xr.Dataset, row: int) -> str:
    zone = ZoneInfo(str(dataset.attrs.get("timezone", "UTC")))
    return datetime.fromtimestamp(float(dataset["time"].values[row]), zone).isoformat(" ", "seconds")


def _duration(seconds: float) -> str:
    whole = round(float(seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _range(values: np.ndarray, unit: str) -> str:
    known = values[np.isfinite(values)]
    return f"{known.min():.5g} to {known.max():.5g} {unit}" if len(known) else "not recorded"
