"""A beamline in a box: measure a simulated cell with a real RunEngine, real files and a potentiostat's log."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from operandi.errors import ExperimentError, ShapeError
from operandi.experiment import Experiment
from operandi.simulate.detectors import Response, response
from operandi.simulate.devices import Acquisition, make_devices, position_units
from operandi.simulate.exposures import Beam, Exposures
from operandi.simulate.files import ImageFile, PositionFile
from operandi.simulate.phantom import Cell, Layout, cell_from_image, grid_mm, jelly_roll
from operandi.simulate.plans import interlaced_scan, step_scan
from operandi.simulate.potentiostat import OPEN_ROWS, ROW_S, ChargeCurve, PotentiostatLog, paper_curve
from operandi.simulate.projections import FINE, truth
from operandi.simulate.schedules import Schedule

AXIS_PITCHES = 0.11 / 0.14
"""How far the rotation axis lies from the middle of the travel, in steps of the translation."""
_DEMO_HALF_TRAVEL_MM = 4.2
_RIM_POINTS = 2
_ROWS_PER_SET = 144


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What a rehearsal left behind."""

    uid: str
    images: int
    seconds: float
    image_file: Path
    position_file: Path
    log_file: Path | None
    truth_file: Path


def demo_file(name: str = "experiment.yml") -> Path:
    """Path of a file of the built-in example: experiment.yml, demo.poni or demo_mask.npy."""
    return Path(str(resources.files("operandi.simulate").joinpath("demo", name)))


def plan_schedule(experiment: Experiment) -> Schedule:
    """The schedule of an experiment; the axis is where the file says, else a little off the middle of the travel."""
    scan = experiment.scan
    schedule = Schedule(scan)
    axis = experiment.reconstruction.axis_mm
    if axis is None:
        axis = (scan.translation_start_mm + scan.translation_stop_mm) / 2 + AXIS_PITCHES * schedule.pitch_mm
    return Schedule(scan, axis)


def fit_cell(schedule: Schedule, image: Path | None = None) -> Cell:
    """A cell scaled to a scan's travel, so that its rim sees only air: the built-in jelly roll, or one after an image."""
    half = schedule.pitch_mm * (schedule.scan.translations - 1) / 2
    off = abs(schedule.axis_mm - (schedule.scan.translation_start_mm + schedule.scan.translation_stop_mm) / 2)
    room = max(half - off - (_RIM_POINTS - 0.5) * schedule.pitch_mm, schedule.pitch_mm)
    scale = min(half / _DEMO_HALF_TRAVEL_MM, room / Layout().radius_mm)
    n, pitch = schedule.scan.translations * FINE, schedule.pitch_mm / FINE
    if image is not None:
        return cell_from_image(image, n=n, pitch_mm=pitch, radius_mm=Layout().radius_mm * scale)
    return jelly_roll(n, pitch, _scaled(Layout(), scale))


def _scaled(layout: Layout, scale: float) -> Layout:
    bend, agglomerate = layout.bend, layout.agglomerate
    return replace(
        layout,
        radius_mm=layout.radius_mm * scale,
        casing_mm=layout.casing_mm * scale,
        roll_mm=(layout.roll_mm[0] * scale, layout.roll_mm[1] * scale),
        core_mm=(layout.core_mm[0] * scale, layout.core_mm[1] * scale),
        bend=None if bend is None else (bend[0], bend[1], bend[2] * scale),
        agglomerate=None if agglomerate is None else (agglomerate[0] * scale, agglomerate[1] * scale, agglomerate[2] * scale),
    )


