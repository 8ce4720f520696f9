"""A node's audit log read from its file and verified from the first line on; nothing is asked of the node or its key.

Rules:
- Every line is hashed anew, must know its own place, and counts only once a signed checkpoint covers it whose root the
  lines lead to. Each checkpoint must be signed by a key that the node certified for its logs.
- What stands on the ledger is compared with the lines: an anchor over more lines than there are, or over others, shows
  that the file was cut off or written anew, however well it is signed.
- What does not hold ends the reading with `LogDamaged` at its line.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from neurons.base.audit_sinks import FILE_NAME
from neurons.base.log_certificates import kept_certificates
from polarise.canonical import JsonValue
from polarise.checkpoint import parse_checkpoint
from polarise.errors import ConfigError, LogDamaged, RequestRejected
from polarise.frontier import Frontier
from polarise.line import decode_line
from polarise.merkle import leaf_hash
from polarise.notes import Ed25519Verifier, NoteInvalid, open_note
from polarise.signing import Certificate, Purpose, SignatureInvalid
from polarise.stream import AUDIT, origin_of

BATCH_LINES = 1024
AGENT_FOLDER = "agent"


@dataclass(frozen=True, slots=True)
class Anchored:
    """What the ledger holds of the log.

    Attributes:
        size: Lines.
        root: Root over them, 64 hex digits.
    """

    size: int
    root: str


@dataclass(frozen=True, slots=True)
class AuditLine:
    """One verified line: its number, its exact bytes, and what they say."""

    seq: int
    raw: bytes
    fields: Mapping[str, JsonValue]


class AuditLog:
    """One log that is read in steps.

    Args:
        data_dir: The node's data directory.
        node_key: The node's public key.
        anchors: What stands on the ledger, in any order.

    Raises:
        ConfigError: There is no audit log.
        LogDamaged: The list of certificates is none.
    """

    def __init__(self, data_dir: Path, node_key: str, anchors: Sequence[Anchored] = ()) -> None:
        self._folder = _folder(data_dir)
        self._origin = origin_of(node_key, AUDIT)
        self._verifiers = _verifiers(kept_certificates(self._folder), node_key, self._origin)
        self._anchors = sorted(anchors, key=lambda anchor: anchor.size)
        self._connection = sqlite3.connect(
            f"file:{self._folder / FILE_NAME}?mode=ro", uri=True, isolation_level=None, timeout=10
        )
        self._tree = Frontier()
        self._pending: list[AuditLine] = []
        self._checkpoint = -1

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    @property
    def size(self) -> int:
        """Verified lines."""
        return self._tree.size

    def step(self) -> list[AuditLine]:
        """Return the lines up to the next checkpoints, verified; none when there are no more.

        Raises:
            LogDamaged: A line or a checkpoint does not hold.
        """
        try:
            notes = self._connection.execute(
                "SELECT id, size, CAST(note AS BLOB) FROM checkpoint WHERE id > ? ORDER BY id LIMIT 64",
                (self._checkpoint,),
            ).fetchall()
            lines = [line for number, size, note in notes for line in self._cover(number, size, bytes(note))]
        except sqlite3.DatabaseError as err:
            raise LogDamaged(f"line {self._tree.size}", f"the file cannot be read: {err}") from err
        return lines

    def finish(self) -> int:
        """Check what must be there after the last line, and return how many lines behind it nobody signed yet.

        Raises:
            LogDamaged: The ledger holds more lines than the file.
        """
        if self._anchors:
            anchor = self._anchors[0]
            raise LogDamaged(
                f"line {self._tree.size}",
                f"the ledger holds the root of {anchor.size} lines, {self._tree.size} signed ones are here: the end was cut off",
            )
        ((count,),) = self._connection.execute("SELECT COUNT(*) FROM leaf WHERE id >= ?", (self._tree.size,)).fetchall()
        return int(count)

    def _cover(self, number: int, size: int, note: bytes) -> list[AuditLine]:
        place = f"checkpoint {number}"
        if number != self._checkpoint + 1:
            raise LogDamaged(f"checkpoint {self._checkpoint + 1}", "is missing")
        try:
            checkpoint = parse_checkpoint(open_note(note, self._verifiers).text)
        except NoteInvalid as err:
            raise LogDamaged(place, f"is not signed by a key that the node certified: {err}") from err
        if checkpoint.origin != self._origin or checkpoint.size != size or size < self._tree.size:
            raise LogDamaged(place, f"covers {checkpoint.size} lines of {checkpoint.origin[:80]}, stands for {size}")
        first = self._tree.size
        lines: list[AuditLine] = []
        while self._tree.size < size:
            lines += self._batch(size)
        if self._tree.root() != checkpoint.root:
            where = f"line {first}" if size - first == 1 else f"lines {first} to {size - 1}"
            raise LogDamaged(where, f"lead to the root {self._tree.root().hex()}, signed is {checkpoint.root.hex()}")
        self._checkpoint = number
        return lines

    def _batch(self, size: int) -> list[AuditLine]:
        first = self._tree.size
        rows = self._connection.execute(
            "SELECT leaf.id, CAST(line AS BLOB), CAST(hash AS BLOB) FROM leaf LEFT JOIN node ON level = 0 AND node.id = leaf.id "
            "WHERE leaf.id >= ? AND leaf.id < ? ORDER BY leaf.id",
            (first, min(size, first + BATCH_LINES)),
        ).fetchall()
        if not rows:
            raise LogDamaged(f"line {first}", f"is missing, and {size} lines are signed")
        return [self._line(int(index), bytes(raw), None if kept is None else bytes(kept)) for index, raw, kept in rows]

    def _line(self, index: int, raw: bytes, kept: bytes | None) -> AuditLine:
        seq = self._tree.size
        if index != seq:
            raise LogDamaged(f"line {seq}", "is missing")
        digest = leaf_hash(raw)
        if digest != kept:
            raise LogDamaged(f"line {seq}", "is not the line whose hash was kept when it was written")
        try:
            fields = decode_line(raw)
        except RequestRejected as err:
            raise LogDamaged(f"line {seq}", f"is no event: {err.message}") from err
        if (fields.get("seq"), fields.get("stream")) != (seq, self._origin):
            raise LogDamaged(f"line {seq}", f"says it is line {fields.get('seq')} of {str(fields.get('stream'))[:80]}")
        self._tree.add(digest)
        self._compare_anchors()
        return AuditLine(seq, raw, fields)

    def _compare_anchors(self) -> None:
        while self._anchors and self._anchors[0].size == self._tree.size:
            anchor = self._anchors.pop(0)
            if anchor.root != self._tree.root().hex():
                raise LogDamaged(
                    f"lines 0 to {anchor.size - 1}",
                    f"lead to the root {self._tree.root().hex()}, the ledger holds {anchor.root}: they were written anew",
                )


def _folder(data_dir: Path) -> Path:
    for folder in (data_dir / AGENT_FOLDER, data_dir):
        if (folder / FILE_NAME).is_file():
            return folder
    raise ConfigError(
        "there is no audit log in it",
        origin=str(data_dir),
        key_path="--data-dir",
        allowed="the data directory of a miner or a validator that has run",
    )


def _verifiers(certificates: Sequence[Certificate], node_key: str, origin: str) -> list[Ed25519Verifier]:
    found: list[Ed25519Verifier] = []
    for certificate in certificates:
        try:
            certificate.check(issuer=node_key, purpose=Purpose.LOG)
        except SignatureInvalid:
            continue  # it vouches for nothing, and a checkpoint under it finds no key
        found.append(Ed25519Verifier(origin, certificate.subject))
    return found
