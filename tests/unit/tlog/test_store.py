"""The log on disk: published roots, proofs against the plain tree, durability, and what a damaged file says."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polarise import merkle
from polarise.checkpoint import open_checkpoint
from polarise.errors import ConfigError, LogDamaged
from polarise.frontier import Frontier
from polarise.notes import Ed25519Verifier
from polarise.signing import SigningKey
from tests.unit.polarise.test_merkle import CONSISTENCY, INCLUSION, LEAVES, ROOTS
from tlog.store import LogStore
from tlog.writer import LINE_BYTES_MAX

ORIGIN = "log.example/one"
KEY = SigningKey(bytes([3]) * 32)
LOG = Ed25519Verifier(ORIGIN, KEY.public_key)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.sqlite"


@pytest.fixture
def log(path: Path) -> Iterator[LogStore]:
    with LogStore(path, ORIGIN) as store:
        yield store


def lines(count: int) -> list[bytes]:
    return [f"line {index}".encode() for index in range(count)]


def test_roots_and_proofs_equal_the_published_ones(log: LogStore) -> None:
    """RFC 6962 test data, also of transparency-dev/merkle."""
    for index, leaf in enumerate(LEAVES):
        assert log.append(leaf) == index
        assert log.root().hex() == ROOTS[index]
    for index, size, proof in INCLUSION:
        assert [item.hex() for item in log.inclusion(index, size)] == proof
    for old, new, proof in CONSISTENCY:
        assert [item.hex() for item in log.consistency(old, new)] == proof


def test_every_root_and_proof_up_to_70_leaves_equals_the_plain_tree(log: LogStore) -> None:
    contents = lines(70)
    log.append_many(contents)
    hashes = [merkle.leaf_hash(line) for line in contents]
    for size in range(71):
        assert log.root(size) == merkle.root_of_hashes(hashes[:size])
        for index in range(size):
            assert log.inclusion(index, size) == merkle.inclusion_proof(hashes[:size], index)
        for old in range(size + 1):
            assert log.consistency(old, size) == merkle.consistency_proof(hashes[:size], old)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 300), st.integers(0, 300))
def test_the_edge_of_a_tree_goes_on_as_the_tree_does(first: int, more: int) -> None:
    edge = Frontier()
    hashes = [merkle.leaf_hash(line) for line in lines(first + more)]
    for leaf in hashes[:first]:
        edge.add(leaf)
    resumed = Frontier(first, edge.nodes)
    for leaf in hashes[first:]:
        resumed.add(leaf)
    assert resumed.root() == merkle.root_of_hashes(hashes)


def test_an_edge_of_another_length_is_refused() -> None:
    with pytest.raises(merkle.InvalidProof):
        Frontier(3, (bytes(32),))
    with pytest.raises(merkle.InvalidProof):
        Frontier(1, (bytes(31),))


def test_what_was_appended_is_read_after_a_restart(path: Path) -> None:
    with LogStore(path, ORIGIN) as log:
        log.append_many(lines(5))
        root = log.root()
    with LogStore(path, ORIGIN) as log:
        assert (log.size, log.root()) == (5, root)
        assert log.read(1, 3) == lines(5)[1:3]
        assert log.read(4, 99) == lines(5)[4:]
        assert log.read(5, 6) == []
        assert log.append(b"more") == 5


def test_many_threads_share_commits_and_get_each_their_own_index(log: LogStore) -> None:
    taken: dict[int, bytes] = {}
    start = threading.Barrier(8)

    def work(number: int) -> None:
        start.wait()
        for turn in range(50):
            line = f"{number}/{turn}".encode()
            taken[log.append(line)] = line

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(400))
    assert log.read(0, 400) == [taken[index] for index in range(400)]


def test_lines_that_stand_together_are_all_or_none(log: LogStore) -> None:
    with pytest.raises(ValueError, match="65535"):
        log.append_many([b"fits", b"x" * (LINE_BYTES_MAX + 1)])
    assert log.size == 0
    assert log.append_many([b"x" * LINE_BYTES_MAX, b"b"]) == 0
    assert log.size == 2


def test_a_refused_step_leaves_nothing_behind(log: LogStore) -> None:
    log.append(b"before")
    with log.transaction() as writer:
        writer.append(b"kept")
        with contextlib.suppress(ZeroDivisionError), writer.savepoint():
            writer.append(b"undone")
            writer.sign_checkpoint(KEY)
            raise ZeroDivisionError
        assert writer.append(b"after") == 2
    assert log.read(0, 9) == [b"before", b"kept", b"after"]
    assert log.latest_checkpoint() is None
    with contextlib.suppress(ZeroDivisionError), log.transaction() as writer:
        writer.append(b"undone")
        raise ZeroDivisionError
    assert log.size == 3
    assert log.root() == merkle.root([b"before", b"kept", b"after"])


def test_nothing_is_changed_or_deleted(log: LogStore, path: Path) -> None:
    log.append(b"a")
    log.checkpoint(KEY)
    with sqlite3.connect(path) as other:
        for table in ("leaf", "node", "checkpoint", "log"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                other.execute(f"DELETE FROM {table}")
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            other.execute("UPDATE leaf SET line = 'b'")
    other.close()


def test_checkpoints_are_kept_in_order(log: LogStore) -> None:
    log.append(b"a")
    first = log.checkpoint(KEY, ["height 1"])
    log.append(b"b")
    second = log.checkpoint(KEY)
    assert log.latest_checkpoint() == second.raw
    assert log.checkpoints(0, 9) == [first.raw, second.raw]
    assert open_checkpoint(first.raw, LOG).checkpoint.root == log.root(1)


def test_another_log_or_a_newer_format_is_refused(path: Path) -> None:
    LogStore(path, ORIGIN).close()
    with pytest.raises(ConfigError, match=r"log\.example/one"):
        LogStore(path, "log.example/two")
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(ConfigError, match="newer"):
        LogStore(path, ORIGIN)


@pytest.mark.parametrize(
    ("damage", "place"),
    [
        ("DELETE FROM node WHERE level = 1", "node 1/0"),
        ("UPDATE node SET hash = zeroblob(32) WHERE level = 1", "checkpoint 0"),
        ("DELETE FROM leaf WHERE id = 2", "checkpoint 0"),
        ("UPDATE checkpoint SET note = 'x'", "checkpoint 0"),
    ],
)
def test_a_file_that_does_not_fit_its_checkpoint_is_refused(path: Path, damage: str, place: str) -> None:
    with LogStore(path, ORIGIN) as log:
        log.append_many(lines(3))
        log.checkpoint(KEY)
    connection = sqlite3.connect(path)
    for (trigger,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        connection.execute(f"DROP TRIGGER {trigger}")
    connection.execute(damage)
    connection.commit()
    connection.close()
    with pytest.raises(LogDamaged) as err:
        LogStore(path, ORIGIN)
    assert err.value.place == place


def test_proofs_outside_the_log_are_refused(log: LogStore) -> None:
    log.append_many(lines(3))
    for call in (
        lambda: log.inclusion(3, 3),
        lambda: log.inclusion(0, 4),
        lambda: log.consistency(3, 2),
        lambda: log.consistency(0, 4),
        lambda: log.root(4),
    ):
        with pytest.raises(IndexError):
            call()