def rehearse(
    experiment: Experiment,
    *,
    folder: Path,
    speed: float | None = None,
    cell: Cell | None = None,
    echem: ChargeCurve | None = None,
    seen: Response | None = None,
    step: bool = False,
    seed: int = 0,
    beam: Beam | None = None,
    on_image: Callable[[int, int], None] | None = None,
    subscribers: Iterable[Callable[[str, dict[str, Any]], object]] = (),
    first_image_s: float | None = None,
) -> Rehearsal:
    """Measure a simulated cell exactly as ``experiment`` says.

    Images and positions are written below ``folder``, with ``truth.h5`` beside them, and the potentiostat's log where
    the experiment expects it. With ``echem`` the cell is empty at its least charge and full at its greatest; where that charge is constant,
    the cell itself says when it is. ``seen`` is what the detector sees of what is in the cell (None: of the built-in materials).
    ``subscribers`` receive every document of the RunEngine. ``speed`` is virtual seconds for each real one (None: as
    fast as possible); the virtual clock starts at ``first_image_s`` (None: now), and does not change the images.
    ``on_image`` is called with the images written and planned.

    Raises
    ------
    ExperimentError
        The experiment expects another kind of log than .mpt.
    PotentiostatError
        Where the log should go lies one that was not simulated.
    GeometryError
        Calibration or mask cannot be read.
    ShapeError
        The cell is made for another scan.
    KeyboardInterrupt
        The operator stopped the scan; its run is closed as aborted.
    """
    began = time.monotonic()
    start_s = float(np.floor(time.time() if first_image_s is None else first_image_s))
    schedule = plan_schedule(experiment)
    curve = paper_curve(schedule.duration_s) if echem is None else echem
    cell = _checked(cell, schedule) if cell is not None else fit_cell(schedule)
    if echem is not None and np.ptp(curve.charge_mah) > 0:
        cell = replace(cell, capacity_mah=float(np.ptp(curve.charge_mah)), empty_mah=float(curve.charge_mah.min()))
    beam = beam or Beam()
    detector = seen or replace(response(experiment, strength=beam.strength), air_mm=beam.air_mm)
    exposures = Exposures(schedule, cell, curve, detector, start_s, seed, beam.drift, beam.counted)
    log = _start_log(experiment, schedule, curve, start_s)
    folder = Path(folder).absolute()
    stem = time.strftime("%Y%m%d-%H%M%S", time.gmtime(time.time()))
    acquisition = Acquisition(
        exposures,
        ImageFile(folder / f"{stem}_images.h5", exposures.response.shape),
        PositionFile(folder / f"{stem}_positions.h5", position_units(experiment.scan.keys)),
        experiment.scan.keys,
        on_image,
    )
    truth_file = folder / "truth.h5"
    write_truth(truth_file, schedule, cell, curve)
    scan = step_scan if step else interlaced_scan
    plan = scan(make_devices(acquisition, flying=not step), experiment, speed=speed, on_line=log.advance if log else None)
    try:
        uid = _run(plan, subscribers)
        if log is not None:
            log.advance(start_s + schedule.duration_s + OPEN_ROWS * ROW_S)
    finally:
        acquisition.close()
        if log is not None:
            log.close()
    return Rehearsal(
        uid=uid,
        images=schedule.images,
        seconds=time.monotonic() - began,
        image_file=acquisition.image_file.path,
        position_file=acquisition.position_file.path,
        log_file=log.path if log else None,
        truth_file=truth_file,
    )


def _run(plan: Any, subscribers: Iterable[Callable[[str, dict[str, Any]], object]]) -> str:
    from bluesky import RunEngine
    from bluesky.utils import RunEngineInterrupted

    # Only the main thread may catch Ctrl-C.
    catching = None if threading.current_thread() is threading.main_thread() else []
    engine = RunEngine({}, call_returns_result=True, context_managers=catching)
    for subscriber in subscribers:
        engine.subscribe(subscriber)
    try:
        result: Any = engine(plan)
    except RunEngineInterrupted as interruption:
        if engine.state == "paused":
            engine.abort("stopped by the operator")
        raise KeyboardInterrupt from interruption
    return result.run_start_uids[0]


def _checked(cell: Cell, schedule: Schedule) -> Cell:
    n, pitch = schedule.scan.translations * FINE, schedule.pitch_mm / FINE
    if cell.host.shape != (n, n) or not np.isclose(cell.pitch_mm, pitch):
        raise ShapeError(
            f"the cell has {cell.host.shape} points of {cell.pitch_mm} mm, but this scan needs {n} × {n} of {pitch:.6g} mm: "
            "make it with fit_cell"
        )
    return cell


def _start_log(experiment: Experiment, schedule: Schedule, curve: ChargeCurve, start_s: float) -> PotentiostatLog | None:
    potentiostat = experiment.potentiostat
    if potentiostat is None or potentiostat.file is None:
        return None
    if potentiostat.file.suffix != ".mpt":
        raise ExperimentError(f"potentiostat.file is {potentiostat.file}, but a rehearsal writes .mpt: give it that ending")
    offset = potentiostat.clock_offset_s
    return PotentiostatLog(
        potentiostat.file,
        curve,
        first_image_s=start_s,
        timezone=potentiostat.timezone,
        clock_offset_s=offset if isinstance(offset, float) else 0.0,
        row_s=min(ROW_S, schedule.set_duration_s / _ROWS_PER_SET),
    )


def write_truth(path: Path, schedule: Schedule, cell: Cell, curve: ChargeCurve, samples: int = 12) -> None:
    """What every frame should show, as HDF5: ``maps`` (frame, phase, y, x) in volume fractions, ``present`` (frame, phase),
    ``charge_mah`` (frame,), ``set_first`` and ``set_last`` (frame,), ``x`` and ``y`` in mm from the rotation axis."""
    frames, charges = [], []
    for window in schedule.windows():
        within = (np.arange(samples) + 0.5) / samples * len(window) + window.start
        charge = curve.charge(within * schedule.set_duration_s)
        frames.append(truth(cell, charge, schedule.pitch_mm))
        charges.append(charge.mean())
    path.parent.mkdir(parents=True, exist_ok=True)
    axis = grid_mm(schedule.scan.translations, schedule.pitch_mm)
    with h5py.File(path, "w") as file:
        file["maps"] = np.stack([frame.maps for frame in frames]).astype(np.float32)
        file["maps"].attrs["dims"] = ["frame", "phase", "y", "x"]
        file["phases"] = list(frames[0].phases)
        file["present"] = np.stack([frame.present for frame in frames])
        file["in_layer"] = np.stack([frame.in_layer for frame in frames])
        file["charge_mah"] = charges
        file["set_first"] = [window.start for window in schedule.windows()]
        file["set_last"] = [window.stop - 1 for window in schedule.windows()]
        file["x"], file["y"] = axis, axis
        file.attrs["axis_mm"] = schedule.axis_mm
