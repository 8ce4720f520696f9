"""One byte anywhere in a ledger's file, and fsck names the place."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from ledger.fsck import fsck
from polarise.block import Block, open_block
from polarise.checkpoint import sign_checkpoint
from polarise.errors import ConfigError, LogDamaged
from polarise.frontier import Frontier
from polarise.merkle import leaf_hash
from tests.unit.ledger.small_market import GENESIS, LOG_KEY, MINER, VALIDATOR, Sender, genesis, open_ledger

Damage = Callable[[sqlite3.Connection], object]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Six leaves under four blocks, one leaf behind them."""
    target = tmp_path / "ledger.sqlite"
    miner, validator = Sender(MINER), Sender(VALIDATOR)
    with open_ledger(target) as ledger:
        for epoch in (1, 2):
            ledger.submit(miner.register({"n": epoch}).raw)
            ledger.submit(validator.commit(epoch).raw)
            ledger.submit(validator.record(epoch).raw)
            ledger.make_block()
        ledger.make_block()
        ledger.submit(miner.register({"n": 3}).raw)
    return target


def damage(path: Path, *steps: str | Damage) -> None:
    """Change the file as somebody with a hex editor would: without the triggers."""
    connection = sqlite3.connect(path)
    for (trigger,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        connection.execute(f"DROP TRIGGER {trigger}")
    for step in steps:
        connection.execute(step) if isinstance(step, str) else step(connection)
    connection.commit()
    connection.close()


def flip(table: str, column: str, where: str, place: int) -> Damage:
    """Flip the lowest bit of one byte of one stored value."""

    def step(connection: sqlite3.Connection) -> None:
        (value,) = connection.execute(f"SELECT CAST({column} AS BLOB) FROM {table} WHERE {where}").fetchone()
        changed = value[:place] + bytes([value[place] ^ 1]) + value[place + 1 :]
        connection.execute(f"UPDATE {table} SET {column} = ? WHERE {where}", (changed,))

    return step


def place_of(path: Path) -> str:
    with pytest.raises(LogDamaged) as err:
        fsck(path, GENESIS)
    return err.value.place


def test_a_sound_file_holds(path: Path) -> None:
    report = fsck(path, GENESIS)
    assert (report.leaves_count, report.blocks_count, report.pending_count) == (7, 4, 1)


@pytest.mark.parametrize("place", [0, 10, 250, 600, -2])
def test_a_byte_of_a_leaf(path: Path, place: int) -> None:
    damage(path, flip("leaf", "line", "id = 3", place))
    assert place_of(path) == "leaf 3"


@pytest.mark.parametrize("place", [0, 20, 45, 100, 250, -3])
def test_a_byte_of_a_checkpoint(path: Path, place: int) -> None:
    damage(path, flip("checkpoint", "note", "id = 2", place))
    assert place_of(path) == "block 2"


def test_a_byte_of_a_state_value(path: Path) -> None:
    here = f"/epochs/{VALIDATOR.public_key}/0000000002/record"
    damage(path, flip("value", "value", f"path = '{here}'", 1))
    assert place_of(path) == f"value {here} of leaf 5"


def test_a_byte_of_a_stored_node(path: Path) -> None:
    damage(path, flip("node", "hash", "level = 1 AND id = 1", 31))
    assert place_of(path) == "node 1/1"


@pytest.mark.parametrize(
    ("step", "place"),
    [
        ("DELETE FROM leaf WHERE id = 2", "leaf 2"),
        ("DELETE FROM leaf WHERE id = 6", "value /accounts"),
        ("DELETE FROM checkpoint WHERE id = 1", "block 1"),
        ("UPDATE checkpoint SET size = 4 WHERE id = 1", "block 1"),
        ("DELETE FROM tx WHERE leaf = 4", "leaf 4"),
        ("DELETE FROM child WHERE name = 'registry'", "directory entry /registry"),
        ("INSERT INTO value VALUES ('/registry/ff', 6, 'x', 0)", "value /registry/ff of leaf 6"),
        ("UPDATE value SET read_concern = 9 WHERE path = '/genesis'", "value /genesis of leaf -1"),
        ("UPDATE checkpoint SET note = 'text' WHERE id = 0", "block 0"),
        ("DELETE FROM checkpoint", "block 0"),
    ],
)
def test_a_row_that_is_gone_changed_or_new(path: Path, step: str, place: str) -> None:
    damage(path, step)
    assert place_of(path).startswith(place)


def test_a_block_the_log_key_signed_over_another_state(path: Path) -> None:
    """Even the ledger's own key cannot sign what does not follow from the leaves."""

    def resign(connection: sqlite3.Connection) -> None:
        rows = connection.execute("SELECT line FROM leaf ORDER BY id LIMIT 6").fetchall()
        tree = Frontier()
        for (line,) in rows:
            tree.add(leaf_hash(line))
        (before,) = connection.execute("SELECT note FROM checkpoint WHERE id = 2").fetchone()
        last = open_block(bytes(before), GENESIS.log)
        block = Block(GENESIS.origin, 6, tree.root(), 3, last.block.time_unix_ms + 1, "ab" * 32, last.hash)
        connection.execute(
            "UPDATE checkpoint SET note = ? WHERE id = 3", (sign_checkpoint(block.checkpoint(), LOG_KEY).raw,)
        )

    damage(path, resign)
    assert place_of(path) == "block 3"


def test_a_transaction_that_should_have_been_refused(tmp_path: Path) -> None:
    """An operator who skips the rule and signs everything anew is found by the rule."""
    path = tmp_path / "ledger.sqlite"
    with open_ledger(path) as ledger:
        ledger.submit(Sender(MINER).register().raw)
        with ledger.log.transaction() as writer:
            sneaked = Sender(MINER, nonce=1).sign("/stakes/" + MINER.public_key, {"stake": 10**9})
            index = writer.append(sneaked.raw)
            writer.connection.execute("INSERT INTO tx VALUES (?, ?)", (bytes.fromhex(sneaked.hash), index))
        ledger.make_block()
    with pytest.raises(LogDamaged, match="RULE_REFUSED") as err:
        fsck(path, GENESIS)
    assert err.value.place == "leaf 1"


def test_a_file_of_another_ledger_or_none_is_a_matter_of_settings(path: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        fsck(path, genesis(name="other"))
    with pytest.raises(ConfigError):
        fsck(tmp_path / "none.sqlite", GENESIS)


def test_a_file_that_is_no_database_is_damaged(path: Path) -> None:
    raw = path.read_bytes()
    path.write_bytes(b"x" * 100 + raw[100:])
    assert place_of(path) == "file"
