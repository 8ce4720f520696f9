"""A block of the ledger: a checkpoint whose extension lines say height, time, state root and the block before.

Rules:
- The lines are ``height N``, ``time UNIX_MS``, ``state HEX64``, ``prev HEX64``, in this order; further lines may follow.
- A block's hash is the SHA-256 of its text. ``prev`` chains the blocks, so that the ledger cannot sign one height twice
  and keep both; block 0 points at 64 zeroes.
- The state root covers the path tree after all leaves of the block; block 0's is the genesis.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from polarise.checkpoint import Checkpoint, SignedCheckpoint, open_checkpoint
from polarise.notes import NoteInvalid, NoteVerifier

NO_BLOCK = "0" * 64

_HEX = "[0-9a-f]{64}"
_NUMBER = "(?:0|[1-9][0-9]{0,15})"
_LINES = (f"height ({_NUMBER})", f"time ({_NUMBER})", f"state ({_HEX})", f"prev ({_HEX})")


@dataclass(frozen=True, slots=True)
class Block:
    """What a block says.

    Attributes:
        origin: Name of the ledger.
        size: Leaves up to here.
        root: Root over them, 32 bytes.
        height: Number of blocks before this one.
        time_unix_ms: The ledger's clock; grows from block to block.
        state: State root, 64 hex digits.
        prev: Hash of the block before, 64 hex digits.
    """

    origin: str
    size: int
    root: bytes
    height: int
    time_unix_ms: int
    state: str
    prev: str

    def checkpoint(self) -> Checkpoint:
        """Return the checkpoint to sign."""
        lines = (f"height {self.height}", f"time {self.time_unix_ms}", f"state {self.state}", f"prev {self.prev}")
        return Checkpoint(self.origin, self.size, self.root, lines)


@dataclass(frozen=True, slots=True)
class SignedBlock:
    """A verified block with its note.

    Attributes:
        block: What it says.
        signed: The checkpoint it was read from.
    """

    block: Block
    signed: SignedCheckpoint

    @property
    def raw(self) -> bytes:
        """The bytes of the note."""
        return self.signed.raw

    @property
    def hash(self) -> str:
        """SHA-256 of the note's text, 64 hex digits; public randomness once the block is final."""
        return hashlib.sha256(self.signed.note.text.encode()).hexdigest()


def open_block(raw: bytes, log: NoteVerifier) -> SignedBlock:
    """Verify a block of one ledger.

    Raises:
        NoteInvalid: Not a checkpoint of that log, or its extension lines are not a block's.
    """
    signed = open_checkpoint(raw, log)
    return SignedBlock(block_of(signed.checkpoint), signed)


def block_of(checkpoint: Checkpoint) -> Block:
    """Read the extension lines.

    Raises:
        NoteInvalid: They are not a block's.
    """
    found = []
    for pattern, line in zip(_LINES, checkpoint.extensions, strict=False):
        if (match := re.fullmatch(pattern, line)) is None:
            raise NoteInvalid(f"the line {line[:80]!r} is not of the form {pattern.split(' ')[0]!r} and its value")
        found.append(match[1])
    if len(found) < len(_LINES):
        raise NoteInvalid(f"a block has {len(_LINES)} extension lines, this one has {len(found)}")
    height, time_unix_ms, state, prev = found
    return Block(checkpoint.origin, checkpoint.size, checkpoint.root, int(height), int(time_unix_ms), state, prev)
