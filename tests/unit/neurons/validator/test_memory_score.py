"""The memory part of rules 3: a rate for everybody, capacity by what a name promises, and half the weight without it."""

from __future__ import annotations

import pytest

from neurons.validator.explain import explain
from neurons.validator.scoring import ScoringSystem, points, recompute_score
from neurons.validator.scoring.memory_3 import MEMORY_WEIGHT_PPM, WEAK_WEIGHT_PPM
from polarise.errors import RejectReason
from polarise.evidence import DrawEvidence, PartScore, ProofEvidence, ScoreRecord
from polarise.fixes import FIXES
from polarise.messages import ProofKind
from polarise.verdict import lost_points
from tests.support.evidence import CLAIM, inspection, proof

SCORING = ScoringSystem()
CARD = "GPU-0"
KINDS: tuple[ProofKind, ...] = ("pow", "matmul", "memory")


def _memory(
    reason: RejectReason | None = None,
    *,
    measured: int = CLAIM,
    device: str = CARD,
    expected: int | None = CLAIM,
    claimed: int = CLAIM,
) -> ProofEvidence:
    return proof(reason, measured=measured, device=device, kind="memory", expected=expected, claimed=claimed)


def _scored(*memory: ProofEvidence, previous: ScoreRecord | None = None) -> ScoreRecord:
    names = {found.device: None for found in memory} or {CARD: None}
    compute = [proof(device=name, kind=kind) for name in names for kind in ("pow", "matmul")]
    return SCORING.calculate_score([*compute, *memory], inspection(), previous)


def _part(*memory: ProofEvidence, previous: ScoreRecord | None = None) -> PartScore:
    return _scored(*memory, previous=previous).part("memory")


def test_a_known_card_that_holds_its_claim_has_all_points() -> None:
    score = _scored(_memory())
    part = score.part("memory")
    assert (part.value_ppm, part.weight_ppm, part.reasons, part.message) == (1_000_000, MEMORY_WEIGHT_PPM, (), "")
    assert points(score.score_ppm) == "100.00"


@pytest.mark.parametrize(("measured", "value"), [(600_000, 1_000_000), (599_999, 500_000)])
def test_capacity_counts_from_the_floor_of_the_name_on(measured: int, value: int) -> None:
    """The claim is low enough to be held either way: one byte a second decides, and the gate stays open."""
    score = _scored(_memory(measured=measured, claimed=500_000))
    part = score.part("memory")
    assert part.value_ppm == value
    assert part.reasons == (() if value == 1_000_000 else (RejectReason.CAPACITY_NOT_SHOWN,))
    assert score.gate == 1


