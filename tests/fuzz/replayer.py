"""A server that gives every question the same bytes: a peer that answers whatever it likes."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType
from typing import Self


class Replayer:
    """Listens on loopback while the context is open.

    Attributes:
        url: Its base URL.
    """

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._sent = b""
        self._thread = threading.Thread(target=self._serve, name="replayer", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Closing alone wakes nobody who waits in accept().
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def answer(self, body: bytes, *, status: int = 200) -> None:
        """Send this body with a proper head from now on."""
        head = f"HTTP/1.1 {status} OK\r\nContent-Length: {len(body)}\r\n\r\n"
        self._sent = head.encode() + body

    def answer_raw(self, sent: bytes) -> None:
        """Send exactly these bytes from now on."""
        self._sent = sent

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(5)
                while b"\r\n\r\n" not in connection.recv(65536):
                    pass
                connection.sendall(self._sent)
                # Whoever has not read everything when we close would see a reset instead of the end.
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    pass
