"""The corrections that an experiment asks for, applied to some channels of a set at a time."""

from dataclasses import dataclass, field

import numpy as np

from operandi.experiment import Corrections, Scan
from operandi.pipeline.companions import Companions
from operandi.stages import scans
from operandi.stages.absorption import without_absorption
from operandi.stages.corrections import correct_values, without_dead_time
from operandi.stages.outliers import FEWEST_LINES, without_spots, without_stripes

Corrected = tuple[np.ndarray, np.ndarray | None]


@dataclass(frozen=True, slots=True)
class Chain:
    """What is done to the sinogram of a set, normalised to the flux ``reference``."""

    corrections: Corrections
    scan: Scan
    reference: float
    companions: Companions = field(default_factory=Companions)

    def apply(
        self, intensity: np.ndarray, variance: np.ndarray, monitor: np.ndarray, rotation_deg: np.ndarray, channels: slice
    ) -> Corrected:
        """The ``channels`` (rotation, translation, channel) of a set and their variance, corrected; monitor (rotation, translation)."""
        how, found = self.corrections, (intensity, variance)
        if how.dead_time_s:
            found = without_dead_time(intensity, how.dead_time_s, self.scan.exposure_s, variance=variance)
        found = self._on_one_scale(*found, monitor)
        if self.companions.transmission is not None:
            transmission = self.companions.transmission.at(rotation_deg, scans.translations_mm(self.scan))
            found = without_absorption(found[0], transmission, variance=found[1])
        found = self._without_air(*found, channels)
        if how.spots_sigma is not None and len(rotation_deg) >= FEWEST_LINES:
            found = without_spots(found[0], rotation_deg, variance=found[1], limit=how.spots_sigma)[:2]
        if how.stripes_width is not None and len(rotation_deg) >= FEWEST_LINES:
            found = without_stripes(found[0], width=how.stripes_width), found[1]
        return found

    def _on_one_scale(self, intensity: np.ndarray, variance: np.ndarray | None, monitor: np.ndarray) -> Corrected:
        """By the monitor; where it stands behind the sample, this takes out the transmission too."""
        if not self.corrections.monitor:
            return intensity, variance
        return correct_values(intensity, variance=variance, monitor=monitor, monitor_reference=self.reference)

    def _without_air(self, intensity: np.ndarray, variance: np.ndarray | None, channels: slice) -> Corrected:
        if self.corrections.air == "measured":
            assert self.companions.air is not None
            air, air_variance = self.companions.air.at(self.reference)
            return correct_values(intensity, variance=variance, air=air[channels], air_variance=air_variance[channels])
        if not self.corrections.subtracts_rim:
            return intensity, variance
        return correct_values(intensity, variance=variance, air="rim", rim_points=self.corrections.rim_points)
