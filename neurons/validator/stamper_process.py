"""The process that takes the stamps: it connects, sends prepared bytes, notes when bytes come, and does nothing else.

Rules:
- It signs nothing, parses nothing but the length of an answer, and verifies nothing of it: whoever started it does that,
  in another process, so that no work of ours ever stands between a byte and its stamp.
- All connections of a wave are open before the first start is sent; then all starts leave within one loop. With https
  that includes the handshake and the look at the certificate; whoever shows another than the pinned is sent nothing.
- ``sent_ns`` is taken right before a request is written, ``first_byte_ns`` and ``last_byte_ns`` when bytes are there; with
  https the bytes are the decrypted ones, at most a record of 16 KiB after they arrived.
- Pings go out in the order of their jobs, a few at a time, and for so long only: an endpoint that answers slowly holds up
  none that comes before it, and not for ever those behind it.
- Every answer is bounded in bytes and in time; what goes wrong with one connection ends that one only. Who speaks before
  it was asked has answered something else: no stamp of an answer lies before its question.
- That we have no socket left is our own failure, and no peer's.
- What comes in over the pipe are numbers and bytes of our own making, what goes out are numbers and a peer's raw bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import queue
import re
import signal
import threading
import time
from asyncio.sslproto import SSLProtocol
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from multiprocessing.connection import Connection

from polarise.errors import PeerRefused
from polarise.http_wire import MAX_HEAD_BYTES
from polarise.tls import TlsPeer, client_context

PINGS = 8
PINGS_SECONDS = 5.0
# So much later than the first, nobody is pinged any more: what all others prepared must not grow old meanwhile.
PING_TURN_SECONDS = 40.0
CONNECT_SECONDS = 5.0
# What a handshake may cost this process: those of a wave are all done at once, and nobody is late for our own work.
HANDSHAKE_SECONDS = 0.005
# More pings at once would measure this loop and not the way there.
PINGED_AT_ONCE = 32
PING_BYTES_MAX = 64 * 1024
TLS_BUFFER_BYTES = 32 * 1024

# What the system says when it is our own table that is full.
_OURS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS})
_HEAD_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,12})[ \t]*\r\n", re.IGNORECASE)


class StampFailure(StrEnum):
    """Why an answer is none."""

    LATE = "no complete answer in time"
    UNREACHABLE = "no connection"
    BROKEN_OFF = "the connection ended before the answer"
    TOO_LARGE = "the answer is larger than an honest one"
    EARLY = "the answer began before the question"
    NO_TURN = "its turn to be pinged did not come in time"
    EXHAUSTED = "this validator has no socket left"
    REFUSED = "the TLS certificate is not the one of this miner"


@dataclass(frozen=True, slots=True)
class Target:
    """Where to connect: addresses that were resolved and judged already, tried in turn; and who must be there with TLS."""

    addresses: tuple[tuple[str, int], ...]
    tls: TlsPeer | None = None


@dataclass(frozen=True, slots=True)
class PingJob:
    """Measure the way to one peer: `PINGS` times the same request, each on a connection of its own."""

    number: int
    target: Target
    request: bytes


@dataclass(frozen=True, slots=True)
class StartJob:
    """Send one request at the wave's start.

    Attributes:
        number: The caller's name for it.
        target: Where to.
        request: The whole request.
        deadline_seconds: From the start to the last byte.
        max_bytes: Bound of the answer, head and body.
    """

    number: int
    target: Target
    request: bytes
    deadline_seconds: float
    max_bytes: int


@dataclass(frozen=True, slots=True)
class Stamped:
    """What came of one job; all times are this machine's monotonic clock.

    Attributes:
        number: As in the job.
        failure: Why there is no answer.
        rtt_min_ns: Smallest round trip; of a `PingJob` only.
        sent_ns: Right before the request was written.
        first_byte_ns: When the first bytes were there.
        last_byte_ns: When the last ones were.
        raw: The answer's bytes, head and body.
    """

    number: int
    failure: StampFailure | None = None
    rtt_min_ns: int | None = None
    sent_ns: int | None = None
    first_byte_ns: int | None = None
    last_byte_ns: int | None = None
    raw: bytes = b""


def main(connection: Connection) -> None:
    """Answer batches of jobs until the other end closes; after the last answer of a batch comes None."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers: queue.SimpleQueue[Stamped | None] = queue.SimpleQueue()
    threading.Thread(target=_send, args=(connection, answers), name="stamps-out", daemon=True).start()
    # asyncio takes 256 KiB for each TLS connection, and a wave has one for every device; a record has 16.
    SSLProtocol.max_size = TLS_BUFFER_BYTES
    # No collection may fall between a byte and its stamp; a batch leaves no cycles worth one.
    gc.disable()
    with contextlib.suppress(EOFError, OSError):
        while True:
            jobs = connection.recv()
            asyncio.run(_run(jobs, answers))
            answers.put(None)
            gc.collect()


