"""The rules of a score, each obeyed once and broken by the least amount; draws have `test_undrawn.py`."""

from __future__ import annotations

import pytest

from neurons.validator.explain import explain
from neurons.validator.scoring import DECLINES_NEUTRAL, GATE_REASONS, RULES_VERSION, ScoringSystem, points
from polarise.errors import RejectReason
from polarise.evidence import COUNT_MAX, ScoreRecord
from polarise.fixes import FIXES
from polarise.messages import ProofKind
from tests.support.evidence import CLAIM, inspection, proof, score

SCORING = ScoringSystem()


def test_perfect_miner_has_all_points_of_what_is_measured() -> None:
    found = SCORING.calculate_score([proof()], inspection(), None)
    assert found.score_ppm == 1_000_000
    assert found.reasons == (RejectReason.NOT_MEASURED,)
    assert found.rules_version == RULES_VERSION
    assert SCORING.is_score_acceptable(found)


@pytest.mark.parametrize(
    ("measured", "expected_ppm"),
    [
        (CLAIM, 1_000_000),
        (2 * CLAIM, 1_000_000),  # more than claimed is worth no more
        (900_000, (400_000 * 900_000 + 250_000 * 1_000_000) // 650_000),
        (600_000, (400_000 * 600_000 + 250_000 * 1_000_000) // 650_000),
    ],
)
def test_parts_are_weighted_and_renormalised(measured: int, expected_ppm: int) -> None:
    found = SCORING.calculate_score([proof(measured=measured)], inspection(), None)
    assert found.raw_ppm == found.score_ppm == expected_ppm


def test_only_one_measured_part_counts_alone() -> None:
    found = SCORING.calculate_score([proof(measured=900_000)], None, None)
    assert found.score_ppm == 900_000


def test_devices_count_by_their_claims() -> None:
    proofs = [proof(), proof(RejectReason.MISSING, measured=0, device="GPU-1")]
    found = SCORING.calculate_score(proofs, inspection(), None)
    assert found.part("compute").value_ppm == 500_000
    assert found.gate == 1


@pytest.mark.parametrize("weak", ["pow", "matmul"])
def test_weakest_proof_of_a_device_is_what_it_is_worth(weak: ProofKind) -> None:
    """Twice the claim in one kind makes good for nothing in the other."""
    strong: ProofKind = "matmul" if weak == "pow" else "pow"
    proofs = [proof(kind=weak, measured=700_000), proof(kind=strong, measured=2 * CLAIM)]
    assert SCORING.calculate_score(proofs, None, None).part("compute").value_ppm == 700_000


def test_devices_weigh_their_matmul_claims_alone() -> None:
    """(3 x 1.0 + 1 x 0.6) / 4, and a huge claim of hashes moves nothing."""
    proofs = [
        proof(kind="pow", device="GPU-0", measured=2**50, claimed=2**50),
        proof(device="GPU-0", measured=3 * CLAIM, claimed=3 * CLAIM),
        proof(kind="pow", device="GPU-1", measured=600_000),
        proof(device="GPU-1"),
    ]
    compute = SCORING.calculate_score(proofs, None, None).part("compute")
    assert compute.value_ppm == 900_000
    assert [(rate.kind, rate.claimed_per_second) for rate in compute.rates] == [
        ("pow", 2**50 + CLAIM),
        ("matmul", 4 * CLAIM),
    ]


@pytest.mark.parametrize("reason", [RejectReason.MISSING, RejectReason.SHARE_INVALID])
def test_failed_proof_of_work_takes_its_device(reason: RejectReason) -> None:
    found = SCORING.calculate_score([proof(reason, kind="pow", measured=0), proof()], inspection(), None)
    assert found.part("compute").value_ppm == 0
    assert found.gate == (0 if reason is RejectReason.SHARE_INVALID else 1)


def test_device_that_declines_one_kind_is_not_measured() -> None:
    """Or a miner would live on the proof it is better at."""
    proofs = [proof(RejectReason.NOT_MEASURED, kind="pow", measured=0), proof()]
    compute = SCORING.calculate_score(proofs, None, None).part("compute")
    assert (compute.value_ppm, compute.declines_count, compute.rates) == (0, 1, ())


def test_declining_one_kind_does_not_hide_the_failure_of_the_other() -> None:
    proofs = [proof(RejectReason.NOT_MEASURED, kind="pow", measured=0), proof(RejectReason.TILE_MISMATCH)]
    found = SCORING.calculate_score(proofs, None, score(900_000))
    assert (found.part("compute").value_ppm, found.gate) == (0, 0)


def test_sum_of_claims_beyond_what_a_record_holds_is_cut() -> None:
    proofs = [proof(device=f"GPU-{index}", measured=COUNT_MAX, claimed=COUNT_MAX) for index in range(2)]
    compute = SCORING.calculate_score(proofs, None, None).part("compute")
    assert (compute.value_ppm, compute.rates[0].claimed_per_second) == (1_000_000, COUNT_MAX)


def test_explanation_shows_the_rates_of_both_kinds() -> None:
    found = SCORING.calculate_score([proof(kind="pow", measured=800_000), proof()], None, None)
    compute = next(line for line in explain(found) if line.part == "compute")
    assert compute.rates == ("pow: 0.8 of 1.0 M hashes/s", "matmul: 1.0 of 1.0 M operations/s")
    assert compute.measured == "80.00 %"


@pytest.mark.parametrize(("alone_ppm", "is_acceptable"), [(700_000, True), (699_999, False)])
def test_seventy_points_are_accepted_and_nothing_below(alone_ppm: int, is_acceptable: bool) -> None:
    assert SCORING.is_score_acceptable(alone_ppm) is is_acceptable
    assert points(alone_ppm) == ("70.00" if is_acceptable else "69.99")


def test_score_moves_by_half_of_the_difference() -> None:
    found = SCORING.calculate_score([proof()], inspection(), score(500_001))
    assert found.smoothed_ppm == 750_000


def test_one_missing_proof_takes_a_perfect_miner_below_seventy_and_one_good_epoch_back() -> None:
    missed = SCORING.calculate_score([proof(RejectReason.MISSING, measured=0)], inspection(), score(1_000_000))
    assert missed.gate == 1
    assert points(missed.score_ppm) == "69.23"
    assert SCORING.is_score_acceptable(SCORING.calculate_score([proof()], inspection(), missed))


@pytest.mark.parametrize("reason", sorted(GATE_REASONS))
def test_untruth_takes_every_point_of_its_epoch(reason: RejectReason) -> None:
    is_inspection = reason in {RejectReason.LIMIT_NOT_HELD, RejectReason.HOST_KEY_MISMATCH}
    proofs = [proof() if is_inspection else proof(reason, measured=CLAIM // 2)]
    found = SCORING.calculate_score(proofs, inspection(reason if is_inspection else None), score(1_000_000))
    assert found.gate == 0
    assert found.score_ppm == 0
    assert found.smoothed_ppm > 0
    assert reason in found.reasons


@pytest.mark.parametrize("reason", [r for r in RejectReason if r in {"ALLOCATE_FAILED", "SSH_FAILED"}])
def test_container_that_cannot_be_used_costs_the_service_part(reason: RejectReason) -> None:
    found = SCORING.calculate_score([proof()], inspection(reason), None)
    assert found.gate == 1
    assert not SCORING.is_score_acceptable(found)


def test_miner_that_declines_keeps_its_last_value_for_a_while_and_then_loses_it() -> None:
    busy = [proof(RejectReason.NOT_MEASURED, measured=0)]
    record: ScoreRecord = SCORING.calculate_score([proof()], inspection(), None)
    for _ in range(DECLINES_NEUTRAL):
        record = SCORING.calculate_score(busy, inspection(), record)
        assert record.score_ppm == 1_000_000
    record = SCORING.calculate_score(busy, inspection(), record)
    assert record.part("compute").value_ppm == 500_000
    assert SCORING.calculate_score([proof()], inspection(), record).part("compute").value_ppm == 1_000_000


def test_miner_that_never_proved_anything_cannot_live_on_its_container() -> None:
    found = SCORING.calculate_score([proof(RejectReason.NOT_MEASURED, measured=0)], inspection(), None)
    assert found.part("compute").value_ppm == 0
    assert not SCORING.is_score_acceptable(found)


def test_full_miner_is_not_blamed_when_it_is_met_first() -> None:
    found = SCORING.calculate_score([proof()], inspection(RejectReason.NOT_MEASURED), None)
    assert found.score_ppm == 1_000_000
    found = SCORING.calculate_score([proof()], inspection(RejectReason.NOT_MEASURED), found)
    assert found.part("service").value_ppm is None
    found = SCORING.calculate_score([proof()], inspection(RejectReason.NOT_MEASURED), found)
    assert found.part("service").value_ppm == 0
    assert not SCORING.is_score_acceptable(found.raw_ppm or 0)


def test_busy_devices_do_not_vanish_from_the_claim() -> None:
    """One of eight proves, seven are always busy: an eighth of the compute part."""
    names = [f"GPU-{index}" for index in range(8)]
    proofs = [proof(None if name == "GPU-0" else RejectReason.NOT_MEASURED, device=name) for name in names]
    found = SCORING.calculate_score(proofs, inspection(), None)
    assert found.part("compute").value_ppm == 125_000
    assert not SCORING.is_score_acceptable(found)
    assert SCORING.calculate_score(proofs, inspection(), found).part("compute").value_ppm == 125_000


def test_each_device_keeps_its_own_value_while_it_declines() -> None:
    record = SCORING.calculate_score([proof(device="GPU-0"), proof(device="GPU-1")], None, None)
    mixed = [proof(device="GPU-0"), proof(RejectReason.NOT_MEASURED, measured=0, device="GPU-1")]
    for _ in range(DECLINES_NEUTRAL):
        record = SCORING.calculate_score(mixed, None, record)
        assert record.part("compute").value_ppm == 1_000_000
    record = SCORING.calculate_score(mixed, None, record)
    assert record.part("compute").value_ppm == 750_000
    assert [device.declines_count for device in record.part("compute").devices] == [0, DECLINES_NEUTRAL + 1]


def test_every_reason_has_a_fix() -> None:
    assert set(FIXES) == set(RejectReason)
    assert all(fix.endswith(".") and "\n" not in fix for fix in FIXES.values())


@pytest.mark.parametrize("reason", list(RejectReason))
def test_explanation_names_each_reason_with_its_fix(reason: RejectReason) -> None:
    found = SCORING.calculate_score([proof(reason, measured=CLAIM // 2)], inspection(reason), score(900_000))
    lines = explain(found)
    assert any(reason in line.reasons and FIXES[reason] in line.fixes for line in lines)
    gate = [line for line in lines if line.part == "gate"]
    assert bool(gate) == (reason in GATE_REASONS)


def test_lost_points_add_up() -> None:
    found = SCORING.calculate_score([proof(measured=700_000)], inspection(RejectReason.SSH_FAILED), None)
    lost = sum(line.lost_ppm for line in explain(found))
    assert abs(1_000_000 - lost - found.score_ppm) <= 5


@pytest.mark.parametrize("reason", [None, RejectReason.MISSING, RejectReason.TILE_MISMATCH])
def test_lost_points_add_up_with_what_earlier_epochs_give(reason: RejectReason | None) -> None:
    found = SCORING.calculate_score([proof(reason, measured=700_000)], inspection(), score(980_000))
    lines = explain(found)
    assert abs(1_000_000 - sum(line.lost_ppm for line in lines) - found.score_ppm) <= 5
    (smoothing,) = [line for line in lines if line.part == "smoothing"]
    assert (smoothing.lost_ppm < 0, str(smoothing.to_wire()["lost_points"])[0] == "-") == (True, True)


def test_explanation_says_that_a_value_is_kept_and_how_long() -> None:
    record = SCORING.calculate_score([proof()], inspection(), None)
    busy = [proof(RejectReason.NOT_MEASURED, measured=0)]
    found = SCORING.calculate_score(busy, inspection(RejectReason.NOT_MEASURED), record)
    kept = {line.part: line.measured for line in explain(found) if "kept" in line.measured}
    assert kept == dict.fromkeys(("compute", "service"), f"kept from before, 1 of {DECLINES_NEUTRAL} declines")
