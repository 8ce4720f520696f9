"""A witness (c2sp.org/tlog-witness): cosigns a log's checkpoint only when it goes on from the last one seen.

Rules:
- Per origin the newest checkpoint is kept, on disk before the cosignature leaves; comparing and replacing are one step.
  Of its signatures only the log's are kept.
- Unknown origin 404, not signed by the log 403, malformed 400, another old size 409 (with ours), a history that does
  not go on from ours 422: then both notes are kept as evidence, since together they show what the log did.
- The answer is a cosignature line over exactly the note that was sent. The same note sent again within a minute gets the
  same line, so that nobody can make the witness sign and flush at will.
- Which logs are followed is kept as well; a log that changed its key goes on from what its old key signed.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from polarise.checkpoint import (
    CosignatureVerifier,
    SignedCheckpoint,
    cosign,
    open_checkpoint,
    parse_checkpoint,
    parse_size,
)
from polarise.errors import ErrorCode, LogFork, RequestRejected
from polarise.merkle import EMPTY_ROOT, InvalidProof, verify_consistency
from polarise.notes import (
    MAX_NOTE_BYTES,
    Ed25519Verifier,
    NoteInvalid,
    decode_base64,
    encode_base64,
    parse_note,
    verify_note,
)
from polarise.signing import SigningKey
from tlog.sqlite_file import connect, is_new

MAX_HASHES = 63
MAX_REQUEST_BYTES = MAX_NOTE_BYTES + 4096
EVIDENCE_PER_ORIGIN_MAX = 16
FRESH_SECONDS = 60
VERSION = 1

# (newest note cosigned, new note of the same log): raises LogFork or RequestRejected when the second must not follow.
OrderCheck = Callable[[bytes, bytes], None]

_SCHEMA = """
CREATE TABLE log (origin TEXT PRIMARY KEY, public_key TEXT NOT NULL);
CREATE TABLE seen (origin TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, size INTEGER NOT NULL, note BLOB NOT NULL,
                   cosignature TEXT NOT NULL, time_unix_s INTEGER NOT NULL);
CREATE TABLE evidence (id INTEGER PRIMARY KEY, origin TEXT NOT NULL, first BLOB NOT NULL, second BLOB NOT NULL,
                       is_proof INTEGER NOT NULL);
"""


class StaleCheckpoint(RequestRejected):
    """The request starts from another size than the witness knows (409); ``known_size`` is what to start from."""

    def __init__(self, known_size: int) -> None:
        self.known_size = known_size
        super().__init__(
            ErrorCode.STALE_CHECKPOINT,
            f"the last checkpoint seen has size {known_size}",
            hint="send a consistency proof from that size",
            field="old",
            status=409,
        )


@dataclass(frozen=True, slots=True)
class Seen:
    """The newest checkpoint of one log that was cosigned.

    Attributes:
        origin: The log.
        name: SHA-256 of the origin, 64 hex digits: the log's name where an origin cannot stand.
        size: Tree size.
        note: The checkpoint as the log signed it.
        cosignature: Our signature line.
        time_unix_s: When we signed.
    """

    origin: str
    name: str
    size: int
    note: bytes
    cosignature: str
    time_unix_s: int

    @property
    def cosigned(self) -> bytes:
        """The note with our signature line."""
        return self.note + self.cosignature.encode()


@dataclass(frozen=True, slots=True)
class AddCheckpoint:
    """A decoded request.

    Attributes:
        old_size: Size the proof starts from.
        proof: Consistency proof.
        note: The signed checkpoint, verbatim.
    """

    old_size: int
    proof: tuple[bytes, ...]
    note: bytes

    def encode(self) -> bytes:
        """Return the request's body."""
        lines = (f"old {self.old_size}", *(encode_base64(value) for value in self.proof))
        return "".join(f"{line}\n" for line in lines).encode() + b"\n" + self.note


