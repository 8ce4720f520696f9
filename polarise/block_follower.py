"""Following a ledger: each block must go on from the last one seen, or both notes are kept as proof that it does not.

Rules:
- The last block seen is kept where the caller says, so that a fork is noticed across restarts, too.
- A higher block is later, not smaller, and shows by a consistency proof that the old leaves are its first ones.
- An older block is believed when it is a prefix of the one seen; it moves nothing.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from polarise.block import Block, SignedBlock, open_block
from polarise.errors import AnswerInvalid, LogFork, StateNotProved
from polarise.merkle import InvalidProof, verify_consistency
from polarise.notes import NoteInvalid, NoteVerifier

# (old size, new size) -> consistency proof, as the ledger gives it.
FetchConsistency = Callable[[int, int], Sequence[bytes]]


class BlockMemory(Protocol):
    """Where the last block seen is kept; it must outlive the process for a fork to be noticed across restarts."""

    def load(self) -> bytes | None:
        """Return the note, None when there is none yet."""

    def save(self, note: bytes) -> None:
        """Keep the note instead of the one before."""

    def save_fork(self, fork: LogFork) -> None:
        """Keep both notes of a fork as evidence; the first fork is enough."""

    def save_unproved(self, error: StateNotProved) -> None:
        """Keep an answer that does not follow from its block; the first one is enough."""


class FileMemory:
    """Keeps the last block seen in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> bytes | None:
        """See `BlockMemory`."""
        return self._path.read_bytes() if self._path.exists() else None

    def save(self, note: bytes) -> None:
        """See `BlockMemory`; a reader finds the old note or the new one."""
        self._write(self._path, note)

    def save_fork(self, fork: LogFork) -> None:
        """See `BlockMemory`; the two notes lie beside the file as ``.fork-1`` and ``.fork-2``."""
        for number, note in enumerate((fork.first, fork.second), 1):
            target = self._path.with_name(f"{self._path.name}.fork-{number}")
            if not target.exists():
                self._write(target, note)

    def save_unproved(self, error: StateNotProved) -> None:
        """See `BlockMemory`; note and answer lie beside the file as ``.unproved-note`` and ``.unproved-answer``."""
        for kind, content in (("note", error.note), ("answer", error.answer)):
            target = self._path.with_name(f"{self._path.name}.unproved-{kind}")
            if not target.exists():
                self._write(target, content)

    def _write(self, target: Path, note: bytes) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
        temporary.write_bytes(note)
        temporary.replace(target)


class ShortMemory:
    """Keeps the last block seen for the life of the process."""

    def __init__(self) -> None:
        self._note: bytes | None = None
        self.fork: LogFork | None = None
        self.unproved: StateNotProved | None = None

    def load(self) -> bytes | None:
        """See `BlockMemory`."""
        return self._note

    def save(self, note: bytes) -> None:
        """See `BlockMemory`."""
        self._note = note

    def save_fork(self, fork: LogFork) -> None:
        """See `BlockMemory`."""
        self.fork = self.fork or fork

    def save_unproved(self, error: StateNotProved) -> None:
        """See `BlockMemory`."""
        self.unproved = self.unproved or error


class BlockFollower:
    """The newest block of one ledger, and the rule by which it is replaced.

    Args:
        log: The ledger's log key.
        memory: Where the last block seen is kept.

    Raises:
        AnswerInvalid: The kept note is not one of this ledger.
    """

    def __init__(self, log: NoteVerifier, memory: BlockMemory) -> None:
        self._log = log
        self._memory = memory
        self._lock = threading.Lock()
        kept = memory.load()
        self._seen = None if kept is None else self.opened(kept)

    @property
    def seen(self) -> SignedBlock | None:
        """The newest block that was verified."""
        return self._seen

    def opened(self, note: bytes) -> SignedBlock:
        """Verify a block's signature.

        Raises:
            AnswerInvalid: It is not one of this ledger.
        """
        try:
            return open_block(note, self._log)
        except NoteInvalid as err:
            raise AnswerInvalid(f"not a block of {self._log.name}: {err}") from err

    def advance(self, note: bytes, fetch_consistency: FetchConsistency) -> SignedBlock:
        """Verify a block against the last one seen, and keep the newer of the two.

        Args:
            note: The signed note; untrusted.
            fetch_consistency: Asks the ledger for a proof.

        Raises:
            AnswerInvalid: Not a block of this ledger.
            LogFork: The two blocks cannot be of one history.
        """
        block = self.opened(note)
        with self._lock:
            seen = self._seen
            if seen is None:
                self._keep(block)
            elif block.signed.note.text != seen.signed.note.text:
                try:
                    check_order(seen, block)
                    _check_consistency(seen, block, fetch_consistency)
                except LogFork as fork:
                    self._memory.save_fork(fork)
                    raise
                if block.block.height > seen.block.height:
                    self._keep(block)
        return block

    def keep(self, error: StateNotProved) -> None:
        """Keep an answer that does not follow from the block it was given with."""
        self._memory.save_unproved(error)

    def _keep(self, block: SignedBlock) -> None:
        self._memory.save(block.raw)
        self._seen = block


def check_order(seen: SignedBlock, block: SignedBlock) -> None:
    """Two blocks of one honest ledger differ in height; the higher one is later, not smaller, and not another tree.

    Raises:
        LogFork: They contradict each other by what is signed alone.
    """
    if block.block.height == seen.block.height:
        raise LogFork(f"the ledger signed two blocks of height {seen.block.height}", first=seen.raw, second=block.raw)
    low, high = _in_order(seen, block)
    is_other_tree = high.size == low.size and high.root != low.root
    if high.size < low.size or high.time_unix_ms <= low.time_unix_ms or is_other_tree:
        raise LogFork(
            f"block {high.height} of {high.size} leaves does not go on from block {low.height} of {low.size}",
            first=seen.raw,
            second=block.raw,
        )


def check_chain(before: SignedBlock, block: SignedBlock) -> None:
    """Check that a block points at the one before it; fails as `check_order`."""
    check_order(before, block)
    if block.block.height == before.block.height + 1 and block.block.prev != before.hash:
        raise LogFork(
            f"block {block.block.height} does not point at the block before it", first=before.raw, second=block.raw
        )


def _check_consistency(seen: SignedBlock, block: SignedBlock, fetch: FetchConsistency) -> None:
    low, high = _in_order(seen, block)
    try:
        verify_consistency(low.size, low.root, high.size, high.root, fetch(low.size, high.size))
    except InvalidProof as err:
        raise LogFork(
            f"the ledger cannot show that block {high.height} goes on from block {low.height}: {err}",
            first=seen.raw,
            second=block.raw,
        ) from err


def _in_order(one: SignedBlock, other: SignedBlock) -> tuple[Block, Block]:
    return (one.block, other.block) if one.block.height < other.block.height else (other.block, one.block)
