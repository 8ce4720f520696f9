"""The records of a validator, held against what it committed to and what the ledger shows of the time between.

Rules:
- An epoch is commitment, scores, record, in this order, and is recorded before the next one begins.
- The records are signed by the validator and chained; the roots in them follow from the scores beside them.
- The scores are all pages of the epoch, or the one sheet of rules 1, and the weights in them follow from the lines; by rules 3
  an epoch that was broken off gives none. The version of the rules is known and never falls: nobody goes back to rules that suit better.
- The beacon is the hash of the first block that covers the commitment. Without one there are no scores.
- The opening key opens the commitment and was never shown before: a key that is known makes every draw known.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from pydantic import BaseModel

from challenges import draw
from neurons.validator.audit.history import EpochLeaves, History
from neurons.validator.audit.ledger_copy import LedgerCopy
from neurons.validator.audit.report import Place, Report
from neurons.validator.scoring import KNOWN_VERSIONS
from neurons.validator.weights import WEIGHED_WHOLE_SINCE_RULES, MinerWorth, weights_ppm
from polarise.canonical import canonical_bytes
from polarise.decode import decode_model
from polarise.epoch_record import (
    LINES_MAX,
    STATEMENT_KIND,
    EpochCommit,
    EpochRecord,
    EpochScores,
    ScorePage,
    ScoreSheet,
    WeighedLine,
    evidence_root,
)
from polarise.errors import RequestRejected
from polarise.signing import SignatureInvalid
from polarise.statement import SignedStatement
from polarise.transaction import MAX_TRANSACTION_BYTES, decode_transaction

ModelT = TypeVar("ModelT", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Epoch:
    """One epoch of one validator as the ledger has it; a part that is missing or of another shape is None.

    Attributes:
        validator: Node key.
        number: Its epoch number.
        leaves: Where it stands.
        commit: What was committed.
        scores: All pages of the scores together.
        statement: The record as it was signed.
        record: The record, once its signature was verified.
        problem: Why a part is None though it is there.
    """

    validator: str
    number: int
    leaves: EpochLeaves
    commit: EpochCommit | None
    scores: EpochScores | None
    statement: SignedStatement | None
    record: EpochRecord | None
    problem: tuple[str, str] | None

    @property
    def place(self) -> Place:
        """Its name in a report."""
        return Place(validator=self.validator, epoch=self.number)


class EpochReader:
    """Reads epochs from a replayed copy.

    Args:
        copy: The ledger.
        history: What its leaves tell.
        validator: Only this one's; None for all.
    """

    def __init__(self, copy: LedgerCopy, history: History, validator: str | None) -> None:
        self._copy = copy
        self._history = history
        self._validator = validator

    def epochs(self, first: int = 0) -> Iterator[Epoch]:
        """Yield the epochs from a number on, validator by validator, in order of their numbers."""
        for validator, numbered in sorted(self._history.epochs.items()):
            if self._validator in {None, validator}:
                for number in sorted(number for number in numbered if number >= first):
                    yield self._read(validator, number, numbered[number])

    def _read(self, validator: str, number: int, leaves: EpochLeaves) -> Epoch:
        problems: list[tuple[str, str]] = []

        def read(model: type[ModelT], leaf: int | None, name: str) -> ModelT | None:
            try:
                return None if leaf is None else decode_model(model, self._value(leaf), max_bytes=MAX_TRANSACTION_BYTES)
            except RequestRejected as err:
                problems.append((name, f"leaf {leaf} holds none: {err.message}"))
                return None

        commit = read(EpochCommit, leaves.commit, "commit")
        sheet = read(ScoreSheet, leaves.sheet, "scores")
        pages = [read(ScorePage, leaf, "scores") for _, leaf in sorted(leaves.pages.items())]
        statement = read(SignedStatement, leaves.record, "record")
        record = None
        try:
            record = None if statement is None else statement.open(STATEMENT_KIND, EpochRecord, signer=validator)
        except (SignatureInvalid, ValueError) as err:
            problems.append(("record", f"the statement of leaf {leaves.record} does not hold: {err}"))
        scores: EpochScores | None = None
        try:
            scores = _together(leaves, sheet, [page for page in pages if page is not None])
        except ValueError as err:
            problems.append(("scores", str(err)))
        return Epoch(validator, number, leaves, commit, scores, statement, record, problems[0] if problems else None)

    def _value(self, leaf: int) -> bytes:
        value = decode_transaction(self._copy.leaf(leaf)).body.op.value
        return canonical_bytes(value)  # type: ignore[arg-type]  # came through JSON, so it is JSON


def _together(leaves: EpochLeaves, sheet: ScoreSheet | None, pages: Sequence[ScorePage]) -> EpochScores | None:
    """Return the scores of an epoch, None where there are none.

    Raises:
        ValueError: There is a sheet beside pages, a page is missing or has another number than its path, or the form is
            that of other rules.
    """
    if leaves.sheet is not None and leaves.pages:
        raise ValueError("there is a sheet beside the pages")
    if leaves.pages:
        if [page.page for page in pages] != sorted(leaves.pages):
            raise ValueError(f"the pages {sorted(leaves.pages)} hold {[page.page for page in pages]}")
        scores = EpochScores.of_pages(pages)
    elif sheet is not None:
        scores = EpochScores(sheet.rules_version, sheet.lines)
    else:
        return None
    if (scores.rules_version == 1) is not (leaves.sheet is not None):
        raise ValueError(f"scores by rules {scores.rules_version} do not stand in this form")
    return scores


def check_records(reader: EpochReader, net: str, first: int, report: Report) -> str:
    """Check order, signatures, chain and roots of the records; returns what was checked."""
    before: Epoch | None = None
    last: str | None = None
    count = broken_off = 0
    for epoch in reader.epochs():
        if before is not None and before.validator != epoch.validator:
            _check_open(before, report)
            before, last = None, None
        if epoch.number >= first:
            count += 1
            if epoch.problem is not None:
                report.fail(epoch.place.at(epoch.problem[0]), epoch.problem[1])
            is_first = before is None or before.number < first
            if before is not None and not is_first:
                _check_order(before, epoch, report)
                _check_rules(before, epoch, report)
            _check_prev(last, epoch, report, may_begin=is_first and first > 0)
            _check_record(epoch, net, report)
            if epoch.record is not None and epoch.record.status == "broken_off":
                broken_off += 1
                report.word("epochs that were broken off: why, and whom they would have scored")
        before, last = epoch, last if epoch.statement is None else epoch.statement.digest()
    if before is not None:
        _check_open(before, report)
    broken = f", {broken_off} of them broken off" if broken_off else ""
    return f"{count} epochs{broken}: committed, scored, recorded in order; signatures, chain and roots"


def check_beacons(reader: EpochReader, history: History, first: int, report: Report) -> str:
    """Check that every beacon is the hash of the first block that covers the commitment."""
    count = 0
    for epoch in reader.epochs(first):
        record, place = epoch.record, epoch.place
        if record is None or epoch.leaves.commit is None:
            continue
        if record.beacon is None:
            is_empty = record.status == "broken_off" and not (epoch.scores and epoch.scores.lines)
            report.check(place.at("beacon"), is_empty, "there is none, but there are scores or the epoch is complete")
            continue
        height = history.blocks.covering(epoch.leaves.commit)
        report.compare(place.at("beacon_height"), record.beacon_height, height)
        report.compare(place.at("beacon"), record.beacon, history.blocks.hash(height))
        count += 1
    return f"{count} beacons: the hash of the first block that covers the commitment"


def check_commitments(reader: EpochReader, first: int, report: Report) -> str:
    """Check that the opening keys open the commitments, and that none was shown before."""
    shown: dict[str, str] = {}
    count = 0
    for epoch in reader.epochs():
        record, commit, place = epoch.record, epoch.commit, epoch.place
        if record is None:
            continue
        if epoch.number >= first and commit is not None:
            opened = draw.challenge_commit(
                epoch.number, bytes.fromhex(record.opening_key), bytes.fromhex(commit.miner_set_root)
            ).hex()
            holds = opened == commit.challenge_commit
            message = f"opens {opened}, committed was {commit.challenge_commit}"
            if report.check(place.at("opening_key"), holds, message):
                count += 1
            if (known := shown.get(record.opening_key)) is not None:
                report.fail(place.at("opening_key"), f"was shown before, by {known}")
        shown[record.opening_key] = str(place)
    return f"{count} opening keys: each opens its commitment and was never shown before"


def _check_open(last: Epoch, report: Report) -> None:
    """A validator's newest epoch may still be on its way."""
    if last.leaves.record is None:
        report.word(f"{last.place}: is not recorded yet")


