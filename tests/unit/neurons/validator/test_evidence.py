"""A bundle of real proofs: written, read, replayed; and each way to change it is noticed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from challenges.hardware import HardwareTable
from challenges.matmul_messages import MatmulParams
from challenges.pow import PowCommitment, PowParams
from challenges.pow_solver import NumpyPowBackend
from challenges.proofs import MatmulProver, PowProver, Work
from challenges.solver import NumpyBackend
from neurons.cli import main
from neurons.validator.challenges import Challenge
from neurons.validator.findings import ADDED_LATER, Findings
from neurons.validator.metrics import FILE_NAME, MetricsHandler, StoredScore
from neurons.validator.proof_trace import ProofTrace, check_commitment, signed_bytes
from neurons.validator.replay import replay
from neurons.validator.rounds import proof_evidence
from neurons.validator.scoring import ScoringSystem
from neurons.validator.verification import VerificationEngine, check_answer, judge
from polarise.canonical import canonical_bytes
from polarise.errors import RejectReason, RequestRejected
from polarise.evidence import (
    DrawEvidence,
    EvidenceBundle,
    InspectionEvidence,
    ProofEvidence,
    RoundEvidence,
    VerdictRecord,
    openings_digest,
    read_bundle,
    write_bundle,
)
from polarise.messages import CommitmentBody
from polarise.statement import sign_statement
from tests.support.evidence import LIMITS, findings_wire, receipt_statement
from tests.support.proving_miner import BEACON_BLOCK, MINER, VALIDATOR, challenge_of, challenges_of, entry_of

Wire = dict[str, Any]
DRAWN = DrawEvidence(proof_every=1, inspect_every=1, is_proven=True, is_inspected=True, is_common=True)


@pytest.fixture(scope="module")
def bundle() -> EvidenceBundle:
    """An honest proof of each kind and one kept promise."""
    statement = entry_of()
    secret, *challenges = challenges_of(statement)
    proofs = tuple(_proven(challenge) for challenge in challenges)
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
        target_seconds=1,
        opening_key=secret.opening_key.hex(),
        miner_set_root=secret.miner_set_root.hex(),
        challenge_commit=secret.commit.hex(),
        beacon_block=BEACON_BLOCK,
        proofs=proofs,
        inspection=inspection,
        previous=None,
        score=ScoringSystem().calculate_score(proofs, inspection, None, draw=DRAWN),
        draw=DRAWN,
        round=RoundEvidence(attempt=0, devices_count=1, missing_count=0),
    )


def _proven(challenge: Challenge) -> ProofEvidence:
    """Do the work as an honest miner would, in a fifth of the time it claims, by the stamps."""
    if isinstance(challenge.params, MatmulParams):
        work: Work = MatmulProver(challenge.params, NumpyBackend()).solve(challenge.seed)
    else:
        assert isinstance(challenge.params, PowParams)
        work = PowProver(challenge.params, NumpyPowBackend(lanes=4096, calls=1)).solve(challenge.seed)
    body = CommitmentBody(
        challenge_id=challenge.challenge_id, device="cpu", seed=challenge.seed.hex(), proof=work.commitment.to_wire()
    )
    commitment = sign_statement(MINER, "commitment", body)
    positions = challenge.positions(signed_bytes(commitment))
    openings = tuple(opening.to_wire() for opening in work.open(positions)) if positions else None
    trace = ProofTrace(1_000_000, 200_000_000, 201_000_000, commitment, positions, openings)
    answer = check_commitment(challenge, commitment)
    assert check_answer(challenge.params, challenge.seed, answer, positions, openings).reason is None
    return proof_evidence(challenge, trace, judge(challenge, HardwareTable.load(), trace))


def test_bundle_survives_the_disk_and_replays(bundle: EvidenceBundle, tmp_path: Path) -> None:
    path = write_bundle(tmp_path, bundle)
    assert path.name == f"{bundle.digest()}.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_bundle(path) == bundle
    assert all(finding.holds for finding in replay(bundle))


def test_findings_of_an_earlier_version_replay(bundle: EvidenceBundle) -> None:
    """They have no figures of processors, memory and disk; nothing is concluded from that."""
    wire = json.loads(canonical_bytes(bundle.to_wire()))
    for name in (*ADDED_LATER, "network"):
        del wire["inspection"]["findings"][name]
    old = EvidenceBundle.model_validate_json(json.dumps(wire))
    assert old.to_wire() == wire
    assert all(finding.holds for finding in replay(old))


def test_broken_claim_is_found_again_from_the_figures(bundle: EvidenceBundle) -> None:
    assert bundle.inspection is not None
    findings = {**dict(bundle.inspection.findings or {}), "cpus_count": 1}
    verdict = VerdictRecord(reason=RejectReason.CLAIM_NOT_MET)
    inspection = bundle.inspection.model_copy(update={"findings": findings, "verdict": verdict})
    score = ScoringSystem().calculate_score(bundle.proofs, inspection, None, draw=DRAWN)
    assert score.gate == 0
    judged = bundle.model_copy(update={"inspection": inspection, "score": score})
    assert [finding.what for finding in replay(judged) if not finding.holds] == []


def test_name_stays_when_openings_are_thrown_away(bundle: EvidenceBundle, tmp_path: Path) -> None:
    write_bundle(tmp_path, bundle)
    path = write_bundle(tmp_path, bundle.without_openings())
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    pruned = read_bundle(path)
    assert pruned.proofs[1].openings is None
    assert pruned.digest() == bundle.digest()
    holds = [finding.holds for finding in replay(pruned, bundle.examined_unix_ms + 2**42)]
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
        _set("target_seconds", value=2),
        _set("opening_key", value="0" * 64),
        _set("challenge_commit", value="0" * 64),
        _set("miner_key", value=VALIDATOR.public_key),
        _set("validator_key", value=MINER.public_key),
        _set("registry", "body", "price_micros_per_hour", value=1),
        _set("proofs", value=[]),
        _set("proofs", 1, "claimed_per_second", value=99_999_999),
        _set("proofs", 1, "sizes", "rounds", value=4),
        _set("proofs", 1, "sizes", "n", value=255),
        _set("proofs", 0, "sizes", "difficulty", value=255),
        _set("proofs", 0, "sizes", "slot", value=1),
        _set("proofs", 0, "claimed_per_second", value=49_999),
        _set("proofs", 0, "nonce", value="0" * 64),
        _set("proofs", 0, "last_byte_after_ns", value=201_100_000),
        _set("proofs", 0, "measured_per_second", value=1),
        _set("proofs", 0, "commitment", value=None),
        _set("proofs", 0, "commitment", "body", "proof", "nonces", value="AAAAAAAAAAE="),
        _set("proofs", 0, "positions", value=[{"round_index": 0, "tile_row": 0, "tile_column": 0}]),
        _set("proofs", 0, "verdict", "reason", value="SHARE_INVALID"),
        _set("proofs", 1, "device_index", value=1),
        _set("proofs", 1, "seed", value="0" * 64),
        _set("proofs", 1, "last_byte_after_ns", value=201_000_001 + 10**8),
        _set("proofs", 1, "measured_per_second", value=1),
        _set("proofs", 1, "commitment", value=None),
        _set("proofs", 1, "commitment", "signature", value="0" * 128),
        _set("proofs", 1, "commitment", "body", "seed", value="0" * 64),
        _set("proofs", 1, "positions", value=[]),
        _set("proofs", 1, "verdict", "reason", value="TILE_MISMATCH"),
        _set("inspection", "receipt", "body", "expires_unix_ms", value=3),
        _set("inspection", "asked_memory_bytes", value=512 << 20),
        _set("inspection", "findings", "pids_count", value=513),
        _set("inspection", "findings", "cpus_count", value=1),
        _set("inspection", "findings", "disk", "is_intact", value=1),
        _set("inspection", "findings", value=None),
        _set("inspection", value=None),
        _set("score", "score_ppm", value=999_999),
        _set("score", "parts", 0, "weight_ppm", value=399_999),
        _set("score", "parts", 0, "smoothed_ppm", value=999_999),
        _set("score", "parts", 0, "devices", 0, "standing", value="MISSING"),
        _set("score", "parts", 0, "devices", 0, "rates", 0, "claimed_per_second", value=49_999),
        _set("score", "undrawn_count", value=1),
        _set("score", "rules_version", value=1),
        _set("score", "rules_version", value=2),
        _set("score", "rules_version", value=4),
        _set("draw", "is_proven", value=False),
        _set("draw", "is_inspected", value=False),
        _set("draw", value=None),
        _set("round", value=None),
        _set("round", "attempt", value=1),
        _set("proofs", 0, "attempt", value=1),
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
    wire["proofs"][1]["openings"][0]["at"] = [0, 0, 0]
    wire["proofs"][1]["openings"][1]["at"] = [0, 0, 1]
    path.write_text(json.dumps(wire))
    with pytest.raises(RequestRejected, match="another digest"):
        read_bundle(path)
    assert main(["validator", "replay", str(path)]) == 7


def test_forged_tile_is_found_though_digest_and_score_fit(bundle: EvidenceBundle) -> None:
    """A validator that let a bad tile pass is caught by anybody with the bundle."""
    shares, proof = bundle.proofs
    assert proof.openings is not None
    forged = ({**proof.openings[0], "leaf": "A" * 43 + "="}, *proof.openings[1:])
    changed = proof.model_copy(update={"openings": forged, "openings_digest": openings_digest(forged)})
    findings = replay(bundle.model_copy(update={"proofs": (shares, changed)}))
    assert [finding.what for finding in findings if finding.holds is False] == ["matmul proof of cpu: openings"]


def test_forged_share_is_found_though_it_was_let_pass(bundle: EvidenceBundle) -> None:
    """The same for the proof of work: signed by the miner, passed by the validator, found by anybody."""
    proof, tiles = bundle.proofs
    assert proof.commitment is not None
    body = CommitmentBody.model_validate(proof.commitment.body)
    nonces = list(PowCommitment.from_wire(body.proof).nonces)
    nonces[-1] += 1
    forged = body.model_copy(update={"proof": PowCommitment(tuple(nonces)).to_wire()})
    changed = proof.model_copy(update={"commitment": sign_statement(MINER, "commitment", forged)})
    findings = replay(bundle.model_copy(update={"proofs": (changed, tiles)}))
    assert [(f.what, f.detail) for f in findings if f.holds is False] == [
        ("pow proof of cpu: shares", "recomputed SHARE_INVALID, bundle says passed")
    ]


@pytest.mark.parametrize("index", [0, 1])
def test_each_kind_must_be_there_once(bundle: EvidenceBundle, index: int) -> None:
    for proofs in ((bundle.proofs[index],), (bundle.proofs[index],) * 2, bundle.proofs[::-1]):
        findings = replay(bundle.model_copy(update={"proofs": proofs}))
        assert "one proof per device and kind" in [finding.what for finding in findings if finding.holds is False]


def test_openings_of_a_proof_of_work_do_not_hold(bundle: EvidenceBundle) -> None:
    proof, tiles = bundle.proofs
    changed = proof.model_copy(update={"openings": (), "openings_digest": openings_digest(())})
    findings = replay(bundle.model_copy(update={"proofs": (changed, tiles)}))
    assert [finding.what for finding in findings if finding.holds is False] == ["pow proof of cpu: shares"]


@pytest.mark.parametrize(("kind", "names"), [("pow", ("n", "rounds")), ("matmul", ("shares", "slot"))])
def test_sizes_of_another_kind_are_refused(bundle: EvidenceBundle, kind: str, names: tuple[str, ...]) -> None:
    wire = json.loads(canonical_bytes(bundle.proofs[0 if kind == "pow" else 1].to_wire()))
    wire["sizes"].update(dict.fromkeys(names, 64))
    with pytest.raises(ValidationError, match="Extra inputs"):
        ProofEvidence.model_validate_json(json.dumps(wire))


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
    of_epoch = ["validator", "explain", "--data-dir", str(tmp_path), MINER.public_key[:8], "--epoch"]
    assert main([*of_epoch, str(secret.epoch)]) == 0
    assert main([*of_epoch, str(secret.epoch + 1)]) == 5
    capsys.readouterr()
    assert main(["validator", "explain", "--data-dir", str(tmp_path), "ffff"]) == 5
    assert main(["validator", "scores", "--data-dir", str(tmp_path / "none")]) == 2


def test_what_earlier_measurements_give_reads_as_kept_and_never_as_a_loss(
    bundle: EvidenceBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    worse = bundle.score.model_copy(update={"raw_ppm": 400_000, "smoothed_ppm": 700_000, "score_ppm": 700_000})
    with MetricsHandler(tmp_path / FILE_NAME) as metrics:
        secret, _ = challenge_of(entry_of())
        metrics.begin_epoch(secret, 1)
        metrics.record(StoredScore(secret.epoch, MINER.public_key, worse, "0" * 64, 1))
    assert main(["validator", "scores", "--data-dir", str(tmp_path)]) == 0
    assert "smoothed (newest 40.00)" in capsys.readouterr().out
    assert main(["validator", "explain", "--data-dir", str(tmp_path), MINER.public_key[:8]]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("smoothing")]
    assert "kept  30.00" in line


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


def test_openings_without_a_canonical_form_are_refused(bundle: EvidenceBundle, tmp_path: Path) -> None:
    wire: Wire = json.loads(canonical_bytes(bundle.to_wire()))
    wire["proofs"][1]["openings"][0]["at"] = [2**60, 0, 0]
    path = tmp_path / "bundle.json"
    path.write_text(json.dumps(wire), encoding="utf-8")
    with pytest.raises(RequestRejected, match="canonical form"):
        read_bundle(path)
