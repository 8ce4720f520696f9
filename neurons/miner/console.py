"""What the miner does inside a running container on the renter's behalf: set a password, read the log.

Both need programs of the container: ``chpasswd`` writes the file sshd reads without PAM, which no mount of ours can stand
in for, and ``tail`` follows links the way the container does. The tenant is root in there, so either may be anything.

Rules:
- A program inside decides nothing: how long it may take, and how much it may say, is bounded here, and it is killed from
  the host when it passes that.
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
import time
from typing import Any, cast

import docker
from docker.errors import APIError

from neurons.miner.login import LOG
from polarise.errors import Unavailable
from utils.docker_utils import engine_errors

logger = logging.getLogger(__name__)

PASSWORD_SECONDS = 10.0
# chpasswd says a line when it fails; what says more is no chpasswd.
PASSWORD_OUTPUT_BYTES = 4096
TAIL_BYTES = 1024 * 1024
CHUNK_BYTES = 16 * 1024
POLL_SECONDS = 1.0
# A pipe in the log's place has no end; a log that is only read has come to its own after this silence.
IDLE_SECONDS = 10.0
PID_SECONDS = 1.0


def set_password(
    client: docker.DockerClient, container_id: str, entry: bytes, *, deadline_seconds: float = PASSWORD_SECONDS
) -> None:
    """Replace the password inside the container; ``entry`` is one line for ``chpasswd -e``.

    Raises:
        Unavailable: The container does not run, its chpasswd failed or did not end in time, or no engine answers.
    """
    program = _Program(client, container_id, ["chpasswd", "-e"], reads_stdin=True)
    try:
        output = program.exchange(entry, deadline_seconds)
    except TimeoutError as err:
        raise Unavailable(
            f"the container's chpasswd did not end within {deadline_seconds:g} s", retry_after_seconds=30
        ) from err
    except OSError as err:
        raise Unavailable(f"the container's chpasswd cannot be used: {err}", retry_after_seconds=30) from err
    finally:
        code = program.end()
    if code != 0:
        raise Unavailable(f"the container's chpasswd failed with {code}: {output[8:200]!r}", retry_after_seconds=30)


class LogReader:
    """Reads a container's log, to its end or on and on.

    Args:
        client: The engine.
        container_id: From our own journal.
        follow: Go on when the end is reached.
        gone: Set when nobody listens any more.
        idle_seconds: Without ``follow``, so much silence is the end.

    Raises:
        Unavailable: The container or its engine does not answer.
    """

    def __init__(
        self,
        client: docker.DockerClient,
        container_id: str,
        *,
        follow: bool,
        gone: threading.Event,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self._gone = gone
        self._follow = follow
        self._idle_seconds = idle_seconds
        command = ["tail", "-c", str(TAIL_BYTES), *(["-F"] if follow else []), LOG]
        self._program = _Program(client, container_id, command, shows_stderr=False)
        self._stream = self._program.socket
        self._poll_seconds = min(POLL_SECONDS, idle_seconds)
        self._stream.settimeout(self._poll_seconds)
        self._frame_remaining = 0
        self._bytes_count = 0
        # Counted in polls of ours: whoever listens may take its time, and that is no silence.
        self._silent_seconds = 0.0

    def next_chunk(self) -> bytes | None:
        """Return the next piece, b"" when there is none yet, None at the end; closes itself at the end."""
        try:
            if self._frame_remaining == 0:
                header = self._receive_exactly(8)
                self._frame_remaining = int.from_bytes(header[4:8], "big")
            piece = self._stream.recv(min(self._frame_remaining, CHUNK_BYTES))
        except TimeoutError:
            self._silent_seconds += self._poll_seconds
            if not self._is_over():
                return b""
            piece = b""
        except (EOFError, OSError):
            piece = b""
        if not piece or self._is_over():
            self.close()
            return None
        self._frame_remaining -= len(piece)
        self._bytes_count += len(piece)
        self._silent_seconds = 0.0
        return piece

    def close(self) -> None:
        """End the reader inside the container and the connection to the engine."""
        with contextlib.suppress(APIError, Unavailable, OSError):
            self._program.end()

    def _is_over(self) -> bool:
        """Whether what only reads the log has read enough, or waited enough."""
        is_enough = self._bytes_count >= TAIL_BYTES or self._silent_seconds >= self._idle_seconds
        return not self._follow and is_enough

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


class _Program:
    """A program at work inside a container.

    Raises:
        Unavailable: The container does not run, or its engine does not answer.
    """

    def __init__(
        self,
        client: docker.DockerClient,
        container_id: str,
        command: list[str],
        *,
        reads_stdin: bool = False,
        shows_stderr: bool = True,
    ) -> None:
        self._client = client
        with engine_errors():
            try:
                created = client.api.exec_create(container_id, command, stdin=reads_stdin, stderr=shows_stderr)
                self._exec_id = str(created["Id"])
                self._connection = _ExecConnection(client.api.exec_start(self._exec_id, socket=True))
            except APIError as err:
                raise Unavailable(
                    f"nothing can be done in the container: {err.explanation}", retry_after_seconds=30
                ) from err
        self.socket = self._connection.socket

    def exchange(self, sent: bytes, deadline_seconds: float) -> bytes:
        """Give the program its input and return all it says, framed as the engine does it.

        Raises:
            OSError: It did not end in time (`TimeoutError`), however steadily it talked, or it said too much.
        """
        end = time.monotonic() + deadline_seconds
        self.socket.settimeout(deadline_seconds)
        self.socket.sendall(sent)
        self.socket.shutdown(socket.SHUT_WR)
        output = b""
        while len(output) <= PASSWORD_OUTPUT_BYTES:
            remaining = end - time.monotonic()
            if remaining <= 0:
                raise TimeoutError
            self.socket.settimeout(remaining)
            piece = self.socket.recv(CHUNK_BYTES)
            if not piece:
                return output
            output += piece
        raise OSError(f"it said more than {PASSWORD_OUTPUT_BYTES} bytes")

    def end(self) -> int | None:
        """Kill the program if it still runs and close the connection; returns its exit code, None if it was killed.

        Raises:
            Unavailable: The engine does not answer.
        """
        # In this order: once the connection is cut, the engine calls a program that lives on ended (exit code 126).
        try:
            return self._kill_if_running()
        finally:
            with contextlib.suppress(OSError):
                self._connection.close()

    def _kill_if_running(self) -> int | None:
        state = self._state()
        # What talks fast enough is heard before the engine knows its number.
        end = time.monotonic() + PID_SECONDS
        while state["Running"] and state["Pid"] <= 1 and time.monotonic() < end:
            time.sleep(0.02)
            state = self._state()
        if not state["Running"]:
            return cast(int, state["ExitCode"])
        with contextlib.suppress(OSError):
            self._kill(int(state["Pid"]))
        return None

    def _kill(self, pid: int) -> None:
        logger.debug("killing a program in a container", extra={"exec_id": self._exec_id, "pid": pid})
        if pid <= 1:
            return
        handle = os.pidfd_open(pid)
        try:
            # Asked again with the handle in hand: still the same program, so the number was not given to another.
            state = self._state()
            if state["Running"] and state["Pid"] == pid:
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        finally:
            os.close(handle)

    def _state(self) -> dict[str, Any]:
        with engine_errors():
            try:
                return dict(self._client.api.exec_inspect(self._exec_id))
            except APIError as err:
                raise Unavailable(f"the container is gone: {err.explanation}", retry_after_seconds=1) from err


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
