"""What `operandi check` says: what an experiment will produce, and what is wrong with it before beamtime."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from operandi.companions import find_faults
from operandi.errors import GeometryError, OperandiError, ShapeError
from operandi.experiment import Experiment, QWindow, Subtraction
from operandi.pipeline.lithium import strengths_of
from operandi.plans import IMAGES_PER_S, Plan, distinct_rotations, duration, plan_of, size
from operandi.sources.assets import load_correction
from operandi.sources.potentiostat import read_potentiostat
from operandi.stages.outliers import FEWEST_LINES
from operandi.stages.overlaps import Intruder, derived_ratio, intruders, own_share
from operandi.stages.parallax import find_overlaps
from operandi.stages.patterns import load_calibration
from operandi.stages.windows import plain_weights

GOLDEN_EXCESS = 1.5
"""How many times the evenly spaced angles a golden order takes: its widest gap is up to 1.9 times the mean one."""
_OWN_SHARE = 0.95
"""Of a map's own line: where its window cuts off more, `honesty` says so."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to correct (error) or to know (warning) before the beam is on."""

    severity: Literal["error", "warning"]
    field: str
    message: str


def _error(field: str, message: str) -> Finding:
    return Finding("error", field, message)


def _warning(field: str, message: str) -> Finding:
    return Finding("warning", field, message)


@dataclass(frozen=True, slots=True)
class Detector:
    """What the calibration and the mask say; ``q`` (row, column) in Å⁻¹, NaN where the mask ignores the pixel."""

    q: np.ndarray
    distance_m: float
    pixel_m: float
    wavelength_angstrom: float

    @property
    def reach(self) -> tuple[float, float]:
        """Smallest and largest q that a pixel sees, Å⁻¹."""
        return float(np.nanmin(self.q)), float(np.nanmax(self.q))

    def pixel_inv_angstrom(self, q: float) -> float:
        """Width in q of one pixel at ``q``, Å⁻¹."""
        two_theta = 2 * math.asin(min(q * self.wavelength_angstrom / (4 * math.pi), 1.0))
        return 2 * math.pi / self.wavelength_angstrom * math.cos(two_theta / 2) * math.cos(two_theta) ** 2 * self.pixel_m / self.distance_m


@dataclass(frozen=True, slots=True)
class Report:
    """The plan with everything found."""

    experiment: Experiment
    plan: Plan
    detector: Detector | None
    log: str
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """What must be corrected."""
        return tuple(f for f in self.findings if f.severity == "error")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """What is worth knowing."""
        return tuple(f for f in self.findings if f.severity == "warning")


def check(experiment: Experiment, *, images_per_s: float = IMAGES_PER_S) -> Report:
    """Look at an experiment and at the files that it names; ``images_per_s`` is the rate of integration to count with."""
    detector, findings = examine_geometry(experiment)
    shape = (1, 1) if detector is None else detector.q.shape
    plan = plan_of(experiment, (shape[0], shape[1]), images_per_s=images_per_s)
    findings += examine_scan(experiment) + examine_windows(experiment, detector) + examine_machine(experiment, plan)
    findings += [Finding(*fault) for fault in find_faults(experiment)]
    log, more = examine_potentiostat(experiment)
    return Report(experiment, plan, detector, log, tuple(findings + more))


