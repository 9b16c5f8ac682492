"""Follow the rows of ``steps`` as they are committed."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import pandas as pd
from tiled.client.container import Container
from tiled.client.stream import TableSubscription
from websockets.exceptions import WebSocketException

from . import tasks
from .errors import NotPublishedError
from .nodes import STEPS

logger = logging.getLogger(__name__)

STORED_WITHIN_S = 5.0
LARGEST_MESSAGE = 16_000_000


class Subscription:
    """Calls ``on_step`` from a thread until it is stopped; an exception that ``on_step`` raises ends it and is raised by ``stop``.

    The stream only wakes: it may lose messages, and it sends a row before the row is stored. The rows come from the table.
    """

    def __init__(
        self,
        read: Callable[[], pd.DataFrame],
        result: Container,
        on_step: Callable[[dict[str, Any]], None],
        *,
        reconcile_s: float,
        since: int,
    ) -> None:
        self._read, self._on_step, self._reconcile_s, self._last = read, on_step, reconcile_s, since
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._announced = since
        self._stream = TableSubscription(result.context, [*result.path_parts, *STEPS])
        self._on_message = self._note  # Tiled holds callbacks weakly
        self._stream.new_data.add_callback(self._on_message)
        self._listener = threading.Thread(target=self._listen, name="steps-stream", daemon=True)
        self._listener.start()
        self._work = tasks.start(self._follow, "steps")

    def _listen(self) -> None:
        """Tiled's own ``start_in_thread`` never returns where the handshake is refused; in this thread it may."""
        try:
            self._stream.start(max_size=LARGEST_MESSAGE)
        except (WebSocketException, OSError, RuntimeError) as error:
            logger.info("no stream of %s (%s): the table is read every %g s", self._stream, error, self._reconcile_s)

    def _note(self, update: Any) -> None:
        rows = update.data()
        self._announced = max([self._announced, *(int(step) for step in rows["step"])])
        self._wake.set()

    def _follow(self) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            self._deliver()
            if not self._wake.wait(self._reconcile_s):
                continue
            deadline = time.monotonic() + STORED_WITHIN_S
            while self._last < self._announced and time.monotonic() < deadline and not self._stopping.is_set():
                self._deliver()
                self._stopping.wait(0.02)

    def _deliver(self) -> None:
        try:
            steps = self._read()
        except NotPublishedError:
            return  # the result was opened, its table comes
        for _, row in steps[steps["step"] > self._last].iterrows():
            if self._stopping.is_set():
                return
            self._on_step({str(name): value for name, value in row.items()})
            self._last = int(row["step"])

    def stop(self) -> None:
        """Stop; raises what ``on_step`` raised."""
        self._stopping.set()
        self._wake.set()
        self._stream.disconnect(wait=False)
        self._work.result()

    def __enter__(self) -> "Subscription":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