def test_what_is_made_anew_under_a_low_claim_gets_half_of_the_part() -> None:
    """A sixty-fourth of the bandwidth, claimed and held, needs none of the memory."""
    score = _scored(_memory(measured=CLAIM // 64, claimed=CLAIM // 64))
    assert score.part("memory").value_ppm == 500_000
    # 25 of 90 points are at stake without telemetry, and half of them are lost.
    assert points(score.score_ppm) == "86.11"


def test_an_honest_processor_has_all_points_and_its_memory_weighs_half() -> None:
    score = _scored(_memory(device="cpu", expected=None))
    part = score.part("memory")
    assert (part.value_ppm, part.weight_ppm, part.reasons) == (1_000_000, WEAK_WEIGHT_PPM, ())
    assert "weighs half" in part.message
    assert points(score.score_ppm) == "100.00"
    assert WEAK_WEIGHT_PPM * 2 == MEMORY_WEIGHT_PPM


def test_a_weak_proof_never_decides_more_than_half_of_the_part() -> None:
    lost = [10**6 - _scored(_memory(RejectReason.MISSING, expected=expected)).score_ppm for expected in (None, CLAIM)]
    # 0.125 of 0.775, and 0.25 of 0.9.
    assert lost == [161_291, 277_778]


def test_a_processor_beside_a_card_weighs_half_of_its_claim() -> None:
    card, processor = _memory(), _memory(RejectReason.MISSING, device="cpu", expected=None)
    part = _part(card, processor)
    assert (part.value_ppm, part.weight_ppm) == (666_666, MEMORY_WEIGHT_PPM)


@pytest.mark.parametrize(
    ("reason", "gate"),
    [
        (RejectReason.BLOCK_MISMATCH, 0),
        (RejectReason.BAD_MERKLE_PATH, 0),
        (RejectReason.OPENING_LATE, 0),
        (RejectReason.CLAIM_NOT_MET, 0),
        (RejectReason.TOO_FAST, 0),
        (RejectReason.MISSING, 1),
        (RejectReason.DECLINED, 1),
    ],
)
def test_a_proof_that_fails_is_worth_nothing_and_an_untrue_one_closes_the_gate(reason: RejectReason, gate: int) -> None:
    measured = 100 if reason is RejectReason.CLAIM_NOT_MET else 0
    score = _scored(_memory(reason, measured=measured))
    assert score.gate == gate
    assert (score.part("memory").value_ppm or 0) < 1000
    assert reason in score.part("memory").reasons
    assert score.part("compute").value_ppm == 1_000_000


@pytest.mark.parametrize("kind", ["pow", "matmul", "memory"])
def test_points_that_a_slow_proof_loses_have_a_cause_and_a_fix(kind: str) -> None:
    """Between 0.6 and all of the claim there is no reason code: the words have to say it, to validator and miner alike."""
    name = "memory" if kind == "memory" else "compute"
    rates = [proof(device="cpu", kind=each, measured=CLAIM * 3 // 4 if each == kind else CLAIM) for each in KINDS]
    score = SCORING.calculate_score(rates, inspection(), None)
    (at_miner,) = lost_points(score)
    (at_validator,) = [line for line in explain(score) if line.lost_ppm]
    assert (at_miner.part, at_miner.reasons) == (name, ())
    assert at_miner.message.startswith(f"cpu: 75.00 % of the claimed {kind} rate")
    assert at_miner.fixes == (FIXES[RejectReason.CLAIM_NOT_MET],)
    assert (at_validator.message, at_validator.fixes) == (at_miner.message, at_miner.fixes)


def test_a_proof_that_holds_its_claim_has_nothing_to_mend() -> None:
    score = SCORING.calculate_score([proof(device="cpu", kind=kind) for kind in KINDS], inspection(), None)
    assert not any("claimed" in line.message or line.fixes for line in explain(score) if line.part != "telemetry")
    assert lost_points(score) == []


@pytest.mark.parametrize("reason", [RejectReason.NOT_MEASURED, RejectReason.RENTED, RejectReason.OCCUPIED])
def test_an_excused_device_keeps_what_it_had_and_loses_it_after_twelve_rounds(reason: RejectReason) -> None:
    score = _scored(_memory())
    values = []
    for _ in range(14):
        score = _scored(_memory(reason, measured=0), previous=score)
        values.append(score.part("memory").value_ppm)
    assert values == [1_000_000] * 12 + [500_000, 250_000]
    assert score.part("memory").declines_count == 14


def test_who_claims_no_bandwidth_is_scored_without_the_part() -> None:
    score = _scored()
    part = score.part("memory")
    assert (part.value_ppm, part.reasons) == (None, (RejectReason.NOT_MEASURED,))
    assert part.message == "no device claims a bandwidth"
    assert points(score.score_ppm) == "100.00"


def test_a_caught_device_is_not_freed_by_claiming_no_bandwidth_any_more() -> None:
    caught = _scored(_memory(RejectReason.BLOCK_MISMATCH, measured=0))
    withdrawn = _scored(previous=caught)
    assert (caught.gate, withdrawn.gate) == (0, 0)
    assert RejectReason.BLOCK_MISMATCH in withdrawn.part("memory").reasons
    assert _scored(_memory(), previous=withdrawn).gate == 1


def test_memory_is_no_part_of_compute() -> None:
    score = _scored(_memory(RejectReason.MISSING, measured=0))
    assert {rate.kind for rate in score.part("compute").rates} == {"pow", "matmul"}
    assert {rate.kind for rate in score.part("memory").rates} == {"memory"}


@pytest.mark.parametrize("rules", [1, 2])
def test_older_rules_do_not_know_the_part(rules: int) -> None:
    score = recompute_score(rules, [proof(), proof(kind="pow")], inspection(), None, None, None)
    assert score.part("memory").value_ppm is None


def test_undrawn_memory_stays_as_it_is() -> None:
    first = _scored(_memory(measured=800_000))
    undrawn = DrawEvidence(proof_every=12, inspect_every=12, is_proven=False, is_inspected=False)
    later = SCORING.calculate_score([], None, first, draw=undrawn)
    assert later.part("memory") == first.part("memory")
    assert later.score_ppm == first.score_ppm
