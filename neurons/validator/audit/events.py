"""The events: the lines a validator kept of each miner's log, added up again to every checkpoint the ledger knows.

Rules:
- The hash of a checkpoint stands on the ledger with the score; the bundle holds the checkpoint; the lines must lead to it.
- Lines are read in order, from the first on, and each epoch's are added to those before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from neurons.validator.audit.epochs import Epoch
from neurons.validator.audit.report import Place, Report
from polarise.checkpoint import parse_checkpoint
from polarise.errors import RequestRejected
from polarise.evidence import TelemetryEvidence, read_bundle
from polarise.frontier import Frontier
from polarise.merkle import leaf_hash
from polarise.notes import NoteInvalid, parse_note
from telemetry.archive import Archive

PAGE_LINES = 1000


@dataclass
class EventAuditor:
    """Adds up the lines of one archive.

    Attributes:
        archive: The lines a validator kept.
        evidence: Folder of the bundles.
        report: Where findings go.
    """

    archive: Archive
    evidence: Path
    report: Report
    count: int = 0
    _trees: dict[str, Frontier] = field(default_factory=dict)

    def check(self, epochs: Iterator[Epoch]) -> None:
        """Check every line under the checkpoints of these epochs, which come in order.

        Raises:
            FirstFailure: As `Report.fail`.
        """
        for epoch in epochs:
            for line in epoch.scores.lines if epoch.scores is not None and epoch.record is not None else ():
                place = Place(validator=epoch.validator, epoch=epoch.number, miner=line.miner_key, bundle=line.evidence)
                try:
                    telemetry = read_bundle(self.evidence / f"{line.evidence}.json").telemetry
                except (OSError, RequestRejected):
                    continue  # the step before has named it
                if telemetry is not None and telemetry.checkpoint is not None:
                    self._check_one(place, telemetry, telemetry.checkpoint)

    def _check_one(self, place: Place, telemetry: TelemetryEvidence, note: str) -> None:
        try:
            checkpoint = parse_checkpoint(parse_note(note.encode()).text)
        except NoteInvalid as err:
            self.report.fail(place.at("telemetry.checkpoint"), str(err))
            return
        tree = self._trees.setdefault(telemetry.origin, Frontier())
        first = tree.size
        while tree.size < checkpoint.size:
            lines = self.archive.lines(telemetry.origin, tree.size, min(tree.size + PAGE_LINES, checkpoint.size))
            for text in lines:
                tree.add(leaf_hash(text))
            self.count += len(lines)
            if not lines:
                break
        where = place.at(f"events {first}..{checkpoint.size} of {telemetry.origin}")
        if self.report.check(where, tree.size >= checkpoint.size, f"only {tree.size} lines are there"):
            self.report.check(
                where,
                tree.size != checkpoint.size or tree.root() == checkpoint.root,
                "the lines do not lead to the root of the checkpoint on the ledger",
            )