def examine_geometry(experiment: Experiment) -> tuple[Detector | None, list[Finding]]:
    """The detector as calibration and mask describe it (None where there is no saying), and what does not fit."""
    poni = experiment.geometry.poni
    try:
        calibration = load_calibration(poni)
    except GeometryError as error:
        return None, [_error("geometry.poni", str(error))]
    images, findings = _correction_images(experiment)
    model = calibration.detector
    shape = (model.max_shape if model else None) or (next(iter(images.values())).shape if images else None)
    if model is None or shape is None:
        return None, [
            *findings,
            _error("geometry.poni", f"{poni} names no detector, so its shape is unknown; calibrate with the right one"),
        ]
    for field, image in images.items():
        if image.shape != tuple(shape):
            findings.append(_error(field, f"has {_pixels(image.shape)}, but the detector of {poni.name} has {_pixels(shape)}"))
    mask = images.get("geometry.mask")
    ignored = model.mask if mask is None or mask.shape != tuple(shape) else mask != 0
    q = np.asarray(calibration.center_array((shape[0], shape[1]), unit="q_A^-1"), np.float64)
    if ignored is not None:
        q = np.where(ignored, np.nan, q)
    if (share := float(np.isnan(q).mean())) > 0.5:
        findings.append(_warning("geometry.mask", f"ignores {share:.0%} of the pixels; is it inverted? Non-zero means ignored"))
    if share == 1:
        return None, findings
    pixel = max(float(model.pixel1 or 0), float(model.pixel2 or 0))
    detector = Detector(q, float(calibration.dist), pixel, float(calibration.wavelength or 0) * 1e10)
    return detector, findings + _examine_reach(experiment, detector)


def _correction_images(experiment: Experiment) -> tuple[dict[str, np.ndarray], list[Finding]]:
    geometry, integration = experiment.geometry, experiment.integration
    paths = {"geometry.mask": geometry.mask, "integration.dark": integration.dark, "integration.flat": integration.flat}
    images, findings = {}, []
    for field, path in paths.items():
        try:
            if path is not None:
                images[field] = load_correction(path)
        except GeometryError as error:
            findings.append(_error(field, str(error)))
    return images, findings


def _examine_reach(experiment: Experiment, detector: Detector) -> list[Finding]:
    low, high = experiment.integration.q_min_inv_angstrom, experiment.integration.q_max_inv_angstrom
    nearest, farthest = detector.reach
    findings = []
    for field, value in (("q_min_inv_angstrom", low), ("q_max_inv_angstrom", high)):
        if not nearest <= value <= farthest:
            reach = f"{nearest:.3f} to {farthest:.3f} Å⁻¹"
            findings.append(_error(f"integration.{field}", f"is {value:g}, outside what the unmasked detector sees, {reach}"))
    return findings


def examine_scan(experiment: Experiment) -> list[Finding]:
    """Whether the plan of angles and positions gives tomograms."""
    scan, findings = experiment.scan, []
    rotations, wanted = distinct_rotations(experiment), plan_of(experiment, (1, 1)).crowther_rotations
    golden = scan.order == "golden"
    if golden and rotations < (wanted := math.ceil(GOLDEN_EXCESS * wanted)):
        text = f"a frame has {rotations} angles for {scan.translations} positions; in golden order their gaps differ, and {wanted} "
        text += f"({GOLDEN_EXCESS:g} · π/2 for each) resolve one position at the rim"
        findings.append(_warning("scan.rotations_per_set", text))
    elif rotations < wanted:
        text = f"a frame has {rotations} angles for {scan.translations} positions; {wanted} (π/2 for each) resolve one position at the rim"
        findings.append(_warning("scan.rotations_per_set", text))
    if scan.rotation_range_deg < 180:
        findings.append(
            _warning("scan.rotation_range_deg", f"is {scan.rotation_range_deg:g}: a tomogram needs 180, the rest is not measured")
        )
    elif scan.rotation_range_deg % 180:
        text = f"is {scan.rotation_range_deg:g}, no multiple of 180: some directions are measured more often than others"
        findings.append(_warning("scan.rotation_range_deg", text))
    if scan.window_sets % scan.interlaces and not golden:
        text = f"is {scan.window_sets}, no multiple of interlaces ({scan.interlaces}): the angles of a frame are not evenly spaced"
        findings.append(_warning("scan.window_sets", text))
    if unused := (scan.sets - scan.window_sets) % scan.window_step:
        findings.append(_warning("scan.window_step", f"leaves the last {unused} set(s) without a frame"))
    if experiment.corrections.subtracts_rim and 2 * experiment.corrections.rim_points >= scan.translations:
        text = f"is {experiment.corrections.rim_points} at either end, but there are only {scan.translations} positions"
        findings.append(_error("corrections.rim_points", text))
    if experiment.corrections.spots_sigma is not None and scan.rotations_per_set < FEWEST_LINES:
        text = f"needs {FEWEST_LINES} lines in a set to compare, there are {scan.rotations_per_set}: make it null"
        findings.append(_error("corrections.spots_sigma", text))
    width = experiment.corrections.stripes_width
    if width is not None and (width > scan.translations or scan.rotations_per_set < FEWEST_LINES):
        text = f"is {width}: needs as many positions and {FEWEST_LINES} lines, a set has {scan.translations} and {scan.rotations_per_set}"
        findings.append(_error("corrections.stripes_width", text))
    axis, ends = experiment.reconstruction.axis_mm, sorted((scan.translation_start_mm, scan.translation_stop_mm))
    if axis is not None and not ends[0] < axis < ends[1]:
        findings.append(_error("reconstruction.axis_mm", f"is {axis:g}, outside the travel from {ends[0]:g} to {ends[1]:g} mm"))
    return findings


