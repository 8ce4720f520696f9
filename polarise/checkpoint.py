"""Checkpoints of a transparency log (c2sp.org/tlog-checkpoint) and the cosignatures of witnesses under them.

Rules:
- The text is origin, size in decimal, root in base64, then extension lines; every line is non-empty.
- A log signs under its origin's name. Of a checkpoint with an unknown origin nothing is believed.
- A cosignature (c2sp.org/tlog-cosignature, Ed25519, type 0x04) says: at this time, this was the largest consistent
  tree I knew. It signs a line with the time in front of the whole text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from polarise.merkle import HASH_BYTES, SIZE_MAX
from polarise.notes import (
    ED25519,
    Ed25519Verifier,
    Note,
    NoteInvalid,
    NoteSignature,
    NoteVerifier,
    check_ed25519,
    decode_base64,
    encode_base64,
    encode_vkey,
    key_id,
    open_note,
    parse_vkey,
    sign_note,
    verify_note,
)
from polarise.signing import KEY_PATTERN, SigningKey

COSIGNATURE = 0x04
TIMESTAMP_BYTES = 8
MAX_EXTENSIONS = 64


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One state of a log.

    Attributes:
        origin: Name of the log.
        size: Number of leaves.
        root: Root of the Merkle tree over them, 32 bytes.
        extensions: Further lines, opaque here.
    """

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def text(self) -> str:
        """Return the text that is signed."""
        lines = (self.origin, str(self.size), encode_base64(self.root), *self.extensions)
        return "".join(f"{line}\n" for line in lines)


@dataclass(frozen=True, slots=True)
class SignedCheckpoint:
    """A checkpoint with the note it was read from.

    Attributes:
        checkpoint: What the text says.
        note: The note, with every signature it carries.
    """

    checkpoint: Checkpoint
    note: Note

    @property
    def raw(self) -> bytes:
        """The bytes of the note."""
        return self.note.encode()


def parse_checkpoint(text: str) -> Checkpoint:
    """Read the text of a checkpoint; nothing is verified.

    Raises:
        NoteInvalid: Not of the format.
    """
    lines = text.split("\n")
    if len(lines) < 4 or lines.pop() or not all(lines):
        raise NoteInvalid("a checkpoint has at least three lines, none of them empty")
    if len(lines) > 3 + MAX_EXTENSIONS:
        raise NoteInvalid(f"a checkpoint may have {MAX_EXTENSIONS} extension lines, this one has {len(lines) - 3}")
    root = decode_base64(lines[2], "root")
    if len(root) != HASH_BYTES:
        raise NoteInvalid(f"a root has {HASH_BYTES} bytes, got {len(root)}")
    return Checkpoint(lines[0], parse_size(lines[1]), root, tuple(lines[3:]))


def parse_size(text: str) -> int:
    """Read a tree size: decimal digits without leading zeroes.

    Raises:
        NoteInvalid: Another spelling, or beyond 2^63.
    """
    if not re.fullmatch(r"0|[1-9][0-9]{0,18}", text) or int(text) > SIZE_MAX:
        raise NoteInvalid(f"not a tree size: {text[:40]!r}")
    return int(text)


def sign_checkpoint(checkpoint: Checkpoint, key: SigningKey) -> SignedCheckpoint:
    """Sign as the log: plain Ed25519 under the origin's name."""
    text = checkpoint.text()
    return SignedCheckpoint(checkpoint, Note(text, (sign_note(text, checkpoint.origin, key),)))


def open_checkpoint(raw: bytes, log: NoteVerifier) -> SignedCheckpoint:
    """Verify a checkpoint of one log.

    Args:
        raw: The note; untrusted.
        log: The log's key, whose name must be the origin.

    Raises:
        NoteInvalid: Not a checkpoint, of another origin, or not signed by the log.
    """
    note = open_note(raw, [log])
    checkpoint = parse_checkpoint(note.text)
    if checkpoint.origin != log.name:
        raise NoteInvalid(f"the checkpoint is of {checkpoint.origin[:80]!r}, expected {log.name[:80]!r}")
    return SignedCheckpoint(checkpoint, note)


