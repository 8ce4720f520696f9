"""Logging in to a stranger's container: the host key pinned before the first byte, everything bounded.

Rules:
- The one key that is trusted comes from the miner's signed receipt; anything else is HOST_KEY_MISMATCH. No agent, no
  keys of this machine, no known_hosts file of this machine.
- The address is judged like an endpoint: a receipt must not lead a validator into its own network.
- Output is cut at a bound and a deadline holds over all of it.
"""

from __future__ import annotations

import contextlib
import io
import socket
import time
from types import TracebackType

import paramiko
from paramiko.hostkeys import HostKeyEntry

from polarise.addresses import connect
from polarise.answers import printable
from polarise.deadline import Deadline
from polarise.errors import ProofRejected, RejectReason, SubnetError
from polarise.receipt import Receipt

LOGIN_SECONDS = 15.0
CHUNK_BYTES = 16 * 1024
ERROR_BYTES = 2048


class PinnedLogin:
    """One ssh connection to one container; use it as a context manager.

    Args:
        receipt: Where to connect, as whom, and which host key to expect.
        private_pem: Our throw-away key in OpenSSH's form.
        allow_private: Whether loopback and private addresses may be connected to.
    """

    def __init__(self, receipt: Receipt, private_pem: str, *, allow_private: bool) -> None:
        self._receipt = receipt
        self._key = paramiko.Ed25519Key.from_private_key(io.StringIO(private_pem))
        self._allow_private = allow_private
        self._client = paramiko.SSHClient()
        self._client.set_missing_host_key_policy(paramiko.RejectPolicy())

    def __enter__(self) -> PinnedLogin:
        try:
            self._connect()
        except BaseException:
            self._client.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def run(self, command: str, stdin: str, *, max_bytes: int, deadline_seconds: float) -> bytes:
        """Run one command with this text on its stdin and return its stdout.

        Args:
            command: For the container's shell; made of our own words and checked numbers only.
            stdin: What the command reads.
            max_bytes: More output than this is refused.
            deadline_seconds: For everything together.

        Raises:
            ProofRejected: SSH_FAILED: it did not end in time or with status 0, or said too much.
        """
        end = time.monotonic() + deadline_seconds
        try:
            pipe_in, pipe_out, pipe_err = self._client.exec_command(command, timeout=deadline_seconds)
            # A command that ends without reading its input says why by its status and stderr.
            with contextlib.suppress(OSError, paramiko.SSHException):
                pipe_in.write(stdin)
                pipe_in.flush()
                pipe_in.channel.shutdown_write()
            output = _read(pipe_out.channel, max_bytes, end)
            pipe_out.channel.status_event.wait(max(0.0, end - time.monotonic()))
            status = pipe_out.channel.exit_status if pipe_out.channel.exit_status_ready() else None
            errors = pipe_err.channel.recv_stderr(ERROR_BYTES) if pipe_err.channel.recv_stderr_ready() else b""
        except (paramiko.SSHException, OSError, EOFError) as err:
            raise _failed(f"the probe broke off: {type(err).__name__}: {err}") from err
        if status != 0:
            raise _failed(f"the probe ended with status {status}: {errors.decode('utf-8', 'replace')[-200:]}")
        return output

    def _connect(self) -> None:
        receipt = self._receipt
        try:
            self._pin()
            sock = connect(
                receipt.ssh_host, receipt.ssh_port, Deadline(LOGIN_SECONDS), allow_private=self._allow_private
            )
        except (OSError, SubnetError, paramiko.SSHException, ValueError) as err:
            raise _failed(f"no connection to the container: {err}") from err
        try:
            self._authenticate(sock)
        except paramiko.BadHostKeyException as err:
            raise ProofRejected(
                RejectReason.HOST_KEY_MISMATCH,
                "the server has another host key than the receipt",
                got=err.key.fingerprint,
                expected=receipt.host_key_fingerprint,
            ) from err
        except (paramiko.SSHException, OSError, EOFError) as err:
            raise _failed(f"cannot log in: {type(err).__name__}: {err}") from err

    def _authenticate(self, sock: socket.socket) -> None:
        self._client.connect(
            self._receipt.ssh_host,
            self._receipt.ssh_port,
            self._receipt.ssh_user,
            pkey=self._key,
            sock=sock,
            look_for_keys=False,
            allow_agent=False,
            timeout=LOGIN_SECONDS,
            banner_timeout=LOGIN_SECONDS,
            auth_timeout=LOGIN_SECONDS,
        )

    def _pin(self) -> None:
        receipt = self._receipt
        name = receipt.ssh_host if receipt.ssh_port == 22 else f"[{receipt.ssh_host}]:{receipt.ssh_port}"
        entry = HostKeyEntry.from_line(f"{name} {receipt.host_key}")
        if entry is None or entry.key is None:
            raise ValueError("the receipt's host key cannot be read")
        self._client.get_host_keys().add(name, entry.key.get_name(), entry.key)


def _read(channel: paramiko.Channel, max_bytes: int, end: float) -> bytes:
    output = bytearray()
    while True:
        left_seconds = end - time.monotonic()
        if left_seconds <= 0:
            raise _failed("the probe did not end in time")
        channel.settimeout(left_seconds)
        chunk = channel.recv(CHUNK_BYTES)
        if not chunk:
            return bytes(output)
        output += chunk
        if len(output) > max_bytes:
            raise _failed(f"the probe printed more than {max_bytes} bytes")


def _failed(message: str) -> ProofRejected:
    return ProofRejected(RejectReason.SSH_FAILED, printable(message)[:400])
