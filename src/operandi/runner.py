"""The worker: source → intake → pipeline → sink, one run at a time, and its word to the operator."""

import contextlib
import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from operandi import pipeline, provenance
from operandi.companions import load_companions
from operandi.errors import DocumentError, GeometryError, PublishError, ShapeError
from operandi.experiment import Experiment, Scan
from operandi.intake import QUEUED_BLOCKS, Intake
from operandi.nodes import PROCESSED, PROVISIONAL, STEPS, Rows
from operandi.pipeline import Companions, Event, Images, LogEnded, RunEnded, State, alerts
from operandi.sinks.tiled import TiledSink
from operandi.sinks.webhook import Webhook
from operandi.sources.assets import load_correction, load_mask
from operandi.sources.log_feed import LogFeed, signals_of
from operandi.sources.signals import Signal, Signals
from operandi.stages import departures, guardian, scans, volumes
from operandi.stages.charge import at
from operandi.stages.patterns import Integrator, build_integrator, load_calibration, warm_up
from operandi.stages.routes import Routes, describes, why_not_ours

log = logging.getLogger(__name__)

Document = tuple[str, Mapping[str, Any]]
POLL_S = 0.2
PATIENCE_S = 10.0
DRAIN_S = 60.0
"""How long the end of a run waits for a server that is away."""
HASTE_S = 0.5
"""How long a frame's volume, which takes every processor, waits in a live run for the server to take its maps."""


@dataclass(frozen=True, slots=True)
class Status:
    """Where a run's processing stands; NaN where the log does not tell."""

    key: str = ""
    run_uid: str = ""
    images: int = 0
    planned: int = 0
    images_per_s: float = 0.0
    refused: int = 0
    set: int = 0
    frames: int = 0
    frames_planned: int = 0
    voltage: float = float("nan")
    current: float = float("nan")
    charge: float = float("nan")
    unpublished: int = 0
    guardian: str = ""
    """The conditions that go on."""
    message: str = ""
    finished: bool = False


def make_integrator(experiment: Experiment, shape: tuple[int, int] | None = None) -> Integrator:
    """The integrator of an experiment, for images of ``shape``; None takes that of the mask or of the detector.

    Raises GeometryError where poni, mask, dark, flat and images do not fit each other.
    """
    geometry, how = experiment.geometry, experiment.integration
    mask = None if geometry.mask is None else load_mask(geometry.mask)
    rows_and_columns = shape or (None if mask is None else mask.shape) or getattr(load_calibration(geometry.poni).detector, "shape", None)
    if rows_and_columns is None:
        raise GeometryError(f"{geometry.poni} names no detector with a shape: give geometry.mask, an image of the detector's shape")
    return build_integrator(
        str(geometry.poni),
        shape=(int(rows_and_columns[0]), int(rows_and_columns[1])),
        mask=mask,
        q_range=(how.q_min_inv_angstrom, how.q_max_inv_angstrom),
        n_q=how.bins,
        method=how.splitting,
        polarization=how.polarization,
        dark=None if how.dark is None else load_correction(how.dark),
        flat=None if how.flat is None else load_correction(how.flat),
        dummy=how.dummy,
    )