def examine_windows(experiment: Experiment, detector: Detector | None) -> list[Finding]:
    """Whether each map has bins, pixels and enough resolution behind it."""
    findings = [finding for window in experiment.windows for finding in _examine_window(experiment, window, detector)]
    if detector is not None:
        findings += _examine_parallax(experiment, detector)
    if experiment.lithium is not None:
        try:
            strengths_of(experiment, experiment.lithium)
        except ShapeError as error:
            findings.append(_error("lithium.line_width_inv_angstrom", str(error)))
    return findings


def _examine_window(experiment: Experiment, window: QWindow, detector: Detector | None) -> list[Finding]:
    integration, field = experiment.integration, f"windows, {window.phase}"
    low, high = window.q_min_inv_angstrom, window.q_max_inv_angstrom
    edges = np.linspace(integration.q_min_inv_angstrom, integration.q_max_inv_angstrom, integration.bins + 1)
    try:
        plain_weights((edges[1:] + edges[:-1]) / 2, (window,))
        for taken in window.subtract:
            if taken.ratio == "derived":
                derived_ratio(experiment.windows, window.phase, taken)
    except ShapeError as error:
        return [_error(field, str(error))]
    bins = (high - low) / (edges[1] - edges[0])
    if bins < 2:
        wanted = math.ceil(integration.bins * 5 / bins)
        return [_error(field, f"holds only {bins:.1f} bins; set integration.bins to {wanted} or more")]
    findings = []
    if bins < 5:
        wanted = math.ceil(integration.bins * 5 / bins)
        findings.append(_warning(field, f"holds only {bins:.1f} bins; with integration.bins of {wanted} there would be 5"))
    if detector is not None:
        seen = int(((detector.q >= low) & (detector.q < high)).sum())
        pixel = detector.pixel_inv_angstrom((low + high) / 2)
        if seen == 0:
            findings.append(_error(field, "no unmasked pixel of the detector sees it"))
        elif high - low < 2 * pixel:
            findings.append(_warning(field, f"is {(high - low) / pixel:.1f} pixels wide: the detector hardly resolves it"))
    return findings


def _parallax(experiment: Experiment, detector: Detector) -> float:
    """R / L: by how much of q it is smeared, either way."""
    scan = experiment.scan
    return abs(scan.translation_stop_mm - scan.translation_start_mm) / (2000 * detector.distance_m)


