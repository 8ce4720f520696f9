"""Rules 3: who declines was not there, and a device counts in weights for what it showed where one device answers for one miner."""

from __future__ import annotations

import pytest

from neurons.validator.explain import explain
from neurons.validator.prices import PPB, PriceList
from neurons.validator.scoring import ScoringSystem, recompute_score
from neurons.validator.weights import worth_ppb
from polarise.errors import RejectReason
from polarise.evidence import DrawEvidence, InspectionEvidence, ProofEvidence, ScoreRecord
from polarise.fixes import FIXES
from polarise.hardware import DeviceClaim, HardwareClaim
from polarise.verdict import lost_points, weight_text
from tests.support.evidence import CLAIM, inspection, proof

SCORING, PRICES = ScoringSystem(), PriceList.load()
# A processor that claims what a thousandth of an H100 does.
CPU = DeviceClaim(
    uuid="cpu",
    kind="cpu",
    name="a processor",
    memory_bytes=1 << 30,
    matmul_ops_per_second=791_520_000_000,
    pow_hashes_per_second=1_000_000,
)
WHOLE = PPB // 1000
HALF = WHOLE // 2


def _proofs(reason: RejectReason | None = None, *, share: float = 1.0) -> tuple[ProofEvidence, ...]:
    rates = (("pow", CPU.pow_hashes_per_second), ("matmul", CPU.matmul_ops_per_second))
    return tuple(
        proof(reason, kind=kind, claimed=rate, measured=int(rate * share) if reason is None else 0)  # type: ignore[arg-type]
        for kind, rate in rates
    )


def _draw(*, window: bool = True, proven: bool = True, missed: bool = False, inspected: bool = True) -> DrawEvidence:
    return DrawEvidence(
        proof_every=12,
        inspect_every=12,
        is_proven=proven,
        is_inspected=inspected,
        is_common=window,
        has_missed_window=missed,
    )


def _scored(
    previous: ScoreRecord | None,
    *proofs: ProofEvidence,
    draw: DrawEvidence | None = None,
    looked: InspectionEvidence | None = None,
) -> ScoreRecord:
    return SCORING.calculate_score(proofs, looked or inspection(), previous, draw=draw or _draw())


def _worth(score: ScoreRecord) -> int:
    hardware = HardwareClaim(cpu_model="a processor", cpu_milli=1000, memory_bytes=1, devices=(CPU,))
    return worth_ppb(PRICES, hardware, score)


# Declines


def test_device_that_declines_is_worth_nothing_until_it_is_proven_and_the_gate_stays_open() -> None:
    declined = _scored(_scored(None, *_proofs()), *_proofs(RejectReason.DECLINED))
    later = _scored(declined, draw=_draw(window=False, proven=False))
    for record in (declined, later):
        assert (record.gate, record.part("compute").value_ppm, _worth(record)) == (1, 0, 0)
        assert RejectReason.DECLINED in record.reasons
        assert record.score_ppm < 700_000
    again = _scored(later, *_proofs())
    assert (again.part("compute").value_ppm, RejectReason.DECLINED in again.reasons) == (1_000_000, False)


def test_declining_one_kind_is_enough() -> None:
    shares, product = _proofs()
    declined = _proofs(RejectReason.DECLINED)
    for proofs in ((declined[0], product), (shares, declined[1])):
        assert _scored(None, *proofs).part("compute").value_ppm == 0


def test_decline_opens_no_gate() -> None:
    caught = _scored(None, *_proofs(RejectReason.TILE_MISMATCH))
    declined = _scored(caught, *_proofs(RejectReason.DECLINED))
    assert (declined.gate, declined.part("compute").devices[0].standing) == (0, RejectReason.TILE_MISMATCH)


