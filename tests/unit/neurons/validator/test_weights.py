"""Prices, worth and weights: integers that anybody computes equal, and nothing to gain by claiming little."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from challenges.hardware import GpuModel, HardwareTable
from neurons.validator.prices import PPB, REFERENCE, PriceList
from neurons.validator.scoring import ACCEPTABLE_PPM, DECLINES_NEUTRAL, ScoringSystem, recompute_score
from neurons.validator.weights import MinerWorth, weights_ppm, worth_ppb
from polarise.canonical import canonical_bytes
from polarise.errors import RejectReason
from polarise.evidence import KindRate, ProofEvidence, ScoreRecord
from polarise.hardware import DeviceClaim, HardwareClaim
from polarise.messages import ProofKind
from tests.support.evidence import proof

TABLE = HardwareTable.load()
PRICES = PriceList(TABLE)
SCORING = ScoringSystem()
FIGURES = ("matmul_rate_expected", "memory_rate_expected", "memory_bytes")


def _model(name: str = REFERENCE) -> GpuModel:
    model = TABLE.find(name)
    assert model is not None
    return model


def _claim(name: str = REFERENCE, *, share: int = 1, memory_bytes: int | None = None) -> DeviceClaim:
    """A card that claims this part of what one of its name should show."""
    model = _model(name)
    return DeviceClaim(
        uuid="GPU-0",
        kind="gpu",
        name=name,
        memory_bytes=model.memory_bytes if memory_bytes is None else memory_bytes,
        matmul_ops_per_second=model.matmul_rate_expected // share,
        pow_hashes_per_second=model.pow_rate_expected // share,
        memory_bytes_per_second=model.memory_rate_expected // share,
    )


def _claimed(claim: DeviceClaim) -> dict[ProofKind, int]:
    return {
        "pow": claim.pow_hashes_per_second,
        "matmul": claim.matmul_ops_per_second,
        "memory": claim.memory_bytes_per_second,
    }


def _rates(claim: DeviceClaim) -> tuple[KindRate, ...]:
    return tuple(
        KindRate(kind=kind, measured_per_second=rate, claimed_per_second=rate) for kind, rate in _claimed(claim).items()
    )


def _proofs(claim: DeviceClaim, **measured_ppm: int) -> list[ProofEvidence]:
    """One proof of each kind; a kind that is named holds this much of its claim."""
    return [
        proof(
            device=claim.uuid,
            kind=kind,
            claimed=rate,
            measured=rate * measured_ppm.get(kind, 1_000_000) // 1_000_000,
            expected=rate if kind == "memory" else None,
        )
        for kind, rate in _claimed(claim).items()
    ]


def _worth(score: ScoreRecord, *claims: DeviceClaim) -> int:
    hardware = HardwareClaim(cpu_model="a processor", cpu_milli=1000, memory_bytes=1, devices=claims)
    return worth_ppb(PRICES, hardware, score)


# Prices


def test_reference_card_counts_one() -> None:
    claim = _claim()
    assert PRICES.price_ppb(claim, _rates(claim)) == PPB


def test_list_of_rules_2_stays_as_it_is() -> None:
    """A row of hardware.csv that is added or changed changes old scores' worth: it needs new rules."""
    digest = hashlib.sha256(canonical_bytes(dict(PRICES.cards_ppb))).hexdigest()
    assert (len(PRICES.cards_ppb), digest[:16]) == (39, "7480c68c91f5e1d8")


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ("NVIDIA B200", "NVIDIA H200"),
        ("NVIDIA H200", REFERENCE),
        (REFERENCE, "NVIDIA A100-SXM4-80GB"),
        ("NVIDIA A100-SXM4-80GB", "NVIDIA A100-SXM4-40GB"),
        ("NVIDIA GeForce RTX 4090", "NVIDIA GeForce RTX 3090"),
    ],
)
def test_better_card_counts_more(better: str, worse: str) -> None:
    assert PRICES.cards_ppb[better] > PRICES.cards_ppb[worse]