def _examine_parallax(experiment: Experiment, detector: Detector) -> list[Finding]:
    """A voxel at radius R is nearer to or farther from the detector, which smears q by about ±q R / L."""
    relative = _parallax(experiment, detector)
    radius_mm = 1000 * detector.distance_m * relative
    smeared = [
        f"{w.phase} (±{relative * w.q_max_inv_angstrom:.3f} Å⁻¹)"
        for w in experiment.windows
        if relative * w.q_max_inv_angstrom > (w.q_max_inv_angstrom - w.q_min_inv_angstrom) / 2
    ]
    findings = []
    if smeared:
        text = f"parallax of a cell of {radius_mm:g} mm radius at {detector.distance_m:.3f} m smears q by more than half the window"
        findings.append(_warning("windows", f"{text} of {', '.join(smeared)}"))
    bounds = [(w.phase, w.q_min_inv_angstrom, w.q_max_inv_angstrom) for w in experiment.windows]
    where = {"radius_mm": radius_mm, "distance_mm": 1000 * detector.distance_m, "wavelength_angstrom": detector.wavelength_angstrom}
    try:
        overlaps = find_overlaps(bounds, **where)
    except ShapeError as error:
        return [*findings, _warning("windows", str(error))]
    if overlaps:
        named = ", ".join(f"{o.phase} into {o.into} (by up to {o.reach_inv_angstrom:.3f} Å⁻¹)" for o in overlaps)
        findings.append(_warning("windows", f"parallax of a cell of {radius_mm:g} mm radius carries intensity of {named}"))
    return findings


def examine_potentiostat(experiment: Experiment) -> tuple[str, list[Finding]]:
    """The state of the log in one line, and what is wrong with it."""
    potentiostat = experiment.potentiostat
    if potentiostat is None:
        return "none: frames are tagged with time, not with charge", []
    findings, file, offset = [], potentiostat.file, potentiostat.clock_offset_s
    if isinstance(offset, float) and abs(offset) >= 1800:
        text = f"is {offset / 3600:.1f} h: an offset of hours is rather a matter of potentiostat.timezone"
        findings.append(_warning("potentiostat.clock_offset_s", text))
    if file is None:
        return f"stream {potentiostat.stream} of the run", findings
    if not file.exists():
        if not file.parent.is_dir():
            findings.append(_warning("potentiostat.file", f"its folder {file.parent} is not there; is the share mounted?"))
        return f"{file.name}: not there yet, frames wait for it", findings
    try:
        how = {"start": potentiostat.start, "columns": potentiostat.columns, "units": potentiostat.units}
        log = read_potentiostat(file, timezone=potentiostat.timezone, **how)
    except OperandiError as error:
        return f"{file.name}: cannot be read", [*findings, _error("potentiostat.file", str(error))]
    hours = float(log["time"][-1] - log["time"][0]) / 3600
    return f"{file.name}: {log.sizes['time']} rows over {hours:.2f} h, {float(log['charge'][-1]):.2f} mAh at its end", findings


def examine_machine(experiment: Experiment, plan: Plan) -> list[Finding]:
    """Whether this machine has the room, the memory and the speed."""
    findings = []
    folder = _nearest(experiment.publishing.storage)
    if not os.access(folder, os.W_OK):
        findings.append(_error("publishing.storage", f"{folder} cannot be written to; name a folder that can"))
    free = shutil.disk_usage(folder).free
    if plan.result_bytes > free:
        text = f"results take up to {size(plan.result_bytes)}, but {folder} has {size(free)} left; make room or name another folder"
        findings.append(_error("publishing.storage", text))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if plan.memory_bytes > 0.8 * memory:
        text = f"the worker takes about {size(plan.memory_bytes)} of this machine's {size(memory)}; fewer integration.bins take less"
        findings.append(_warning("integration.bins", text))
    if plan.live_load > 1:
        text = f"processing takes about {duration(plan.processing_s)}, measuring {duration(plan.duration_s)}: live results fall behind"
        findings.append(_warning("scan.exposure_s", text))
    return findings


def _nearest(path: Path) -> Path:
    """The path, or its nearest parent that is there."""
    while not path.exists():
        path = path.parent
    return path


