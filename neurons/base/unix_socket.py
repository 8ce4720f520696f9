"""Unix sockets by folder and name, whatever the length of the folder's path.

The kernel takes 107 bytes of path; `/proc/self/fd/<folder>/<name>` always fits. Linux only, as the containers are.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

from polarise.errors import ConfigError

# A connection beyond these is refused (EAGAIN): more than an HTTP server has threads, which may all come at once.
BACKLOG = 512


def listen(path: Path, mode: int) -> socket.socket:
    """Return a listening socket at ``path``; a stale file of an earlier process is replaced.

    Args:
        path: Where it will lie; its folder exists.
        mode: Of the socket file: who may connect.

    Raises:
        ConfigError: It cannot be made there.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        with _folder(path) as folder:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path.name, dir_fd=folder)
            listener.bind(f"/proc/self/fd/{folder}/{path.name}")
            # In time: before listen() below every connection is refused.
            os.chmod(path.name, mode, dir_fd=folder)
        listener.listen(BACKLOG)
    except OSError as err:
        listener.close()
        raise ConfigError(
            f"cannot listen on {path}: {err.strerror}", key_path="data_dir", allowed="a folder on a local Linux disk"
        ) from err
    return listener


def connect(path: Path, timeout_seconds: float) -> socket.socket:
    """Return a connection to the socket at ``path``.

    Raises:
        OSError: Nobody listens there.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        connection.settimeout(timeout_seconds)
        with _folder(path) as folder:
            connection.connect(f"/proc/self/fd/{folder}/{path.name}")
    except OSError:
        connection.close()
        raise
    return connection


def peer_uid(connection: socket.socket) -> int:
    """Return the user id of whoever connected, as the kernel knows it."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1])


@contextlib.contextmanager
def _folder(path: Path) -> Iterator[int]:
    descriptor = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
