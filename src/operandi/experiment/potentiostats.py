"""The log of the potentiostat, and its clock."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator, model_validator

from operandi.experiment.sections import Positive, Section


class PotentiostatKeys(Section):
    """Names of the data keys in potentiostat.stream."""

    voltage: str = "voltage"
    """Voltage of the cell."""
    current: str | None = "current"
    """Current, positive where it charges; null where there is none."""
    charge: str | None = None
    """Charge; null: the current is integrated."""
    step: str | None = None
    """Step of the protocol; null: recognised."""
    cycle: str | None = None
    """Cycle; null: recognised."""
    time: str | None = None
    """When these were read, UTC epoch seconds; null takes the time of the event."""


Role = Literal["time", "voltage", "current", "charge", "step", "cycle"]


class Potentiostat(Section):
    """The log of the potentiostat, and how its clock relates to the beamline's."""

    file: Path | None = None
    """BioLogic .mpt or .mpr, or .csv; may still be growing, may appear late. Null where a stream of the run is the log."""
    timezone: str = "UTC"
    """Time zone of the computer that writes the log, such as Europe/Paris."""
    start: str | None = None
    """When the log's clock stood at 0, where the file does not say so: date and time in that time zone, in quotes."""
    columns: dict[Role, str] = {}
    """Headers of the columns of a .csv, where they are not recognised."""
    units: dict[Role, str] = {}
    """Units, where neither headers nor data keys state them."""
    stream: str | None = None
    """Stream of the run that holds the log, for a potentiostat that bluesky reads; it has the beamline's clock."""
    keys: PotentiostatKeys = PotentiostatKeys()
    clock_offset_s: float | Literal["marker", "voltage", "current"] = 0.0
    """Seconds to add to potentiostat time to get beamline time. Marker: found from the first time that clock_key is above marker_level,
    which is when the log's current starts. Voltage, current: found at the run's end, by matching clock_key to the log."""
    clock_stream: str | None = None
    """Stream of the run that holds clock_key; null: that of the images."""
    clock_key: str | None = None
    """Data key of the marker, or of the beamline's own reading of voltage or current."""
    clock_time_key: str | None = None
    """Data key of when clock_key was read, UTC epoch seconds; null takes that of the images in their stream, in others the event's."""
    clock_search_s: Positive = 10800.0
    """Largest offset, either way, that is believed."""
    marker_level: float = 0.5
    """The marker is on above this."""
    marker_falls: bool = False
    """Whether the marker goes off when the current stops; then the drift is found as well, at the run's end."""
    rest_ma: Positive = 0.001
    """Currents up to this are none, where the start of the current or the steps of the protocol are recognised."""
    late_s: Annotated[float, Field(ge=0)] = 60.0
    """How long a live frame waits, after the run's end, for a log that lags."""

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError(f"{name!r} is no time zone of the IANA data base: write one such as Europe/Paris or UTC") from error
        return name

    @field_validator("clock_offset_s", mode="before")
    @classmethod
    def _number_or_way(cls, value: Any) -> Any:
        if value not in ("marker", "voltage", "current") and not (isinstance(value, int | float) and math.isfinite(value)):
            raise ValueError(f"is {value!r}; write a number of seconds, or marker, voltage or current")
        return value

    @model_validator(mode="after")
    def _one_log(self):
        if (self.file is None) == (self.stream is None):
            raise ValueError("give either the file of the log, or the stream of the run that holds it")
        if self.stream is not None and self.keys.current is None and self.keys.charge is None:
            raise ValueError("keys name neither a current nor a charge, so the charge cannot be known; name one")
        if isinstance(self.clock_offset_s, str) and self.stream is not None:
            raise ValueError("a stream of the run has the beamline's clock: leave clock_offset_s out, or give a number")
        if isinstance(self.clock_offset_s, str) and self.clock_key is None:
            raise ValueError(f"clock_offset_s is {self.clock_offset_s}, but clock_key names no data key to find it with; name one")
        return self