def _check_order(before: Epoch, epoch: Epoch, report: Report) -> None:
    begun = epoch.leaves.commit
    if begun is None:
        return
    if before.leaves.record is None:
        report.fail(
            before.place.at("record"),
            f"there is none, though epoch {epoch.number} began at leaf {begun}: its scores are withheld, or were lost "
            "with the validator's disk",
        )
    elif before.leaves.record > begun:
        report.fail(
            before.place.at("record"),
            f"came at leaf {before.leaves.record}, after epoch {epoch.number} began at leaf {begun}",
        )


def _check_rules(before: Epoch, epoch: Epoch, report: Report) -> None:
    if before.record is not None and epoch.record is not None:
        is_older = epoch.record.rules_version < before.record.rules_version
        message = f"goes back from rules {before.record.rules_version} to {epoch.record.rules_version}"
        report.check(epoch.place.at("rules_version"), not is_older, message)


def _check_record(epoch: Epoch, net: str, report: Report) -> None:
    record, commit, scores, place = epoch.record, epoch.commit, epoch.scores, epoch.place
    if record is None or commit is None:
        return
    expected = {
        "net": net,
        "epoch": epoch.number,
        "validator_key": epoch.validator,
        "started_unix_ms": commit.started_unix_ms,
        "challenge_commit": commit.challenge_commit,
    }
    for name, value in expected.items():
        report.compare(place.at(name), getattr(record, name), value)
    leaves = [leaf for leaf in (epoch.leaves.sheet, *epoch.leaves.pages.values()) if leaf is not None]
    if scores is None or epoch.leaves.record is None:
        report.fail(place.at("scores"), "there are none beside the record")
        return
    report.check(place.at("scores"), max(leaves) < epoch.leaves.record, "came after the record")
    _check_scores(scores, record, commit, place, report)
    _check_weights(scores, record, place, report)


