"""The stamping process over real sockets: stamps, bounds, deadlines, and what is left when it dies."""

from __future__ import annotations

import asyncio
import os
import queue
import resource
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from neurons.base.tls import tls_public_key
from neurons.validator.stamper import Stamper, StamperDied
from neurons.validator.stamper_process import (
    PINGS,
    PingJob,
    Stamped,
    StampFailure,
    StartJob,
    Target,
    _connect,
    _Exchange,
    _run,
)
from polarise.tls import Pin, TlsPeer
from tests.support.identities import identity
from tests.support.tls import TlsServer, context_of

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
REQUEST = b"GET / HTTP/1.1\r\n\r\n"

Behave = Callable[[socket.socket], None]


class Peer:
    """A listener that does what a test wants with each connection."""

    def __init__(self, behave: Behave) -> None:
        self._behave = behave
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.connections = 0
        threading.Thread(target=self._accept, name="peer", daemon=True).start()

    @property
    def target(self) -> Target:
        return Target((("127.0.0.1", int(self._listener.getsockname()[1])),))

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                if connection.recv(65536):
                    self._behave(connection)
            except OSError:
                return


@pytest.fixture(scope="module")
def stamper() -> Iterator[Stamper]:
    with Stamper() as stamper:
        yield stamper


def _start(stamper: Stamper, behave: Behave, *, seconds: float = 5.0, max_bytes: int = 1000) -> Stamped:
    peer = Peer(behave)
    try:
        (stamped,) = stamper.run([StartJob(7, peer.target, REQUEST, seconds, max_bytes)])
    finally:
        peer.close()
    assert stamped.number == 7
    return stamped


def test_answer_is_stamped_when_its_bytes_come(stamper: Stamper) -> None:
    """The peer notes on the same clock when it wrote the first and the last byte."""
    wrote: list[int] = []

    def behave(connection: socket.socket) -> None:
        connection.sendall(ANSWER[:1])
        wrote.append(time.monotonic_ns())
        time.sleep(0.1)
        wrote.append(time.monotonic_ns())
        connection.sendall(ANSWER[1:])

    stamped = _start(stamper, behave)
    assert (stamped.failure, stamped.raw) == (None, ANSWER)
    assert stamped.sent_ns is not None
    assert stamped.first_byte_ns is not None
    assert stamped.last_byte_ns is not None
    assert stamped.sent_ns < wrote[0]
    assert stamped.first_byte_ns < wrote[1] < stamped.last_byte_ns


def test_starts_of_one_wave_leave_together_although_connecting_takes_its_time(stamper: Stamper) -> None:
    """All are connected first; then each start is a write."""
    released = threading.Event()
    arrived: list[int] = []

    def behave(connection: socket.socket) -> None:
        arrived.append(time.monotonic_ns())
        if len(arrived) == 20:
            released.set()
        released.wait(5)
        connection.sendall(ANSWER)

    peers = [Peer(behave) for _ in range(20)]
    # None of them answers before the last of them was asked.
    outcomes = list(
        stamper.run([StartJob(number, peer.target, REQUEST, 10, 1000) for number, peer in enumerate(peers)])
    )
    for peer in peers:
        peer.close()
    assert [outcome.failure for outcome in outcomes] == [None] * 20
    assert sorted(outcome.number for outcome in outcomes) == list(range(20))
    assert all(outcome.sent_ns is not None for outcome in outcomes)


@pytest.mark.parametrize(
    ("is_slow_first", "failures"),
    [(True, {0: StampFailure.LATE, 1: StampFailure.NO_TURN}), (False, {0: StampFailure.LATE, 1: None})],
)
def test_pings_end_although_endpoints_let_them_wait(
    monkeypatch: pytest.MonkeyPatch, is_slow_first: bool, failures: dict[int, StampFailure | None]
) -> None:
    """Whoever comes first is pinged, and what others prepared does not grow old behind those that hang."""
    monkeypatch.setattr("neurons.validator.stamper_process.PINGED_AT_ONCE", 1)
    monkeypatch.setattr("neurons.validator.stamper_process.PINGS_SECONDS", 1.0)
    monkeypatch.setattr("neurons.validator.stamper_process.PING_TURN_SECONDS", 0.5)
    released = threading.Event()

    def hang(_connection: socket.socket) -> None:
        released.wait(10)

    slow, quick = Peer(hang), Peer(lambda peer: peer.sendall(ANSWER))
    jobs = [PingJob(0, slow.target, REQUEST), PingJob(1, quick.target, REQUEST)]
    answers: queue.SimpleQueue[Stamped | None] = queue.SimpleQueue()
    asyncio.run(_run(jobs if is_slow_first else jobs[::-1], answers))
    released.set()
    stamped = [answers.get_nowait() for _ in jobs]
    assert {answer.number: answer.failure for answer in stamped if answer is not None} == failures
    slow.close()
    quick.close()


