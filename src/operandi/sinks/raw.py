"""Publish raw runs to ``raw/<uid>`` with bluesky's own TiledWriter, beside the processing and never in its way."""

import copy
import random
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import contextmanager
from typing import Any, cast

import httpx
from bluesky_tiled_plugins import TiledWriter
from tiled.client import from_uri
from tiled.client.base import BaseClient
from tiled.client.container import Container
from tiled.structures.core import Spec

from .. import tasks
from ..errors import PublishError
from ..nodes import RAW
from .wire import AWAY_STATUS, ServerAwayError, Wire

Document = tuple[str, Mapping[str, Any]]
Documents = Callable[[threading.Event], Iterable[Document]]

BATCH = 200
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0


class RawPublisher:
    """Writes runs in a thread, one after the other.

    Where the server is away it waits, and begins again with the run's first document: TiledWriter cannot resume. So it is
    given a function that makes the documents, not the documents.

    Parameters
    ----------
    target
        URI of the server, or a Tiled client of its root.
    api_key
        Key that may write; not needed with a client that has one.
    batch
        Events and images gathered before the server hears of them; 1 for slow scans.
    patches
        TiledWriter's own: document name → function of the document.
    """

    def __init__(
        self, target: str | BaseClient, *, api_key: str | None = None, batch: int = BATCH, patches: Mapping[str, Any] | None = None
    ) -> None:
        self._target, self._api_key, self._batch, self._patches = target, api_key, batch, dict(patches or {})
        self.retries = 0
        self._stopping = threading.Event()
        self._one_at_a_time = threading.Lock()
        self._work: list[Future[bool]] = []

    def publish(self, uid: str, documents: Documents) -> Future[bool]:
        """Have run ``uid`` published; ``documents(stop)`` gives all of it from the start document on, until ``stop`` is set.

        The future is True when the run is on the server, False when it was stopped before; it holds PublishError where the
        server refused, and whatever else went wrong with the documents.
        """
        self._work.append(tasks.start(lambda: self._publish(uid, documents), f"raw:{uid}"))
        return self._work[-1]

    def stop(self) -> None:
        """Stop; a run that is not complete is written anew the next time."""
        self._stopping.set()
        wait(self._work)

    def __enter__(self) -> "RawPublisher":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _publish(self, uid: str, documents: Documents) -> bool:
        attempt = 0
        while not self._stopping.is_set():
            try:
                with self._one_at_a_time:
                    return self._attempt(uid, documents)
            except (ServerAwayError, httpx.HTTPError) as error:
                if isinstance(error, httpx.HTTPStatusError) and not _away(error.response.status_code):
                    raise PublishError(
                        f"raw run {uid}: the Tiled server refused: {error}; give an API key that may write and register"
                    ) from error
                attempt, self.retries = attempt + 1, self.retries + 1
                longest = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** min(attempt, 20))
                self._stopping.wait(longest * random.uniform(0.5, 1.0))
        return False

    def _attempt(self, uid: str, documents: Documents) -> bool:
        with self._runs() as runs:
            if uid in runs:
                if "stop" in runs[uid].metadata:
                    return True
                runs.delete_contents(uid, recursive=True, external_only=False)  # ours alone: what is external stays where it is
            writer = TiledWriter(runs, batch_size=self._batch, patches=self._patches)
            complete = False
            for name, doc in documents(self._stopping):
                if self._stopping.is_set():
                    return False
                writer(name, copy.deepcopy(dict(doc)))  # the writer changes what it is given
                complete = name == "stop"
            return complete

    @contextmanager
    def _runs(self) -> Iterator[Container]:
        """The container of raw runs."""
        wire = Wire(self._target, api_key=self._api_key)
        try:
            wire.describe(())  # tells at once where the server is away; the Tiled client would try for 45 s
        finally:
            wire.close()
        ours = isinstance(self._target, str)
        root = cast(Container, from_uri(self._target, api_key=self._api_key) if isinstance(self._target, str) else self._target)
        try:
            if RAW not in root:
                root.create_container(RAW, specs=[Spec("CatalogOfBlueskyRuns", version="3.0")])
            yield cast(Container, root[RAW])
        finally:
            if ours:
                root.context.http_client.close()


def _away(status: int) -> bool:
    return status in AWAY_STATUS or status >= 500