def _check_prev(last: str | None, epoch: Epoch, report: Report, *, may_begin: bool) -> None:
    if epoch.record is None:
        return
    prev = epoch.record.prev
    if prev is None and last is not None and may_begin:
        report.word(f"{epoch.place}: begins a new chain of records")
        return
    report.check(
        epoch.place.at("prev"),
        prev == last,
        f"says {prev}, the record before is {last}; a validator that lost its disk begins anew: audit it --from "
        f"{epoch.number}",
    )


def _check_scores(scores: EpochScores, record: EpochRecord, commit: EpochCommit, place: Place, report: Report) -> None:
    miners = [line.miner_key for line in scores.lines]
    report.check(place.at("scores"), miners == sorted(set(miners)), "the lines are not in order of their miners")
    report.compare(place.at("rules_version"), record.rules_version, scores.rules_version)
    report.check(
        place.at("rules_version"),
        scores.rules_version in KNOWN_VERSIONS,
        f"the scores are by rules {scores.rules_version}, this software has {', '.join(map(str, KNOWN_VERSIONS))}",
    )
    report.compare(place.at("miners_count"), record.miners_count, len(miners))
    # Until rules 2 there was no room for more.
    examined = min(commit.miners_count, LINES_MAX) if scores.rules_version == 1 else commit.miners_count
    is_whole = len(miners) == examined if record.status == "complete" else len(miners) <= examined
    report.check(
        place.at("miners_count"), is_whole, f"{len(miners)} of {commit.miners_count} miners, status {record.status}"
    )
    report.compare(place.at("scores_root"), record.scores_root, scores.root())
    names = [line.evidence for line in scores.lines]
    report.compare(place.at("challenge_root"), record.challenge_root, evidence_root(names))
    checkpoints = [line.telemetry for line in scores.lines if line.telemetry]
    report.compare(place.at("telemetry_root"), record.telemetry_root, evidence_root(checkpoints))


def _check_weights(scores: EpochScores, record: EpochRecord, place: Place, report: Report) -> None:
    weighed = [line for line in scores.lines if isinstance(line, WeighedLine)]
    weights = weights_ppm([MinerWorth(line.miner_key, line.score_ppm, line.worth_ppb) for line in weighed])
    if record.status == "broken_off" and scores.rules_version >= WEIGHED_WHOLE_SINCE_RULES:
        weights = dict.fromkeys(weights, 0)
    for line in weighed:
        miner = replace(place, miner=line.miner_key, field="weight_ppm")
        report.compare(miner, line.weight_ppm, weights[line.miner_key])
