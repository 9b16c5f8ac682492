"""From measurements to nodes: ``step(state, event)`` is the only path, live, in replay and after a restart.

A set is closed when all its exposures are there, else when one of a later set arrives or the run ends; an exposure that is repeated after
that is refused. A frame is computed when its last set is closed, and committed (its row of ``steps``) when the potentiostat log covers it.
What is computed depends on the exposures alone, never on when they came.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from operandi.errors import ShapeError
from operandi.experiment import Experiment
from operandi.nodes import Closed, Product
from operandi.pipeline import companions as beside
from operandi.pipeline import completion, lithium, publication, sizes, straightening, travels, voxels
from operandi.pipeline.companions import Companions
from operandi.pipeline.completion import Completion
from operandi.pipeline.correcting import Chain
from operandi.pipeline.events import ClockTold, Event, Gap, Images, LogEnded, LogRows, Refusal, RunEnded
from operandi.pipeline.phases import View
from operandi.pipeline.sets import ADMITTED, MeasuredSet, Positions, SetBuffer, close, refuse_off_grid, without_backlash
from operandi.pipeline.tomograms import Tomogram, find_backlash, find_frame_axis, frame_of, volume_of
from operandi.stages import motion, scans
from operandi.stages.axis import Axis
from operandi.stages.backlash import Backlash
from operandi.stages.charge import Log
from operandi.stages.clocks import ClockOffset
from operandi.stages.maps import Screening
from operandi.stages.patterns import Integrator


@dataclass(slots=True)
class State:
    """What the fold remembers: open sets, the sets that coming frames need, and the log."""

    experiment: Experiment
    integrator: Integrator
    log: Log
    companions: Companions = field(default_factory=Companions)
    clock: ClockOffset | None = None
    log_ended: str | None = None
    ended: RunEnded | None = None
    open_sets: dict[int, SetBuffer] = field(default_factory=dict)
    closed: dict[int, MeasuredSet] = field(default_factory=dict)
    exposed: dict[int, publication.Exposed] = field(default_factory=dict)
    waiting: list[Tomogram] = field(default_factory=list)
    completion: Completion = field(default_factory=Completion)
    lithium_since: lithium.Contents | None = None
    """Of the first frame of which all is known: the balance counts from there."""
    unplaced: list[Refusal] = field(default_factory=list)
    monitor_reference: float | None = None
    axis: Axis | None = None
    straight_mm: float | None = None
    """The axis onto which the projections of all sets are moved, where wobble is taken out; None while there is none."""
    later: list[Product] = field(default_factory=list)
    """Of closed sets: what nobody waits for as for the maps."""
    backlash: Backlash | None = None
    """None while it is not known; 0 where none is to be corrected."""
    track: motion.Track = field(default_factory=motion.Track)
    last_placed: int = 0
    """The highest seq_num whose set was told by a key or by the motion."""
    next_set: int = 0
    next_frame: int = 0
    next_tagged: int = 0
    echem_sent: int = 0
    scales: dict[str, float] = field(default_factory=dict)
    finished: bool = False


def begin(experiment: Experiment, integrator: Integrator, companions: Companions | None = None) -> tuple[State, list[Product]]:
    """The state before the first exposure, and the declarations of the result's tree.

    Raises
    ------
    ShapeError
        The experiment asks for something that ``companions`` lack.
    """
    state = State(experiment, integrator, Log.empty(), companions or Companions())
    state.companions.check(experiment)
    state.straight_mm = experiment.reconstruction.axis_mm
    if experiment.scan.backlash_mm != "auto":
        state.backlash = Backlash(experiment.scan.backlash_mm, 0.0)
    if experiment.potentiostat is None:
        state.log_ended = "the experiment names no potentiostat"
    return state, [*publication.tree(experiment, integrator), *beside.tree(state.companions, experiment.scan, integrator.q)]


def step(state: State, event: Event) -> Iterator[Product]:
    """Fold one event into the state and give the products that it completes, in order.

    Draw them all, each published before the next is drawn: nothing that is as large as a volume is held longer than that.
    """
    match event:
        case Images():
            yield from _take(state, event)
        case Refusal():
            yield from _refuse(state, event)
        case Gap():
            _note_gap(state, event)
        case LogRows():
            state.log = event.rows if event.restarted else state.log.append(event.rows)
            state.echem_sent = 0 if event.restarted else state.echem_sent
        case ClockTold():
            state.clock = event.clock
        case LogEnded():
            state.log_ended = event.reason
        case RunEnded():
            state.ended = event
            yield from _close_until(state, state.experiment.scan.sets)
    yield from _commit(state)
    yield from _complete(state)
    if state.ended and not state.waiting and not state.completion.waiting and not state.finished:
        state.finished = True
        yield from publication.unplaced_rows(state.experiment.scan, state.unplaced)
        status = "complete" if state.ended.exit_status == "success" else state.ended.exit_status
        yield Closed({"status": status, "reason": state.ended.reason, **publication.clock_metadata(state.clock)})


def _take(state: State, event: Images) -> Iterator[Product]:
    found = _place(state, event)
    for first, stop in _stretches(found.set):
        here = slice(first, stop)
        yield from _take_of_one_set(state, int(found.set[first]), found.index[here], _part(event, here))


def _take_of_one_set(state: State, number: int, index: np.ndarray, event: Images) -> Iterator[Product]:
    if number < state.next_set:
        state.unplaced += [Refusal(int(n), _why_unplaced(state, number)) for n in event.seq_num]
        return
    yield from _close_until(state, number)
    buffer = _buffer(state, number)
    if state.experiment.scan.sets_by != "plan":
        replaced = buffer.claim(index, event.seq_num)
        state.unplaced += [Refusal(one, f"repeated as exposure {last}, which counts in its place") for one, last in replaced]
    buffer.admit(index, state.integrator(event.images), event.positions)
    yield from publication.line_products(state.experiment.scan, buffer, buffer.take_unsent(settled=True))
    del buffer  # its sigma is as large as the set: not to be held while the frame is made
    yield from _close_settled(state)


def _place(state: State, event: Images) -> motion.Placement:
    """Where exposures belong, as ``scan.sets_by`` says.

    An exposure that comes again, out of turn, keeps the place that the motion gave it: the track is that of the first time.
    """
    scan, at = state.experiment.scan, event.positions
    if scan.sets_by == "motion" and event.seq_num[0] <= state.last_placed:
        return _former_places(state, event.seq_num)
    if scan.sets_by != "plan":
        state.last_placed = max(state.last_placed, int(event.seq_num[-1]))
    translation = at.translation if scan.backlash_mm == 0 else travels.within_travel(scan, at.translation)
    state.track, found = motion.place(scan, state.track, at.rotation, translation, event.seq_num, at.set)
    return found


def _former_places(state: State, seq_num: np.ndarray) -> motion.Placement:
    number, index = np.full((2, len(seq_num)), -1)
    for one, buffer in state.open_sets.items():
        places = np.flatnonzero(np.isin(buffer.seq_num, seq_num))
        which = np.searchsorted(seq_num, buffer.seq_num[places])
        number[which], index[which] = one, places
    return motion.Placement(number, index)


def _stretches(number: np.ndarray) -> Iterable[tuple[int, int]]:
    """``[first, stop)`` of each stretch of equal numbers."""
    edges = [0, *(np.flatnonzero(np.diff(number)) + 1).tolist(), len(number)]
    return zip(edges[:-1], edges[1:], strict=True)


def _part(event: Images, chosen: slice) -> Images:
    names = ("rotation", "translation", "monitor", "time")
    return Images(event.seq_num[chosen], event.images[chosen], Positions(*(getattr(event.positions, name)[chosen] for name in names)))


def _refuse(state: State, event: Refusal) -> Iterator[Product]:
    if event.seq_num is None or state.experiment.scan.sets_by != "plan":
        state.unplaced.append(event)
        return
    (number,), (index,) = scans.set_and_index(state.experiment.scan, np.array([event.seq_num]))
    if number < state.next_set:
        state.unplaced.append(event)
        return
    _buffer(state, int(number)).refuse(int(index), event.reason)
    yield from _close_settled(state)


def _note_gap(state: State, event: Gap) -> None:
    """Remember why exposures are missing; beyond the plan nothing was expected. Without the plan nobody knows where they belong."""
    scan = state.experiment.scan
    if scan.sets_by != "plan":
        state.unplaced += [Refusal(n, event.reason, "missing") for n in range(event.seq_first, event.seq_last + 1)]
        return
    last = min(event.seq_last, scan.sets * scans.images_per_set(scan))
    places = scans.set_and_index(scan, np.arange(event.seq_first, last + 1))
    for number, index in zip(*(values.tolist() for values in places), strict=True):
        if number >= state.next_set:
            _buffer(state, number).reasons[index] = event.reason


def _why_unplaced(state: State, number: int) -> str:
    scan = state.experiment.scan
    if number < 0 and scan.sets_by == "key":
        return motion.UNPLACED[number] if number != -1 else f"{scan.keys.set} names none of the sets 0 to {scan.sets - 1}"
    if number < 0 and scan.sets_by == "motion":
        return motion.UNPLACED[number]
    if number < 0:
        return f"beyond the plan: the scan has {scan.sets * scans.images_per_set(scan)} exposures"
    return f"repeated after its set {number} was closed"


def _buffer(state: State, number: int) -> SetBuffer:
    if number not in state.open_sets:
        scan = state.experiment.scan
        planned = scans.planned_seq_num(scan, number) if scan.sets_by == "plan" else None
        state.open_sets[number] = SetBuffer.empty(number, scan.rotations_per_set, scan.translations, len(state.integrator.q), planned)
    return state.open_sets[number]


def _close_until(state: State, number: int) -> Iterator[Product]:
    """Close every set before ``number``, and make the frames that this completes."""
    while state.next_set < number:
        yield from _close(state, _buffer(state, state.next_set))
        state.later += _project(state)
        state.next_set += 1
        yield from _make_frames(state)
        yield from _unhurried(state)


def _close_settled(state: State) -> Iterator[Product]:
    """Close the next set if nothing more of it is to come."""
    if state.next_set in state.open_sets and state.open_sets[state.next_set].settled:
        yield from _close_until(state, state.next_set + 1)


def _close(state: State, buffer: SetBuffer) -> Iterator[Product]:
    """What is left to publish of a set, as measured; then the set as coming frames need it, in the same memory."""
    scan, experiment = state.experiment.scan, state.experiment
    refuse_off_grid(buffer, scan)
    if state.monitor_reference is None:
        state.monitor_reference = experiment.corrections.monitor_reference or _median_monitor(buffer)
    yield from publication.line_products(scan, buffer, buffer.take_unsent(settled=False))
    state.later += publication.set_products(scan, buffer)
    screening = Screening.of(state.integrator.q, experiment.windows, correlation=state.integrator.correlation)
    chain = Chain(experiment.corrections, scan, state.monitor_reference or 1.0, state.companions)
    closed = close(buffer, scan, chain, screening)
    state.closed[buffer.number] = closed if state.backlash is None else _on_true_positions(state, closed, state.backlash.value)
    state.exposed[buffer.number] = publication.exposed(buffer, scan)
    del state.open_sets[buffer.number]


def _median_monitor(buffer: SetBuffer) -> float | None:
    """The flux that the whole run is normalised to: the first set's median."""
    monitor = buffer.positions.monitor[buffer.status == ADMITTED]
    usable = monitor[np.isfinite(monitor) & (monitor > 0)]
    return float(np.median(usable)) if len(usable) else None


