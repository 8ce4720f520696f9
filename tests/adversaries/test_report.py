"""The benchmark's exit status: what is not as predicted is named."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.adversaries import Row, problems
from polarise.errors import RejectReason
from tests.adversaries.cheat import Cheat, Outcome
from tests.adversaries.honest import HonestPlay
from tests.adversaries.messages import BreaksMessages

CAUGHT = Outcome(is_caught=True, reason=RejectReason.MALFORMED)
PASSED = Outcome(is_caught=False)


def _cheat(predicted: float = 1.0) -> Cheat:
    return BreaksMessages(name="a cheat", how="", reasons=(RejectReason.MALFORMED,), predicted=predicted)


def _problems(cheat: Cheat, pure: Sequence[Outcome], live: Sequence[Outcome] = ()) -> list[str]:
    return problems([Row.of(cheat, pure, live)], [])


def test_counts_inside_the_interval_are_no_problem() -> None:
    assert _problems(_cheat(), [CAUGHT] * 200, [CAUGHT] * 3) == []
    assert _problems(_cheat(0.5), [CAUGHT] * 100 + [PASSED] * 100) == []


def test_one_play_that_passes_where_none_may_is_named() -> None:
    assert _problems(_cheat(), [CAUGHT] * 199 + [PASSED]) == [
        "a cheat, without a network: caught 199 of 200, expected 200 to 200"
    ]
    assert _problems(_cheat(), [CAUGHT] * 200, [PASSED]) == ["a cheat, live: caught 0 of 1, expected 1 to 1"]


def test_being_caught_too_often_is_a_problem_too() -> None:
    assert _problems(_cheat(0.5), [CAUGHT] * 120 + [PASSED] * 80) == [
        "a cheat, without a network: caught 120 of 200, expected 82 to 118"
    ]


def test_a_reason_nobody_expected_is_named() -> None:
    other = Outcome(is_caught=False, reason=RejectReason.WRONG_COUNT)
    assert "a cheat: rejected for WRONG_COUNT" in _problems(_cheat(0.5), [CAUGHT] * 100 + [other] * 100)


def test_a_rejected_honest_proof_is_named() -> None:
    plays = [HonestPlay("pow slow", RejectReason.CLAIM_NOT_MET), HonestPlay("matmul slow", None)]
    assert problems([], plays) == ["honest, pow slow: rejected for CLAIM_NOT_MET"]
