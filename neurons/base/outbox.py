"""What this node wants on the ledger: kept on disk until it is final there, whatever is down in between.

Rules:
- `put` is idempotent by key: the same key again changes nothing. Entries go out in the order they were put.
- An entry is signed when its turn comes and its bytes are on disk before they leave, so a crash sends the same
  transaction again, which the ledger answers as the first time.
- What was signed before a rotation of the ledger subkey, and is refused for it, is signed anew.
- Refused is an answer: the entry ends with its reason, its nonce is the next one's. A nonce that somebody else used with
  the same key is no refusal of the entry: it is signed anew.
- An accepted entry is watched until an inclusion proof of it verifies; one the ledger has forgotten goes out again.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from neurons.base.database import Database
from polarise.canonical import digest_hex
from polarise.errors import ErrorCode, RequestRejected, Unavailable
from polarise.ledger_client import LedgerClient, WaitState
from polarise.signing import Identity, Purpose
from polarise.transaction import SetValue, SignedTransaction, decode_transaction, sign_transaction
from utils.clock import Clock

logger = logging.getLogger(__name__)

OUTBOX_FILE = "outbox.sqlite"
IDLE_SECONDS = 1.0
RETRY_SECONDS_MAX = 5
ENTRIES_MAX = 100_000
# The ledger may take the entry once it is signed anew.
_SIGN_ANEW = {ErrorCode.NONCE_REUSED, ErrorCode.NONCE_GAP, ErrorCode.CLOCK_SKEW}

_SCHEMA = """
CREATE TABLE entry (id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, op TEXT NOT NULL,
                    state TEXT NOT NULL, raw BLOB, hash TEXT, height INTEGER, reason TEXT);
