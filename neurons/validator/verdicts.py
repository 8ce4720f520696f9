"""Tells each miner its signed verdict once its epoch is recorded; a courtesy that never delays an epoch.

Rules:
- A verdict is tried once, with a short deadline, after the epoch's record is made: no request leaves during a proof of
  the same epoch, and the evidence it names is served by then.
- A miner that does not take it loses nothing; the score stands on the ledger anyway.
- What is not out when the next epoch is finished is dropped: only the newest verdict is worth a request.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from neurons.base.metrics import MetricsTracker
from neurons.validator.chain import Miners
from neurons.validator.metrics import MetricsHandler, StoredScore
from polarise.answers import printable
from polarise.clients import MinerClient
from polarise.errors import RequestRejected, Unavailable
from polarise.registry import RegistryEntry
from polarise.signing import Identity
from polarise.verdict import Verdict, sign_verdict

logger = logging.getLogger(__name__)

DEADLINE_SECONDS = 3.0
# So many slow miners do not hold up the others.
WORKERS = 8
IDLE_SECONDS = 0.5


class VerdictSender:
    """Sends the verdicts of one validator; a service of its own.

    Args:
        identity: Signs them.
        metrics: The scores.
        clients: Registry entry -> client.
        uri: Returns where evidence can be fetched.
        counters: Counts what was taken and what was not.
    """

    name = "verdicts"

    def __init__(
        self,
        identity: Identity,
        metrics: MetricsHandler,
        clients: Callable[[RegistryEntry], MinerClient],
        uri: Callable[[], str],
        counters: MetricsTracker,
    ) -> None:
        self._identity = identity
        self._metrics = metrics
        self._clients = clients
        self._uri = uri
        self._counters = counters
        self._finished: queue.SimpleQueue[tuple[int, Miners]] = queue.SimpleQueue()

    def deliver(self, epoch: int, miners: Miners) -> None:
        """Have the verdicts of a finished epoch sent; returns at once."""
        self._finished.put((epoch, miners))

    def prepare(self) -> None:
        """See `neurons.base.service.Service`."""

    def run(self, stop: threading.Event) -> None:
        """Send until ``stop`` is set."""
        while not stop.is_set():
            try:
                epoch, miners = self._finished.get(timeout=IDLE_SECONDS)
            except queue.Empty:
                continue
            self._send_all(epoch, miners, stop)

    def _send_all(self, epoch: int, miners: Miners, stop: threading.Event) -> None:
        waiting = self._waiting(epoch, miners, stop)
        guard = threading.Lock()

        def work() -> None:
            while True:
                with guard:
                    found = next(waiting, None)
                if found is None:
                    return
                self._send(*found)

        with ThreadPoolExecutor(WORKERS, thread_name_prefix="verdict") as pool:
            for done in [pool.submit(work) for _ in range(min(WORKERS, len(miners)))]:
                done.result()

    def _waiting(
        self, epoch: int, miners: Miners, stop: threading.Event
    ) -> Iterator[tuple[StoredScore, RegistryEntry]]:
        for score in self._metrics.scores_of(epoch):
            if stop.is_set() or not self._finished.empty():
                logger.warning("verdicts dropped", extra={"epoch": epoch})
                return
            if score.miner_key in miners:
                yield score, miners[score.miner_key][1]

    def _send(self, score: StoredScore, entry: RegistryEntry) -> None:
        verdict = Verdict(
            epoch=score.epoch,
            validator_key=self._identity.public_key,
            miner_key=score.miner_key,
            score=score.record,
            evidence=score.evidence,
            evidence_url=self._uri(),
        )
        fields = {"miner_key": score.miner_key, "epoch": score.epoch}
        try:
            self._clients(entry).verdict(sign_verdict(self._identity, verdict), deadline_seconds=DEADLINE_SECONDS)
        except (RequestRejected, Unavailable) as err:
            self._counters.count("polarise_verdicts_not_taken_total")
            logger.info("verdict not taken", extra={**fields, "cause": printable(err)})
            return
        self._counters.count("polarise_verdicts_delivered_total")
        logger.info("verdict delivered", extra=fields)
