"""Projections of a set put back onto one rotation axis: what wobble and drift of sample or stage ask for.

Each set is made consistent in itself, and then moved as a whole onto the axis of the run, so that a drift from set to set is taken out too.
What goes like the cosine or sine of the rotation within a set is a move of the sample, and stays.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from operandi.experiment import Experiment, Scan
from operandi.nodes import Array, Block, Container, Product
from operandi.pipeline import travels
from operandi.pipeline.sets import MeasuredSet, with_lines_moved
from operandi.pipeline.tomograms import channel_sums
from operandi.stages import scans
from operandi.stages.wobble import locate_wobble

_PATH = "wobble"


@dataclass(frozen=True, slots=True)
class Straightened:
    """A set on the axis ``onto_mm``; ``offset_mm`` and ``sigma_mm`` (line,) say how far its projections lay off it. Sigma is infinite for
    projections that could not be compared: they move with their set."""

    measured: MeasuredSet
    offset_mm: np.ndarray
    sigma_mm: np.ndarray
    onto_mm: float


def straighten_set(measured: MeasuredSet, scan: Scan, onto_mm: float | None) -> Straightened:
    """The set, in the same memory, moved onto an axis; None: onto its own.

    Raises
    ------
    ShapeError
        Its projections are too few, or too empty, to find an axis.
    """
    offset, sigma, about = locate_wobble(channel_sums([measured])[0], measured.rotation_deg, scans.translations_mm(scan))
    onto = about["axis"] if onto_mm is None else onto_mm
    offset = offset + about["axis"] - onto
    return Straightened(with_lines_moved(measured, -offset / travels.pitch_mm(scan)), offset, sigma, onto)


def tree(experiment: Experiment) -> Iterator[Product]:
    """Declare what was found, where the experiment asks for it."""
    if experiment.corrections.wobble:
        lines = experiment.scan.rotations_per_set
        yield Container((_PATH,), {"reference": "each projection was moved back by its offset"})
        for name in ("offset", "sigma"):
            yield Array((_PATH, name), ("projection",), (0,), (lines,), "float64", metadata={"units": "mm"})


def blocks(found: Straightened) -> Iterator[Product]:
    """How far the projections of a set lay off, at their place."""
    first = found.measured.number * len(found.offset_mm)
    yield Block((_PATH, "offset"), (first,), found.offset_mm)
    yield Block((_PATH, "sigma"), (first,), found.sigma_mm)
