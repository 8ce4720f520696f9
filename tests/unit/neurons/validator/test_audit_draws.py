"""The audit of what rules 2 and 3 brought: draws, attempts, rounds, pages, worth and weights, each changed by the least amount."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

from ledger.embedded import EmbeddedLedger
from neurons.cli import main
from neurons.validator.audit.report import Place, Report
from neurons.validator.audit.rounds import RoundAuditor
from neurons.validator.challenges import EpochSecret
from neurons.validator.missing import Tally, tally
from neurons.validator.scoring import RULES_VERSION, recompute_score
from polarise.epoch_record import ScoreSheet
from polarise.errors import RejectReason
from polarise.evidence import DrawEvidence, EvidenceBundle, RoundEvidence
from polarise.transaction import decode_transaction
from tests.support.audited_market import (
    DROP,
    Change,
    Lie,
    MarketFiles,
    Write,
    make_market,
    page_of,
    rebuild,
    record_of,
    record_value,
    validator_loop,
)
from tests.support.evidence import proof
from tests.support.proving_miner import MINER, VALIDATOR, entry_of, proving_miner
from tests.support.scores import OPENING_KEY, ROOT, bundle_of, score_record
from tests.support.small_ledger import small_ledger

Json = dict[str, Any]
RARELY = 1000


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> MarketFiles:
    """An honest market after two epochs."""
    return make_market(tmp_path_factory.mktemp("market"), epochs=2)


def _audit(capsys: pytest.CaptureFixture[str], files: MarketFiles) -> tuple[int, list[Json]]:
    status = main(["audit", *files.arguments(), "-o", "json"])
    return status, json.loads(capsys.readouterr().out)["failures"]


def _place(capsys: pytest.CaptureFixture[str], files: MarketFiles) -> Json:
    status, failures = _audit(capsys, files)
    assert (status, len(failures)) == (7, 1)
    place: Json = failures[0]["place"]
    return place


def _lied(market: MarketFiles, folder: Path, false: EvidenceBundle, **line: object) -> MarketFiles:
    lie = Lie({market.bundles()[-1].digest(): false}, **line)
    files = rebuild(market, folder, lie)
    lie.write(files)
    return files


def _scored(bundle: EvidenceBundle, **changes: object) -> EvidenceBundle:
    """Change a bundle, and let its score follow by the rules."""
    changed = bundle.model_copy(update=changes)
    score = recompute_score(
        RULES_VERSION, changed.proofs, changed.inspection, changed.previous, changed.telemetry, changed.draw
    )
    return changed.model_copy(update={"score": score})


@pytest.fixture(scope="module")
def rare_market(tmp_path_factory: pytest.TempPathFactory) -> MarketFiles:
    """The same, whose second epoch has no window: a miner is proven when it is met, then in one epoch of a thousand."""
    return make_market(tmp_path_factory.mktemp("rare"), epochs=2, proof_every=RARELY)


def test_market_that_proves_rarely_audits_clean(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A miner is proven when it is met; from then on its turn comes in one epoch of a thousand."""
    files = make_market(tmp_path, epochs=3, proof_every=RARELY)
    assert [bundle.score.undrawn_count for bundle in files.bundles()] == [0, 1, 2]
    assert {bundle.score.part("compute").value_ppm for bundle in files.bundles()[1:]} == {
        files.bundles()[0].score.part("compute").value_ppm
    }
    assert _audit(capsys, files) == (0, [])