def _make_frames(state: State) -> Iterator[Product]:
    for span in scans.spans(state.experiment.scan)[state.next_frame :]:
        if span.set_last >= state.next_set:
            break
        state.next_frame += 1
        if all(state.closed[s].measured for s in span.sets):
            yield from _make(state, span)
        keep = span.set_first + state.experiment.scan.window_step
        for number in [n for n in state.closed if n < keep]:
            del state.closed[number]


def _make(state: State, span: scans.Span) -> Iterator[Product]:
    try:
        _take_out_backlash(state, span)
        state.axis = state.axis or find_frame_axis([state.closed[s] for s in span.sets], state.experiment)
    except ShapeError as error:
        lacking = "scan.backlash_mm" if state.backlash is None else "reconstruction.axis_mm"
        reason = f"frame {span.frame} is not reconstructed: {error}; give {lacking}, and replay"
        state.unplaced.append(Refusal(None, reason))
        return
    state.later += _project(state)
    members = [state.closed[s] for s in span.sets]
    tomogram = frame_of(span, members, state.experiment, state.axis)
    yield from publication.map_products(tomogram, state.experiment, state.scales)
    maps, tomogram = tomogram.maps, tomogram.without_arrays()
    yield publication.provisional_row(tomogram, state.log, state.clock, covered=_covered(state, tomogram))
    yield from _unhurried(state)
    volume = volume_of(tomogram, members, state.experiment, state.axis, len(state.integrator.q))
    yield publication.volume_block(tomogram, volume)
    yield from sizes.products(span.frame, maps, volume, state.integrator.q, state.experiment)
    yield from voxels.blocks(span.frame, volume, state.integrator, state.experiment, state.companions.references)
    del volume  # it is as large as all else
    flux = state.monitor_reference if state.experiment.corrections.monitor else None
    found = publication.found_of(state.experiment.scan, state.axis, state.backlash, flux)
    yield from publication.sinogram_products(tomogram, members, state.experiment.scan, state.integrator.q, found)
    state.waiting.append(tomogram)


