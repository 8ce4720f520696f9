"""What the transactions amount to: values on paths with their history, accounts, and the state root.

Rules:
- The state is a function of genesis and leaves in order; `EmbeddedLedger` and `fsck` share this one implementation of
  it, on a file and in memory.
- A value is kept with the index of the leaf that wrote it (-1: the genesis), so that any view up to some leaf can be
  read later; the path tree holds the newest only.
- The owner's revocation of a node empties the node's registry entry in the same step, so that every reader drops the node.
- An account (next nonce, generation of the subkey) is a value too, at /accounts/<node key>, written by the ledger
  itself with every transaction of the sender.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass

from ledger import path_tree
from ledger.rules import Rules
from polarise.errors import ErrorCode, RequestRejected
from polarise.generations import generation_path, revoked_node
from polarise.genesis import Genesis
from polarise.signing import Purpose
from polarise.transaction import SignedTransaction, encode_value

GENESIS_LEAF = -1
FUTURE_MS_MAX = 60_000
OLD_KEY = (
    "a node that runs on an older copy of its keys: stop it, `python main.py key rotate` once more, start it; "
    "else somebody else signs with the old subkey"
)

SCHEMA = """
CREATE TABLE value (path TEXT, leaf INTEGER, value BLOB, read_concern INTEGER, PRIMARY KEY (path, leaf)) WITHOUT ROWID;
CREATE TABLE child (parent TEXT, name TEXT, PRIMARY KEY (parent, name)) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Stored:
    """A value with where it came from.

    Attributes:
        path: Where it stands.
        leaf: Index of the transaction that wrote it; -1 is the genesis.
        value: Canonical JSON; None says that the path was emptied.
        read_concern: Confirmations the writer asked for; None is the ledger's own number.
    """

    path: str
    leaf: int
    value: bytes | None
    read_concern: int | None


@dataclass(frozen=True, slots=True)
class Account:
    """A sender.

    Attributes:
        nonce: The next one.
        counter: Generation of the newest ledger subkey used; older ones are refused.
    """

    nonce: int = 0
    counter: int = 0


