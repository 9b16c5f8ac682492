"""Maps in false colour: which phase in which colour, on which scale."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import xarray as xr

from operandi.errors import ShapeError
from operandi.experiment import Composite

Limits = Mapping[str, tuple[float, float]]
Phases = str | Sequence[str]
PaletteName = Literal["paper", "safe"]
Palette = PaletteName | Mapping[str, tuple[float, float, float]]
Over = Literal["series", "frame"]

COLOURS = ("red", "green", "blue")
PALETTES: Mapping[str, Mapping[str, tuple[float, float, float]]] = {
    "paper": {"red": (1.0, 0.0, 0.0), "green": (0.0, 1.0, 0.0), "blue": (0.0, 0.0, 1.0)},
    "safe": {"red": (1.0, 0.6, 0.0), "green": (0.0, 0.4, 1.0), "blue": (0.65, 0.65, 0.65)},
}
"""What is shown for red, green and blue (sRGB). In `safe`, orange, blue and grey, no phase of any brightness looks like another one, in
whatever way colours are not seen; orange and blue of equal strength are white, which is between them."""

NXCT = Composite(name="nxct", red=("X-ray attenuation",), green=("neutron attenuation",), blue=("neutron attenuation",))
"""X-rays red, neutrons cyan, what attenuates both white; cathode and anode are in `operandi.experiment.DEFAULT_COMPOSITES`."""

SIGNIFICANT = 5.0
"""Full colour stands for this many standard deviations at least, so that noise stays dark."""


def composite(
    maps: xr.Dataset | xr.DataArray,
    red: Phases = (),
    green: Phases = (),
    blue: Phases = (),
    *,
    limits: Limits | None = None,
    percentiles: tuple[float, float] = (1.0, 99.5),
    gamma: float = 1.0,
    over: Over = "series",
    palette: Palette = "paper",
) -> xr.DataArray:
    """Maps in false colour, uint8 (…, rgb), ready for any image file or screen.

    Each colour is a phase or the sum of several, scaled linearly from black at the lower to full at the upper limit, then raised to
    ``1 / gamma``. Colours add; a voxel that were brighter than the screen is dimmed as a whole, so that its hue stays. NaN is black, as is
    a colour without phase.

    Parameters
    ----------
    maps : dims phase, …: the intensity, or a Dataset that holds `intensity` and perhaps `sigma`.
    limits : colour → (lower, upper), such as `composite_limits` of a whole series gives; colours that it lacks get their own.
    percentiles : of the finite voxels, the limits of the other colours. Where maps have `sigma`, the lower is at least 0 and the
        upper at least 5 times its median, so that a phase that is not there stays dark.
    over : maps with the dimension `frame` have one scale over the `series`, or one for each `frame`.
    palette : ``paper`` shows red, green and blue as such; ``safe`` shows orange, blue and grey in their place, which people who do not
        tell red from green tell apart; or colour → (r, g, b) from 0 to 1 for those used.

    Raises
    ------
    ShapeError
        If a phase is unknown, no colour has one, or percentiles, limits, gamma or palette make no scale.
    """
    if over not in ("series", "frame"):
        raise ShapeError(f"one scale holds over a series or a frame, not over {over!r}")
    if not gamma > 0:
        raise ShapeError(f"gamma must be above 0, got {gamma}")
    if over == "frame" and "frame" in _intensity(maps).dims:
        options = {"limits": limits, "percentiles": percentiles, "gamma": gamma, "palette": palette}
        frames = [composite(maps.isel(frame=[n]), red, green, blue, **options) for n in range(maps.sizes["frame"])]
        scales = {name: [frame.attrs[name] for frame in frames] for name in frames[0].attrs if name.endswith("_limits")}
        return xr.concat(frames, "frame").transpose(*frames[0].dims).assign_attrs(scales)
    chosen = _chosen(_intensity(maps), red, green, blue)
    scales = composite_limits(maps, red, green, blue, percentiles=percentiles) | dict(limits or {})
    template = _intensity(maps).isel(phase=0, drop=True)
    rgb = _mix({colour: _share(values, *scales[colour], gamma) for colour, values in chosen.items()}, _shown(palette))
    attrs = {"units": "1", **{colour: list(_names(phases)) for colour, phases in zip(COLOURS, (red, green, blue), strict=True)}}
    attrs |= {f"{colour}_limits": [float(v) for v in scales[colour]] for colour in chosen}
    attrs |= {"gamma": gamma, "palette": palette if isinstance(palette, str) else "own"}
    return xr.DataArray(rgb, {**template.coords, "rgb": list(COLOURS)}, (*template.dims, "rgb"), "rgb", attrs)


def composite_limits(
    maps: xr.Dataset | xr.DataArray,
    red: Phases = (),
    green: Phases = (),
    blue: Phases = (),
    *,
    percentiles: tuple[float, float] = (1.0, 99.5),
) -> dict[str, tuple[float, float]]:
    """Colour → (lower, upper) limit from percentiles of the finite voxels; of maps with a frame dimension, one scale for the series.

    Where maps have `sigma`, the lower limit is at least 0 and the upper at least 5 times the median of sigma.
    """
    if not 0 <= percentiles[0] < percentiles[1] <= 100:
        raise ShapeError(f"percentiles must be two increasing numbers from 0 to 100, got {percentiles}")
    noise = {}
    if isinstance(maps, xr.Dataset) and "sigma" in maps:
        noise = _chosen(maps["sigma"] ** 2, red, green, blue)
    limits = {}
    for colour, values in _chosen(_intensity(maps), red, green, blue).items():
        finite = values[np.isfinite(values)]
        low, high = np.percentile(finite, percentiles) if finite.size else (0.0, 0.0)
        variance = noise[colour][np.isfinite(noise[colour])] if noise else np.zeros(0)
        if variance.size:
            low, high = max(low, 0.0), max(high, SIGNIFICANT * np.sqrt(np.median(variance)))
        limits[colour] = (float(low), float(high))
    return limits


def composite_arrays(layers: Sequence[np.ndarray], upper: float, *, lower: float = 0.0, gamma: float = 1.0) -> np.ndarray:
    """Red, green and blue layers (y, x) as one picture (y, x, rgb) uint8, on one scale from black at ``lower`` to full at ``upper``."""
    return np.rint(255 * np.stack([_share(layer, lower, upper, gamma) for layer in layers], axis=-1)).astype(np.uint8)


def _shown(palette: Palette) -> Mapping[str, tuple[float, float, float]]:
    """What is shown for each colour."""
    known = PALETTES.get(palette) if isinstance(palette, str) else {**PALETTES["paper"], **palette}
    if known is None:
        raise ShapeError(f"palette {palette!r} is unknown: give one of {', '.join(PALETTES)}, or colour → (r, g, b)")
    for colour, rgb in known.items():
        if colour not in COLOURS or len(rgb) != 3 or not all(0 <= v <= 1 for v in rgb):
            raise ShapeError(f"a palette has red, green and blue with three numbers from 0 to 1 each, not {colour!r}: {rgb!r}")
    return known


def _mix(shares: Mapping[str, np.ndarray], shown: Mapping[str, tuple[float, float, float]]) -> np.ndarray:
    """uint8 (…, 3): the sum of the colours by their shares, dimmed where it were brighter than the screen."""
    mixed = sum(share[..., None] * np.asarray(shown[colour], share.dtype) for colour, share in shares.items())
    return np.rint(255 * mixed / np.maximum(np.max(mixed, axis=-1, keepdims=True), 1)).astype(np.uint8)


def _names(phases: Phases) -> tuple[str, ...]:
    return (phases,) if isinstance(phases, str) else tuple(phases)


def _intensity(maps: xr.Dataset | xr.DataArray) -> xr.DataArray:
    intensity = maps["intensity"] if isinstance(maps, xr.Dataset) else maps
    if "phase" not in intensity.coords:
        raise ShapeError(f"maps need the dimension phase and its names; they have {dict(intensity.sizes)}")
    return intensity


def _chosen(intensity: xr.DataArray, red: Phases, green: Phases, blue: Phases) -> dict[str, np.ndarray]:
    """Colour → sum of its phases, for the colours that have some."""
    known = [str(name) for name in intensity["phase"].to_numpy()]
    chosen = {}
    for colour, phases in zip(COLOURS, (red, green, blue), strict=True):
        if unknown := [name for name in _names(phases) if name not in known]:
            raise ShapeError(f"{colour} shows {', '.join(map(repr, unknown))}, but the maps are {', '.join(map(repr, known))}")
        if _names(phases):
            chosen[colour] = sum(intensity.isel(phase=known.index(name), drop=True).to_numpy() for name in _names(phases))
    if not chosen:
        raise ShapeError(f"a composite needs a phase for at least one of red, green, blue; the maps are {', '.join(map(repr, known))}")
    return chosen


def _share(values: np.ndarray, low: float, high: float, gamma: float) -> np.ndarray:
    """Brightness from 0 to 1; all black where there is no range."""
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ShapeError(f"limits of a colour must be finite, got {low} and {high}")
    if high <= low:
        return np.zeros(values.shape, np.float32)
    share = np.clip(np.nan_to_num((values - low) / (high - low), nan=0.0), 0, 1)
    return share ** (1 / gamma)
