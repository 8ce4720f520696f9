"""Reads from the ledger, again and again, which subkeys were replaced and which nodes revoked.

Rules:
- What was learned is kept in the data directory: a restart while the ledger is away forgets nothing.
- A ledger that is away, or contradicts itself, is asked again; until then what is known counts.
"""

from __future__ import annotations

import logging
import threading

from polarise.errors import LogFork, Unavailable
from polarise.generations import Generations
from polarise.ledger_client import LedgerClient
from polarise.ledger_generations import read_generations

logger = logging.getLogger(__name__)

REFRESH_SECONDS = 30.0
GENERATIONS_FILE = "generations.json"


class KeyWatch:
    """A service that keeps `Generations` up to date.

    Args:
        client: The ledger.
        generations: What is kept up to date.
    """

    name = "key-watch"

    def __init__(self, client: LedgerClient, generations: Generations) -> None:
        self._client = client
        self._generations = generations

    def prepare(self) -> None:
        """See `neurons.base.service.Service`."""

    def run(self, stop: threading.Event) -> None:
        """See `neurons.base.service.Service`."""
        while not stop.is_set():
            try:
                self.refresh()
            except (Unavailable, LogFork) as err:
                logger.warning("replaced subkeys not read", extra={"cause": str(err)[:300]})
            stop.wait(REFRESH_SECONDS)

    def refresh(self) -> None:
        """Read what is final now.

        Raises:
            Unavailable: The ledger is away, or answers what does not hold.
            LogFork: The ledger contradicts itself.
        """
        found = read_generations(
            self._client,
            self._client.final_block(),
            lambda path, err: logger.warning("certificate passed over", extra={"path": path, "cause": str(err)[:200]}),
        )
        self._generations.learn(found)