def _unhurried(state: State) -> Iterator[Product]:
    """What could wait until the maps were out."""
    later, state.later = state.later, []
    yield from later


def _covered(state: State, tomogram: Tomogram) -> bool:
    return state.log_ended is not None or state.log.covers(tomogram.t_end)


def _take_out_backlash(state: State, span: scans.Span) -> None:
    """Find the backlash in the first window, where it is to be found, and correct every closed set by it."""
    if state.backlash is None:
        state.backlash = find_backlash([state.closed[s] for s in span.sets], state.experiment.scan)
        for number, closed in state.closed.items():
            state.closed[number] = _on_true_positions(state, closed, state.backlash.value)


def _on_true_positions(state: State, closed: MeasuredSet, backlash_mm: float) -> MeasuredSet:
    """The set without backlash and, where the experiment asks for it, without wobble."""
    closed = without_backlash(closed, state.experiment.scan, backlash_mm)
    if not state.experiment.corrections.wobble or not closed.measured:
        return closed
    try:
        found = straightening.straighten_set(closed, state.experiment.scan, state.straight_mm)
    except ShapeError as error:
        state.unplaced.append(Refusal(None, f"set {closed.number} is used as measured, its wobble is not known: {error}"))
        return closed
    state.straight_mm = found.onto_mm
    state.later += straightening.blocks(found)
    return found.measured


