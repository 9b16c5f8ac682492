"""One set of projections as it is measured: a buffer that exposures fill, and the corrected sinogram it becomes."""

from dataclasses import dataclass, field, replace

import numpy as np

from operandi.experiment import Scan
from operandi.kernels.units import run_units
from operandi.pipeline import travels
from operandi.pipeline.correcting import Chain
from operandi.pipeline.travels import Travel
from operandi.stages import scans
from operandi.stages.maps import Screening, apply_weights
from operandi.stages.patterns import Patterns
from operandi.stages.sinograms import assemble

MISSING, ADMITTED, REFUSED = 0, 1, 2
STATUS = ("missing", "admitted", "refused")
CHANNELS = 64
"""Channels that are corrected at once: few enough that what is computed in between stays small beside a set."""


@dataclass(frozen=True, slots=True)
class Positions:
    """Where and when ``n`` exposures were made; every array is (n,).

    Rotation in deg, translation in mm, monitor in its own unit (NaN where there is none), time the start of the
    exposure in UTC epoch s; ``set`` the number of the set, where a data key tells it.
    """

    rotation: np.ndarray
    translation: np.ndarray
    monitor: np.ndarray
    time: np.ndarray
    set: np.ndarray | None = None


@dataclass(slots=True)
class SetBuffer:
    """Patterns and positions of one set, line after line (see `operandi.stages.scans`); cells that nobody measured are NaN."""

    number: int
    translations: int
    intensity: np.ndarray
    sigma: np.ndarray
    positions: Positions
    seq_num: np.ndarray
    """(exposure,) int64; 0 where that is not known."""
    status: np.ndarray
    unsent: np.ndarray
    """(line,) bool: lines whose patterns are not published as they stand now."""
    reasons: dict[int, str] = field(default_factory=dict)

    @classmethod
    def empty(cls, number: int, lines: int, translations: int, n_q: int, seq_num: np.ndarray | None = None) -> "SetBuffer":
        """A set of ``lines`` · ``translations`` exposures of which none is measured yet, with the ``seq_num`` planned, if any are."""
        images = lines * translations
        rotation, translation, monitor, time = np.full((4, images), np.nan)
        intensity, sigma = (np.full((images, n_q), np.nan, np.float32) for _ in range(2))
        positions = Positions(rotation, translation, monitor, time)
        seq_num = np.zeros(images, np.int64) if seq_num is None else seq_num
        return cls(number, translations, intensity, sigma, positions, seq_num, np.zeros(images, np.uint8), np.ones(lines, bool))

    @property
    def settled(self) -> bool:
        """Whether every exposure was admitted or refused."""
        return bool((self.status != MISSING).all())

    def claim(self, index: np.ndarray, seq_num: np.ndarray) -> list[tuple[int, int]]:
        """Give places to exposures that no plan gave them: (earlier, later) ``seq_num`` of each that takes another's place."""
        replaced = []
        for place, later in zip(index.tolist(), seq_num.tolist(), strict=True):
            earlier = int(self.seq_num[place])
            if earlier not in (0, later):
                replaced.append((earlier, later))
            self.seq_num[place] = later
        return replaced

    def admit(self, index: np.ndarray, patterns: Patterns, positions: Positions) -> None:
        """Put patterns (n, q) at ``index`` (n,); what was there before is overwritten."""
        self.intensity[index], self.sigma[index] = patterns.intensity, patterns.sigma
        for name in ("rotation", "translation", "monitor", "time"):
            getattr(self.positions, name)[index] = getattr(positions, name)
        self.status[index] = ADMITTED
        self.unsent[index // self.translations] = True
        for i in index:
            self.reasons.pop(int(i), None)

    def refuse(self, index: int, reason: str) -> None:
        """Mark one exposure as not usable, and why; its pattern does not count."""
        self.status[index] = REFUSED
        self.reasons[index] = reason
        self.unsent[index // self.translations] = True
        self.intensity[index] = self.sigma[index] = np.nan

    def take_unsent(self, *, settled: bool) -> list[int]:
        """Lines that are to be published now, all or only those of which nothing more is to come; they count as sent."""
        chosen = self.unsent.copy()
        if settled:
            chosen &= (self.status.reshape(-1, self.translations) != MISSING).all(axis=1)
        self.unsent[chosen] = False
        return np.flatnonzero(chosen).tolist()


@dataclass(frozen=True, slots=True)
class MeasuredSet:
    """A closed set: sinogram (rotation, translation, q) corrected, and when it was measured.

    ``sums`` (rotation, translation, phase) are those over the windows, which the maps need, and ``variance`` is theirs. ``rotation_deg`` is
    (rotation,); ``coverage`` (rotation, translation) counts patterns, 0 is not measured and NaN in the sinogram; ``t_start`` and
    ``t_end`` bound the exposures, UTC epoch s. ``travel`` tells of backlash what the lines themselves do; None where none is corrected.
    """

    number: int
    rotation_deg: np.ndarray
    intensity: np.ndarray
    sums: np.ndarray
    variance: np.ndarray
    coverage: np.ndarray
    t_start: float
    t_end: float
    travel: Travel | None = None

    @property
    def measured(self) -> int:
        """Number of cells that were measured."""
        return int(np.count_nonzero(self.coverage))


def refuse_off_grid(buffer: SetBuffer, scan: Scan) -> None:
    """Refuse admitted exposures whose translation is on no planned position."""
    off = (_columns(buffer, scan) < 0) & (buffer.status == ADMITTED)
    low, *_, high = scans.translations_mm(scan)
    for i in np.flatnonzero(off):
        where = buffer.positions.translation[i]
        buffer.refuse(int(i), f"translation {where:.4g} mm lies outside the planned {low:.4g} to {high:.4g} mm")


def _columns(buffer: SetBuffer, scan: Scan) -> np.ndarray:
    """(exposure,) the column of each; -1 for none."""
    if scan.backlash_mm == 0:
        return scans.column(scan, buffer.positions.translation)
    return travels.travel_columns(buffer.positions.translation, buffer.status == ADMITTED, scan)[0]


def close(buffer: SetBuffer, scan: Scan, chain: Chain, screening: Screening) -> MeasuredSet:
    """The sinogram of a set, corrected by the ``chain``.

    Consumes the buffer: the sinogram takes the place of its patterns, so that a set is held only once. ``screening`` is by the
    windows.
    """
    admitted = np.flatnonzero(buffer.status == ADMITTED)
    coverage, monitor = _into_columns(buffer, scan)
    shape = (scan.rotations_per_set, scan.translations, -1)
    intensity, variance = buffer.intensity.reshape(shape), np.square(buffer.sigma, out=buffer.sigma).reshape(shape)
    rotation = _line_rotations(buffer, scan, admitted)

    def correct_channels(number: int) -> None:
        part = (..., slice(number * CHANNELS, (number + 1) * CHANNELS))
        chain.correct(intensity[part], variance[part], monitor, rotation, part[1])

    run_units(correct_channels, -(-intensity.shape[-1] // CHANNELS))
    times = buffer.positions.time[admitted]
    return MeasuredSet(
        number=buffer.number,
        rotation_deg=rotation,
        intensity=intensity,
        sums=np.moveaxis(apply_weights(intensity, screening.weights), 0, -1),
        variance=np.moveaxis(apply_weights(variance, screening.variance), 0, -1),
        coverage=np.where(_any_finite(intensity), coverage, 0),
        t_start=float(times.min()) if len(times) else np.nan,
        t_end=float(times.max()) + scan.exposure_s if len(times) else np.nan,
        travel=None if scan.backlash_mm == 0 else travels.travel_of(buffer.positions.translation, buffer.positions.time, admitted, scan),
    )


def without_backlash(measured: MeasuredSet, scan: Scan, backlash_mm: float) -> MeasuredSet:
    """The set with its lines on the planned positions, in the same memory; cells that no exposure came near are not measured."""
    if measured.travel is None:
        return measured
    return replace(with_lines_moved(measured, travels.true_offsets(measured.travel, scan, backlash_mm)), travel=None)


def with_lines_moved(measured: MeasuredSet, offsets: np.ndarray) -> MeasuredSet:
    """The set, in the same memory, whose lines were measured ``offsets`` (line,) steps beside their columns, on these."""
    intensity, sums, variance, coverage = measured.intensity, measured.sums, measured.variance, measured.coverage.copy()
    for line, off in enumerate(offsets):
        if off and coverage[line].any():
            intensity[line] = travels.moved(intensity[line], off)
            sums[line] = travels.moved(sums[line], off)
            variance[line] = travels.moved_variance(variance[line], off)
            covered = travels.moved(coverage[line].astype(np.float32)[:, None], np.rint(off))[:, 0]
            coverage[line] = np.nan_to_num(covered)
    return replace(measured, coverage=coverage)


def _into_columns(buffer: SetBuffer, scan: Scan) -> tuple[np.ndarray, np.ndarray]:
    """Bring the patterns of each line into the order of the translations, in place; coverage and monitor (rotation, translation)."""
    coverage = np.zeros((scan.rotations_per_set, scan.translations), np.int32)
    monitor = np.full(coverage.shape, np.nan, np.float32)
    column = _columns(buffer, scan)

    def order(line: int) -> None:
        here = slice(line * scan.translations, (line + 1) * scan.translations)
        admitted = np.flatnonzero(buffer.status[here] == ADMITTED)
        if np.array_equal(np.sort(column[here]), np.arange(scan.translations)) and len(admitted) == scan.translations:
            places = np.argsort(column[here])
            coverage[line], monitor[line] = 1, buffer.positions.monitor[here][places]
            if (np.diff(places) != 1).any():
                buffer.intensity[here], buffer.sigma[here] = buffer.intensity[here][places], buffer.sigma[here][places]
            return
        at = (np.zeros(len(admitted), np.int64), column[here][admitted], 1, scan.translations)
        (intensity,), (coverage[line],) = assemble(buffer.intensity[here][admitted], *at)
        (buffer.sigma[here],), _ = assemble(buffer.sigma[here][admitted], *at)
        (monitor[line],) = assemble(buffer.positions.monitor[here][admitted, None], *at).values[..., 0]
        buffer.intensity[here] = intensity

    run_units(order, scan.rotations_per_set)
    return coverage, monitor


def _any_finite(sinogram: np.ndarray) -> np.ndarray:
    """(rotation, translation) whether any channel is finite, line by line: no temporary array of the sinogram's size."""
    return np.stack([np.isfinite(line).any(axis=-1) for line in sinogram])


def _line_rotations(buffer: SetBuffer, scan: Scan, admitted: np.ndarray) -> np.ndarray:
    """Mean measured angle of each line; the planned one where nothing was measured."""
    line = admitted // scan.translations
    return scans.line_rotations_deg(scan, buffer.number, line, buffer.positions.rotation[admitted])
