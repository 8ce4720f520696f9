"""Since rules 2: what an epoch without a draw leaves, what stands until it is measured again, and what wears off."""

from __future__ import annotations

import pytest

from neurons.validator.explain import explain
from neurons.validator.scoring import DECLINES_NEUTRAL, GATE_REASONS, ScoringSystem, version_1
from polarise.errors import RejectReason
from polarise.evidence import (
    DrawEvidence,
    InspectionEvidence,
    ProofEvidence,
    ScoreRecord,
    TelemetryEvidence,
    VerdictRecord,
)
from polarise.verdict import lost_points
from tests.support.evidence import CLAIM, inspection, proof

SCORING = ScoringSystem()
DECLINED = RejectReason.NOT_MEASURED


def _draw(*, proven: bool = True, inspected: bool = True) -> DrawEvidence:
    return DrawEvidence(proof_every=12, inspect_every=12, is_proven=proven, is_inspected=inspected, is_common=proven)


def _drawn(
    previous: ScoreRecord | None, *proofs: ProofEvidence, looked: InspectionEvidence | None = None
) -> ScoreRecord:
    return SCORING.calculate_score(proofs, looked or inspection(), previous, draw=_draw())


def _undrawn(previous: ScoreRecord, epochs: int = 1, looked: InspectionEvidence | None = None) -> ScoreRecord:
    """Let epochs go by in which the miner is inspected and not proven."""
    for _ in range(epochs):
        previous = SCORING.calculate_score((), looked or inspection(), previous, draw=_draw(proven=False))
    return previous


def _log(reason: RejectReason | None) -> TelemetryEvidence:
    return TelemetryEvidence(origin="log", size=1, new_lines=1, verdict=VerdictRecord(reason=reason))


# Not drawn


def test_epoch_without_a_draw_changes_the_count_and_nothing_else() -> None:
    first = _drawn(None, proof(measured=800_000), proof(kind="pow"))
    later = _undrawn(first, 3)
    assert later.undrawn_count == 3
    assert later.model_copy(update={"undrawn_count": 0}) == first
    assert _drawn(later, proof(measured=800_000), proof(kind="pow")).undrawn_count == 0


def test_no_draw_and_a_draw_of_everybody_are_the_same() -> None:
    proofs = (proof(measured=800_000), proof(kind="pow"))
    assert SCORING.calculate_score(proofs, inspection(), None) == _drawn(None, *proofs)


def test_declines_are_counted_in_rounds_and_not_in_epochs() -> None:
    busy = _drawn(_drawn(None, proof()), proof(DECLINED, measured=0))
    assert _undrawn(busy, 20).part("compute") == busy.part("compute")
    again = _drawn(_undrawn(busy, 20), proof(DECLINED, measured=0))
    assert again.part("compute").declines_count == 2


def test_proofs_of_a_miner_that_is_not_drawn_are_not_looked_at() -> None:
    first = _drawn(None, proof(measured=800_000))
    told = SCORING.calculate_score((proof(),), inspection(), first, draw=_draw(proven=False))
    assert told.part("compute").value_ppm == 800_000


def test_epoch_without_an_inspection_leaves_the_service_part() -> None:
    first = _drawn(None, proof(), looked=inspection(RejectReason.SSH_FAILED))
    later = SCORING.calculate_score((proof(),), None, first, draw=_draw(inspected=False))
    assert (later.uninspected_count, later.undrawn_count) == (1, 0)
    assert later.part("service") == first.part("service")
    assert _drawn(later, proof()).uninspected_count == 0


def test_declined_inspections_are_counted_in_rounds() -> None:
    first = _drawn(_drawn(None, proof()), proof(), looked=inspection(DECLINED))
    left_out = SCORING.calculate_score((proof(),), None, first, draw=_draw(inspected=False))
    again = _drawn(left_out, proof(), looked=inspection(DECLINED))
    assert [record.part("service").declines_count for record in (first, left_out, again)] == [1, 1, 2]


# What stands


