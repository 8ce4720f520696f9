"""The evidence: every bundle held against the line of the score sheet that names it, and recomputed from nothing.

Rules:
- A bundle is the one of its name, of this epoch, validator, miner, opening key, miner set and beacon; its score is the
  line's, and the score it builds on is the one of the miner's bundle before.
- Then `neurons.validator.replay` computes draws, answers, verdicts and score anew: what judged live judges here. The worth
  on the line follows from the bundle's registry entry and score.
- A bundle may say anything, so a value that breaks the computation is a failure of the bundle and no defect of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from neurons.validator.audit.averages import AverageAuditor
from neurons.validator.audit.epochs import Epoch
from neurons.validator.audit.keys import KeyAuditor
from neurons.validator.audit.report import Place, Report
from neurons.validator.audit.rounds import RoundAuditor
from neurons.validator.audit.windows import WindowAuditor
from neurons.validator.prices import PriceList
from neurons.validator.replay import replay
from neurons.validator.weights import worth_ppb
from polarise.block import block_hash
from polarise.epoch_record import LINES_MAX, EpochCommit, EpochRecord, ScoreLine, WeighedLine
from polarise.errors import RequestRejected, SubnetError
from polarise.evidence import EvidenceBundle, ScoreRecord, read_bundle
from polarise.registry import open_entry

ItemT = TypeVar("ItemT")


class BundleAuditor:
    """Checks bundles epoch by epoch, and remembers each miner's newest score.

    Args:
        folder: Where bundles lie, each under its name.
        report: Where findings go.
        knows_beginning: Whether the first epoch it sees is the validator's first.
        now_unix_ms: The auditor's wall clock: openings may be missing when their retention is over.
        validators: Keys of the ledger's validators, whose orders excuse.
        is_strict: Whether openings that went earlier are a failure even where their validator signed that they did.
        keys: Looks for answers by replaced subkeys; None where no ledger tells.
    """

    def __init__(
        self,
        folder: Path,
        report: Report,
        *,
        knows_beginning: bool,
        now_unix_ms: int,
        validators: Collection[str],
        is_strict: bool = False,
        keys: KeyAuditor | None = None,
    ) -> None:
        self._folder = folder
        self._report = report
        self._now_unix_ms = now_unix_ms
        self._validators = validators
        self._is_strict = is_strict
        self._keys = keys
        self._knows_all = knows_beginning
        self._knows_beginning = knows_beginning
        self._scores: dict[str, ScoreRecord | None] = {}
        self._validator: str | None = None
        self._prices = PriceList.load()
        self._averages = AverageAuditor(report, knows_all=knows_beginning)
        self._windows = WindowAuditor(report, knows_all=knows_beginning)
        self.count = 0

    def check(self, epoch: Epoch) -> dict[str, str] | None:
        """Check the bundles of one epoch.

        Returns:
            Miner -> digest of the registry entry it was examined by; None where a bundle could not be read.
        """
        if epoch.validator != self._validator:
            self._validator, self._scores, self._knows_all = epoch.validator, {}, self._knows_beginning
            self._averages = AverageAuditor(self._report, knows_all=self._knows_beginning)
            self._windows = WindowAuditor(self._report, knows_all=self._knows_beginning)
        if epoch.record is not None and epoch.record.prev is None:
            self._scores, self._knows_all = {}, True
            self._averages = AverageAuditor(self._report, knows_all=True)
            self._windows = WindowAuditor(self._report, knows_all=True)
        if epoch.commit is None or epoch.record is None or epoch.scores is None:
            return None
        found: dict[str, str] = {}
        is_whole = True
        rounds = RoundAuditor(epoch.place, self._report)
        self._windows.check_commit(epoch, epoch.commit, epoch.record)
        for line in epoch.scores.lines:
            place = replace(epoch.place, miner=line.miner_key, bundle=line.evidence)
            bundle = self._read(line, place)
            if bundle is None:
                self._scores[line.miner_key] = None
                self._windows.pass_over(line.miner_key, epoch.number)
                is_whole = False
                continue
            self._check_one(epoch.commit, epoch.record, line, bundle, place)
            if self._keys is not None:
                self._keys.check(epoch, bundle, place)
            rounds.add(bundle, place)
            self._windows.add(bundle, epoch.commit, place)
            self._learn(bundle, place)
            self._scores[line.miner_key] = bundle.score
            found[line.miner_key] = bundle.registry.digest()
            self.count += 1
            if self.count % 100 == 0:
                self._report.progress(f"{self.count} bundles")
        self._windows.finish(epoch, epoch.commit, epoch.record)
        if not is_whole:
            self._averages.forget()
        is_complete = is_whole and epoch.record.status == "complete"
        rounds.finish(is_whole=is_complete)
        self._averages.finish(is_whole=is_complete)
        if epoch.scores.rules_version == 1 and epoch.commit.miners_count > LINES_MAX:
            # Who was examined beyond the sheet has a score that the ledger does not name.
            self._scores = {line.miner_key: self._scores[line.miner_key] for line in epoch.scores.lines}
            self._knows_all = False
        return found if is_whole else None

    def _read(self, line: ScoreLine, place: Place) -> EvidenceBundle | None:
        try:
            bundle = read_bundle(self._folder / f"{line.evidence}.json")
            name = bundle.digest()
        except FileNotFoundError:
            self._report.fail(place, "the evidence is missing: nobody can tell where this score comes from")
            return None
        except (OSError, RequestRejected, ValueError) as err:
            self._report.fail(place, f"cannot be read: {err}")
            return None
        return bundle if self._report.check(place, name == line.evidence, f"the content has the name {name}") else None

    def _check_one(
        self, commit: EpochCommit, record: EpochRecord, line: ScoreLine, bundle: EvidenceBundle, place: Place
    ) -> None:
        self._compare(place, bundle, record, ("epoch", "validator_key", "challenge_commit", "opening_key"))
        self._compare(place, bundle, line, ("miner_key",))
        self._compare(place, bundle, commit, ("miner_set_root",))
        self._compare(place.at("score"), bundle.score, line, ("score_ppm", "raw_ppm", "reasons"))
        checkpoint = None if bundle.telemetry is None else bundle.telemetry.checkpoint_hash()
        self._report.compare(place.at("telemetry"), checkpoint, line.telemetry)
        self._report.compare(place.at("rules_version"), bundle.score.rules_version, record.rules_version)
        self._check_beacon(bundle, record, place)
        self._check_previous(bundle, line.miner_key, place)
        if self._is_strict:
            is_kept = bundle.openings_gone is None
            self._report.check(place.at("openings_gone"), is_kept, "openings were thrown away before their time")
        for finding in self._computed(place, lambda: replay(bundle, self._now_unix_ms, self._validators)):
            if finding.holds is None:
                self._report.word(finding.detail or finding.what)
            elif not finding.holds:
                self._report.fail(place.at(finding.what), finding.detail or "recomputed, it comes out different")
        if isinstance(line, WeighedLine):
            self._check_worth(line, bundle, place)
        self._count_words(bundle)

    def _learn(self, bundle: EvidenceBundle, place: Place) -> None:
        def learn() -> list[None]:
            self._averages.add(bundle, place)
            return []

        if bundle.version > 1:
            self._computed(place, learn)

    def _check_worth(self, line: WeighedLine, bundle: EvidenceBundle, place: Place) -> None:
        found = self._computed(
            place, lambda: [worth_ppb(self._prices, open_entry(bundle.registry).hardware, bundle.score)]
        )
        if found:
            self._report.compare(place.at("worth_ppb"), line.worth_ppb, found[0])

    def _compare(self, place: Place, bundle: object, expected: object, names: tuple[str, ...]) -> None:
        for name in names:
            field = f"{place.field}.{name}" if place.field else name
            self._report.compare(place.at(field), getattr(bundle, name), getattr(expected, name))

    def _check_beacon(self, bundle: EvidenceBundle, record: EpochRecord, place: Place) -> None:
        hashes = self._computed(place, lambda: [block_hash(bundle.beacon_block.encode())])
        if hashes:
            self._report.compare(place.at("beacon_block"), hashes[0], record.beacon)

    def _check_previous(self, bundle: EvidenceBundle, miner: str, place: Place) -> None:
        known = self._scores.get(miner)
        if known is None and (miner in self._scores or not self._knows_all):
            if bundle.previous is not None:
                self._report.word("score before the first epoch of this audit: taken as the bundle has it")
            return
        holds = bundle.previous == known
        self._report.check(place.at("previous"), holds, "is not the score of the miner's bundle before")

    def _computed(self, place: Place, work: Callable[[], list[ItemT]]) -> list[ItemT]:
        try:
            return work()
        except (ArithmeticError, LookupError, ValueError, SubnetError) as err:
            self._report.fail(place, f"cannot be recomputed: {type(err).__name__}: {err}")
            return []

    def _count_words(self, bundle: EvidenceBundle) -> None:
        answered = sum(proof.commitment is not None for proof in bundle.proofs)
        self._report.word("times of an answered proof: stamps of the validator's clock", answered)
        self._report.word(
            "target time and number of openings of a proof: settings of which the record has only the hash (config_hash)",
            len(bundle.proofs),
        )
        if bundle.draw is not None and bundle.draw.is_inspected and bundle.inspection is None:
            self._report.word("inspection that was drawn and not made: the validator's word")
        if bundle.inspection is not None and bundle.inspection.findings is not None:
            self._report.word("findings of an inspection: what the validator saw inside the container")