@pytest.mark.parametrize("excuse", [RejectReason.RENTED, RejectReason.OCCUPIED, RejectReason.NOT_MEASURED])
def test_excuse_costs_no_points_for_twelve_rounds(excuse: RejectReason) -> None:
    record = _scored(None, *_proofs())
    for _ in range(12):
        record = _scored(record, *_proofs(excuse))
        assert record.score_ppm == 1_000_000
    assert _scored(record, *_proofs(excuse)).score_ppm < 1_000_000


# What a device counts for


def test_device_that_was_met_alone_counts_nothing_until_its_first_window() -> None:
    """Or one device would be met under a new key in every epoch."""
    alone = _scored(None, *_proofs(), draw=_draw(window=False))
    assert (alone.score_ppm, _worth(alone)) == (1_000_000, 0)
    assert _worth(_scored(alone, *_proofs())) == WHOLE


def test_proof_outside_of_a_window_lowers_what_a_device_counts_for_and_never_raises_it() -> None:
    half = _scored(None, *_proofs(share=0.5))
    assert _worth(half) == HALF
    overdue = _draw(window=False)
    assert _worth(_scored(half, *_proofs(), draw=overdue)) == HALF
    lowered = _scored(_scored(None, *_proofs()), *_proofs(share=0.5), draw=overdue)
    assert _worth(_scored(lowered, *_proofs(), draw=overdue)) == HALF
    assert _worth(_scored(lowered, *_proofs())) == WHOLE