def _send(connection: Connection, answers: queue.SimpleQueue[Stamped | None]) -> None:
    """Write answers from a thread of its own: a full pipe must not hold up the loop."""
    with contextlib.suppress(OSError):
        while True:
            connection.send(answers.get())


async def _run(jobs: Sequence[PingJob | StartJob], answers: queue.SimpleQueue[Stamped | None]) -> None:
    began_ns = time.monotonic_ns()
    pings = [job for job in jobs if isinstance(job, PingJob)]
    starts = [job for job in jobs if isinstance(job, StartJob)]
    at_once = asyncio.Semaphore(PINGED_AT_ONCE)
    await asyncio.gather(*(_ping(job, at_once, began_ns, answers) for job in pings))
    await _start_together(starts, answers)


async def _ping(
    job: PingJob, at_once: asyncio.Semaphore, began_ns: int, answers: queue.SimpleQueue[Stamped | None]
) -> None:
    trips: list[int] = []
    failure: StampFailure | None = None
    async with at_once:
        if time.monotonic_ns() - began_ns > PING_TURN_SECONDS * 1e9:
            answers.put(Stamped(job.number, StampFailure.NO_TURN))
            return
        try:
            async with asyncio.timeout(PINGS_SECONDS):
                while len(trips) < PINGS and failure is None:
                    trip_ns, failure = await _one_ping(job)
                    trips.append(trip_ns)
        except TimeoutError:
            failure = StampFailure.LATE
    answers.put(Stamped(job.number, failure, rtt_min_ns=None if failure else min(trips)))


async def _one_ping(job: PingJob) -> tuple[int, StampFailure | None]:
    exchange = await _connect(job.target, PING_BYTES_MAX)
    if isinstance(exchange, StampFailure):
        return 0, exchange
    try:
        exchange.send(job.request)
        failure = await exchange.done
        return (exchange.first_byte_ns or exchange.sent_ns) - exchange.sent_ns, failure
    finally:
        exchange.abort()


async def _start_together(jobs: Sequence[StartJob], answers: queue.SimpleQueue[Stamped | None]) -> None:
    seconds = CONNECT_SECONDS + HANDSHAKE_SECONDS * sum(job.target.tls is not None for job in jobs)
    exchanges = await asyncio.gather(*(_connect(job.target, job.max_bytes, seconds) for job in jobs))
    loop = asyncio.get_running_loop()
    tasks = []
    for job, exchange in zip(jobs, exchanges, strict=True):
        if isinstance(exchange, StampFailure):
            answers.put(Stamped(job.number, exchange))
            continue
        exchange.send(job.request)
        loop.call_later(job.deadline_seconds, exchange.end, StampFailure.LATE)
        tasks.append(_finish(job, exchange, answers))
    await asyncio.gather(*tasks)


