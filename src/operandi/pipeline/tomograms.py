"""Frames: the partial volume of each set, their mean over a window, and the maps of it."""

from dataclasses import dataclass, replace

import numpy as np

from operandi.experiment import Experiment
from operandi.pipeline.sets import MeasuredSet
from operandi.stages import scans
from operandi.stages.axis import Axis, locate_axis
from operandi.stages.maps import apply_weights, window_weights
from operandi.stages.volumes import combine, combine_variances, partial_variance, partial_volume

NOTHING = np.empty(0, np.float32)


@dataclass(frozen=True, slots=True)
class Partial:
    """What one set adds to its frames: its volume (y, x, q), and the variance (y, x, phase) of its maps."""

    volume: np.ndarray
    variance: np.ndarray


@dataclass(frozen=True, slots=True)
class Tomogram:
    """One frame: sinogram (rotation, translation, q) in the order of the angles, volume (y, x, q), maps (phase, y, x)."""

    span: scans.Span
    t_start: float
    t_end: float
    coverage: float
    rotation_deg: np.ndarray
    sinogram: np.ndarray
    volume: np.ndarray
    maps: np.ndarray
    sigma: np.ndarray

    def without_arrays(self) -> "Tomogram":
        """The same frame, free of its arrays, for as long as it waits for the log."""
        return replace(self, sinogram=NOTHING, volume=NOTHING, maps=NOTHING, sigma=NOTHING)


def find_frame_axis(members: list[MeasuredSet], experiment: Experiment) -> Axis:
    """The rotation axis in mm: the experiment's own, or the one that the sets of the first frame show."""
    given = experiment.reconstruction.axis_mm
    if given is not None:
        return Axis(position=given, uncertainty=0.0)
    rotation, sinogram, _ = _in_order_of_angle(members)
    return locate_axis(sinogram, rotation, scans.translations_mm(experiment.scan))


def partial_of(member: MeasuredSet, experiment: Experiment, q: np.ndarray, axis: Axis) -> Partial:
    """The volume that the projections of one set alone give, and the variance of its maps."""
    weights = window_weights(q, experiment.windows)
    channels = np.moveaxis(apply_weights(member.variance, weights**2), 0, -1)
    at = (member.rotation_deg, scans.translations_mm(experiment.scan), axis.position)
    return Partial(
        volume=partial_volume(member.intensity, *at, filter=experiment.reconstruction.filter),
        variance=partial_variance(channels, *at, filter=experiment.reconstruction.filter),
    )


def frame_of(span: scans.Span, members: list[MeasuredSet], partials: list[Partial], experiment: Experiment, q: np.ndarray) -> Tomogram:
    """The frame of a window: the mean of its sets' volumes, weighted by how much of each was measured."""
    counts = [member.measured for member in members]
    volume = combine([p.volume for p in partials], counts)
    variance = combine_variances([p.variance for p in partials], counts)
    rotation, sinogram, coverage = _in_order_of_angle(members)
    return Tomogram(
        span=span,
        t_start=min(m.t_start for m in members),
        t_end=max(m.t_end for m in members),
        coverage=float(np.count_nonzero(coverage) / coverage.size),
        rotation_deg=rotation,
        sinogram=sinogram,
        volume=volume,
        maps=apply_weights(volume, window_weights(q, experiment.windows)),
        sigma=np.moveaxis(np.sqrt(variance), -1, 0),
    )


def _in_order_of_angle(members: list[MeasuredSet]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rotation = np.concatenate([m.rotation_deg for m in members])
    order = np.argsort(rotation, kind="stable")
    sinogram, coverage = (np.concatenate([getattr(m, name) for m in members])[order] for name in ("intensity", "coverage"))
    return rotation[order], sinogram, coverage
