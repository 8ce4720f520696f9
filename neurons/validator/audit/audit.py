"""The whole audit, step by step: from the signed blocks to every score, each step on what the ones before have shown.

Rules:
- The genesis is trusted, and nothing else; it must come from another place than the copy.
- The ledger is replayed first. Evidence is looked for only where a ledger that holds names it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ledger.replay import Nodes, Replay, opened_blocks
from neurons.validator.audit.bundles import BundleAuditor
from neurons.validator.audit.download import Wanted
from neurons.validator.audit.epochs import EpochReader, check_beacons, check_commitments, check_records
from neurons.validator.audit.events import EventAuditor
from neurons.validator.audit.history import History
from neurons.validator.audit.keys import KeyAuditor
from neurons.validator.audit.ledger_copy import LedgerCopy
from neurons.validator.audit.miner_set import MinerSetAuditor
from neurons.validator.audit.report import Report
from polarise.answers import printable
from polarise.errors import ErrorCode, RequestRejected
from polarise.genesis import Genesis
from polarise.ledger_registry import open_value
from polarise.signing import SignatureInvalid
from polarise.transaction import SignedTransaction, decode_transaction
from telemetry.archive import Archive
from utils.clock import Clock, SystemClock


@dataclass(frozen=True, slots=True)
class Scope:
    """What is audited beyond the ledger itself, which always is from its first leaf on.

    Attributes:
        validator: Node key or its beginning; None for all.
        first_epoch: Earlier epochs are only followed.
        is_strict: Whether openings that went before their time are a failure even where their validator signed so.
    """

    validator: str | None = None
    first_epoch: int = 0
    is_strict: bool = False


class Audit:
    """One audit of one copy.

    Args:
        copy: The ledger.
        genesis: Its beginning.
        scope: What to look at.
        report: Where findings go.
        clock: The auditor's wall clock.
    """

    def __init__(
        self, copy: LedgerCopy, genesis: Genesis, scope: Scope, report: Report, clock: Clock | None = None
    ) -> None:
        self._clock = clock or SystemClock()
        self._copy = copy
        self._genesis = genesis
        self._scope = scope
        self._report = report
        self._history = History(genesis.final_confirmations)

    def check_ledger(self) -> None:
        """Check blocks, leaves and registry entries.

        Raises:
            FirstFailure: As `Report.fail`.
        """
        self._check_blocks()
        self._check_leaves()
        self._check_registry()

    def wanted(self) -> Iterator[Wanted]:
        """Yield every bundle that the audited epochs name, with the place where it can be had."""
        for epoch in self._reader().epochs(self._scope.first_epoch):
            if epoch.scores is not None and epoch.record is not None:
                yield from (
                    Wanted(line.evidence, epoch.record.uri, epoch.record.validator_key) for line in epoch.scores.lines
                )

    def check_epochs(self, evidence: Path) -> None:
        """Check records, beacons, commitments, bundles and miner sets.

        Args:
            evidence: Folder of the bundles.

        Raises:
            FirstFailure: As `Report.fail`.
        """
        reader, first, report = self._reader(), self._scope.first_epoch, self._report
        with report.step("records") as step:
            step.detail = check_records(reader, self._genesis.net, first, report)
        with report.step("beacons") as step:
            step.detail = check_beacons(reader, self._history, first, report)
        with report.step("commitments") as step:
            step.detail = check_commitments(reader, first, report)
        entries: list[dict[str, str] | None] = []
        with report.step("evidence") as step:
            bundles = BundleAuditor(
                evidence,
                report,
                knows_beginning=first == 0,
                now_unix_ms=self._clock.wall_unix_ms(),
                validators=frozenset(member.key for member in self._genesis.validators),
                is_strict=self._scope.is_strict,
                keys=KeyAuditor(self._history, report),
            )
            entries.extend(bundles.check(epoch) for epoch in reader.epochs(first))
            step.detail = f"{bundles.count} bundles: named, drawn, answered, judged and scored as recomputed"
        with report.step("miner sets") as step:
            sets = MinerSetAuditor(self._history, report, knows_beginning=first == 0)
            for epoch, found in zip(reader.epochs(first), entries, strict=False):
                sets.check(epoch, found)
            step.detail = (
                f"{sets.count} sets: who was scored stood in the registry, and no complete epoch left anybody out"
            )

    def check_events(self, archive: Path, evidence: Path) -> None:
        """Check the event lines that a validator kept.

        Args:
            archive: Its ``telemetry.sqlite``.
            evidence: Folder of the bundles.

        Raises:
            FirstFailure: As `Report.fail`.
        """
        with self._report.step("events") as step, Archive(archive) as lines:
            events = EventAuditor(lines, evidence, self._report)
            events.check(self._reader().epochs(0))
            step.detail = f"{events.count} lines: each leads to a checkpoint whose hash is on the ledger"

    def _check_blocks(self) -> None:
        blocks = self._history.blocks
        with self._report.step("blocks") as step:
            for block in opened_blocks(self._copy.notes(), self._genesis):
                blocks.add(block)
                if len(blocks) % 10_000 == 0:
                    self._report.progress(f"{len(blocks)} blocks")
            step.detail = f"{len(blocks)} blocks: signed by the ledger, each points at the one before, times grow"

    def _check_leaves(self) -> None:
        def add(leaf: int, transaction: SignedTransaction, _nodes: Nodes) -> None:
            self._history.add(leaf, transaction)

        with self._report.step("leaves") as step, Replay(self._genesis, self._copy.notes()) as replay:
            replay.run(
                self._copy.leaves(), on_leaf=add, on_progress=lambda leaves: self._report.progress(f"{leaves} leaves")
            )
            step.detail = (
                f"{replay.size} transactions: log root from nothing, certificates, signatures, nonces, rules and the "
                "state root of every block"
            )
        for name, count in sorted(self._history.others.items()):
            self._report.word(f"write below /{name}: signed and allowed, its meaning is not looked into", count)

    def _check_registry(self) -> None:
        registry = self._history.registry
        with self._report.step("registry") as step:
            count = 0
            for write in self._history.registry_writes:
                value = decode_transaction(self._copy.leaf(write.leaf)).body.op.value
                digest = None
                try:
                    if value is not None and not write.is_revocation:
                        digest = open_value(write.node, value)[0].digest()
                        count += 1
                except (RequestRejected, SignatureInvalid) as err:
                    # The ledger takes any value there; validators pass over it, and so does the audit.
                    what = f"leaf {write.leaf}: no valid registry entry, counts as none: {printable(err, 100)}"
                    self._report.word(what)
                registry.add(write, digest)
            step.detail = f"{count} entries: signed by node and owner"

    def _reader(self) -> EpochReader:
        return EpochReader(self._copy, self._history, self._validator())

    def _validator(self) -> str | None:
        wanted = self._scope.validator
        if wanted is None:
            return None
        found = [key for key in self._history.epochs if key.startswith(wanted.lower())]
        if len(found) != 1:
            raise RequestRejected(
                ErrorCode.NOT_FOUND,
                f"{len(found)} validators with epochs begin with {wanted[:64]!r}",
                hint=f"one of {', '.join(sorted(self._history.epochs)) or 'none: the ledger holds no epochs yet'}",
                field="--validator",
                status=404,
            )
        return found[0]
