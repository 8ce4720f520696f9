"""Openings that are not there: owed to the millisecond, then the validator's word; what went early is signed and counted."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ledger.state import FUTURE_MS_MAX
from neurons.cli import main
from neurons.validator.audit.audit import Audit, Scope
from neurons.validator.audit.ledger_copy import LedgerCopy
from neurons.validator.audit.report import Report
from neurons.validator.replay_openings import missing_openings
from neurons.validator.replay_proof import beacon_of
from polarise.block import block_of
from polarise.checkpoint import parse_checkpoint
from polarise.evidence import EvidenceBundle, read_bundle, write_bundle
from polarise.notes import parse_note
from polarise.openings import (
    HOUR_MS,
    STATEMENT_KIND,
    GoneReason,
    OpeningsGone,
    hours_owed,
    owed_until_unix_ms,
    thrown_away,
)
from polarise.signing import Identity
from polarise.statement import sign_statement
from tests.support.audited_market import MarketFiles, make_market
from tests.support.clock import ManualClock
from tests.support.proving_miner import MINER, VALIDATOR
from tests.support.worker import made_once

Json = dict[str, Any]
EARLY = "openings thrown away before their time (ROOM): the validator signed it, their digest stands"
LATE = "openings past their 48 hours: thrown away, their digest stands"


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> MarketFiles:
    """An honest market after one epoch; no test changes it."""
    return MarketFiles(
        made_once(tmp_path_factory.getbasetemp(), "openings", lambda folder: make_market(folder, epochs=1))
    )


@pytest.fixture
def bundle(market: MarketFiles) -> EvidenceBundle:
    (bundle,) = market.bundles()
    return bundle


@pytest.fixture
def copy(market: MarketFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """The market's ledger and evidence in a folder of this test's own."""
    folder = tmp_path / "copy"
    assert main(["audit", *market.arguments(), "--download", str(folder)]) == 0
    shutil.copytree(market.evidence, folder / "evidence")
    capsys.readouterr()
    return folder


def _audited(market: MarketFiles, copy: Path, now_unix_ms: int) -> Report:
    """Audit by a clock of ours."""
    report = Report(keep_going=True)
    audit = Audit(LedgerCopy(copy), market.genesis(), Scope(), report, ManualClock(now_unix_ms))
    audit.check_ledger()
    audit.check_epochs(copy / "evidence")
    return report


def _until(bundle: EvidenceBundle) -> int:
    """Until when an audit wants the openings of an honest bundle."""
    return bundle.examined_unix_ms + 48 * HOUR_MS - FUTURE_MS_MAX


def test_validator_says_how_long_its_openings_are_shown(bundle: EvidenceBundle) -> None:
    assert (bundle.retention_hours, bundle.openings_gone) == (48, None)


def test_withheld_openings_fail_at_their_place(
    market: MarketFiles, copy: Path, bundle: EvidenceBundle, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_bundle(copy / "evidence", bundle.without_openings())
    assert main(["audit", "--offline", str(copy), "--genesis", str(market.genesis_file), "-o", "json"]) == 7
    (failure,) = json.loads(capsys.readouterr().out)["failures"]
    assert failure["place"]["bundle"] == path.stem
    assert failure["place"]["field"] == "matmul proof of cpu: openings"
    assert "owed for 48 hours" in failure["message"]
    assert main(["validator", "replay", str(path)]) == 7


@pytest.mark.parametrize(("after_ms", "holds"), [(-1, False), (0, True)])
def test_retention_ends_to_the_millisecond(
    market: MarketFiles, copy: Path, bundle: EvidenceBundle, after_ms: int, holds: bool
) -> None:
    write_bundle(copy / "evidence", bundle.without_openings())
    report = _audited(market, copy, _until(bundle) + after_ms)
    assert report.holds is holds
    assert report.words[LATE] == int(holds)


@pytest.mark.parametrize("hours", [None, 1, 49])
def test_a_bundle_is_held_to_what_it_says_itself(bundle: EvidenceBundle, hours: int | None) -> None:
    bare = bundle.without_openings().model_copy(update={"retention_hours": hours})
    end = bundle.examined_unix_ms + (hours or 48) * HOUR_MS - FUTURE_MS_MAX
    assert [missing_openings(bare, end + after_ms)[0] for after_ms in (-1, 0)] == [False, None]


def test_shorter_retention_is_another_name(bundle: EvidenceBundle) -> None:
    """It is part of what the ledger's hash covers: nobody shortens it afterwards."""
    assert bundle.model_copy(update={"retention_hours": 1}).digest() != bundle.digest()


