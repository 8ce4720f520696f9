"""The validator as a witness of the ledger: by itself once per epoch, and for whoever asks over HTTP."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from config.schema import Config
from neurons.base.service import Supervisor
from neurons.validator.cosigning import Cosigner, block_order
from neurons.validator.node import WITNESS_FILE, ValidatorNode
from polarise.block import Block, SignedBlock, open_block
from polarise.checkpoint import check_cosignatures, open_checkpoint, parse_witness_key, sign_checkpoint
from polarise.cosignature import witness_name, witness_verifier
from polarise.decode import decode_model
from polarise.errors import LogFork
from polarise.genesis import Genesis
from polarise.merkle import EMPTY_ROOT
from polarise.signing import Purpose, SigningKey
from polarise.validator_messages import WitnessAnswer
from tests.support.audited_market import MarketFiles, validator_loop
from tests.support.clock import ManualClock
from tests.support.http import Answer, send
from tests.support.proving_miner import VALIDATOR, entry_of
from tests.support.small_ledger import LEDGER, SmallLedger, small_ledger
from tlog.witness import AddCheckpoint, Witness, log_name
from utils.clock import SystemClock

LOG_KEY = LEDGER.subkey(Purpose.LOG).key
ADD = "/witness/add-checkpoint"
NOW = 1_790_000_000


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallLedger]:
    with small_ledger(tmp_path_factory.mktemp("ledger")) as running:
        yield running


@dataclass(frozen=True)
class Served:
    """A validator whose API is up; its epochs do not run."""

    node: ValidatorNode
    genesis: Genesis

    @property
    def name(self) -> str:
        return log_name(self.genesis.origin)

    def get(self, target: str) -> Answer:
        return send(f"http://127.0.0.1:{self.node.http.port}", "GET", target)

    def add(self, old_size: int, note: bytes, *proof: bytes) -> Answer:
        return self.post(AddCheckpoint(old_size, proof, note).encode())

    def post(self, body: bytes) -> Answer:
        headers = {"Content-Type": "text/plain"}
        return send(f"http://127.0.0.1:{self.node.http.port}", "POST", ADD, headers=headers, body=body)


@pytest.fixture
def served(tmp_path: Path, ledger: SmallLedger) -> Iterator[Served]:
    config = Config.model_validate({"network": {"port": 0}, "ledger": ledger.settings()})
    node = ValidatorNode(config, tmp_path / "node", VALIDATOR, clock=ManualClock())
    with node.data_dir, node._resources:
        http = node.build_services()[0]
        http.prepare()
        supervisor = Supervisor(http)
        supervisor.start()
        try:
            yield Served(node, ledger.genesis)
        finally:
            assert supervisor.stop(10)


def signed_block(genesis: Genesis, height: int, *, state: str = "a" * 64, key: SigningKey = LOG_KEY) -> bytes:
    """Return an empty block that only the ledger's key makes one."""
    block = Block(genesis.origin, 0, EMPTY_ROOT, height, 1000 + height, state, "b" * 64)
    return sign_checkpoint(block.checkpoint(), key).raw


def with_size(note: bytes, size: int) -> bytes:
    """Return the ledger's signature over the same block with another size."""
    text = note.decode().split("\n\n")[0].split("\n")
    block = Block(text[0], size, bytes(32), 9, 9999, "a" * 64, "b" * 64)
    return sign_checkpoint(block.checkpoint(), LOG_KEY).raw


def test_whoever_asks_gets_the_cosignature_of_a_block(served: Served, ledger: SmallLedger) -> None:
    block = ledger.client().checkpoint()
    answer = served.add(0, block.raw)
    assert (answer.status, answer.headers["content-type"]) == (200, "text/plain; charset=utf-8")
    shown = decode_model(WitnessAnswer, served.get("/witness").body)
    verifier = parse_witness_key(shown.witness)
    assert verifier == witness_verifier(shown.certificate, VALIDATOR.public_key)
    note = served.get(f"/witness/{served.name}")
    assert note.body == block.raw + answer.body
    check_cosignatures(open_checkpoint(note.body, ledger.genesis.log), [verifier], 1)
    assert [(log.origin, log.name, log.size) for log in shown.logs] == [
        (ledger.genesis.origin, served.name, block.block.size)
    ]
    status = json.loads(served.get("/status").body)
    assert (status["witness"], status["cosigned_ledger_size"]) == (shown.witness, block.block.size)