async def _finish(job: StartJob, exchange: _Exchange, answers: queue.SimpleQueue[Stamped | None]) -> None:
    failure = await exchange.done
    exchange.abort()
    answers.put(
        Stamped(
            job.number,
            failure,
            None,
            exchange.sent_ns,
            exchange.first_byte_ns,
            exchange.last_byte_ns,
            b"" if failure else bytes(exchange.raw),
        )
    )


async def _connect(target: Target, max_bytes: int, seconds: float = CONNECT_SECONDS) -> _Exchange | StampFailure:
    failure = StampFailure.UNREACHABLE
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            for host, port in target.addresses:
                try:
                    return await _open(host, port, target.tls, max_bytes)
                except PeerRefused:
                    failure = StampFailure.REFUSED
                except ValueError:
                    continue  # a host of the registry's that is no name of a server
                except OSError as err:
                    failure = StampFailure.EXHAUSTED if err.errno in _OURS else failure
    return failure


async def _open(host: str, port: int, tls: TlsPeer | None, max_bytes: int) -> _Exchange:
    loop = asyncio.get_running_loop()
    if tls is None:
        return (await loop.create_connection(lambda: _Exchange(max_bytes), host, port))[1]
    transport, exchange = await loop.create_connection(
        lambda: _Exchange(max_bytes), host, port, ssl=client_context(), server_hostname=tls.server_name
    )
    try:
        shown = transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
        tls.pin.check(shown, time.time_ns() // 1_000_000)
    except PeerRefused:
        transport.abort()
        raise
    return exchange


@dataclass(eq=False)
class _Exchange(asyncio.Protocol):
    """One request and its answer."""

    max_bytes: int
    raw: bytearray = field(default_factory=bytearray)
    sent_ns: int = 0
    first_byte_ns: int | None = None
    last_byte_ns: int | None = None
    expected_bytes: int | None = None
    has_head: bool = False
    transport: asyncio.Transport | None = None
    done: asyncio.Future[StampFailure | None] = field(init=False)

    def __post_init__(self) -> None:
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):
            self.transport = transport

    def send(self, request: bytes) -> None:
        """Stamp and write."""
        self.sent_ns = time.monotonic_ns()
        if self.transport is not None:
            self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        now_ns = time.monotonic_ns()
        if self.done.done():
            return
        if self.sent_ns == 0:
            self.end(StampFailure.EARLY)
            return
        if self.first_byte_ns is None:
            self.first_byte_ns = now_ns
        self.last_byte_ns = now_ns
        self.raw += data
        if len(self.raw) > self.max_bytes + MAX_HEAD_BYTES:
            self.end(StampFailure.TOO_LARGE)
            return
        if not self.has_head:
            self._look_for_length(len(data))
        if self.expected_bytes is not None and len(self.raw) >= self.expected_bytes:
            self.end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        # Without a length the end of the connection is the end of the answer.
        is_complete = exc is None and self.expected_bytes is None and self.has_head
        self.end(None if is_complete else StampFailure.BROKEN_OFF)

    def end(self, failure: StampFailure | None) -> None:
        """Settle the outcome; the first one counts."""
        if not self.done.done():
            self.done.set_result(failure)

    def abort(self) -> None:
        """Close at once."""
        if self.transport is not None:
            self.transport.abort()

    def _look_for_length(self, new_bytes: int) -> None:
        """Look at every byte of the head once, however small the pieces are: the other answers' stamps wait meanwhile."""
        first = max(len(self.raw) - new_bytes - len(_HEAD_END) + 1, 0)
        head_bytes = self.raw.find(_HEAD_END, first, MAX_HEAD_BYTES)
        if head_bytes < 0:
            if len(self.raw) >= MAX_HEAD_BYTES:
                self.end(StampFailure.TOO_LARGE)
            return
        self.has_head = True
        found = _LENGTH.search(self.raw, 0, head_bytes + 2)
        if found is not None:
            body_bytes = int(found[1])
            self.expected_bytes = head_bytes + len(_HEAD_END) + body_bytes
            if body_bytes > self.max_bytes:
                self.end(StampFailure.TOO_LARGE)
