"""One set of projections as it is measured: a buffer that exposures fill, and the corrected sinogram it becomes."""

from dataclasses import dataclass, field

import numpy as np

from operandi.experiment import Corrections, Scan
from operandi.stages import scans
from operandi.stages.corrections import correct_values
from operandi.stages.patterns import Patterns
from operandi.stages.sinograms import assemble

MISSING, ADMITTED, REFUSED = 0, 1, 2
STATUS = ("missing", "admitted", "refused")


@dataclass(frozen=True, slots=True)
class Positions:
    """Where and when ``n`` exposures were made; every array is (n,).

    Rotation in deg, translation in mm, monitor in its own unit (NaN where there is none), time the start of the
    exposure in UTC epoch s.
    """

    rotation: np.ndarray
    translation: np.ndarray
    monitor: np.ndarray
    time: np.ndarray


@dataclass(slots=True)
class SetBuffer:
    """Patterns and positions of one set, in the order of their seq_num; cells that nobody measured are NaN."""

    number: int
    intensity: np.ndarray
    sigma: np.ndarray
    positions: Positions
    status: np.ndarray
    reasons: dict[int, str] = field(default_factory=dict)

    @classmethod
    def empty(cls, number: int, images: int, n_q: int) -> "SetBuffer":
        """A set of ``images`` exposures of which none is measured yet."""
        rotation, translation, monitor, time = np.full((4, images), np.nan)
        intensity, sigma = np.full((2, images, n_q), np.nan, np.float32)
        return cls(number, intensity, sigma, Positions(rotation, translation, monitor, time), np.zeros(images, np.uint8))

    def admit(self, index: np.ndarray, patterns: Patterns, positions: Positions) -> None:
        """Put patterns (n, q) at ``index`` (n,); what was there before is overwritten."""
        self.intensity[index], self.sigma[index] = patterns.intensity, patterns.sigma
        for name in ("rotation", "translation", "monitor", "time"):
            getattr(self.positions, name)[index] = getattr(positions, name)
        self.status[index] = ADMITTED
        for i in index:
            self.reasons.pop(int(i), None)

    def refuse(self, index: int, reason: str) -> None:
        """Mark one exposure as not usable, and why; its pattern does not count."""
        self.status[index] = REFUSED
        self.reasons[index] = reason
        self.intensity[index] = self.sigma[index] = np.nan


@dataclass(frozen=True, slots=True)
class MeasuredSet:
    """A closed set: sinogram (rotation, translation, q) corrected, its variance, and when it was measured.

    ``rotation_deg`` is (rotation,); ``coverage`` (rotation, translation) counts patterns, 0 is not measured and NaN in
    the sinogram; ``t_start`` and ``t_end`` bound the exposures, UTC epoch s.
    """

    number: int
    rotation_deg: np.ndarray
    intensity: np.ndarray
    variance: np.ndarray
    coverage: np.ndarray
    t_start: float
    t_end: float

    @property
    def measured(self) -> int:
        """Number of cells that were measured."""
        return int(np.count_nonzero(self.coverage))


def refuse_off_grid(buffer: SetBuffer, scan: Scan) -> None:
    """Refuse admitted exposures whose translation is on no planned position."""
    off = (scans.column(scan, buffer.positions.translation) < 0) & (buffer.status == ADMITTED)
    low, *_, high = scans.translations_mm(scan)
    for i in np.flatnonzero(off):
        where = buffer.positions.translation[i]
        buffer.refuse(int(i), f"translation {where:.4g} mm lies outside the planned {low:.4g} to {high:.4g} mm")


def close(buffer: SetBuffer, scan: Scan, corrections: Corrections, monitor_reference: float) -> MeasuredSet:
    """The sinogram of a set, normalised to ``monitor_reference`` and free of air where the experiment asks for it."""
    shape = (scan.rotations_per_set, scan.translations)
    admitted = np.flatnonzero(buffer.status == ADMITTED)
    line, column = admitted // scan.translations, scans.column(scan, buffer.positions.translation[admitted])
    sinogram, coverage = assemble(buffer.intensity[admitted], line, column, *shape)
    sigma, _ = assemble(buffer.sigma[admitted], line, column, *shape)
    monitor, _ = assemble(buffer.positions.monitor[admitted, None], line, column, *shape)
    corrected, variance = correct_values(
        sinogram,
        variance=sigma**2,
        monitor=monitor[..., 0] if corrections.monitor else None,
        monitor_reference=monitor_reference,
        air=None if corrections.air == "none" else corrections.air,
        rim_points=corrections.rim_points,
    )
    times = buffer.positions.time[admitted]
    return MeasuredSet(
        number=buffer.number,
        rotation_deg=_line_rotations(buffer, scan, admitted),
        intensity=corrected,
        variance=np.asarray(variance),
        coverage=np.where(np.isfinite(corrected).any(axis=-1), coverage, 0),
        t_start=float(times.min()) if len(times) else np.nan,
        t_end=float(times.max()) + scan.exposure_s if len(times) else np.nan,
    )


def _line_rotations(buffer: SetBuffer, scan: Scan, admitted: np.ndarray) -> np.ndarray:
    """Mean measured angle of each line; the planned one where nothing was measured."""
    line = admitted // scan.translations
    count = np.bincount(line, minlength=scan.rotations_per_set)
    total = np.bincount(line, buffer.positions.rotation[admitted], minlength=scan.rotations_per_set)
    planned = scans.planned_rotations_deg(scan, buffer.number)
    return np.where(count > 0, total / np.maximum(count, 1), planned)
