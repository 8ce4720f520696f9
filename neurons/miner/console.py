"""What the miner does inside a running container on the renter's behalf: set a password, read the log.

Rules:
- Nothing of a caller's reaches a shell: commands are fixed, secrets go over stdin.
- Logs are read by a program inside the container; a tenant may turn the file into a link, and a reader on the host
  would follow it into the host's own files.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from typing import Any, cast

import docker
from docker.errors import APIError

from neurons.miner.login import LOG
from polarise.errors import Unavailable
from utils.docker_utils import engine_errors

logger = logging.getLogger(__name__)

TAIL_BYTES = 1024 * 1024
CHUNK_BYTES = 16 * 1024
POLL_SECONDS = 1.0


def set_password(client: docker.DockerClient, container_id: str, entry: bytes) -> None:
    """Replace the password inside the container; ``entry`` is one line for ``chpasswd -e``.

    Raises:
        Unavailable: The engine does not answer, or chpasswd refused.
    """
    with engine_errors():
        created = client.api.exec_create(container_id, ["chpasswd", "-e"], stdin=True, tty=False)
        connection = _ExecConnection(client.api.exec_start(created["Id"], socket=True))
        with contextlib.closing(connection):
            stream = connection.socket
            stream.settimeout(10)
            stream.sendall(entry)
            stream.shutdown(socket.SHUT_WR)
            output = b""
            while piece := stream.recv(4096):
                output += piece
        code = client.api.exec_inspect(created["Id"])["ExitCode"]
    if code != 0:
        raise Unavailable(f"the container's chpasswd failed with {code}: {output[8:200]!r}", retry_after_seconds=30)


class LogReader:
    """Reads a container's log, to its end or on and on.

    Args:
        client: The engine.
        container_id: From our own journal.
        follow: Go on when the end is reached.
        gone: Set when nobody listens any more.

    Raises:
        Unavailable: The container or its engine does not answer.
    """

    def __init__(self, client: docker.DockerClient, container_id: str, *, follow: bool, gone: threading.Event) -> None:
        self._client = client
        self._gone = gone
        command = ["tail", "-c", str(TAIL_BYTES), *(["-F"] if follow else []), LOG]
        with engine_errors():
            try:
                self._exec_id = client.api.exec_create(container_id, command, stderr=False)["Id"]
                self._connection = _ExecConnection(client.api.exec_start(self._exec_id, socket=True))
            except APIError as err:
                raise Unavailable(f"the container's log cannot be read: {err.explanation}") from err
        self._stream = self._connection.socket
        self._stream.settimeout(POLL_SECONDS)
        self._frame_remaining = 0

    def next_chunk(self) -> bytes | None:
        """Return the next piece, b"" when there is none yet, None at the end; closes itself at the end."""
        try:
            if self._frame_remaining == 0:
                header = self._receive_exactly(8)
                self._frame_remaining = int.from_bytes(header[4:8], "big")
            piece = self._stream.recv(min(self._frame_remaining, CHUNK_BYTES))
        except TimeoutError:
            return b""
        except (EOFError, OSError):
            piece = b""
        if not piece:
            self.close()
            return None
        self._frame_remaining -= len(piece)
        return piece

    def close(self) -> None:
        """End the reader inside the container and the connection to the engine."""
        with contextlib.suppress(OSError):
            self._connection.close()
        with contextlib.suppress(APIError, Unavailable, OSError), engine_errors():
            state = self._client.api.exec_inspect(self._exec_id)
            if state["Running"] and state["Pid"] > 1:
                os.kill(state["Pid"], signal.SIGTERM)

    def _receive_exactly(self, size: int) -> bytes:
        received = b""
        while len(received) < size:
            try:
                piece = self._stream.recv(size - len(received))
            except TimeoutError:
                if received and not self._gone.is_set():
                    continue
                raise
            if not piece:
                raise EOFError
            received += piece
        return received


class _ExecConnection:
    """One connection to a program inside a container, as docker-py hands it out.

    docker-py wraps a unix socket in SocketIO; the socket below knows time-outs and half-closing. Its file descriptor
    lives until the wrapper, the response around it and the socket are all closed; as they refer to each other, only
    the garbage collector would do it for us.
    """

    def __init__(self, stream: Any) -> None:  # noqa: ANN401  docker-py says no more
        self._stream = stream
        self.socket = cast(socket.socket, getattr(stream, "_sock", stream))

    def close(self) -> None:
        """Close all of it."""
        response = getattr(self._stream, "_response", None)
        if response is not None:
            response.close()
        self._stream.close()
        self.socket.close()
