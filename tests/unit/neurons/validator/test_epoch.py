"""The loop: who is examined, under which number, and what is kept; and that none of it needs torch."""

from __future__ import annotations

import contextlib
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Response

from config.schema import Config
from neurons.base.access import Caller
from neurons.base.service import Supervisor
from neurons.miner.join import post
from neurons.validator.epoch import EpochService
from neurons.validator.metrics import FILE_NAME, MetricsHandler
from neurons.validator.node import ValidatorNode
from polarise.epoch_record import STATEMENT_KIND, EpochRecord, record_path
from polarise.errors import RejectReason
from polarise.evidence import read_bundle
from polarise.signing import Identity, Purpose, SigningKey
from polarise.statement import SignedStatement
from polarise.transaction import SetValue
from tests.support.proving_miner import MINER, VALIDATOR, challenge_of, entry_of, proving_miner
from tests.support.small_ledger import SmallLedger, small_ledger
from utils.clock import SystemClock

STRANGER = Identity(SigningKey(b"x" * 32))


class SteppedClock(SystemClock):
    """A wall clock that a test sets ahead."""

    def __init__(self) -> None:
        self.ahead_ms = 0

    def wall_unix_ms(self) -> int:
        return super().wall_unix_ms() + self.ahead_ms


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallLedger]:
    """One ledger for this file; each test registers its own miner over the one before."""
    with small_ledger(tmp_path_factory.mktemp("ledger")) as running:
        yield running


def _config(ledger: SmallLedger, **settings: object) -> Config:
    return Config.model_validate(
        {
            "ledger": ledger.settings(),
            "network": {"port": 0},
            "validator": {
                "public_url": "http://127.0.0.1:1",
                "allow_private_endpoints": True,
                "inspect": False,
                "read_telemetry": False,
                "proof_target_seconds": 1,
                **settings,
            },
        }
    )


@contextlib.contextmanager
def _epochs(node: ValidatorNode) -> Iterator[EpochService]:
    """The node's loop, to be turned by hand, with its outbox at work."""
    with node.data_dir, node._resources:
        _, outbox, _, epochs = node.build_services()
        assert isinstance(epochs, EpochService)
        supervisor = Supervisor(outbox)
        supervisor.start()
        try:
            yield epochs
        finally:
            supervisor.stop(10)


def test_rounds_over_a_registry_with_a_broken_entry(
    tmp_path: Path, ledger: SmallLedger, caplog: pytest.LogCaptureFixture
) -> None:
    clock = SteppedClock()
    node = ValidatorNode(_config(ledger), tmp_path / "node", VALIDATOR, clock=clock)
    with proving_miner(tmp_path) as miner, _epochs(node) as service, caplog.at_level(logging.INFO):
        ledger.register(entry_of(miner.endpoint))
        op = SetValue(path=f"/registry/{STRANGER.public_key}", value=entry_of(miner.endpoint).to_wire())
        post(ledger.client(), STRANGER, op)
        service.run_epoch(threading.Event())
        service.run_epoch(threading.Event())
        clock.ahead_ms += 49 * 3_600_000
        service._prune()
        clock.ahead_ms = 0
        service.run_epoch(threading.Event())
    events = [record.message for record in caplog.records if record.name.startswith("neurons.validator")]
    assert (
        events
        == [
            *("registry entry refused", "epoch started", "epoch committed"),
            *("proof sent", "proof answered", "proof verified") * 2,
            *("miner scored", "epoch finished"),
        ]
        * 3
    )
    with MetricsHandler(tmp_path / "node" / FILE_NAME) as metrics:
        stored = metrics.newest(MINER.public_key)
        rows = metrics.query("SELECT epoch, evidence, is_pruned FROM score ORDER BY epoch")
    assert stored is not None
    assert stored.record.score_ppm == 1_000_000
    assert rows[1]["epoch"] == rows[0]["epoch"] + 1
    assert [row["is_pruned"] for row in rows] == [1, 1, 0]
    bundles = [read_bundle(tmp_path / "node" / "evidence" / f"{row['evidence']}.json") for row in rows]
    assert [bundle.proofs[1].openings is None for bundle in bundles] == [True, True, False]
    assert bundles[1].previous == bundles[0].score


def test_unreachable_miner_is_scored_in_its_own_epoch(tmp_path: Path, ledger: SmallLedger) -> None:
    node = ValidatorNode(_config(ledger, inspect=True), tmp_path / "node", VALIDATOR)
    with _epochs(node) as service:
        ledger.register(entry_of("https://127.0.0.1:1"))
        service.run_epoch(threading.Event())
    with MetricsHandler(tmp_path / "node" / FILE_NAME) as metrics:
        stored = metrics.newest(MINER.public_key)
    assert stored is not None
    assert stored.record.score_ppm == 0
    assert {RejectReason.MISSING, RejectReason.ALLOCATE_FAILED} <= set(stored.record.reasons)


