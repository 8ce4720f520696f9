"""SSH from the outside: is a server talking on a port?"""

from __future__ import annotations

import socket
import time


def read_banner(host: str, port: int, *, deadline_seconds: float, poll_seconds: float = 0.01) -> str:
    """Wait until an SSH server greets on a port and return its first line.

    A TCP connection alone proves nothing: Docker's proxy accepts before sshd lives.

    Raises:
        TimeoutError: Nothing greeted before the deadline.
    """
    end = time.monotonic() + deadline_seconds
    last = "no connection"
    while (remaining := end - time.monotonic()) > 0:
        try:
            with socket.create_connection((host, port), timeout=min(remaining, 1.0)) as connection:
                connection.settimeout(min(remaining, 1.0))
                line = connection.recv(255)
        except OSError as err:
            last = str(err)
        else:
            if line.startswith(b"SSH-"):
                return line.decode("ascii", "replace").strip()
            last = f"got {line[:40]!r}"
        time.sleep(min(poll_seconds, max(0.0, end - time.monotonic())))
    raise TimeoutError(f"no ssh banner on {host}:{port} within {deadline_seconds:g} s ({last})")
