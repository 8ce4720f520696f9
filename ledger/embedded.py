"""The embedded ledger: one SQLite file in which leaf, state and account of a transaction change in one step.

Rules:
- `submit` returns when the transaction is on disk; the same bytes again give the same answer.
- A transaction that is refused leaves nothing behind (SAVEPOINT), whatever shares its commit.
- A block is made every block_seconds, also an empty one: a beacon must be fresh. Heights have no gaps and times grow,
  whatever the wall clock does.
- A block is on disk before anybody sees it, so a restart goes on from the last one anybody can hold.
- Between two blocks at most so many transactions are taken; more are asked to come back.
- The states of the newest blocks are kept (`KeptStates`), so that what stands on a path can be proved under a block.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from ledger import state
from ledger.admission import Admission
from ledger.kept_states import KeptStates
from ledger.state import LedgerState
from ledger.views import Depth, LedgerViews
from polarise.block import NO_BLOCK, Block, SignedBlock, open_block
from polarise.errors import ConfigError, LogDamaged, RequestRejected, Unavailable
from polarise.genesis import Genesis
from polarise.log_proof import LogProof
from polarise.signing import SignatureInvalid, SigningKey
from polarise.transaction import SignedTransaction, TransactionVerifier, decode_transaction
from tlog.group_commit import GroupCommit
from tlog.store import LogStore
from tlog.writer import Writer
from utils.clock import Clock

logger = logging.getLogger(__name__)

SCHEMA = state.SCHEMA + "CREATE TABLE tx (hash BLOB PRIMARY KEY, leaf INTEGER NOT NULL) WITHOUT ROWID;"
BLOCKS_MAX = 100


@dataclass(frozen=True, slots=True)
class Submitted:
    """What became of a transaction.

    Attributes:
        hash: Its name.
        index: Its leaf.
        depth: How far it has come.
    """

    hash: str
    index: int
    depth: Depth


class EmbeddedLedger:
    """One ledger.

    Args:
        path: Its file.
        genesis: Its beginning.
        log_key: The key that signs blocks; the one the genesis names.
        clock: Wall clock.
        block_transactions_max: Transactions between two blocks.
        admission: Whom it takes in; None takes the bounds of `Admission`.

    Raises:
        ConfigError: The key or the file is another ledger's.
        LogDamaged: The file does not fit its last block.
    """

    def __init__(
        self,
        path: Path,
        genesis: Genesis,
        log_key: SigningKey,
        clock: Clock,
        *,
        block_transactions_max: int = 10_000,
        admission: Admission | None = None,
    ) -> None:
        if log_key.public_key != genesis.log_certificate.subject:
            raise ConfigError(
                f"the genesis names the log key {genesis.log_certificate.subject[:12]}, this node's is "
                f"{log_key.public_key[:12]}",
                key_path="ledger.genesis",
                allowed="the node key that ran `ledger init`, or the genesis of this node",
            )
        self.genesis = genesis
        self._key = log_key
        self._clock = clock
        self._block_transactions_max = block_transactions_max
        self._admission = admission or Admission([member.key for member in genesis.validators])
        self._verifier = TransactionVerifier()
        self._making_block = threading.Lock()
        self._new_block = threading.Condition()
        self._signed_unix_ms = 0  # latest time any transaction names that has no block yet
        self.log = LogStore(path, genesis.origin, schema=SCHEMA)
        self.views = LedgerViews(self.log, genesis.final_confirmations)
        self.states = KeptStates(genesis.final_confirmations)
        with self.log.transaction() as writer:
            self._state = LedgerState(writer.connection, genesis)
        self._group: GroupCommit[SignedTransaction, tuple[int, bool]] = GroupCommit(self._write)
        self._last = self._begin() if self.log.checkpoints_count == 0 else self._resume()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.log.close()

    @property
    def last_block(self) -> SignedBlock:
        """The newest block."""
        return self._last

    def submit(self, raw: bytes, on_newcomer: Callable[[], None] = lambda: None) -> Submitted:
        """Take a transaction; it is durable when this returns.

        Args:
            raw: Its exact bytes.
            on_newcomer: Called, once the signature holds, for a sender that never wrote; what it raises is the answer.

        Raises:
            RequestRejected: Why it was refused; nothing changed.
            Unavailable: Enough were taken for this block.
        """
        transaction = decode_transaction(raw)
        index = self.views.leaf_of(transaction.hash)
        if index is None:
            self._verify(transaction)
            if not self.views.has_written(transaction.body.sender):
                on_newcomer()
            index, is_new = self._group.submit(transaction)
            if is_new:
                logger.debug("transaction taken", extra={"transaction": transaction.hash, "leaf": index})
        return Submitted(transaction.hash, index, self.views.depth(index))

    def make_block(self) -> SignedBlock:
        """Sign what there is as the next block, and wake those who wait for one."""
        with self._making_block:
            with self._writer() as writer:
                last = self._last.block
                # Not before any transaction in it could have been taken, even if the wall clock was set back since.
                earliest = max(last.time_unix_ms + 1, self._signed_unix_ms - state.FUTURE_MS_MAX)
                time_unix_ms = max(self._clock.wall_unix_ms(), earliest)
                made = self._sign(writer, last.height + 1, time_unix_ms, self._last.hash)
                tree = self._state.tree
            self.states.add(made, tree)
            with self._new_block:
                self._last = made
                self._new_block.notify_all()
        return made

    def wait_for_block(self, height: int, timeout_seconds: float) -> bool:
        """Wait until there is a block of this height; returns whether there is."""
        with self._new_block:
            return self._new_block.wait_for(lambda: self._last.block.height >= height, timeout_seconds)

    def blocks(self, first: int, limit: int) -> list[bytes]:
        """Return the notes of up to ``limit`` (at most 100) blocks from one height on."""
        return self.log.checkpoints(first, min(limit, BLOCKS_MAX))

    def leaf(self, index: int) -> bytes:
        """Return the bytes of a leaf that exists."""
        return self.log.read(index, index + 1)[0]

    def prove(self, index: int) -> LogProof:
        """Prove a leaf under the newest block.

        Raises:
            Unavailable: It is not in a block yet.
        """
        last = self._last
        if index >= last.block.size:
            raise Unavailable("the transaction is not in a block yet", retry_after_seconds=self.genesis.block_seconds)
        hashes = tuple(self.log.inclusion(index, last.block.size))
        return LogProof(index, hashes, last.raw, self.leaf(index))

    def _verify(self, transaction: SignedTransaction) -> None:
        try:
            self._verifier.verify(transaction)
        except SignatureInvalid as err:
            raise state.bad_signature(str(err)) from err

    def _write(self, batch: Sequence[SignedTransaction]) -> list[tuple[int, bool] | Exception]:
        """Take a batch in one commit; one refused transaction does not touch the others."""
        with self._writer() as writer:
            now_unix_ms = self._clock.wall_unix_ms()
            return [self._try_take(writer, transaction, now_unix_ms) for transaction in batch]

    @contextmanager
    def _writer(self) -> Iterator[Writer]:
        """Hold the file; when the step before failed (disk full, a lost commit), the tree in memory follows it first."""
        with self.log.transaction() as writer:
            if self._state.size != writer.size:
                self._state.reload(writer.size)
            yield writer

    def _try_take(
        self, writer: Writer, transaction: SignedTransaction, now_unix_ms: int
    ) -> tuple[int, bool] | Exception:
        tree = self._state.tree
        try:
            with writer.savepoint():
                return self._take(writer, transaction, now_unix_ms)
        except (RequestRejected, Unavailable) as err:
            return err
        except BaseException:
            self._state.tree = tree
            raise

    def _take(self, writer: Writer, transaction: SignedTransaction, now_unix_ms: int) -> tuple[int, bool]:
        name = bytes.fromhex(transaction.hash)
        known = writer.connection.execute("SELECT leaf FROM tx WHERE hash = ?", (name,)).fetchone()
        if known is not None:
            return int(known[0]), False
        if writer.size - self._last.block.size >= self._block_transactions_max:
            raise Unavailable("this block is full", retry_after_seconds=self.genesis.block_seconds)
        account = self._state.check(transaction, now_unix_ms)
        self._admission.check(writer.connection, transaction)
        index = writer.append(transaction.raw)
        writer.connection.execute("INSERT INTO tx VALUES (?, ?)", (name, index))
        self._state.apply(transaction, index, account)
        self._signed_unix_ms = max(self._signed_unix_ms, transaction.body.time_unix_ms)
        return index, True

    def _begin(self) -> SignedBlock:
        with self.log.transaction() as writer:
            self._state.begin()
            made = self._sign(writer, 0, self.genesis.created_unix_ms, NO_BLOCK)
        self.states.add(made, self._state.tree)
        return made

    def _resume(self) -> SignedBlock:
        self._state.reload(self.log.size)
        first = max(self.log.checkpoints_count - self.states.count_max, 0)
        notes = self.log.checkpoints(first, self.states.count_max)
        if not notes:
            raise LogDamaged("checkpoint", "the newest one is missing")
        blocks = [open_block(note, self.genesis.log) for note in notes]
        with self.log.transaction() as writer:
            self.states.load(writer.connection, blocks)
        last = blocks[-1]
        index = last.block.size
        while lines := self.log.read(index, self.log.size):
            signed = [decode_transaction(line).body.time_unix_ms for line in lines]
            self._signed_unix_ms = max(self._signed_unix_ms, *signed)
            index += len(lines)
        return last

    def _sign(self, writer: Writer, height: int, time_unix_ms: int, prev: str) -> SignedBlock:
        block = Block(
            self.genesis.origin,
            writer.size,
            writer.frontier.root(),
            height,
            time_unix_ms,
            self._state.root,
            prev,
        )
        return SignedBlock(block, writer.sign_checkpoint(self._key, block.checkpoint().extensions))