CREATE INDEX entry_open ON entry (state, id)
"""


class EntryState(StrEnum):
    """Where an entry stands."""

    QUEUED = "queued"
    ACCEPTED = "accepted"
    FINAL = "final"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class OutboxEntry:
    """One entry.

    Attributes:
        key: The caller's name for it.
        state: Where it stands.
        hash: Name of its transaction, once signed.
        height: First block that covers it, once final.
        reason: Why it was refused.
    """

    key: str
    state: EntryState
    hash: str | None
    height: int | None
    reason: str | None


class Outbox(Database):
    """A node's outbox; also the service that empties it.

    Args:
        path: Its file.
        identity: Who signs.
        client: The ledger.
        clock: Wall clock, for the stamps.
    """

    name = "outbox"

    def __init__(self, path: Path, identity: Identity, client: LedgerClient, clock: Clock) -> None:
        super().__init__(path, _SCHEMA, version=1)
        self._identity = identity
        self._subkey = identity.subkey(Purpose.LEDGER)
        self._client = client
        self._clock = clock
        self._changed = threading.Condition()

    def put(self, op: SetValue, *, key: str | None = None) -> str:
        """Queue an operation, durably, and return its key.

        Args:
            op: What to write.
            key: Name that makes it unique; the hash of the operation when it is left out.

        Raises:
            RequestRejected: No ledger could take it: a float, or too large.
            Unavailable: The outbox is full.
        """
        self._sign(op, nonce=2**53 - 1)
        name = key or digest_hex(op.to_wire())
        with self.transaction() as connection:
            ((waiting,),) = connection.execute("SELECT COUNT(*) FROM entry WHERE state = 'queued'").fetchall()
            if waiting >= ENTRIES_MAX:
                raise Unavailable(f"{waiting} entries wait for the ledger already", retry_after_seconds=60)
            connection.execute(
                "INSERT OR IGNORE INTO entry (key, op, state) VALUES (?, ?, 'queued')", (name, json.dumps(op.to_wire()))
            )
        self._notify()
        return name

    def entry(self, key: str) -> OutboxEntry | None:
        """Return an entry, None when there is none of that key."""
        rows = self.query("SELECT * FROM entry WHERE key = ?", (key,))
        return _entry(rows[0]) if rows else None

    def wait(self, key: str, timeout_seconds: float) -> OutboxEntry | None:
        """Wait until an entry is final or refused; returns it as it stands when the time is over."""

        def is_done() -> bool:
            found = self.entry(key)
            return found is not None and found.state in {EntryState.FINAL, EntryState.REFUSED}

        with self._changed:
            self._changed.wait_for(is_done, timeout_seconds)
        return self.entry(key)

    def prepare(self) -> None:
        """See `neurons.base.service.Service`."""

    def run(self, stop: threading.Event) -> None:
        """See `neurons.base.service.Service`."""
        self._see_ledger()
        while not stop.is_set():
            try:
                if not self.step():
                    with self._changed:
                        self._changed.wait(IDLE_SECONDS)
            except Unavailable as err:
                logger.warning("ledger unavailable", extra={"cause": err.message})
                stop.wait(min(err.retry_after_seconds, RETRY_SECONDS_MAX))

    def _see_ledger(self) -> None:
        """Say at the start what else is said only when there is something to send, a minute later or an hour."""
        try:
            self._client.checkpoint()
        except Unavailable as err:
            logger.warning(
                "ledger unavailable",
                extra={"cause": err.message, "hint": "look at ledger.endpoint; what is meant for it waits on disk"},
            )

    def step(self) -> bool:
        """Send the oldest queued entry, or look after the accepted ones; returns whether anything moved.

        Raises:
            Unavailable: The ledger is away; nothing is lost.
            LogFork: The ledger contradicts itself.
        """
        rows = self.query("SELECT * FROM entry WHERE state = 'queued' ORDER BY id LIMIT 1")
        if rows:
            return self._send(rows[0])
        accepted = self.query("SELECT * FROM entry WHERE state = 'accepted' ORDER BY id LIMIT 64")
        return any([self._watch(row) for row in accepted])

    def _send(self, row: sqlite3.Row) -> bool:
        raw = bytes(row["raw"]) if row["raw"] is not None else self._signed(row)
        transaction = decode_transaction(raw)
        try:
            self._client.submit(transaction)
        except RequestRejected as err:
            if err.code not in _SIGN_ANEW and not self._is_outdated(err, transaction):
                self._update(row["id"], state=EntryState.REFUSED, reason=f"{err.code}: {err.message}")
                logger.warning(
                    "ledger refused",
                    extra={"entry": row["key"], "code": str(err.code), "cause": err.message, "hint": err.hint},
                )
                return True
            self._update(row["id"], raw=None, hash=None)
            logger.info("signing anew", extra={"entry": row["key"], "code": str(err.code), "cause": err.message})
            return err.code is not ErrorCode.CLOCK_SKEW
        self._update(row["id"], state=EntryState.ACCEPTED)
        return True

    def _is_outdated(self, err: RequestRejected, transaction: SignedTransaction) -> bool:
        """Whether only the subkey was refused that a rotation has replaced since the entry was signed."""
        counter = transaction.body.certificate.counter
        return err.code is ErrorCode.KEY_REFUSED and counter < self._subkey.certificate.counter

    def _signed(self, row: sqlite3.Row) -> bytes:
        transaction = self._sign(
            SetValue.model_validate_json(row["op"]), nonce=self._client.next_nonce(self._identity.public_key)
        )
        self._update(row["id"], raw=transaction.raw, hash=transaction.hash)
        return transaction.raw

    def _sign(self, op: SetValue, *, nonce: int) -> SignedTransaction:
        return sign_transaction(
            self._identity,
            op,
            net=self._client.genesis.net,
            nonce=nonce,
            time_unix_ms=self._clock.wall_unix_ms(),
            subkey=self._subkey,
        )

    def _watch(self, row: sqlite3.Row) -> bool:
        waited = self._client.wait(row["hash"], 0)
        if waited.state is WaitState.FINAL:
            self._update(row["id"], state=EntryState.FINAL, height=waited.height, raw=None)
            return True
        if waited.state is WaitState.LOST:
            logger.warning("ledger forgot a transaction it took", extra={"entry": row["key"], "hash": row["hash"]})
            self._update(row["id"], state=EntryState.QUEUED)
            return True
        return False

    def _update(self, identifier: int, **columns: object) -> None:
        assignments = ", ".join(f"{name} = ?" for name in columns)
        with self.transaction() as connection:
            connection.execute(
                f"UPDATE entry SET {assignments} WHERE id = ?",  # noqa: S608  names of our own columns
                (*columns.values(), identifier),
            )
        self._notify()

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()


def _entry(row: sqlite3.Row) -> OutboxEntry:
    return OutboxEntry(row["key"], EntryState(row["state"]), row["hash"], row["height"], row["reason"])
