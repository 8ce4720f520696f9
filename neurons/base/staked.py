"""The validators that the ledger names, with enough stake: read now and then, never while a request waits.

Rules:
- It begins with the genesis, which the owner chose; from then on what stands below ``/stakes`` in the newest final block
  counts, proved by the state root.
- While the ledger is away, or shows what it cannot prove, the last good answer holds.
- Of more than a thousand validators those with the greatest stakes count.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping

from polarise.decode import decode_json
from polarise.errors import LogFork, RequestRejected, Unavailable
from polarise.genesis import Genesis
from polarise.ledger_client import LedgerClient

logger = logging.getLogger(__name__)

FOLDER = "/stakes"
REFRESH_SECONDS = 60.0
VALIDATORS_MAX = 1024
VALUE_BYTES_MAX = 1024


class StakedValidators:
    """Who counts as a validator by stake; also the service that asks.

    Args:
        client: The ledger, with a memory of its own for the last block.
        stake_min: Least stake.
    """

    name = "staked"

    def __init__(self, client: LedgerClient, stake_min: int) -> None:
        self._client = client
        self._stake_min = stake_min
        self._keys = self._enough(_of_genesis(client.genesis))

    def keys(self) -> frozenset[str]:
        """Return their keys, at once."""
        return self._keys

    def prepare(self) -> None:
        """Need nothing: the genesis is known."""

    def run(self, stop: threading.Event) -> None:
        """Ask until ``stop`` is set."""
        while not stop.is_set():
            self.refresh()
            stop.wait(REFRESH_SECONDS)

    def refresh(self) -> None:
        """Ask once."""
        try:
            found = self._client.read_below(FOLDER, self._client.final_block()).texts
        except LogFork as err:
            logger.error("validators not read: the ledger contradicts itself", extra={"cause": err.message})
            return
        except Unavailable as err:
            logger.warning("validators not read; the last answer holds", extra={"cause": err.message})
            return
        keys = self._enough({path.removeprefix(f"{FOLDER}/"): _stake(text) for path, text in found.items()})
        if keys != self._keys:
            logger.info(
                "validators by stake",
                extra={"count": len(keys), "added": len(keys - self._keys), "removed": len(self._keys - keys)},
            )
            self._keys = keys

    def _enough(self, stakes: Mapping[str, int]) -> frozenset[str]:
        named = sorted(stakes, key=lambda key: (-stakes[key], key))
        return frozenset(key for key in named[:VALIDATORS_MAX] if stakes[key] >= self._stake_min)


def _of_genesis(genesis: Genesis) -> dict[str, int]:
    return {member.key: member.stake for member in genesis.validators}


def _stake(text: bytes) -> int:
    """Return the stake of one value; 0 for what is none."""
    try:
        value = decode_json(text, max_bytes=VALUE_BYTES_MAX)
    except RequestRejected:
        return 0
    stake = value.get("stake") if isinstance(value, dict) else None
    return stake if isinstance(stake, int) and not isinstance(stake, bool) else 0
