"""Sends bytes through a login and has them back, with our own clock beside it.

Rules:
- The bytes are random: nothing on the way can make them small, and nobody can know them before.
- The program inside says when it is there, so that its start is nobody's bandwidth.
- It runs for so many seconds and no longer; what a stranger's server provokes ends it with what has come through.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import threading
import time

import paramiko

from neurons.validator.bandwidth import Transfer

# Reads so many bytes, answers with their hash, and sends them back when it is told to.
PROGRAM = (
    "import hashlib,sys;i,o=sys.stdin.buffer,sys.stdout.buffer;"
    'o.write(b"r");o.flush();b=i.read(%d);o.write(hashlib.sha256(b).digest());o.flush();'
    "i.read(1);o.write(b);o.flush()"
)


def measure(channel: paramiko.Channel, size: int, seconds: float) -> Transfer:
    """Run the transfer on a fresh channel, which is closed afterwards.

    Args:
        channel: Of a login that is somebody else's to end.
        size: Bytes each way.
        seconds: For all of it.
    """
    watch = threading.Timer(seconds, _close, (channel,))
    watch.daemon = True
    watch.start()
    steps = _Steps(channel, size)
    try:
        # Whatever a server can provoke in paramiko: what came through by then is the answer.
        with contextlib.suppress(Exception):
            steps.run()
    finally:
        watch.cancel()
        _close(channel)
    return steps.transfer()


def _close(channel: paramiko.Channel) -> None:
    # The connection may be gone, which closes it too.
    with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
        channel.close()


class _Steps:
    def __init__(self, channel: paramiko.Channel, size: int) -> None:
        self._channel = channel
        self._payload = os.urandom(size)
        self._sent_us = self._received_us = 0
        self._is_sent = self._is_received = False

    def run(self) -> None:
        """Wait for the program, send, and have it back."""
        channel, payload = self._channel, self._payload
        channel.exec_command(f"python3 -I -c '{PROGRAM % len(payload)}'")
        if self._read(1) != b"r":
            return
        began_ns = time.monotonic_ns()
        channel.sendall(payload)
        answer = self._read(hashlib.sha256().digest_size)
        self._sent_us = _since_us(began_ns)
        self._is_sent = hmac.compare_digest(answer, hashlib.sha256(payload).digest())
        if not self._is_sent:
            return
        began_ns = time.monotonic_ns()
        channel.sendall(b"g")
        answer = self._read(len(payload))
        self._received_us = _since_us(began_ns)
        self._is_received = hmac.compare_digest(answer, payload)

    def transfer(self) -> Transfer:
        """Return what came through."""
        size = len(self._payload)
        return Transfer(
            asked_bytes=size,
            sent_bytes=size if self._is_sent else 0,
            send_us=self._sent_us,
            received_bytes=size if self._is_received else 0,
            receive_us=self._received_us,
        )

    def _read(self, size: int) -> bytes:
        """Return so many bytes, fewer where the channel ends before."""
        found = bytearray()
        while len(found) < size and (piece := self._channel.recv(min(size - len(found), 1 << 16))):
            found += piece
        return bytes(found)


def _since_us(began_ns: int) -> int:
    return (time.monotonic_ns() - began_ns) // 1000
