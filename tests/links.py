"""A network between a client and a server that can be cut, and that can lose answers."""

import contextlib
import socket
import threading
from urllib.parse import urlsplit


class Link:
    """Forwards TCP connections to ``uri``; a hand-written fake for the faults of a network, with a real server behind it."""

    def __init__(self, uri: str) -> None:
        parts = urlsplit(uri)
        self._target = (parts.hostname, parts.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.uri = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.up = True
        self.lose_answers_to: bytes | None = None
        self.lost = 0
        self._sockets: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Nobody answers any more."""
        self.up = False
        for one in list(self._sockets):
            self._close(one)

    def mend(self) -> None:
        """The server is back."""
        self.up = True

    def close(self) -> None:
        """End."""
        self.cut()
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                if not self.up:
                    near.close()
                    continue
                try:
                    far = socket.create_connection(self._target)
                except OSError:
                    near.close()
                    continue
                for one in (near, far):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else each request waits 40 ms for the answer to its head
                self._sockets |= {near, far}
                threading.Thread(target=self._forward, args=(near, far), daemon=True).start()
                threading.Thread(target=self._answer, args=(far, near), daemon=True).start()

    def _forward(self, near: socket.socket, far: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := near.recv(65536):
                if self.lose_answers_to is not None and data.startswith(self.lose_answers_to):
                    self._losing = near
                far.sendall(data)
        self._close(near, far)

    def _answer(self, far: socket.socket, near: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := far.recv(65536):
                if getattr(self, "_losing", None) is near:
                    self._losing, self.lose_answers_to, self.lost = None, None, self.lost + 1
                    break  # the server has carried it out; the client never hears of it
                near.sendall(data)
        self._close(near, far)

    def _close(self, *sockets: socket.socket) -> None:
        for one in sockets:
            self._sockets.discard(one)
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