@pytest.mark.parametrize(
    ("excuse", "worths"),
    [
        # Names of one device that lease it to themselves come to 1 + 1/2 + 1/4 + ... of it.
        (RejectReason.RENTED, [HALF, HALF // 2, HALF // 4]),
        # What our own address rule forbids to call is the miner's doing, and a defect that hits all costs nobody a share.
        (RejectReason.NOT_MEASURED, [HALF, HALF // 2, HALF // 4]),
        # Proving for another validator is no fault; for every name in every window it would be one device many times.
        (RejectReason.OCCUPIED, [WHOLE, HALF, HALF // 2]),
        (RejectReason.MISSING, [0, 0, 0]),
        (RejectReason.DECLINED, [0, 0, 0]),
    ],
)
def test_window_without_a_proof_costs_worth(excuse: RejectReason, worths: list[int]) -> None:
    record, found = _scored(None, *_proofs()), []
    for _ in worths:
        record = _scored(record, *_proofs(excuse))
        record = _scored(record, draw=_draw(window=False, proven=False))
        found.append(_worth(record))
    assert found == worths


@pytest.mark.parametrize(
    ("excuse", "window", "worths"),
    [
        (RejectReason.RENTED, True, [HALF, HALF // 2]),
        (RejectReason.NOT_MEASURED, True, [HALF, HALF // 2]),
        (RejectReason.OCCUPIED, True, [WHOLE, HALF]),
        (RejectReason.RENTED, False, [WHOLE, WHOLE]),
    ],
)
def test_window_without_a_proof_of_memory_costs_worth(excuse: RejectReason, window: bool, worths: list[int]) -> None:
    """Else a device computes in each window and shows a lease for its memory, which a larger one has proven once."""
    claim = CPU.model_copy(update={"memory_bytes_per_second": CLAIM})
    hardware = HardwareClaim(cpu_model="a processor", cpu_milli=2000, memory_bytes=1 << 30, devices=(claim,))
    score = _scored(None, *_proofs(), proof(kind="memory"))
    found = []
    for _ in worths:
        score = _scored(score, *_proofs(), proof(excuse, kind="memory", measured=0), draw=_draw(window=window))
        found.append(worth_ppb(PRICES, hardware, score))
    assert found == worths
    assert ("in part until their next common window" in weight_text(score)) is (found[-1] < WHOLE)


def test_order_after_another_excuse_is_not_spared() -> None:
    rented = _scored(_scored(None, *_proofs()), *_proofs(RejectReason.RENTED))
    assert _worth(_scored(rented, *_proofs(RejectReason.OCCUPIED))) == HALF // 2
    again = _scored(_scored(rented, *_proofs()), *_proofs(RejectReason.OCCUPIED))
    assert _worth(again) == WHOLE


def test_excuse_outside_of_a_window_costs_nothing() -> None:
    record = _scored(_scored(None, *_proofs()), *_proofs(RejectReason.RENTED), draw=_draw(window=False))
    assert _worth(record) == WHOLE


def test_other_excuse_for_the_other_proof_halves_too() -> None:
    proofs = (_proofs(RejectReason.OCCUPIED)[0], _proofs(RejectReason.RENTED)[1])
    assert _worth(_scored(_scored(None, *_proofs()), *proofs)) == HALF


@pytest.mark.parametrize("proven", [True, False])
def test_miner_that_was_away_in_a_window_counts_nothing_until_its_next(proven: bool) -> None:
    """Or one device would pass under one name at a time, while its other names stand in no registry."""
    before = _scored(None, *_proofs())
    proofs = _proofs() if proven else ()
    back = _scored(before, *proofs, draw=_draw(window=False, proven=proven, missed=True))
    assert (back.score_ppm, _worth(back)) == (1_000_000, 0)
    assert _worth(_scored(back, *_proofs())) == WHOLE
    assert _worth(_scored(before, *_proofs(), draw=_draw(missed=True))) == WHOLE
    assert _worth(_scored(before, *_proofs(RejectReason.RENTED), draw=_draw(missed=True))) == 0


# In words


def test_operator_is_told_what_keeps_its_devices_from_counting() -> None:
    full = inspection(RejectReason.NOT_MEASURED)
    alone = _scored(None, *_proofs(), draw=_draw(window=False), looked=full)
    assert weight_text(alone) == (
        "no weight until a container was inspected: keep room for one; "
        "1 of 1 devices count from their next common window on"
    )
    shown = _scored(None, *_proofs())
    assert weight_text(shown) == ""
    rented = _scored(shown, *_proofs(RejectReason.RENTED))
    assert weight_text(rented) == "1 of 1 devices count in part until their next common window"
    assert weight_text(recompute_score(2, _proofs(), inspection(), None, None, None)) == ""


def test_fix_of_a_decline_is_told_beside_it() -> None:
    declined = _scored(_scored(None, *_proofs()), *_proofs(RejectReason.DECLINED))
    (compute,) = [line for line in lost_points(declined) if line.part == "compute"]
    assert compute.fixes == (FIXES[RejectReason.DECLINED],)
    (told,) = [line for line in explain(declined) if line.part == "compute"]
    assert told.fixes == (FIXES[RejectReason.DECLINED],)


# Containers


def test_miner_whose_container_was_never_measured_counts_nothing() -> None:
    full = inspection(RejectReason.NOT_MEASURED)
    record = None
    for value_ppm in (None, None, 0, 0):
        record = _scored(record, *_proofs(), looked=full)
        assert (record.part("service").value_ppm, _worth(record)) == (value_ppm, 0)
    assert record is not None
    failed = _scored(record, *_proofs(), looked=inspection(RejectReason.SSH_FAILED))
    assert (failed.part("service").value_ppm, _worth(failed)) == (0, WHOLE)
    assert _worth(_scored(record, *_proofs())) == WHOLE


def test_miner_counts_where_its_validator_inspects_nobody() -> None:
    draw = DrawEvidence(proof_every=1, inspect_every=0, is_proven=True, is_inspected=False, is_common=True)
    record = SCORING.calculate_score(_proofs(), None, None, draw=draw)
    assert (record.part("service").value_ppm, record.uninspected_count, _worth(record)) == (None, 0, WHOLE)


def test_inspection_that_a_defect_of_ours_ended_is_no_inspection() -> None:
    """Whoever finds such a defect would never be inspected."""
    record = SCORING.calculate_score(_proofs(), None, None, draw=_draw())
    assert (record.part("service").declines_count, _worth(record)) == (1, 0)
