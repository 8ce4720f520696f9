"""Sees that a device is free of our own solvers before it goes into other hands: a tenant's, or the next proof's.

Rules:
- A solver that has answered is ended beside the answer. A kill returns at once, and the driver takes the memory back when the
  process is gone, so that whoever comes next waits for that, for some seconds at most.
- Where there is NVML it is asked as well: as long as it names the solver among those that hold the device, it is not free.
- A process of somebody else's is no reason to refuse a tenant. It is told, because the tenant will miss that memory.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from neurons.miner.solver import SolverProcess
from polarise.errors import Unavailable
from utils import gpu

logger = logging.getLogger(__name__)

RELEASE_SECONDS = 10.0
LOOK_SECONDS = 0.05
RETRY_SECONDS = 10


class DeviceRelease:
    """The last solver of each device, until it is gone.

    Args:
        holders: UUID -> the processes that hold memory there, with its bytes; NVML's.
        release_seconds: How long to wait.
    """

    def __init__(
        self,
        holders: Callable[[str], Mapping[int, int]] = gpu.holders,
        release_seconds: float = RELEASE_SECONDS,
    ) -> None:
        self._holders = holders
        self._release_seconds = release_seconds
        self._solvers: dict[str, SolverProcess] = {}
        self._lock = threading.Lock()

    def takes(self, device: str, solver: SolverProcess) -> None:
        """Note that a solver has a device."""
        with self._lock:
            self._solvers[device] = solver

    def check(self, devices: Iterable[str]) -> None:
        """Wait until no solver of ours holds these devices any more.

        Raises:
            Unavailable: One still does.
        """
        end = time.monotonic() + self._release_seconds
        for device in devices:
            with self._lock:
                solver = self._solvers.get(device)
            if solver is not None:
                self._wait(device, solver, end)
            for pid, held_bytes in self._holders(device).items():
                logger.warning(
                    "another process holds memory of the device",
                    extra={"device": device, "pid": pid, "memory_bytes": held_bytes},
                )

    def _wait(self, device: str, solver: SolverProcess, end: float) -> None:
        if not solver.has_ended(max(0.0, end - time.monotonic())):
            raise _held(device, f"process {solver.pid} runs")
        pause = threading.Event()
        # A process that lives under the number of one that is gone is somebody else's.
        while solver.pid in self._holders(device) and not Path(f"/proc/{solver.pid}").exists():
            if time.monotonic() >= end:
                raise _held(device, f"NVML still names process {solver.pid}, which is gone")
            pause.wait(LOOK_SECONDS)
        with self._lock:
            # Its number may be somebody else's from now on.
            if self._solvers.get(device) is solver:
                del self._solvers[device]


def _held(device: str, how: str) -> Unavailable:
    return Unavailable(
        f"the device {device} is not free of our own proof yet: {how}; `nvidia-smi` shows who holds it",
        retry_after_seconds=RETRY_SECONDS,
    )
