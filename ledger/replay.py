"""A ledger from nothing: leaves and blocks go in, in order, and either everything follows from the genesis or one place is named.

Checked are every signature, certificate, net, nonce and rule, and of every block signature, chain, time, log root and
state root. Where the bytes come from (a file, an auditor's download) is the caller's business.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from types import TracebackType
from typing import Self

from ledger.state import SCHEMA, LedgerState
from polarise.block import NO_BLOCK, SignedBlock, open_block
from polarise.errors import LogDamaged, RequestRejected
from polarise.frontier import Frontier
from polarise.genesis import Genesis
from polarise.merkle import leaf_hash
from polarise.notes import NoteInvalid
from polarise.signing import SignatureInvalid
from polarise.transaction import SignedTransaction, TransactionVerifier, decode_transaction

CHUNK_LEAVES = 1024

Nodes = list[tuple[int, int, bytes]]


class Replay:
    """One run over a ledger; holds the state it amounts to, in memory.

    Args:
        genesis: The beginning, which is trusted.
        notes: The signed notes of all blocks from height 0 on; untrusted.
    """

    def __init__(self, genesis: Genesis, notes: Iterable[bytes]) -> None:
        self._connection = sqlite3.connect(":memory:", isolation_level=None)
        self._connection.executescript(SCHEMA)
        self._genesis = genesis
        self.state = LedgerState(self._connection, genesis)
        self.last: SignedBlock | None = None
        self._tree = Frontier()
        self._verifier = TransactionVerifier()
        self._blocks = opened_blocks(notes, genesis)
        self._next = next(self._blocks, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    @property
    def size(self) -> int:
        """Leaves replayed."""
        return self._tree.size

    def run(
        self,
        lines: Iterable[bytes],
        *,
        on_leaf: Callable[[int, SignedTransaction, Nodes], None] = lambda _index, _transaction, _nodes: None,
        on_progress: Callable[[int], None] = lambda _leaves: None,
    ) -> SignedBlock:
        """Replay all leaves from the first on, and return the last block.

        Args:
            lines: Exact bytes of the leaves; untrusted.
            on_leaf: Called with index, transaction and the tree nodes that are complete now.
            on_progress: Called with the number of leaves replayed, now and then.

        Raises:
            LogDamaged: The first thing that does not hold, and where.
        """
        self.state.begin()
        self._close_blocks()
        remaining = iter(lines)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            while chunk := list(islice(remaining, CHUNK_LEAVES)):
                # The verification lets go of the interpreter lock, so the cores share it.
                for transaction in pool.map(self._opened, range(self.size, self.size + len(chunk)), chunk):
                    self._apply(transaction, on_leaf)
                on_progress(self.size)
        if self._next is not None:
            block = self._next.block
            raise LogDamaged(f"block {block.height}", f"covers {block.size} leaves, there are {self.size}")
        if self.last is None:
            raise LogDamaged("block 0", "is missing")
        return self.last

    def rows(self, sql: str) -> sqlite3.Cursor:
        """Return the rows of a SELECT over the replayed tables."""
        return self._connection.execute(sql)

    def _opened(self, index: int, line: bytes) -> SignedTransaction:
        try:
            transaction = decode_transaction(line)
            self._verifier.verify(transaction)
        except (RequestRejected, SignatureInvalid) as err:
            raise LogDamaged(f"leaf {index}", str(err)) from err
        return transaction

    def _apply(self, transaction: SignedTransaction, on_leaf: Callable[[int, SignedTransaction, Nodes], None]) -> None:
        index = self.size
        # When it was taken at the latest; the leaves behind the last block have no such bound yet.
        taken_unix_ms = self._next.block.time_unix_ms if self._next else transaction.body.time_unix_ms
        try:
            account = self.state.check(transaction, taken_unix_ms)
        except RequestRejected as err:
            raise LogDamaged(f"leaf {index}", f"should have been refused: {err}") from err
        self.state.apply(transaction, index, account)
        on_leaf(index, transaction, self._tree.add(leaf_hash(transaction.raw)))
        self._close_blocks()

    def _close_blocks(self) -> None:
        """Check the roots of every block that ends here."""
        while self._next is not None and self._next.block.size == self.size:
            block, where = self._next.block, f"block {self._next.block.height}"
            if block.root != self._tree.root():
                given = self._tree.root().hex()
                raise LogDamaged(where, f"signed log root {block.root.hex()}, the leaves give {given}")
            if block.state != self.state.root:
                raise LogDamaged(where, f"signed state root {block.state}, the replay gives {self.state.root}")
            self.last = self._next
            self._next = next(self._blocks, None)


def opened_blocks(notes: Iterable[bytes], genesis: Genesis) -> Iterator[SignedBlock]:
    """Yield the blocks; signature, height, chain, time and order of sizes are checked here, roots by the replay.

    Raises:
        LogDamaged: The first block that does not hold.
    """
    prev, time_unix_ms, size = NO_BLOCK, genesis.created_unix_ms - 1, 0
    for height, note in enumerate(notes):
        where = f"block {height}"
        try:
            signed = open_block(note, genesis.log)
        except NoteInvalid as err:
            raise LogDamaged(where, str(err)) from err
        block = signed.block
        if block.height != height:
            raise LogDamaged(where, f"is signed as height {block.height}")
        if block.size < size:
            raise LogDamaged(where, f"has {block.size} leaves, the one before {size}")
        if block.prev != prev:
            raise LogDamaged(where, f"follows {block.prev}, the block before is {prev}")
        if block.time_unix_ms <= time_unix_ms:
            raise LogDamaged(where, f"its time {block.time_unix_ms} is not after {time_unix_ms}")
        prev, time_unix_ms, size = signed.hash, block.time_unix_ms, block.size
        yield signed
