"""Live documents by 0MQ, for a worker that shares no disk with the RunEngine; the journal is the safer way."""

import importlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from operandi.errors import MissingBackendError
from operandi.sources.journal import UNREADABLE, decode_payload, to_json
from operandi.stages.documents import Document


def zmq_publisher(address: str, *, prefix: bytes = b"") -> Callable[[str, Any], None]:
    """A callback for ``RE.subscribe`` that sends documents to a bluesky 0MQ proxy, such as ``127.0.0.1:5577``.

    As JSON: what bluesky sends by default is pickle, which lets whoever reaches the port run code in the worker.
    Raises MissingBackendError where pyzmq is not installed.
    """
    _zmq()
    from bluesky.callbacks.zmq import Publisher

    return Publisher(address, prefix=prefix, serializer=lambda doc: to_json(doc)[0].encode())


def from_zmq(address: str, *, prefix: bytes = b"", poll_s: float = 0.1, stop: threading.Event | None = None) -> Iterator[Document]:
    """The documents that a bluesky 0MQ proxy hands out at ``address``, until ``stop`` is set.

    Only what is sent after the first document was asked for is seen; 0MQ keeps nothing. Messages with another
    ``prefix`` are passed over; what is no JSON comes as ``("unreadable", {"reason": …})``. Raises
    MissingBackendError where pyzmq is not installed.
    """
    return _received(_zmq(), address if "://" in address else f"tcp://{address}", prefix, poll_s, stop or threading.Event())


def _received(zmq: Any, address: str, prefix: bytes, poll_s: float, stop: threading.Event) -> Iterator[Document]:
    with zmq.Context() as context, context.socket(zmq.SUB) as subscriber:
        subscriber.linger = 0
        subscriber.setsockopt(zmq.SUBSCRIBE, prefix)
        subscriber.connect(address)
        while not stop.is_set():
            if subscriber.poll(poll_s * 1000):
                yield from _document(subscriber.recv(), prefix)


def _document(message: bytes, prefix: bytes) -> Iterator[Document]:
    parts = message.split(b" ", 2)
    if len(parts) < 3:
        yield UNREADABLE, {"reason": f"a 0MQ message of {len(message)} bytes is no document of bluesky"}
    elif not prefix or parts[0] == prefix:
        yield decode_payload(parts[1].decode(errors="replace"), parts[2], "a 0MQ message")


def _zmq() -> Any:
    try:
        return importlib.import_module("zmq")
    except ImportError as fault:
        raise MissingBackendError(
            "documents by 0MQ need pyzmq, which is not installed: pip install pyzmq, or follow the journal"
        ) from fault
