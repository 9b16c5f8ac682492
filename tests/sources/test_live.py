"""Live documents by 0MQ."""

import sys
import threading

import pytest
from hostile import step_run

from operandi.errors import MissingBackendError
from operandi.sources import live


def test_without_pyzmq_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "zmq", None)
    for call in (live.zmq_publisher, live.from_zmq):
        with pytest.raises(MissingBackendError, match="pip install pyzmq"):
            call("127.0.0.1:5577")


@pytest.mark.parametrize("message", [b"", b"one two", b" start not json", b" start [1, 2]", b" start \x80\x04pickle"])
def test_a_message_that_is_no_document_is_handed_on_as_unreadable(message):
    ((name, doc),) = live._document(message, b"")
    assert name == "unreadable"
    assert "0MQ" in doc["reason"]


def test_messages_of_another_prefix_are_passed_over():
    assert list(live._document(b"id31 start {}", b"id15")) == []
    assert list(live._document(b"id31 start {}", b"id31")) == [("start", {})]


def test_a_run_sent_by_bluesky_arrives_whole(monkeypatch):
    zmq = pytest.importorskip("zmq", reason="pyzmq is an optional dependency")
    with zmq.Context() as context, context.socket(zmq.XPUB) as proxy:
        proxy.linger = 0
        halt, seen, run = threading.Event(), [], step_run(20)
        documents = live.from_zmq(f"127.0.0.1:{proxy.bind_to_random_port('tcp://127.0.0.1')}", poll_s=0.01, stop=halt)

        def receive():
            for name, doc in documents:
                seen.append((name, doc))
                if name == "stop":
                    halt.set()

        reader = threading.Thread(target=receive)
        reader.start()
        assert proxy.poll(5000)
        publish = live.zmq_publisher("127.0.0.1:5577")
        with monkeypatch.context() as patch:
            patch.setattr(publish, "_socket", proxy)
            for name, doc in run:
                publish(name, doc)
        publish.close()
        reader.join(5)
        halt.set()
    assert seen == run