@dataclass(frozen=True, slots=True)
class CosignatureVerifier:
    """A witness's key (signature type 0x04).

    Attributes:
        name: Key name of the witness.
        public_key: 64 lower-case hex digits.
    """

    name: str
    public_key: str

    @property
    def key_id(self) -> bytes:
        """See `NoteVerifier`."""
        return key_id(self.name, COSIGNATURE, bytes.fromhex(self.public_key))

    @property
    def vkey(self) -> str:
        """The verifier key as C2SP tools read it."""
        return encode_vkey(self.name, COSIGNATURE, bytes.fromhex(self.public_key))

    def check(self, text: str, signature: bytes) -> None:
        """See `NoteVerifier`."""
        message = _cosigned(text, cosignature_time(signature))
        check_ed25519(self.public_key, message, signature[TIMESTAMP_BYTES:], self.name)


def cosign(text: str, name: str, key: SigningKey, time_unix_s: int) -> NoteSignature:
    """Cosign a checkpoint's text as a witness that has checked its consistency."""
    identifier = key_id(name, COSIGNATURE, bytes.fromhex(key.public_key))
    signature = key.private.sign(_cosigned(text, time_unix_s))
    return NoteSignature(name, identifier, time_unix_s.to_bytes(TIMESTAMP_BYTES, "big") + signature)


def cosignature_time(signature: bytes) -> int:
    """Return the Unix seconds a cosignature names.

    Raises:
        NoteInvalid: Not the length of one, or a time beyond 2^63.
    """
    if len(signature) != TIMESTAMP_BYTES + 64:
        raise NoteInvalid(f"a cosignature has {TIMESTAMP_BYTES + 64} bytes, got {len(signature)}")
    seconds = int.from_bytes(signature[:TIMESTAMP_BYTES], "big")
    if seconds >= 1 << 63:
        raise NoteInvalid("the time of the cosignature is beyond 2^63")
    return seconds


def check_cosignatures(signed: SignedCheckpoint, witnesses: Sequence[CosignatureVerifier], count_min: int) -> None:
    """Check that enough of the witnesses we know cosigned.

    Raises:
        NoteInvalid: Fewer did, or one of their cosignatures does not verify.
    """
    if count_min == 0:
        return
    names = {(signature.name, signature.key_id) for signature in verify_note(signed.note, witnesses)}
    if len(names) < count_min:
        raise NoteInvalid(f"{len(names)} known witnesses cosigned, expected at least {count_min}")


def parse_log_key(text: str, origin: str) -> Ed25519Verifier:
    """Read a log's key as people give it: a verifier key, or 64 hex digits, which then count for ``origin``.

    Raises:
        NoteInvalid: Neither of the two, or a verifier key of another type.
    """
    if re.fullmatch(KEY_PATTERN, text):
        return Ed25519Verifier(origin, text)
    name, kind, public_key = parse_vkey(text)
    if kind != ED25519:
        raise NoteInvalid(f"the key {name[:80]} is of type {kind:#04x}, a log's is {ED25519:#04x}")
    return Ed25519Verifier(name, public_key.hex())


def parse_witness_key(vkey: str) -> CosignatureVerifier:
    """Read a witness's verifier key.

    Raises:
        NoteInvalid: Not a verifier key, or of another type.
    """
    name, kind, public_key = parse_vkey(vkey)
    if kind != COSIGNATURE:
        raise NoteInvalid(f"the key {name[:80]} is of type {kind:#04x}, a witness's is {COSIGNATURE:#04x}")
    return CosignatureVerifier(name, public_key.hex())


def _cosigned(text: str, time_unix_s: int) -> bytes:
    return f"cosignature/v1\ntime {time_unix_s}\n{text}".encode()
