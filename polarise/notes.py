"""Signed notes (c2sp.org/signed-note): a text, a blank line, and one line per signature.

Rules:
- The text ends in a line feed, is valid UTF-8 and holds no control character but the line feed.
- A signature line is ``— <key name> base64(key id || signature)``; name and id together say whose key it is.
- Signatures of unknown keys are ignored; one of a known key that does not verify refuses the whole note.
- Size and number of signatures are bounded before anything is parsed; base64 has one accepted spelling.
- The note text itself is what Ed25519 signs, without our domain prefix: the formats are not ours. So a key that signs
  notes (purposes log and witness) signs nothing else.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from polarise.errors import SubnetError
from polarise.signing import SigningKey

MAX_NOTE_BYTES = 128 * 1024
MAX_SIGNATURES = 32
KEY_ID_BYTES = 4
ED25519 = 0x01

_DASH = "\u2014 "


class NoteInvalid(SubnetError):
    """The bytes are no note, or none of the keys we trust signed it; the caller decides whose fault that is."""


@dataclass(frozen=True, slots=True)
class NoteSignature:
    """One signature line.

    Attributes:
        name: Key name as the line gives it.
        key_id: Four bytes that tell keys of one name apart.
        signature: What the key's algorithm made of the text.
    """

    name: str
    key_id: bytes
    signature: bytes

    def line(self) -> str:
        """Return the signature line with its line feed."""
        return f"{_DASH}{self.name} {encode_base64(self.key_id + self.signature)}\n"


@dataclass(frozen=True, slots=True)
class Note:
    """A text with its signatures, none of them verified yet.

    Attributes:
        text: What is signed, with its final line feed.
        signatures: In the order of the lines.
    """

    text: str
    signatures: tuple[NoteSignature, ...]

    def encode(self) -> bytes:
        """Return the note's bytes."""
        return (self.text + "\n" + "".join(signature.line() for signature in self.signatures)).encode()

    def with_signatures(self, more: Iterable[NoteSignature]) -> Note:
        """Return the note with further signatures behind its own."""
        return replace(self, signatures=(*self.signatures, *more))


class NoteVerifier(Protocol):
    """A key we trust, of any algorithm."""

    @property
    def name(self) -> str:
        """Key name."""

    @property
    def key_id(self) -> bytes:
        """Key id, four bytes."""

    def check(self, text: str, signature: bytes) -> None:
        """Raise `NoteInvalid` unless the signature over the text verifies."""


@dataclass(frozen=True, slots=True)
class Ed25519Verifier:
    """A log's key: plain Ed25519 over the note text (signature type 0x01).

    Attributes:
        name: Key name; a log's is its origin.
        public_key: 64 lower-case hex digits.
    """

    name: str
    public_key: str

    @property
    def key_id(self) -> bytes:
        """See `NoteVerifier`."""
        return key_id(self.name, ED25519, bytes.fromhex(self.public_key))

    @property
    def vkey(self) -> str:
        """The verifier key as C2SP tools read it."""
        return encode_vkey(self.name, ED25519, bytes.fromhex(self.public_key))

    def check(self, text: str, signature: bytes) -> None:
        """See `NoteVerifier`."""
        check_ed25519(self.public_key, text.encode(), signature, self.name)


def sign_note(text: str, name: str, key: SigningKey) -> NoteSignature:
    """Sign a note's text with plain Ed25519.

    Raises:
        ValueError: The text or the name cannot stand in a note; a defect of the caller.
    """
    if problem := _problem_of(text) or _problem_of_name(name):
        raise ValueError(problem)
    identifier = key_id(name, ED25519, bytes.fromhex(key.public_key))
    return NoteSignature(name, identifier, key.private.sign(text.encode()))


def parse_note(raw: bytes) -> Note:
    """Take a note apart; nothing is verified.

    Raises:
        NoteInvalid: Too large, too many signatures, or not of the format.
    """
    if len(raw) > MAX_NOTE_BYTES:
        raise NoteInvalid(f"the note has {len(raw)} bytes, at most {MAX_NOTE_BYTES} are read")
    try:
        whole = raw.decode("utf-8")
    except UnicodeDecodeError as err:
        raise NoteInvalid(f"the note is not UTF-8: {err.reason}") from err
    text, separator, lines = whole.rpartition("\n\n")
    if not separator or not lines.endswith("\n"):
        raise NoteInvalid("a note is a text, an empty line and signature lines, each ending in a line feed")
    text += "\n"
    if problem := _problem_of(text):
        raise NoteInvalid(problem)
    return Note(text, _parse_signatures(lines))


def parse_signatures(raw: bytes) -> tuple[NoteSignature, ...]:
    """Read signature lines alone, for example a witness's answer.

    Raises:
        NoteInvalid: As `parse_note`.
    """
    if len(raw) > MAX_NOTE_BYTES:
        raise NoteInvalid(f"the signature lines have {len(raw)} bytes, at most {MAX_NOTE_BYTES} are read")
    try:
        return _parse_signatures(raw.decode("utf-8"))
    except UnicodeDecodeError as err:
        raise NoteInvalid(f"the signature lines are not UTF-8: {err.reason}") from err


