"""The miner's end of the control socket, when the agent says what no agent of this version says."""

from __future__ import annotations

import contextlib
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from neurons.base.agent_client import AgentClient
from neurons.base.agent_wire import EVENTS_MAX, SOCKET_NAME
from neurons.base.unix_socket import listen
from polarise.errors import ErrorCode, RequestRejected, Unavailable


@contextlib.contextmanager
def agent_that_says(line: bytes) -> Iterator[AgentClient]:
    with tempfile.TemporaryDirectory(prefix="pl-") as name:
        (Path(name) / "run").mkdir()
        listener = listen(Path(name) / "run" / SOCKET_NAME, 0o600)

        def answer() -> None:
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(line)

        thread = threading.Thread(target=answer, name="agent that lies")
        thread.start()
        try:
            yield AgentClient(Path(name))
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            thread.join()


def test_a_refusal_with_a_code_nobody_knows_is_a_refusal() -> None:
    said = b'{"refusal":{"code":"FROM_TOMORROW","message":"no","status":418}}\n'
    with agent_that_says(said) as client, pytest.raises(RequestRejected, match="no") as caught:
        client.info("system")
    assert (caught.value.code, caught.value.status) == (ErrorCode.INTERNAL, 418)


def test_more_results_than_events_can_be_asked_for_are_no_answer() -> None:
    """An empty object of three bytes becomes a model of half a kilobyte."""
    said = b'{"appended":[' + b",".join([b"{}"] * (EVENTS_MAX + 1)) + b"]}\n"
    with agent_that_says(said) as client, pytest.raises(Unavailable):
        client.append([{"kind": "a.b", "payload": {}}])
