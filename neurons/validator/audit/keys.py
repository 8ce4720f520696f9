"""Answers by subkeys that had been replaced before their epoch began: a validator should not have taken them.

Rules:
- What counts is what the ledger showed when the validator read it at the earliest: a certificate that became final later
  voids nothing of the epoch, and nothing of the epochs before.
- Looked at is what a miner signs for the epoch: commitments, and the receipt of an inspection. Its registry entry may be older;
  that it was written by a key that counted then, the ledger's rules saw to.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from neurons.validator.audit.epochs import Epoch
from neurons.validator.audit.history import History
from neurons.validator.audit.reading import window_of
from neurons.validator.audit.report import Place, Report
from polarise.evidence import EvidenceBundle
from polarise.signing import Purpose
from polarise.statement import SignedStatement


class KeyAuditor:
    """Checks one bundle after the other.

    Args:
        history: Which subkeys were replaced when.
        report: Where findings go.
    """

    def __init__(self, history: History, report: Report) -> None:
        self._history = history
        self._report = report

    def check(self, epoch: Epoch, bundle: EvidenceBundle, place: Place) -> None:
        """Check the statements of one miner in one epoch that has a commitment."""
        if epoch.commit is None or epoch.leaves.commit is None:
            return
        height = window_of(self._history.blocks, epoch.commit, epoch.leaves.commit).first
        least = self._history.keys.least(bundle.miner_key, Purpose.STATEMENT, height)
        for name, statement in _statements(bundle):
            counter = statement.certificate.counter
            message = f"signed by the subkey of generation {counter}, which {least} had replaced before the epoch began"
            self._report.check(replace(place, field=name), counter >= least, message)


def _statements(bundle: EvidenceBundle) -> Iterator[tuple[str, SignedStatement]]:
    for index, proof in enumerate(bundle.proofs):
        if proof.commitment is not None:
            yield f"proofs[{index}].commitment", proof.commitment
    if bundle.inspection is not None and bundle.inspection.receipt is not None:
        yield "inspection.receipt", bundle.inspection.receipt
