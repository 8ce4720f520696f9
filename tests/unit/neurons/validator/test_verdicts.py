"""The signed verdict on its way: validator -> real miner over HTTP -> `miner status`; and whoever must not send one."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from neurons.base.metrics import MetricsTracker
from neurons.base.service import Supervisor
from neurons.cli import main
from neurons.miner.validations import VERDICTS_KEPT, KeptVerdict, ValidationTracker
from neurons.validator.explain import explain
from neurons.validator.metrics import FILE_NAME, MetricsHandler, StoredScore
from neurons.validator.scoring import ScoringSystem
from neurons.validator.verdicts import DEADLINE_SECONDS, VerdictSender
from polarise.canonical import canonical_bytes
from polarise.clients import MinerClient
from polarise.errors import ErrorCode, RejectReason, RequestRejected
from polarise.evidence import ScoreRecord
from polarise.messages import VerdictRequest
from polarise.registry import RegistryEntry, open_entry
from polarise.signing import Identity, SignatureInvalid
from polarise.statement import SignedStatement
from polarise.verdict import Verdict, lost_points, open_verdict, sign_verdict
from tests.support.evidence import inspection, proof
from tests.support.http import signed
from tests.support.identities import People
from tests.support.miners import RunningMiner, wait_until
from tests.support.proving_miner import MINER, entry_of
from tests.support.scores import begin, score_record

URL = "http://127.0.0.1:8070"


def verdict_of(
    validator: Identity,
    miner_key: str,
    *,
    epoch: int = 7,
    score: ScoreRecord | None = None,
    signer: Identity | None = None,
) -> SignedStatement:
    verdict = Verdict(
        epoch=epoch,
        validator_key=validator.public_key,
        miner_key=miner_key,
        score=score or score_record(proof(RejectReason.CLAIM_NOT_MET, measured=100_000)),
        evidence="e" * 64,
        evidence_url=URL,
    )
    return sign_verdict(signer or validator, verdict)


@pytest.fixture
def told(engineless_miner: RunningMiner, people: People) -> MinerClient:
    """The validator's end of a miner that knows no verdict yet."""
    tracker = ValidationTracker(engineless_miner.node.data_dir.root / "validations.sqlite")
    with tracker, tracker.transaction() as connection:
        connection.execute("DELETE FROM verdict")
    return engineless_miner.client(people.validator)


