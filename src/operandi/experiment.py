"""The experiment file: one YAML, checked against frozen models whose names carry the units."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationInfo, field_validator, model_validator

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        # YAML reads yes, no, on and off as switches, and pydantic would take them for 1 and 0.
        if isinstance(value, bool) and cls.model_fields[info.field_name or ""].annotation is not bool:
            raise ValueError(f"is read as the switch {str(value).lower()}, which has no meaning here: write a number, or text in quotes")
        return value


class Sample(_Section):
    """What is in the beam."""

    name: Annotated[str, Field(min_length=1)]
    """Short name; becomes part of the key of every result."""
    description: str = ""
    """For people; decides nothing."""


class Geometry(_Section):
    """Where the detector stands."""

    poni: Path
    """pyFAI calibration of the detector (.poni); of several in one file the last counts."""
    mask: Path | None = None
    """Image of the detector's shape, non-zero where a pixel is to be ignored (.edf, .npy, .tif, .h5)."""


class Integration(_Section):
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


class Keys(_Section):
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


class Scan(_Section):
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


class PotentiostatKeys(_Section):
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


class Potentiostat(_Section):
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
    """Filtered back projection, every point in q by itself."""
    filter: Literal["ramp", "shepp-logan", "cosine", "hann"] = "ramp"
    """Filter of the projections; all but the ramp trade sharpness for less noise."""
    axis_mm: float | None = None
    """Position of the rotation axis on the translation axis; null finds it in the first frame."""


class Dstar(_Section):
    """d* of every voxel: where its small-angle profile leaves the power law that it follows at high q."""

    q_min_inv_angstrom: Positive = 0.01
    """Lowest q that is looked at; leave out what the beam stop shadows."""
    q_max_inv_angstrom: Positive = 0.2
    """Highest q that is looked at; leave out where the background is no longer small."""
    fit_from: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Share of the points in between, counted from high q, where the fit of the power law begins."""
    fit_to: Annotated[float, Field(gt=0, le=1)] = 0.7
    """Share of the points where it ends."""

    @model_validator(mode="after")
    def _ordered(self):
        if self.q_max_inv_angstrom < 2.5 * self.q_min_inv_angstrom:
            raise ValueError("q_max_inv_angstrom must be at least 2.5 times q_min_inv_angstrom, for a power law and what lies below it")
        if self.fit_to <= self.fit_from:
            raise ValueError("fit_to must be above fit_from")
        return self

    def points(self, integration: Integration) -> float:
        """How many points of the patterns lie in its range."""
        width = (integration.q_max_inv_angstrom - integration.q_min_inv_angstrom) / integration.bins
        return (self.q_max_inv_angstrom - self.q_min_inv_angstrom) / width

    def fits(self, integration: Integration) -> bool:
        """Whether the patterns hold its range."""
        return integration.q_min_inv_angstrom <= self.q_min_inv_angstrom and self.q_max_inv_angstrom <= integration.q_max_inv_angstrom


_LEAST_POINTS = 40
"""Points that d* needs."""


def _dstar_in_range(validated: dict[str, Any]) -> Dstar | None:
    """The default, where the patterns hold small angles finely enough."""
    integration = validated.get("integration")
    if integration is None or integration.q_min_inv_angstrom > 0.03 or integration.q_max_inv_angstrom < 0.1:
        return None
    low, high = max(integration.q_min_inv_angstrom, 0.01), min(integration.q_max_inv_angstrom, 0.2)
    section = Dstar(q_min_inv_angstrom=low, q_max_inv_angstrom=high)
    return section if section.points(integration) >= _LEAST_POINTS else None


class QWindow(_Section):
    """A map: the intensity of each voxel's pattern between two q, above its background."""

    phase: Annotated[str, Field(min_length=1)]
    """Name of the map; each only once."""
    q_min_inv_angstrom: Positive
    """Lower edge of the window."""
    q_max_inv_angstrom: Positive
    """Upper edge of the window."""
    background: Literal["linear", "constant", "none"] = "linear"
    """What is subtracted under the peak: a line through both sides of the window, their mean, or nothing."""

    @model_validator(mode="after")
    def _ordered(self):
        if self.q_max_inv_angstrom <= self.q_min_inv_angstrom:
            raise ValueError("q_max_inv_angstrom must be above q_min_inv_angstrom")
        return self


