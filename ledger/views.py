"""Reading the ledger: a value as pending, block or final shows it, and how far a leaf has come.

Rules:
- A leaf has as many confirmations as blocks cover it; pending asks for 0, block for 1, final for the genesis' number.
- Without a concern the writer's own counts: a value stays hidden until it has the confirmations its writer named.
- The genesis is always visible.
- What a block's state holds goes by leaves alone: the newest value among the first ``size`` ones, whatever its writer
  asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ledger.state import Stored
from tlog.store import LogStore

LIST_MAX = 100

# The size below which leaves have n confirmations: that of the block n - 1 before the newest one.
_VISIBLE = """
SELECT path, leaf, value, read_concern FROM value WHERE path = ?1 AND (
    leaf < 0 OR ifnull(?2, ifnull(read_concern, ?3)) = 0
    OR leaf < (SELECT size FROM checkpoint WHERE id = ?4 - ifnull(?2, ifnull(read_concern, ?3)) + 1)
) ORDER BY leaf DESC LIMIT 1
"""

# The newest value of each path in a range, path after path by one seek each, however often it was written.
_BELOW = """
WITH RECURSIVE place(path) AS (
    SELECT MIN(path) FROM value WHERE path > ?1 AND path < ?2
    UNION ALL
    SELECT (SELECT MIN(path) FROM value WHERE path > place.path AND path < ?2) FROM place WHERE path IS NOT NULL
    LIMIT ?4
) SELECT path, (
    SELECT value FROM value WHERE path = place.path AND leaf < ?3 ORDER BY leaf DESC LIMIT 1
) FROM place WHERE path IS NOT NULL
"""


class Concern(StrEnum):
    """How settled a value must be for its reader."""

    PENDING = "pending"
    BLOCK = "block"
    FINAL = "final"


@dataclass(frozen=True, slots=True)
class Depth:
    """How far a leaf has come.

    Attributes:
        height: First block that covers it; None while it is pending.
        confirmations: Blocks that cover it.
    """

    height: int | None
    confirmations: int


class LedgerViews:
    """Reads what is committed; takes no lock that a writer holds.

    Args:
        store: The ledger's log.
        final_confirmations: From the genesis.
    """

    def __init__(self, store: LogStore, final_confirmations: int) -> None:
        self._store = store
        self._final = final_confirmations

    def get(self, path: str, concern: Concern | None = None) -> Stored | None:
        """Return the value on a path, None when there is none or it was removed."""
        wanted = {None: None, Concern.PENDING: 0, Concern.BLOCK: 1, Concern.FINAL: self._final}[concern]
        newest_height = self._store.checkpoints_count - 1
        rows = self._store.query(_VISIBLE, (path, wanted, self._final, newest_height))
        if not rows or rows[0][2] is None:
            return None
        found, leaf, value, read_concern = rows[0]
        return Stored(str(found), int(leaf), bytes(value), read_concern)

    def children(
        self, path: str, concern: Concern | None = None, *, after: str = "", limit: int = LIST_MAX
    ) -> list[tuple[str, Stored | None]]:
        """Return names below a path in order, each with its own value if it has a visible one.

        Args:
            path: The parent; empty for the top.
            concern: As in `get`.
            after: Names up to this one are left out.
            limit: Most names to return.
        """
        rows = self._store.query(
            "SELECT name FROM child WHERE parent = ? AND name > ? ORDER BY name LIMIT ?",
            (path, after, min(limit, LIST_MAX)),
        )
        return [(str(name), self.get(f"{path}/{name}", concern)) for (name,) in rows]

    def value_at(self, path: str, size: int) -> bytes | None:
        """Return the value on a path as the first ``size`` leaves left it, None when there is none."""
        rows = self._store.query(
            "SELECT value FROM value WHERE path = ? AND leaf < ? ORDER BY leaf DESC LIMIT 1", (path, size)
        )
        return None if not rows or rows[0][0] is None else bytes(rows[0][0])

    def values_below(self, path: str, size: int, *, after: str, limit: int) -> list[tuple[str, bytes | None]]:
        """Return paths below one in order, each with its value as the first ``size`` leaves left it.

        Args:
            path: Where the subtree begins; its own value is not among them.
            size: Leaves that count.
            after: Paths up to this one are left out.
            limit: Most paths to return; they may have no value yet, or none any more.
        """
        # "0" is the next character after "/", so that these are the paths that begin with the path and a slash.
        rows = self._store.query(_BELOW, (max(after, f"{path}/"), f"{path}0", size, limit))
        return [(str(found), None if value is None else bytes(value)) for found, value in rows]

    def leaf_of(self, transaction_hash: str) -> int | None:
        """Return the index of a transaction, None when the ledger has not taken it."""
        rows = self._store.query("SELECT leaf FROM tx WHERE hash = ?", (bytes.fromhex(transaction_hash),))
        return int(rows[0][0]) if rows else None

    def has_written(self, sender: str) -> bool:
        """Whether a transaction of a node was ever taken."""
        return bool(self._store.query("SELECT 1 FROM child WHERE parent = '/accounts' AND name = ?", (sender,)))

    def depth(self, leaf: int) -> Depth:
        """Return how far a leaf has come."""
        rows = self._store.query("SELECT id FROM checkpoint WHERE size > ? ORDER BY size, id LIMIT 1", (leaf,))
        if not rows:
            return Depth(None, 0)
        height = int(rows[0][0])
        return Depth(height, self._store.checkpoints_count - height)