def _project(state: State) -> Iterator[Product]:
    """The closed sets as the maps see them, once they lie on their true positions."""
    if state.backlash is None:
        return
    scan = state.experiment.scan
    for number, closed in state.closed.items():
        if closed.measured and number not in state.completion.sets:
            one = completion.phase_set(closed, state.exposed[number].time, scan)
            state.completion.sets[number] = one
            yield from completion.projection_blocks(one, scan)


def _commit(state: State) -> Iterator[Product]:
    """Commit the frames, in order, that the log covers, or all of them once no more of it will come."""
    scan = state.experiment.scan
    while state.waiting and _covered(state, state.waiting[0]):
        tomogram = state.waiting.pop(0)
        rows, state.echem_sent = publication.echem_rows(state.log, state.echem_sent, until=tomogram.t_end)
        yield from rows
        for number in [n for n in sorted(state.exposed) if state.next_tagged <= n <= tomogram.span.set_last]:
            yield from publication.readings_blocks(scan, number, state.log, state.exposed[number])
        state.next_tagged = tomogram.span.set_last + 1
        yield from _complete(state)
        final = _is_final(state, tomogram)
        yield from completion.commit(state.completion, tomogram, state.experiment, _view(state), state.log, final=final)
        row = publication.step_row(tomogram, [state.exposed[n] for n in tomogram.span.sets], state.log, state.log_ended)
        if state.experiment.lithium is not None:
            yield _lithium_row(state, tomogram, float(row.columns["q_mean_mah"][0]))
        yield row
        for number in [n for n in state.exposed if n < tomogram.span.set_first + scan.window_step]:
            del state.exposed[number]


def _lithium_row(state: State, tomogram: Tomogram, charge_mah: float) -> Product:
    now = lithium.contents_of([state.completion.sets[n] for n in tomogram.span.sets], charge_mah, state.experiment)
    if state.lithium_since is None and now.known:
        state.lithium_since = now
    return lithium.row(tomogram.span.frame, now, state.lithium_since, state.experiment)


def _complete(state: State) -> Iterator[Product]:
    """Finish the committed frames, in order, whose sets are all there."""
    coming = state.completion
    while coming.waiting and _is_final(state, coming.waiting[0]):
        yield from completion.finish(coming, coming.waiting.pop(0), state.experiment, _view(state), state.log)
    scan = state.experiment.scan
    firsts = [tomogram.span.set_first for tomogram in state.waiting] + [state.next_frame * scan.window_step]
    completion.forget(coming, scan, min(firsts))


def _is_final(state: State, tomogram: Tomogram) -> bool:
    return completion.is_final(
        state.completion, state.experiment, tomogram.span, state.next_set, state.log, log_ended=state.log_ended is not None
    )


def _view(state: State) -> View:
    assert state.axis is not None
    return View(scans.translations_mm(state.experiment.scan), state.axis.position, state.experiment.reconstruction.filter)
