"""What the validator reads from the ledger and writes to it; everything it wants there goes through its outbox.

Rules:
- An epoch begins when its commitment is final, not before: until then no challenge leaves.
- The beacon is the hash of the first block that covers the commitment. Nobody could know it when the commitment was
  signed, and the commitment cannot be changed any more when it is known.
- What is read is proved against the state root of a verified block: a ledger that leaves a miner out, shows an old entry
  or hides an epoch has not answered, and nothing is begun on its word.
- A ledger that is away delays an epoch and loses nothing; what waits in the outbox goes out when it is back.
- Before a commitment is handed in, the newest block is cosigned: once per epoch.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType

from neurons.base.outbox import EntryState, Outbox
from neurons.validator.challenges import EpochSecret
from neurons.validator.drawing import Intervals
from neurons.validator.places import MINERS_MAX, Standing, places
from polarise.beacon import find_beacon
from polarise.epoch_record import (
    EPOCH_DIGITS,
    EpochCommit,
    ScorePage,
    ScoreSheet,
    commit_path,
    epoch_name,
    page_path,
    record_path,
    scores_path,
)
from polarise.errors import AnswerInvalid, SubnetError, Unavailable
from polarise.generations import Generations
from polarise.ledger_client import LedgerClient
from polarise.ledger_generations import read_generations
from polarise.ledger_registry import read_ledger_registry
from polarise.registry import RegistryEntry
from polarise.statement import SignedStatement
from polarise.transaction import SetValue

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
EPOCHS_NAMED_MAX = 100_000
EPOCHS_PROVED_MAX = 8
EPOCH_PATTERN = f"[0-9]{{{EPOCH_DIGITS}}}"

NO_STANDING: Mapping[str, Standing] = MappingProxyType({})
Miners = dict[str, tuple[SignedStatement, RegistryEntry]]


class CommitRefused(SubnetError):
    """The ledger will never take the commitment of this epoch; the next epoch may do better."""


@dataclass(frozen=True, slots=True)
class Beacon:
    """Public randomness of one epoch.

    Attributes:
        value: Hash of the block, 32 bytes.
        height: The block's height.
        note: The signed block, for the evidence.
    """

    value: bytes
    height: int
    note: str


class Chain:
    """The ledger as one validator sees it.

    Args:
        client: Verifies what the ledger says.
        outbox: Signs and sends; its service must run.
        validator_key: Our public key.
        cosign: Called with the client once per epoch.
        generations: Learns which subkeys were replaced, under the block the registry is read under.
    """

    def __init__(
        self,
        client: LedgerClient,
        outbox: Outbox,
        validator_key: str,
        cosign: Callable[[LedgerClient], None] = lambda _client: None,
        generations: Generations | None = None,
    ) -> None:
        self._client = client
        self._outbox = outbox
        self._validator_key = validator_key
        self._cosign = cosign
        self._generations = generations or Generations()

    @property
    def validator_key(self) -> str:
        """Our public key."""
        return self._validator_key

    @property
    def net(self) -> str:
        """Net id of the ledger."""
        return self._client.genesis.net

    def miners(
        self, report: Callable[[str, str], None], standing: Mapping[str, Standing] = NO_STANDING, epoch: int = 0
    ) -> Miners:
        """Read the registry: node key -> (signed statement, verified entry), in order of the keys.

        Args:
            report: Called with the name and the cause of each entry that does not hold; it is passed over.
            standing: What the miners had in the newest complete epoch; see `neurons.validator.places`.
            epoch: The epoch they are examined in.

        Raises:
            Unavailable: The ledger is away, or answers what does not hold.
        """

        def pass_over(name: str, err: Exception) -> None:
            report(name, str(err)[:300])

        block = self._client.final_block()
        entries = read_ledger_registry(self._client, pass_over, block)
        self._generations.learn(read_generations(self._client, block, pass_over))
        placed = places(entries, standing, epoch)
        if len(placed) < len(entries):
            left_out = len(entries) - len(placed)
            report("registry", f"{left_out} entries are beyond the {MINERS_MAX} miners that this validator examines")
        return {name: entries[name] for name in placed}

    def last_epoch(self, at_least: int) -> int | None:
        """Return our greatest epoch on the ledger that is not below ``at_least``, None when there is none.

        A validator that lost its disk finds its place by it. The epoch ``at_least`` is proved to be there or not, and
        so is each later one that the ledger names and that counts. That it names every later one is its word: there are
        none unless our clock was set back, and then the rule of rising epochs refuses the commitment.

        Raises:
            Unavailable: The ledger is away, or answers what does not hold.
        """
        folder = f"/epochs/{self._validator_key}"
        named = self._client.children(folder, "block", after=epoch_name(at_least))
        names = [name for name, _ in islice(named, EPOCHS_NAMED_MAX)]
        for name in reversed(names[-EPOCHS_PROVED_MAX:]):
            if re.fullmatch(EPOCH_PATTERN, name) and self._is_committed(int(name)):
                return int(name)
        # One or two may wait for a block, which have no proof yet.
        if len(names) >= EPOCHS_PROVED_MAX:
            raise AnswerInvalid(f"the ledger names {len(names)} epochs after {at_least}, the last are not there")
        return at_least if self._is_committed(at_least) else None

    def _is_committed(self, epoch: int) -> bool:
        return self._client.read(commit_path(self._validator_key, epoch)).text is not None

    def commit(
        self,
        secret: EpochSecret,
        miners_count: int,
        started_unix_ms: int,
        intervals: Intervals,
        stop: threading.Event,
    ) -> Beacon | None:
        """Put the epoch's commitment on the ledger, and wait for the beacon however long the ledger is away.

        Args:
            secret: What is committed to.
            miners_count: How many miners will be examined.
            started_unix_ms: Wall clock of the epoch's beginning.
            intervals: How often is proven and inspected; the draws rest on them, so they are bound before the beacon.
            stop: Whether to give up.

        Returns:
            The beacon, or None when ``stop`` was set first.

        Raises:
            CommitRefused: The ledger refused it for good.
            LogFork: The ledger contradicts itself.
        """
        self._cosign(self._client)
        body = EpochCommit(
            challenge_commit=secret.commit.hex(),
            miner_set_root=secret.miner_set_root.hex(),
            miners_count=miners_count,
            started_unix_ms=started_unix_ms,
            proof_every=intervals.proof_every,
            inspect_every=intervals.inspect_every,
        )
        key = self._put(commit_path(self._validator_key, secret.epoch), body.to_wire())
        transaction_hash = self._final_hash(key, stop)
        return None if transaction_hash is None else self._beacon(transaction_hash, stop)

    def has_commitment(self, epoch: int) -> bool:
        """Whether the commitment of an epoch is on the ledger or on its way there."""
        entry = self._outbox.entry(commit_path(self._validator_key, epoch))
        return entry is not None and entry.state is not EntryState.REFUSED

    def post_scores(self, epoch: int, pages: Iterable[ScorePage]) -> list[str]:
        """Queue the scores of an epoch, page by page, and return the outbox keys."""
        return [self._put(page_path(self._validator_key, epoch, page.page), page.to_wire()) for page in pages]

    def post_sheet(self, epoch: int, sheet: ScoreSheet) -> str:
        """Queue the scores of an epoch that was scored by rules 1, and return the outbox key."""
        return self._put(scores_path(self._validator_key, epoch), sheet.to_wire())

    def post_record(self, epoch: int, record: SignedStatement) -> str:
        """Queue the record of an epoch and return the outbox key."""
        return self._put(record_path(self._validator_key, epoch), record.to_wire())

    def is_final(self, key: str, timeout_seconds: float, stop: threading.Event | None = None) -> bool:
        """Wait until an entry is final; False when it was refused, the time is over, or ``stop`` is set."""
        end = time.monotonic() + timeout_seconds
        while True:
            entry = self._outbox.wait(key, LOOK_SECONDS)
            if entry is not None and entry.state in {EntryState.FINAL, EntryState.REFUSED}:
                return entry.state is EntryState.FINAL
            if time.monotonic() >= end or (stop is not None and stop.is_set()):
                return False

    def _put(self, path: str, value: object) -> str:
        return self._outbox.put(SetValue(path=path, value=value), key=path)

    def _final_hash(self, key: str, stop: threading.Event) -> str | None:
        while not stop.is_set():
            entry = self._outbox.wait(key, LOOK_SECONDS)
            if entry is not None and entry.state is EntryState.FINAL:
                return entry.hash
            if entry is not None and entry.state is EntryState.REFUSED:
                raise CommitRefused(f"the ledger refused the commitment: {entry.reason}")
        return None

    def _beacon(self, transaction_hash: str, stop: threading.Event) -> Beacon | None:
        while not stop.is_set():
            try:
                block = find_beacon(self._client, transaction_hash)
            except Unavailable as err:
                logger.warning("epoch waits for the ledger", extra={"cause": err.message})
                stop.wait(err.retry_after_seconds)
                continue
            if block is not None:
                return Beacon(bytes.fromhex(block.hash), block.block.height, block.raw.decode())
            stop.wait(LOOK_SECONDS)
        return None
