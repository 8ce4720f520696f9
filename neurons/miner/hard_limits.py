"""Hard limits of a process: a container's as the kernel holds them, and the engine's, beyond which no container gets.

An engine that runs inside another container has no right to raise its own limits, and refuses to start what asks for more.
"""

from __future__ import annotations

import os
import re
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

DEFAULT_HOST = "unix:///var/run/docker.sock"
CONNECT_SECONDS = 2.0
_CREDENTIALS = struct.Struct("3i")


@dataclass(frozen=True, slots=True)
class HardLimits:
    """Hard limits of a process; None where there is none, or it cannot be seen.

    Attributes:
        open_files: Descriptors of one process.
        locked_bytes: Memory that one process may lock.
        core_bytes: Size of a core file.
        signals_count: Signals and timers that wait, of all processes of its user together.
        queue_bytes: Of message queues, of all processes of its user together.
    """

    open_files: int | None = None
    locked_bytes: int | None = None
    core_bytes: int | None = None
    signals_count: int | None = None
    queue_bytes: int | None = None

    @staticmethod
    def clamp(wanted: int, most: int | None) -> int:
        """Return the smaller one."""
        return wanted if most is None else min(wanted, most)


def engine_limits(host: str | None) -> HardLimits:
    """Return the engine's own limits; unknown where it is elsewhere, or hidden from us.

    Args:
        host: As `docker.host` in the settings; None for the environment's or the local one.
    """
    address = host or os.environ.get("DOCKER_HOST") or DEFAULT_HOST
    if not address.startswith("unix://"):
        return HardLimits()
    try:
        return read_limits(_listener(address.removeprefix("unix://")))
    except OSError:
        return HardLimits()


def read_limits(pid: int, *, proc: Path = Path("/proc")) -> HardLimits:
    """Read the hard limits of a process.

    Raises:
        OSError: There is no such process here.
    """
    text = (proc / str(pid) / "limits").read_text(encoding="ascii")
    names = (
        "Max open files",
        "Max locked memory",
        "Max core file size",
        "Max pending signals",
        "Max msgqueue size",
    )
    return HardLimits(*(_hard(text, name) for name in names))


def _listener(path: str) -> int:
    """Return the process that listens on a unix socket, as the kernel names it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(CONNECT_SECONDS)
        connection.connect(path)
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(raw)[0])


def _hard(text: str, name: str) -> int | None:
    found = re.search(rf"^{name}\s+\S+\s+(\d+)", text, re.MULTILINE)
    return int(found[1]) if found else None
