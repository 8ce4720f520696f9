"""Re-check a ledger's file from its first leaf: nothing in it is believed that does not follow from leaves and genesis.

The leaves and blocks are replayed (`ledger.replay`); then every stored node, name, value and directory entry is held
against the replayed one. The first difference is raised with its place. Cost: one Ed25519 verification per leaf, on
all cores, and about as much again for the rest.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ledger.replay import Nodes, Replay
from ledger.stored import lines, notes, open_stored
from polarise.errors import LogDamaged
from polarise.genesis import Genesis
from polarise.transaction import SignedTransaction

Row = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """What was checked and holds.

    Attributes:
        leaves_count: Transactions replayed.
        blocks_count: Blocks whose signature, chain, roots and state were checked.
        values_count: Values compared.
        pending_count: Leaves behind the last block.
        state: State root after the last leaf, 64 hex digits.
    """

    leaves_count: int
    blocks_count: int
    values_count: int
    pending_count: int
    state: str


def fsck(path: Path, genesis: Genesis, *, on_progress: Callable[[int], None] = lambda _leaves: None) -> Report:
    """Check one file; it is only read, and may be in use.

    Args:
        path: The ledger's file.
        genesis: Its beginning, which is trusted.
        on_progress: Called with the number of leaves replayed, now and then.

    Raises:
        ConfigError: There is no such file, or it is of another ledger.
        LogDamaged: What does not hold, and where.
    """
    with open_stored(path, genesis) as stored:
        return _check(stored, genesis, on_progress)


def _check(stored: sqlite3.Connection, genesis: Genesis, on_progress: Callable[[int], None]) -> Report:
    def compare_leaf(index: int, transaction: SignedTransaction, nodes: Nodes) -> None:
        _check_nodes(stored, index, nodes)
        _check_name(stored, index, transaction)

    with Replay(genesis, notes(stored)) as replay:
        last = replay.run(lines(stored), on_leaf=compare_leaf, on_progress=on_progress).block
        values = _compare(
            stored,
            replay,
            "SELECT path, leaf, value, read_concern FROM value ORDER BY path, leaf",
            lambda row: f"value {row[0]} of leaf {row[1]}",
        )
        _compare(
            stored,
            replay,
            "SELECT parent, name FROM child ORDER BY parent, name",
            lambda row: f"directory entry {row[0]}/{row[1]}",
        )
        return Report(replay.size, last.height + 1, values, replay.size - last.size, replay.state.root)


def _check_nodes(stored: sqlite3.Connection, index: int, nodes: Nodes) -> None:
    for level, place, expected in nodes:
        row = stored.execute(
            "SELECT CAST(hash AS BLOB) FROM node WHERE level = ? AND id = ?", (level, place)
        ).fetchone()
        if row is None or bytes(row[0]) != expected:
            found = "is missing" if row is None else f"is {bytes(row[0]).hex()}"
            where = f"leaf {index}" if level == 0 else f"node {level}/{place}"
            raise LogDamaged(where, f"the stored hash {found}, the bytes give {expected.hex()}")


def _check_name(stored: sqlite3.Connection, index: int, transaction: SignedTransaction) -> None:
    row = stored.execute("SELECT leaf FROM tx WHERE hash = ?", (bytes.fromhex(transaction.hash),)).fetchone()
    if row is None or row[0] != index:
        known = "nothing" if row is None else f"leaf {row[0]}"
        raise LogDamaged(f"leaf {index}", f"the index of names has {known} for {transaction.hash}")


def _compare(stored: sqlite3.Connection, replay: Replay, sql: str, name: Callable[[Row], str]) -> int:
    """Compare two tables row by row and return how many rows they have."""
    count = 0
    rows: Iterable[Row] = stored.execute(sql)
    for row, expected in itertools.zip_longest(rows, replay.rows(sql)):
        if row != expected:
            first = min((found for found in (row, expected) if found), key=lambda found: str(found[:2]))
            raise LogDamaged(name(first), f"stored {_short(row)}, the replay gives {_short(expected)}")
        count += 1
    return count


def _short(row: Row | None) -> str:
    return "nothing" if row is None else str(row)[:300]
