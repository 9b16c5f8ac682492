"""Which voxels of a roll are its anode: by the depth in the winding, and by what they hold."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from operandi.errors import ShapeError
from operandi.stages.unrolling import Winding

ANODE = (("graphite", "LiC12", "LiC6"), ("silicon",))
"""Maps that together show the anode, the best first: at small angles everything scatters, crystals tell the layer alone."""
LAYERS = (*ANODE, ("NMC lithiated", "NMC delithiated"), ("copper",), ("aluminium",))
"""Maps that show the layers of a roll, the best first."""
LEAST_SHARE = 0.2
"""Of what the layer usually has: a voxel with less is not of it."""
_BRIGHT = 0.95
_SLICES = 2
"""Slices of the winding's thickness for each voxel."""
_FEWEST = 8


def show_layers(maps: xr.DataArray, wanted: Sequence[Sequence[str]] = LAYERS) -> xr.DataArray:
    """One map (…, y, x) of the layers of a roll, out of maps (…, phase, y, x): the sum of the first group of ``wanted`` that is there.

    Raises
    ------
    ShapeError
        No group has a map.
    """
    there = [str(phase) for phase in maps["phase"].to_numpy()]
    for group in wanted:
        if found := [phase for phase in group if phase in there]:
            return maps.sel(phase=found).sum("phase", skipna=False, keep_attrs=True).rename("layers")
    raise ShapeError(f"no map shows an electrode; there are {', '.join(there)}: name windows of graphite, LiC6, silicon or NMC")


def evened(layers: xr.DataArray) -> xr.DataArray:
    """The same map (y, x), nothing brighter than its layers usually are: what outshines them, as agglomerates do, hides no winding."""
    return layers.clip(max=_usual(layers), keep_attrs=True)


def find_anode(winding: Winding, map: xr.DataArray, *, least_share: float = LEAST_SHARE) -> xr.DataArray:
    """The voxels (y, x) of the layer that is brightest in a map, bool: the depths in the winding where it lies, if they hold any of it.

    The layer reaches as deep as the median over all turns is above half of the way from the darkest to the brightest depth; what lies
    between both coats of a collector belongs to it, unless it is as dark as that.

    Parameters
    ----------
    winding : from `follow_winding`.
    map : (y, x) of what the layer alone holds: graphite with its lithiated stages, or silicon at small angles.
    least_share : of the layer's median; voxels with less are left out.

    Raises
    ------
    ShapeError
        No layer stands out.
    """
    coordinates = winding.coordinates(map)
    share, values = coordinates["share"].to_numpy(), map.transpose("y", "x").to_numpy().astype(float)
    known = np.isfinite(share) & np.isfinite(values)
    first, last, count = _depths(share[known], values[known], _slices(coordinates, map))
    edges = np.array([first, last + 1]) / count - 0.5
    within = known & (share >= edges[0]) & (share < edges[1])
    held = values > least_share * float(np.median(values[within]))
    return xr.DataArray(within & held, {"y": map["y"], "x": map["x"]}, ("y", "x"), "anode")


def _slices(coordinates: xr.Dataset, map: xr.DataArray) -> int:
    """How many slices the winding is cut into."""
    depth = coordinates["depth"].to_numpy()
    pixel = abs(float(map["x"][1] - map["x"][0]))
    return max(int(_SLICES * np.nanmax(np.ptp(depth[np.isfinite(depth)])) / pixel), 4) if np.isfinite(depth).any() else 4


def _depths(share: np.ndarray, values: np.ndarray, count: int) -> tuple[int, int, int]:
    """First and last slice of the brightest layer, and how many slices there are."""
    number = np.clip(np.floor((share + 0.5) * count).astype(int), 0, count - 1)
    profile = np.array([np.median(values[number == n]) if (number == n).sum() >= _FEWEST else np.nan for n in range(count)])
    if np.isfinite(profile).sum() < 3:
        raise ShapeError("too little of the roll was measured to tell its layers")
    low, high = np.nanmin(profile), np.nanmax(profile)
    bright = np.flatnonzero(np.nan_to_num(profile, nan=low) > (low + high) / 2)
    if not high > 2 * max(low, 0.0) or len(bright) > 0.8 * count:
        raise ShapeError("no layer of the winding stands out in the map: give one of graphite, or of silicon where it outshines the rest")
    return int(bright[0]), int(bright[-1]), count


def _usual(layers: xr.DataArray) -> float:
    """The median of what is bright."""
    values = layers.to_numpy()
    values = values[np.isfinite(values)]
    bright = values[values > LEAST_SHARE * np.quantile(values, _BRIGHT)] if values.size else values
    return float(np.median(bright)) if bright.size else np.inf
