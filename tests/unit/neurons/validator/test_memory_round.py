"""The memory proof in a round: led over HTTP with a real solver, checked anew from its bundle, and what differs by little."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from challenges import draw
from challenges.draw import ChallengeKind
from challenges.hardware import HardwareTable
from challenges.memory import MemoryParams
from challenges.memory_backends import NumpyMemoryBackend
from challenges.memory_messages import BLOCK_BYTES, OPENINGS_WIRE_BYTES_MAX, PASSES_MAX
from challenges.memory_solver import solve_memory
from challenges.proofs import sizes_of
from neurons.miner.validations import ValidationTracker
from neurons.validator.challenges import FILL_SECONDS, Challenge, fitted_params, kinds_of
from neurons.validator.proof_trace import ProofTrace, check_commitment, signed_bytes
from neurons.validator.replay_finding import Finding
from neurons.validator.replay_proof import replay_proof
from neurons.validator.rounds import proof_evidence
from neurons.validator.scoring import ScoringSystem
from neurons.validator.stamper import Stamper
from neurons.validator.verification import VerificationEngine, check_answer, judge
from neurons.validator.wave import Ask, Wave
from polarise.canonical import canonical_bytes
from polarise.decode import decode_model
from polarise.errors import RejectReason, RequestRejected
from polarise.evidence import EvidenceBundle, ProofEvidence
from polarise.messages import BlockPosition, CommitmentBody, OpenRequest, PrepareRequest, position_of
from polarise.registry import STATEMENT_KIND as ENTRY_KIND
from polarise.registry import RegistryEntry
from polarise.statement import sign_statement
from tests.support.proving_miner import (
    BEACON_BLOCK,
    CPU,
    CPU_WITH_MEMORY,
    KEEPING,
    MINER,
    VALIDATOR,
    ProvingMiner,
    entry_of,
    memory_challenge_of,
    proving_miner,
)

TABLE = HardwareTable.load()
ENTRY = entry_of(devices=(CPU_WITH_MEMORY,))


@pytest.fixture(scope="module")
def engine() -> Iterator[VerificationEngine]:
    with VerificationEngine(TABLE) as engine:
        yield engine


@pytest.fixture(scope="module")
def wave() -> Iterator[Wave]:
    with Stamper() as stamper:
        yield Wave(stamper)


@pytest.fixture
def miner(tmp_path: Path) -> Iterator[ProvingMiner]:
    with proving_miner(tmp_path, devices=(CPU_WITH_MEMORY,)) as miner:
        yield miner


def _asked(wave: Wave, miner: ProvingMiner, challenge: Challenge) -> Ask:
    entry = entry_of(miner.endpoint, devices=(CPU_WITH_MEMORY,)).open(ENTRY_KIND, RegistryEntry)
    ask = Ask(entry, miner.client(timeout_seconds=60), challenge)
    wave.run([ask])
    return ask


def test_memory_is_proven_over_http_and_replays(wave: Wave, miner: ProvingMiner, engine: VerificationEngine) -> None:
    secret, challenge = memory_challenge_of(ENTRY)
    ask = _asked(wave, miner, challenge)
    assert ask.rejected is None
    verdict = engine.verify_resources(challenge, ask.trace)
    assert (verdict.reason, verdict.score) == (None, 1_000_000)
    proof = proof_evidence(challenge, ask.trace, verdict)
    assert all(isinstance(position, BlockPosition) for position in proof.positions)
    again = ProofEvidence.model_validate_json(canonical_bytes(proof.to_wire()))
    assert again == proof
    assert {finding.holds for finding in _replayed(secret.opening_key, again)} == {True}


def test_a_device_that_claims_no_bandwidth_is_not_asked() -> None:
    assert kinds_of(CPU) == (ChallengeKind.POW, ChallengeKind.MATMUL)
    assert kinds_of(CPU_WITH_MEMORY) == (ChallengeKind.POW, ChallengeKind.MATMUL, ChallengeKind.MEMORY)


def test_an_entry_of_before_claims_no_bandwidth() -> None:
    wire = CPU_WITH_MEMORY.to_wire()
    del wire["memory_bytes_per_second"]
    assert decode_model(type(CPU), json.dumps(wire).encode()).memory_bytes_per_second == 0


def test_memory_that_was_filled_for_another_proof_is_rejected(
    wave: Wave, engine: VerificationEngine, tmp_path: Path
) -> None:
    _, challenge = memory_challenge_of(ENTRY)
    with proving_miner(tmp_path, program=KEEPING, devices=(CPU_WITH_MEMORY,)) as miner:
        ask = _asked(wave, miner, challenge)
    assert ask.rejected is None
    assert engine.verify_resources(challenge, ask.trace).reason is RejectReason.BLOCK_MISMATCH


def test_another_attempt_fills_and_starts_anew() -> None:
    """Whoever was asked before keeps nothing of it."""
    key, beacon = bytes(range(32)), bytes(32)
    nonces = {draw.fill_nonce(key, beacon, "cpu", attempt=attempt) for attempt in (0, 1)}
    nonces |= {draw.nonce(key, beacon, "cpu", ChallengeKind.MEMORY, attempt=attempt) for attempt in (0, 1)}
    assert len(nonces) == 4


def test_prepare_tells_the_fill_nonce_and_not_the_one_that_starts() -> None:
    _, challenge = memory_challenge_of(ENTRY)
    told = json.dumps(challenge.prepare_request().to_wire())
    assert challenge.fill_nonce.hex() in told
    assert challenge.nonce.hex() not in told
    assert challenge.fill_seed.hex() not in told
    assert challenge.prepare_deadline_seconds == FILL_SECONDS


@pytest.mark.parametrize("change", ["seed", "position", "block"])
def test_a_lie_about_a_memory_proof_is_found_in_its_bundle(change: str) -> None:
    secret, challenge = memory_challenge_of(ENTRY)
    proof = _honest(challenge)
    assert {finding.holds for finding in _replayed(secret.opening_key, proof)} == {True}
    findings = _replayed(secret.opening_key, _changed(proof, change))
    assert any(finding.holds is False for finding in findings)


def _changed(proof: ProofEvidence, change: str) -> ProofEvidence:
    first, *others = proof.positions
    if change == "seed":
        return proof.model_copy(update={"seed": "00" * 32})
    if change == "position":
        return proof.model_copy(update={"positions": (position_of((0, 0)), *others)})
    opened = [dict(opening) for opening in proof.openings or ()]
    opened[0]["at"] = [first.numbers[0], first.numbers[1] ^ 1]
    return proof.model_copy(update={"openings": tuple(opened)})


@pytest.mark.parametrize(
    ("sizes", "memory_bytes"),
    [
        # One block more than a processor is ever asked for, and one more than the device claims.
        ({"blocks": 1025}, 1 << 30),
        ({"blocks": 17}, 1 << 20),
        ({"passes": PASSES_MAX + 1}, 1 << 20),
        ({"hashes": 0}, 1 << 20),
    ],
)
def test_sizes_beyond_what_is_claimed_are_refused(tmp_path: Path, sizes: dict[str, int], memory_bytes: int) -> None:
    device = CPU_WITH_MEMORY.model_copy(update={"memory_bytes": memory_bytes})
    wire = {"blocks": 16, "hashes": 1, "passes": 1, "openings": 1, **sizes}
    with proving_miner(tmp_path, devices=(device,)) as miner, pytest.raises(RequestRejected) as caught:
        miner.handler.prepare(_prepare(wire), VALIDATOR.public_key)
    assert (caught.value.status, caught.value.field) == (422, "sizes")


def _prepare(sizes: dict[str, int], kind: str = "memory", **fields: object) -> PrepareRequest:
    fill = {"epoch": 7, "beacon": "00" * 32, "nonce": "11" * 32}
    wire = {"challenge_id": "0" * 32, "kind": kind, "device": "cpu", "sizes": sizes, "fill": fill, **fields}
    return decode_model(PrepareRequest, json.dumps(wire).encode())


def test_fill_comes_with_a_memory_proof_and_with_no_other() -> None:
    memory, shares = sizes_of(MemoryParams(8, 1, 1, 1)), {"shares": 16, "difficulty": 1, "slot": 0}
    assert _prepare(memory).fill is not None
    assert _prepare(shares, "pow", fill=None).fill is None
    for sizes, kind, fields in ((memory, "memory", {"fill": None}), (shares, "pow", {})):
        with pytest.raises(RequestRejected, match="fill comes with a memory proof"):
            _prepare(sizes, kind, **fields)


@pytest.mark.parametrize("position", [(0, 16), (10, 0), (0, 0, 0)])
def test_positions_that_the_proof_does_not_have_are_refused(miner: ProvingMiner, position: tuple[int, ...]) -> None:
    """Beyond the blocks, beyond the passes, and of another kind of proof; the questions cost nothing."""
    _, challenge = memory_challenge_of(ENTRY)
    assert (challenge.params.memory_bytes // BLOCK_BYTES, challenge.params.operations >> 20) == (16, 10)
    client = miner.client(timeout_seconds=60)
    client.prepare(challenge.prepare_request(), deadline_seconds=60)
    client.start(challenge.start_request(), deadline_seconds=60)
    for asked in (position, (9, 15)):
        request = OpenRequest(challenge_id=challenge.challenge_id, positions=(position_of(asked),))
        if asked == (9, 15):
            assert len(client.open(request, deadline_seconds=10, max_bytes=100_000).openings) == 1
            return
        with pytest.raises(RequestRejected) as caught:
            client.open(request, deadline_seconds=10, max_bytes=100_000)
        assert (caught.value.status, caught.value.field) == (422, "positions")


@pytest.mark.parametrize(
    "position", [{"pass_index": 1}, {"round_index": 1, "tile_row": 0}, {"pass_index": 0, "tile_row": 0}]
)
def test_a_position_of_neither_kind_is_refused(position: dict[str, int]) -> None:
    wire = {"challenge_id": "0" * 32, "positions": [position]}
    with pytest.raises(RequestRejected) as caught:
        decode_model(OpenRequest, json.dumps(wire).encode())
    assert caught.value.field is not None
    assert caught.value.field.startswith("positions.0")


def test_filling_counts_for_the_share_of_an_hour(miner: ProvingMiner, tmp_path: Path) -> None:
    _, challenge = memory_challenge_of(ENTRY)
    miner.client(timeout_seconds=60).prepare(challenge.prepare_request(), deadline_seconds=60)
    miner.handler.close()
    with ValidationTracker(tmp_path / "validations.sqlite") as tracker:
        (filled,) = tracker.work_since("cpu", 0)
    assert filled.work_ms > 0
    assert filled.validator_key == VALIDATOR.public_key


@pytest.mark.parametrize("name", [None, *TABLE.models])
def test_openings_of_every_card_stay_below_their_bound(name: str | None) -> None:
    """Whatever a validator opens, at the target that is longest."""
    model = TABLE.models.get(name or "")
    card = CPU.model_copy(
        update={
            "kind": "gpu",
            "name": name or "an unknown card",
            "memory_bytes": model.memory_bytes if model else 8 << 30,
            "memory_bytes_per_second": model.memory_rate_expected if model else 10**11,
        }
    )
    params = fitted_params(ChallengeKind.MEMORY, card, 0, target_seconds=20, openings=256, hardware=TABLE)
    _, challenge = memory_challenge_of(ENTRY)
    asked = dataclasses.replace(challenge, params=params)
    assert asked.openings_bytes_max <= OPENINGS_WIRE_BYTES_MAX
    assert asked.commitment_bytes_max <= 80_000


def test_a_rate_far_below_its_claim_is_not_met(engine: VerificationEngine) -> None:
    """0.6 of the claim holds, and a nanosecond more does not."""
    _, challenge = memory_challenge_of(ENTRY)
    proof = _honest(challenge)
    allowed_ns = challenge.params.operations * 10**9 // (challenge.claimed_per_second * 6 // 10)
    reasons = []
    for time_ns in (allowed_ns, allowed_ns + 1000):
        trace = ProofTrace(0, time_ns, time_ns, proof.commitment, _numbers(proof), proof.openings)
        reasons.append(engine.verify_resources(challenge, trace).reason)
    assert reasons == [None, RejectReason.CLAIM_NOT_MET]


def _numbers(proof: ProofEvidence) -> tuple[tuple[int, ...], ...]:
    return tuple(position.numbers for position in proof.positions)


def _honest(challenge: Challenge) -> ProofEvidence:
    assert isinstance(challenge.params, MemoryParams)
    backend = NumpyMemoryBackend()
    backend.fill(challenge.params, challenge.fill_seed)
    work = solve_memory(challenge.params, challenge.fill_seed, challenge.seed, backend)
    body = CommitmentBody(
        challenge_id=challenge.challenge_id, device="cpu", seed=challenge.seed.hex(), proof=work.commitment.to_wire()
    )
    statement = sign_statement(MINER, "commitment", body)
    positions = challenge.positions(signed_bytes(statement))
    openings = tuple(opening.to_wire() for opening in work.open(positions))
    commitment = check_commitment(challenge, statement)
    checked = check_answer(challenge.params, challenge.seed, commitment, positions, openings, challenge.fill_seed)
    assert checked.reason is None
    trace = ProofTrace(1_000_000, 200_000_000, 201_000_000, statement, positions, openings)
    return proof_evidence(challenge, trace, judge(challenge, TABLE, trace))


def _replayed(opening_key: bytes, proof: ProofEvidence) -> list[Finding]:
    entry = ENTRY.open(ENTRY_KIND, RegistryEntry)
    secret, _ = memory_challenge_of(ENTRY)
    bundle = EvidenceBundle(
        epoch=secret.epoch,
        examined_unix_ms=1,
        validator_key=VALIDATOR.public_key,
        miner_key=MINER.public_key,
        registry=ENTRY,
        target_seconds=1,
        opening_key=opening_key.hex(),
        miner_set_root=secret.miner_set_root.hex(),
        challenge_commit=secret.commit.hex(),
        beacon_block=BEACON_BLOCK,
        proofs=(proof,),
        inspection=None,
        previous=None,
        score=ScoringSystem().calculate_score([], None, None),
    )
    return list(replay_proof(bundle, entry, proof, 0))