def test_round_that_was_run_again_audits_clean(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The only miner was measured once and does not answer any more, so that the validator suspects itself."""
    files = MarketFiles(tmp_path)
    with small_ledger(tmp_path) as ledger, validator_loop(files, ledger) as loop:
        with proving_miner(tmp_path) as miner:
            ledger.register(entry_of(miner.endpoint))
            loop.run_epoch(threading.Event())
        loop.run_epoch(threading.Event())
    first, bundle = files.bundles()
    assert first.round == RoundEvidence(attempt=0, devices_count=0, missing_count=0)
    assert bundle.round == RoundEvidence(attempt=1, devices_count=1, missing_count=1)
    assert [found.verdict.reason for found in bundle.proofs] == [RejectReason.MISSING] * 2
    assert _audit(capsys, files) == (0, [])


def test_markets_that_prove_always_and_rarely_audit_clean(
    market: MarketFiles, rare_market: MarketFiles, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the lies below are measured against."""
    for files, is_proven in ((market, True), (rare_market, False)):
        newest = files.bundles()[-1].draw
        assert newest is not None
        assert (newest.is_proven, newest.is_common, newest.is_first) == (is_proven, is_proven, False)
        assert _audit(capsys, files) == (0, [])


def _with_draw(bundle: EvidenceBundle, **changes: object) -> EvidenceBundle:
    assert bundle.draw is not None
    return _scored(bundle, draw=bundle.draw.model_copy(update=changes))


def _with_count(bundle: EvidenceBundle, name: str) -> EvidenceBundle:
    return bundle.model_copy(update={"score": bundle.score.model_copy(update={name: getattr(bundle.score, name) + 1})})


def _again(bundle: EvidenceBundle, *, proofs: int) -> EvidenceBundle:
    """The round is said to be a second one, and so many of its proofs too."""
    changed = [
        proof.model_copy(update={"attempt": 1}) if index < proofs else proof
        for index, proof in enumerate(bundle.proofs)
    ]
    return _scored(bundle, proofs=tuple(changed), round=RoundEvidence(attempt=1, devices_count=1, missing_count=1))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda bundle: _with_draw(bundle, is_proven=False), "draw"),
        (lambda bundle: _with_draw(bundle, is_inspected=True), "draw"),
        (lambda bundle: _with_draw(bundle, is_common=False), "draw"),
        (lambda bundle: _with_draw(bundle, is_first=True), "draw.is_first"),
        (lambda bundle: _with_draw(bundle, has_missed_window=True), "draw.has_missed_window"),
        (lambda bundle: _with_draw(bundle, inspect_every=1, is_inspected=True), "draw.inspect_every"),
        (lambda bundle: _scored(bundle, draw=None, round=None), "draw"),
        (lambda bundle: _scored(bundle, proofs=()), "one proof per device and kind"),
        (lambda bundle: _scored(bundle, proofs=bundle.proofs[:1]), "one proof per device and kind"),
        (lambda bundle: _scored(bundle, round=None), "round of a drawn miner"),
        (lambda bundle: _with_count(bundle, "undrawn_count"), "score"),
        (lambda bundle: _again(bundle, proofs=1), "one attempt"),
        (lambda bundle: _again(bundle, proofs=2), "pow proof of cpu: beacon, nonce and seed"),
        (
            lambda bundle: _scored(bundle, proofs=tuple(p.model_copy(update={"attempt": 1}) for p in bundle.proofs)),
            "one attempt",
        ),
        (
            lambda bundle: bundle.model_copy(update={"score": bundle.score.model_copy(update={"rules_version": 1})}),
            "rules_version",
        ),
    ],
)
def test_bundle_of_a_window_that_lies_about_its_turn(
    market: MarketFiles,
    tmp_path: Path,
    change: Callable[[EvidenceBundle], EvidenceBundle],
    field: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _check_lie(market, tmp_path, change, field, capsys)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        # A rival is proven out of turn; a friend says that its proof was one of a window.
        (lambda bundle: _with_draw(bundle, is_proven=True), "draw"),
        (lambda bundle: _with_draw(bundle, is_proven=True, is_common=True), "draw"),
        (lambda bundle: _with_draw(bundle, proof_every=RARELY - 1), "draw.proof_every"),
        (lambda bundle: _with_draw(bundle, has_missed_window=True), "draw.has_missed_window"),
        (lambda bundle: _scored(bundle, proofs=(proof(),)), "no proof of a miner that is not drawn"),
        (
            lambda bundle: _scored(bundle, round=RoundEvidence(attempt=0, devices_count=1, missing_count=0)),
            "round of a drawn miner",
        ),
        (lambda bundle: _with_count(bundle, "undrawn_count"), "score"),
        (lambda bundle: _with_count(bundle, "uninspected_count"), "score"),
    ],
)
def test_bundle_between_windows_that_lies_about_its_turn(
    rare_market: MarketFiles,
    tmp_path: Path,
    change: Callable[[EvidenceBundle], EvidenceBundle],
    field: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _check_lie(rare_market, tmp_path, change, field, capsys)


def _check_lie(
    market: MarketFiles,
    folder: Path,
    change: Callable[[EvidenceBundle], EvidenceBundle],
    field: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Name, line, worth, weight, roots and record all follow from the false bundle."""
    newest = market.bundles()[-1]
    false = change(newest)
    assert _place(capsys, _lied(market, folder / "lie", false)) == {
        "validator": VALIDATOR.public_key,
        "epoch": newest.epoch,
        "miner": MINER.public_key,
        "bundle": false.digest(),
        "field": field,
    }


@pytest.mark.parametrize("name", ["proof_every", "inspect_every"])
def test_commitment_that_binds_no_interval_is_named(
    market: MarketFiles, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Or the draw could be chosen once the beacon is known; every later beacon changes with it, so nothing else is looked at."""
    newest = f"{market.epochs()[1]:010d}"

    def change(path: str, value: object, _ledger: EmbeddedLedger) -> object:
        return {**_json(value), name: None} if path.endswith(f"{newest}/commit") else value

    files = rebuild(market, tmp_path / "lie", change)
    status = main(["audit", *files.arguments(), "--keep-going", "-o", "json"])
    failures = json.loads(capsys.readouterr().out)["failures"]
    assert status == 7
    assert (market.epochs()[1], "commit") in {(f["place"]["epoch"], f["place"].get("field")) for f in failures}


def _json(value: object) -> Json:
    assert isinstance(value, dict)
    return value


@pytest.mark.parametrize(
    ("round_", "field"),
    [
        # One of one is missing, and it was not run again; none is, and it was.
        (RoundEvidence(attempt=0, devices_count=1, missing_count=1), "round.attempt"),
        (RoundEvidence(attempt=0, devices_count=2, missing_count=0), "round.devices_count"),
    ],
)
def test_round_whose_figures_are_not_those_of_its_bundles(
    market: MarketFiles, tmp_path: Path, round_: RoundEvidence, field: str, capsys: pytest.CaptureFixture[str]
) -> None:
    false = _scored(market.bundles()[-1], round=round_)
    place = _place(capsys, _lied(market, tmp_path / "lie", false))
    assert place == {"validator": VALIDATOR.public_key, "epoch": market.epochs()[1], "field": field}


# Worth and weight


@pytest.mark.parametrize(("field", "change"), [("worth_ppb", 1), ("weight_ppm", -1)])
def test_line_whose_worth_or_weight_is_another(
    market: MarketFiles, tmp_path: Path, field: str, change: int, capsys: pytest.CaptureFixture[str]
) -> None:
    newest = market.bundles()[-1]
    (line,) = page_of(_value_of(market, "/scores/", 1)).lines
    files = _lied(market, tmp_path / "lie", newest, **{field: getattr(line, field) + change})
    place = _place(capsys, files)
    assert (place["miner"], place["field"]) == (MINER.public_key, field)


# Pages


def _value_of(market: MarketFiles, ending: str, number: int = 0) -> object:
    return decode_transaction(market.leaves()[market.leaf_of(ending, number)]).body.op.value


def _pages_change(market: MarketFiles, write: Callable[[str, object], tuple[Write, ...]]) -> Change:
    """The only page of the newest epoch is written otherwise."""
    newest = f"{market.epochs()[1]:010d}"

    def change(path: str, value: object, _ledger: EmbeddedLedger) -> object:
        return write(path, value) if path.startswith("/scores/") and newest in path else value

    return change


def _two_pages(path: str, value: object) -> tuple[Write, ...]:
    page = page_of(value)
    empty = page.model_copy(update={"lines": ()})
    second = page.model_copy(update={"page": 1})
    return Write(path, empty.to_wire()), Write(f"{path[:-2]}01", second.to_wire())


def test_scores_on_two_pages_audit_clean(
    market: MarketFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _audit(capsys, rebuild(market, tmp_path / "two", _pages_change(market, _two_pages))) == (0, [])


@pytest.mark.parametrize(
    ("write", "field"),
    [
        (lambda path, value: _two_pages(path, value)[:1], "miners_count"),
        (lambda _path, _value: DROP, "scores"),
        (lambda path, value: (Write(path, {**value, "page": 1}),), "scores"),
        (lambda path, value: (Write(path, value), Write(path[:-3], _sheet_of(value))), "scores"),
        (lambda path, value: (Write(path[:-3], _sheet_of(value)),), "rules_version"),
        (lambda path, value: (Write(path[:-3], {**_sheet_of(value), "rules_version": RULES_VERSION}),), "scores"),
        (lambda path, value: (Write(path, {**value, "rules_version": 1}),), "scores"),
        (lambda path, value: (Write(path, {**value, "rules_version": RULES_VERSION + 1}),), "rules_version"),
        (lambda path, value: (Write(path, {**value, "lines": value["lines"] * 2}),), "scores"),
    ],
)
def test_pages_that_are_not_those_of_the_record(
    market: MarketFiles,
    tmp_path: Path,
    write: Callable[[str, object], tuple[Write, ...]],
    field: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = _place(capsys, rebuild(market, tmp_path / "lie", _pages_change(market, write)))
    assert place == {"validator": VALIDATOR.public_key, "epoch": market.epochs()[1], "field": field}


def _sheet_of(value: object) -> Json:
    lines = [dict(line) for line in page_of(value).lines]
    plain = [{name: field for name, field in line.items() if name not in {"worth_ppb", "weight_ppm"}} for line in lines]
    return ScoreSheet.model_validate({"rules_version": 1, "lines": tuple(plain)}).to_wire()


def test_page_behind_the_record_on_a_ledger_without_law(
    market: MarketFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever shows the opening key first could still choose its scores; an honest ledger refuses."""
    kept: list[Write] = []

    def change(path: str, value: object, _ledger: EmbeddedLedger) -> object:
        if path.startswith("/scores/"):
            kept[:] = [Write(path, value)]
            return DROP
        return (Write(path, value), *kept) if path.endswith("/record") else value

    files = rebuild(market, tmp_path / "lie", change, is_lawless=True)
    assert _place(capsys, files) == {"leaf": files.leaf_of("/scores/")}


def test_rules_that_go_back_to_older_ones_are_named(
    market: MarketFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newest = f"{market.epochs()[1]:010d}"

    def change(path: str, value: object, _ledger: EmbeddedLedger) -> object:
        if path.endswith(f"{newest}/record"):
            return record_value(record_of(value).model_copy(update={"rules_version": 1}))
        is_page = path.startswith("/scores/") and newest in path
        return (Write(path[:-3], _sheet_of(value)),) if is_page else value

    place = _place(capsys, rebuild(market, tmp_path / "lie", change))
    assert place == {"validator": VALIDATOR.public_key, "epoch": market.epochs()[1], "field": "rules_version"}


# Rounds of several miners


def _bundles(round_: RoundEvidence, *missing: bool) -> list[EvidenceBundle]:
    """Bundles of miners with one device each, drawn and proven in this round."""
    secret = EpochSecret(1, OPENING_KEY, ROOT, ROOT)
    draw = DrawEvidence(proof_every=12, inspect_every=1, is_proven=True, is_inspected=True)
    found = [bundle_of(secret, proof(RejectReason.MISSING if is_missing else None)) for is_missing in missing]
    before = score_record(proof())
    return [bundle.model_copy(update={"draw": draw, "round": round_, "previous": before}) for bundle in found]


def _fields(bundles: list[EvidenceBundle], *, is_whole: bool = True) -> list[str | None]:
    """Audit a round and return what does not hold."""
    report = Report(keep_going=True)
    with report.step("evidence"):
        rounds = RoundAuditor(Place(epoch=1), report)
        for bundle in bundles:
            rounds.add(bundle, Place(epoch=1, miner="m"))
        rounds.finish(is_whole=is_whole)
    return [failure.place.field for failure in report.failures]


def _said(attempt: Literal[0, 1], missing_count: int, devices_count: int) -> RoundEvidence:
    return RoundEvidence(attempt=attempt, devices_count=devices_count, missing_count=missing_count)


@pytest.mark.parametrize(
    ("said", "missing", "fields"),
    [
        (_said(0, 1, 5), 1, []),  # exactly a fifth stands
        (_said(0, 0, 5), 1, ["round.missing_count"]),
        (_said(0, 1, 5), 0, ["round.missing_count"]),
        (_said(0, 2, 5), 2, ["round.attempt"]),  # one more has to be run again
        (_said(1, 2, 5), 0, []),  # what the second one finds counts
        (_said(1, 2, 5), 5, []),
        (_said(1, 1, 5), 0, ["round.attempt"]),  # run again without need
        (_said(1, 2, 6), 0, ["round.devices_count"]),
    ],
)
def test_round_is_run_again_above_a_fifth_and_only_then(
    said: RoundEvidence, missing: int, fields: list[str | None]
) -> None:
    assert _fields(_bundles(said, *(index < missing for index in range(5)))) == fields


def test_bundles_of_rules_2_count_devices_that_were_never_measured() -> None:
    said = _said(0, 0, 2)
    bundles = [bundle.model_copy(update={"previous": None}) for bundle in _bundles(said, False, False)]
    assert _fields([bundle.model_copy(update={"version": 2}) for bundle in bundles]) == []
    assert _fields(bundles) == ["round.devices_count"]


def test_figures_need_a_bundle_of_everybody() -> None:
    said = _said(0, 1, 5)
    assert _fields(_bundles(said, False, False)) == ["round.devices_count", "round.missing_count"]
    assert _fields(_bundles(said, False, False), is_whole=False) == []


def test_all_miners_of_an_epoch_are_in_one_round_and_drawn_alike() -> None:
    first, second = _bundles(_said(0, 0, 2), False, False)
    assert second.draw is not None
    for change, field in (
        ({"round": _said(1, 1, 2)}, "round"),
        ({"draw": second.draw.model_copy(update={"proof_every": 11})}, "draw.proof_every"),
        ({"draw": second.draw.model_copy(update={"inspect_every": 2})}, "draw.proof_every"),
        ({"draw": None}, "draw"),
    ):
        assert _fields([first, second.model_copy(update=change)]) == [field]


def test_device_counts_once_however_many_of_its_proofs_are_missing() -> None:
    two = [proof(RejectReason.MISSING, kind=kind, measured=0) for kind in ("pow", "matmul")]
    assert tally([two, [proof()], []]) == Tally(2, 1)
    assert tally([two, two]) == Tally(2, 2)
