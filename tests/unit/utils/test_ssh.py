"""Is a server talking: only a greeting counts, and the wait has an end."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from utils.ssh import read_banner


@contextmanager
def greeter(*greetings: bytes) -> Iterator[int]:
    """Greet the first callers with these in turn, then with the last one for ever."""
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.02)

        def serve() -> None:
            left = list(greetings)
            while not stop.is_set():
                try:
                    connection, _ = listener.accept()
                except TimeoutError:
                    continue
                with connection:
                    connection.sendall(left.pop(0) if len(left) > 1 else left[0])

        thread = threading.Thread(target=serve, name="greeter")
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            stop.set()
            thread.join()


def test_greeting_is_returned_without_its_line_end() -> None:
    with greeter(b"SSH-2.0-OpenSSH_9.2\r\n") as port:
        assert read_banner("127.0.0.1", port, deadline_seconds=5) == "SSH-2.0-OpenSSH_9.2"


def test_connection_without_a_greeting_is_tried_again() -> None:
    """Docker's proxy accepts before sshd lives, and closes again."""
    with greeter(b"", b"HTTP/1.1 400\r\n", b"SSH-2.0-x\r\n") as port:
        assert read_banner("127.0.0.1", port, deadline_seconds=5) == "SSH-2.0-x"


@pytest.mark.parametrize("greeting", [b"", b"SSH", b"220 smtp\r\n"])
def test_what_never_greets_is_reported_with_what_came(greeting: bytes) -> None:
    with greeter(greeting) as port, pytest.raises(TimeoutError, match=r"within 0\.2 s"):
        read_banner("127.0.0.1", port, deadline_seconds=0.2)


def test_silent_server_does_not_outlast_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(TimeoutError):
        read_banner("127.0.0.1", listener.getsockname()[1], deadline_seconds=0.2)
