"""Which of the workers of this run we are, the ports that belong to it alone, and what all of them share.

Rules:
- A port that a process takes again after its restart must not go to anybody else in between. Port 0 cannot promise that:
  the kernel hands a closed port out again. So these lie below its range and below the miners' ssh ports.
- What is expensive to make and never changed is made once a run, by whoever needs it first.
- Without pytest-xdist there is one worker.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

COUNT = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
NUMBER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
PORTS = range(10_000, 20_000)


def free_port() -> int:
    """Return a port of loopback that nothing listens on and no other worker of this run takes."""
    own = PORTS[NUMBER::COUNT]
    # Two runs on one machine begin in different places.
    first = secrets.randbelow(len(own))
    for offset in range(len(own)):
        port = own[(first + offset) % len(own)]
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise RuntimeError(f"no port between {PORTS[0]} and {PORTS[-1]} is free")


def made_once(temporary: Path, name: str, make: Callable[[Path], object]) -> Path:
    """Return a folder that the first worker to ask has filled; nobody may change it.

    Args:
        temporary: This worker's base folder, `tmp_path_factory.getbasetemp()`.
        name: Of the folder.
        make: Fills it; after a failure the next worker to ask begins anew.
    """
    shared = temporary.parent if "PYTEST_XDIST_WORKER" in os.environ else temporary
    folder, unfinished = shared / name, shared / f"{name}.unfinished"
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            shutil.rmtree(unfinished, ignore_errors=True)
            make(unfinished)
            unfinished.rename(folder)
    return folder
