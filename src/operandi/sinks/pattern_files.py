"""Pattern files: integrated patterns as a table of text or as HDF5 that NeXus viewers open."""

from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import xarray as xr

from operandi.errors import PublishError

HDF5_SUFFIXES = (".h5", ".hdf5", ".nxs")


def write_patterns(patterns: xr.Dataset, path: str | Path, *, names: Sequence[str]) -> None:
    """Save ``intensity`` and ``sigma`` (image, q); ``names`` (image,) says what each image was.

    ``.h5``, ``.hdf5`` and ``.nxs`` become HDF5 with a default plot, anything else a table of comma-separated values with the columns q,
    intensity, sigma (numbered from the second image on). An empty bin is nan. Raises PublishError where the file cannot be written.
    """
    path = Path(path)
    try:
        if path.suffix.lower() in HDF5_SUFFIXES:
            _write_hdf5(patterns, path, names)
        else:
            _write_text(patterns, path, names)
    except OSError as error:
        raise PublishError(f"{path} cannot be written ({error}): give a path in a folder that can") from error


def _write_text(patterns: xr.Dataset, path: Path, names: Sequence[str]) -> None:
    intensity, sigma = patterns["intensity"], patterns["sigma"]
    columns, titles = [patterns["q"].values], ["q"]
    for number in range(patterns.sizes["image"]):
        columns += [intensity.values[number], sigma.values[number]]
        titles += [f"intensity_{number + 1}", f"sigma_{number + 1}"] if number else ["intensity", "sigma"]
    units = f"q in {patterns['q'].attrs['units']}, intensity and sigma in {intensity.attrs['units']}"
    about = [
        f"# {units}",
        *(f"# {key}: {value}" for key, value in patterns.attrs.items()),
        *(f"# image {i}: {n}" for i, n in enumerate(names, 1)),
    ]
    np.savetxt(
        path,
        np.column_stack(columns),
        fmt="%.8g",
        delimiter=",",
        header="\n".join([*about, ",".join(titles)]),
        comments="",
        encoding="utf-8",
    )


def _write_hdf5(patterns: xr.Dataset, path: Path, names: Sequence[str]) -> None:
    with h5py.File(path, "w") as file:
        file.attrs.update({"NX_class": "NXroot", "default": "entry"})
        entry = file.create_group("entry")
        entry.attrs.update({"NX_class": "NXentry", "default": "patterns"})
        data = entry.create_group("patterns")
        data.attrs.update({"NX_class": "NXdata", "signal": "intensity", "axes": ["image", "q"]} | patterns.attrs)
        for name, of in (("intensity", "intensity"), ("intensity_errors", "sigma"), ("q", "q")):
            data.create_dataset(name, data=patterns[of].values).attrs["units"] = patterns[of].attrs["units"]
        data.create_dataset("image", data=np.arange(1, patterns.sizes["image"] + 1))
        data.create_dataset("file", data=[str(name) for name in names])
