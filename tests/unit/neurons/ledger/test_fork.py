"""A ledger whose operator keeps two histories under one key, and a client that has seen one of them."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from ledger.embedded import EmbeddedLedger
from polarise.block import Block, open_block
from polarise.block_follower import FileMemory
from polarise.checkpoint import sign_checkpoint
from polarise.errors import AnswerInvalid, LogFork
from polarise.ledger_client import LedgerClient
from tests.unit.ledger.small_market import GENESIS, LOG_KEY, MINER, Sender, open_ledger
from tests.unit.neurons.ledger.ledger_process import SLOW, running


@dataclass
class ForkingServer:
    """Serves checkpoint, consistency and proofs from whichever of its ledgers it likes."""

    shown: EmbeddedLedger
    note: bytes | None = None
    endpoint: str = ""

    def answer(self, target: str) -> tuple[int, bytes]:
        parts = urlsplit(target)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if parts.path == "/checkpoint":
            return 200, self.note or self.shown.last_block.raw
        if parts.path == "/prove":
            index = self.shown.views.leaf_of(query["hash"])
            return (200, self.shown.prove(index).encode()) if index is not None else (404, b"{}")
        if parts.path == "/consistency":
            old, new = int(query["old"]), int(query["new"])
            if new > self.shown.log.size:
                return 400, b'{"status": "failure", "code": "INVALID_FIELD", "message": "no such size", "hint": ""}'
            hashes = [value.hex() for value in self.shown.log.consistency(old, new)]
            return 200, json.dumps({"status": "success", "old": old, "new": new, "hashes": hashes}).encode()
        return 404, b"{}"

    @contextlib.contextmanager
    def running(self) -> Iterator[LedgerClient]:
        server_of_handler = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, body = server_of_handler.answer(self.path)
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        self.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield LedgerClient(self.endpoint, GENESIS)
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[EmbeddedLedger, EmbeddedLedger]]:
    """Two histories that agree in their first leaf."""
    with open_ledger(tmp_path / "a.sqlite") as honest, open_ledger(tmp_path / "b.sqlite") as other:
        shared = Sender(MINER).register("both")
        for ledger in (honest, other):
            ledger.submit(shared.raw)
            ledger.make_block()
        yield honest, other


def write(ledger: EmbeddedLedger, *values: str) -> None:
    sender = Sender(MINER, nonce=ledger.log.size)
    for value in values:
        ledger.submit(sender.register(value).raw)
    ledger.make_block()


def notes_of(fork: LogFork) -> tuple[Block, Block]:
    """Both notes of the evidence, each signed by the ledger's own key."""
    return open_block(fork.first, GENESIS.log).block, open_block(fork.second, GENESIS.log).block


def test_two_blocks_of_one_height_are_a_fork(pair: tuple[EmbeddedLedger, EmbeddedLedger]) -> None:
    honest, other = pair
    server = ForkingServer(honest)
    with server.running() as client:
        write(honest, "one")
        write(other, "two")
        client.checkpoint()
        server.shown = other
        with pytest.raises(LogFork, match="two blocks of height") as err:
            client.checkpoint()
        first, second = notes_of(err.value)
        assert (first.height, first.root) == (second.height, honest.last_block.block.root)
        assert first.root != second.root
        server.shown = honest
        assert client.checkpoint().block == first, "the history that was seen goes on"


def test_a_longer_history_over_other_leaves_is_a_fork(pair: tuple[EmbeddedLedger, EmbeddedLedger]) -> None:
    honest, other = pair
    server = ForkingServer(honest)
    with server.running() as client:
        write(honest, "one")
        write(other, "two")
        write(other, "three")
        client.checkpoint()
        server.shown = other
        with pytest.raises(LogFork, match="cannot show") as err:
            client.checkpoint()
        first, second = notes_of(err.value)
        assert (first.size, second.size) == (2, 3)


def test_a_higher_block_of_a_smaller_tree_is_a_fork(pair: tuple[EmbeddedLedger, EmbeddedLedger]) -> None:
    honest, other = pair
    server = ForkingServer(honest)
    with server.running() as client:
        write(honest, "one", "two")
        client.checkpoint()
        other.make_block()
        other.make_block()
        server.shown = other
        with pytest.raises(LogFork, match="does not go on"):
            client.checkpoint()


def test_a_proof_under_a_forked_block_is_refused_although_it_verifies(
    pair: tuple[EmbeddedLedger, EmbeddedLedger],
) -> None:
    honest, other = pair
    server = ForkingServer(honest)
    with server.running() as client:
        write(honest, "one")
        client.checkpoint()
        write(other, "two", "three")
        server.shown = other
        hidden = Sender(MINER, nonce=1).register("two")
        assert other.prove(1).verify(GENESIS.log).checkpoint.size == 3
        with pytest.raises(LogFork):
            client.prove(hidden.hash)


def test_another_block_of_the_same_leaves_is_a_fork(pair: tuple[EmbeddedLedger, EmbeddedLedger]) -> None:
    """Grinding a beacon: the same tree signed again with another time."""
    honest, _ = pair
    server = ForkingServer(honest)
    with server.running() as client:
        seen = client.checkpoint().block
        ground = Block(seen.origin, seen.size, seen.root, seen.height, seen.time_unix_ms + 1, seen.state, seen.prev)
        server.note = sign_checkpoint(ground.checkpoint(), LOG_KEY).raw
        with pytest.raises(LogFork):
            client.checkpoint()


def test_an_older_block_is_no_fork_but_no_answer_either(pair: tuple[EmbeddedLedger, EmbeddedLedger]) -> None:
    honest, _ = pair
    server = ForkingServer(honest)
    with server.running() as client:
        old = honest.last_block.raw
        write(honest, "one")
        client.checkpoint()
        server.note = old
        with pytest.raises(AnswerInvalid, match="was seen before"):
            client.checkpoint()


@pytest.mark.parametrize("note", [b"x", b"a\n\nb\n", b"\xff" * 100])
def test_garbage_is_no_block(pair: tuple[EmbeddedLedger, EmbeddedLedger], note: bytes) -> None:
    server = ForkingServer(pair[0], note=note)
    with server.running() as client, pytest.raises(AnswerInvalid):
        client.checkpoint()


def test_a_daemon_restored_from_another_history_is_caught_after_our_restart(tmp_path: Path) -> None:
    """Same daemon, same port, another file; the evidence lies beside what was remembered."""
    memory = tmp_path / "seen.note"
    with running(tmp_path / "one") as (node, url):
        port = node.http.port
        LedgerClient(url, SLOW).submit(Sender(MINER, net=SLOW.net).register("one"))
        node.ledger.make_block()
        LedgerClient(url, SLOW, memory=FileMemory(memory)).checkpoint()
    with running(tmp_path / "two", port) as (node, url):
        LedgerClient(url, SLOW).submit(Sender(MINER, net=SLOW.net).register("two"))
        for _ in range(4):
            node.ledger.make_block()
        with pytest.raises(LogFork) as err:
            LedgerClient(url, SLOW, memory=FileMemory(memory)).checkpoint()
    kept = [memory.with_name(f"seen.note.fork-{number}").read_bytes() for number in (1, 2)]
    assert kept == [err.value.first, err.value.second]
    assert all(open_block(note, SLOW.log) for note in kept)
