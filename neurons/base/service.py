"""One supervised loop: a named thread that runs a service, restarts it with back-off and knows whether it is well.

Rules:
- A service is ``run(stop)``; it waits with ``stop.wait(seconds)`` and returns soon after ``stop`` is set.
- An exception out of ``run`` is a defect or an outage: it is logged with its traceback, and the service starts again
  after 1, 2, 4 … at most 60 seconds.
- Being asked to stop is not an error.
"""

from __future__ import annotations

import logging
import threading
from typing import Protocol

logger = logging.getLogger(__name__)

BACKOFF_SECONDS_MAX = 60
HEALTHY_AFTER_SECONDS = 60


class Service(Protocol):
    """What a node runs beside the others."""

    name: str

    def prepare(self) -> None:
        """Take what the service needs (a port, a file); raising here keeps the node from starting."""

    def run(self, stop: threading.Event) -> None:
        """Work until ``stop`` is set."""


class Supervisor:
    """Runs one service in a thread of its own."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.restarts_count = 0
        self.last_error: str | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name=service.name, daemon=True)

    @property
    def is_healthy(self) -> bool:
        """Whether the service runs and has not failed since its last back-off."""
        return self._thread.is_alive() and self.last_error is None

    def start(self) -> None:
        """Start the thread; `Service.prepare` must have run."""
        self._thread.start()

    def stop(self, deadline_seconds: float) -> bool:
        """Ask the service to end and wait; returns False when it did not end in time."""
        self._stop.set()
        self._thread.join(deadline_seconds)
        return not self._thread.is_alive()

    def _loop(self) -> None:
        while not self._stop.is_set():
            timer = threading.Timer(HEALTHY_AFTER_SECONDS, self._mark_healthy)
            timer.daemon = True
            timer.start()
            try:
                self.service.run(self._stop)
                return
            except (
                Exception
            ) as err:  # the one supervisor: whatever escaped is logged, counted and answered by a restart
                self.last_error = f"{type(err).__name__}: {err}"
                self.restarts_count += 1
                delay = min(2 ** (self.restarts_count - 1), BACKOFF_SECONDS_MAX)
                logger.exception("service failed", extra={"service": self.service.name, "restart_in_seconds": delay})
                self._stop.wait(delay)
            finally:
                timer.cancel()

    def _mark_healthy(self) -> None:
        self.last_error = None
        self.restarts_count = 0