@dataclass(slots=True)
class Processing:
    """One run on its way: the pipeline's state, the sink, and what has come so far."""

    experiment: Experiment
    sink: TiledSink
    on_status: Callable[[Status], None]
    state: State
    status: Status
    watch: alerts.Watch
    webhook: Webhook | None = None
    blind: str = ""
    """Why the temperature cannot be watched."""
    haste_s: float = 0.0
    """How long a frame's volume waits until its maps are out."""
    began: float = field(default_factory=time.monotonic)
    pools: ThreadpoolController = field(default_factory=ThreadpoolController)

    @classmethod
    def begin(
        cls,
        experiment: Experiment,
        integrator: Integrator,
        companions: Companions,
        start: Mapping[str, Any],
        sink: TiledSink,
        on_status: Callable[[Status], None],
        *,
        live: bool,
    ) -> "Processing":
        """Open the result of a run and declare its tree; what the guardian says of a run that is replayed goes to no webhook."""
        key, metadata = provenance.result_of(experiment, start)
        sink.open(key, metadata)
        state, products = pipeline.begin(experiment, integrator, companions)
        scan = experiment.scan
        planned = scan.sets * scans.images_per_set(scan)
        status = Status(key=key, run_uid=start["uid"], planned=planned, frames_planned=len(scans.spans(scan)))
        address = experiment.publishing.webhook if live else None
        webhook = None if address is None else Webhook(address)
        processing = cls(experiment, sink, on_status, state, status, alerts.Watch(experiment, live=live), webhook)
        processing.haste_s = HASTE_S if live else 0.0
        processing._apply(products)
        return processing

    @property
    def finished(self) -> bool:
        """Whether everything of the run is published, or waits in the spool."""
        return self.state.finished

    def take(self, event: Event) -> None:
        """Fold one event and publish what it completes."""
        self._apply(pipeline.step(self.state, event))
        if isinstance(event, Images):
            self.status = replace(self.status, images=self.status.images + len(event.seq_num))
            self._report_cell(float(event.positions.time[-1]))
            self.tell(self.watch.exposures(event.positions.time, event.positions.monitor, time.time()))
        elif isinstance(event, pipeline.Refusal):
            self.status = replace(self.status, refused=self.status.refused + 1, message=f"refused: {event.reason}")
        self.report()

    def take_temperature(self, signal: Signal) -> None:
        """Have the guardian look at readings of temperature; where there are none to be had, that is told once."""
        try:
            events = (
                [] if signal.fault else self.watch.temperatures(signal.time, signal.columns["reading"], signal.units.get("reading", ""))
            )
        except ShapeError as error:
            signal, events = replace(signal, fault=str(error)), []
        if signal.fault and not self.blind:
            self.blind = signal.fault
            log.warning("the temperature is not watched: %s", signal.fault)
        self.tell(events)

    def tell(self, events: list[guardian.Event]) -> None:
        """Make known what the guardian says: in the result, the log, the status and to the webhook."""
        if not events:
            return
        self.sink.apply(self.watch.table_rows(events, time.time()))
        for event in events:
            log.log(logging.WARNING if event.change == "begins" else logging.INFO, "guardian: %s", event.said)
            if self.webhook is not None:
                self.webhook.post({"result": self.status.key, **asdict(event), "said": event.said})
        self.status = replace(self.status, guardian=alerts.summary(self.watch.on.values()))
        self.report()

    def report(self, message: str | None = None) -> None:
        """Tell ``on_status`` where the run stands."""
        elapsed = time.monotonic() - self.began
        self.status = replace(
            self.status,
            images_per_s=self.status.images / max(elapsed, 1e-9),
            set=min(self.state.next_set, self.experiment.scan.sets - 1),
            unpublished=self.sink.backlog,
            finished=self.finished,
            message=self.status.message if message is None else message,
        )
        self.on_status(self.status)

    def _report_cell(self, moment: float) -> None:
        if not len(self.state.log):
            return
        reading = at(self.state.log, np.array([min(moment, self.state.log.time[-1])]))
        values = {name: float(getattr(reading, name)[0]) for name in ("voltage", "current", "charge")}
        self.status = replace(self.status, **values)

    def _apply(self, products: Iterable[Any]) -> None:
        with self.pools.limit(limits=1, user_api="blas"):  # results must not depend on their number; and idle ones wait busily
            for product in products:
                self.sink.apply(product)
                if isinstance(product, Rows) and product.path == PROVISIONAL:
                    self.sink.drain(self.haste_s)
                elif isinstance(product, Rows) and product.path == STEPS:
                    self.status = replace(self.status, frames=self.status.frames + 1)


def log_reason(experiment: Experiment, state: State, feed: LogFeed) -> str:
    """Why the log does not cover a run, with the remedy."""
    given = experiment.potentiostat
    if given is None:
        return "the experiment names no potentiostat"
    if feed.fault:
        return feed.fault
    where = given.file or f"stream {given.stream}"
    if feed.clock.reason:
        return f"the clock of {where} is not known: {feed.clock.reason}; give potentiostat.clock_offset_s in seconds, and replay"
    if not len(state.log):
        return f"{where} is not there or has no rows: give potentiostat.{'file' if given.file else 'stream'}, and replay"
    covered = " to ".join(provenance.utc(t) for t in (state.log.time[0], state.log.time[-1]))
    needed = " to ".join(provenance.utc(t) for t in (state.waiting[0].t_start, state.waiting[-1].t_end)) if state.waiting else "the run"
    remedy = "correct potentiostat.timezone or clock_offset_s, or give the right file, and replay"
    return f"{where} covers {covered}, the images {needed}: {remedy}"


