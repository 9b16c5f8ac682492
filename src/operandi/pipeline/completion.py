"""Frames after their commit: their moments and their frame of one instant, which the next sets make better, until these are final.

What is final depends on the sets alone: a frame is finished with the sets up to ``interlaces`` after its own, when the log covers them, or
at the end of the run. Until then what there is at its commit stands there, provisional. Either is published before its row.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from operandi.experiment import Experiment, Scan
from operandi.nodes import (
    CONVERGENCE,
    CONVERGENCE_COLUMNS,
    FINISHED,
    FINISHED_COLUMNS,
    Array,
    Block,
    Container,
    Product,
    Rows,
    Table,
    typed_row,
)
from operandi.pipeline.operando import convergence_rows, equal_angles, geometric_moments, measured_moments
from operandi.pipeline.phases import LOG_GAP_S, Course, PhaseSet, View, course_of, instant_maps
from operandi.pipeline.sets import MeasuredSet
from operandi.pipeline.tomograms import Tomogram, plane_coords
from operandi.stages import charge, scans
from operandi.stages.moments import Moments
from operandi.stages.passages import passages

HISTORY = 4
"""A frame of one instant is made of the sets of so many repetitions of each angle before its window, of the window, and of one after it."""
MOMENTS = {"time": "s", "spread": "s", "bend": "", "charge": "mAh", "voltage": "V"}
SCHEME = "model"


@dataclass(slots=True)
class Completion:
    """The sets that frames still need, and the committed frames that are not final, with their moments by geometry."""

    sets: dict[int, PhaseSet] = field(default_factory=dict)
    waiting: list[Tomogram] = field(default_factory=list)
    moments: dict[int, Moments] = field(default_factory=dict)


def tree(experiment: Experiment) -> Iterator[Product]:
    """Declare projections, moments, instants and convergence."""
    scan, n, phases = experiment.scan, experiment.scan.translations, [w.phase for w in experiment.windows]
    translation = {"translation": {"values": scans.translations_mm(scan).tolist(), "units": "mm"}}
    plane = plane_coords(scan)
    named = {"phase": {"values": phases}}
    lines, counts = scan.rotations_per_set, "counts/angstrom"
    yield Container(("projections",))
    for name in ("intensity", "sigma"):
        yield Array(("projections", name), ("projection", "translation", "phase"), (0, n, len(phases)), (lines, n, len(phases)),
                    metadata={"units": counts, "coords": {**translation, **named}})  # fmt: skip
    yield Array(("projections", "rotation"), ("projection",), (0,), (lines,), "float64", metadata={"units": "deg"})
    yield Array(("projections", "time"), ("projection", "translation"), (0, n), (lines, n), "float64",
                metadata={"units": "s", "coords": translation})  # fmt: skip
    yield Container(("moments",))
    for name, units in MOMENTS.items():
        yield Array(("moments", name), ("frame", "y", "x"), (0, n, n), (1, n, n), "float64", metadata={"units": units, "coords": plane})
    yield Container(("instants",), {"scheme": SCHEME})
    for name in ("intensity", "sigma"):
        yield Array(("instants", name), ("frame", "phase", "y", "x"), (0, len(phases), n, n), (1, len(phases), n, n),
                    metadata={"units": "counts/mm/angstrom", "coords": {**named, **plane}})  # fmt: skip
    yield Table(FINISHED, FINISHED_COLUMNS, "frame", {"units": {"time": "s", "q_mah": "mAh"}})
    yield Table(CONVERGENCE, CONVERGENCE_COLUMNS, "entry", {"units": dict.fromkeys(("resolution_mm", "angular_mm"), "mm")})


def phase_set(measured: MeasuredSet, exposed_s: np.ndarray, scan: Scan) -> PhaseSet:
    """A closed set as the maps see it.

    Parameters
    ----------
    exposed_s : (exposure,) the middle of each exposure by its index.
    """
    line, column = np.indices(measured.coverage.shape).reshape(2, -1)
    index = scans.index_of(scan, np.full(line.shape, measured.number), line, column)
    time = exposed_s[index].reshape(measured.coverage.shape)
    time = np.where(np.isfinite(time), time, (measured.t_start + measured.t_end) / 2)
    time = np.where(measured.coverage > 0, time, np.nan)
    sums, variance = np.ascontiguousarray(measured.sums), np.ascontiguousarray(measured.variance)
    return PhaseSet(measured.number, measured.rotation_deg, time, sums, variance)


def projection_blocks(one: PhaseSet, scan: Scan) -> Iterator[Block]:
    """The projections of a set, at their place."""
    first = one.number * scan.rotations_per_set
    yield Block(("projections", "intensity"), (first, 0, 0), one.intensity)
    yield Block(("projections", "sigma"), (first, 0, 0), np.sqrt(one.variance))
    yield Block(("projections", "rotation"), (first,), one.rotation_deg)
    yield Block(("projections", "time"), (first, 0), one.time)


def sets_behind(scan: Scan, span: scans.Span) -> range:
    """The sets that make a frame final."""
    return range(max(span.set_first - HISTORY * scan.interlaces, 0), min(span.set_last + scan.interlaces, scan.sets - 1) + 1)


def is_final(completion: Completion, experiment: Experiment, span: scans.Span, next_set: int, log: charge.Log, log_ended: bool) -> bool:
    """Whether all that a frame is to be made of is there: its sets are closed, and the log covers them or no more of it will come."""
    behind = sets_behind(experiment.scan, span)
    if next_set < behind.stop:
        return False
    return log_ended or all(log.covers(completion.sets[n].ends) for n in behind if n in completion.sets)


def commit(
    completion: Completion, tomogram: Tomogram, experiment: Experiment, view: View, log: charge.Log, *, final: bool
) -> Iterator[Product]:
    """What is published with the commit of a frame: the final moments and instant, or provisional ones."""
    window = [completion.sets[n] for n in tomogram.span.sets]
    completion.moments[tomogram.span.frame] = geometric_moments(window, view)
    if final:
        yield from finish(completion, tomogram, experiment, view, log)
        return
    completion.waiting.append(tomogram)
    yield from _moment_blocks(tomogram, completion.moments[tomogram.span.frame], log)
    behind = [completion.sets[n] for n in sets_behind(experiment.scan, tomogram.span) if n in completion.sets]
    there = [one for one in behind if one.number <= tomogram.span.set_last or log.covers(one.ends)]
    yield from _instant(tomogram, course_of(there, log, view), view, log)[0]


def finish(completion: Completion, tomogram: Tomogram, experiment: Experiment, view: View, log: charge.Log) -> Iterator[Product]:
    """The final moments, instant and convergence of a frame, and the row that says so."""
    scan, span = experiment.scan, tomogram.span
    sets = [completion.sets[n] for n in sets_behind(scan, span) if n in completion.sets]
    window, course = [completion.sets[n] for n in span.sets], course_of(sets, log, view)
    moments = measured_moments(completion.moments.pop(span.frame), window, course, log, view)
    yield from _moment_blocks(tomogram, moments, log)
    blocks, told = _instant(tomogram, course, view, log)
    yield from blocks
    air = experiment.corrections.subtracts_rim
    points = scan.translations - (2 * experiment.corrections.rim_points if air else 0)
    width = max(points, 1) * abs(float(view.translation_mm[1] - view.translation_mm[0]))
    phases = [w.phase for w in experiment.windows]
    pair = _pair(completion, scan, span)
    yield Rows(CONVERGENCE, convergence_rows(span.frame, window, pair, phases, view, width_mm=width, common_offset=air))
    row = {"frame": span.frame, "set_first": sets[0].number, "set_last": sets[-1].number, **told}
    yield Rows(FINISHED, typed_row(FINISHED_COLUMNS, row))


def forget(completion: Completion, scan: Scan, next_first: int) -> None:
    """Let go of the sets that no frame needs any more; the next window begins at set ``next_first``."""
    oldest = min([next_first, *(tomogram.span.set_first for tomogram in completion.waiting)]) - HISTORY * scan.interlaces
    for number in [n for n in completion.sets if n < oldest]:
        del completion.sets[number]


def moment_of(tomogram: Tomogram, log: charge.Log, *, by_charge: bool) -> tuple[float, float]:
    """Time and charge of the one moment of a frame: the middle of its range of charge where the charge is known, else of its time.

    Of several passages of that charge it is the one nearest to the middle of the time.
    """
    start, middle, end = tomogram.t_start, (tomogram.t_start + tomogram.t_end) / 2, tomogram.t_end
    charges = charge.at(log, np.array([start, middle, end]), gap_s=LOG_GAP_S).charge
    wanted = float(charges[0] + charges[2]) / 2
    if not by_charge or not np.isfinite(wanted):
        return middle, float(charges[1])
    times = passages(log, wanted, start, end, gap_s=LOG_GAP_S)
    return float(times[np.argmin(np.abs(times - middle))]) if len(times) else middle, wanted


def _instant(tomogram: Tomogram, course: Course, view: View, log: charge.Log) -> tuple[list[Block], dict[str, object]]:
    """Blocks of the frame of one instant, and what there is to tell of it."""
    frame, n = tomogram.span.frame, len(view.translation_mm)
    time, q_mah = moment_of(tomogram, log, by_charge=course.by_charge)
    told = {"time": time, "q_mah": q_mah, "progress": "charge" if course.by_charge else "time", "scheme": SCHEME, "reason": course.reason}
    if course.model is None:
        maps = np.full((2, course.n_phases, n, n), np.nan, np.float32)
        told["one_sided"] = 1.0
    else:
        made = instant_maps(course, q_mah if course.by_charge else time, view)
        maps = np.stack([made.intensity, made.sigma])
        told["one_sided"] = float(made.instant.one_sided.mean())
    return [Block(("instants", name), (frame, 0, 0, 0), part[None]) for name, part in zip(("intensity", "sigma"), maps, strict=True)], told


def _moment_blocks(tomogram: Tomogram, moments: Moments, log: charge.Log) -> Iterator[Block]:
    readings = charge.at(log, moments.mean, gap_s=LOG_GAP_S)
    maps = {"time": moments.mean, "spread": moments.spread, "bend": moments.bend, "charge": readings.charge, "voltage": readings.voltage}
    for name, values in maps.items():
        yield Block(("moments", name), (tomogram.span.frame, 0, 0), values[None])


def _pair(completion: Completion, scan: Scan, span: scans.Span) -> tuple[PhaseSet, PhaseSet] | None:
    """Two sets of the same angles: the window's first and the next like it, or its last and the one like it before."""
    for one in (span.set_first, span.set_last - scan.interlaces):
        first, second = completion.sets.get(one), completion.sets.get(one + scan.interlaces)
        if first is not None and second is not None and equal_angles(first, second):
            return first, second
    return None
