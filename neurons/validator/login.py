"""Logging in to a stranger's container: the host key pinned before the first byte, everything bounded.

It runs as a process of its own; `neurons.validator.login_process` starts it and kills it.

Rules:
- The one key that is trusted comes from the miner's signed receipt; anything else is HOST_KEY_MISMATCH. No agent, no
  keys of this machine, no known_hosts file of this machine.
- The address is judged like an endpoint: a receipt must not lead a validator into its own network.
- One deadline holds over connection, authentication and command together; at its end the connection is closed.
- The process may take so much memory and no more; output and error output together are cut at a bound.
- Whatever an ssh server provokes is SSH_FAILED.
"""

from __future__ import annotations

import base64
import contextlib
import io
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import paramiko
from paramiko.hostkeys import HostKeyEntry

from neurons.validator.bandwidth import Transfer
from neurons.validator.login_process import MAX_MESSAGE_BYTES, PROCESS_SECONDS, STARTED, LoginAnswer, LoginRequest
from neurons.validator.transfer import measure
from polarise.addresses import connect
from polarise.answers import printable
from polarise.deadline import Deadline
from polarise.decode import decode_model
from polarise.errors import DeadlineExceeded, ProofRejected, RejectReason
from polarise.evidence import VerdictRecord
from polarise.receipt import Receipt

MEMORY_BYTES_BEYOND_START = 512 << 20
CHUNK_BYTES = 16 * 1024


class PinnedLogin:
    """One ssh connection to one container; use it as a context manager, in a process that can be spared.

    Args:
        receipt: Where to connect, as whom, and which host key to expect.
        private_pem: Our throw-away key in OpenSSH's form.
        allow_private: Whether loopback and private addresses may be connected to.
        deadline_seconds: For everything together, from here.
    """

    def __init__(self, receipt: Receipt, private_pem: str, *, allow_private: bool, deadline_seconds: float) -> None:
        self._receipt = receipt
        self._key = paramiko.Ed25519Key.from_private_key(io.StringIO(private_pem))
        self._allow_private = allow_private
        self._client = paramiko.SSHClient()
        self._client.set_missing_host_key_policy(paramiko.RejectPolicy())
        self._deadline = Deadline(deadline_seconds)
        # For some answers paramiko waits without any timeout; closing the connection ends every wait.
        self._watch = threading.Timer(deadline_seconds, self._client.close)
        self._watch.daemon = True

    def __enter__(self) -> PinnedLogin:
        self._watch.start()
        try:
            self._connect()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def run(self, command: str, stdin: str, *, max_bytes: int) -> bytes:
        """Run one command with this text on its stdin and return its stdout; see `login_process.LoginProcess.run`.

        Raises:
            ProofRejected: SSH_FAILED.
        """
        with self._border("the probe broke off"):
            channel = self._open_channel()
            channel.exec_command(command)
            # A command that ends without reading its input says why by its status and stderr.
            with contextlib.suppress(OSError, paramiko.SSHException):
                channel.sendall(stdin.encode())
                channel.shutdown_write()
            output, errors = _read(channel, max_bytes, self._deadline)
            channel.status_event.wait(self._deadline.left_seconds())
            # A channel that our own watch closed looks like one that ended.
            self._deadline.left_seconds()
            status = channel.exit_status
        if status != 0:
            raise _failed(f"the probe ended with status {status}: {errors.decode('utf-8', 'replace')[-200:]}")
        return output

    def transfer(self, size: int, seconds: float) -> Transfer:
        """Send so many bytes through and have them back, in so many seconds at most; see `transfer.measure`."""
        channel: paramiko.Channel | None = None
        with contextlib.suppress(ProofRejected), self._border("no channel for the transfer"):
            channel = self._open_channel()
        if channel is None:
            return Transfer(asked_bytes=size)
        return measure(channel, size, min(seconds, self._deadline.left_seconds()))

    def _connect(self) -> None:
        receipt = self._receipt
        with self._border("no connection to the container"):
            self._pin()
            sock = connect(receipt.ssh_host, receipt.ssh_port, self._deadline, allow_private=self._allow_private)
        with self._border("cannot log in"):
            try:
                self._authenticate(sock)
            except paramiko.BadHostKeyException as err:
                raise ProofRejected(
                    RejectReason.HOST_KEY_MISMATCH,
                    "the server has another host key than the receipt",
                    got=err.key.fingerprint,
                    expected=receipt.host_key_fingerprint,
                ) from err

    def _authenticate(self, sock: socket.socket) -> None:
        left_seconds = self._deadline.left_seconds()
        self._client.connect(
            self._receipt.ssh_host,
            self._receipt.ssh_port,
            self._receipt.ssh_user,
            pkey=self._key,
            sock=sock,
            look_for_keys=False,
            allow_agent=False,
            timeout=left_seconds,
            banner_timeout=left_seconds,
            auth_timeout=left_seconds,
        )

    def _open_channel(self) -> paramiko.Channel:
        transport = self._client.get_transport()
        if transport is None:
            raise paramiko.SSHException("the connection is closed")
        channel = transport.open_session(timeout=self._deadline.left_seconds())
        channel.settimeout(self._deadline.left_seconds())
        return channel

    def _pin(self) -> None:
        receipt = self._receipt
        name = receipt.ssh_host if receipt.ssh_port == 22 else f"[{receipt.ssh_host}]:{receipt.ssh_port}"
        entry = HostKeyEntry.from_line(f"{name} {receipt.host_key}")
        if entry is None or entry.key is None:
            raise ValueError("the receipt's host key cannot be read")
        self._client.get_host_keys().add(name, entry.key.get_name(), entry.key)

    @contextlib.contextmanager
    def _border(self, what: str) -> Iterator[None]:
        """Turn everything that a server can provoke in paramiko into its failure."""
        try:
            yield
        except ProofRejected:
            raise
        except Exception as err:
            cause = "not done in time" if self._is_late() else f"{type(err).__name__}: {err}"
            raise _failed(f"{what}: {cause}") from err

    def _is_late(self) -> bool:
        try:
            self._deadline.left_seconds()
        except DeadlineExceeded:
            return True
        return False

    def _close(self) -> None:
        self._watch.cancel()
        self._client.close()


