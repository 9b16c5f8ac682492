"""Figures of patterns and tomograms, as the command line draws them."""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from operandi.figures import style
from operandi.stages.calibrants import Reflection


@style.styled
def draw_patterns(patterns: xr.Dataset, *, names: Sequence[str], reflections: Sequence[Reflection] = ()) -> Figure:
    """Intensity against q of each image with its standard error, and where a calibrant's reflections should lie.

    ``patterns`` has ``intensity`` and ``sigma`` (image, q); ``names`` (image,) labels them.
    """
    figure = style.sheet(style.TWO_COLUMNS_MM, 98)
    axes = figure.subplots()
    q = patterns["q"].values
    for number, name in enumerate(names):
        intensity, sigma = patterns["intensity"].values[number], patterns["sigma"].values[number]
        (line,) = axes.plot(q, intensity, linewidth=0.9, label=name)
        axes.fill_between(q, intensity - sigma, intensity + sigma, color=line.get_color(), alpha=0.3, linewidth=0)
    for number, reflection in enumerate(reflections):
        label = "calibrant, expected" if number == 0 else None
        axes.axvline(reflection.expected, color="0.6", linewidth=0.8, linestyle=":", zorder=0, label=label)
    axes.set_xlabel("q (Å⁻¹)")
    axes.set_ylabel(style.labelled("Intensity", str(patterns["intensity"].attrs["units"])))
    axes.set_xlim(float(q[0]), float(q[-1]))
    axes.legend(frameon=False)
    return figure


@style.styled
def draw_tomogram(sinogram: xr.DataArray, volume: xr.DataArray, *, axis_mm: float, title: str = "") -> Figure:
    """A sinogram (rotation, translation) with the rotation axis, beside the tomogram (y, x) made of it.

    Lines of the sinogram are drawn in their order, one below the other, whatever the steps between their angles.
    """
    figure = style.sheet(style.TWO_COLUMNS_MM, 84)
    left, right = figure.subplots(1, 2)
    translation, lines = sinogram["translation"].values, sinogram.sizes["rotation"]
    drawn = left.imshow(
        sinogram.values, aspect="auto", cmap="gray", extent=(translation[0], translation[-1], lines - 0.5, -0.5), interpolation="nearest"
    )
    left.axvline(axis_mm, color="#d9822b", linewidth=0.8, linestyle="--", label="rotation axis")
    ticks = np.linspace(0, lines - 1, min(lines, 7)).round().astype(int)
    left.set_yticks(ticks, [f"{angle:.0f}" for angle in sinogram["rotation"].values[ticks]])
    left.set_xlabel("Translation (mm)")
    left.set_ylabel("Rotation (°)")
    left.legend(frameon=False, labelcolor="#d9822b")
    figure.colorbar(drawn, ax=left, label=f"Sinogram ({_unit(sinogram)})")
    low, high = np.nanpercentile(volume.values, [1, 99.8])
    drawn = right.imshow(
        volume.values, origin="lower", cmap="gray", extent=style.extent(volume), vmin=low, vmax=high, interpolation="nearest"
    )
    right.set_xlabel("x from the axis (mm)")
    right.set_ylabel("y from the axis (mm)")
    figure.colorbar(drawn, ax=right, label=f"Tomogram ({_unit(volume)})")
    left.locator_params(axis="x", nbins=5)
    right.locator_params(nbins=5)
    figure.suptitle(title, fontsize=8)
    return figure


def _unit(array: xr.DataArray) -> str:
    units = array.attrs.get("units", "1")
    return "-log(I/I₀)" if units == "1" else style.unit_text(units)
