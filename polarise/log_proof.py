"""One file that proves a leaf stands in a log (c2sp.org/tlog-proof): index, inclusion hashes and a signed checkpoint.

Rules:
- The leaf's own bytes travel in the ``extra`` line, so that the file and a key suffice to check it, offline.
- Reading verifies nothing; `LogProof.verify` does, and says what it verified.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from polarise.checkpoint import CosignatureVerifier, SignedCheckpoint, check_cosignatures, open_checkpoint, parse_size
from polarise.merkle import HASH_BYTES, InvalidProof, leaf_hash, verify_inclusion
from polarise.notes import MAX_NOTE_BYTES, NoteInvalid, NoteVerifier, decode_base64, encode_base64

HEADER = "c2sp.org/tlog-proof@v1"
MAX_HASHES = 63
# A leaf has at most 64 KiB - 1 bytes (c2sp.org/tlog-tiles); base64 makes a third more of it.
MAX_PROOF_BYTES = MAX_NOTE_BYTES + 96 * 1024


@dataclass(frozen=True, slots=True)
class LogProof:
    """A proof as it was read or made.

    Attributes:
        index: Position of the leaf.
        hashes: Inclusion proof, lowest first.
        checkpoint: The signed note, verbatim.
        extra: The leaf's bytes; None when whoever verifies must bring them.
    """

    index: int
    hashes: tuple[bytes, ...]
    checkpoint: bytes
    extra: bytes | None = None

    def encode(self) -> bytes:
        """Return the proof file."""
        lines = [HEADER]
        if self.extra is not None:
            lines.append(f"extra {encode_base64(self.extra)}")
        lines.append(f"index {self.index}")
        lines.extend(encode_base64(value) for value in self.hashes)
        return "".join(f"{line}\n" for line in lines).encode() + b"\n" + self.checkpoint

    def verify(
        self,
        log: NoteVerifier,
        *,
        leaf: bytes | None = None,
        witnesses: Sequence[CosignatureVerifier] = (),
        witnesses_min: int = 0,
    ) -> SignedCheckpoint:
        """Check everything, and return the checkpoint that the leaf stands under.

        Args:
            log: The log's key; its name must be the checkpoint's origin.
            leaf: The leaf's bytes; None takes the ones in ``extra``.
            witnesses: Keys of known witnesses.
            witnesses_min: How many of them must have cosigned.

        Raises:
            NoteInvalid: The checkpoint is not the log's, or too few witnesses cosigned it.
            InvalidProof: The leaf does not stand at the index of that tree.
        """
        signed = open_checkpoint(self.checkpoint, log)
        check_cosignatures(signed, witnesses, witnesses_min)
        content = self.extra if leaf is None else leaf
        if content is None:
            raise InvalidProof("the proof carries no leaf and none was given")
        checkpoint = signed.checkpoint
        verify_inclusion(leaf_hash(content), self.index, checkpoint.size, self.hashes, checkpoint.root)
        return signed


def parse_log_proof(raw: bytes) -> LogProof:
    """Read a proof file; nothing is verified.

    Raises:
        NoteInvalid: Too large, or not of the format.
    """
    if len(raw) > MAX_PROOF_BYTES:
        raise NoteInvalid(f"the proof has {len(raw)} bytes, at most {MAX_PROOF_BYTES} are read")
    head, separator, checkpoint = raw.partition(b"\n\n")
    try:
        lines = head.decode("ascii").split("\n")
    except UnicodeDecodeError as err:
        raise NoteInvalid("the proof is not ASCII in front of its checkpoint") from err
    if not separator or lines.pop(0) != HEADER or not lines:
        raise NoteInvalid(f"a proof starts with {HEADER!r} and has an empty line before its checkpoint")
    extra = decode_base64(lines.pop(0).removeprefix("extra "), "extra") if lines[0].startswith("extra ") else None
    if not lines or not re.fullmatch(r"index \S+", lines[0]):
        raise NoteInvalid("the proof has no index line")
    index = parse_size(lines.pop(0).removeprefix("index "))
    if len(lines) > MAX_HASHES:
        raise NoteInvalid(f"a proof has at most {MAX_HASHES} hashes, this one has {len(lines)}")
    hashes = tuple(decode_base64(line, "hash") for line in lines)
    if any(len(value) != HASH_BYTES for value in hashes):
        raise NoteInvalid(f"a hash of the proof is not {HASH_BYTES} bytes")
    return LogProof(index, hashes, checkpoint, extra)