def verify_note(note: Note, trusted: Sequence[NoteVerifier]) -> tuple[NoteSignature, ...]:
    """Return the signatures of trusted keys, all of them verified.

    Raises:
        NoteInvalid: A trusted key's signature does not verify, or there is none.
    """
    by_id = {(verifier.name, verifier.key_id): verifier for verifier in trusted}
    found = []
    for signature in note.signatures:
        verifier = by_id.get((signature.name, signature.key_id))
        if verifier is not None:
            verifier.check(note.text, signature.signature)
            found.append(signature)
    if not found:
        names = ", ".join(sorted({signature.name[:80] for signature in note.signatures}))
        raise NoteInvalid(f"no trusted key signed the note; it is signed by {names}")
    return tuple(found)


def open_note(raw: bytes, trusted: Sequence[NoteVerifier]) -> Note:
    """Parse a note and verify it; fails as `parse_note` and `verify_note`."""
    note = parse_note(raw)
    verify_note(note, trusted)
    return note


def parse_vkey(vkey: str) -> tuple[str, int, bytes]:
    """Return (name, signature type, public key) of a verifier key ``name+hex id+base64(type || key)``.

    Raises:
        NoteInvalid: Not of that form, or the id is not the name's and key's.
    """
    parts = vkey.split("+", 2)
    if len(parts) != 3 or _problem_of_name(parts[0]) or not re.fullmatch(r"[0-9a-f]{8}", parts[1]):
        raise NoteInvalid("a verifier key is <name>+<8 hex digits>+<base64>")
    material = decode_base64(parts[2], "verifier key")
    if len(material) != 33:
        raise NoteInvalid(f"the verifier key holds {len(material)} bytes, expected 33 (a type and an Ed25519 key)")
    expected = key_id(parts[0], material[0], material[1:])
    if not hmac.compare_digest(expected, bytes.fromhex(parts[1])):
        raise NoteInvalid(f"the verifier key has id {parts[1]}, expected {expected.hex()}")
    return parts[0], material[0], material[1:]


def encode_vkey(name: str, kind: int, public_key: bytes) -> str:
    """Return the verifier key of a public key and its signature type."""
    return f"{name}+{key_id(name, kind, public_key).hex()}+{encode_base64(bytes([kind]) + public_key)}"


def key_id(name: str, kind: int, public_key: bytes) -> bytes:
    """Return the key id the specification recommends: the first bytes of a hash over name, type and key."""
    return hashlib.sha256(name.encode() + b"\n" + bytes([kind]) + public_key).digest()[:KEY_ID_BYTES]


def check_ed25519(public_key: str, message: bytes, signature: bytes, name: str) -> None:
    """Verify a raw Ed25519 signature.

    Raises:
        NoteInvalid: It does not verify.
    """
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key)).verify(signature, message)
    except (InvalidSignature, ValueError) as err:
        raise NoteInvalid(f"the signature of {name[:80]} does not verify") from err


def encode_base64(data: bytes) -> str:
    """Return standard base64 with padding (RFC 4648 section 4)."""
    return base64.b64encode(data).decode()


def decode_base64(text: str, what: str) -> bytes:
    """Read standard base64 in its only accepted spelling.

    Raises:
        NoteInvalid: Another alphabet, wrong padding, or stray bits behind the last byte.
    """
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as err:
        raise NoteInvalid(f"the {what} is not base64") from err
    if encode_base64(data) != text:
        raise NoteInvalid(f"the {what} is base64 in another than its canonical spelling")
    return data


def _parse_signatures(lines: str) -> tuple[NoteSignature, ...]:
    if not lines.endswith("\n"):
        raise NoteInvalid("a signature line ends in a line feed")
    if lines.count("\n") > MAX_SIGNATURES:
        raise NoteInvalid(f"a note may have {MAX_SIGNATURES} signatures, this one has {lines.count(chr(10))}")
    return tuple(_parse_signature(line) for line in lines[:-1].split("\n"))


def _parse_signature(line: str) -> NoteSignature:
    name, separator, encoded = line.removeprefix(_DASH).partition(" ")
    if not line.startswith(_DASH) or not separator or _problem_of_name(name):
        raise NoteInvalid(f"not a signature line: {line[:80]!r}")
    material = decode_base64(encoded, "signature")
    if len(material) <= KEY_ID_BYTES:
        raise NoteInvalid(f"a signature has more than {KEY_ID_BYTES} bytes, got {len(material)}")
    return NoteSignature(name, material[:KEY_ID_BYTES], material[KEY_ID_BYTES:])


def _problem_of(text: str) -> str | None:
    if not text.endswith("\n"):
        return "the text of a note ends in a line feed"
    if any(ord(character) < 0x20 and character != "\n" for character in text):
        return "a note holds no control character but the line feed"
    return None


def _problem_of_name(name: str) -> str | None:
    if not name or "+" in name or any(_has_no_place_in_a_name(character) for character in name):
        return f"a key name is not empty and holds neither space nor plus, got {name[:80]!r}"
    return None


def _has_no_place_in_a_name(character: str) -> bool:
    # Half of a surrogate pair has no bytes: a command line that is not UTF-8 brings such characters.
    return character.isspace() or ord(character) < 0x20 or 0xD800 <= ord(character) <= 0xDFFF