def test_dating_an_examination_back_shortens_nothing(bundle: EvidenceBundle) -> None:
    beacon_unix_ms = block_of(parse_checkpoint(parse_note(bundle.beacon_block.encode()).text)).time_unix_ms
    bare = bundle.without_openings().model_copy(update={"examined_unix_ms": 1})
    end = beacon_unix_ms - FUTURE_MS_MAX + 48 * HOUR_MS - FUTURE_MS_MAX
    assert beacon_of(bare)
    assert [missing_openings(bare, end + after_ms)[0] for after_ms in (-1, 0)] == [False, None]


def test_early_loss_that_is_signed_is_shown_and_counted(
    market: MarketFiles, copy: Path, bundle: EvidenceBundle, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = thrown_away(VALIDATOR, bundle, GoneReason.ROOM, bundle.examined_unix_ms)
    path = write_bundle(copy / "evidence", lost)
    assert path.stem == bundle.digest()
    assert read_bundle(path) == lost
    arguments = ["audit", "--offline", str(copy), "--genesis", str(market.genesis_file), "-o", "json"]
    assert main(arguments) == 0
    words = {word["what"]: word["count"] for word in json.loads(capsys.readouterr().out)["not_recomputed"]}
    assert words[EARLY] == 1
    assert main([*arguments, "--strict"]) == 7
    (failure,) = json.loads(capsys.readouterr().out)["failures"]
    assert failure["place"]["field"] == "openings_gone"


def test_strict_audit_of_an_honest_market_is_clean(market: MarketFiles) -> None:
    assert main(["audit", *market.arguments(), "--strict"]) == 0


def test_early_loss_stays_what_it_was(market: MarketFiles, copy: Path, bundle: EvidenceBundle) -> None:
    """When the retention is over, too, it is not called one of those that were kept for their time."""
    write_bundle(copy / "evidence", thrown_away(VALIDATOR, bundle, GoneReason.ROOM, bundle.examined_unix_ms))
    report = _audited(market, copy, _until(bundle))
    assert report.holds
    assert (report.words[EARLY], report.words[LATE]) == (1, 0)


@dataclasses.dataclass(frozen=True)
class Word:
    """What a validator signs; a test changes one thing."""

    identity: Identity = VALIDATOR
    kind: str = STATEMENT_KIND
    evidence: str | None = None
    after_ms: int = 0

    def under(self, bundle: EvidenceBundle) -> EvidenceBundle:
        """Return the bundle without openings, with this word."""
        body = OpeningsGone(
            evidence=self.evidence or bundle.digest(),
            thrown_unix_ms=bundle.examined_unix_ms + self.after_ms,
            reason=GoneReason.ROOM,
        )
        said = sign_statement(self.identity, self.kind, body)
        return bundle.without_openings().model_copy(update={"openings_gone": said})


@pytest.mark.parametrize(
    ("word", "holds"),
    [
        (Word(), None),
        (Word(after_ms=-1), False),
        (Word(after_ms=48 * HOUR_MS - 1), None),
        (Word(after_ms=48 * HOUR_MS), False),
        (Word(evidence="0" * 64), False),
        (Word(identity=MINER), False),
        (Word(kind="receipt"), False),
    ],
)
def test_word_must_be_the_validators_own_about_this_bundle_and_time(
    bundle: EvidenceBundle, word: Word, holds: bool | None
) -> None:
    assert missing_openings(word.under(bundle), bundle.examined_unix_ms)[0] is holds


def test_a_clock_that_was_set_back_signs_a_word_that_holds(bundle: EvidenceBundle) -> None:
    lost = thrown_away(VALIDATOR, bundle, GoneReason.SIZE, bundle.examined_unix_ms - 1)
    assert missing_openings(lost, bundle.examined_unix_ms)[0] is None


@pytest.mark.parametrize(
    "change",
    [
        lambda bundle: bundle.model_copy(update={"retention_hours": 48}),
        lambda bundle: thrown_away(VALIDATOR, bundle, GoneReason.ROOM, bundle.examined_unix_ms),
    ],
)
def test_version_1_has_neither(bundle: EvidenceBundle, change: Callable[[EvidenceBundle], EvidenceBundle]) -> None:
    """Its names were made without; a bundle of version 1 owes the 48 hours of everybody."""
    old = bundle.model_copy(update={"version": 1, "retention_hours": None})
    assert {"retention_hours", "openings_gone"}.isdisjoint(old.to_wire())
    assert change(old).digest() == old.digest()
    assert (hours_owed(old), owed_until_unix_ms(old)) == (48, bundle.examined_unix_ms + 48 * HOUR_MS)
