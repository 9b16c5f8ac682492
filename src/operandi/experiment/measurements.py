"""What is measured and how: sample, detector, integration, scan."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from operandi.experiment.sections import Count, Positive, Section


class Sample(Section):
    """What is in the beam."""

    name: Annotated[str, Field(min_length=1)]
    """Short name; becomes part of the key of every result."""
    description: str = ""
    """For people; decides nothing."""


class Geometry(Section):
    """Where the detector stands."""

    poni: Path
    """pyFAI calibration of the detector (.poni); of several in one file the last counts."""
    mask: Path | None = None
    """Image of the detector's shape, non-zero where a pixel is to be ignored (.edf, .npy, .tif, .h5)."""


class Integration(Section):
    """How an image becomes a pattern."""

    q_min_inv_angstrom: Annotated[float, Field(ge=0)]
    """Lower edge of the first point in q."""
    q_max_inv_angstrom: Positive
    """Upper edge of the last point in q."""
    bins: Annotated[int, Field(ge=2)] = 1000
    """Number of points in q, of equal width, from q_min to q_max (the outer edges of the first and last)."""
    splitting: Literal["no", "bbox", "full"] = "full"
    """Pixel splitting, as in pyFAI."""
    polarization: Annotated[float, Field(ge=-1, le=1)] | None = 0.99
    """Polarization factor, null for none."""
    dark: Path | None = None
    """Image to subtract, counts in one exposure."""
    flat: Path | None = None
    """Image to divide by, the relative response of each pixel."""
    dummy: float | None = None
    """Value of an invalid pixel besides the negative ones, which always are invalid."""

    @model_validator(mode="after")
    def _ordered(self):
        if self.q_max_inv_angstrom <= self.q_min_inv_angstrom:
            raise ValueError("q_max_inv_angstrom must be above q_min_inv_angstrom")
        return self


class Keys(Section):
    """Names of the data keys in the run's documents."""

    image: str = "pilatus"
    """The detector's images."""
    rotation: str = "rotation"
    """Angle of the sample, degrees."""
    translation: str = "translation"
    """Position of the sample across the beam, mm."""
    monitor: str | None = "monitor"
    """Incident flux; null where there is none."""
    time: str | None = "exposure_start"
    """Start of each exposure in UTC epoch seconds; null takes the time of the event."""
    set: str | None = None
    """Number of the set, from 0, for scan.sets_by: key; null where there is none."""


class Scan(Section):
    """How the cell is scanned: sets of interlaced projections by a pencil beam."""

    stream: str = "primary"
    """Name of the stream that holds the images."""
    keys: Keys = Keys()
    sets: Count
    """Interlaced passes of the whole experiment."""
    rotations_per_set: Count
    """Lines, one at each angle, in one set."""
    rotation_start_deg: float = 0.0
    """Angle of the first line of the first set."""
    rotation_range_deg: Positive = 180.0
    """Range that one set covers; its last angle lies one step before the end."""
    interlaces: Count = 2
    """Set s is turned by (s mod interlaces) / interlaces of a rotation step; of no meaning to a golden order."""
    order: Literal["sequential", "bit-reversed", "golden"] = "sequential"
    """Sequential: the turns of the sets grow. Bit-reversed: the same turns, each halving a widest gap that the sets before left. Golden:
    each line of the whole scan stands range / 1.618… on from the one before, modulo the range."""
    inner: Literal["translation", "rotation"] = "translation"
    """What moves from image to image: the translation, through a line at each angle; or the rotation, through all angles at each place."""
    translations: Annotated[int, Field(ge=2)]
    """Positions, one image each, in one line; also the edge of the map in points."""
    translation_start_mm: float
    """Centre of the first position."""
    translation_stop_mm: float
    """Centre of the last position (included)."""
    travel: Literal["alternating", "forward"] = "alternating"
    """Alternating: every other line (with inner: rotation, every other sweep of the angle) runs backwards."""
    backlash_mm: float | Literal["auto"] = 0.0
    """What to add to the translation of lines that run backwards to get the true one; auto: found in the first frame."""
    sets_by: Literal["plan", "key", "motion"] = "plan"
    """How an exposure finds its set: by its number in the plan, by keys.set, or by the measured rotation and translation."""
    exposure_s: Positive
    """Time of one image, readout included."""
    window_sets: Count = 2
    """Consecutive sets behind one frame."""
    window_step: Count = 1
    """Sets between the starts of two frames."""

    @model_validator(mode="after")
    def _consistent(self):
        if self.translation_start_mm == self.translation_stop_mm:
            raise ValueError("translation_start_mm and translation_stop_mm are equal: the beam would not travel")
        if self.window_sets > self.sets:
            raise ValueError(f"window_sets is {self.window_sets}, but the scan has only {self.sets} set(s)")
        return self

    @field_validator("backlash_mm", mode="before")
    @classmethod
    def _number_or_auto(cls, value: Any) -> Any:
        # Said here, because pydantic would tell of each alternative on its own.
        if value != "auto" and not (isinstance(value, int | float) and math.isfinite(value)):
            raise ValueError(f"is {value!r}; write a number of mm, or auto")
        return value

    @model_validator(mode="after")
    def _measurable(self):
        if self.order == "golden" and self.inner == "rotation":
            raise ValueError("order: golden jumps from angle to angle, which inner: rotation cannot; make it bit-reversed")
        if self.sets_by == "key" and self.keys.set is None:
            raise ValueError("sets_by is key, but keys.set names no data key that holds the number of the set; name it")
        if self.backlash_mm != 0 and (self.inner == "rotation" or self.travel == "forward"):
            raise ValueError("backlash_mm corrects lines that run backwards, and here none does; leave it out")
        return self