def _read(channel: paramiko.Channel, max_bytes: int, deadline: Deadline) -> tuple[bytes, bytes]:
    """Read stdout and stderr to their end; neither can fill up while we wait for the other."""
    output, errors = bytearray(), bytearray()
    while True:
        left_seconds = deadline.left_seconds()
        is_over = channel.eof_received or channel.closed
        if channel.recv_stderr_ready():
            errors += channel.recv_stderr(CHUNK_BYTES)
        elif channel.recv_ready():
            output += channel.recv(CHUNK_BYTES)
        elif is_over:
            return bytes(output), bytes(errors)
        else:
            select.select([channel], [], [], left_seconds)
        if len(output) + len(errors) > max_bytes:
            raise _failed(f"the probe printed more than {max_bytes} bytes")


def _failed(message: str) -> ProofRejected:
    return ProofRejected(RejectReason.SSH_FAILED, printable(message)[:400])


def limit_memory(beyond_start_bytes: int) -> None:
    """Let this process take so much address space more than it has now; where there is no /proc, the deadline must do."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except (ImportError, OSError):
        return
    end_bytes = pages * resource.getpagesize() + beyond_start_bytes
    resource.setrlimit(resource.RLIMIT_AS, (end_bytes, end_bytes))


def answer(request: LoginRequest) -> LoginAnswer:
    """Log in and run the command of one request."""
    began_ns = time.monotonic_ns()
    login_ms: int | None = None
    transfer: Transfer | None = None
    try:
        with PinnedLogin(
            request.receipt,
            request.private_pem,
            allow_private=request.allow_private,
            deadline_seconds=request.deadline_seconds,
        ) as login:
            login_ms = (time.monotonic_ns() - began_ns) // 1_000_000
            if request.transfer_bytes > 0:
                transfer = login.transfer(request.transfer_bytes, request.transfer_seconds)
            output = login.run(request.command, request.stdin, max_bytes=request.max_bytes)
    except ProofRejected as err:
        got, expected = (None if value is None else str(value) for value in (err.got, err.expected))
        verdict = VerdictRecord(reason=err.reason, message=err.message, got=got, expected=expected)
        return LoginAnswer(login_ms=login_ms, output="", verdict=verdict, transfer=transfer)
    text = base64.b64encode(output).decode("ascii")
    return LoginAnswer(login_ms=login_ms, output=text, verdict=VerdictRecord(), transfer=transfer)


def main() -> None:
    """Answer the one request on stdin; whatever a library prints goes to stderr."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    request = decode_model(LoginRequest, sys.stdin.buffer.read(), max_bytes=MAX_MESSAGE_BYTES)
    # Whoever kills us at the deadline may have been killed itself.
    last = threading.Timer(request.deadline_seconds + 2 * PROCESS_SECONDS, os._exit, (1,))
    last.daemon = True
    last.start()
    limit_memory(MEMORY_BYTES_BEYOND_START)
    answers.write(STARTED)
    answers.flush()
    answers.write(answer(request).model_dump_json().encode())
    answers.flush()
    # No thread of the connection holds up the end.
    os._exit(0)


if __name__ == "__main__":
    main()
