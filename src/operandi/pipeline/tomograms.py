"""Frames: the maps of a window of sets, and the volume of it.

A frame is the filtered back projection of all projections of its window in the order of their angles, each weighted by half the gap to
its neighbours, whichever set they are of; where projections are missing, wide gaps are filled with what those around tell. Being linear,
it may come before or after the sum over the channels of a phase: maps are the back projections of summed sinograms, a few channels that
are there long before the volume. That is computed from the sets' sinograms a slab of channels at a time: nothing of the size of a volume is
held but the frame itself, and no sum depends on the order in which anything came.
"""

from dataclasses import dataclass, replace

import numpy as np

from operandi.experiment import Experiment, Scan
from operandi.pipeline import travels
from operandi.pipeline.sets import MeasuredSet
from operandi.stages import scans
from operandi.stages.axis import Axis, locate_axis
from operandi.stages.backlash import Backlash, estimate_backlash
from operandi.stages.gaps import AngularFill, plan_fill
from operandi.stages.volumes import grid_mm, partial_variance, partial_volume, write_partial_volume

CHANNELS = 64
"""Channels of a slab."""
_NOTHING = np.empty(0, np.float32)


@dataclass(frozen=True, slots=True)
class Tomogram:
    """One frame: maps (phase, y, x) and their sigma; ``lines`` says where its projections lie.

    ``rotation_deg`` (rotation,) is in increasing order, and ``lines`` (rotation, 2) the set of each, counted within the window, and its
    line in there.
    """

    span: scans.Span
    t_start: float
    t_end: float
    coverage: float
    rotation_deg: np.ndarray
    lines: np.ndarray
    maps: np.ndarray
    sigma: np.ndarray
    fill: AngularFill | None = None
    """What is inserted where its angles leave wide gaps."""

    def without_arrays(self) -> "Tomogram":
        """The same frame, free of its arrays, for as long as it waits for the log."""
        return replace(self, maps=_NOTHING, sigma=_NOTHING)


def plane_coords(scan: Scan) -> dict[str, dict]:
    """The ``coords`` of y and x in the metadata of whatever lies on the grid of a frame."""
    values = grid_mm(scans.translations_mm(scan)).tolist()
    return {axis: {"values": values, "units": "mm"} for axis in ("y", "x")}


def find_frame_axis(members: list[MeasuredSet], experiment: Experiment) -> Axis:
    """The rotation axis in mm: the experiment's own, or the one that the sets of the first frame show."""
    given = experiment.reconstruction.axis_mm
    if given is not None:
        return Axis(position=given, uncertainty=0.0)
    rotation = np.concatenate([member.rotation_deg for member in members])
    return locate_axis(np.concatenate(channel_sums(members)), rotation, scans.translations_mm(experiment.scan))


def find_backlash(members: list[MeasuredSet], scan: Scan) -> Backlash:
    """The backlash that the sets of the first frame show, with its uncertainty, mm (`estimate_backlash`).

    Raises
    ------
    ShapeError
        If fewer than 3 usable lines run in either direction.
    """
    ways, sums = [], channel_sums(members)
    for member, total in zip(members, sums, strict=True):
        assert member.travel is not None
        ways.append(np.where(member.travel.backwards, -1, 1))
        for line, off in enumerate(member.travel.off_grid):
            total[line] = travels.moved(total[line][:, None], off)[:, 0]
    rotation = np.concatenate([member.rotation_deg for member in members])
    return estimate_backlash(np.concatenate(sums), rotation, scans.translations_mm(scan), np.concatenate(ways))


def channel_sums(members: list[MeasuredSet]) -> list[np.ndarray]:
    """For each set the sum (rotation, translation) over the channels that every measured cell has; NaN where nothing was measured."""
    common = np.ones(members[0].intensity.shape[-1], bool)
    for member in members:
        for line, covered in zip(member.intensity, member.coverage, strict=True):
            if not np.isfinite(line.sum(axis=-1)[covered > 0]).all():
                common &= np.isfinite(line[covered > 0]).all(axis=0)
    counted = np.flatnonzero(common)
    if counted.size and counted[-1] - counted[0] + 1 == counted.size:
        counted = slice(counted[0], counted[-1] + 1)
    sums = [np.stack([line[:, counted].sum(axis=-1) for line in member.intensity]) for member in members]
    return [np.where(member.coverage > 0, total, np.nan) for member, total in zip(members, sums, strict=True)]


def frame_of(span: scans.Span, members: list[MeasuredSet], experiment: Experiment, axis: Axis) -> Tomogram:
    """The frame of a window: its maps, which cost next to nothing; `volume_of` makes the volume."""
    rotation, lines = in_order_of_angle(members)
    at = _place(rotation, experiment, axis)
    sums = take_lines([m.sums for m in members], lines)
    fill = plan_fill(sums, *at[:3])
    maps = partial_volume(sums, *at) if fill is None else partial_volume(fill.fill(sums), fill.rotation_deg, *at[1:])
    variance = partial_variance(take_lines([m.variance for m in members], lines), *at)
    coverage = np.concatenate([m.coverage for m in members])
    return Tomogram(
        span=span,
        t_start=min(m.t_start for m in members),
        t_end=max(m.t_end for m in members),
        coverage=float(np.count_nonzero(coverage) / coverage.size),
        rotation_deg=rotation,
        lines=lines,
        maps=np.moveaxis(maps, -1, 0),
        sigma=np.moveaxis(np.sqrt(variance), -1, 0),
        fill=fill,
    )


def volume_of(tomogram: Tomogram, members: list[MeasuredSet], experiment: Experiment, axis: Axis, n_q: int) -> np.ndarray:
    """The volume (y, x, q) of a frame, float32."""
    fill, n = tomogram.fill, experiment.scan.translations
    volume = np.empty((n, n, n_q), np.float32)
    at = _place(tomogram.rotation_deg if fill is None else fill.rotation_deg, experiment, axis)
    for first in range(0, n_q, CHANNELS):
        part = slice(first, first + CHANNELS)
        lines = take_lines([m.intensity[..., part] for m in members], tomogram.lines)
        write_partial_volume(lines if fill is None else fill.fill(lines), *at, volume, first)
    return volume


def _place(rotation_deg: np.ndarray, experiment: Experiment, axis: Axis) -> tuple[np.ndarray, np.ndarray, float, str]:
    return rotation_deg, scans.translations_mm(experiment.scan), axis.position, experiment.reconstruction.filter


def in_order_of_angle(members: list[MeasuredSet]) -> tuple[np.ndarray, np.ndarray]:
    """Angles of all projections of the sets, increasing, and (rotation, 2) set and line of each."""
    rotation = np.concatenate([m.rotation_deg for m in members])
    order = np.argsort(rotation, kind="stable")
    places = [(number, line) for number, m in enumerate(members) for line in range(len(m.rotation_deg))]
    return rotation[order], np.array(places)[order]


def take_lines(sinograms: list[np.ndarray], lines: np.ndarray) -> np.ndarray:
    """The projections (rotation, translation, …) that ``lines`` (rotation, 2) names, out of one sinogram for each set."""
    taken = np.empty((len(lines), *sinograms[0].shape[1:]), sinograms[0].dtype)
    for target, (number, line) in zip(taken, lines, strict=True):
        target[:] = sinograms[number][line]
    return taken
