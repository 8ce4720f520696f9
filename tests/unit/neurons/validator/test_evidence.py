"""A bundle of a real proof: written, read, replayed; and each way to change it is noticed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from challenges.hardware import HardwareTable
from challenges.solver import NumpyBackend, solve
from neurons.cli import main
from neurons.validator.examination import _proof_evidence
from neurons.validator.findings import Findings
from neurons.validator.matmul_round import ProofTrace, check_commitment, signed_bytes
from neurons.validator.metrics import FILE_NAME, MetricsHandler, StoredScore
from neurons.validator.replay import replay
from neurons.validator.scoring import ScoringSystem
from neurons.validator.verification import VerificationEngine, check_answer, judge
from polarise.canonical import canonical_bytes
from polarise.errors import RequestRejected
from polarise.evidence import EvidenceBundle, InspectionEvidence, VerdictRecord, read_bundle, write_bundle
from polarise.messages import CommitmentBody
from polarise.statement import sign_statement
from tests.support.evidence import LIMITS, findings_wire, receipt_statement
from tests.support.proving_miner import BEACON_BLOCK, CPU, MINER, VALIDATOR, challenge_of, entry_of

Wire = dict[str, Any]


@pytest.fixture(scope="module")
def bundle() -> EvidenceBundle:
    """One honest proof and one kept promise."""
    statement = entry_of()
    secret, challenge = challenge_of(statement)
    work = solve(challenge.params, challenge.seed, NumpyBackend())
    body = CommitmentBody(
        challenge_id=challenge.challenge_id, device="cpu", seed=challenge.seed.hex(), proof=work.commitment.to_wire()
    )
    commitment = sign_statement(MINER, "commitment", body)
    positions = challenge.positions(signed_bytes(commitment))
    openings = tuple(opening.to_wire() for opening in work.open(positions))
    trace = ProofTrace(1_000_000, 900_000_000, 1_001_000_000, commitment, positions, openings)
    roots = check_commitment(challenge, commitment).roots
    assert check_answer(challenge.params, challenge.seed, roots, positions, openings).reason is None
    verdict = judge(challenge.params, CPU, HardwareTable.load(), trace)
    proof = _proof_evidence(challenge, trace, verdict)
    inspection = InspectionEvidence(
        asked_memory_bytes=LIMITS.memory_bytes,
        asked_cpu_milli=LIMITS.cpu_milli,
        receipt=receipt_statement(),
        findings=dict(Findings.model_validate_json(json.dumps(findings_wire())).to_wire()),
        verdict=VerdictRecord(),
    )
    return EvidenceBundle(
        epoch=secret.epoch,
        examined_unix_ms=1,
        validator_key=VALIDATOR.public_key,
        miner_key=MINER.public_key,
        registry=statement,
        opening_key=secret.opening_key.hex(),
        miner_set_root=secret.miner_set_root.hex(),
        challenge_commit=secret.commit.hex(),
        beacon_block=BEACON_BLOCK,
        proofs=(proof,),
        inspection=inspection,
        previous=None,
        score=ScoringSystem().calculate_score((proof,), inspection, None),
    )


def test_bundle_survives_the_disk_and_replays(bundle: EvidenceBundle, tmp_path: Path) -> None:
    path = write_bundle(tmp_path, bundle)
    assert path.name == f"{bundle.digest()}.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_bundle(path) == bundle
    assert all(finding.holds for finding in replay(bundle))


def test_name_stays_when_openings_are_thrown_away(bundle: EvidenceBundle, tmp_path: Path) -> None:
    write_bundle(tmp_path, bundle)
    path = write_bundle(tmp_path, bundle.without_openings())
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    pruned = read_bundle(path)
    assert pruned.proofs[0].openings is None
    assert pruned.digest() == bundle.digest()
    holds = [finding.holds for finding in replay(pruned)]
    assert False not in holds
    assert None in holds


def _set(*path: str | int, value: object) -> Callable[[Wire], None]:
    def change(wire: Wire) -> None:
        node: Any = wire
        for step in path[:-1]:
            node = node[step]
        node[path[-1]] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        _set("epoch", value=8),
        _set("opening_key", value="0" * 64),
        _set("challenge_commit", value="0" * 64),
        _set("miner_key", value=VALIDATOR.public_key),
        _set("validator_key", value=MINER.public_key),
        _set("registry", "body", "price_micros_per_hour", value=1),
        _set("proofs", value=[]),
        _set("proofs", 0, "claimed_ops_per_second", value=99_999_999),
        _set("proofs", 0, "sizes", "rounds", value=4),
        _set("proofs", 0, "sizes", "n", value=255),
        _set("proofs", 0, "device_index", value=1),
        _set("proofs", 0, "seed", value="0" * 64),
        _set("proofs", 0, "last_byte_after_ns", value=1_001_000_001 + 10**8),
        _set("proofs", 0, "measured_ops_per_second", value=1),
        _set("proofs", 0, "commitment", value=None),
        _set("proofs", 0, "commitment", "signature", value="0" * 128),
        _set("proofs", 0, "commitment", "body", "seed", value="0" * 64),
        _set("proofs", 0, "positions", value=[]),
        _set("proofs", 0, "verdict", "reason", value="TILE_MISMATCH"),
        _set("inspection", "receipt", "body", "expires_unix_ms", value=3),
        _set("inspection", "asked_memory_bytes", value=512 << 20),
        _set("inspection", "findings", "pids_count", value=513),
        _set("inspection", "findings", value=None),
        _set("inspection", value=None),
        _set("score", "score_ppm", value=999_999),
        _set("score", "parts", 0, "weight_ppm", value=399_999),
    ],
)
def test_changed_bundle_does_not_hold(bundle: EvidenceBundle, change: Callable[[Wire], None]) -> None:
    wire = json.loads(canonical_bytes(bundle.to_wire()))
    change(wire)
    changed = EvidenceBundle.model_validate_json(json.dumps(wire))
    assert any(finding.holds is False for finding in replay(changed))


def test_openings_are_bound_by_their_digest(bundle: EvidenceBundle, tmp_path: Path) -> None:
    path = write_bundle(tmp_path, bundle)
    wire = json.loads(path.read_bytes())
    wire["proofs"][0]["openings"][0]["at"] = [0, 0, 0]
    wire["proofs"][0]["openings"][1]["at"] = [0, 0, 1]
    path.write_text(json.dumps(wire))
    with pytest.raises(RequestRejected, match="another digest"):
        read_bundle(path)
    assert main(["validator", "replay", str(path)]) == 7


def test_forged_tile_is_found_though_digest_and_score_fit(bundle: EvidenceBundle) -> None:
    """A validator that let a bad tile pass is caught by anybody with the bundle."""
    from polarise.evidence import openings_digest

    proof = bundle.proofs[0]
    assert proof.openings is not None
    forged = ({**proof.openings[0], "leaf": "A" * 43 + "="}, *proof.openings[1:])
    changed = proof.model_copy(update={"openings": forged, "openings_digest": openings_digest(forged)})
    findings = replay(bundle.model_copy(update={"proofs": (changed,)}))
    assert [finding.what for finding in findings if finding.holds is False] == ["proof of cpu: openings"]


def test_command_replays_scores_and_explains(
    bundle: EvidenceBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_bundle(tmp_path / "evidence", bundle)
    assert main(["validator", "replay", str(path), "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["holds"] is True
    with MetricsHandler(tmp_path / FILE_NAME) as metrics:
        secret, _ = challenge_of(entry_of())
        metrics.begin_epoch(secret, 1)
        metrics.record(StoredScore(secret.epoch, MINER.public_key, bundle.score, path.stem, 1))
    assert main(["validator", "scores", "--data-dir", str(tmp_path), "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["score"] == "100.00"
    assert main(["validator", "--data-dir", str(tmp_path), "explain", MINER.public_key[:8]]) == 0
    assert "score 100.00" in capsys.readouterr().out
    assert main(["validator", "explain", "--data-dir", str(tmp_path), "ffff"]) == 5
    assert main(["validator", "scores", "--data-dir", str(tmp_path / "none")]) == 2


def _replayed(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, dict[str, bool | None]]:
    status = main(["validator", "replay", *args, "-o", "json"])
    return status, {line["what"]: line["holds"] for line in json.loads(capsys.readouterr().out)["findings"]}


def test_bundle_under_another_name_does_not_hold(
    bundle: EvidenceBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The ledger names the bundle: a consistent one that was put in its place has another name."""
    path = write_bundle(tmp_path, bundle)
    assert _replayed(capsys, str(path))[1]["name"] is True
    other = path.rename(path.with_name(f"{'0' * 64}.json"))
    status, holds = _replayed(capsys, str(other))
    assert (status, holds.pop("name")) == (7, False)
    assert False not in holds.values()


