"""What was measured beside the run and goes into its results: the pattern of air."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from operandi.errors import ShapeError
from operandi.experiment import Experiment
from operandi.nodes import Array, Block, Container, Product
from operandi.stages.air import Air

_AIR = "air"


@dataclass(frozen=True, slots=True)
class Companions:
    """What an experiment names besides its images, read and on the patterns' points in q; ``about`` says of each where it is from."""

    air: Air | None = None
    about: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def check(self, experiment: Experiment) -> None:
        """Raise ShapeError where the experiment asks for something that is not here."""
        if experiment.corrections.air == "measured" and self.air is None:
            raise ShapeError("the experiment subtracts measured air, but no pattern of air was handed over: read it with load_companions")


def tree(companions: Companions, q: np.ndarray) -> Iterator[Product]:
    """Declare and publish what is the same for all frames."""
    if companions.air is None:
        return
    coords = {"q": {"values": q.tolist(), "units": "1/angstrom"}}
    flux = companions.air.monitor
    yield Container((_AIR,), {**companions.about.get(_AIR, {}), "monitor": flux if np.isfinite(flux) else None})
    for name, values in (("intensity", companions.air.intensity), ("sigma", np.sqrt(companions.air.variance))):
        yield Array((_AIR, name), ("q",), (len(q),), (len(q),), metadata={"units": "counts", "coords": coords})
        yield Block((_AIR, name), (0,), values.astype(np.float32))