class Composite(_Section):
    """Maps in false colour; each colour shows one phase or the sum of several."""

    name: Annotated[str, Field(min_length=1)]
    """Name of the composite; each only once."""
    red: tuple[str, ...] = ()
    """Phases shown in red."""
    green: tuple[str, ...] = ()
    """Phases shown in green."""
    blue: tuple[str, ...] = ()
    """Phases shown in blue."""


# The windows of Lübke et al. (10.1039/D4EE00590B, supporting information) where they state one; those of LiC6, LiC12, delithiated
# NMC and both NMC 110 come from the lattice constants.
DEFAULT_WINDOWS: tuple[QWindow, ...] = tuple(
    QWindow(phase=phase, q_min_inv_angstrom=q_min, q_max_inv_angstrom=q_max)
    for phase, q_min, q_max in (
        ("separator", 1.50, 1.56),
        ("LiC6", 1.66, 1.73),
        ("LiC12", 1.75, 1.80),
        ("graphite", 1.82, 1.90),
        ("aluminium", 2.66, 2.72),
        ("NMC lithiated 110", 4.37, 4.41),
        ("NMC delithiated 110", 4.43, 4.47),
        ("NMC lithiated", 4.57, 4.62),
        ("NMC delithiated", 4.62, 4.67),
        ("copper", 4.85, 4.95),
        ("casing", 5.05, 5.08),
    )
) + (QWindow(phase="silicon", q_min_inv_angstrom=0.025, q_max_inv_angstrom=0.1, background="none"),)
"""The maps of an experiment file that names none, as far as its q range holds them."""

DEFAULT_COMPOSITES: tuple[Composite, ...] = (
    Composite(name="cathode", red=("NMC delithiated",), green=("NMC lithiated",)),
    Composite(name="anode", red=("graphite",), green=("LiC6",), blue=("LiC12",)),
)
"""The composites of an experiment file that names none, as far as it has their maps."""


def _windows_in_range(validated: dict[str, Any]) -> tuple[QWindow, ...]:
    """The default windows that the patterns hold, with the bands on both sides from which a background is taken."""
    integration = validated.get("integration")
    if integration is None:
        return ()
    low, high = integration.q_min_inv_angstrom, integration.q_max_inv_angstrom
    two_bins = 2 * (high - low) / integration.bins
    fitting = []
    for window in DEFAULT_WINDOWS:
        width = window.q_max_inv_angstrom - window.q_min_inv_angstrom
        band = 0.0 if window.background == "none" else max(width / 3, two_bins)
        if low <= window.q_min_inv_angstrom - band and window.q_max_inv_angstrom + band <= high:
            fitting.append(window)
    return tuple(fitting)


def _composites_of_windows(validated: dict[str, Any]) -> tuple[Composite, ...]:
    phases = {window.phase for window in validated.get("windows", ())}
    return tuple(c for c in DEFAULT_COMPOSITES if phases.issuperset((*c.red, *c.green, *c.blue)))


