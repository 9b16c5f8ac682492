"""What figures are made of: a result, each part of it read when it is first needed, once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, cast

import numpy as np
import pandas as pd
import xarray as xr

from operandi.client import Result
from operandi.errors import NotPublishedError
from operandi.experiment import QWindow
from operandi.stages.anodes import evened, show_layers
from operandi.stages.dstar import fit_dstar
from operandi.stages.maps import apply_weights, window_weights
from operandi.stages.regions import region_profiles, region_table, survey_regions
from operandi.stages.unrolling import Centre, Winding, find_centre, follow_winding, unroll

SMALL_ANGLES = (0.01, 0.2)
"""q, Å⁻¹, in which d* is looked for."""


@dataclass(frozen=True, slots=True)
class Regions:
    """Normal material, bends and agglomerates of a frame: ``label`` (y, x), ``profiles`` (region, q), those that are there, and ``table``,
    a row for each of these."""

    label: xr.DataArray
    profiles: xr.Dataset
    table: pd.DataFrame


class Material:
    """The committed frames of a result, or some of them, and what is made of them for figures.

    Parameters
    ----------
    frames : numbers of the frames to take; None takes all.

    Raises
    ------
    NotPublishedError
        None of these frames is committed (yet).
    """

    def __init__(self, result: Result, frames: Sequence[int] | None = None) -> None:
        self.result = result
        committed = result.steps
        committed = committed[~committed["provisional"].astype(bool)]
        there = [int(number) for number in committed["frame"]]
        if missing := sorted(set(there if frames is None else frames) - set(there)):
            raise NotPublishedError(f"result {result.key}: frame {missing[0]} is not committed (yet); committed: {there}")
        self.steps = cast("pd.DataFrame", committed[np.isin(there, there if frames is None else list(frames))])
        if self.steps.empty:
            raise NotPublishedError(f"result {result.key}: no frame is committed yet")
        self.volume = lru_cache(1)(self._volume)
        self.dstar, self.regions = lru_cache(None)(self._dstar), lru_cache(None)(self._regions)

    @property
    def key(self) -> str:
        """Key of the result."""
        return self.result.key

    @property
    def sample(self) -> str:
        """Name of the sample."""
        return str(self.metadata.get("sample", {}).get("name", "the sample"))

    @cached_property
    def metadata(self) -> Mapping[str, Any]:
        """Metadata of the result."""
        return self.result.metadata

    @property
    def numbers(self) -> list[int]:
        """Numbers of the frames."""
        return [int(number) for number in self.steps["frame"]]

    @property
    def tags(self) -> list[str]:
        """What names each frame: the charge passed, or its number where the charge is not known."""
        return [f"{q:.2f} mAh" if np.isfinite(q) else f"frame {n}" for n, q in zip(self.numbers, self.steps["q_mah"], strict=True)]

    @property
    def charge_mah(self) -> np.ndarray:
        """Tags of the frames, NaN where they are not known."""
        return self.steps["q_mah"].to_numpy(np.float64)

    @property
    def frames(self) -> str:
        """The frames in words."""
        numbers = self.numbers
        if len(numbers) == 1:
            return f"frame {numbers[0]}"
        whole = numbers == list(range(numbers[0], numbers[-1] + 1))
        return f"frames {numbers[0]} to {numbers[-1]}" if whole else "frames " + ", ".join(map(str, numbers))

    def title(self, row: int) -> str:
        """Charge and voltage of a frame."""
        voltage = float(self.steps["voltage"].iloc[row])
        return self.tags[row] + (f", {voltage:.3f} V" if np.isfinite(voltage) else "")

    @cached_property
    def windows(self) -> list[QWindow]:
        """The q windows behind the maps."""
        return [QWindow.model_validate(window) for window in self.metadata.get("experiment", {}).get("windows", [])]

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """Phase → limits of its window, Å⁻¹."""
        return {window.phase: (window.q_min_inv_angstrom, window.q_max_inv_angstrom) for window in self.windows}

    @cached_property
    def schemes(self) -> dict[str, dict[str, tuple[str, ...]]]:
        """Composites of the experiment: name → colour → phases."""
        found = self.metadata.get("experiment", {}).get("composites", [])
        return {one["name"]: {colour: tuple(one[colour]) for colour in ("red", "green", "blue")} for one in found}

    @cached_property
    def maps(self) -> xr.Dataset:
        """Maps (frame, phase, y, x): ``intensity``, ``sigma``."""
        return self._chosen(self.result.maps)

    @cached_property
    def instants(self) -> xr.Dataset:
        """Maps of one moment for each frame."""
        return self._chosen(self.result.instants)

    @cached_property
    def moments(self) -> xr.Dataset:
        """When each voxel was seen."""
        return self._chosen(self.result.moments)

    @cached_property
    def echem(self) -> pd.DataFrame:
        """The potentiostat's log."""
        return self.result.echem

    @cached_property
    def lithium(self) -> pd.DataFrame | None:
        """Lithium in both electrodes and its balance, as published; None where it is not."""
        try:
            table = self.result.lithium
        except NotPublishedError:
            return None
        return cast("pd.DataFrame", table[np.isin(table["frame"], self.numbers)])

    @cached_property
    def patterns(self) -> xr.DataArray:
        """The mean pattern (frame, q) of the whole slice, of all voxels that were measured."""
        means = [self.volume(number)["intensity"].mean(("y", "x"), keep_attrs=True) for number in self.numbers]
        return xr.concat(means, "frame", coords="minimal", compat="override").assign_coords(frame=self.numbers)

    def sinograms(self, number: int) -> xr.DataArray:
        """The sinogram of a frame as the maps see it (phase, rotation, translation)."""
        sinogram = self.result.sinogram(number)
        if not self.windows:
            raise NotPublishedError(f"result {self.key} has no windows by which a sinogram could be shown")
        seen = apply_weights(sinogram.to_numpy(), window_weights(sinogram["q"].to_numpy(), self.windows))
        coords = {"phase": [w.phase for w in self.windows], "rotation": sinogram["rotation"], "translation": sinogram["translation"]}
        return xr.DataArray(seen, coords, ("phase", "rotation", "translation"), attrs=sinogram.attrs)

    def _dstar(self, number: int) -> xr.Dataset:
        """d* (y, x) of a frame as it was published, else made here of its volume."""
        try:
            return self.result.frame(number).dstar
        except NotPublishedError:
            volume = self.volume(number)
            q = volume["q"].to_numpy()
            return fit_dstar(volume, q_range=(max(float(q[0]), SMALL_ANGLES[0]), min(float(q[-1]), SMALL_ANGLES[1])))

    @cached_property
    def layers(self) -> xr.DataArray:
        """A map (y, x) that shows the layers of the roll: all of an electrode, over all frames."""
        return show_layers(self.maps["intensity"]).mean("frame", keep_attrs=True)

    @cached_property
    def inside(self) -> xr.DataArray:
        """Where (y, x) the cell is: in a circle about all that is at least half as bright as the brightest hundredth of its own map."""
        means = self.maps["intensity"].mean("frame")
        bright = (means > 0.5 * means.quantile(0.99, ("y", "x"))).any("phase")
        y, x = (bright[dim] - float((bright * bright[dim]).sum() / bright.sum()) for dim in ("y", "x"))
        radius = (x**2 + y**2) ** 0.5
        return radius <= float(radius.where(bright).quantile(0.99))

    @cached_property
    def winding(self) -> Winding:
        """The winding of the roll, followed through `layers`."""
        return follow_winding(evened(self.layers))

    @cached_property
    def centre(self) -> Centre:
        """The centre of the cell, from its casing where there is a map of it."""
        casing = "casing" in self.maps["phase"]
        return find_centre(self.maps["intensity"].sel(phase="casing").mean("frame") if casing else self.layers)

    def unrolled(self, number: int, along: str) -> xr.DataArray:
        """The maps of a frame unrolled (phase, depth, arc): along the ``electrode``, or around by ``angle``."""
        intensity = self.maps["intensity"].sel(frame=number)
        if along == "angle":
            return unroll(intensity, centre=self.centre, along="angle")
        return unroll(intensity, winding=self.winding)

    def _regions(self, number: int) -> Regions:
        """Regions of a frame as they were published, else made here of its maps and its volume."""
        try:
            found = self.result.frame(number).regions
            table = self.result.region_table
            label, profiles = found["label"], found[["intensity", "sigma", "spread"]]
            table = cast("pd.DataFrame", table[table["frame"] == number])
        except NotPublishedError:
            maps = self.maps["intensity"].sel(frame=number, drop=True)
            label = survey_regions(maps, self.dstar(number)["dstar"], layers=self.layers)["region"]
            profiles = region_profiles(self.volume(number)["intensity"].sel(q=slice(*SMALL_ANGLES)), label)
            table = region_table({"": profiles})
        there = table["voxels"].to_numpy() > 0
        if not there.any():
            raise NotPublishedError(f"no regions were found in frame {number} of {self.key}: {table['reason'].to_numpy()[0]}")
        return Regions(label, profiles.sel(region=list(table["region"][there])), cast("pd.DataFrame", table[there]))

    def _volume(self, number: int) -> xr.Dataset:
        return self.result.frame(number).volume

    def _chosen(self, dataset: xr.Dataset) -> xr.Dataset:
        there = [number for number in self.numbers if number in dataset["frame"]]
        return dataset.sel(frame=there)