def test_previous_score_is_the_validators_word_unless_its_bundle_is_shown(
    bundle: EvidenceBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = str(write_bundle(tmp_path, bundle))
    assert _replayed(capsys, first)[1]["previous score"] is None

    def following(**changes: object) -> str:
        changed = bundle.model_copy(update={"previous": bundle.score, **changes})
        return str(write_bundle(tmp_path, changed))

    next_epoch = bundle.epoch + 1
    assert _replayed(capsys, following(epoch=next_epoch))[1]["previous score"] is None
    assert _replayed(capsys, following(epoch=next_epoch), "--previous", first)[1]["previous score"] is True
    for changed in (
        following(),
        following(epoch=next_epoch, previous=None),
        following(epoch=next_epoch, previous=bundle.score.model_copy(update={"smoothed_ppm": 999_999})),
        following(epoch=next_epoch, miner_key=VALIDATOR.public_key),
        following(epoch=next_epoch, validator_key=MINER.public_key),
    ):
        status, holds = _replayed(capsys, changed, "--previous", first)
        assert (status, holds["previous score"]) == (7, False)
    renamed = Path(first).rename(tmp_path / "renamed.json")
    _, holds = _replayed(capsys, following(epoch=next_epoch), "--previous", str(renamed))
    assert (holds["name of the previous bundle"], holds["previous score"]) == (False, True)


def test_engine_refuses_a_proof_without_an_answer(bundle: EvidenceBundle) -> None:
    _, challenge = challenge_of(entry_of())
    with VerificationEngine(HardwareTable.load()) as engine, pytest.raises(ValueError, match="verdict already"):
        engine.verify_resources(challenge, ProofTrace())