def _status(miner: RunningMiner, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    assert main(["miner", "status", "--data-dir", str(miner.node.data_dir.root), *options]) == 0
    return capsys.readouterr().out


def test_miner_status_prints_every_lost_point_with_its_fix(
    told: MinerClient, engineless_miner: RunningMiner, people: People, capsys: pytest.CaptureFixture[str]
) -> None:
    for epoch in (8, 7):
        told.verdict(verdict_of(people.validator, engineless_miner.key, epoch=epoch), deadline_seconds=5)
    shown = _status(engineless_miner, capsys)
    assert "1 newest verdicts, one per validator" in shown
    assert f"validator {people.validator.public_key[:12]}  epoch 8  score 0.00" in shown
    assert f"evidence {URL}/evidence/{'e' * 64}" in shown
    assert "to compute: CLAIM_NOT_MET: as the test says" in shown
    assert "fix: Run `join` again on an idle machine" in shown
    assert "to gate: a rejected proof" in shown
    (verdict,) = json.loads(_status(engineless_miner, capsys, "-o", "json"))["verdicts"]
    assert [line["part"] for line in verdict["lost"]] == ["compute", "gate"]


def test_full_score_lost_nothing(
    told: MinerClient, engineless_miner: RunningMiner, people: People, capsys: pytest.CaptureFixture[str]
) -> None:
    told.verdict(verdict_of(people.validator, engineless_miner.key, score=score_record()), deadline_seconds=5)
    assert "nothing was lost" in _status(engineless_miner, capsys)


def test_verdict_of_another_signer_is_refused(
    told: MinerClient, engineless_miner: RunningMiner, people: People
) -> None:
    forged = verdict_of(people.validator, engineless_miner.key, signer=people.stranger)
    _refused(told, forged, ErrorCode.BAD_SIGNATURE, "verdict")
    borrowed = verdict_of(people.stranger, engineless_miner.key)
    _refused(told, borrowed, ErrorCode.BAD_SIGNATURE, "verdict")
    in_anothers_name = verdict_of(people.stranger, engineless_miner.key, signer=people.validator)
    _refused(told, in_anothers_name, ErrorCode.BAD_SIGNATURE, "verdict")


def test_changed_verdict_is_refused(told: MinerClient, engineless_miner: RunningMiner, people: People) -> None:
    good = verdict_of(people.validator, engineless_miner.key)
    _refused(told, good.model_copy(update={"body": {**good.body, "epoch": 8}}), ErrorCode.BAD_SIGNATURE, "verdict")


def test_verdict_on_another_miner_is_refused(told: MinerClient, people: People) -> None:
    _refused(told, verdict_of(people.validator, MINER.public_key), ErrorCode.INVALID_FIELD, "verdict.body.miner_key")


def test_second_verdict_of_an_epoch_is_refused_and_the_same_one_is_not(
    told: MinerClient, engineless_miner: RunningMiner, people: People
) -> None:
    first = verdict_of(people.validator, engineless_miner.key)
    told.verdict(first, deadline_seconds=5)
    told.verdict(first, deadline_seconds=5)
    _refused(
        told, verdict_of(people.validator, engineless_miner.key, score=score_record()), ErrorCode.CONFLICT, "verdict"
    )


def test_only_a_validators_signed_request_brings_a_verdict(engineless_miner: RunningMiner, people: People) -> None:
    statement = verdict_of(people.renter, engineless_miner.key)
    body = canonical_bytes(VerdictRequest(verdict=statement).to_wire())
    url, key = engineless_miner.url, engineless_miner.key
    for who in (people.renter, people.auditor, people.owner, people.stranger):
        signed(url, key, who, "POST", "/challenge/verdict", body=body).assert_refused(403, "NOT_PERMITTED")


def test_newest_hundred_verdicts_of_each_validator_are_kept(tmp_path: Path) -> None:
    with ValidationTracker(tmp_path / "validations.sqlite") as tracker:
        tracker.keep_verdict(KeptVerdict("a", 1, "{}", 1))
        for epoch in range(VERDICTS_KEPT + 1):
            tracker.keep_verdict(KeptVerdict("b", epoch, "{}", epoch))
        rows = tracker.query("SELECT validator_key, MIN(epoch), COUNT(*) FROM verdict GROUP BY validator_key")
        assert [tuple(row) for row in rows] == [("a", 1, 1), ("b", 1, VERDICTS_KEPT)]
        assert [(kept.validator_key, kept.epoch) for kept in tracker.newest_verdicts()] == [
            ("a", 1),
            ("b", VERDICTS_KEPT),
        ]


def test_notes_of_an_older_version_gain_the_verdicts(tmp_path: Path) -> None:
    path = tmp_path / "validations.sqlite"
    with ValidationTracker(path) as tracker:
        for table in ("verdict", "work", "challenge_order"):
            tracker.query(f"DROP TABLE {table}")
        tracker.query("PRAGMA user_version = 1")
    with ValidationTracker(path) as tracker:
        assert tracker.newest_verdicts() == []


def test_sender_delivers_once_and_a_dead_miner_costs_nobody_anything(
    told: MinerClient, engineless_miner: RunningMiner, people: People, tmp_path: Path
) -> None:
    counters = MetricsTracker()
    entries = {
        engineless_miner.key: _entry(engineless_miner.key, engineless_miner.url),
        MINER.public_key: _entry(MINER.public_key, "http://127.0.0.1:1"),
    }

    def client(entry: RegistryEntry) -> MinerClient:
        return MinerClient(entry.endpoint, entry.node_key, people.validator)

    with MetricsHandler(tmp_path / FILE_NAME) as metrics:
        begin(metrics, 9)
        for key in entries:
            metrics.record(StoredScore(9, key, score_record(), "e" * 64, 1))
        sender = VerdictSender(people.validator, metrics, client, lambda: URL, counters)
        supervisor = Supervisor(sender)
        supervisor.start()
        sender.deliver(9, {key: (entry_of(), entry) for key, entry in entries.items()})
        wait_until(lambda: "not_taken_total 1" in counters.render(), DEADLINE_SECONDS + 5, "not both were tried")
        wait_until(lambda: "delivered_total 1" in counters.render(), DEADLINE_SECONDS + 5, "not both were tried")
        assert supervisor.stop(5)
    with ValidationTracker(engineless_miner.node.data_dir.root / "validations.sqlite") as tracker:
        assert [kept.epoch for kept in tracker.newest_verdicts()] == [9]


def test_older_epoch_is_dropped_when_a_newer_one_waits(people: People, tmp_path: Path) -> None:
    asked: list[str] = []
    stop = threading.Event()

    def client(entry: RegistryEntry) -> MinerClient:
        asked.append(entry.node_key)
        stop.set()
        return MinerClient(entry.endpoint, entry.node_key, people.validator)

    with MetricsHandler(tmp_path / FILE_NAME) as metrics:
        for epoch in (8, 9):
            begin(metrics, epoch)
            metrics.record(StoredScore(epoch, MINER.public_key, score_record(), "e" * 64, 1))
        sender = VerdictSender(people.validator, metrics, client, lambda: URL, MetricsTracker())
        miners = {MINER.public_key: (entry_of(), open_entry(entry_of()))}
        sender.deliver(8, miners)
        sender.deliver(9, miners)
        sender.run(stop)
    assert asked == [MINER.public_key]


@pytest.mark.parametrize("reason", [None, RejectReason.CLAIM_NOT_MET, RejectReason.TILE_MISMATCH, RejectReason.MISSING])
def test_miner_and_validator_lose_the_same_points(reason: RejectReason | None) -> None:
    before = score_record(proof(RejectReason.MISSING))
    score = ScoringSystem().calculate_score([proof(reason, measured=300_000)], inspection(), before)
    at_validator = {line.part: line.lost_ppm for line in explain(score) if line.lost_ppm > 0 or line.part == "gate"}
    assert {line.part: line.lost_ppm for line in lost_points(score)} == at_validator


def test_verdict_is_no_other_statement(people: People) -> None:
    with pytest.raises(SignatureInvalid, match="expected a verdict statement"):
        open_verdict(entry_of(), validator_key=MINER.public_key)


def _entry(key: str, endpoint: str) -> RegistryEntry:
    return open_entry(entry_of()).model_copy(update={"node_key": key, "endpoint": endpoint})


def _refused(client: MinerClient, statement: SignedStatement, code: ErrorCode, field: str) -> None:
    with pytest.raises(RequestRejected) as caught:
        client.verdict(statement, deadline_seconds=5)
    assert (caught.value.code, caught.value.field) == (code, field)
