"""The frame of every daemon: lock the data directory, build the services, start in order, stop in reverse, exit 0."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import FrameType
from typing import TypeVar

import polarise
from neurons.base.data_dir import DataDir
from neurons.base.process import take_process
from neurons.base.service import Service, Supervisor
from polarise.errors import Unavailable

logger = logging.getLogger(__name__)

# For all services together, so that the process ends within it, whatever they wait for.
LOOK_SECONDS = 0.2
STOP_DEADLINE_SECONDS = 20

ResourceT = TypeVar("ResourceT", bound=AbstractContextManager[object])


class BaseNode:
    """A daemon of one role.

    A role overrides `build_services` and nothing else; everything it builds hangs on the object, so that one screen
    shows who talks to whom.

    Args:
        data_dir: Folder of this node; locked while it runs.
        node_key: The node's public key.
    """

    role = "node"

    def __init__(self, data_dir: Path, node_key: str) -> None:
        self.data_dir = DataDir(data_dir)
        self.node_key = node_key
        self.supervisors: list[Supervisor] = []
        self._stop = threading.Event()
        self._is_signalled = False
        self._resources = ExitStack()

    @property
    def node_id(self) -> str:
        """Twelve hex digits that mark everything of this node on a shared host."""
        return self.node_key[:12]

    def build_services(self) -> Sequence[Service]:
        """Build every part of the role and return its services in the order they start."""
        raise NotImplementedError

    def closing(self, resource: ResourceT) -> ResourceT:
        """Enter a resource that is closed when the node stops, in reverse order."""
        self._resources.enter_context(resource)
        return resource

    def stop(self) -> None:
        """Ask the node to end; returns at once."""
        self._stop.set()

    def run(self) -> int:
        """Run until SIGTERM, SIGINT or `stop`; returns the exit status.

        Raises:
            ConfigError: Another process holds the data directory, or a service cannot start.
        """
        if threading.current_thread() is threading.main_thread():
            take_process()
            self._install_signal_handlers()
        with self.data_dir, self._resources:
            services = self.build_services()
            for service in services:
                service.prepare()
            self.supervisors = [Supervisor(service) for service in services]
            for supervisor in self.supervisors:
                supervisor.start()
            logger.info(
                "started",
                extra={
                    "role": self.role,
                    "version": polarise.__version__,
                    "node_key": self.node_key,
                    "data_dir": str(self.data_dir.root),
                    **self.describe(),
                },
            )
            self._wait()
            self._stop_services()
        logger.info("stopped", extra={"role": self.role})
        return 0

    def describe(self) -> dict[str, object]:
        """Return what the start line of the log says about this role."""
        return {}

    def check_services(self) -> None:
        """Look at the supervised services, for /readyz.

        Raises:
            Unavailable: One failed and has not worked for a minute since.
        """
        failed = {item.service.name: item.last_error for item in self.supervisors if not item.is_healthy}
        if failed:
            raise Unavailable("; ".join(f"{name}: {error or 'does not run'}" for name, error in failed.items()))

    def _stop_services(self) -> None:
        end = time.monotonic() + STOP_DEADLINE_SECONDS
        for supervisor in reversed(self.supervisors):
            # A second for each that comes after one which took all the time: most need none.
            if not supervisor.stop(max(1.0, end - time.monotonic())):
                logger.warning("service did not stop in time", extra={"service": supervisor.service.name})

    def _install_signal_handlers(self) -> None:
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        # No `Event.set` here: this may run while the same thread holds the event's lock.
        self._is_signalled = True

    def _wait(self) -> None:
        """Wait for the end, looking up now and then.

        A signal between Python's last look and the system call wakes no wait that has no end of its own.
        """
        while not self._is_signalled and not self._stop.wait(LOOK_SECONDS):
            pass
