"""Small ssh servers of a container that a miner made itself: each takes one connection and does what a test wants."""

from __future__ import annotations

import contextlib
import hashlib
import io
import socket
import struct
import threading
from collections.abc import Callable

import paramiko
from paramiko.common import cMSG_CHANNEL_WINDOW_ADJUST

from polarise.receipt import Receipt
from polarise.ssh_keys import fingerprint, generate_key_pair
from tests.support.evidence import receipt

TRANSFERRED_BYTES = 1 << 20

Serve = Callable[[socket.socket, paramiko.PKey, threading.Event], None]
Behave = Callable[[paramiko.Channel], None]


class SshServer:
    """One connection, served in a thread until the block ends.

    Args:
        serve: What happens on it: the socket, the host key, and an event that is set at the end.
    """

    def __init__(self, serve: Serve) -> None:
        private, self.host_key = generate_key_pair()
        self._key = paramiko.Ed25519Key.from_private_key(io.StringIO(private))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._serve = serve
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._accept, name="ssh-server")

    def __enter__(self) -> SshServer:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._end.set()
        # A test that failed before it connected must not leave accept() waiting.
        with contextlib.suppress(OSError):
            socket.create_connection(self._listener.getsockname()).close()
        self._thread.join()
        self._listener.close()

    def receipt(self, host_key: str | None = None) -> Receipt:
        """Return a receipt that leads here."""
        line = host_key or self.host_key
        port = self._listener.getsockname()[1]
        changes = {"ssh_port": port, "host_key": line, "host_key_fingerprint": fingerprint(line)}
        return receipt().model_copy(update=changes)

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        with connection, contextlib.suppress(OSError):
            self._serve(connection, self._key, self._end)


def running(behave: Behave, *, window_bytes: int | None = None) -> Serve:
    """A server that lets everybody in, and gives each command to this function.

    Args:
        behave: What the command does.
        window_bytes: How much the client may send before it is granted more.
    """
    return _paramiko(behave, answers_exec=True, window_bytes=window_bytes)


def never_answering_exec() -> Serve:
    """A server that opens the channel, and to the wish for a command says nothing for ever."""
    return _paramiko(lambda _channel: None, answers_exec=False, window_bytes=None)


def answering(channel: paramiko.Channel) -> None:
    """Read everything, complain a little, say hello."""
    _read_input(channel)
    channel.sendall_stderr(b"setlocale: no such locale\n")
    channel.sendall(b"hello")
    channel.send_exit_status(0)
    channel.close()


def echoing(channel: paramiko.Channel) -> None:
    """Do what `neurons.validator.transfer` asks of a container."""
    payload = _begin_transfer(channel)
    channel.sendall(hashlib.sha256(payload).digest())
    channel.recv(1)
    channel.sendall(payload)
    channel.close()


def echoing_another_file(channel: paramiko.Channel) -> None:
    """Have the bytes, and send back others that were there before they were asked for."""
    payload = _begin_transfer(channel)
    channel.sendall(hashlib.sha256(payload).digest())
    channel.sendall(bytes(len(payload)))


def guessing_the_hash(channel: paramiko.Channel) -> None:
    """Answer before the bytes are there."""
    channel.sendall(b"r" + bytes(32))
    _read_input(channel)


def hanging_up(channel: paramiko.Channel) -> None:
    """Begin, and be gone."""
    channel.sendall(b"r")
    channel.close()


def failing(channel: paramiko.Channel) -> None:
    """End as a shell does that has no python3."""
    _read_input(channel)
    channel.sendall_stderr(b"sh: python3: \x1b[2Jnot found")
    channel.send_exit_status(127)
    channel.close()


def silent(channel: paramiko.Channel) -> None:
    """Take the command and never answer."""
    channel.get_transport()


def shouting(channel: paramiko.Channel) -> None:
    """Print without end."""
    _flood(channel, channel.sendall)


def complaining(channel: paramiko.Channel) -> None:
    """Print errors without end."""
    _flood(channel, channel.sendall_stderr)


def granting_a_byte_at_a_time(channel: paramiko.Channel) -> None:
    """Let the client send its input at twenty bytes a second."""
    pause = threading.Event()
    while not channel.closed:
        pause.wait(0.05)
        message = paramiko.Message()
        message.add_byte(cMSG_CHANNEL_WINDOW_ADJUST)
        message.add_int(channel.remote_chanid)
        message.add_int(1)
        channel.get_transport()._send_user_message(message)  # type: ignore[attr-defined]  # there is no public way


def no_text(connection: socket.socket, _key: paramiko.PKey, end: threading.Event) -> None:
    """Offer algorithms whose names are no text."""
    names = struct.pack(">I", 3) + b"\xff\xfe\xfd" + struct.pack(">I", 0) * 9
    payload = b"\x14" + bytes(16) + names + bytes(5)
    padding = 8 - (len(payload) + 5) % 8 + 8
    connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
    connection.sendall(struct.pack(">IB", len(payload) + padding + 1, padding) + payload + bytes(padding))
    end.wait()


def endless_packet(connection: socket.socket, _key: paramiko.PKey, end: threading.Event) -> None:
    """Announce a packet of 2 GiB before anybody has logged in, and send it."""
    connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n" + struct.pack(">I", 0x7FFFFFF4))
    while not end.is_set():
        connection.sendall(bytes(1 << 20))


def mute(_connection: socket.socket, _key: paramiko.PKey, end: threading.Event) -> None:
    """Take the connection and send nothing at all."""
    end.wait()


class _Server(paramiko.ServerInterface):
    def __init__(self, behave: Behave, end: threading.Event, *, answers_exec: bool) -> None:
        self._behave = behave
        self._end = end
        self._answers_exec = answers_exec

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        return paramiko.common.AUTH_SUCCESSFUL

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.common.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        if not self._answers_exec:
            self._end.wait()
        threading.Thread(target=self._run, args=(channel,), daemon=True).start()
        return True

    def _run(self, channel: paramiko.Channel) -> None:
        # The client may be gone at any moment; that is what these tests are about.
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            self._behave(channel)


def _paramiko(behave: Behave, *, answers_exec: bool, window_bytes: int | None) -> Serve:
    def serve(connection: socket.socket, key: paramiko.PKey, end: threading.Event) -> None:
        transport = paramiko.Transport(connection)
        transport.add_server_key(key)
        if window_bytes is not None:
            transport.default_window_size = window_bytes
        try:
            transport.start_server(server=_Server(behave, end, answers_exec=answers_exec))
        except (paramiko.SSHException, EOFError):
            return
        end.wait()
        transport.close()

    return serve


def _begin_transfer(channel: paramiko.Channel) -> bytes:
    channel.sendall(b"r")
    payload = b""
    while len(payload) < TRANSFERRED_BYTES:
        payload += channel.recv(TRANSFERRED_BYTES - len(payload))
    return payload


def _read_input(channel: paramiko.Channel) -> None:
    while channel.recv(4096):
        pass


def _flood(channel: paramiko.Channel, send: Callable[[bytes], object]) -> None:
    while True:
        # The window is what the client allows; a hostile server does not ask.
        channel.out_window_size = 1 << 40
        send(bytes(30_000))