class Witness:
    """Follows some logs and cosigns their checkpoints.

    Args:
        path: File of what was seen.
        name: Key name of this witness.
        key: Its key, of purpose witness; signs nothing else.
        logs: The logs to follow, besides those that were followed before; the name of each key is the log's origin.
        orders: By origin, what a log's checkpoints must show besides growing.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        key: SigningKey,
        logs: Sequence[Ed25519Verifier],
        orders: Mapping[str, OrderCheck] | None = None,
    ) -> None:
        self._name = name
        self._key = key
        self._orders = orders or {}
        self._lock = threading.Lock()
        self._connection = connect(path)
        if is_new(self._connection, path, VERSION):
            self._connection.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")
        rows = self._connection.execute("SELECT origin, public_key FROM log").fetchall()
        self._logs = {str(origin): Ed25519Verifier(str(origin), str(public_key)) for origin, public_key in rows}
        for log in logs:
            self.follow(log)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; later use is a defect."""
        with self._lock:
            self._connection.close()

    @property
    def verifier(self) -> CosignatureVerifier:
        """The key others check cosignatures with."""
        return CosignatureVerifier(self._name, self._key.public_key)

    def follow(self, log: Ed25519Verifier) -> None:
        """Add a log, or replace its key; survives a restart."""
        with self._lock:
            if self._logs.get(log.name) == log:
                return
            self._connection.execute("INSERT OR REPLACE INTO log VALUES (?, ?)", (log.name, log.public_key))
            self._logs[log.name] = log

    def add_checkpoint(self, body: bytes, now_unix_s: int) -> bytes:
        """Answer ``POST /add-checkpoint``: return the cosignature line.

        Raises:
            StaleCheckpoint: 409, start from the size it carries.
            LogFork: 422, the log shows another history; both notes were kept.
            RequestRejected: 400, 403 or 404.
        """
        request = parse_request(body)
        with self._lock:
            signed = self._open(request.note)
            checkpoint = signed.checkpoint
            if request.old_size > checkpoint.size:
                raise _malformed(f"old size {request.old_size} of a checkpoint of {checkpoint.size}")
            seen = self._seen("origin = ?", checkpoint.origin)
            self._check_history(request, signed, seen)
            if seen is not None and seen.note == signed.raw and 0 <= now_unix_s - seen.time_unix_s < FRESH_SECONDS:
                return seen.cosignature.encode()
            signature = cosign(signed.note.text, self._name, self._key, now_unix_s)
            self._connection.execute(
                "INSERT OR REPLACE INTO seen VALUES (?, ?, ?, ?, ?, ?)",
                (
                    checkpoint.origin,
                    log_name(checkpoint.origin),
                    checkpoint.size,
                    signed.raw,
                    signature.line(),
                    now_unix_s,
                ),
            )
        return signature.line().encode()

    def latest(self, origin: str) -> bytes | None:
        """Return the newest checkpoint of a log with our cosignature, None when none was seen."""
        seen = self.seen(log_name(origin))
        return None if seen is None else seen.cosigned

    def seen(self, name: str) -> Seen | None:
        """Return what was cosigned last of the log of that name, see `log_name`."""
        with self._lock:
            return self._seen("name = ?", name)

    def page(self, after: str, limit: int) -> list[Seen]:
        """Return what was cosigned last of each log, by name, those greater than ``after``."""
        with self._lock:
            rows = self._connection.execute(
                "SELECT * FROM seen WHERE name > ? ORDER BY name LIMIT ?", (after, limit)
            ).fetchall()
        return [Seen(*row) for row in rows]

    def evidence(self, origin: str) -> list[tuple[bytes, bytes]]:
        """Return pairs of notes that do not fit together, oldest first."""
        with self._lock:
            rows = self._connection.execute(
                "SELECT first, second FROM evidence WHERE origin = ? ORDER BY id", (origin,)
            ).fetchall()
        return [(bytes(first), bytes(second)) for first, second in rows]

    def keep_fork(self, origin: str, first: bytes, second: bytes) -> None:
        """Keep two notes that do not fit together, which somebody else found."""
        with self._lock:
            self._keep_evidence(origin, first, second, is_proof=False)

    def _seen(self, where: str, value: str) -> Seen | None:
        row = self._connection.execute(f"SELECT * FROM seen WHERE {where}", (value,)).fetchone()  # noqa: S608  ours
        return None if row is None else Seen(*row)

    def _open(self, note: bytes) -> SignedCheckpoint:
        origin = note.partition(b"\n")[0].decode("utf-8", "replace")
        log = self._logs.get(origin)
        if log is None:
            raise RequestRejected(
                ErrorCode.NOT_FOUND,
                f"the log {origin[:80]!r} is not followed here",
                hint="ask its operator",
                status=404,
            )
        try:
            signed = open_checkpoint(note, log)
            return replace(signed, note=replace(signed.note, signatures=verify_note(signed.note, [log])))
        except NoteInvalid as err:
            raise RequestRejected(
                ErrorCode.BAD_SIGNATURE, str(err), hint="send the note the log signed", field="checkpoint", status=403
            ) from err

    def _check_history(self, request: AddCheckpoint, signed: SignedCheckpoint, seen: Seen | None) -> None:
        """Compare with the newest checkpoint we cosigned; runs under the lock that also replaces it."""
        checkpoint = signed.checkpoint
        known_size, known_note = (0, None) if seen is None else (seen.size, seen.note)
        if request.old_size != known_size:
            raise StaleCheckpoint(known_size)
        # Its signature was verified when it came; the log may have another key by now.
        known_root = EMPTY_ROOT if known_note is None else parse_checkpoint(parse_note(known_note).text).root
        try:
            verify_consistency(known_size, known_root, checkpoint.size, checkpoint.root, request.proof)
            if known_note is not None and (check := self._orders.get(checkpoint.origin)):
                check(known_note, signed.raw)
        except LogFork as err:
            self._keep_evidence(checkpoint.origin, err.first, err.second, is_proof=True)
            raise
        except InvalidProof as err:
            if known_note is None:
                raise _inconsistent(str(err)) from err
            # Two roots of one size prove a fork by themselves; a proof that fails only says that none was shown.
            self._keep_evidence(checkpoint.origin, known_note, signed.raw, is_proof=known_size == checkpoint.size)
            raise LogFork(
                f"{checkpoint.origin} does not go on from size {known_size}: {err}", first=known_note, second=signed.raw
            ) from err

    def _keep_evidence(self, origin: str, first: bytes, second: bytes, *, is_proof: bool) -> None:
        """Keep both notes; failed proofs, which anybody can send, have a share of their own."""
        ((count,),) = self._connection.execute(
            "SELECT COUNT(*) FROM evidence WHERE origin = ? AND is_proof = ?", (origin, is_proof)
        ).fetchall()
        if count < EVIDENCE_PER_ORIGIN_MAX:
            self._connection.execute(
                "INSERT INTO evidence (origin, first, second, is_proof) VALUES (?, ?, ?, ?)",
                (origin, first, second, is_proof),
            )