def rows(report: Report) -> list[tuple[str, str]]:
    """The report's table: what, and how much."""
    plan, scan, detector = report.plan, report.experiment.scan, report.detector
    integration = report.experiment.integration
    low, high = integration.q_min_inv_angstrom, integration.q_max_inv_angstrom
    seen = "unknown" if detector is None else f"{_pixels(detector.q.shape)}, {detector.reach[0]:.3f} to {detector.reach[1]:.3f} Å⁻¹"
    return [
        ("detector", seen if detector is None else f"{seen}, {detector.distance_m:.3f} m, {detector.wavelength_angstrom:.4f} Å"),
        (
            "patterns",
            f"{low:g} to {high:g} Å⁻¹, {integration.bins} bins of {plan.bin_inv_angstrom:.4f}",
        ),
        ("images", f"{plan.images:,} = {scan.sets} sets × {scan.rotations_per_set} rotations × {scan.translations} positions"),
        ("frames", f"{plan.frames}, each of {scan.window_sets} set(s), one every {scan.window_step} set(s)"),
        ("angles of a frame", f"{plan.window_rotations}; {plan.crowther_rotations} resolve one position at the rim"),
        ("map", f"{scan.translations} × {scan.translations} points of {1000 * plan.pitch_mm:.0f} µm"),
        ("maps", ", ".join(w.phase for w in report.experiment.windows) or "none"),
        ("composites", ", ".join(c.name for c in report.experiment.composites) or "none"),
        ("d*", _small_angles(report.experiment)),
        ("time", f"{duration(plan.duration_s)}; a set {duration(plan.set_s)}, a frame {duration(plan.frame_s)} (without moves)"),
        ("images on disk", "unknown" if detector is None else f"{size(plan.raw_bytes)} before compression"),
        ("results on disk", f"{size(plan.result_bytes)} before compression"),
        ("memory of the worker", f"about {size(plan.memory_bytes)}"),
        ("processing", f"about {duration(plan.processing_s)}, {plan.live_load:.0%} of the measuring time"),
        ("potentiostat", report.log),
    ]


def honesty(report: Report) -> list[tuple[str, str]]:
    """What each map holds beside its own phase, by the crystals of a cell: its name, and the reflections that fall into its window."""
    windows, rows = report.experiment.windows, []
    smear = _parallax(report.experiment, report.detector) if report.detector is not None else 0.0
    found = intruders(windows)
    for window in windows:
        alien = [str(one) for one in found if one.phase == window.phase]
        text = "; ".join(alien) or "nothing else"
        if (share := own_share(window)) < _OWN_SHARE:
            text = f"only {share:.0%} of its own line; {text}"
        if smear:
            wide = intruders([window], smear_inv_angstrom=smear * window.q_max_inv_angstrom)
            near = sorted({one.crystal + " " + one.reflection for one in wide if one.where == "window"} - _named(found, window.phase))
            text += f"; by parallax also {', '.join(near)}" if near else ""
        text += "".join(f"; {_ratio(windows, window, taken)} × {taken.phase} is subtracted" for taken in window.subtract)
        rows.append((window.phase, text))
    return rows


def _named(found: list[Intruder], phase: str) -> set[str]:
    return {one.crystal + " " + one.reflection for one in found if one.phase == phase and one.where == "window"}


def _ratio(windows: Sequence[QWindow], window: QWindow, taken: Subtraction) -> str:
    if taken.ratio != "derived":
        return f"{taken.ratio:g}"
    try:
        return f"{derived_ratio(windows, window.phase, taken):.3g} (derived)"
    except ShapeError:
        return "unknown"


def _small_angles(experiment: Experiment) -> str:
    section = experiment.dstar
    if section is None:
        return "none"
    return f"{section.q_min_inv_angstrom:g} to {section.q_max_inv_angstrom:g} Å⁻¹, {section.points(experiment.integration):.0f} points"


def _pixels(shape: tuple[int, ...]) -> str:
    return " × ".join(str(n) for n in shape) + " pixels"
