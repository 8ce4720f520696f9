"""Targets: transactions, rules, a ledger's answers and feed, and files of a ledger that somebody else wrote."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ledger.embedded import EmbeddedLedger
from ledger.fsck import fsck
from ledger.replay import Replay, opened_blocks
from ledger.rules import Rules
from ledger.stored import lines, notes, open_stored
from neurons.validator.audit.ledger_copy import BLOCKS_FILE, LEAVES_FILE, LedgerCopy
from polarise.answers import MAX_ANSWER_BYTES
from polarise.canonical import canonical_bytes
from polarise.decode import decode_json
from polarise.errors import ConfigError, LogDamaged, LogFork, RequestRejected, Unavailable
from polarise.genesis import MAX_GENESIS_BYTES, decode_genesis, read_genesis
from polarise.ledger_client import LedgerClient, unhex
from polarise.ledger_feed import MAX_EVENT_BYTES, follow
from polarise.ledger_generations import read_generations
from polarise.ledger_registry import read_ledger_registry
from polarise.notes import MAX_NOTE_BYTES
from polarise.signing import Purpose, SignatureInvalid
from polarise.sse import Frame
from polarise.transaction import (
    DOMAIN,
    MAX_TRANSACTION_BYTES,
    SignedTransaction,
    TransactionVerifier,
    check_path,
    decode_transaction,
    encode_value,
)
from tests.fuzz.replayer import Replayer
from tests.fuzz.target import Call, Target, plain, text_of
from tests.unit.ledger.small_market import GENESIS, LOG_KEY, MINER, VALIDATOR, ManualClock, Sender

SUBKEY = VALIDATOR.subkey(Purpose.LEDGER)
EPOCH = f"/epochs/{VALIDATOR.public_key}/0000000007"


def transactions() -> list[bytes]:
    """What the market writes."""
    validator, miner = Sender(VALIDATOR), Sender(MINER)
    return [
        validator.sign(f"{EPOCH}/commit", {"v": 1, "challenge_commit": "0" * 64}).raw,
        miner.sign(f"/registry/{MINER.public_key}", {"body": {"list": [1, True, None, "text"]}}).raw,
        miner.sign(f"/registry/{MINER.public_key}", None, read_concern=3).raw,
    ]


@contextlib.contextmanager
def small_ledger(path: Path) -> Iterator[EmbeddedLedger]:
    """A ledger with a block over all of `transactions`."""
    with EmbeddedLedger(path, GENESIS, LOG_KEY, ManualClock()) as ledger:
        for raw in transactions():
            ledger.submit(raw)
        ledger.make_block()
        yield ledger


def _made() -> tuple[list[bytes], list[bytes]]:
    """Leaves and blocks of a small ledger."""
    with tempfile.TemporaryDirectory() as folder, small_ledger(Path(folder) / "ledger.sqlite") as ledger:
        return ledger.log.read(0, 10), ledger.blocks(0, 10)


def _answers() -> list[bytes]:
    """What a ledger answers, one of each."""
    leaves, blocks = _made()
    entry = {
        "path": f"/accounts/{MINER.public_key}",
        "value": {"nonce": 1},
        "hash": None,
        "index": None,
        "height": 1,
        "confirmations": 1,
    }
    bodies: list[object] = [
        {"entry": entry},
        {"children": [{"name": MINER.public_key, "entry": entry}], "next": None},
        {"children": [], "next": "a"},
        {"blocks": [{"height": index, "note": note.decode()} for index, note in enumerate(blocks)]},
        {"first": 0, "leaves": [leaf.decode() for leaf in leaves]},
        {"old": 0, "new": 3, "hashes": ["0" * 64]},
        {"size": 0, "hashes": []},
    ]
    with tempfile.TemporaryDirectory() as folder, small_ledger(Path(folder) / "ledger.sqlite") as ledger:
        proof = ledger.prove(1).encode()
    return [*(json.dumps(body).encode() for body in bodies), *blocks, proof]


def _feed() -> bytes:
    leaves, blocks = _made()
    first = [Frame("block", json.dumps({"height": 0, "note": blocks[0].decode()}).encode())]
    rest = [
        Frame("leaf", json.dumps({"index": index, "transaction": leaf.decode()}).encode())
        for index, leaf in enumerate(leaves)
    ]
    last = [Frame("block", json.dumps({"height": 1, "note": blocks[1].decode()}).encode())]
    return b"".join(frame.encode() for frame in [*first, *rest, *last])


@contextlib.contextmanager
def _client_answers() -> Iterator[Call]:
    """Give every question of a client the same answer, whatever it is."""
    with Replayer() as replayer:

        def call(raw: bytes) -> None:
            replayer.answer(raw)
            client = LedgerClient(replayer.url, GENESIS, timeout_seconds=5)
            questions = (
                client.status,
                client.checkpoint,
                lambda: client.get("/a"),
                lambda: list(client.children("/registry")),
                lambda: read_ledger_registry(client, lambda _name, _err: None),
                lambda: read_generations(client, client.final_block(), lambda _name, _err: None),
                lambda: client.next_nonce(MINER.public_key),
                lambda: client.transaction("0" * 64),
                lambda: client.prove("0" * 64),
                lambda: client.prove_path("/a"),
                lambda: client.wait("0" * 64, 0),
                lambda: [next(client.blocks(0))],
                lambda: list(client.leaves(0, 3)),
            )
            for question in questions:
                with contextlib.suppress(RequestRejected, Unavailable, LogFork, StopIteration):
                    question()

        yield call


@contextlib.contextmanager
def _client_feed() -> Iterator[Call]:
    with Replayer() as replayer:

        def call(raw: bytes) -> object:
            replayer.answer(raw)
            followed: list[object] = []
            with contextlib.suppress(Unavailable):  # a stream that ends is one that broke off
                followed.extend(follow(LedgerClient(replayer.url, GENESIS, timeout_seconds=5), 0, idle_seconds=5))
            return followed

        yield call


@contextlib.contextmanager
def _submit() -> Iterator[Call]:
    """Sign whatever is to be written, and hand it in."""
    with tempfile.TemporaryDirectory() as folder, small_ledger(Path(folder) / "ledger.sqlite") as ledger:

        def call(raw: bytes) -> object:
            body = decode_json(raw)
            if not isinstance(body, dict):
                return None
            # Nonce and signature come right, so that what stands behind them is reached.
            body = {**body, "from": VALIDATOR.public_key, "certificate": SUBKEY.certificate.to_wire()}
            body = {**body, "net": GENESIS.net, "nonce": ledger.log.size - 2}
            body.pop("signature", None)
            try:
                signature = SUBKEY.key.sign(DOMAIN, canonical_bytes(body))
            except ValueError:
                return None
            return ledger.submit(canonical_bytes({**body, "signature": signature}))

        yield call


class _State:
    """A state in which commitments stand and nothing else."""

    def exists(self, path: str) -> bool:
        return path.endswith("/commit")

    def greatest_child(self, path: str) -> str | None:
        return None if len(path) % 3 else "0000000001"

    def generation(self, node: str, purpose: Purpose) -> int:
        return len(node + purpose) % 3

    def owner(self, node: str) -> str | None:
        return None if len(node) % 3 else node


def _rules(raw: bytes) -> None:
    rules = Rules(member.key for member in GENESIS.validators)
    path = check_path(text_of(raw))
    rules.check(
        _State(), VALIDATOR.public_key, path, {"certificate": {**SUBKEY.certificate.to_wire(), "counter": path}}
    )


def _verify(raw: bytes) -> None:
    TransactionVerifier().verify(decode_transaction(raw))


def _unhex(raw: bytes) -> object:
    return unhex(text_of(raw).split("\n"))


def _replay(raw: bytes) -> None:
    """Replay leaves and blocks that stand, mixed, in one file: a line each."""
    given = [line.replace(b"\x1f", b"\n") for line in raw.split(b"\n")]
    leaves = [line for line in given if line.startswith(b"{")]
    blocks = [line for line in given if not line.startswith(b"{")]
    list(opened_blocks(blocks[:1], GENESIS))
    with Replay(GENESIS, blocks) as replay:
        replay.run(leaves)


def _replay_seed() -> bytes:
    leaves, blocks = _made()
    return b"\n".join([*leaves, *(block.replace(b"\n", b"\x1f") for block in blocks)])


@contextlib.contextmanager
def _stored() -> Iterator[Call]:
    """Read a file that somebody calls a ledger."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.sqlite"

        def call(raw: bytes) -> None:
            path.write_bytes(raw)
            with open_stored(path, GENESIS) as stored:
                list(lines(stored))
                list(notes(stored))
            fsck(path, GENESIS)

        yield call


