"""Every cheat is caught as often as its formula says, and for the reason it names; `benchmarks/adversaries.py` plays more."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from challenges.proofs import ProofParams
from neurons.validator.verification import VerificationEngine
from tests.adversaries import honest
from tests.adversaries.cheat import Cheat, Outcome
from tests.adversaries.exam import vendor_table
from tests.adversaries.live import Stage
from tests.adversaries.odds import binomial_interval
from tests.adversaries.roster import ROSTER, table

SEED = 1
# A cheat that is always caught shows a leak in any play; one with a rate needs some for the rate to mean anything.
CERTAIN_PLAYS, UNCERTAIN_PLAYS = 5, 30
HONEST_PLAYS = 40
LIVE = [cheat for cheat in ROSTER if not cheat.no_live]


def _name(cheat: Cheat) -> str:
    return cheat.name


def _generator(cheat: str, form: str, trial: int) -> random.Random:
    return random.Random(f"{SEED}/{cheat}/{form}/{trial}")


def _check(cheat: Cheat, predicted: float, outcomes: Sequence[Outcome]) -> None:
    assert {outcome.reason for outcome in outcomes} <= {None, *cheat.reasons}
    low, high = binomial_interval(len(outcomes), predicted)
    assert low <= sum(outcome.is_caught for outcome in outcomes) <= high


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with (
        VerificationEngine(vendor_table()) as engine,
        Stage(tmp_path_factory.mktemp("stage"), engine) as stage,
    ):
        yield stage


@pytest.mark.parametrize("cheat", ROSTER, ids=_name)
def test_cheat_is_caught_as_often_as_predicted(cheat: Cheat) -> None:
    plays = CERTAIN_PLAYS if cheat.predicted == 1.0 else UNCERTAIN_PLAYS
    _check(cheat, cheat.predicted, [cheat.play_pure(_generator(cheat.name, "pure", trial)) for trial in range(plays)])


@pytest.mark.parametrize("cheat", LIVE, ids=_name)
def test_cheat_is_caught_over_http(cheat: Cheat, stage: Stage) -> None:
    predicted = cheat.predicted if cheat.predicted_live is None else cheat.predicted_live
    _check(cheat, predicted, [cheat.play_live(_generator(cheat.name, "live", 0), stage)])


def test_honest_miners_pass_on_slow_devices_and_trembling_links() -> None:
    plays = [honest.play_pure(_generator("honest", "pure", trial)) for trial in range(HONEST_PLAYS)]
    assert len({play.circumstances for play in plays}) == 9
    assert [play for play in plays if play.reason is not None] == []


@pytest.mark.parametrize("params", honest.KINDS, ids=["matmul", "pow", "memory"])
def test_honest_miner_passes_over_http(stage: Stage, params: ProofParams) -> None:
    assert honest.play_live(_generator("honest", "live", 0), stage, params).reason is None


def test_every_cheat_has_a_name_of_its_own_and_a_live_form_or_a_reason_for_none() -> None:
    assert len({cheat.name for cheat in ROSTER}) == len(ROSTER)
    has_live = {cheat.name for cheat in ROSTER if type(cheat).play_live is not Cheat.play_live}
    assert has_live == {cheat.name for cheat in LIVE}


def test_documentation_lists_every_cheat() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "adversaries.md").read_text(encoding="utf-8").splitlines()
    missing = [line for line in table() if line not in page]
    assert missing == [], "python -m tests.adversaries.roster prints the table"


def test_the_same_generator_plays_the_same_proof() -> None:
    cheat = next(cheat for cheat in ROSTER if cheat.name == "grinds the commitment")
    first, second = ([cheat.play_pure(_generator(cheat.name, "pure", trial)) for trial in range(8)] for _ in range(2))
    assert first == second
    assert len(set(first)) == 2