@pytest.mark.parametrize("reason", sorted(GATE_REASONS - {RejectReason.LOG_FORK}))
def test_caught_cheat_gets_nothing_back_until_it_is_measured_again(reason: RejectReason) -> None:
    """For eleven epochs its turn does not come, then it declines, then it is silent; only a proof that holds helps."""
    record = _drawn(_drawn(None, proof()), proof(reason, measured=CLAIM // 2))
    for later in (_undrawn(record, 11), _drawn(record, proof(DECLINED)), _drawn(record, proof(RejectReason.MISSING))):
        assert (later.gate, later.score_ppm) == (0, 0)
        assert reason in later.reasons
        assert later.part("compute").devices[0].standing is reason
    passed = _drawn(_undrawn(record, 11), proof())
    assert (passed.gate, passed.part("compute").devices[0].standing) == (1, None)
    assert reason not in passed.reasons


@pytest.mark.parametrize("reason", [RejectReason.LIMIT_NOT_HELD, RejectReason.HOST_KEY_MISMATCH])
def test_broken_promise_of_a_container_stands_until_a_container_keeps_them_all(reason: RejectReason) -> None:
    caught = _drawn(_drawn(None, proof()), proof(), looked=inspection(reason))
    left_out = SCORING.calculate_score((proof(),), None, caught, draw=_draw(inspected=False))
    not_inspecting = SCORING.calculate_score((proof(),), None, caught, draw=_draw())
    full = _drawn(caught, proof(), looked=inspection(DECLINED))
    refusing = _drawn(caught, proof(), looked=inspection(RejectReason.ALLOCATE_FAILED))
    for later in (left_out, not_inspecting, full, refusing):
        assert (later.gate, later.part("service").standing) == (0, reason)
    assert _drawn(caught, proof()).gate == 1


def test_fork_of_a_log_stands_while_the_log_is_silent() -> None:
    def told(reason: RejectReason | None, previous: ScoreRecord | None) -> ScoreRecord:
        return SCORING.calculate_score((proof(),), inspection(), previous, _log(reason), draw=_draw())

    forked = told(RejectReason.LOG_FORK, told(None, None))
    for later in (told(RejectReason.MISSING, forked), told(RejectReason.LOG_GAP, forked), told(DECLINED, forked)):
        assert (later.gate, later.part("telemetry").standing) == (0, RejectReason.LOG_FORK)
    assert told(None, forked).gate == 1


def test_missing_device_is_worth_nothing_until_it_is_measured_and_the_gate_stays_open() -> None:
    missed = _drawn(_drawn(None, proof()), proof(RejectReason.MISSING, measured=0))
    later = _undrawn(missed, 11)
    assert (later.gate, later.part("compute").value_ppm) == (1, 0)
    assert RejectReason.MISSING in later.reasons
    assert _drawn(later, proof()).part("compute").value_ppm == 1_000_000


def test_another_untruth_replaces_the_first() -> None:
    first = _drawn(None, proof(RejectReason.TILE_MISMATCH))
    second = _drawn(first, proof(RejectReason.TOO_FAST))
    assert second.part("compute").devices[0].standing is RejectReason.TOO_FAST
    assert RejectReason.TILE_MISMATCH not in second.reasons


def test_device_stands_for_its_worst_proof() -> None:
    proofs = (proof(RejectReason.MISSING, kind="pow", measured=0), proof(RejectReason.TILE_MISMATCH))
    assert _drawn(None, *proofs).part("compute").devices[0].standing is RejectReason.TILE_MISMATCH


def test_taking_the_caught_device_off_the_market_helps_only_once_the_others_are_measured() -> None:
    caught = _drawn(None, proof(device="GPU-0"), proof(RejectReason.TILE_MISMATCH, device="GPU-1"))
    assert _undrawn(caught, 5).gate == 0
    assert _drawn(_undrawn(caught, 5), proof(device="GPU-0")).gate == 1


# Rented


def test_rented_device_keeps_its_value_for_twelve_rounds_and_then_half_of_it() -> None:
    record = _drawn(None, proof())
    for _ in range(DECLINES_NEUTRAL):
        record = _undrawn(_drawn(record, proof(RejectReason.RENTED, measured=0)), 11)
        assert (record.part("compute").value_ppm, record.score_ppm) == (1_000_000, 1_000_000)
        assert RejectReason.RENTED in record.reasons
    for value_ppm in (500_000, 250_000):
        record = _undrawn(_drawn(record, proof(RejectReason.RENTED, measured=0)), 11)
        assert record.part("compute").value_ppm == value_ppm
    assert _drawn(record, proof()).part("compute").declines_count == 0


def test_rented_and_declined_rounds_count_together() -> None:
    record = _drawn(None, proof())
    for round_number in range(DECLINES_NEUTRAL + 1):
        reason = RejectReason.RENTED if round_number % 2 else DECLINED
        record = _drawn(record, proof(reason, measured=0))
    assert record.part("compute").value_ppm == 500_000


def test_device_that_was_never_measured_is_worth_nothing_though_it_is_rented() -> None:
    assert _drawn(None, proof(RejectReason.RENTED, measured=0)).part("compute").value_ppm == 0


def test_lease_does_not_hide_the_failure_of_the_other_proof() -> None:
    proofs = (proof(RejectReason.RENTED, kind="pow", measured=0), proof(RejectReason.TILE_MISMATCH))
    assert _drawn(_drawn(None, proof()), *proofs).gate == 0


# Smoothing


def test_waiting_smooths_nothing_away() -> None:
    """One bad proof and then a good one give the same score, however many epochs lie between them."""
    record = _drawn(None, proof())
    at_once = _drawn(_drawn(record, proof(RejectReason.MISSING, measured=0)), proof())
    waited = _undrawn(
        _drawn(_undrawn(_drawn(_undrawn(record, 30), proof(RejectReason.MISSING, measured=0)), 30), proof()), 30
    )
    assert waited.smoothed_ppm == at_once.smoothed_ppm < 1_000_000


def test_inspections_move_the_service_part_while_no_proof_comes() -> None:
    record = _drawn(None, proof())
    failed = _undrawn(record, looked=inspection(RejectReason.SSH_FAILED))
    assert failed.part("service").smoothed_ppm == 500_000
    assert failed.part("compute").smoothed_ppm == 1_000_000
    assert failed.smoothed_ppm == (400_000 * 1_000_000 + 250_000 * 500_000) // 650_000


def test_average_of_a_declined_part_may_fall_and_never_rises() -> None:
    bad = _drawn(_drawn(None, proof(measured=600_000)), proof())
    assert bad.part("compute").smoothed_ppm == 800_000
    busy = _drawn(bad, proof(DECLINED, measured=0))
    assert (busy.part("compute").value_ppm, busy.part("compute").smoothed_ppm) == (1_000_000, 800_000)
    missed = _drawn(bad, proof(RejectReason.MISSING, measured=0))
    assert _drawn(missed, proof(DECLINED, measured=0)).part("compute").smoothed_ppm == 200_000


def test_first_measurement_is_the_average() -> None:
    record = _drawn(None, proof(DECLINED, measured=0))
    assert record.part("compute").smoothed_ppm is None
    assert _drawn(record, proof()).part("compute").smoothed_ppm == 1_000_000


def test_score_by_older_rules_goes_on_from_where_it_was() -> None:
    old = version_1.ScoringSystem()
    missed = old.calculate_score(
        [proof(RejectReason.MISSING, measured=0)], inspection(), old.calculate_score([proof()], inspection(), None)
    )
    by_old = old.calculate_score([proof()], inspection(), missed)
    assert SCORING.calculate_score([proof()], inspection(), missed).smoothed_ppm == by_old.smoothed_ppm
    assert _undrawn(missed).part("compute").smoothed_ppm == missed.smoothed_ppm


# In words


def test_what_stands_and_why_nothing_new_came_is_said_in_words() -> None:
    record = _undrawn(_drawn(None, proof(RejectReason.MISSING, measured=0)), 5)
    words = "not drawn for 5 epochs, what was found before stands; MISSING stands until it is measured again"
    (compute,) = [line for line in lost_points(record) if line.part == "compute"]
    assert compute.message == f"as the test says; {words}"
    (told,) = [line for line in explain(record) if line.part == "compute"]
    assert told.message == f"as the test says; {words}"
    assert "not drawn for 1 epoch," in lost_points(_undrawn(_drawn(None, proof(measured=700_000))))[0].message


def test_points_that_earlier_measurements_give_are_a_line_below_nought() -> None:
    record = _drawn(_drawn(None, proof()), proof(RejectReason.MISSING, measured=0))
    lines = {line.part: line.lost_ppm for line in lost_points(record)}
    assert lines["smoothing"] < 0
    assert abs(1_000_000 - sum(lines.values()) - record.score_ppm) <= 5


def test_closed_gate_says_until_when() -> None:
    record = _undrawn(_drawn(None, proof(RejectReason.TILE_MISMATCH)))
    (gate,) = [line for line in lost_points(record) if line.part == "gate"]
    assert gate.message.endswith("until it is measured again")


# Withdrawn


def test_caught_device_that_is_claimed_no_longer_keeps_the_gate_closed_until_another_was_measured() -> None:
    """Dropped from the entry, or under another name: a decline clears nothing."""
    caught = _drawn(None, proof(device="a"), proof(RejectReason.TILE_MISMATCH, measured=0, device="b", claimed=1))
    dropped = _drawn(_undrawn(caught), proof(DECLINED, measured=0, device="a"))
    renamed = _drawn(dropped, proof(DECLINED, measured=0, device="a"), proof(DECLINED, measured=0, device="c"))
    for record in (dropped, renamed):
        assert (record.gate, record.score_ppm) == (0, 0)
        assert RejectReason.TILE_MISMATCH in record.reasons
    measured = _drawn(renamed, proof(device="a"))
    assert (measured.gate, [device.device for device in measured.part("compute").devices]) == (1, ["a"])


def test_device_that_was_missing_and_is_claimed_no_longer_leaves_nothing() -> None:
    """Only what closes the gate goes on without its device."""
    missing = _drawn(None, proof(device="a"), proof(RejectReason.MISSING, measured=0, device="b"))
    dropped = _drawn(missing, proof(DECLINED, measured=0, device="a"))
    assert [device.device for device in dropped.part("compute").devices] == ["a"]