class Callback:
    """The whole processing as a bluesky callback: takes ``(name, doc)`` of one run after the other.

    For ``RE.subscribe`` in small set-ups, notebooks and tests; the worker feeds it from the journal. A call returns when
    the document is processed, so that a run's last call waits for a lagging potentiostat log. ``patience_s``, how long a file may lag
    behind the document that announces it, is 0 in replay. With ``api_key`` it reads earlier results that the experiment names.
    """

    def __init__(
        self,
        experiment: Experiment,
        sink: TiledSink,
        *,
        on_status: Callable[[Status], None] = lambda status: None,
        patience_s: float = PATIENCE_S,
        late_s: float | None = None,
        api_key: str | None = None,
    ) -> None:
        self.experiment, self.sink = experiment, sink
        self.integrator = make_integrator(experiment)
        self.companions = load_companions(experiment, self.integrator.q, api_key=api_key)
        warm_up(self.integrator)
        volumes.warm_up()
        if experiment.dstar is not None:
            departures.warm_up()
        self._on_status, self._patience_s = on_status, patience_s
        self._late_s = (experiment.potentiostat.late_s if experiment.potentiostat else 0.0) if late_s is None else late_s
        self._intake: Intake | None = None
        self._feed: LogFeed | None = None
        self._signals: list[Signals] = []
        self._routes, self._held = Routes(), dict[str, list[Document]]()
        self._run: str | None = None
        self.processing: Processing | None = None

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        """Take one document to its end: what it completes is published, or waits in the spool, on return.

        A run is not touched before its descriptor shows that it is the experiment's; others are left alone.
        """
        run = self._routes.run_of(name, doc)
        if run is not None and name == "start":
            self._held[run] = []
        if run not in self._held:
            if self._run is not None and run in (self._run, None):
                self._feed_one(name, doc)
            return
        self._held[run].append((name, doc))
        if describes(self.experiment.scan, name, doc):
            self._begin(run)
        elif name == "stop":
            log.info("left alone: %s", why_not_ours(self.experiment.scan, self._held.pop(run)))

    def _begin(self, run: str) -> None:
        """Open the result of a run whose first documents were held back."""
        held = self._held.pop(run)
        if self._run is not None:
            log.warning("left alone: run %s began while run %s is processed; replay it", run, self._run)
            return
        with contextlib.suppress(PublishError):
            self.sink.close(0.0)  # of a run that failed: what was wrong was told then
        self.start(held[0][1])
        self._run = run
        for name, doc in held:
            self._feed_one(name, doc)

    def _feed_one(self, name: str, doc: Mapping[str, Any]) -> None:
        try:
            for event in self.events(name, doc):
                self.take(event)
            if name == "stop":
                self.finish(threading.Event())
        finally:
            if name == "stop":
                self._run = None
                if not self.sink.close(DRAIN_S):
                    log.warning("the server has not taken all of run %s; the rest follows when it is processed again", doc["run_start"])

    def start(self, doc: Mapping[str, Any]) -> None:
        """Open the result of a new run."""
        self._intake = Intake(self.experiment.scan, self.integrator.shape, patience_s=self._patience_s)
        self._signals = signals_of(self.experiment, patience_s=self._patience_s)
        self._feed = LogFeed(self.experiment)
        live = self._patience_s > 0
        self.processing = Processing.begin(self.experiment, self.integrator, self.companions, doc, self.sink, self._on_status, live=live)
        self.poll_log()

    def events(self, name: str, doc: Mapping[str, Any]) -> Iterator[Event | Signal]:
        """Join and read; may run in another thread than `take`."""
        if self._intake is None:
            raise DocumentError(f"a {name} came before any start document: feed whole runs, start first")
        for signals in self._signals:
            yield from signals.signals(name, doc)
        yield from self._intake.events(name, doc)

    def take(self, event: Event | Signal) -> None:
        """Fold one event of the open run."""
        assert self.processing is not None
        assert self._feed is not None
        if isinstance(event, Signal) and event.purpose == "temperature":
            self.processing.take_temperature(event)
        elif isinstance(event, Signal):
            self._feed.take(event)
        else:
            self.processing.take(event)
        if isinstance(event, RunEnded):
            self._feed.run_over()
            self.processing.tell(self.processing.watch.over(time.time()))
        self.poll_log()

    def poll_log(self, *, final: bool = False) -> None:
        """Take what the potentiostat log has gained, once the guardian has seen it; ``final``: nothing more will come."""
        if self._feed is None or self.processing is None:
            return
        events = self._feed.poll(final=final)
        self.processing.tell(self.processing.watch.rows(self._feed.take_fresh(), self._feed.clock, time.time()))
        for event in events:
            self.processing.take(event)

    def idle(self) -> None:
        """Nothing came for a moment, and nothing waits to be taken."""
        self.poll_log()
        self.report()
        if self.processing is not None:
            self.processing.tell(self.processing.watch.idle(time.time()))

    def report(self) -> None:
        """Tell where the run stands now, though nothing came: what waits to be published goes on while the beamline is silent."""
        if self.processing is not None:
            self.processing.report()

    def finish(self, stop: threading.Event) -> None:
        """Complete the open run: wait for a log that lags, at most ``late_s``, then commit what is left without it."""
        assert self.processing is not None
        assert self._feed is not None
        assert self._intake is not None
        deadline = time.monotonic() + self._late_s
        while self._feed.grows and not self.processing.finished and time.monotonic() < deadline and not stop.is_set():
            self.poll_log()
            self.processing.report("waiting for the potentiostat log")
            stop.wait(POLL_S)
        if stop.is_set():
            return
        self.poll_log(final=True)
        self.processing.tell(self.processing.watch.silences(self.processing.state.log.time))
        if not self.processing.finished:
            reason = log_reason(self.experiment, self.processing.state, self._feed)
            log.warning("charge unknown: %s", reason)
            self.processing.take(LogEnded(reason))
        for one in (self._intake, *self._signals, self.processing.webhook):
            if one is not None:
                one.close()


