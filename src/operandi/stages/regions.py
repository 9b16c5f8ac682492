"""Regions of a cell: their mean profiles, the d* of each, and the table of them over cells and states."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from operandi.errors import ShapeError
from operandi.nodes import REGION_COLUMNS
from operandi.stages import anodes, defects
from operandi.stages.dstar import fit_dstar
from operandi.stages.unrolling import follow_winding

REGIONS: Mapping[int, str] = dict(list(enumerate(defects.REGIONS))[1:])
"""Labels of a map of regions; 0 is outside of all."""
TABLE_COLUMNS: Mapping[str, str] = {"state": "str"} | {
    name: REGION_COLUMNS[name] for name in REGION_COLUMNS if name not in ("entry", "frame")
}
"""Columns of `region_table`: those of the published table, which counts frames in place of states."""


def survey_regions(maps: xr.DataArray, dstar: xr.DataArray | None = None, *, layers: xr.DataArray | None = None) -> xr.Dataset:
    """Normal material, bends and agglomerates of a slice, from its maps alone: the winding is followed, and the anode looked at.

    Parameters
    ----------
    maps : (phase, y, x), mm; of graphite, LiC12 and LiC6, and of silicon, whichever there are.
    dstar : (y, x) nm, NaN is *none*; outside of the anode it is not looked at.
    layers : (y, x) a map by which to follow the winding; the best of ``maps`` if not given.

    Returns
    -------
    What `find_regions` gives, and ``anode`` (y, x) bool.

    Raises
    ------
    ShapeError
        No map shows an electrode, its winding cannot be followed, or no layer stands out.
    """
    layers = anodes.show_layers(maps) if layers is None else layers
    winding = follow_winding(anodes.evened(layers))
    anode = anodes.find_anode(winding, anodes.show_layers(maps, anodes.ANODE))
    phases = [str(phase) for phase in maps["phase"].to_numpy()]
    carbon = anodes.show_layers(maps, anodes.ANODE[:1]) if "graphite" in phases else None
    silicon = maps.sel(phase="silicon", drop=True) if "silicon" in phases else None
    found = defects.find_regions(winding, silicon=silicon, graphite=carbon, dstar=dstar, layer=anode)
    return found.assign(anode=anode)


def region_profiles(volume: xr.DataArray | xr.Dataset, labels: xr.DataArray, *, names: Mapping[int, str] = REGIONS) -> xr.Dataset:
    """The mean profile of each region, of small or of wide angles, and how much its voxels differ.

    Parameters
    ----------
    volume : dims …, q: the intensity, or a Dataset of `intensity` and perhaps `sigma`. NaN is not measured, and left out.
    labels : integers over all dims of the volume but q.
    names : of the labels; others are left out.

    Returns
    -------
    Dataset (region, q): `intensity`, the mean; `spread`, the standard deviation of its voxels; `sigma`, that of the mean: by the voxels'
    own, taken as independent, where there are, else by what they scatter when each is scaled to the mean, for how full a voxel is changes
    no profile's form; and (region) `voxels`, how many have been measured. A region without voxels is NaN, as is the spread of one voxel.

    Raises
    ------
    ShapeError
        If labels are no whole numbers, or do not fit the volume.
    """
    dataset = volume if isinstance(volume, xr.Dataset) else volume.rename("intensity").to_dataset()
    dims = tuple(dim for dim in dataset["intensity"].dims if dim != "q")
    if "q" not in dataset["intensity"].dims or set(labels.dims) != set(dims) or any(labels.sizes[d] != dataset.sizes[d] for d in dims):
        raise ShapeError(f"labels {dict(labels.sizes)} do not fit the volume {dict(dataset['intensity'].sizes)}: give one for each voxel")
    if labels.dtype.kind not in "iub":
        raise ShapeError(f"labels are of dtype {labels.dtype}: give whole numbers, 0 for what belongs to no region")
    where = labels.transpose(*dims).to_numpy()
    intensity = dataset["intensity"].transpose(*dims, "q").to_numpy()
    sigma = dataset["sigma"].transpose(*dims, "q").to_numpy() if "sigma" in dataset else None
    means = [_mean(intensity[where == label], None if sigma is None else sigma[where == label]) for label in names]
    units = {"units": dataset["intensity"].attrs.get("units", "1")}
    arrays: dict[str, Any] = {
        name: (("region", "q"), np.stack([m[i] for m in means]), units) for i, name in enumerate(("intensity", "sigma", "spread"))
    }
    voxels = [int(np.isfinite(intensity[where == label]).any(axis=-1).sum()) for label in names]
    return xr.Dataset(arrays | {"voxels": ("region", voxels)}, {"region": list(names.values()), "q": dataset["q"]})


def _mean(values: np.ndarray, sigma: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean (q,) of voxels (voxel, q), its standard deviation, and theirs."""
    values = values.astype(np.float64)
    good = np.isfinite(values)
    n = good.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(good, values, 0).sum(axis=0) / n
        spread = np.sqrt(np.where(good, (values - mean) ** 2, 0).sum(axis=0) / np.where(n > 1, n - 1, np.nan))
        if sigma is not None:
            return mean, np.sqrt(np.where(good, sigma.astype(np.float64) ** 2, 0).sum(axis=0)) / n, spread
        relative = np.where(good & (mean != 0), values / mean, np.nan)
        scale = np.nansum(relative, axis=1, keepdims=True) / np.isfinite(relative).sum(axis=1, keepdims=True)
        form = np.sqrt(np.where(good, (values - scale * mean) ** 2, 0).sum(axis=0) / np.where(n > 1, n - 1, np.nan))
    return mean, form / np.sqrt(n), spread


def region_table(states: Mapping[str, xr.Dataset], **how: Any) -> pd.DataFrame:
    """d* of each region in each state, by its mean profile: Table S1 of 10.1039/D4EE00590B for any states.

    Parameters
    ----------
    states : name of a state, such as ``fresh, charged``, → its `region_profiles`.
    how : options of `fit_dstar`.

    Returns
    -------
    A row for each state and region, in `TABLE_COLUMNS`; without d* the number is NaN, and ``reason`` says why. Write it with ``to_csv``.

    Raises
    ------
    ShapeError
        As `fit_dstar` does.
    """
    parts = []
    for state, profiles in states.items():
        errors = profiles["sigma"] if bool(np.isfinite(profiles["sigma"]).any()) else None
        found = fit_dstar(profiles["intensity"], sigma=errors, **how)
        parts.append(
            pd.DataFrame(
                {
                    "state": state,
                    "region": profiles["region"].to_numpy().astype(str),
                    "voxels": profiles["voxels"].to_numpy(),
                    "dstar_nm": found["dstar"].to_numpy(),
                    "sigma_nm": found["sigma"].to_numpy(),
                    "q_star_inv_angstrom": found["q_star"].to_numpy(),
                    "slope": found["slope"].to_numpy(),
                    "reason": found["reason"].to_numpy().astype(str),
                }
            )
        )
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=pd.Index(list(TABLE_COLUMNS)))


def as_printed(table: pd.DataFrame) -> pd.DataFrame:
    """A `region_table` as the paper prints it: states down, regions across, nm to one decimal; the reason where there is no d*."""
    numbers = [f"{d:.1f}" if np.isfinite(d) else reason for d, reason in zip(table["dstar_nm"], table["reason"], strict=True)]
    text = table.assign(text=numbers)
    printed = text.pivot(index="state", columns="region", values="text")
    return printed.loc[list(dict.fromkeys(text["state"])), list(dict.fromkeys(text["region"]))]