def _ledger_file() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.sqlite"
        with small_ledger(path):
            pass
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA journal_mode=DELETE")
        return path.read_bytes()


@contextlib.contextmanager
def _copy() -> Iterator[Call]:
    """Read an auditor's copy: leaves, an empty line, blocks."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def call(raw: bytes) -> None:
            leaves, _, blocks = raw.partition(b"\n\n")
            (folder / LEAVES_FILE).write_bytes(leaves)
            (folder / BLOCKS_FILE).write_bytes(blocks)
            copy = LedgerCopy(folder)
            for index, leaf in enumerate(copy.leaves()):
                assert copy.leaf(index) == leaf
            list(copy.notes())
            copy.cut()

        yield call


def _copy_seed() -> bytes:
    leaves, blocks = _made()
    return b"\n".join(leaves) + b"\n\n" + b"".join(json.dumps(note.decode()).encode() + b"\n" for note in blocks)


@contextlib.contextmanager
def _genesis_file() -> Iterator[Call]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "genesis.json"

        def call(raw: bytes) -> object:
            path.write_bytes(raw)
            return read_genesis(path)

        yield call


TARGETS = (
    Target(
        "polarise.transaction.decode_transaction",
        plain(decode_transaction),
        transactions,
        (RequestRejected,),
        MAX_TRANSACTION_BYTES,
        is_canonical=True,
        encode=lambda value: value.raw if isinstance(value, SignedTransaction) else b"",
    ),
    Target(
        "polarise.transaction.TransactionVerifier.verify",
        plain(_verify),
        transactions,
        (RequestRejected, SignatureInvalid),
        MAX_TRANSACTION_BYTES,
        is_canonical=True,
    ),
    Target(
        "polarise.transaction.check_path",
        plain(lambda raw: check_path(text_of(raw))),
        lambda: [b"/registry/ab12", b"/a/b/c/d/e/f/g/h"],
        (RequestRejected,),
        MAX_TRANSACTION_BYTES,
        encode=lambda value: str(value).encode(),
    ),
    Target(
        "polarise.transaction.encode_value",
        plain(lambda raw: encode_value(decode_json(raw))),
        lambda: [b'{"a":[1,"text",null]}'],
        (RequestRejected,),
        MAX_TRANSACTION_BYTES,
    ),
    Target(
        "ledger.rules.Rules.check",
        plain(_rules),
        lambda: [f"/registry/{VALIDATOR.public_key}".encode(), f"/scores/{VALIDATOR.public_key}/0000000007".encode()],
        (RequestRejected,),
        MAX_TRANSACTION_BYTES,
    ),
    Target(
        "ledger.embedded.EmbeddedLedger.submit",
        _submit,
        lambda: [Sender(VALIDATOR).sign(f"{EPOCH[:-1]}8/commit", {"v": 1}).raw],
        (RequestRejected,),
        MAX_TRANSACTION_BYTES,
        weight=4,
    ),
    Target(
        "ledger.replay.Replay.run",
        plain(_replay),
        lambda: [_replay_seed()],
        (LogDamaged,),
        MAX_TRANSACTION_BYTES,
        covers=("ledger.replay.opened_blocks",),
        weight=4,
    ),
    Target(
        "ledger.stored.open_stored",
        _stored,
        lambda: [_ledger_file()],
        (ConfigError, LogDamaged),
        1024 * 1024,
        covers=("ledger.fsck.fsck",),
        weight=8,
    ),
    Target(
        "neurons.validator.audit.ledger_copy.LedgerCopy",
        _copy,
        lambda: [_copy_seed()],
        (ConfigError,),
        1024 * 1024,
        weight=2,
    ),
    Target(
        "polarise.genesis.decode_genesis",
        plain(decode_genesis),
        lambda: [json.dumps(GENESIS.to_wire()).encode()],
        (RequestRejected, SignatureInvalid),
        MAX_GENESIS_BYTES,
    ),
    Target(
        "polarise.genesis.read_genesis",
        _genesis_file,
        lambda: [json.dumps(GENESIS.to_wire()).encode()],
        (ConfigError,),
        MAX_GENESIS_BYTES,
    ),
    Target(
        "polarise.ledger_client.LedgerClient",
        _client_answers,
        _answers,
        (),
        MAX_ANSWER_BYTES,
        covers=(
            "polarise.ledger_generations.read_generations",
            "polarise.ledger_registry.read_ledger_registry",
        ),
        calls_base=200_000,
        memory_base_bytes=1024 * 1024,
        weight=20,
    ),
    Target("polarise.ledger_client.unhex", plain(_unhex), lambda: [b"00ff\n"], (Unavailable,), MAX_NOTE_BYTES),
    Target(
        "polarise.ledger_feed.follow",
        _client_feed,
        lambda: [_feed()],
        (Unavailable, LogFork, RequestRejected),
        MAX_EVENT_BYTES,
        memory_base_bytes=1024 * 1024,
        weight=6,
    ),
)
