"""A thousand places: most are kept by who has weight and score, the rest are drawn anew in each epoch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from ledger.replay import opened_blocks
from neurons.validator.audit.epochs import Epoch
from neurons.validator.audit.history import EpochLeaves, History, RegistryWrite
from neurons.validator.audit.miner_set import MinerSetAuditor
from neurons.validator.audit.report import Report
from neurons.validator.metrics import FILE_NAME, EpochEnd, MetricsHandler, StoredScore, StoredWeight
from neurons.validator.places import KEPT_MAX, MINERS_MAX, Standing, places, standing_of
from polarise import merkle
from polarise.epoch_record import EpochCommit, EpochRecord, EpochScores, WeighedLine
from tests.support.audited_market import MarketFiles, make_market
from tests.support.proving_miner import VALIDATOR
from tests.support.scores import begin, score_record

# Whoever makes keys that sort first had all places by older rules.
DEAD = [f"{number:064x}" for number in range(2000)]
LIVING = [f"f{number:063x}" for number in range(KEPT_MAX + 50)]


def _standing(count: int, *, weight_ppm: int = 1, score_ppm: int = 1_000_000) -> dict[str, Standing]:
    return dict.fromkeys(LIVING[:count], Standing(weight_ppm, score_ppm))


def test_everybody_has_a_place_while_there_are_enough() -> None:
    assert places(reversed(DEAD[:MINERS_MAX]), {}, 1) == DEAD[:MINERS_MAX]
    assert len(places(DEAD[: MINERS_MAX + 1], {}, 1)) == MINERS_MAX


def test_who_has_a_score_keeps_its_place_however_many_keys_are_made() -> None:
    placed = places([*DEAD, *LIVING], _standing(KEPT_MAX), 7)
    assert set(LIVING[:KEPT_MAX]) <= set(placed)
    assert (len(placed), placed) == (MINERS_MAX, sorted(placed))


def test_more_than_nine_hundred_keep_none_for_ever_and_weight_goes_first() -> None:
    standing = {**_standing(KEPT_MAX + 50), LIVING[3]: Standing(2, 700_000), LIVING[4]: Standing(0, 1_000_000)}
    kept = [set(places([*DEAD, *LIVING], standing, epoch)) for epoch in range(20)]
    assert all(LIVING[3] in placed for placed in kept)
    assert not all(LIVING[4] in placed for placed in kept)


def test_score_of_nought_keeps_no_place() -> None:
    standing = dict.fromkeys(DEAD, Standing(0, 0))
    kept = [set(places(DEAD, standing, epoch)) for epoch in range(2)]
    assert kept[0] != kept[1]


def test_new_key_comes_in_after_some_epochs_however_full_it_is() -> None:
    """By key it never would; by lot it has a chance of a hundred places in two thousand, each time."""
    new = "f" * 64
    epochs = [epoch for epoch in range(200) if new in places([*DEAD, *LIVING, new], _standing(KEPT_MAX), epoch)]
    assert 1 <= len(epochs) <= 40


def test_lots_are_those_of_the_epoch_and_the_key_alone() -> None:
    assert places(DEAD, {}, 5) == places(list(reversed(DEAD)), {}, 5)
    assert places(DEAD, {}, 5) != places(DEAD, {}, 6)


def test_standing_is_that_of_the_newest_complete_epoch(tmp_path: Path) -> None:
    with MetricsHandler(tmp_path / FILE_NAME) as metrics:
        for epoch, status, rules in ((1, "complete", 2), (2, "complete", 3), (3, "broken_off", 3)):
            begin(metrics, epoch)
            metrics.record(StoredScore(epoch, "a" * 64, score_record(), "e" * 64, 1))
            metrics.set_weights(epoch, {"a" * 64: StoredWeight(1, epoch)})
            metrics.finish_epoch(epoch, 1, EpochEnd("d" * 64, status, rules))  # type: ignore[arg-type]  # a Status
        assert metrics.standing(3) == {"a" * 64: Standing(2, score_record().score_ppm)}
        assert metrics.standing(4) == {}


# Recomputed by the audit


class Full(NamedTuple):
    """Two epochs of a validator whose registry is full, and what an auditor knows of them."""

    history: History
    first: Epoch
    second: Epoch


def _digest(node: str) -> str:
    return merkle.leaf_hash(bytes.fromhex(node)).hex()


def _entries(placed: list[str]) -> dict[str, str]:
    return {node: _digest(node) for node in placed}


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> MarketFiles:
    """Real blocks and a real record; the registry beside them is made up."""
    return make_market(tmp_path_factory.mktemp("market"), epochs=1)


@pytest.fixture(scope="module")
def full(market: MarketFiles) -> Full:
    genesis = market.genesis()
    history = History(genesis.final_confirmations)
    for block in opened_blocks(market.notes(), genesis):
        history.blocks.add(block)
    for node in (*DEAD, *LIVING):
        history.registry.add(RegistryWrite(node, 0), _digest(node))
    leaf = market.leaf_of("/commit")
    return Full(history, _epoch(market, leaf, 1, {}), _epoch(market, leaf, 2, _standing(KEPT_MAX)))


def _epoch(market: MarketFiles, leaf: int, number: int, standing: dict[str, Standing]) -> Epoch:
    """An epoch whose set is what follows from the standing, and in which the living had a score."""
    (record,) = market.records()
    placed = places([*DEAD, *LIVING], standing, number)
    root = merkle.root([bytes.fromhex(_digest(node)) for node in placed]).hex()
    commit = EpochCommit(
        challenge_commit=record.challenge_commit,
        miner_set_root=root,
        miners_count=len(placed),
        started_unix_ms=record.started_unix_ms,
        proof_every=1,
        inspect_every=0,
    )
    lines = tuple(_line(node) for node in LIVING[:KEPT_MAX])
    changed: EpochRecord = record.model_copy(update={"prev": None if number == 1 else "a" * 64})
    scores = EpochScores(3, lines)
    return Epoch(VALIDATOR.public_key, number, EpochLeaves(commit=leaf), commit, scores, None, changed, None)


def _line(node: str) -> WeighedLine:
    return WeighedLine(
        miner_key=node, score_ppm=1_000_000, raw_ppm=None, reasons=(), evidence="e" * 64, worth_ppb=1, weight_ppm=1
    )


def _failures(full: Full, *entries: dict[str, str] | None, knows_beginning: bool = True) -> list[str | None]:
    report = Report(keep_going=True)
    with report.step("miner sets"):
        auditor = MinerSetAuditor(full.history, report, knows_beginning=knows_beginning)
        for epoch, found in zip((full.first, full.second)[-len(entries) :], entries, strict=True):
            auditor.check(epoch, found)
    return [failure.place.field for failure in report.failures]


def test_audit_comes_to_the_same_places(full: Full) -> None:
    first = places([*DEAD, *LIVING], {}, 1)
    second = places([*DEAD, *LIVING], standing_of(_line(node) for node in LIVING[:KEPT_MAX]), 2)
    assert _failures(full, _entries(first), _entries(second)) == []
    assert _failures(full, None, None) == []


def test_place_that_a_friend_has_got_instead_of_who_keeps_it_is_named(full: Full) -> None:
    first = places([*DEAD, *LIVING], {}, 1)
    placed = places([*DEAD, *LIVING], _standing(KEPT_MAX), 2)
    friend = next(node for node in DEAD if node not in placed)
    false = _entries(sorted([*placed[1:], friend]))
    root = merkle.root([bytes.fromhex(digest) for digest in (false[node] for node in sorted(false))]).hex()
    commit = full.second.commit
    assert commit is not None
    lied = full._replace(second=replace(full.second, commit=commit.model_copy(update={"miner_set_root": root})))
    assert _failures(lied, _entries(first), false) == ["registry"]


def test_places_that_rest_on_what_lies_before_an_audit_are_the_validators_word(full: Full) -> None:
    placed = places([*DEAD, *LIVING], _standing(KEPT_MAX), 2)
    assert _failures(full, _entries(placed), knows_beginning=False) == []
