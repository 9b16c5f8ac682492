"""The tree of a result as products: declarations at the beginning, blocks and rows as sets close and frames complete."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from operandi.experiment import Experiment, Scan
from operandi.nodes import (
    ECHEM,
    ECHEM_COLUMNS,
    EVENT_COLUMNS,
    EVENTS,
    LEDGER,
    LEDGER_COLUMNS,
    PROVISIONAL,
    PROVISIONAL_COLUMNS,
    STEP_COLUMNS,
    STEPS,
    WINDOW_KEYS,
    WINDOWS,
    WINDOWS_MIMETYPE,
    Array,
    Block,
    Container,
    Lazy,
    Product,
    Rows,
    Table,
    typed_row,
)
from operandi.pipeline import completion, lithium, sizes, straightening, voxels
from operandi.pipeline.phases import LOG_GAP_S
from operandi.pipeline.sets import ADMITTED, STATUS, MeasuredSet, SetBuffer
from operandi.pipeline.tomograms import Tomogram, plane_coords, take_lines
from operandi.stages import charge, scans
from operandi.stages.axis import Axis
from operandi.stages.backlash import Backlash
from operandi.stages.clocks import ClockOffset
from operandi.stages.composites import composite_arrays
from operandi.stages.maps import map_correlations, window_weights
from operandi.stages.patterns import Integrator, correlation_attrs

VOXEL_BLOCK, LINE_BLOCK = 20, 8
"""Voxels along y and x, and projections, that are stored together."""
READINGS = {"charge": "mAh", "voltage": "V", "current": "mA", "cycle": ""}
"""What the log says at the middle of each exposure."""
PER_IMAGE = {"time": "s", "rotation": "deg", "translation": "mm", "monitor": "counts", **READINGS}
STEP_UNITS = {"t_start": "s", "t_end": "s", "q_start_mah": "mAh", "q_end_mah": "mAh", "q_mah": "mAh", "q_mean_mah": "mAh",
              "q_low_mah": "mAh", "q_high_mah": "mAh", "voltage": "V", "current": "mA"}  # fmt: skip
VOXEL_UNITS = "counts/mm"


def tree(experiment: Experiment, integrator: Integrator) -> Iterator[Product]:
    """Declare every node but the sinograms, which are declared frame by frame."""
    q, told = integrator.q, correlation_attrs(integrator)
    scan, nq, n = experiment.scan, len(q), experiment.scan.translations
    images, phases = scans.images_per_set(scan), [w.phase for w in experiment.windows]
    q_coord = {"q": {"values": q.tolist(), "units": "1/angstrom"}}
    plane = plane_coords(scan)
    yield Table(STEPS, STEP_COLUMNS, "step", {"units": STEP_UNITS})
    yield Table(PROVISIONAL, PROVISIONAL_COLUMNS, "step", {"units": {"t_start": "s", "t_end": "s"}})
    yield Table(EVENTS, EVENT_COLUMNS, "told", {"units": {"told": "s", "time": "s"}})
    yield Table(LEDGER, LEDGER_COLUMNS, "entry")
    yield Table(ECHEM, ECHEM_COLUMNS, "time", {"units": {"time": "s", "voltage": "V", "current": "mA", "charge": "mAh"}})
    yield Container(("patterns",))
    for name in ("intensity", "sigma"):
        yield Array(("patterns", name), ("image", "q"), (0, nq), (n, nq), metadata={"units": "counts", "coords": q_coord, **told})
    for name, units in PER_IMAGE.items():
        yield Array(("patterns", name), ("image",), (0,), (images,), "float64", metadata={"units": units})
    yield Container(("sinograms",))
    yield Container(("volumes",))
    block = min(VOXEL_BLOCK, n)
    coords = {**plane, **q_coord}
    yield Array(("volumes", "intensity"), ("frame", "y", "x", "q"), (0, n, n, nq), (1, block, block, nq),
                metadata={"units": VOXEL_UNITS, "coords": coords, **experiment.reconstruction.model_dump(mode="json")})  # fmt: skip
    together = map_correlations(window_weights(q, experiment.windows), integrator.correlation)
    about = {"windows": [w.model_dump(mode="json") for w in experiment.windows], "correlation": together.round(4).tolist()}
    yield Container(("maps",), about)
    coords = {"phase": {"values": phases}, **plane}
    for name in ("intensity", "sigma"):
        yield Array(("maps", name), ("frame", "phase", "y", "x"), (0, len(phases), n, n), (1, len(phases), n, n),
                    metadata={"units": f"{VOXEL_UNITS}/angstrom", "coords": coords})  # fmt: skip
    yield Lazy(WINDOWS, WINDOWS_MIMETYPE, (("volumes", "intensity"),),
               {"keys": WINDOW_KEYS, "units": f"{VOXEL_UNITS}/angstrom", "coords": {**plane, **q_coord},
                "windows": [w.model_dump(mode="json") for w in experiment.windows]})  # fmt: skip
    if experiment.composites:
        names = [c.name for c in experiment.composites]
        coords = {"composite": {"values": names}, **plane, "rgb": {"values": ["red", "green", "blue"]}}
        yield Container(("composites",), {"composites": [c.model_dump(mode="json") for c in experiment.composites]})
        shape = (len(names), n, n, 3)
        yield Array(("composites", "rgb"), ("frame", "composite", "y", "x", "rgb"), (0, *shape), (1, *shape), "uint8", 0,
                    metadata={"coords": coords})  # fmt: skip
    yield from straightening.tree(experiment)
    yield from sizes.tree(experiment, q, VOXEL_UNITS)
    yield from voxels.tree(experiment, VOXEL_UNITS)
    yield from lithium.tree(experiment)
    yield from completion.tree(experiment)


def line_products(scan: Scan, buffer: SetBuffer, lines: list[int]) -> Iterator[Product]:
    """The patterns of some lines of a set, as soon as they are there: what is written then is not to be written in haste later."""
    if not lines:
        return
    first, n = buffer.number * scans.images_per_set(scan), scan.translations
    last = len(buffer.unsent) - 1  # written first, so that the server is told once a set, not once a line, that the array grew
    for name in ("intensity", "sigma"):
        values = getattr(buffer, name)
        for line in sorted({*lines, last}, reverse=True):
            yield Block(("patterns", name), (first + line * n, 0), values[line * n : (line + 1) * n])


def set_products(scan: Scan, buffer: SetBuffer) -> Iterator[Product]:
    """Positions of a set that is about to be closed, and a row of the ledger for each of its exposures."""
    first = buffer.number * scans.images_per_set(scan)
    for name in ("time", "rotation", "translation", "monitor"):
        yield Block(("patterns", name), (first,), getattr(buffer.positions, name))
    entries = np.arange(first, first + len(buffer.status), dtype=np.int64)
    yield Rows(LEDGER, {
        "entry": entries,
        "set": np.full(len(entries), buffer.number, np.int64),
        "stream": np.full(len(entries), scan.stream, object),
        "seq_num": buffer.seq_num,
        "status": np.array(STATUS, object)[buffer.status],
        "reason": np.array([buffer.reasons.get(i, "") for i in range(len(entries))], object),
    })  # fmt: skip


def unplaced_rows(scan: Scan, refusals: list[Any]) -> list[Product]:
    """Rows of the ledger for what was refused or is missing and belongs to no place of the plan."""
    if not refusals:
        return []
    planned = scan.sets * scans.images_per_set(scan)
    n = len(refusals)
    return [Rows(LEDGER, {
        "entry": planned + np.arange(n, dtype=np.int64),
        "set": np.full(n, -1, np.int64),
        "stream": np.full(n, scan.stream, object),
        "seq_num": np.array([r.seq_num or 0 for r in refusals], np.int64),
        "status": np.array([r.status for r in refusals], object),
        "reason": np.array([r.reason for r in refusals], object),
    })]  # fmt: skip


def map_products(tomogram: Tomogram, experiment: Experiment, scales: dict[str, float]) -> Iterator[Product]:
    """Maps and composites of a frame; ``scales`` holds the brightest value of each composite so far."""
    frame = tomogram.span.frame
    yield Block(("maps", "intensity"), (frame, 0, 0, 0), tomogram.maps[None])
    yield Block(("maps", "sigma"), (frame, 0, 0, 0), tomogram.sigma[None])
    if experiment.composites:
        yield Block(("composites", "rgb"), (frame, 0, 0, 0, 0), composites(tomogram.maps, experiment, scales)[None])


def volume_block(tomogram: Tomogram, volume: np.ndarray) -> Block:
    """The volume (y, x, q) of a frame."""
    return Block(("volumes", "intensity"), (tomogram.span.frame, 0, 0, 0), volume[None])


def found_of(scan: Scan, axis: Axis, backlash: Backlash | None, flux: float | None) -> dict[str, float]:
    """What was found out about a sinogram, for its metadata; ``flux`` is that to which it is scaled, if it is."""
    found = {"axis_mm": axis.position, "axis_uncertainty_mm": axis.uncertainty}
    if flux is not None:
        found |= {"monitor_reference": flux}
    if backlash is not None and scan.backlash_mm != 0:
        found |= {"backlash_mm": backlash.value, "backlash_uncertainty_mm": backlash.uncertainty}
    return found


def sinogram_products(
    tomogram: Tomogram, members: list[MeasuredSet], scan: Scan, q: np.ndarray, found: Mapping[str, float]
) -> Iterator[Product]:
    """The sinogram of a frame, a few lines at a time; ``found`` is what was found out about it."""
    coords = {
        "rotation": {"values": tomogram.rotation_deg.tolist(), "units": "deg"},
        "translation": {"values": scans.translations_mm(scan).tolist(), "units": "mm"},
        "q": {"values": q.tolist(), "units": "1/angstrom"},
    }
    path, shape = ("sinograms", f"{tomogram.span.frame:04d}"), (len(tomogram.lines), scan.translations, len(q))
    chunks = (min(LINE_BLOCK, shape[0]), *shape[1:])
    yield Array(path, ("rotation", "translation", "q"), shape, chunks, metadata={"units": "counts", "coords": coords, **found})
    sinograms = [m.intensity for m in members]
    for first in range(0, shape[0], LINE_BLOCK):
        yield Block(path, (first, 0, 0), take_lines(sinograms, tomogram.lines[first : first + LINE_BLOCK]))


def composites(maps: np.ndarray, experiment: Experiment, scales: dict[str, float]) -> np.ndarray:
    """The experiment's false-colour pictures (composite, y, x, rgb) uint8 of maps (phase, y, x).

    The colours of a composite share one scale, the brightest of the series so far, so that a phase that is not there
    stays dark instead of showing its noise.
    """
    phases = [w.phase for w in experiment.windows]
    pictures = []
    for one in experiment.composites:
        layers = [
            np.sum([maps[phases.index(p)] for p in colour] or [np.zeros(maps.shape[1:])], axis=0)
            for colour in (one.red, one.green, one.blue)
        ]
        brightest = float(np.nanpercentile(layers, 99.8))
        scales[one.name] = max(scales.get(one.name, 0.0), brightest)
        pictures.append(composite_arrays(layers, scales[one.name]))
    return np.stack(pictures)


@dataclass(frozen=True, slots=True)
class Exposed:
    """The exposures of a set by their index: the middle of each, UTC epoch s, and its dose in any unit, 0 where it is not admitted."""

    time: np.ndarray
    dose: np.ndarray


def exposed(buffer: SetBuffer, scan: Scan) -> Exposed:
    """When the exposures of a closed set were made, and their doses: the monitor where there is one, else all the same."""
    monitor = buffer.positions.monitor
    dose = np.maximum(np.nan_to_num(monitor), 0.0) if np.isfinite(monitor).any() else np.ones(len(monitor))
    return Exposed(buffer.positions.time + scan.exposure_s / 2, np.where(buffer.status == ADMITTED, dose, 0.0))


def readings_blocks(scan: Scan, number: int, log: charge.Log, of: Exposed) -> Iterator[Block]:
    """What the log says at the middle of each exposure of a set; NaN where it does not tell."""
    readings = charge.at(log, of.time, gap_s=LOG_GAP_S)
    for name in READINGS:
        values = getattr(readings, name)
        values = np.where(values < 0, np.nan, values) if name == "cycle" else values
        yield Block(("patterns", name), (number * scans.images_per_set(scan),), values)


def echem_rows(log: charge.Log, sent: int, *, until: float) -> tuple[list[Product], int]:
    """Rows of the log from number ``sent`` to the first at or after ``until``, and the number of rows sent then."""
    end = min(int(np.searchsorted(log.time, until)) + 1, len(log.time))
    if end <= sent:
        return [], sent
    new = np.diff(log.time[max(sent - 1, 0) : end], prepend=-np.inf if sent == 0 else []) > 0  # of rows at one time the first stands
    return [Rows(ECHEM, {name: getattr(log, name)[sent:end][new] for name in ECHEM_COLUMNS})], end


def step_row(tomogram: Tomogram, exposures: Sequence[Exposed], log: charge.Log, log_ended: str | None) -> Rows:
    """The row that commits a frame: what it is made of, when it was measured, and the state of the cell."""
    t_mid = (tomogram.t_start + tomogram.t_end) / 2
    start, middle, end = (charge.at(log, np.array([t]), gap_s=LOG_GAP_S) for t in (tomogram.t_start, t_mid, tomogram.t_end))
    time, dose = (np.concatenate([getattr(one, name) for one in exposures]) for name in ("time", "dose"))
    tag = charge.tag_of_exposures(charge.at(log, time[dose > 0], gap_s=LOG_GAP_S).charge, dose[dose > 0])
    q_start, q_end = float(start.charge[0]), float(end.charge[0])
    row: Mapping[str, Any] = {
        **_made_of(tomogram),
        "q_start_mah": q_start, "q_end_mah": q_end, "q_mah": (q_start + q_end) / 2,
        "q_mean_mah": tag.mean, "q_low_mah": tag.lowest, "q_high_mah": tag.highest,
        "voltage": float(middle.voltage[0]), "current": float(middle.current[0]),
        "cycle": int(middle.cycle[0]), "protocol_step": int(middle.step[0]),
        "phase": charge.phase_of_cycle(log, tomogram.t_start, tomogram.t_end),
        "quality": _quality(tomogram, q_start, q_end, log_ended),
    }  # fmt: skip
    return Rows(STEPS, typed_row(STEP_COLUMNS, row))


def provisional_row(tomogram: Tomogram, log: charge.Log, clock: ClockOffset | None, *, covered: bool) -> Rows:
    """The row that tells of a frame whose maps are there, but which cannot be committed yet, and why.

    ``covered``: nothing more is expected of the log.
    """
    if covered:
        reason = "its volume is being made"
    elif clock is not None and clock.reason:
        reason = f"the potentiostat's clock is not known: {clock.reason}"
    elif not len(log):
        reason = "the potentiostat log has no row yet"
    elif log.time[0] > tomogram.t_end:
        reason = f"the potentiostat log begins {log.time[0] - tomogram.t_end:.0f} s after it"
    else:
        reason = f"the potentiostat log ends {tomogram.t_end - log.time[-1]:.0f} s before it does"
    return Rows(PROVISIONAL, typed_row(PROVISIONAL_COLUMNS, {**_made_of(tomogram), "reason": reason}))


def _made_of(tomogram: Tomogram) -> dict[str, Any]:
    span = tomogram.span
    return {
        "step": span.frame, "frame": span.frame, "set_first": span.set_first, "set_last": span.set_last,
        "t_start": tomogram.t_start, "t_end": tomogram.t_end, "coverage": tomogram.coverage,
    }  # fmt: skip


def clock_metadata(clock: ClockOffset | None) -> dict[str, Any]:
    """How the potentiostat's time became the beamline's, for the result's metadata."""
    return {} if clock is None else {"clock": asdict(clock)}


def _quality(tomogram: Tomogram, q_start: float, q_end: float, log_ended: str | None) -> str:
    remarks = []
    if tomogram.coverage < 1:
        remarks.append(f"{100 * (1 - tomogram.coverage):.1f} % of the projections not measured")
    if not np.isfinite(q_start + q_end):
        remarks.append(f"charge unknown: {log_ended or 'the potentiostat log has a gap here'}")
    return "; ".join(remarks) or "complete"
