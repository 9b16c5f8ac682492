"""The experiment file: one YAML, checked against frozen models whose names carry the units."""

from __future__ import annotations

import math

from pydantic import Field, model_validator

from operandi.experiment.contents import LITHIUM_PHASES, Decomposition, Lithium, Peak, ReferencePattern, lithium_of_windows
from operandi.experiment.corrections import Absorption, Corrections, MeasuredAir
from operandi.experiment.measurements import Geometry, Integration, Keys, Sample, Scan
from operandi.experiment.potentiostats import Potentiostat, PotentiostatKeys, Role
from operandi.experiment.processing import LEAST_POINTS, Dstar, Reconstruction, dstar_in_range
from operandi.experiment.screening import (
    DEFAULT_COMPOSITES,
    DEFAULT_WINDOWS,
    Composite,
    QWindow,
    Subtraction,
    composites_of_windows,
    windows_in_range,
)
from operandi.experiment.sections import Section
from operandi.experiment.services import Guardian, Publishing

__all__ = [
    "Absorption",
    "Composite",
    "Corrections",
    "DEFAULT_COMPOSITES",
    "DEFAULT_WINDOWS",
    "Decomposition",
    "Dstar",
    "Experiment",
    "Geometry",
    "Guardian",
    "Integration",
    "Keys",
    "LITHIUM_PHASES",
    "Lithium",
    "MeasuredAir",
    "Peak",
    "Potentiostat",
    "PotentiostatKeys",
    "Publishing",
    "QWindow",
    "Reconstruction",
    "ReferencePattern",
    "Role",
    "Sample",
    "Scan",
    "Subtraction",
]


class Experiment(Section):
    """One operando experiment, from the detector to the published tree."""

    sample: Sample
    geometry: Geometry
    integration: Integration
    scan: Scan
    potentiostat: Potentiostat | None = None
    corrections: Corrections = Corrections()
    reconstruction: Reconstruction = Reconstruction()
    windows: tuple[QWindow, ...] = Field(default_factory=windows_in_range)
    """The maps; omitted: those of the default windows that lie inside the q range."""
    composites: tuple[Composite, ...] = Field(default_factory=composites_of_windows)
    """The composites; omitted: cathode and anode, where their phases have windows."""
    dstar: Dstar | None = Field(default_factory=dstar_in_range)
    """d* of every voxel; omitted: where the q range holds 0.03 to 0.1 Å⁻¹ in enough points, else, as with null, none."""
    peaks: tuple[Peak, ...] = ()
    """Peaks of every voxel."""
    decomposition: Decomposition | None = None
    """Amounts of reference patterns in every voxel; null: none."""
    lithium: Lithium | None = Field(default_factory=lithium_of_windows)
    """The balance of lithium; omitted: where graphite, LiC12, LiC6 and NMC, lithiated and delithiated, have windows, else, as with null,
    none."""
    guardian: Guardian = Guardian()
    publishing: Publishing = Publishing()

    @model_validator(mode="after")
    def _small_angles(self):
        if self.dstar is None:
            return self
        if not self.dstar.fits(self.integration):
            raise ValueError("dstar reaches beyond the q range of integration: widen that, narrow dstar, or make it null")
        if (points := self.dstar.points(self.integration)) < LEAST_POINTS:
            bins = math.ceil(self.integration.bins * LEAST_POINTS / points)
            raise ValueError(f"dstar has only {points:.0f} points in q; with integration.bins of {bins} it has enough, or make it null")
        return self

    @model_validator(mode="after")
    def _peaks_in_range(self):
        names = [peak.name for peak in self.peaks]
        if twice := {n for n in names if names.count(n) > 1}:
            raise ValueError(f"peaks name {', '.join(sorted(twice))} twice: give each peak a name of its own")
        for peak in self.peaks:
            if fault := peak.fault(self.integration):
                raise ValueError(fault)
        return self

    @model_validator(mode="after")
    def _lithium_is_seen(self):
        missing = set(LITHIUM_PHASES) - {window.phase for window in self.windows}
        if self.lithium is not None and missing:
            lacking = ", ".join(phase for phase in LITHIUM_PHASES if phase in missing)
            raise ValueError(
                f"lithium needs windows {', '.join(LITHIUM_PHASES)}, of which {lacking} are missing: name them, or make it null"
            )
        return self

    @model_validator(mode="after")
    def _cylinder_has_an_axis(self):
        absorption = self.corrections.absorption
        if absorption is not None and absorption.layers and self.reconstruction.axis_mm is None:
            raise ValueError("corrections.absorption.layers lie about the rotation axis: give reconstruction.axis_mm")
        return self

    @model_validator(mode="after")
    def _known_phases(self):
        phases = [window.phase for window in self.windows]
        if not phases:
            raise ValueError("windows: there is none, and no default one lies inside the q range; name at least one map")
        if twice := {p for p in phases if phases.count(p) > 1}:
            raise ValueError(f"windows name {', '.join(sorted(twice))} twice: give each map a name of its own")
        for window in self.windows:
            for taken in window.subtract:
                if taken.phase not in phases or taken.phase == window.phase:
                    raise ValueError(
                        f"window {window.phase!r} subtracts {taken.phase!r}, which is no other window; windows: {', '.join(phases)}"
                    )
        names = [composite.name for composite in self.composites]
        if twice := {n for n in names if names.count(n) > 1}:
            raise ValueError(f"composites name {', '.join(sorted(twice))} twice: give each composite a name of its own")
        for composite in self.composites:
            for phase in (*composite.red, *composite.green, *composite.blue):
                if phase not in phases:
                    raise ValueError(f"composite {composite.name!r} shows {phase!r}, which no window defines; windows: {', '.join(phases)}")
        return self
