"""Figures of patterns, as the command line draws them."""

from collections.abc import Sequence

import xarray as xr
from matplotlib.figure import Figure

from operandi.stages.calibrants import Reflection


def draw_patterns(patterns: xr.Dataset, *, names: Sequence[str], reflections: Sequence[Reflection] = ()) -> Figure:
    """Intensity against q of each image with its standard error, and where a calibrant's reflections should lie.

    ``patterns`` has ``intensity`` and ``sigma`` (image, q); ``names`` (image,) labels them.
    """
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    q = patterns["q"].values
    for number, name in enumerate(names):
        intensity, sigma = patterns["intensity"].values[number], patterns["sigma"].values[number]
        (line,) = axes.plot(q, intensity, linewidth=0.9, label=name)
        axes.fill_between(q, intensity - sigma, intensity + sigma, color=line.get_color(), alpha=0.3, linewidth=0)
    for number, reflection in enumerate(reflections):
        label = "calibrant, expected" if number == 0 else None
        axes.axvline(reflection.expected, color="0.6", linewidth=0.8, linestyle=":", zorder=0, label=label)
    axes.set_xlabel("q, Å⁻¹")
    axes.set_ylabel(f"intensity, {patterns['intensity'].attrs['units']}")
    axes.set_xlim(float(q[0]), float(q[-1]))
    axes.legend(frameon=False, fontsize=8)
    return figure
