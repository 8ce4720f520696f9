"""One stream: a log whose messages are known by their id, and the moment its next checkpoint is due.

Rules:
- A message is acknowledged when its line is on disk; one that is there already is acknowledged again, never added.
- Status, alerts and commands are signed in the transaction that adds them; everything else within 256 lines,
  256 KiB or 250 ms, samples within 5 s.
- Readers see only what a signed checkpoint covers.
- ``tstamp`` never goes back within a stream, whatever the wall clock does.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from polarise.canonical import JsonValue
from polarise.checkpoint import SignedCheckpoint, parse_checkpoint
from polarise.errors import RequestRejected
from polarise.ingress import place
from polarise.log_proof import LogProof
from polarise.notes import parse_note
from polarise.payloads import is_urgent
from polarise.signing import SigningKey
from tlog.store import LogStore
from tlog.writer import Writer

BATCH_LINES_MAX = 256
BATCH_BYTES_MAX = 256 * 1024
FLUSH_NS = 250_000_000
SAMPLE_FLUSH_NS = 5_000_000_000
SCHEMA = "CREATE TABLE message (message_id TEXT PRIMARY KEY, leaf INTEGER NOT NULL) WITHOUT ROWID;"


@dataclass(frozen=True, slots=True)
class Page:
    """Lines with the checkpoint that covers precisely them and everything before.

    Attributes:
        first: Sequence number of the first line.
        lines: At most a few hundred; empty when nothing new is signed.
        note: The signed note; None when there are no lines.
    """

    first: int
    lines: tuple[bytes, ...]
    note: bytes | None


class EventLog:
    """The log of one stream.

    Args:
        path: Its file.
        origin: Its name.
        key: The node's log key.
    """

    def __init__(self, path: Path, origin: str, key: SigningKey) -> None:
        self.origin = origin
        self._store = LogStore(path, origin, schema=SCHEMA)
        self._key = key
        self._grown = threading.Condition()
        latest = self._store.latest_checkpoint()
        self.signed_size = parse_checkpoint(parse_note(latest).text).size if latest else 0
        self._unsigned_bytes = 0
        # Lines a crash left unsigned are due at once.
        self._due_ns: int | None = 0 if self._store.size > self.signed_size else None
        self._last_tstamp = self._newest_tstamp()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._store.close()

    @property
    def size(self) -> int:
        """Durable lines, signed or not."""
        return self._store.size

    @property
    def size_bytes(self) -> int:
        """What the log's file takes on disk."""
        return self._store.path.stat().st_size

    def append(self, messages: Sequence[Mapping[str, JsonValue]], now_ns: int) -> list[int | RequestRejected]:
        """Add dispatched messages in one durable step.

        Args:
            messages: As `polarise.ingress.dispatch` returns them.
            now_ns: Monotonic clock.

        Returns:
            For each its sequence number (also of one that was there already), or why its line is refused.
        """
        with self._store.transaction() as writer:
            signed: SignedCheckpoint | None = None
            results: list[int | RequestRejected] = []
            for message in messages:
                try:
                    results.append(self._append_one(writer, message))
                except RequestRejected as err:
                    results.append(err)
                    continue
                if self._is_batch_full(writer.size, signed):
                    signed = self._sign(writer)
            if any(is_urgent(str(message["kind"])) for message in messages) and writer.size > self._signed_in(signed):
                signed = self._sign(writer)
            size = writer.size
        self._after_commit(signed, size, messages, now_ns)
        return results

    def sign_if_due(self, now_ns: int) -> bool:
        """Sign a checkpoint when its time has come; says whether it did."""
        if self._due_ns is None or now_ns < self._due_ns:
            return False
        self.sign()
        return True

    def sign(self) -> bytes:
        """Sign everything there is and return the note."""
        with self._store.transaction() as writer:
            # Another thread may have signed the same size meanwhile: one note per size is enough.
            if writer.size == self.signed_size and (latest := self._store.latest_checkpoint()):
                self._due_ns = None
                return latest
            signed = self._sign(writer)
        self._after_commit(signed, signed.checkpoint.size, (), 0)
        return signed.raw

    def read(self, first: int, wait_seconds: float = 0.0) -> Page:
        """Return the next signed lines from ``first`` on, waiting for some if there are none.

        Raises:
            IndexError: The stream has never had so many lines.
        """
        if not 0 <= first <= self.size:
            raise IndexError(f"line {first} of a stream of {self.size} lines")
        with self._grown:
            self._grown.wait_for(lambda: self.signed_size > first, wait_seconds)
        if self.signed_size <= first:
            return Page(first, (), None)
        size, note = self._covering(first)
        return Page(first, tuple(self._store.read(first, size)), note)

    def frontier(self, size: int) -> tuple[bytes, ...]:
        """Return the complete subtrees of the first ``size`` lines, largest first; the log must be larger."""
        return tuple(reversed(self._store.inclusion(size, size + 1)))

    def note_at(self, size: int) -> bytes | None:
        """Return the checkpoint that was signed at exactly this size."""
        rows = self._store.query("SELECT note FROM checkpoint WHERE size = ? ORDER BY id DESC LIMIT 1", (size,))
        return bytes(rows[0][0]) if rows else None

    def latest(self) -> bytes | None:
        """Return the newest checkpoint."""
        return self._store.latest_checkpoint()

    def consistency(self, old_size: int, size: int) -> tuple[bytes, ...]:
        """Return the proof from the tree of the first ``old_size`` lines to that of the first ``size``.

        Raises:
            IndexError: The log was never so large.
        """
        return tuple(self._store.consistency(old_size, size))

    def proof(self, seq: int, note: bytes | None = None) -> LogProof:
        """Return one line with everything that proves it under a checkpoint of this log, the newest when it is left out.

        Raises:
            IndexError: The checkpoint does not cover it.
        """
        note = note or self.latest()
        size = parse_checkpoint(parse_note(note).text).size if note else 0
        if note is None or not 0 <= seq < size:
            raise IndexError(f"line {seq} of a stream of {size} signed lines")
        return LogProof(seq, tuple(self._store.inclusion(seq, size)), note, self._store.read(seq, seq + 1)[0])

    def _append_one(self, writer: Writer, message: Mapping[str, JsonValue]) -> int:
        found = writer.connection.execute(
            "SELECT leaf FROM message WHERE message_id = ?", (message["message_id"],)
        ).fetchone()
        if found is not None:
            return int(found[0])
        tstamp = max(self._last_tstamp, int(str(message["tstamp"])))
        line = place({**message, "tstamp": tstamp}, self.origin, writer.size)
        index = writer.append(line)
        writer.connection.execute("INSERT INTO message VALUES (?, ?)", (message["message_id"], index))
        self._last_tstamp = tstamp
        self._unsigned_bytes += len(line)
        return index

    def _is_batch_full(self, size: int, signed: SignedCheckpoint | None) -> bool:
        return size - self._signed_in(signed) >= BATCH_LINES_MAX or self._unsigned_bytes >= BATCH_BYTES_MAX

    def _signed_in(self, signed: SignedCheckpoint | None) -> int:
        return signed.checkpoint.size if signed else self.signed_size

    def _sign(self, writer: Writer) -> SignedCheckpoint:
        self._unsigned_bytes = 0
        return writer.sign_checkpoint(self._key)

    def _after_commit(
        self, signed: SignedCheckpoint | None, size: int, messages: Sequence[Mapping[str, JsonValue]], now_ns: int
    ) -> None:
        with self._grown:
            if signed is not None and signed.checkpoint.size > self.signed_size:
                self.signed_size = signed.checkpoint.size
                self._grown.notify_all()
            if size <= self.signed_size:
                self._due_ns = None
                return
            is_sample = all(str(message["kind"]).startswith("telemetry.") for message in messages)
            due_ns = now_ns + (SAMPLE_FLUSH_NS if is_sample else FLUSH_NS)
            self._due_ns = due_ns if self._due_ns is None else min(self._due_ns, due_ns)

    def _covering(self, first: int) -> tuple[int, bytes]:
        """Return the largest checkpoint within a batch of ``first``, or else the next one there is."""
        within = self._store.query(
            "SELECT size, note FROM checkpoint WHERE size > ? AND size <= ? ORDER BY size DESC, id LIMIT 1",
            (first, first + BATCH_LINES_MAX),
        )
        rows = within or self._store.query(
            "SELECT size, note FROM checkpoint WHERE size > ? ORDER BY size, id LIMIT 1", (first,)
        )
        return int(rows[0][0]), bytes(rows[0][1])

    def _newest_tstamp(self) -> int:
        lines = self._store.read(self._store.size - 1, self._store.size) if self._store.size else []
        return int(json.loads(lines[0])["tstamp"]) if lines else 0