@pytest.mark.parametrize(
    ("path", "body", "reason"),
    [
        ("/challenge/open", f'{{"openings": [{{"at": {2**60}}}]}}', RejectReason.MALFORMED),
        ("/challenge/open", '{"openings": [{"at": 1e999}]}', RejectReason.MALFORMED),
        ("/challenge/start", '{"commitment": COMMITMENT}', RejectReason.BAD_SIGNATURE),
    ],
)
def test_answer_without_a_canonical_form_is_a_verdict_and_no_defect(
    tmp_path: Path, ledger: SmallLedger, path: str, body: str, reason: RejectReason
) -> None:
    """Numbers beyond what a hash can be taken of must not end the round for everybody else."""
    statement = entry_of().to_wire()
    commitment = {
        **statement,
        "certificate": {**MINER.subkey(Purpose.STATEMENT).certificate.to_wire(), "counter": 2**60},
    }
    text = body.replace("COMMITMENT", json.dumps(commitment))
    node = ValidatorNode(_config(ledger), tmp_path / "node", VALIDATOR)
    with proving_miner(tmp_path) as miner, _epochs(node) as service:
        miner.views[path] = lambda _caller, _body: Response(text, mimetype="application/json")
        ledger.register(entry_of(miner.endpoint))
        service.run_epoch(threading.Event())
    with MetricsHandler(tmp_path / "node" / FILE_NAME) as metrics:
        stored = metrics.newest(MINER.public_key)
    assert stored is not None
    assert stored.record.reasons[0] in {reason, RejectReason.MISSING}
    assert stored.record.score_ppm == 0


def test_private_endpoint_is_not_called_unless_allowed(tmp_path: Path, ledger: SmallLedger) -> None:
    node = ValidatorNode(_config(ledger, allow_private_endpoints=False), tmp_path / "node", VALIDATOR)
    with proving_miner(tmp_path) as miner, _epochs(node) as service:
        ledger.register(entry_of(miner.endpoint))
        service.run_epoch(threading.Event())
        assert miner.handler._tracker.newest(1) == []


def test_epoch_numbers_grow_whatever_the_clock_says(tmp_path: Path) -> None:
    with MetricsHandler(tmp_path / FILE_NAME) as metrics:
        assert metrics.next_epoch(10) == 10
        metrics.begin_epoch(challenge_of(entry_of(), epoch=10)[0], 1)
    with MetricsHandler(tmp_path / FILE_NAME) as metrics:
        assert metrics.next_epoch(10) == 11
        assert metrics.next_epoch(3) == 11
        assert metrics.next_epoch(12) == 12


def test_epoch_broken_off_is_recorded_at_the_next_start(tmp_path: Path, ledger: SmallLedger) -> None:
    node = ValidatorNode(_config(ledger), tmp_path / "node", VALIDATOR)
    stop = threading.Event()

    def stop_and_refuse(_caller: Caller, _body: bytes) -> Response:
        stop.set()
        return Response(status=503)

    with proving_miner(tmp_path) as miner, _epochs(node) as service:
        ledger.register(entry_of(miner.endpoint))
        miner.views["/challenge/prepare"] = stop_and_refuse
        service.run_epoch(stop)
    with MetricsHandler(tmp_path / "node" / FILE_NAME) as metrics:
        (left,) = metrics.unfinished()
    with _epochs(ValidatorNode(_config(ledger), tmp_path / "node", VALIDATOR)) as service:
        service.prepare()
        path = record_path(VALIDATOR.public_key, left.epoch)
        assert service._chain.is_final(path, 10)
    entry = ledger.client().get(path)
    assert entry is not None
    record = SignedStatement.model_validate(entry.value, strict=False).open(STATEMENT_KIND, EpochRecord)
    assert (record.status, record.miners_count, record.opening_key) == ("broken_off", 0, left.opening_key.hex())


def test_node_starts_at_once_and_ends_when_asked(
    tmp_path: Path, ledger: SmallLedger, caplog: pytest.LogCaptureFixture
) -> None:
    node = ValidatorNode(_config(ledger), tmp_path / "node", VALIDATOR)
    with caplog.at_level(logging.INFO):
        thread = threading.Thread(target=node.run)
        thread.start()
        for _ in range(1500):
            if "epoch finished" in caplog.messages:
                break
            threading.Event().wait(0.01)
        node.stop()
        thread.join(10)
    assert not thread.is_alive()
    assert caplog.messages.count("epoch started") == 1


def test_no_module_of_the_validator_imports_torch() -> None:
    """In a fresh interpreter where importing torch is an error."""
    program = (
        "import sys, importlib, pkgutil\n"
        "sys.modules['torch'] = None\n"
        "import neurons.validator as package\n"
        "names = [m.name for m in pkgutil.iter_modules(package.__path__)]\n"
        "[importlib.import_module(f'neurons.validator.{name}') for name in names]\n"
        "print(len(names))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 15
