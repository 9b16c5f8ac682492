"""The projections of sets as the maps see them, and the maps of one moment made of them.

A set is kept as its *phase sinogram*: the windows of the maps applied to its projections. That is a hundredth of the set, and all that
maps need. The service makes its frames of one instant of these, and so does any client, by the same functions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from operandi.errors import ShapeError
from operandi.stages import charge
from operandi.stages.instants import Instant, Projections, Scheme, instant_sinogram
from operandi.stages.sinograms import fill_gaps, usable_projections
from operandi.stages.temporal import TemporalModel, learn
from operandi.stages.trends import with_trend
from operandi.stages.volumes import partial_variance, partial_volume

LOG_GAP_S = 600.0
"""Between rows of the log further apart than this the charge is unknown; stated, so that live and replay agree."""
_BLOCKS = 12
"""Where a set is measured translation by translation, so many stretches of translations have a progress of their own."""


@dataclass(frozen=True, slots=True)
class PhaseSet:
    """The phase sinogram of one set: intensity and variance (rotation, translation, phase), NaN where not measured.

    ``rotation_deg`` (rotation,); ``time`` (rotation, translation) the middle of each exposure, UTC epoch s, NaN where none was made.
    """

    number: int
    rotation_deg: np.ndarray
    time: np.ndarray
    intensity: np.ndarray
    variance: np.ndarray

    @property
    def ends(self) -> float:
        """The last moment of it that counts."""
        return float(np.nanmax(self.time))


@dataclass(frozen=True, slots=True)
class View:
    """How projections are reconstructed: the positions of their cells (translation,), the rotation axis on these, and the filter."""

    translation_mm: np.ndarray
    axis_mm: float
    filter: str = "ramp"

    def maps(self, sinogram: np.ndarray, rotation_deg: np.ndarray) -> np.ndarray:
        """Maps (phase, y, x) of a phase sinogram (rotation, translation, phase)."""
        return np.moveaxis(partial_volume(sinogram, rotation_deg, self.translation_mm, self.axis_mm, self.filter), -1, 0)

    def sigma(self, variance: np.ndarray, rotation_deg: np.ndarray) -> np.ndarray:
        """Standard deviation (phase, y, x) of the maps, of the variance of their phase sinogram."""
        maps = partial_variance(variance, rotation_deg, self.translation_mm, self.axis_mm, self.filter)
        return np.moveaxis(np.sqrt(maps), -1, 0)


@dataclass(frozen=True, slots=True)
class Course:
    """The projections of some sets along their progress: what a map of any moment is made of.

    ``projections`` holds what can be used, without gaps, of the ``phases`` (numbers) that are measured, each in units of its own noise,
    ``noise`` (phase,). Progress is the charge in mAh where it is known of all of them (``by_charge``), else the time in s since ``origin``.
    ``model`` is None where none can be learned; ``reason`` says why.
    """

    projections: Projections
    phases: np.ndarray
    n_phases: int
    noise: np.ndarray
    by_charge: bool
    origin: float
    model: TemporalModel | None
    reason: str


@dataclass(frozen=True, slots=True)
class InstantMaps:
    """Maps (phase, y, x) of one moment and their standard deviation; NaN for phases that were not measured."""

    intensity: np.ndarray
    sigma: np.ndarray
    instant: Instant


def course_of(sets: Sequence[PhaseSet], log: charge.Log, view: View, *, by_charge: bool = True, learned: bool = True) -> Course:
    """The projections of some sets, in the order in which they were measured, and the temporal model that they teach.

    Projections of which less than half is measured are left out, and single missing cells interpolated, as in any frame.

    Parameters
    ----------
    log : in beamline time.
    by_charge : take the charge for progress, where the log tells it of every projection.
    learned : whether a model is wanted.
    """
    rotation, time, intensity, variance = (
        np.concatenate([getattr(one, name) for one in sets]) for name in ("rotation_deg", "time", "intensity", "variance")
    )
    phases = np.flatnonzero(np.isfinite(intensity).any(axis=(0, 1)))
    usable = usable_projections(intensity[..., phases]) & np.isfinite(time).any(axis=1)
    time = time[usable]
    charges = charge.at(log, time, gap_s=LOG_GAP_S).charge if by_charge else np.full(time.shape, np.nan)
    known = bool(len(time)) and bool((np.isfinite(charges) == np.isfinite(time)).all())
    origin = 0.0 if known or not len(time) else float(np.nanmin(time))
    progress = _progress(charges if known else time - origin, time)
    filled, lost = fill_gaps(np.ascontiguousarray(intensity[usable][..., phases], np.float32))
    spread, _ = fill_gaps(np.ascontiguousarray(variance[usable][..., phases], np.float32))
    phases, filled, spread = phases[~lost], filled[..., ~lost], spread[..., ~lost]
    noise = np.sqrt(spread.mean(axis=(0, 1), dtype=np.float64)) if len(spread) else np.ones(len(phases))
    noise = np.where(noise > 0, noise, 1.0).astype(np.float32)
    projections = Projections(rotation[usable], progress, filled / noise, spread / noise**2)
    model, reason = _learn(projections, len(sets), view) if learned else (None, "")
    return Course(projections, phases, intensity.shape[2], noise, known, origin, model, reason)


def _progress(values: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Progress (n,) of projections, of that of their cells (n, translation); in stretches of these where each takes as long as its set."""
    if not len(values):
        return np.empty(0)
    n = time.shape[1]
    whole = np.nanmean(values, axis=1)
    middle = np.nanmean(time, axis=1)
    if np.nanmean(np.nanmax(time, axis=1) - np.nanmin(time, axis=1)) < 0.25 * max(float(np.ptp(middle)), 1e-9):
        return whole
    blocks = np.array_split(np.arange(n), min(_BLOCKS, n))
    measured = np.isfinite(values)
    sums = np.stack([np.where(measured, values, 0)[:, b].sum(axis=1) for b in blocks], axis=1)
    counts = np.stack([measured[:, b].sum(axis=1) for b in blocks], axis=1)
    means = np.where(counts > 0, sums / np.maximum(counts, 1), whole[:, None])
    return means[:, np.repeat(np.arange(len(blocks)), [len(b) for b in blocks])]


def _learn(projections: Projections, n_sets: int, view: View) -> tuple[TemporalModel | None, str]:
    """The model, or None and the reason."""
    if n_sets < 2 or not projections.intensity.size:
        return None, "a single set shows no change: at least two are needed"
    progress = projections.progress if projections.progress.ndim == 1 else projections.progress.mean(axis=1)
    try:
        model = learn(projections.intensity, projections.variance, projections.rotation_deg, progress)
        return with_trend(projections, model, view.translation_mm, view.axis_mm), ""
    except ShapeError as error:
        return None, str(error)


def instant_maps(course: Course, moment: float, view: View, scheme: Scheme = "model") -> InstantMaps:
    """The maps of one moment, in mAh or UTC epoch s, as the course's progress.

    Raises
    ------
    ShapeError
        The scheme does not go with the projections (`instant_sinogram`).
    """
    instant = instant_sinogram(course.projections, moment - course.origin, scheme, course.model)
    n = len(view.translation_mm)
    intensity, sigma = np.full((2, course.n_phases, n, n), np.nan, np.float32)
    intensity[course.phases] = view.maps(instant.intensity * course.noise, instant.rotation_deg)
    sigma[course.phases] = view.sigma(instant.variance * course.noise**2, instant.rotation_deg)
    return InstantMaps(intensity, sigma, instant)
