"""Can this validator do its work: is the ledger there, and do epochs come to an end."""

from __future__ import annotations

import threading

from neurons.validator.metrics import MetricsHandler
from polarise.errors import SubnetError, Unavailable
from polarise.ledger_client import LedgerClient
from utils.clock import Clock

# Anybody may ask for /readyz; the ledger is asked at most so often.
LOOK_SECONDS = 5
# An epoch may run over: a slow proof takes up to three minutes.
SLACK_SECONDS = 300


class Readiness:
    """Checks for `neurons.base.health.Health`.

    Args:
        client: The ledger.
        metrics: Epochs.
        clock: Wall and monotonic clock.
        epoch_seconds: From the start of one epoch to the start of the next.
    """

    def __init__(self, client: LedgerClient, metrics: MetricsHandler, clock: Clock, *, epoch_seconds: int) -> None:
        self._client = client
        self._metrics = metrics
        self._clock = clock
        self._overdue_ms = (2 * epoch_seconds + SLACK_SECONDS) * 1000
        self._began_unix_ms = clock.wall_unix_ms()
        self._lock = threading.Lock()
        self._looked_ns: int | None = None
        self._cause: SubnetError | None = None

    def ledger(self) -> None:
        """Ask whether the ledger answers; the answer counts for some seconds.

        Raises:
            SubnetError: It did not.
        """
        with self._lock:
            now_ns = self._clock.monotonic_ns()
            if self._looked_ns is None or now_ns - self._looked_ns >= LOOK_SECONDS * 1_000_000_000:
                self._looked_ns = now_ns
                self._cause = self._look()
            cause = self._cause
        if cause is not None:
            raise Unavailable(f"the ledger at {self._client.endpoint} does not answer: {cause}") from cause

    def epochs(self) -> None:
        """Ask whether an epoch was finished lately.

        Raises:
            Unavailable: None was for two epochs and five minutes.
        """
        finished = [row.finished_unix_ms for row in self._metrics.epochs(2) if row.finished_unix_ms is not None]
        last_unix_ms = max([self._began_unix_ms, *finished])
        if self._clock.wall_unix_ms() - last_unix_ms > self._overdue_ms:
            raise Unavailable(f"no epoch was finished for {self._overdue_ms // 1000} s; the log says what it waits for")

    def _look(self) -> SubnetError | None:
        try:
            self._client.status()
        except SubnetError as err:
            return err
        return None