def log_name(origin: str) -> str:
    """Return the name a log has in our files and routes: SHA-256 of its origin, 64 hex digits."""
    return hashlib.sha256(origin.encode()).hexdigest()


def parse_request(body: bytes) -> AddCheckpoint:
    """Read the body of ``POST /add-checkpoint``; nothing is verified.

    Raises:
        RequestRejected: 400, not of the format, or 413.
    """
    if len(body) > MAX_REQUEST_BYTES:
        raise RequestRejected(
            ErrorCode.BODY_TOO_LARGE,
            f"the body has {len(body)} bytes, at most {MAX_REQUEST_BYTES} are read",
            hint="send one checkpoint",
            status=413,
        )
    head, separator, note = body.partition(b"\n\n")
    try:
        first, *lines = head.decode("ascii").split("\n")
        if not separator or not first.startswith("old "):
            raise NoteInvalid("the first line is `old <size>`, and an empty line stands before the checkpoint")
        if len(lines) > MAX_HASHES:
            raise NoteInvalid(f"at most {MAX_HASHES} proof lines, got {len(lines)}")
        old_size = parse_size(first.removeprefix("old "))
        proof = tuple(decode_base64(line, "proof line") for line in lines)
    except (NoteInvalid, UnicodeDecodeError) as err:
        raise _malformed(str(err)) from err
    return AddCheckpoint(old_size, proof, note)


def _malformed(message: str) -> RequestRejected:
    return RequestRejected(ErrorCode.INVALID_FIELD, message, hint="c2sp.org/tlog-witness has the format")


def _inconsistent(message: str) -> RequestRejected:
    return RequestRejected(
        ErrorCode.FORKED_CHECKPOINT,
        message,
        hint="a proof from size 0 is empty, and the empty tree has one root",
        status=422,
    )
