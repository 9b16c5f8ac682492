"""d* of every voxel of a frame, from its volume alone."""

from collections.abc import Iterator

import numpy as np

from operandi.experiment import Dstar, Experiment
from operandi.nodes import Array, Block, Container, Product
from operandi.pipeline.tomograms import plane_coords
from operandi.stages.departures import NOT_MEASURED, REASONS
from operandi.stages.dstar import dstar_of, find_departures

_NAMES = {"value": "nm", "sigma": "nm", "slope": "1", "reason": "1"}
_PATH = "dstar"


def tree(experiment: Experiment) -> Iterator[Product]:
    """Declare the arrays, where the experiment asks for d*."""
    if experiment.dstar is None:
        return
    n = experiment.scan.translations
    plane = plane_coords(experiment.scan)
    about = {"reasons": list(REASONS), **experiment.dstar.model_dump(mode="json"), "source": "10.1039/D4EE00590B"}
    yield Container((_PATH,), about)
    for name, units in _NAMES.items():
        dtype, fill = ("uint8", NOT_MEASURED) if name == "reason" else ("float32", float("nan"))
        yield Array((_PATH, name), ("frame", "y", "x"), (0, n, n), (1, n, n), dtype, fill, {"units": units, "coords": plane})


def blocks(frame: int, volume: np.ndarray, q: np.ndarray, section: Dstar | None) -> Iterator[Block]:
    """d*, its sigma, the slope above it and the code of the reason why there is none, of a volume (y, x, q)."""
    if section is None:
        return
    low, high = section.q_min_inv_angstrom, section.q_max_inv_angstrom
    tolerance = 1e-9 * high
    limits = (low - tolerance, high + tolerance)
    found = find_departures(volume, None, q, q_range=limits, fit=(section.fit_from, section.fit_to))
    value, _ = dstar_of(found)
    arrays = {"value": value, "sigma": value * found.error, "slope": found.slope, "reason": found.code}
    for name, values in arrays.items():
        yield Block((_PATH, name), (frame, 0, 0), values[None].astype("uint8" if name == "reason" else "float32"))
