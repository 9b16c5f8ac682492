"""The experiment file: one YAML, checked against frozen models whose names carry the units."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Sample(_Section):
    """What is in the beam."""

    name: str
    """Short name; becomes part of the key of every result."""
    description: str = ""


class Geometry(_Section):
    """Where the detector stands."""

    poni: Path
    """pyFAI calibration of the detector (.poni); of several in one file the last counts."""
    mask: Path | None = None
    """Image of the detector's shape, non-zero where a pixel is to be ignored (.edf, .npy, .tif, .h5)."""


class Integration(_Section):
    """How an image becomes a pattern."""

    q_min_inv_angstrom: Annotated[float, Field(ge=0)]
    q_max_inv_angstrom: Positive
    bins: Annotated[int, Field(ge=2)] = 1000
    """Number of points in q, of equal width, from q_min to q_max (the outer edges of the first and last)."""
    splitting: Literal["no", "bbox", "full"] = "full"
    """Pixel splitting, as in pyFAI."""
    polarization: Annotated[float, Field(ge=-1, le=1)] | None = 0.99
    """Polarization factor, null for none."""
    dark: Path | None = None
    flat: Path | None = None
    dummy: float | None = None
    """Value of an invalid pixel besides the negative ones, which always are invalid."""

    @model_validator(mode="after")
    def _ordered(self):
        if self.q_max_inv_angstrom <= self.q_min_inv_angstrom:
            raise ValueError("q_max_inv_angstrom must be above q_min_inv_angstrom")
        return self


class Keys(_Section):
    """Names of the data keys in the run's documents."""

    image: str = "pilatus"
    rotation: str = "rotation"
    translation: str = "translation"
    monitor: str | None = "monitor"
    """Incident flux; null where there is none."""
    time: str | None = "time"
    """Start of each exposure in UTC epoch seconds; null takes the time of the event."""


class Scan(_Section):
    """How the cell is scanned: sets of interlaced projections by a pencil beam."""

    stream: str = "primary"
    keys: Keys = Keys()
    sets: Count
    rotations_per_set: Count
    rotation_start_deg: float = 0.0
    rotation_range_deg: Positive = 180.0
    """Range that one set covers; its last angle lies one step before the end."""
    interlaces: Count = 2
    """Set s is turned by (s mod interlaces) / interlaces of a rotation step."""
    translations: Annotated[int, Field(ge=2)]
    translation_start_mm: float
    translation_stop_mm: float
    """Centre of the last position (included)."""
    travel: Literal["alternating", "forward"] = "alternating"
    """Alternating: every other line runs backwards."""
    exposure_s: Positive
    """Time of one image, readout included."""
    window_sets: Count = 2
    """Consecutive sets behind one frame."""
    window_step: Count = 1

    @model_validator(mode="after")
    def _consistent(self):
        if self.translation_start_mm == self.translation_stop_mm:
            raise ValueError("translation_start_mm and translation_stop_mm are equal: the beam would not travel")
        if self.window_sets > self.sets:
            raise ValueError(f"window_sets is {self.window_sets}, but the scan has only {self.sets} set(s)")
        return self


class Potentiostat(_Section):
    """The log of the potentiostat, and how its clock relates to the beamline's."""

    file: Path
    """BioLogic .mpt or .mpr, or .csv; may still be growing, may appear late."""
    timezone: str = "UTC"
    """Time zone of the computer that writes the log, such as Europe/Paris."""
    clock_offset_s: float = 0.0
    """Seconds to add to potentiostat time to get beamline time."""
    late_s: Annotated[float, Field(ge=0)] = 60.0
    """How long a live frame waits, after the run's end, for a log that lags."""


class Corrections(_Section):
    """What is done to a sinogram before reconstruction."""

    monitor: bool = True
    """Divide by the incident flux."""
    air: Literal["rim", "none"] = "rim"
    """Rim: subtract the mean pattern of the outermost positions, which must lie outside the cell."""
    rim_points: Count = 2
    """Number of positions at either end of the translation that see only air."""


class Reconstruction(_Section):
    """How sinograms become volumes."""

    method: Literal["fbp"] = "fbp"
    filter: Literal["ramp", "shepp-logan", "cosine", "hann"] = "ramp"
    axis_mm: float | None = None
    """Position of the rotation axis on the translation axis; null finds it in the first frame."""


class QWindow(_Section):
    """A map: the intensity of each voxel's pattern between two q, above its background."""

    phase: str
    q_min_inv_angstrom: Positive
    q_max_inv_angstrom: Positive
    background: Literal["linear", "constant", "none"] = "linear"

    @model_validator(mode="after")
    def _ordered(self):
        if self.q_max_inv_angstrom <= self.q_min_inv_angstrom:
            raise ValueError("q_max_inv_angstrom must be above q_min_inv_angstrom")
        return self


class Composite(_Section):
    """Maps in false colour; each colour shows one phase or the sum of several."""

    name: str
    red: tuple[str, ...] = ()
    green: tuple[str, ...] = ()
    blue: tuple[str, ...] = ()


class Publishing(_Section):
    """Where results go. Never part of a result's identity."""

    tiled: str = "http://127.0.0.1:8000"
    """The Tiled server."""
    storage: Path = Path("data")
    """Folder for arrays; the server must be able to read it."""
    journal: Path = Path("journal")
    """Folder of the documents that the RunEngine wrote."""
    state: Path = Path("state")
    """Folder of the worker's spool."""


class Experiment(_Section):
    """One operando experiment, from the detector to the published tree."""

    sample: Sample
    geometry: Geometry
    integration: Integration
    scan: Scan
    potentiostat: Potentiostat | None = None
    corrections: Corrections = Corrections()
    reconstruction: Reconstruction = Reconstruction()
    windows: tuple[QWindow, ...]
    composites: tuple[Composite, ...] = ()
    publishing: Publishing = Publishing()

    @model_validator(mode="after")
    def _known_phases(self):
        phases = [window.phase for window in self.windows]
        if twice := {p for p in phases if phases.count(p) > 1}:
            raise ValueError(f"windows name {sorted(twice)} twice")
        for composite in self.composites:
            for phase in (*composite.red, *composite.green, *composite.blue):
                if phase not in phases:
                    raise ValueError(f"composite {composite.name!r} shows {phase!r}, which no window defines; windows: {', '.join(phases)}")
        return self
