"""How well published maps show what the simulated cell holds. For tests and reports: the pipeline never sees the truth."""

from pathlib import Path

import h5py
import numpy as np
import xarray as xr


def load_truth(path: Path) -> xr.Dataset:
    """The truth beside a rehearsal's data: ``maps`` (frame, phase, y, x), ``present`` (frame, phase)."""
    with h5py.File(path) as file:
        read = {name: np.asarray(file[name]) for name in ("maps", "present", "phases", "y", "x")}
    return xr.Dataset(
        {"maps": (("frame", "phase", "y", "x"), read["maps"]), "present": (("frame", "phase"), read["present"])},
        coords={"phase": np.char.decode(read["phases"].astype(bytes), "utf-8"), "y": read["y"], "x": read["x"]},
    )


def correlations(maps: xr.Dataset, truth: xr.Dataset) -> xr.DataArray:
    """Pearson correlation (frame, phase) of each map with the truth; NaN where the phase is not present in the frame.

    ``maps`` has ``intensity`` (frame, phase, y, x) on the truth's grid; only phases that both have are compared.
    """
    phases = [phase for phase in maps["phase"].values if phase in truth["phase"].values]
    frames = maps["frame"].values.astype(int)
    values = np.full((len(frames), len(phases)), np.nan)
    for i, frame in enumerate(frames):
        for j, phase in enumerate(phases):
            wanted = truth.sel(phase=phase).isel(frame=frame)
            if bool(wanted["present"]):
                measured = maps["intensity"].sel(phase=phase).isel(frame=i).values
                good = np.isfinite(measured)
                values[i, j] = np.corrcoef(measured[good], wanted["maps"].values[good])[0, 1]
    return xr.DataArray(values, dims=("frame", "phase"), coords={"frame": frames, "phase": phases})
