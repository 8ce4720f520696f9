"""Targets: what a ledger shows of the state of a block, and the proof that it stands there."""

from __future__ import annotations

import contextlib
import functools
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from neurons.ledger.access_table import LEDGER_ACCESS
from polarise.answers import MAX_ANSWER_BYTES
from polarise.decode import decode_json, decode_model
from polarise.errors import LogFork, RequestRejected, Unavailable
from polarise.http_client import HttpClient
from polarise.ledger_client import LedgerClient
from polarise.merkle import InvalidProof
from polarise.state_messages import StateWay
from polarise.state_proof import check_subtree, check_value
from tests.fuzz.ledger import small_ledger
from tests.fuzz.network import ledger_routes, serving
from tests.fuzz.replayer import Replayer
from tests.fuzz.target import KIB, Call, Target, plain
from tests.unit.ledger.small_market import GENESIS, MINER, OTHER_VALIDATOR

STANDS = f"/registry/{MINER.public_key}"
ABSENT = f"/registry/{OTHER_VALIDATOR.public_key}"
BELOW = "/registry"


@functools.cache
def _answers() -> dict[str, bytes]:
    """What a real ledger answers, by path; for the subtree with all values."""
    routes = {STANDS: "/state", ABSENT: "/state", BELOW: "/state/values"}
    with (
        tempfile.TemporaryDirectory() as folder,
        small_ledger(Path(folder) / "ledger.sqlite") as ledger,
        serving(LEDGER_ACCESS, ledger_routes(ledger)) as port,
    ):
        client = HttpClient(f"http://127.0.0.1:{port}")
        return {
            path: client.request("GET", f"{route}?path={path}", timeout_seconds=5, max_bytes=MAX_ANSWER_BYTES).body
            for path, route in routes.items()
        }


def _reading(read: Callable[[LedgerClient], object]) -> Callable[[], contextlib.AbstractContextManager[Call]]:
    @contextlib.contextmanager
    def opened() -> Iterator[Call]:
        with Replayer() as replayer:

            def call(raw: bytes) -> object:
                replayer.answer(raw)
                return read(LedgerClient(replayer.url, GENESIS, timeout_seconds=5))

            yield call

    return opened


def _read_one(client: LedgerClient) -> object:
    """Ask for the path that the answer is about, if it is one of ours: every answer is right for some question."""
    try:
        return client.read(STANDS).value
    except Unavailable as err:
        if "answered for" not in str(err):
            raise
        return client.read(ABSENT).value


def _way(raw: bytes) -> None:
    """Check a way against roots that it does not lead to, or does: the value is part of the input."""
    value = decode_json(raw, max_bytes=MAX_ANSWER_BYTES)
    if not isinstance(value, dict) or not isinstance(value.get("way"), dict):
        return
    way = decode_model(StateWay, json.dumps(value["way"]).encode(), max_bytes=MAX_ANSWER_BYTES).way()
    for path in (STANDS, ABSENT, "/a", "/a/b/c/d/e/f/g/h"):
        for text, children in ((None, None), (b"1", bytes(32)), (b"1", b""), (None, bytes(32))):
            with contextlib.suppress(InvalidProof):
                check_value(bytes(32), path, text, children, way)
        for texts in ({}, {path: b"1"}, {f"{path}/a": b"1", "/elsewhere": b"2"}):
            with contextlib.suppress(InvalidProof):
                check_subtree(bytes(32), path, texts, way)


TARGETS = (
    Target(
        "polarise.ledger_state.StateReader.value",
        _reading(_read_one),
        lambda: [_answers()[STANDS], _answers()[ABSENT]],
        (Unavailable, LogFork),
        MAX_ANSWER_BYTES,
        memory_base_bytes=1024 * KIB,
        weight=6,
    ),
    Target(
        "polarise.ledger_state.StateReader.subtree",
        _reading(lambda client: client.read_below(BELOW).texts),
        lambda: [_answers()[BELOW]],
        (Unavailable, LogFork),
        MAX_ANSWER_BYTES,
        memory_base_bytes=1024 * KIB,
        weight=6,
    ),
    Target(
        "polarise.state_proof.check_value",
        plain(_way),
        lambda: list(_answers().values()),
        (RequestRejected,),
        MAX_ANSWER_BYTES,
        covers=("polarise.state_proof.check_subtree",),
        weight=2,
    ),
)
