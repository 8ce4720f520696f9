"""Whom a ledger takes in: bounds of its operator, so that a stranger cannot fill what every validator has to read.

Rules:
- A sender that never wrote is taken while there is a place; places are not given back, because what a node wrote stays.
- What stands in the registry, all entries together, stays within what readers take at once; an entry may always become
  smaller, or go.
- Validators of the genesis are never refused.
- These are no rules of the ledger: it may refuse whatever it likes, so `fsck` and audits do not look at them.
Decision: docs/adr/0055-places-on-the-ledger.md.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection

from polarise.errors import ErrorCode, RequestRejected
from polarise.transaction import SignedTransaction, encode_value

SENDERS_MAX = 10_000
# Half of what `LedgerClient.read_below` takes of a subtree: proofs and pages come on top.
REGISTRY_BYTES_MAX = 32 * 1024 * 1024
_REGISTRY = "/registry/"


class Admission:
    """The bounds of one ledger.

    Args:
        validators: Node keys of the genesis.
        senders_max: How many others may ever write.
        registry_bytes_max: Bytes of all registry entries together.
    """

    def __init__(
        self,
        validators: Collection[str],
        *,
        senders_max: int = SENDERS_MAX,
        registry_bytes_max: int = REGISTRY_BYTES_MAX,
    ) -> None:
        self._validators = frozenset(validators)
        self._senders_max = senders_max
        self._registry_bytes_max = registry_bytes_max

    def check(self, connection: sqlite3.Connection, transaction: SignedTransaction) -> None:
        """Hold a transaction, which keeps the rules, against the bounds.

        Raises:
            RequestRejected: NO_CAPACITY (409).
        """
        self._check_sender(connection, transaction.body.sender)
        self._check_registry(connection, transaction)

    def _check_sender(self, connection: sqlite3.Connection, sender: str) -> None:
        known = "SELECT 1 FROM child WHERE parent = '/accounts' AND name = ?"
        if sender in self._validators or connection.execute(known, (sender,)).fetchone() is not None:
            return
        names = connection.execute("SELECT name FROM child WHERE parent = '/accounts'")
        if sum(name not in self._validators for (name,) in names) >= self._senders_max:
            raise _full(f"{self._senders_max} nodes have written here", "from")

    def _check_registry(self, connection: sqlite3.Connection, transaction: SignedTransaction) -> None:
        path, value = transaction.body.op.path, transaction.body.op.value
        if not path.startswith(_REGISTRY) or value is None:
            return
        rows = connection.execute(
            "SELECT path, LENGTH(value), MAX(leaf) FROM value WHERE path > ? AND path < ? GROUP BY path",
            (_REGISTRY, "/registry0"),
        )
        sizes = {name: length or 0 for name, length, _leaf in rows}
        before, size = sizes.pop(path, 0), len(encode_value(value))
        if size > before and sum(sizes.values()) + size > self._registry_bytes_max:
            raise _full(f"all registry entries together may have {self._registry_bytes_max} bytes", "op.value")


def _full(what: str, field: str) -> RequestRejected:
    return RequestRejected(
        ErrorCode.NO_CAPACITY,
        f"this ledger is full: {what}",
        hint="ask its operator, who sets ledger.max_nodes",
        field=field,
        status=409,
    )