class Guardian(_Section):
    """What the guardian watches while the run goes; null switches a rule off. Never part of a result's identity."""

    expected: Literal["protocol", "charge", "discharge", "any"] = "protocol"
    """What the cell should do. Protocol: each step goes on in the direction in which it began, and so it does after a rest."""
    accident_mah: Positive | None = 0.005
    """Charge that may go back before it counts as an accident."""
    wrong_current_ma: Positive | None = 0.2
    """Current against the direction, in two rows one after the other."""
    rest_ma: Positive = 0.05
    """Below this current the cell rests."""
    rest_drop_v: Positive | None = 0.15
    """Fall of the voltage at rest below that of the hold before it."""
    self_discharge_mv_h: Positive | None = 20.0
    """Fall of the voltage at rest, once it has relaxed."""
    relaxation_s: Annotated[float, Field(ge=0)] = 1800.0
    """Time that the voltage takes to relax after current has flowed."""
    self_discharge_window_s: Positive = 600.0
    """The rate is that between the means over two such times, one after the other."""
    voltage_min_v: float | None = 2.5
    """Lowest voltage allowed."""
    voltage_max_v: float | None = 4.25
    """Highest voltage allowed."""
    temperature_min_c: float | None = 10.0
    """Lowest temperature allowed, where one is read."""
    temperature_max_c: float | None = 45.0
    """Highest temperature allowed, where one is read."""
    log_silent_s: Positive | None = 120.0
    """Time without a new row of the log while exposures, or the clock, go on."""
    detector_silent_s: Positive | None = 120.0
    """Time without an exposure while the log, or the clock, goes on."""
    beam_fraction: Annotated[float, Field(gt=0, lt=1)] | None = 0.5
    """Incident flux, as a share of its running median, below which the beam is lost in two exposures one after the other."""

    @model_validator(mode="after")
    def _ordered(self):
        for name, unit in (("voltage", "v"), ("temperature", "c")):
            low, high = getattr(self, f"{name}_min_{unit}"), getattr(self, f"{name}_max_{unit}")
            if low is not None and high is not None and high <= low:
                raise ValueError(f"{name}_max_{unit} must be above {name}_min_{unit}")
        return self


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
    webhook: SecretStr | None = None
    """Address to which the guardian's events are posted as JSON while a run goes; null: nowhere."""

    @field_validator("webhook")
    @classmethod
    def _an_address(cls, address: SecretStr | None) -> SecretStr | None:
        # The address is a secret: the message must not show it.
        if address is not None and not re.fullmatch(r"https?://[^\s/]+\S*", address.get_secret_value()):
            raise ValueError("is no address of the web: write one that begins with https:// or http://")
        return address


class Experiment(_Section):
    """One operando experiment, from the detector to the published tree."""

    sample: Sample
    geometry: Geometry
    integration: Integration
    scan: Scan
    potentiostat: Potentiostat | None = None
    corrections: Corrections = Corrections()
    reconstruction: Reconstruction = Reconstruction()
    windows: tuple[QWindow, ...] = Field(default_factory=_windows_in_range)
    """The maps; omitted: those of the default windows that lie inside the q range."""
    composites: tuple[Composite, ...] = Field(default_factory=_composites_of_windows)
    """The composites; omitted: cathode and anode, where their phases have windows."""
    dstar: Dstar | None = Field(default_factory=_dstar_in_range)
    """d* of every voxel; omitted: where the q range holds 0.03 to 0.1 Å⁻¹ in enough points, else, as with null, none."""
    guardian: Guardian = Guardian()
    publishing: Publishing = Publishing()

    @model_validator(mode="after")
    def _small_angles(self):
        if self.dstar is None:
            return self
        if not self.dstar.fits(self.integration):
            raise ValueError("dstar reaches beyond the q range of integration: widen that, narrow dstar, or make it null")
        if (points := self.dstar.points(self.integration)) < _LEAST_POINTS:
            bins = math.ceil(self.integration.bins * _LEAST_POINTS / points)
            raise ValueError(f"dstar has only {points:.0f} points in q; with integration.bins of {bins} it has enough, or make it null")
        return self

    @model_validator(mode="after")
    def _known_phases(self):
        phases = [window.phase for window in self.windows]
        if not phases:
            raise ValueError("windows: there is none, and no default one lies inside the q range; name at least one map")
        if twice := {p for p in phases if phases.count(p) > 1}:
            raise ValueError(f"windows name {', '.join(sorted(twice))} twice: give each map a name of its own")
        names = [composite.name for composite in self.composites]
        if twice := {n for n in names if names.count(n) > 1}:
            raise ValueError(f"composites name {', '.join(sorted(twice))} twice: give each composite a name of its own")
        for composite in self.composites:
            for phase in (*composite.red, *composite.green, *composite.blue):
                if phase not in phases:
                    raise ValueError(f"composite {composite.name!r} shows {phase!r}, which no window defines; windows: {', '.join(phases)}")
        return self