def callback(experiment: Experiment, client: Any, *, state: Path | None = None, root: str = PROCESSED) -> Callback:
    """The whole processing as a bluesky callback, for ``RE.subscribe`` or any stream of documents.

    Parameters
    ----------
    experiment
        How to process.
    client
        A Tiled client that may write, or a server's URI; ``root`` is the container for the result.
    state
        Folder for what the server has not taken yet; the experiment's own if None.

    Raises
    ------
    GeometryError
        Poni, mask, dark and flat do not fit each other.
    """
    where = experiment.publishing
    return Callback(experiment, TiledSink(client, storage=where.storage, state=state or where.state, root=root))


def process(callback: Callback, source: Iterable[Document], stop: threading.Event) -> None:
    """Drive one run's documents through ``callback``: reading in one thread, computing and publishing in this one.

    Returns when the run is complete, or early when ``stop`` is set. Whatever the reading thread raises is raised here.

    Raises
    ------
    DocumentError
        The first document is not the start of a run, or the run has no stream with the experiment's data keys.
    """
    documents = iter(source)
    held = _until_described(callback.experiment.scan, documents)
    if not held:
        return
    callback.start(held[0][1])
    blocks: queue.Queue[Event | Signal | BaseException | None] = queue.Queue(QUEUED_BLOCKS)
    ended = threading.Event()
    reader = threading.Thread(target=_read, args=(callback, itertools.chain(held, documents), blocks, ended), name="reader", daemon=True)
    reader.start()
    try:
        while not stop.is_set():
            try:
                event = blocks.get(timeout=POLL_S)
            except queue.Empty:
                callback.idle()
                continue
            if event is None:
                break
            if isinstance(event, BaseException):
                raise event
            callback.take(event)
            if isinstance(event, RunEnded):
                callback.finish(stop)
                break
    finally:
        ended.set()


def _until_described(scan: Scan, documents: Iterator[Document]) -> list[Document]:
    """The first documents of a run, up to the descriptor of the scan's stream; nothing where they end before.

    Alignment scans and the like go through the same RunEngine: a run is not touched before it shows that it is the experiment's.
    """
    held: list[Document] = []
    for name, doc in documents:
        held.append((name, doc))
        if held[0][0] != "start":
            raise DocumentError(f"the documents of a run begin with a {name}: the first must be its start")
        if describes(scan, name, doc):
            return held
        if name == "stop":
            raise DocumentError(why_not_ours(scan, held))
    return []


def _read(
    callback: Callback, source: Iterable[Document], blocks: "queue.Queue[Event | Signal | BaseException | None]", ended: threading.Event
) -> None:
    def put(item: Event | Signal | BaseException | None) -> bool:
        while not ended.is_set():
            try:
                blocks.put(item, timeout=POLL_S)
            except queue.Full:
                continue
            return True
        return False

    try:
        for name, doc in source:
            for event in callback.events(name, doc):
                if not put(event):
                    return
        put(None)
    except Exception as error:
        # Whatever goes wrong here must reach the operator, so the main thread raises it.
        put(error)
