"""Common windows over the epochs of a validator: which epoch has one, and who was not there; no bundle can show that alone.

Rules:
- From rules 3 on the commitment binds the intervals, before the beacon that draws by them: every bundle has these.
- A validator's first complete epoch by these rules has a window, and no later one says that it is the first.
- A miner whose newest score is older than the newest window of a complete epoch has missed it, and its bundle says so.
- What lies before the first epoch of an audit is the validator's word.
"""

from __future__ import annotations

from neurons.validator.audit.epochs import Epoch
from neurons.validator.audit.report import Place, Report
from neurons.validator.drawing import Intervals, has_window
from polarise.epoch_record import EpochCommit, EpochRecord
from polarise.evidence import WINDOWS_SINCE_RULES, EvidenceBundle


class WindowAuditor:
    """Follows one validator's chain of records.

    Args:
        report: Where findings go.
        knows_all: Whether the first epoch it sees is the first of the chain.
    """

    def __init__(self, report: Report, *, knows_all: bool) -> None:
        self._report = report
        self._has_begun: bool | None = False if knows_all else None
        self._last_window: int | None = None
        self._seen: dict[str, int] = {}

    def check_commit(self, epoch: Epoch, commit: EpochCommit, record: EpochRecord) -> None:
        """Check that an epoch by rules 3 has bound its intervals.

        Raises:
            FirstFailure: As `Report.fail`.
        """
        if record.rules_version >= WINDOWS_SINCE_RULES:
            is_bound = commit.proof_every is not None and commit.inspect_every is not None
            message = "the commitment does not bind how often is proven and inspected"
            self._report.check(epoch.place.at("commit"), is_bound, message)

    def add(self, bundle: EvidenceBundle, commit: EpochCommit, place: Place) -> None:
        """Compare what one bundle says of its turn with the commitment and with the epochs before.

        Raises:
            FirstFailure: As `Report.fail`.
        """
        said, seen = bundle.draw, self._seen.get(bundle.miner_key)
        self._seen[bundle.miner_key] = bundle.epoch
        if said is None or bundle.score.rules_version < WINDOWS_SINCE_RULES:
            return
        report = self._report
        report.compare(place.at("draw.proof_every"), said.proof_every, commit.proof_every)
        report.compare(place.at("draw.inspect_every"), said.inspect_every, commit.inspect_every)
        if self._has_begun is None:
            report.word("whether an epoch was the first by its rules: lies before this audit")
        else:
            report.compare(place.at("draw.is_first"), said.is_first, not self._has_begun)
        has_missed = self._has_missed(bundle, seen)
        if has_missed is None:
            report.word("whether a miner was in the common window before: lies before this audit")
        else:
            report.compare(place.at("draw.has_missed_window"), said.has_missed_window, has_missed)

    def pass_over(self, miner: str, epoch: int) -> None:
        """Note a miner that was scored in an epoch and whose bundle cannot be read."""
        self._seen[miner] = epoch

    def finish(self, epoch: Epoch, commit: EpochCommit, record: EpochRecord) -> None:
        """Remember the window of an epoch; only a complete one counts."""
        is_by_these = record.rules_version >= WINDOWS_SINCE_RULES
        if record.status != "complete" or record.beacon is None or not is_by_these or commit.proof_every is None:
            return
        intervals = Intervals(
            epoch.validator, commit.proof_every, commit.inspect_every or 0, is_first=self._has_begun is False
        )
        if has_window(bytes.fromhex(record.beacon), intervals):
            self._last_window = epoch.number
        self._has_begun = True

    def _has_missed(self, bundle: EvidenceBundle, seen: int | None) -> bool | None:
        if bundle.previous is None:
            return False
        if seen is None:
            return None if self._last_window is None else True
        return self._last_window is not None and seen < self._last_window
