"""The loop: who is examined, under which number, and what is kept; and that none of it needs torch."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Response

from config.schema import Config
from neurons.base.access import Caller
from neurons.base.ledger_post import post
from neurons.base.outbox import Outbox
from neurons.base.service import Supervisor
from neurons.validator.epoch import EpochService, seconds_to_next
from neurons.validator.metrics import FILE_NAME, MetricsHandler
from neurons.validator.node import ValidatorNode
from neurons.validator.replay import replay
from neurons.validator.rounds import RoundOutcome
from neurons.validator.wave import DEFECT
from polarise.clients import MinerClient
from polarise.epoch_record import STATEMENT_KIND, EpochRecord, record_path
from polarise.errors import RejectReason
from polarise.evidence import VerdictRecord, read_bundle
from polarise.excuse import Excuse
from polarise.ledger_registry import FOLDER
from polarise.messages import PrepareAnswer
from polarise.occupied import sign_order
from polarise.openings import GoneReason, word_of
from polarise.registry import STATEMENT_KIND as ENTRY_KIND
from polarise.registry import RegistryEntry
from polarise.rented import CountersignedReceipt, ShownLease
from polarise.signing import Certificate, Identity, Purpose, SigningKey
from polarise.statement import SignedStatement, sign_statement
from polarise.transaction import SetValue
from tests.support.proving_miner import CPU, MINER, OWNER, VALIDATOR, challenge_of, entry_of, proving_miner
from tests.support.small_ledger import SmallLedger, small_ledger
from utils.clock import SystemClock

STRANGER = Identity(SigningKey(b"x" * 32))
_KEY = SigningKey(b"b" * 32)
ANOTHER = Identity(_KEY, Certificate.issue(OWNER, _KEY.public_key, Purpose.NODE))


# Bodies with a number that no hash can be taken of, well formed in every other respect.
_UNHASHED = json.dumps({**entry_of().to_wire(), "body": {"number": 2**60}})
_UNHASHED_LEASE = f'{{"receipt": {_UNHASHED}, "countersignature": {_UNHASHED}}}'


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
                "proof_every": 1,
                **settings,
            },
        }
    )


@contextlib.contextmanager
def _epochs(node: ValidatorNode) -> Iterator[EpochService]:
    """The node's loop, to be turned by hand, with its outbox at work."""
    with node.data_dir, node._resources:
        services = node.build_services()
        (epochs,) = [service for service in services if isinstance(service, EpochService)]
        (outbox,) = [service for service in services if isinstance(service, Outbox)]
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
        post(ledger.client(), STRANGER, _misplaced(entry_of(miner.endpoint)))
        service.run_epoch(threading.Event())
        service.run_epoch(threading.Event())
        clock.ahead_ms += 49 * 3_600_000
        service._retention.prune()
        clock.ahead_ms = 0
        service.run_epoch(threading.Event())
    events = [record.message for record in caplog.records if record.name.startswith("neurons.validator")]
    assert (
        events
        == [
            *("registry entry refused", "epoch started", "epoch committed", "epoch drawn"),
            *("proof sent", "proof answered") * 2,
            *("proof verified",) * 2,
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
    assert [(bundle.retention_hours, bundle.openings_gone) for bundle in bundles] == [(48, None)] * 3
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
        ("/challenge/open", f'{{"openings": [{{"at": {2**60}}}]}}', RejectReason.OPENING_LATE),
        ("/challenge/open", '{"openings": [{"at": 1e999}]}', RejectReason.OPENING_LATE),
        ("/challenge/start", '{"commitment": COMMITMENT}', RejectReason.MISSING),
        ("/challenge/start", f'{{"commitment": {_UNHASHED}}}', RejectReason.MISSING),
        ("/challenge/prepare", f'{{"status": "rented", "lease": {_UNHASHED_LEASE}}}', RejectReason.MISSING),
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
    assert stored.record.reasons[0] is reason
    assert stored.record.score_ppm == 0
    # And an auditor finds nothing amiss: whoever judged has to be able to show why.
    bundle = read_bundle(tmp_path / "node" / "evidence" / f"{stored.evidence}.json")
    findings = replay(bundle)
    assert False not in [finding.holds for finding in findings]
    # For people: no word of the language that it is written in.
    said = " ".join(finding.detail for finding in findings)
    assert not re.search(r"None|True|False|Params\(|<class|\{'", said), said


def test_evidence_that_cannot_be_kept_leaves_a_score_without_it(tmp_path: Path, ledger: SmallLedger) -> None:
    """A miner without a line would make the record of an honest validator wrong."""
    node = ValidatorNode(_config(ledger), tmp_path / "node", VALIDATOR)
    unhashed = Excuse(leases=(ShownLease.of(CountersignedReceipt.model_validate_json(_UNHASHED_LEASE)),))
    with proving_miner(tmp_path) as miner, _epochs(node) as service:
        run = service._rounds.run

        def spoiled(*arguments: object, **named: object) -> RoundOutcome | None:
            outcome = run(*arguments, **named)  # type: ignore[arg-type]
            assert outcome is not None
            proofs = outcome.proofs[MINER.public_key]
            proofs = tuple(proof.model_copy(update={"excuse": unhashed}) for proof in proofs)
            return dataclasses.replace(outcome, proofs={MINER.public_key: proofs})

        service._rounds.run = spoiled  # type: ignore[method-assign]
        ledger.register(entry_of(miner.endpoint))
        service.run_epoch(threading.Event())
    with MetricsHandler(tmp_path / "node" / FILE_NAME) as metrics:
        stored = metrics.newest(MINER.public_key)
        assert metrics.unfinished() == []
    assert stored is not None
    bundle = read_bundle(tmp_path / "node" / "evidence" / f"{stored.evidence}.json")
    assert {proof.verdict.message for proof in bundle.proofs} == {DEFECT}
    assert False not in [finding.holds for finding in replay(bundle)]


def _entry_of_another(endpoint: str) -> SignedStatement:
    entry = entry_of(endpoint).open(ENTRY_KIND, RegistryEntry)
    keys = {"node_key": ANOTHER.public_key, "owner_certificate": ANOTHER.owner_certificate}
    return sign_statement(ANOTHER, ENTRY_KIND, entry.model_copy(update=keys))


def _misplaced(statement: SignedStatement) -> SetValue:
    """The miner's entry under the stranger's name, where nobody but the stranger can put it."""
    return SetValue(path=f"{FOLDER}/{STRANGER.public_key}", value=statement.to_wire())


class DefectiveNode(ValidatorNode):
    """A validator with a bug that only one miner brings to light."""

    def client(self, entry: RegistryEntry) -> MinerClient:
        if entry.node_key == ANOTHER.public_key:
            raise ZeroDivisionError("the bug")
        return super().client(entry)


def test_defect_with_one_miner_ends_the_epoch_for_nobody_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    # Examined in the order of the keys: the one with the bug first.
    assert ANOTHER.public_key < MINER.public_key
    with small_ledger(tmp_path) as ledger, proving_miner(tmp_path) as miner:
        node = DefectiveNode(_config(ledger), tmp_path / "node", VALIDATOR)
        ledger.register(entry_of(miner.endpoint))
        ledger.register(_entry_of_another(miner.endpoint), ANOTHER)
        with _epochs(node) as service:
            service.run_epoch(threading.Event())
    with MetricsHandler(tmp_path / "node" / FILE_NAME) as metrics:
        assert metrics.unfinished() == []
        (row,) = metrics.epochs(10)
        scores = metrics.scores_of(row.epoch)
        left = read_bundle(tmp_path / "node" / "evidence" / f"{scores[0].evidence}.json")
    assert [(score.miner_key, score.record.score_ppm) for score in scores] == [
        (ANOTHER.public_key, 0),
        (MINER.public_key, 1_000_000),
    ]
    # A score that says so is left of the defect, and it holds for an auditor.
    assert {(proof.verdict.reason, proof.verdict.message) for proof in left.proofs} == {
        (RejectReason.NOT_MEASURED, DEFECT)
    }
    assert False not in [finding.holds for finding in replay(left)]
    (defect,) = [record for record in caplog.records if record.message == "examination failed"]
    assert vars(defect)["miner_key"] == ANOTHER.public_key
    assert defect.exc_info is not None
    assert defect.exc_info[0] is ZeroDivisionError


def test_claim_that_carries_no_proof_is_not_met_and_replays(tmp_path: Path, ledger: SmallLedger) -> None:
    """Memory claimed small must not make the proof small: the matmul proof is never asked for."""
    device = CPU.model_copy(update={"memory_bytes": 1 << 20, "matmul_ops_per_second": 10**13})
    node = ValidatorNode(_config(ledger), tmp_path / "node", VALIDATOR)
    with proving_miner(tmp_path) as miner, _epochs(node) as service:
        ledger.register(entry_of(miner.endpoint, devices=(device,)))
        service.run_epoch(threading.Event())
    (path,) = (tmp_path / "node" / "evidence").iterdir()
    bundle = read_bundle(path)
    assert [proof.verdict.reason for proof in bundle.proofs] == [None, RejectReason.CLAIM_NOT_MET]
    assert bundle.proofs[1].commitment is None
    assert bundle.score.gate == 0
    assert False not in [finding.holds for finding in replay(bundle)]
    passed = bundle.proofs[1].model_copy(update={"verdict": VerdictRecord(reason=RejectReason.MISSING)})
    findings = replay(bundle.model_copy(update={"proofs": (bundle.proofs[0], passed)}))
    assert "matmul proof of cpu: claim" in [finding.what for finding in findings if finding.holds is False]


def test_bundle_too_large_for_any_reader_is_kept_without_its_openings(
    tmp_path: Path, ledger: SmallLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = ValidatorNode(_config(ledger), tmp_path / "node", VALIDATOR)
    with proving_miner(tmp_path) as miner, _epochs(node) as service:
        ledger.register(entry_of(miner.endpoint))
        service.run_epoch(threading.Event())
        (first,) = (tmp_path / "node" / "evidence").iterdir()
        # The second holds the first score too, so that only its openings are what is too much.
        monkeypatch.setattr("polarise.evidence.MAX_BUNDLE_BYTES", first.stat().st_size)
        service.run_epoch(threading.Event())
    (second,) = (path for path in (tmp_path / "node" / "evidence").iterdir() if path != first)
    bundle = read_bundle(second)
    assert bundle.proofs[1].openings is None
    assert bundle.proofs[1].openings_digest is not None
    word = word_of(bundle)
    assert word is not None
    assert word.reason is GoneReason.SIZE
    assert False not in [finding.holds for finding in replay(bundle)]


def test_miner_that_lets_everything_wait_uses_up_its_own_time(
    tmp_path: Path, ledger: SmallLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neurons.validator.examination.INSPECTION_SECONDS", 0.0)
    monkeypatch.setattr("neurons.validator.challenges.PREPARE_SECONDS", 0.3)
    released = threading.Event()

    def hang(_caller: Caller, _body: bytes) -> Response:
        released.wait(10)
        return Response("{}", mimetype="application/json")

    node = ValidatorNode(_config(ledger, inspect=True), tmp_path / "node", VALIDATOR)
    with proving_miner(tmp_path) as miner, _epochs(node) as service:
        miner.views["/challenge/prepare"] = hang
        ledger.register(entry_of(miner.endpoint))
        service.run_epoch(threading.Event())
        released.set()
    (path,) = (tmp_path / "node" / "evidence").iterdir()
    bundle = read_bundle(path)
    assert [proof.verdict.reason for proof in bundle.proofs] == [RejectReason.MISSING] * 2
    assert bundle.round is not None
    # It was never measured, so that its silence is no sign of a broken network.
    assert (bundle.round.attempt, bundle.round.devices_count, bundle.round.missing_count) == (0, 0, 0)
    assert bundle.inspection is not None
    assert "used up" in bundle.inspection.verdict.message
    assert bundle.inspection.verdict.reason is RejectReason.ALLOCATE_FAILED
    assert False not in [finding.holds for finding in replay(bundle)]


def test_who_earns_is_examined_however_long_the_others_take(
    tmp_path: Path, ledger: SmallLedger, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A new key can keep an inspection and the reading of its log waiting for 110 s, in every epoch."""
    monkeypatch.setattr("neurons.validator.epoch.EXAMINE_TURN_SECONDS", -1.0)
    node = ValidatorNode(_config(ledger), tmp_path / "node", VALIDATOR)
    left_out = []
    with proving_miner(tmp_path) as miner, _epochs(node) as service, caplog.at_level(logging.INFO):
        ledger.register(entry_of(miner.endpoint))
        for _ in range(2):
            caplog.clear()
            service.run_epoch(threading.Event())
            left_out.append(any("its turn did not come" in record.message for record in caplog.records))
    # It was new in the first one, and has all of the weight by then.
    assert left_out == [True, False]
    for path in (tmp_path / "node" / "evidence").iterdir():
        assert False not in [finding.holds for finding in replay(read_bundle(path))]


def test_excuse_that_does_not_hold_stands_in_the_bundle(tmp_path: Path, ledger: SmallLedger) -> None:
    """It lies in a file until then; an auditor finds that it was none."""
    order = sign_order(
        ANOTHER,
        miner_key=MINER.public_key,
        device="cpu",
        kind="pow",
        challenge_id="0" * 32,
        step="prepare",
        ordered_unix_ms=1,
    )
    node = ValidatorNode(_config(ledger), tmp_path / "node", VALIDATOR)
    with proving_miner(tmp_path) as miner, _epochs(node) as service:
        miner.views["/challenge/prepare"] = lambda _caller, _body: PrepareAnswer(
            status="occupied", excuse=Excuse(orders=(order,))
        )
        ledger.register(entry_of(miner.endpoint))
        service.run_epoch(threading.Event())
    (path,) = (tmp_path / "node" / "evidence").iterdir()
    bundle = read_bundle(path)
    assert [proof.excuse for proof in bundle.proofs] == [Excuse(orders=(order,))] * 2
    assert {proof.verdict.reason for proof in bundle.proofs} == {RejectReason.DECLINED}
    assert False not in [finding.holds for finding in replay(bundle)]


def test_private_endpoint_is_not_called_unless_allowed(
    tmp_path: Path, ledger: SmallLedger, caplog: pytest.LogCaptureFixture
) -> None:
    node = ValidatorNode(_config(ledger, allow_private_endpoints=False), tmp_path / "node", VALIDATOR)
    with proving_miner(tmp_path) as miner, _epochs(node) as service:
        ledger.register(entry_of(miner.endpoint))
        with caplog.at_level(logging.WARNING):
            service.run_epoch(threading.Event())
        assert miner.handler._tracker.newest(1) == []
    (warning,) = [record for record in caplog.records if record.message.startswith("miner not examined")]
    assert "validator.allow_private_endpoints=true" in warning.message
    with MetricsHandler(tmp_path / "node" / FILE_NAME) as metrics:
        stored = metrics.newest(MINER.public_key)
    assert stored is not None
    assert (stored.record.reasons, stored.record.gate) == ((RejectReason.NOT_MEASURED,), 1)


def test_miner_whose_name_leads_to_a_private_address_has_declined_its_inspection(
    tmp_path: Path, ledger: SmallLedger
) -> None:
    """Where a name leads is the miner's choice: it must not get around what every third decline costs."""
    node = ValidatorNode(
        _config(ledger, allow_private_endpoints=False, inspect=True, inspect_every=1), tmp_path / "node", VALIDATOR
    )
    with _epochs(node) as service:
        ledger.register(entry_of("http://127.0.0.1:1"))
        for _ in range(3):
            service.run_epoch(threading.Event())
    with MetricsHandler(tmp_path / "node" / FILE_NAME) as metrics:
        stored = metrics.newest(MINER.public_key)
    assert stored is not None
    service_part = stored.record.part("service")
    assert (service_part.declines_count, service_part.value_ppm) == (3, 0)
    bundle = read_bundle(tmp_path / "node" / "evidence" / f"{stored.evidence}.json")
    assert False not in [finding.holds for finding in replay(bundle)]


@pytest.mark.parametrize(
    ("started_ms", "now_ms", "seconds"),
    [
        (30_000, 31_000, 29.0),  # begun in this stretch: the next boundary, restart or not
        (44_999, 50_000, 10.0),
        (45_000, 50_000, 10.0),  # half an epoch before the boundary is the least
        (45_001, 50_000, 40.0),
        (29_999, 30_000, 0.0),  # it ran over
        (99_000, 31_000, 0.0),  # the clock was set back
    ],
)
def test_epochs_begin_at_multiples_of_their_length(started_ms: int, now_ms: int, seconds: float) -> None:
    assert seconds_to_next(started_ms, now_ms, 30) == seconds


def test_restart_makes_no_further_epoch(tmp_path: Path, ledger: SmallLedger) -> None:
    settings = _config(ledger, epoch_seconds=86400)
    stop = threading.Event()
    with _epochs(ValidatorNode(settings, tmp_path / "node", VALIDATOR)) as service:
        ledger.register(entry_of("https://127.0.0.1:1"))
        assert service._wait_seconds() == 0
        service.run_epoch(stop)
    with _epochs(ValidatorNode(settings, tmp_path / "node", VALIDATOR)) as service:
        service.prepare()
        assert service._wait_seconds() > 0


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
