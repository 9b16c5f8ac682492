"""Which runs to process: the worker that follows a journal, and the replay of a run that is over."""

import contextlib
import ctypes
import json
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import asdict
from pathlib import Path
from typing import Any

from operandi import provenance
from operandi.errors import DocumentError
from operandi.experiment import Experiment
from operandi.nodes import PROCESSED
from operandi.runner import DRAIN_S, Callback, Document, Status, process
from operandi.sinks.raw import RawPublisher
from operandi.sinks.tiled import TiledSink
from operandi.sources import journal
from operandi.sources.replay import TILED_PATCHES
from operandi.stages.patterns import warm_up
from operandi.stages.routes import describes

log = logging.getLogger(__name__)

LOOK_S = 0.5
YIELD_S = 0.05
LONG_S = 0.3
"""An event that takes longer than a line of a scan completes a set."""
SINCE = "since"
DETECTOR_TYPES = ("<i4", "<u2", "<u4", "<f4")
STATUS_FILE = "status.json"
STATUS_EVERY_S = 0.25
NICENESS = 5
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8


def _ignore(status: Status) -> None:
    """Tell nobody."""


class StatusFile:
    """Keeps ``status.json`` of the state folder current, for whoever watches the worker from outside."""

    def __init__(self, folder: Path, then: Callable[[Status], None]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file, self._then, self._next = folder / STATUS_FILE, then, 0.0

    def __call__(self, status: Status) -> None:
        self._then(status)
        if time.monotonic() < self._next and not status.finished:
            return
        self._next = time.monotonic() + STATUS_EVERY_S
        plain = {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(status).items()}
        new = self._file.with_suffix(".new")
        new.write_text(json.dumps(plain))
        os.replace(new, self._file)


class WatchedCallback(Callback):
    """The processing, which also tells when readers wait for it."""

    _since: float | None = None

    def events(self, name: str, doc: Mapping[str, Any]) -> Iterator[Any]:
        """Join and read; compiles for the images' own type before the first of them."""
        if describes(self.experiment.scan, name, doc):
            warm_up(self.integrator, _image_type(doc["data_keys"][self.experiment.scan.keys.image]))
        yield from super().events(name, doc)

    def take(self, event: Any) -> None:
        """Fold one event of the open run."""
        self._since = time.monotonic()
        try:
            super().take(event)
        finally:
            self._since = None

    @property
    def pressed(self) -> bool:
        """Whether a set is being completed, or results wait for the server; may be asked from another thread."""
        since = self._since
        return self.sink.backlog > 0 or (since is not None and time.monotonic() - since > LONG_S)


def _image_type(described: Mapping[str, Any]) -> str:
    """The type of an image's pixels by its data key; int32 where that tells none of a detector."""
    told = described.get("dtype_numpy")
    return told if isinstance(told, str) and told in DETECTOR_TYPES else "<i4"


def make_sink(experiment: Experiment, *, api_key: str | None, root: str = PROCESSED) -> TiledSink:
    """The sink that the experiment file's ``publishing`` names."""
    where = experiment.publishing
    return TiledSink(where.tiled, api_key=api_key, storage=where.storage, state=where.state, root=root)


def run_worker(
    experiment: Experiment,
    *,
    api_key: str | None = None,
    on_status: Callable[[Status], None] = _ignore,
    stop: threading.Event | None = None,
    once: bool = False,
) -> list[str]:
    """Follow the experiment's journal and process each run, until ``stop`` is set.

    Takes the runs that began after the worker was first started on this ``publishing.state`` and those still under way
    then, also after a crash: what is done is marked there. Runs from before are left to `replay`.

    Parameters
    ----------
    api_key
        Key with which to write to the server.
    on_status
        Called with where the run stands, often; must be quick.
    once
        Return after the first run that is complete.

    Returns
    -------
    Keys of the results that were completed.
    """
    _give_freed_memory_back()
    _give_way()
    stop = stop or threading.Event()
    since = _first_started(experiment.publishing.state)
    on_status = StatusFile(experiment.publishing.state, on_status)
    callback = WatchedCallback(experiment, make_sink(experiment, api_key=api_key), on_status=on_status, api_key=api_key)
    on_status(Status(message=f"waiting for a run in {experiment.publishing.journal}"))
    completed: list[str] = []
    while not stop.is_set() and not (once and completed):
        run = _next_run(experiment, since)
        if run is None:
            stop.wait(LOOK_S)
            continue
        with RawPublisher(experiment.publishing.tiled, api_key=api_key, patches=TILED_PATCHES) as raw:
            published = raw.publish(
                run.uid, lambda stopped, path=run.path: _unhurried(journal.follow_run(path, stop=stopped), callback, stopped)
            )
            completed += _process_run(experiment, callback, run, stop)
            _await_raw(published, run.uid, stop)
    return completed


def _give_freed_memory_back() -> None:
    """Have the C library return blocks of a megabyte and more when they are freed, and share small ones among threads (glibc, mallopt(3)).

    By itself it comes to keep blocks of up to 32 MB for later, and what is free for each thread that ever was: some 200 MB in a run.
    """
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, 1 << 20)
        library.mallopt(_M_ARENA_MAX, 2)