def test_statuses_are_those_of_tlog_witness(served: Served, ledger: SmallLedger) -> None:
    genesis = ledger.genesis
    first = signed_block(genesis, 1)
    assert served.post(b"").status == 400
    assert served.post(b"old 00\n\n" + first).status == 400
    assert served.add(5, first).status == 400
    assert served.add(0, signed_block(genesis, 1, key=SigningKey(bytes(32)))).status == 403
    elsewhere = sign_checkpoint(
        replace(open_block(first, genesis.log).block, origin="else/where").checkpoint(), LOG_KEY
    )
    assert served.add(0, elsewhere.raw).status == 404
    assert served.post(b"old 0\n\n" + b"x" * 65536).status == 413
    assert served.get(f"/witness/{served.name}").status == 404
    assert served.add(0, first).status == 200
    stale = served.add(3, with_size(first, 4))
    assert (stale.status, stale.headers["content-type"], stale.body) == (409, "text/x.tlog.size", b"0\n")


def test_a_ledger_that_signed_two_blocks_of_one_height_gets_no_second_cosignature(
    served: Served, ledger: SmallLedger
) -> None:
    """The same leaves with another state: size and root alone would not show it."""
    first, second = signed_block(ledger.genesis, 5), signed_block(ledger.genesis, 5, state="c" * 64)
    assert served.add(0, first).status == 200
    assert served.add(0, second).status == 409
    assert served.add(0, signed_block(ledger.genesis, 4)).status == 409
    assert served.add(0, first).status == 200
    assert served.add(0, signed_block(ledger.genesis, 6)).status == 200
    with Witness(served.node.data_dir.root / WITNESS_FILE, "w", LOG_KEY, []) as kept:
        assert kept.evidence(ledger.genesis.origin) == [(first, second)]


def test_a_history_without_a_proof_is_refused(served: Served, ledger: SmallLedger) -> None:
    log = ledger.genesis.log
    first = with_size(signed_block(ledger.genesis, 1), 3)
    assert served.add(0, first).status == 200
    grown = replace(open_block(first, log).block, size=5, height=12, time_unix_ms=99999)
    answer = served.add(3, sign_checkpoint(grown.checkpoint(), LOG_KEY).raw, bytes(32))
    answer.assert_refused(422, "FORKED_CHECKPOINT", "proof")


@pytest.mark.parametrize("target", ["/witness/x", f"/witness/{'0' * 64}", "/witness/..%2Fstatus"])
def test_a_log_nobody_cosigned_is_not_found(served: Served, target: str) -> None:
    assert served.get(target).json["code"] == "NOT_FOUND"


def test_a_page_begins_at_a_name(served: Served) -> None:
    served.get("/witness?after=x").assert_refused(400, "INVALID_FIELD", "after")


def test_each_epoch_cosigns_the_newest_block(tmp_path: Path, ledger: SmallLedger) -> None:
    files = MarketFiles(tmp_path)
    seen: list[SignedBlock] = []
    for _ in range(2):
        with validator_loop(files, ledger) as loop:
            loop.run_epoch(threading.Event())
        with opened(tmp_path / "validator" / WITNESS_FILE, ledger) as witness:
            note = witness.latest(ledger.genesis.origin)
        assert note is not None
        seen.append(open_block(note, ledger.genesis.log))
        verifier = witness_verifier(VALIDATOR.subkey(Purpose.WITNESS).certificate, VALIDATOR.public_key)
        check_cosignatures(seen[-1].signed, [verifier], 1)
    assert seen[0].block.height < seen[1].block.height
    assert seen[0].block.size < seen[1].block.size


@contextlib.contextmanager
def opened(path: Path, ledger: SmallLedger) -> Iterator[Witness]:
    log = ledger.genesis.log
    key = VALIDATOR.subkey(Purpose.WITNESS).key
    name = witness_name(VALIDATOR.public_key)
    with Witness(path, name, key, [log], {log.name: block_order(log)}) as witness:
        yield witness


def test_a_block_shown_to_the_witness_alone_is_a_fork_of_the_ledger(tmp_path: Path, ledger: SmallLedger) -> None:
    ledger.register(entry_of())
    with opened(tmp_path / "witness.sqlite", ledger) as witness:
        cosigner = Cosigner(witness, VALIDATOR.subkey(Purpose.WITNESS).certificate, SystemClock())
        newest = ledger.client().checkpoint().block
        hidden = replace(newest, height=newest.height + 10**6, time_unix_ms=2**50, root=bytes(32))
        note = sign_checkpoint(hidden.checkpoint(), LOG_KEY).raw
        witness.add_checkpoint(AddCheckpoint(0, (), note).encode(), NOW)
        with pytest.raises(LogFork) as caught:
            cosigner.cosign_ledger(ledger.client())
    assert note in {caught.value.first, caught.value.second}


def test_a_ledger_that_is_away_stops_nothing(tmp_path: Path, ledger: SmallLedger) -> None:
    dead = SmallLedger("http://127.0.0.1:1", ledger.genesis, ledger.genesis_file)
    with opened(tmp_path / "witness.sqlite", ledger) as witness:
        cosigner = Cosigner(witness, VALIDATOR.subkey(Purpose.WITNESS).certificate, SystemClock())
        cosigner.cosign_ledger(dead.client())
        assert witness.page("", 10) == []