def test_twice_the_compute_counts_more_than_twice_the_memory() -> None:
    reference = _model()
    row = {name: getattr(reference, name) for name in GpuModel.__dataclass_fields__}
    fast = GpuModel(
        **{**row, "nvml_name": "fast", "tensor16_operations_per_second": 2 * row["tensor16_operations_per_second"]}
    )
    large = GpuModel(**{**row, "nvml_name": "large", "memory_bytes": 2 * row["memory_bytes"]})
    found = PriceList(HardwareTable({model.nvml_name: model for model in (reference, fast, large)})).cards_ppb
    # The square root and the fourth root of 2, rounded down.
    assert (found["fast"], found["large"]) == (1_414_213_562, 1_189_207_115)


def test_card_that_claims_a_tenth_has_a_tenth_of_the_price() -> None:
    """Or a processor by the name of a large card, which holds the little it claims, would be paid like one."""
    claim = _claim(share=10)
    assert PRICES.price_ppb(claim, _rates(claim)) == pytest.approx(PPB // 10, abs=10)


@pytest.mark.parametrize("kind", ["pow", "matmul", "memory"])
def test_price_follows_the_weakest_claim(kind: str) -> None:
    claim = _claim()
    weak = tuple(
        rate.model_copy(update={"claimed_per_second": rate.claimed_per_second // 2}) if rate.kind == kind else rate
        for rate in _rates(claim)
    )
    assert PRICES.price_ppb(claim, weak) == pytest.approx(PPB // 2, abs=10)


def test_half_the_memory_of_its_name_halves_the_price() -> None:
    claim = _claim(memory_bytes=_model().memory_bytes // 2)
    assert PRICES.price_ppb(claim, _rates(claim)) == PPB // 2


def test_unknown_card_and_processor_count_by_their_matmul_claim_up_to_the_least_known_card() -> None:
    least = min(PRICES.cards_ppb.values())
    for kind in ("gpu", "cpu"):
        unknown = _claim().model_copy(update={"name": "NVIDIA H1000", "kind": kind})
        assert PRICES.price_ppb(unknown, _rates(unknown)) == least
        slow = unknown.model_copy(update={"matmul_ops_per_second": 10**11})
        assert PRICES.price_ppb(slow, _rates(slow)) == 10**11 * PPB // _model().matmul_rate_expected == 126_339


def test_processor_does_not_take_a_cards_price_by_its_name() -> None:
    claim = _claim().model_copy(update={"kind": "cpu"})
    assert PRICES.price_ppb(claim, _rates(claim)) == min(PRICES.cards_ppb.values())


@pytest.mark.parametrize("count", [0, 1])
def test_device_without_both_proofs_has_no_price(count: int) -> None:
    claim = _claim()
    assert PRICES.price_ppb(claim, _rates(claim)[:count]) == 0


# Worth


@pytest.mark.parametrize("kind", ["pow", "matmul"])
def test_worth_is_price_times_the_weakest_share_of_the_claim(kind: str) -> None:
    claim = _claim()
    score = SCORING.calculate_score(_proofs(claim, **{kind: 800_000}), None, None)
    assert _worth(score, claim) == pytest.approx(800_000_000, abs=1000)


def test_memory_that_is_not_shown_halves_the_worth() -> None:
    """At half of its rate a card can do without the memory that it claims: a quarter for the rate, nothing for the rest."""
    claim = _claim()
    score = SCORING.calculate_score(_proofs(claim, memory=599_000), None, None)
    assert _worth(score, claim) == pytest.approx(299_500_000, abs=1000)


def test_card_without_a_claim_of_bandwidth_is_priced_like_an_unknown_one() -> None:
    claim = _claim().model_copy(update={"memory_bytes_per_second": 0})
    score = SCORING.calculate_score(_proofs(_claim())[:2], None, None)
    assert _worth(score, claim) == min(PRICES.cards_ppb.values())


@given(
    st.sampled_from(sorted(TABLE.models)),
    st.lists(st.tuples(st.sampled_from(sorted(TABLE.models)), st.integers(1, 1000)), min_size=1, max_size=16),
)
def test_no_card_is_worth_more_in_parts_of_other_names(whole: str, parts: list[tuple[str, int]]) -> None:
    """Whatever the parts are called: as much of each as the card can carry at the same moment is worth no more than the card."""
    card = _model(whole)
    sizes = [
        [card.matmul_rate_expected, card.memory_rate_expected, card.memory_bytes],
        *([share * getattr(_model(name), figure) for figure in FIGURES] for name, share in parts),
    ]
    need = max(sum(part[place] for part in sizes[1:]) / sizes[0][place] for place in range(len(FIGURES)))
    worth = 0
    for name, share in parts:
        model = _model(name)
        claim = _claim(name).model_copy(
            update={
                "matmul_ops_per_second": int(model.matmul_rate_expected * share / need),
                "memory_bytes_per_second": int(model.memory_rate_expected * share / need),
                "memory_bytes": int(model.memory_bytes * share / need),
            }
        )
        worth += PRICES.price_ppb(claim, _rates(claim))
    assert worth <= PRICES.cards_ppb[whole] * 1_000_001 // 1_000_000 + len(parts)


def test_devices_add_up() -> None:
    claims = [_claim().model_copy(update={"uuid": f"GPU-{index}"}) for index in range(8)]
    score = SCORING.calculate_score([found for claim in claims for found in _proofs(claim)], None, None)
    assert _worth(score, *claims) == 8 * PPB
    assert _worth(score, *claims[:7]) == 7 * PPB


def test_device_that_was_not_measured_adds_nothing() -> None:
    claim = _claim()
    score = SCORING.calculate_score(_proofs(claim), None, None)
    assert _worth(score, claim, claim.model_copy(update={"uuid": "GPU-1"})) == PPB


def test_larger_claim_counts_once_it_is_measured() -> None:
    """Proven with a tenth of the claim, registered anew with all of it: the tenth counts."""
    score = SCORING.calculate_score(_proofs(_claim(share=10)), None, None)
    assert _worth(score, _claim()) == pytest.approx(PPB // 10, abs=10)


def test_rented_device_loses_half_of_its_worth_in_each_window_by_rules_3_and_after_twelve_by_rules_2() -> None:
    claim = _claim()
    rented = [proof(RejectReason.RENTED, device="GPU-0", kind=kind, measured=0) for kind in _claimed(claim)]
    worths: dict[int, list[int]] = {}
    for rules in (2, 3):
        score = recompute_score(rules, _proofs(claim), None, None, None, None)
        for _ in range(DECLINES_NEUTRAL + 1):
            score = recompute_score(rules, rented, None, score, None, None)
            worths.setdefault(rules, []).append(_worth(score, claim))
    assert worths[2] == [PPB] * DECLINES_NEUTRAL + [PPB // 2]
    assert worths[3] == [1_000_000 // 2**count * 1000 for count in range(1, DECLINES_NEUTRAL + 2)]


# Weights


def _weights(*miners: tuple[int, int]) -> list[int]:
    found = weights_ppm([MinerWorth(f"{index:064x}", score, worth) for index, (score, worth) in enumerate(miners)])
    return list(found.values())


@pytest.mark.parametrize(("score_ppm", "weight"), [(ACCEPTABLE_PPM, 500_000), (ACCEPTABLE_PPM - 1, 0)])
def test_nobody_below_seventy_weighs_anything(score_ppm: int, weight: int) -> None:
    assert _weights((score_ppm, PPB), (ACCEPTABLE_PPM, PPB))[0] == weight


def test_weight_is_score_times_worth() -> None:
    assert _weights((1_000_000, 3 * PPB), (750_000, 4 * PPB)) == [500_000, 500_000]


def test_what_is_left_goes_to_the_largest_remainders_and_then_to_the_smaller_keys() -> None:
    assert _weights((10**6, 1), (10**6, 1), (10**6, 1)) == [333_334, 333_333, 333_333]
    assert _weights((10**6, 1), (10**6, 1), (10**6, 4)) == [166_667, 166_667, 666_666]
    assert _weights((10**6, 2), (10**6, 2), (10**6, 3)) == [285_714, 285_714, 428_572]


def test_market_worth_nothing_weighs_nothing() -> None:
    assert _weights((0, PPB), (10**6, 0)) == [0, 0]
    assert _weights() == []


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 40 * PPB)), max_size=60))
def test_weights_add_up_to_exactly_one(miners: list[tuple[int, int]]) -> None:
    found = _weights(*miners)
    counted = [score >= ACCEPTABLE_PPM and worth > 0 for score, worth in miners]
    assert sum(found) == (1_000_000 if any(counted) else 0)
    assert all(weight == 0 for weight, is_counted in zip(found, counted, strict=True) if not is_counted)
