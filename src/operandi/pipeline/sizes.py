"""d* of every voxel of a frame, from its volume alone, and of its regions."""

from collections.abc import Iterator

import numpy as np
import xarray as xr

from operandi.experiment import Experiment
from operandi.nodes import Array, Block, Container, Product
from operandi.pipeline import regions
from operandi.pipeline.tomograms import plane_coords
from operandi.stages.departures import NOT_MEASURED, REASONS
from operandi.stages.dstar import dstar_of, find_departures

_NAMES = {"value": "nm", "sigma": "nm", "slope": "1", "reason": "1"}
_PATH = "dstar"


def tree(experiment: Experiment, q: np.ndarray, units: str) -> Iterator[Product]:
    """Declare the nodes, where the experiment asks for d*; ``q`` and ``units`` are those of the volumes."""
    if experiment.dstar is None:
        return
    n = experiment.scan.translations
    plane = plane_coords(experiment.scan)
    about = {"reasons": list(REASONS), **experiment.dstar.model_dump(mode="json"), "source": "10.1039/D4EE00590B"}
    yield Container((_PATH,), about)
    for name, unit in _NAMES.items():
        dtype, fill = ("uint8", NOT_MEASURED) if name == "reason" else ("float32", float("nan"))
        yield Array((_PATH, name), ("frame", "y", "x"), (0, n, n), (1, n, n), dtype, fill, {"units": unit, "coords": plane})
    yield from regions.tree(experiment, q, units)


def products(frame: int, maps: np.ndarray, volume: np.ndarray, q: np.ndarray, experiment: Experiment) -> Iterator[Product]:
    """d*, its sigma, the slope above it and the code of the reason why there is none, of a volume (y, x, q); then the regions.

    ``maps`` (phase, y, x) are those of the experiment's windows.
    """
    section = experiment.dstar
    if section is None:
        return
    low, high = section.q_min_inv_angstrom, section.q_max_inv_angstrom
    tolerance = 1e-9 * high
    how = {"q_range": (low - tolerance, high + tolerance), "fit": (section.fit_from, section.fit_to)}
    found = find_departures(volume, None, q, **how)
    value, _ = dstar_of(found)
    arrays = {"value": value, "sigma": value * found.error, "slope": found.slope, "reason": found.code}
    for name, values in arrays.items():
        yield Block((_PATH, name), (frame, 0, 0), values[None].astype("uint8" if name == "reason" else "float32"))
    plane = {axis: coord["values"] for axis, coord in plane_coords(experiment.scan).items()}
    labelled = xr.DataArray(maps, {"phase": [w.phase for w in experiment.windows], **plane}, ("phase", "y", "x"))
    measured = xr.DataArray(volume, {**plane, "q": q}, ("y", "x", "q"))
    yield from regions.products(frame, labelled, measured, value, how)
