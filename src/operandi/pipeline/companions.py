"""What was measured beside the run and goes into its results: the pattern of air, the transmission of the cell."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from operandi.errors import ShapeError
from operandi.experiment import Experiment, Scan
from operandi.nodes import Array, Block, Container, Product
from operandi.stages import scans
from operandi.stages.absorption import transmission_at
from operandi.stages.air import Air

_AIR, _ABSORPTION = "air", "absorption"


@dataclass(frozen=True, slots=True)
class Transmission:
    """Surviving fraction (rotation, translation) of the beam on each path, 1 beside the cell; of one rotation: the same for all."""

    values: np.ndarray
    rotation_deg: np.ndarray
    translation_mm: np.ndarray

    def at(self, rotation_deg: np.ndarray, translation_mm: np.ndarray) -> np.ndarray:
        """(rotation, translation) at the angles and positions of a set."""
        if len(self.values) == 1:
            return np.repeat(self.values, len(rotation_deg), axis=0)
        return transmission_at(rotation_deg, translation_mm, self.values, self.rotation_deg, self.translation_mm)


@dataclass(frozen=True, slots=True)
class Companions:
    """What an experiment names besides its images, read and on the patterns' points in q; ``about`` says of each where it is from."""

    air: Air | None = None
    transmission: Transmission | None = None
    references: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Patterns (q,) that voxels are taken to be made of, by name."""
    about: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def check(self, experiment: Experiment) -> None:
        """Raise ShapeError where the experiment asks for something that is not here."""
        if experiment.corrections.air == "measured" and self.air is None:
            raise ShapeError("the experiment subtracts measured air, but no pattern of air was handed over: read it with load_companions")
        if experiment.decomposition is not None and not self.references:
            raise ShapeError("the experiment decomposes patterns, but no references were handed over: read them with load_companions")
        if experiment.corrections.absorption is not None and self.transmission is None:
            raise ShapeError("the experiment corrects absorption, but no transmission was handed over: read it with load_companions")


def tree(companions: Companions, scan: Scan, q: np.ndarray) -> Iterator[Product]:
    """Declare and publish what is the same for all frames."""
    if companions.transmission is not None:
        rotation, translation = scans.planned_rotations_deg(scan, 0), scans.translations_mm(scan)
        values = companions.transmission.at(rotation, translation).astype(np.float32)
        coords = {
            "rotation": {"values": rotation.tolist(), "units": "deg"},
            "translation": {"values": translation.tolist(), "units": "mm"},
        }
        path = (_ABSORPTION, "transmission")
        yield Container((_ABSORPTION,), companions.about.get(_ABSORPTION, {}))
        yield Array(path, ("rotation", "translation"), values.shape, values.shape, metadata={"units": "1", "coords": coords})
        yield Block(path, (0, 0), values)
    if companions.air is None:
        return
    coords = {"q": {"values": q.tolist(), "units": "1/angstrom"}}
    flux = companions.air.monitor
    yield Container((_AIR,), {**companions.about.get(_AIR, {}), "monitor": flux if np.isfinite(flux) else None})
    for name, values in (("intensity", companions.air.intensity), ("sigma", np.sqrt(companions.air.variance))):
        yield Array((_AIR, name), ("q",), (len(q),), (len(q),), metadata={"units": "counts", "coords": coords})
        yield Block((_AIR, name), (0,), values.astype(np.float32))
