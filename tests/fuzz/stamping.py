"""Targets: an answer as the stamping process takes it off the wire, and as it is read afterwards.

The first line of an input says where the bytes behind it are cut: ``3,17`` are three pieces, ``*`` is byte by byte. With
``!`` in it the connection breaks off at the end, with ``?`` it stays open.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

from challenges.draw import ChallengeKind
from neurons.validator.stamper_process import StampFailure, _Exchange
from polarise.clients import MinerClient
from polarise.errors import RequestRejected, Unavailable
from polarise.http_wire import MAX_HEAD_BYTES, border, parse_answer
from tests.fuzz.proofs import commitment
from tests.fuzz.signed import wire
from tests.fuzz.target import KIB, Call, Target, plain
from tests.support.identities import identity

ANSWER_BYTES_MAX = 64 * KIB
PIECES_MAX = 4096
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
CLIENT = MinerClient("http://127.0.0.1:1", identity("node").public_key, identity("caller"), timeout_seconds=1)


def _answers() -> list[bytes]:
    return [
        HEAD + b"Content-Length: 5\r\n\r\nhello",
        HEAD + b"content-length:\t5 \r\nX: y\r\n\r\nhello",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nTrailer: a\r\n\r\n",
        HEAD + b"\r\nuntil the end",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 2\r\nRetry-After: 7\r\n\r\n{}",
    ]


def _parsed(raw: bytes) -> object:
    with border("a miner"):
        return parse_answer(raw, "POST", ANSWER_BYTES_MAX)


def _committed(raw: bytes) -> object:
    return CLIENT.commit_answer(raw, max_bytes=ANSWER_BYTES_MAX)


def _committed_seed() -> bytes:
    body = b'{"status":"success","commitment":' + wire(commitment(ChallengeKind.MATMUL)) + b"}"
    return HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body


def _pieces(cuts: bytes, answer: bytes) -> Sequence[bytes]:
    if b"*" in cuts:
        ends = list(range(min(len(answer), PIECES_MAX)))
    else:
        ends = sorted({int(digits) % (len(answer) + 1) for digits in re.findall(rb"[0-9]{1,9}", cuts)})
    return [answer[start:end] for start, end in pairwise([0, *ends, len(answer)]) if end > start]


@contextlib.contextmanager
def _exchange() -> Iterator[Call]:
    """Feed one connection; whatever comes ends in an outcome, and no more is kept than the bound says."""
    loop = asyncio.new_event_loop()

    async def feed(raw: bytes) -> StampFailure | None:
        cuts, _, answer = raw.partition(b"\n")
        exchange = _Exchange(ANSWER_BYTES_MAX)
        exchange.send(b"")
        longest = 0
        for piece in _pieces(cuts, answer):
            exchange.data_received(piece)
            longest = max(longest, len(piece))
        if b"?" in cuts:
            # What `_start_together` says at the deadline.
            exchange.end(StampFailure.LATE)
        else:
            exchange.connection_lost(OSError() if b"!" in cuts else None)
        outcome = await exchange.done
        assert len(exchange.raw) <= ANSWER_BYTES_MAX + MAX_HEAD_BYTES + longest
        assert (exchange.first_byte_ns is None) is (not answer)
        if outcome is None:
            with contextlib.suppress(Unavailable):
                _parsed(bytes(exchange.raw))
        return outcome

    try:
        yield lambda raw: loop.run_until_complete(feed(raw))
    finally:
        loop.close()


TARGETS = (
    Target(
        "polarise.http_wire.parse_answer",
        plain(_parsed),
        _answers,
        (Unavailable,),
        ANSWER_BYTES_MAX + MAX_HEAD_BYTES,
        weight=2,
    ),
    Target(
        "polarise.clients.MinerClient.commit_answer",
        plain(_committed),
        lambda: [_committed_seed()],
        (Unavailable, RequestRejected),
        ANSWER_BYTES_MAX + MAX_HEAD_BYTES,
        weight=2,
    ),
    Target(
        "neurons.validator.stamper_process._Exchange",
        _exchange,
        lambda: [
            *(
                cuts + b"\n" + answer
                for cuts, answer in zip((b"*", b"3,60", b"", b"*!", b"9?"), _answers(), strict=True)
            )
        ],
        (),
        ANSWER_BYTES_MAX + MAX_HEAD_BYTES,
        # A piece costs a dozen calls, and there may be as many as bytes.
        calls_base=80_000,
        weight=2,
    ),
)