def test_pings_are_of_connections_of_their_own_and_the_smallest_counts(stamper: Stamper) -> None:
    turns: list[int] = []

    def behave(connection: socket.socket) -> None:
        turns.append(len(turns))
        time.sleep(0.0 if len(turns) == 3 else 0.05)
        connection.sendall(ANSWER)

    peer = Peer(behave)
    (stamped,) = stamper.run([PingJob(1, peer.target, REQUEST)])
    peer.close()
    assert stamped.failure is None
    assert peer.connections == PINGS
    assert stamped.rtt_min_ns is not None
    assert stamped.rtt_min_ns < 50_000_000


@pytest.mark.parametrize(("spare", "failure"), [(0, None), (-1, StampFailure.TOO_LARGE)])
def test_answer_is_read_up_to_its_bound(stamper: Stamper, spare: int, failure: StampFailure | None) -> None:
    body = b"x" * 1000

    def behave(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n" + body)

    assert _start(stamper, behave, max_bytes=1000 + spare).failure is failure


def test_body_without_a_length_is_bounded_too(stamper: Stamper) -> None:
    def behave(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(300):
            connection.sendall(b"x" * 1024)

    assert _start(stamper, behave).failure is StampFailure.TOO_LARGE


def test_answer_without_a_length_ends_with_its_connection(stamper: Stamper) -> None:
    raw = b"HTTP/1.1 200 OK\r\n\r\nhello"
    stamped = _start(stamper, lambda connection: connection.sendall(raw))
    assert (stamped.failure, stamped.raw) == (None, raw)


def test_steady_drip_ends_at_the_deadline(stamper: Stamper) -> None:
    def behave(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while True:
            connection.sendall(b" ")
            time.sleep(0.02)

    assert _start(stamper, behave, seconds=0.3).failure is StampFailure.LATE


def test_answer_that_breaks_off_is_none(stamper: Stamper) -> None:
    stamped = _start(stamper, lambda connection: connection.sendall(ANSWER[:-1]))
    assert (stamped.failure, stamped.raw) == (StampFailure.BROKEN_OFF, b"")


def test_nobody_there_is_unreachable_and_holds_up_nobody_else(stamper: Stamper) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nowhere = Target((("127.0.0.1", int(closed.getsockname()[1])),))
    peer = Peer(lambda connection: connection.sendall(ANSWER))
    jobs = [StartJob(0, nowhere, REQUEST, 5, 1000), StartJob(1, peer.target, REQUEST, 5, 1000)]
    outcomes = {stamped.number: stamped.failure for stamped in stamper.run(jobs)}
    peer.close()
    assert outcomes == {0: StampFailure.UNREACHABLE, 1: None}


def test_second_address_is_tried_when_the_first_refuses(stamper: Stamper) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nowhere = ("127.0.0.1", int(closed.getsockname()[1]))
    peer = Peer(lambda connection: connection.sendall(ANSWER))
    (stamped,) = stamper.run([StartJob(0, Target((nowhere, *peer.target.addresses)), REQUEST, 5, 1000)])
    peer.close()
    assert stamped.failure is None


def test_process_that_dies_takes_its_batch_with_it_and_no_other() -> None:
    asked = threading.Event()

    def behave(_connection: socket.socket) -> None:
        asked.set()
        time.sleep(5)

    peer = Peer(behave)
    with Stamper() as stamper:
        batch = stamper.run([StartJob(0, peer.target, REQUEST, 10, 1000)])

        def kill() -> None:
            asked.wait(10)
            os.kill(stamper.pid or 0, signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        with pytest.raises(StamperDied):
            list(batch)
        killer.join()
        good = Peer(lambda connection: connection.sendall(ANSWER))
        (stamped,) = stamper.run([StartJob(0, good.target, REQUEST, 5, 1000)])
        good.close()
    peer.close()
    assert stamped.failure is None


def test_closing_ends_a_batch_that_is_under_way() -> None:
    asked = threading.Event()
    stamper = Stamper()

    def behave(_connection: socket.socket) -> None:
        asked.set()
        time.sleep(5)

    def close() -> None:
        asked.wait(10)
        stamper.close()

    peer = Peer(behave)
    closer = threading.Thread(target=close)
    closer.start()
    with pytest.raises(StamperDied):
        list(stamper.run([StartJob(0, peer.target, REQUEST, 30, 1000)]))
    closer.join()
    peer.close()


class CountedBytes(bytearray):
    """Counts how many of its bytes were searched."""

    searched = 0

    def find(self, wanted: bytes, first: int, end: int) -> int:  # type: ignore[override]  # as it is called
        self.searched += max(min(end, len(self)) - first, 0)
        return super().find(wanted, first, end)


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 100 + b"\r\n"]
)
def test_answer_that_drips_is_searched_once(head: bytes) -> None:
    """Other miners' stamps wait while a head is searched; one that comes byte by byte must not take the square of it."""

    async def feed() -> tuple[int, StampFailure | None]:
        exchange = _Exchange(10_000)
        exchange.send(REQUEST)
        exchange.raw = counted = CountedBytes()
        for byte in head + b"a" * 5000:
            exchange.data_received(bytes([byte]))
        exchange.connection_lost(None)
        return counted.searched, await exchange.done

    searched, outcome = asyncio.run(feed())
    assert outcome is None
    assert searched <= 4 * len(head)


@pytest.mark.parametrize("size", range(1, 6))
def test_length_is_found_wherever_the_head_is_cut(size: int) -> None:
    async def feed() -> StampFailure | None:
        exchange = _Exchange(1000)
        exchange.send(REQUEST)
        for start in range(0, len(ANSWER), size):
            exchange.data_received(ANSWER[start : start + size])
        return await exchange.done

    assert asyncio.run(asyncio.wait_for(feed(), 5)) is None


def test_answer_that_begins_before_the_question_is_none() -> None:
    """Its first stamp would lie before the start, and no such time can be kept."""
    listener = socket.create_server(("127.0.0.1", 0))
    target = Target((("127.0.0.1", int(listener.getsockname()[1])),))

    async def play() -> StampFailure | None:
        exchange = await _connect(target, 1000)
        assert not isinstance(exchange, StampFailure)
        connection, _ = listener.accept()
        with connection:
            connection.sendall(ANSWER[:1])
            failure = await asyncio.wait_for(exchange.done, 5)
            exchange.send(REQUEST)
            connection.sendall(ANSWER[1:])
            await asyncio.sleep(0)
            exchange.abort()
        assert exchange.first_byte_ns is None
        return failure

    with listener:
        assert asyncio.run(play()) is StampFailure.EARLY


def test_full_table_of_sockets_is_our_own_failure(stamper: Stamper) -> None:
    """Many devices of one miner must not make the others look absent."""

    def behave(connection: socket.socket) -> None:
        connection.sendall(ANSWER)

    peer = Peer(behave)
    assert [stamped.failure for stamped in stamper.run([StartJob(0, peer.target, REQUEST, 5.0, 1000)])] == [None]
    assert stamper.pid is not None
    limits = resource.prlimit(stamper.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(stamper.pid, resource.RLIMIT_NOFILE, (64, limits[1]))
    try:
        jobs = [StartJob(number, peer.target, REQUEST, 5.0, 1000) for number in range(96)]
        failures = Counter(stamped.failure for stamped in stamper.run(jobs))
    finally:
        resource.prlimit(stamper.pid, resource.RLIMIT_NOFILE, limits)
        peer.close()
    assert set(failures) == {None, StampFailure.EXHAUSTED}


def test_stamps_over_tls_begin_after_the_handshake_and_a_wrong_certificate_gets_nothing(stamper: Stamper) -> None:
    """Eight pings and a start to the pinned node; to the same server under another pin, not a byte."""
    node, other = identity("node"), identity("other")
    server = TlsServer(context_of(node), ANSWER)
    with server.running():
        address = (("127.0.0.1", server.port),)
        pinned = Target(address, TlsPeer(Pin(node.public_key, tls_public_key(node)), "localhost"))
        outcomes = {stamped.number: stamped for stamped in stamper.run([PingJob(1, pinned, REQUEST)])}
        (start,) = stamper.run([StartJob(2, pinned, REQUEST, 5, 1000)])
        assert outcomes[1].failure is None
        assert (outcomes[1].rtt_min_ns or 0) > 0
        assert (start.failure, start.raw) == (None, ANSWER)
        assert start.sent_ns is not None
        assert start.sent_ns < (start.first_byte_ns or 0) <= (start.last_byte_ns or 0)
        received = server.received_bytes
        assert received == (PINGS + 1) * len(REQUEST)
        for pin in (Pin(other.public_key), Pin(node.public_key, tls_public_key(other))):
            wrong = Target(address, TlsPeer(pin, "localhost"))
            failures = {stamped.failure for stamped in stamper.run([PingJob(1, wrong, REQUEST)])}
            failures |= {stamped.failure for stamped in stamper.run([StartJob(2, wrong, REQUEST, 5, 1000)])}
            assert failures == {StampFailure.REFUSED}
    assert server.received_bytes == received


def test_peer_that_speaks_no_tls_is_unreachable(stamper: Stamper) -> None:
    peer = Peer(lambda connection: connection.sendall(ANSWER))
    for name in ("localhost", ".no-name"):
        target = Target(peer.target.addresses, TlsPeer(Pin(), name))
        (stamped,) = stamper.run([StartJob(7, target, REQUEST, 5, 1000)])
        assert stamped.failure is StampFailure.UNREACHABLE
    peer.close()
