"""What the guardian says reaches an address, or is counted as lost; the run never notices."""

import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from pydantic import SecretStr

from operandi.sinks import webhook
from operandi.sinks.webhook import Webhook


class Receiver(ThreadingHTTPServer):
    """Keeps what is posted; answers with the statuses given, then with 200; holds answers while ``open`` is not set."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.received: list[dict] = []
        self.statuses: list[int] = []
        self.open = threading.Event()
        self.open.set()

    @property
    def address(self) -> SecretStr:
        return SecretStr(f"http://127.0.0.1:{self.server_port}/hook/secret-token")


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:  # noqa: N802
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.open.wait(10)
        status = self.server.statuses.pop(0) if self.server.statuses else 200
        if status == 200:
            self.server.received.append(body)
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_) -> None:
        """Say nothing."""


@pytest.fixture
def receiver(monkeypatch) -> Iterator[Receiver]:
    monkeypatch.setattr(webhook, "BACK_OFF_S", 0.01)
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.open.set()
    server.shutdown()
    server.server_close()
    thread.join()


def test_messages_arrive_in_order_and_the_address_appears_in_no_log(receiver, caplog):
    caplog.set_level(logging.INFO)
    hook = Webhook(receiver.address)
    for number in range(5):
        hook.post({"number": number, "said": "Å"})
    hook.close()
    assert receiver.received == [{"number": number, "said": "Å"} for number in range(5)]
    assert hook.lost == 0
    assert "secret-token" not in caplog.text


def test_a_server_that_fails_is_asked_again_a_few_times(receiver):
    receiver.statuses = [503, 500]
    hook = Webhook(receiver.address)
    hook.post({"number": 1})
    hook.close()
    assert receiver.received == [{"number": 1}]


def test_what_is_refused_or_finds_nobody_is_counted_and_told_once_without_the_address(receiver, caplog):
    receiver.statuses = [404]
    refused, nobody = Webhook(receiver.address), Webhook(SecretStr("http://127.0.0.1:9/secret-token"))
    for number in range(2):
        nobody.post({"number": number})
    refused.post({"number": 0})
    refused.close()
    nobody.close()
    assert (refused.lost, nobody.lost) == (1, 2)
    assert caplog.text.count("did not arrive") == 2
    assert "secret-token" not in caplog.text


def test_an_address_that_does_not_answer_holds_nothing_up(receiver, monkeypatch):
    monkeypatch.setattr(webhook, "WAITING", 3)
    receiver.open.clear()
    hook = Webhook(receiver.address)
    for number in range(20):
        hook.post({"number": number})
    assert hook.lost >= 20 - 3 - 1
    hook.close(0.1)