class LedgerState:
    """The state behind one connection that may write; the caller holds the transaction.

    Args:
        connection: Has the tables of `SCHEMA`.
        genesis: The ledger's beginning.
    """

    def __init__(self, connection: sqlite3.Connection, genesis: Genesis) -> None:
        self._connection = connection
        self._genesis = genesis
        self._net = genesis.net  # hashes the whole genesis
        self._rules = Rules(member.key for member in genesis.validators)
        self.tree = path_tree.EMPTY
        self.size = 0  # leaves the tree has seen

    @property
    def root(self) -> str:
        """State root, 64 hex digits."""
        return self.tree.hash.hex()

    def begin(self) -> None:
        """Write what the genesis says."""
        self._put(Stored("/genesis", GENESIS_LEAF, encode_value({"hash": self._genesis.hash}), 0))
        for member in self._genesis.validators:
            value = encode_value({"stake": member.stake})
            self._put(Stored(f"/stakes/{member.key}", GENESIS_LEAF, value, 0))

    def reload(self, size: int) -> None:
        """Build the path tree from the values that ``size`` stored leaves left, after a start or a failed commit."""
        self.tree, self.size = path_tree.EMPTY, size
        rows = self._connection.execute("SELECT path, value, MAX(leaf) FROM value GROUP BY path")
        for path, value, _leaf in rows:
            self.tree = path_tree.set_value(self.tree, path, None if value is None else bytes(value))

    def check(self, transaction: SignedTransaction, now_unix_ms: int) -> Account:
        """Hold a transaction, whose signature was verified, against net, time, account and rules.

        Raises:
            RequestRejected: WRONG_NET, CLOCK_SKEW, NONCE_REUSED, NONCE_GAP, KEY_REFUSED, RULE_REFUSED or CONFLICT.
        """
        body = transaction.body
        if body.net != self._net:
            raise _rejected(ErrorCode.WRONG_NET, f"signed for {body.net}, this is {self._net}", "net", 409)
        if body.time_unix_ms > now_unix_ms + FUTURE_MS_MAX:
            ahead = (body.time_unix_ms - now_unix_ms) // 1000
            raise _rejected(ErrorCode.CLOCK_SKEW, f"your clock is {ahead} s ahead of the ledger's", "time_unix_ms", 409)
        account = self.account(body.sender)
        if body.nonce < account.nonce:
            message = f"nonce {body.nonce} was used by another transaction; the next one is {account.nonce}"
            raise _rejected(ErrorCode.NONCE_REUSED, message, "nonce", 409)
        if body.nonce > account.nonce:
            message = f"nonce {body.nonce} is out of order; the next one is {account.nonce}"
            raise _rejected(ErrorCode.NONCE_GAP, message, "nonce", 409)
        least = max(account.counter, self.generation(body.sender, Purpose.LEDGER))
        if body.certificate.counter < least:
            message = f"the subkey of generation {body.certificate.counter} was replaced by {least}"
            raise _rejected(ErrorCode.KEY_REFUSED, message, "certificate.counter", 403, hint=OLD_KEY)
        self._rules.check(self, body.sender, body.op.path, body.op.value)
        return account

    def apply(self, transaction: SignedTransaction, leaf: int, account: Account) -> None:
        """Write what a checked transaction does."""
        body = transaction.body
        encoded = None if body.op.value is None else encode_value(body.op.value)
        self._put(Stored(body.op.path, leaf, encoded, body.op.read_concern))
        if (node := revoked_node(body.op.path)) is not None:
            self._put(Stored(f"/registry/{node}", leaf, None, body.op.read_concern))
        after = {"counter": max(account.counter, body.certificate.counter), "nonce": body.nonce + 1}
        self._put(Stored(f"/accounts/{body.sender}", leaf, encode_value(after), 0))
        self.size = leaf + 1

    def account(self, sender: str) -> Account:
        """Return a sender's account; one that never wrote starts at nonce 0."""
        found = self.get(f"/accounts/{sender}")
        return Account(**json.loads(found.value)) if found and found.value else Account()

    def get(self, path: str) -> Stored | None:
        """Return the newest value on a path, None when there is none or it was removed."""
        found = newest(self._connection, path)
        return None if found is None or found.value is None else found

    def children(self, path: str) -> list[str]:
        """Return the names below a path in order, also of those that were removed."""
        rows = self._connection.execute("SELECT name FROM child WHERE parent = ? ORDER BY name", (path,))
        return [str(name) for (name,) in rows]

    def exists(self, path: str) -> bool:
        """See `ledger.rules.StateReader`."""
        return self.get(path) is not None

    def greatest_child(self, path: str) -> str | None:
        """See `ledger.rules.StateReader`; what was removed counts, too."""
        row = self._connection.execute("SELECT MAX(name) FROM child WHERE parent = ?", (path,)).fetchone()
        return None if row[0] is None else str(row[0])

    def generation(self, node: str, purpose: Purpose) -> int:
        """See `ledger.rules.StateReader`."""
        found = self.get(generation_path(node, purpose))
        return int(json.loads(found.value)["counter"]) if found and found.value else 0

    def owner(self, node: str) -> str | None:
        """See `ledger.rules.StateReader`; an entry of another shape names nobody."""
        row = self._connection.execute(
            "SELECT value FROM value WHERE path = ? AND value IS NOT NULL ORDER BY leaf LIMIT 1", (f"/registry/{node}",)
        ).fetchone()
        entry = json.loads(row[0]) if row else None
        body = entry.get("body") if isinstance(entry, dict) else None
        owner = body.get("owner_key") if isinstance(body, dict) else None
        return owner if isinstance(owner, str) else None

    def _put(self, stored: Stored) -> None:
        self._connection.execute(
            "INSERT INTO value VALUES (?, ?, ?, ?)", (stored.path, stored.leaf, stored.value, stored.read_concern)
        )
        self.tree = path_tree.set_value(self.tree, stored.path, stored.value)
        self._connection.executemany("INSERT OR IGNORE INTO child VALUES (?, ?)", _steps(stored.path))


def newest(connection: sqlite3.Connection, path: str) -> Stored | None:
    """Return the newest value ever written on a path."""
    row = connection.execute(
        "SELECT leaf, value, read_concern FROM value WHERE path = ? ORDER BY leaf DESC LIMIT 1", (path,)
    ).fetchone()
    return None if row is None else Stored(path, row[0], None if row[1] is None else bytes(row[1]), row[2])


def _steps(path: str) -> list[tuple[str, str]]:
    """Return (parent, name) for each segment of a path; the root is the empty text."""
    segments = path.split("/")
    return [("/".join(segments[:depth]), segments[depth]) for depth in range(1, len(segments))]


def _rejected(
    code: ErrorCode, message: str, field: str, status: int, *, hint: str = "read the account and sign anew"
) -> RequestRejected:
    return RequestRejected(code, message, hint=hint, field=field, status=status)


def bad_signature(message: str) -> RequestRejected:
    """Return the refusal of a transaction that its sender did not sign."""
    return RequestRejected(
        ErrorCode.BAD_SIGNATURE,
        message,
        hint="sign with the ledger subkey the certificate in the transaction names",
        field="signature",
        status=403,
    )
