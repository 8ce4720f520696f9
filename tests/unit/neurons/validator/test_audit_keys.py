"""Replaced subkeys in an audit: answers they signed later are named, and everything of before stays clean."""

from __future__ import annotations

from pathlib import Path

import pytest

from ledger.embedded import EmbeddedLedger
from ledger.replay import opened_blocks
from neurons.cli import main
from neurons.validator.audit.epochs import Epoch
from neurons.validator.audit.history import EpochLeaves, History
from neurons.validator.audit.keys import KeyAuditor
from neurons.validator.audit.reading import window_of
from neurons.validator.audit.report import Place, Report
from polarise.epoch_record import EpochCommit
from polarise.errors import RequestRejected
from polarise.evidence import EvidenceBundle
from polarise.generations import generation_path
from polarise.signing import Purpose
from polarise.transaction import decode_transaction
from tests.support.audited_market import MarketFiles, Write, make_market, rebuild
from tests.support.proving_miner import MINER, VALIDATOR
from tests.support.worker import made_once


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> MarketFiles:
    """The market of the other audits' tests; no test changes it."""
    return MarketFiles(
        made_once(tmp_path_factory.getbasetemp(), "market", lambda folder: make_market(folder, epochs=2))
    )


def epoch_of(market: MarketFiles, *, later_seconds: int) -> tuple[Epoch, History]:
    """Return the newest epoch as if the ledger had been read so long after its commitment's block was made."""
    history = History(market.genesis().final_confirmations)
    for block in opened_blocks(market.notes(), market.genesis()):
        history.blocks.add(block)
    leaf = market.leaf_of("/commit", 1)
    commit = EpochCommit.model_validate(decode_transaction(market.leaves()[leaf]).body.op.value, strict=False)
    commit = commit.model_copy(update={"started_unix_ms": commit.started_unix_ms + later_seconds * 1000})
    leaves = EpochLeaves(commit=leaf)
    return Epoch(VALIDATOR.public_key, market.epochs()[1], leaves, commit, None, None, None, None), history


def failures(epoch: Epoch, history: History, bundle: EvidenceBundle) -> list[str]:
    report = Report(keep_going=True)
    with report.step("evidence"):
        KeyAuditor(history, report).check(epoch, bundle, Place(miner=MINER.public_key))
    return [str(failure.place.field) for failure in report.failures]


def test_an_answer_by_a_subkey_that_was_replaced_before_the_epoch_is_named(market: MarketFiles) -> None:
    epoch, history = epoch_of(market, later_seconds=3600)
    bundle = market.bundles()[1]
    assert epoch.commit is not None
    assert epoch.leaves.commit is not None
    last = window_of(history.blocks, epoch.commit, epoch.leaves.commit).first
    assert failures(epoch, history, bundle) == []
    # The first leaf that no block of the reading covers, and the last one that one does.
    history.keys.add(MINER.public_key, Purpose.STATEMENT, epoch.leaves.commit, 1)
    assert failures(epoch, history, bundle) == []
    history.keys.add(MINER.public_key, Purpose.REQUEST, 0, 1)
    assert failures(epoch, history, bundle) == []
    assert history.blocks.covering(epoch.leaves.commit - 1) <= last
    history.keys.add(MINER.public_key, Purpose.STATEMENT, epoch.leaves.commit - 1, 1)
    assert failures(epoch, history, bundle) == [f"proofs[{index}].commitment" for index in range(len(bundle.proofs))]


def test_a_validator_reads_as_early_as_its_clock_lets_it(market: MarketFiles) -> None:
    """Within a minute of the epoch's beginning nobody can tell what the validator saw: nothing is held against it."""
    epoch, history = epoch_of(market, later_seconds=0)
    history.keys.add(MINER.public_key, Purpose.STATEMENT, 0, 1)
    assert failures(epoch, history, market.bundles()[1]) == []


def test_epochs_before_a_rotation_stay_clean(
    market: MarketFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The validator replaces its statement subkey behind its last record; all its records were signed by the old one."""
    certificate = VALIDATOR.subkey(Purpose.STATEMENT, 1).certificate.to_wire()
    path = generation_path(VALIDATOR.public_key, Purpose.STATEMENT)
    last = market.records()[-1].epoch

    def rotate(where: str, value: object, _ledger: EmbeddedLedger) -> object:
        own = Write(where, value)
        return (own, Write(path, certificate)) if where.endswith(f"{last:010d}/record") else value

    files = rebuild(market, tmp_path / "after", rotate)
    assert main(["audit", *files.arguments()]) == 0
    assert "/keys" not in capsys.readouterr().out


def test_a_record_behind_a_rotation_by_the_old_subkey_is_refused_and_found(
    market: MarketFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    certificate = VALIDATOR.subkey(Purpose.STATEMENT, 1).certificate.to_wire()
    path = generation_path(VALIDATOR.public_key, Purpose.STATEMENT)
    last = market.records()[-1].epoch

    def rotate(where: str, value: object, _ledger: EmbeddedLedger) -> object:
        own = Write(where, value)
        return (Write(path, certificate), own) if where.endswith(f"{last:010d}/record") else value

    with pytest.raises(RequestRejected, match="statement subkey of generation 0"):
        rebuild(market, tmp_path / "lawful", rotate)
    files = rebuild(market, tmp_path / "lawless", rotate, is_lawless=True)
    assert main(["audit", *files.arguments()]) == 7
    assert "should have been refused" in capsys.readouterr().out
