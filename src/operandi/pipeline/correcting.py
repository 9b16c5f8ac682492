"""The corrections that an experiment asks for, applied to some channels of a set at a time."""

from dataclasses import dataclass, field

import numpy as np

from operandi.experiment import Corrections, Scan
from operandi.pipeline.companions import Companions
from operandi.stages import scans
from operandi.stages.absorption import without_absorption
from operandi.stages.corrections import correct_in_place, without_dead_time
from operandi.stages.outliers import FEWEST_LINES, without_spots, without_stripes


@dataclass(frozen=True, slots=True)
class Chain:
    """What is done to the sinogram of a set, normalised to the flux ``reference``."""

    corrections: Corrections
    scan: Scan
    reference: float
    companions: Companions = field(default_factory=Companions)

    def correct(self, values: np.ndarray, variance: np.ndarray, monitor: np.ndarray, rotation_deg: np.ndarray, channels: slice) -> None:
        """Correct ``channels`` (rotation, translation, channel) of a set and their variance in place; monitor (rotation, translation)."""
        how = self.corrections
        if how.dead_time_s:
            values[:], variance[:] = without_dead_time(values, how.dead_time_s, self.scan.exposure_s, variance=variance)
        if how.monitor:  # behind the sample it takes out the transmission too
            correct_in_place(values, variance, monitor=monitor, monitor_reference=self.reference)
        if self.companions.transmission is not None:
            transmission = self.companions.transmission.at(rotation_deg, scans.translations_mm(self.scan))
            values[:], variance[:] = without_absorption(values, transmission, variance=variance)
        self._subtract_air(values, variance, channels)
        if how.spots_sigma is not None and len(rotation_deg) >= FEWEST_LINES:
            values[:], variance[:], _ = without_spots(values, rotation_deg, variance=variance, limit=how.spots_sigma)
        if how.stripes_width is not None and len(rotation_deg) >= FEWEST_LINES:
            values[:] = without_stripes(values, width=how.stripes_width)

    def _subtract_air(self, values: np.ndarray, variance: np.ndarray, channels: slice) -> None:
        if self.corrections.air == "measured":
            assert self.companions.air is not None
            air, own = self.companions.air.at(self.reference)
            correct_in_place(values, variance, air=air[channels], air_variance=own[channels])
        elif self.corrections.subtracts_rim:
            correct_in_place(values, variance, air="rim", rim_points=self.corrections.rim_points)
