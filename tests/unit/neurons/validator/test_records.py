"""How an epoch ends on the ledger: every miner's line, its weight, and the form of the rules it was scored by."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from neurons.base.outbox import Outbox
from neurons.base.service import Supervisor
from neurons.validator.chain import Chain
from neurons.validator.drawing import Intervals
from neurons.validator.metrics import FILE_NAME, MetricsHandler, StoredScore
from neurons.validator.places import MINERS_MAX
from neurons.validator.records import EpochRecorder, RecordFacts
from neurons.validator.scoring import ScoringSystem, version_1
from polarise.canonical import canonical_bytes
from polarise.decode import decode_model
from polarise.epoch_record import (
    STATEMENT_KIND,
    EpochRecord,
    EpochScores,
    ScorePage,
    ScoreSheet,
    page_path,
    record_path,
    scores_path,
)
from polarise.evidence import ScoreRecord
from polarise.ledger_client import LedgerClient
from polarise.registry import open_entry
from polarise.statement import SignedStatement
from tests.support.evidence import inspection, proof
from tests.support.proving_miner import CPU, VALIDATOR, entry_of
from tests.support.scores import begin
from tests.support.small_ledger import SmallLedger, small_ledger
from utils.clock import SystemClock

ENTRY = open_entry(entry_of())
PROOFS = (
    proof(kind="pow", claimed=CPU.pow_hashes_per_second, measured=CPU.pow_hashes_per_second),
    proof(claimed=CPU.matmul_ops_per_second, measured=CPU.matmul_ops_per_second),
)
SCORE = ScoringSystem().calculate_score(PROOFS, inspection(), None)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[SmallLedger]:
    with small_ledger(tmp_path) as running:
        yield running


class Validator:
    """One that has scored and now ends its epoch.

    Args:
        folder: Its files.
        ledger: Where its scores go.
        epoch: The epoch it is in.
    """

    def __init__(self, folder: Path, ledger: SmallLedger, epoch: int) -> None:
        self.epoch = epoch
        self.metrics = MetricsHandler(folder / FILE_NAME)
        self.secret = begin(self.metrics, epoch)
        self.outbox = Outbox(folder / "outbox.sqlite", VALIDATOR, ledger.client(), SystemClock())
        self.chain = Chain(ledger.client(), self.outbox, VALIDATOR.public_key)
        facts = RecordFacts(config_hash="c" * 64, uri=lambda: "http://127.0.0.1:1")
        self.recorder = EpochRecorder(VALIDATOR, self.chain, self.metrics, facts, SystemClock())

    def score(self, scores: dict[str, ScoreRecord]) -> None:
        """Keep scores of this epoch, and the hardware they are about."""
        self.metrics.set_registered(self.epoch, [ENTRY.model_copy(update={"node_key": key}) for key in scores])
        for key, record in scores.items():
            self.metrics.record(StoredScore(self.epoch, key, record, "e" * 64, 1, telemetry="f" * 64))

    def end(self) -> None:
        """Record the epoch and wait until it is final."""
        assert (
            self.chain.commit(self.secret, 1, 1, Intervals(VALIDATOR.public_key, 1, 0), threading.Event()) is not None
        )
        assert self.chain.is_final(self.recorder.record(self.epoch, is_complete=True), 60)


@contextlib.contextmanager
def scored(folder: Path, ledger: SmallLedger, epoch: int) -> Iterator[Validator]:
    """Run the outbox of a validator in this epoch."""
    validator = Validator(folder, ledger, epoch)
    supervisor = Supervisor(validator.outbox)
    supervisor.start()
    try:
        yield validator
    finally:
        supervisor.stop(10)
        validator.outbox.close()
        validator.metrics.close()


def read_record(client: LedgerClient, epoch: int) -> EpochRecord:
    """Read the record of an epoch from the ledger."""
    entry = client.get(record_path(VALIDATOR.public_key, epoch))
    assert entry is not None
    return SignedStatement.model_validate(entry.value, strict=False).open(STATEMENT_KIND, EpochRecord)


def read_pages(client: LedgerClient, epoch: int) -> list[ScorePage]:
    """Read the pages of an epoch from the ledger."""
    pages: list[ScorePage] = []
    while (entry := client.get(page_path(VALIDATOR.public_key, epoch, len(pages)))) is not None:
        pages.append(decode_model(ScorePage, canonical_bytes(entry.value)))  # type: ignore[arg-type]  # JSON
    return pages


def test_scores_of_a_thousand_miners_all_stand_on_the_ledger(tmp_path: Path, ledger: SmallLedger) -> None:
    keys = [f"{number:064x}" for number in range(MINERS_MAX)]
    with scored(tmp_path, ledger, 11) as validator:
        validator.score(dict.fromkeys(keys, SCORE))
        validator.end()
        weights = validator.metrics.weights(11)
    pages = read_pages(ledger.client(), 11)
    scores, record = EpochScores.of_pages(pages), read_record(ledger.client(), 11)
    assert [line.miner_key for line in scores.lines] == keys
    assert len(pages) == 6
    assert (record.scores_root, record.miners_count, record.rules_version) == (scores.root(), MINERS_MAX, 3)
    lines = [line for page in pages for line in page.lines]
    assert sum(line.weight_ppm for line in lines) == 1_000_000
    assert {line.worth_ppb for line in lines} == {CPU.matmul_ops_per_second * 10**9 // 791_520_000_000_000}
    assert {key: weight.weight_ppm for key, weight in weights.items()} == {
        line.miner_key: line.weight_ppm for line in lines
    }


def test_epoch_without_a_score_has_one_empty_page(tmp_path: Path, ledger: SmallLedger) -> None:
    with scored(tmp_path, ledger, 12) as validator:
        validator.end()
    assert [page.lines for page in read_pages(ledger.client(), 12)] == [()]
    assert read_record(ledger.client(), 12).miners_count == 0


def test_epoch_that_older_software_began_is_recorded_by_its_rules(tmp_path: Path, ledger: SmallLedger) -> None:
    """A validator that was updated in the middle of an epoch ends it in the form that its bundles have."""
    by_old = version_1.ScoringSystem().calculate_score(PROOFS, inspection(), None)
    with scored(tmp_path, ledger, 13) as validator:
        validator.score({"a" * 64: by_old})
        validator.end()
    entry = ledger.client().get(scores_path(VALIDATOR.public_key, 13))
    assert entry is not None
    sheet = decode_model(ScoreSheet, canonical_bytes(entry.value))  # type: ignore[arg-type]  # JSON
    record = read_record(ledger.client(), 13)
    assert (sheet.rules_version, record.rules_version) == (1, 1)
    assert record.scores_root == EpochScores(1, sheet.lines).root()
    assert read_pages(ledger.client(), 13) == []


def test_miner_below_seventy_has_worth_and_no_weight(tmp_path: Path, ledger: SmallLedger) -> None:
    low = SCORE.model_copy(update={"score_ppm": 699_999})
    with scored(tmp_path, ledger, 14) as validator:
        validator.score({"a" * 64: low, "b" * 64: SCORE})
        validator.end()
    first, second = (line for page in read_pages(ledger.client(), 14) for line in page.lines)
    assert (first.worth_ppb, first.weight_ppm, second.weight_ppm) == (second.worth_ppb, 0, 1_000_000)