def _give_way() -> None:
    """Have what this thread computes give way to the server, its readers and whatever else runs on the machine (nice(2))."""
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, 0, max(os.getpriority(os.PRIO_PROCESS, 0), NICENESS))


def _unhurried(documents: Iterable[Document], callback: WatchedCallback, stopped: threading.Event) -> Iterator[Document]:
    """Documents for the raw run, held back while a reader waits for results: both go through one processor and one server."""
    for document in documents:
        while callback.pressed and not stopped.wait(YIELD_S):
            pass
        yield document


def _await_raw(published: Future[bool], uid: str, stop: threading.Event) -> None:
    """Give the raw run the time to reach the server; what is wrong with it is told, and never costs the result."""
    deadline = time.monotonic() + DRAIN_S
    while not published.done() and not stop.is_set() and time.monotonic() < deadline:
        stop.wait(LOOK_S)
    if not published.done():
        log.warning("raw run %s is not on the server yet; it is written when a worker next runs while the server is up", uid)
    elif (error := published.exception()) is not None:
        log.error("raw run %s is not on the server: %s", uid, error)


def _process_run(experiment: Experiment, callback: Callback, run: journal.Run, stop: threading.Event) -> list[str]:
    """Process one run to its end; the key of its result, or nothing where ``stop`` came first."""
    callback.processing = None
    try:
        process(callback, journal.follow_run(run.path, stop=stop), stop)
    except DocumentError as error:
        if callback.processing is not None:
            raise
        log.warning("left alone: %s", error)
        _done_marker(experiment, run).touch()
        return []
    processing = callback.processing
    if processing is None or not processing.finished:
        callback.sink.close()
        return []
    callback.sink.close(DRAIN_S)
    _done_marker(experiment, run).touch()
    return [processing.status.key]


def _first_started(state: Path) -> float:
    """When a worker was first started on this state folder, UTC epoch s."""
    state.mkdir(parents=True, exist_ok=True)
    file = state / SINCE
    if not file.exists():
        file.write_text(repr(time.time()))
    return float(file.read_text() or 0.0)


def _done_marker(experiment: Experiment, run: journal.Run) -> Path:
    """The file that says that this experiment's result of a run is complete."""
    folder = experiment.publishing.state / "done"
    folder.mkdir(parents=True, exist_ok=True)
    _, start = next(iter(journal.read(run.path)))
    return folder / provenance.result_of(experiment, start)[0]


def _next_run(experiment: Experiment, since: float) -> journal.Run | None:
    """The earliest run that waits for this worker."""
    folder = experiment.publishing.journal
    if not folder.is_dir():
        return None
    for run in journal.runs(folder):
        begun = experiment.publishing.state / "begun" / run.uid
        if not (begun.exists() or not run.finished or run.path.stat().st_mtime >= since):
            continue
        if _done_marker(experiment, run).exists():
            continue
        begun.parent.mkdir(exist_ok=True)
        begun.touch()
        return run
    return None


def replay(
    experiment: Experiment,
    documents: Iterable[Document],
    *,
    api_key: str | None = None,
    root: str = PROCESSED,
    on_status: Callable[[Status], None] = _ignore,
    stop: threading.Event | None = None,
    drain_s: float = DRAIN_S,
) -> str:
    """Process a run that is over; the same code, and so the same numbers, as live.

    Parameters
    ----------
    experiment
        How to process it; another experiment than the live one makes another result beside the first.
    documents
        Of one run, from `operandi.sources.replay`.
    root
        Container in which the result goes.
    drain_s
        How long to wait for a server that is away; what it has not taken then waits in the spool.

    Returns
    -------
    Key of the result.

    Raises
    ------
    DocumentError
        The documents end without a stop document, so the run may not be over.
    """
    stop = stop or threading.Event()
    with make_sink(experiment, api_key=api_key, root=root) as sink:
        callback = Callback(experiment, sink, on_status=on_status, patience_s=0.0, late_s=0.0, api_key=api_key)
        process(callback, documents, stop)
        processing = callback.processing
        if processing is None or not processing.finished:
            raise DocumentError("the run has no start or no stop document: it may still be under way; let the worker follow it")
        sink.drain(drain_s)
        return processing.status.key
