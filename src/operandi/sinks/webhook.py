"""Post what the guardian says to an address of the web, without ever holding up or failing the run."""

import logging
import queue
import random
import threading
from collections.abc import Mapping
from typing import Any

import httpx
from pydantic import SecretStr

from operandi import tasks

log = logging.getLogger(__name__)

WAITING, ATTEMPTS = 100, 3
TIMEOUT_S, BACK_OFF_S = 5.0, 1.0


class Webhook:
    """Posts messages as JSON from a thread, oldest first; of more than `WAITING` that wait, new ones are left out and counted.

    The address is a secret: it appears in no log.
    """

    def __init__(self, address: SecretStr) -> None:
        self._address = address
        self._queue: queue.Queue[Mapping[str, Any] | None] = queue.Queue(WAITING)
        self._stopping = threading.Event()
        self.lost = 0
        """Messages that did not arrive."""
        self._work = tasks.start(self._post_all, "webhook")

    def post(self, message: Mapping[str, Any]) -> None:
        """Hand over a message; never waits."""
        try:
            self._queue.put_nowait(message)
        except queue.Full:
            self._lose("too many wait")

    def close(self, timeout_s: float = TIMEOUT_S) -> None:
        """Post what waits, at most for ``timeout_s``, and end."""
        timer = threading.Timer(timeout_s, self._stopping.set)
        timer.daemon = True
        timer.start()
        try:
            self._queue.put(None, timeout=timeout_s)
            self._work.result(timeout_s)
        except (queue.Full, TimeoutError):
            self._stopping.set()
        timer.cancel()

    def _post_all(self) -> None:
        # the transport, not a client: a client writes the address into the log of every request
        with httpx.HTTPTransport() as transport:
            while not self._stopping.is_set():
                message = self._queue.get()
                if message is None:
                    return
                self._post(transport, message)

    def _post(self, transport: httpx.HTTPTransport, message: Mapping[str, Any]) -> None:
        said = ""
        for attempt in range(ATTEMPTS):
            try:
                timeout = httpx.Timeout(TIMEOUT_S).as_dict()
                request = httpx.Request("POST", self._address.get_secret_value(), json=dict(message), extensions={"timeout": timeout})
                response = transport.handle_request(request)
                response.close()
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                said = type(error).__name__
            else:
                if response.is_success:
                    return
                said = f"status {response.status_code}"
                if response.is_client_error and response.status_code != httpx.codes.TOO_MANY_REQUESTS:
                    break
            if self._stopping.wait(BACK_OFF_S * 2**attempt * random.uniform(0.5, 1.0)):
                break
        self._lose(said)

    def _lose(self, why: str) -> None:
        self.lost += 1
        if self.lost == 1:
            log.warning("publishing.webhook: a message did not arrive (%s); the run goes on, and further ones are only counted", why)
