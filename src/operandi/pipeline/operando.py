"""What a frame of a reacting cell tells beside its maps: the moment of every voxel, and how well it is determined."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from operandi.nodes import CONVERGENCE_COLUMNS, typed
from operandi.pipeline.phases import LOG_GAP_S, Course, PhaseSet, View
from operandi.stages import charge
from operandi.stages.convergence import changed_too_fast, fourier_ring_correlation, more_projections, projections_for, total_drift
from operandi.stages.instants import instant_sinograms
from operandi.stages.moments import Moments, course_times, voxel_times, windings_of
from operandi.stages.sinograms import usable_projections
from operandi.stages.temporal import SAME_ANGLE_DEG, angles_apart

_MOMENTS = 7
"""The course over a frame is followed at so many moments, evenly spaced in time."""
_LEAST_POINTS = 8
"""A Fourier ring correlation needs maps of so many points."""


# Moments


def geometric_moments(window: Sequence[PhaseSet], view: View) -> Moments:
    """The time of every voxel and its spread by the directions of the windings that the frame's own maps show; the mean elsewhere."""
    rotation, time = _joined(window, "rotation_deg"), _joined(window, "time")
    maps = view.maps(_joined(window, "intensity"), rotation)
    sigma = view.sigma(_joined(window, "variance"), rotation)
    with np.errstate(invalid="ignore", divide="ignore"):
        clear = np.nan_to_num(maps / np.median(sigma, axis=(1, 2), keepdims=True), nan=0.0, posinf=0.0, neginf=0.0)
    return voxel_times(time, rotation, view.translation_mm, view.axis_mm, windings_of(clear.sum(axis=0)))


def measured_moments(geometric: Moments, window: Sequence[PhaseSet], course: Course, log: charge.Log, view: View) -> Moments:
    """The same, by the course that all phases take over the frame; they stay within the frame, where the log is known at its commit."""
    rotation, time = _joined(window, "rotation_deg"), _joined(window, "time")
    when = np.linspace(float(np.nanmin(time)), float(np.nanmax(time)), _MOMENTS)
    progress = charge.at(log, when, gap_s=LOG_GAP_S).charge if course.by_charge else when
    if course.model is None or not np.isfinite(progress).all() or progress[0] == progress[-1]:
        return geometric
    instants = instant_sinograms(course.projections, (progress - course.origin).tolist(), "model", course.model)
    rows = np.argmin(angles_apart(rotation[:, None], instants[0].rotation_deg), axis=1)
    far = angles_apart(rotation, instants[0].rotation_deg[rows]) > SAME_ANGLE_DEG
    taken = np.stack([instant.intensity[rows] for instant in instants])
    taken[:, far] = np.nan
    at = (rotation, view.translation_mm, view.axis_mm, view.filter)
    return course_times(geometric, time, taken, when.tolist(), instants[_MOMENTS // 2].variance[rows], at)


# Convergence


def convergence_rows(
    frame: int,
    window: Sequence[PhaseSet],
    pair: tuple[PhaseSet, PhaseSet] | None,
    phases: Sequence[str],
    view: View,
    *,
    width_mm: float,
    common_offset: bool,
) -> Mapping[str, np.ndarray]:
    """Rows of the table of convergence, one for each phase of a frame.

    Parameters
    ----------
    pair : two sets of the same angles, one window apart; None where there are none.
    width_mm : of what is in the beam.
    common_offset : each set had air subtracted that it told itself.
    """
    halves, projections = _halves(window, view)
    rows = [
        {
            "entry": frame * len(phases) + i, "frame": frame, "phase": name, "projections": projections,
            **_resolutions([half[i] for half in halves], projections, view, width_mm), **_changes(window, pair, i, common_offset),
        }
        for i, name in enumerate(phases)
    ]  # fmt: skip
    return typed(CONVERGENCE_COLUMNS, {name: [row[name] for row in rows] for name in CONVERGENCE_COLUMNS})


def _halves(window: Sequence[PhaseSet], view: View) -> tuple[list[np.ndarray], int]:
    """Maps (phase, y, x) of the even and the odd sets, of every other projection where there is one set; and how many are used of both."""
    rotation, intensity = _joined(window, "rotation_deg"), _joined(window, "intensity")
    order = np.argsort(rotation, kind="stable")
    number = np.repeat([one.number for one in window], [len(one.rotation_deg) for one in window])
    odd = number % 2 == 1 if len(window) > 1 else np.argsort(order) % 2 == 1
    halves = [view.maps(intensity[chosen], rotation[chosen]) for chosen in (~odd, odd)]
    return halves, int(usable_projections(intensity).sum())


def _resolutions(halves: list[np.ndarray], projections: int, view: View, width_mm: float) -> dict[str, Any]:
    pitch = abs(float(view.translation_mm[1] - view.translation_mm[0]))
    found = {"resolution_mm": np.nan, "angular_mm": np.pi * width_mm / max(projections, 1), "resolution_doubled_mm": np.nan}
    if len(view.translation_mm) < _LEAST_POINTS:
        return {**found, "projections_needed": -1, "reason": f"maps of fewer than {_LEAST_POINTS} points tell no resolution"}
    if not all(np.isfinite(half).any() for half in halves) or projections < 1:
        return {**found, "projections_needed": -1, "reason": "not measured"}
    rings = fourier_ring_correlation(halves[0], halves[1], pitch)
    doubled = more_projections(rings, projections, [2 * projections], width_mm)[0].resolution_mm
    needed = projections_for(rings, projections, 2 * pitch, width_mm)
    agree = np.isfinite(rings.resolution_mm)
    return {
        **found,
        "resolution_mm": rings.resolution_mm if agree else np.nan,
        "resolution_doubled_mm": doubled if np.isfinite(doubled) else np.nan,
        "projections_needed": -1 if needed is None else needed,
        "reason": "" if agree else "the halves do not agree beyond the noise",
    }


def _changes(window: Sequence[PhaseSet], pair: tuple[PhaseSet, PhaseSet] | None, phase: int, common_offset: bool) -> dict[str, Any]:
    first, last = window[0], window[-1]
    drift = np.nan
    if len(window) > 1:
        drift = total_drift(first.intensity[..., phase], last.intensity[..., phase], _sigma(first, phase), _sigma(last, phase))
    if pair is None:
        return {"changed": -1, "change_probability": np.nan, "change_ratio": np.nan, "drift": drift}
    one, other = pair
    change = changed_too_fast(
        one.intensity[..., phase], other.intensity[..., phase], _sigma(one, phase), _sigma(other, phase), common_offset=common_offset
    )
    if not np.isfinite(change.ratio):
        return {"changed": -1, "change_probability": np.nan, "change_ratio": np.nan, "drift": drift}
    return {"changed": int(change.flag), "change_probability": change.probability, "change_ratio": change.ratio, "drift": drift}


def equal_angles(one: PhaseSet | None, other: PhaseSet | None) -> bool:
    """Whether two sets were measured at the same angles, line by line."""
    return one is not None and other is not None and bool((angles_apart(one.rotation_deg, other.rotation_deg) <= SAME_ANGLE_DEG).all())


def _sigma(one: PhaseSet, phase: int) -> np.ndarray:
    return np.sqrt(one.variance[..., phase])


def _joined(sets: Sequence[PhaseSet], name: str) -> np.ndarray:
    return np.concatenate([getattr(one, name) for one in sets])
