"""How many devices of an epoch's round were missing, and whether the validator suspects itself and runs it again.

Rules:
- A device of a drawn miner counts once, by rules 3 if it was ever measured and its newest value is above 0: keys cost
  nothing, and new ones that are silent must not look like a broken network. It is missing when one of its proofs is MISSING.
- Above a fifth the validator takes its own network for broken and runs the round again, once, with other questions; what
  the second one finds counts, however it goes.
- One function for the validator and for whoever recomputes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from polarise.errors import RejectReason
from polarise.evidence import ProofEvidence, ScoreRecord

SUSPECT_ONE_IN = 5


@dataclass(frozen=True, slots=True)
class Tally:
    """What a round came to.

    Attributes:
        devices_count: Devices of all drawn miners, as far as they count.
        missing_count: Those of them that are MISSING.
    """

    devices_count: int
    missing_count: int

    @property
    def is_suspect(self) -> bool:
        """Whether more than a fifth is missing."""
        return SUSPECT_ONE_IN * self.missing_count > self.devices_count


def tally(miners: Iterable[Sequence[ProofEvidence]]) -> Tally:
    """Count the devices of a round.

    Args:
        miners: The proofs of each drawn miner.
    """
    devices_count = missing_count = 0
    for proofs in miners:
        devices_count += len({proof.device for proof in proofs})
        missing_count += len({proof.device for proof in proofs if proof.verdict.reason is RejectReason.MISSING})
    return Tally(devices_count, missing_count)


def counting(proofs: Sequence[ProofEvidence], previous: ScoreRecord | None) -> tuple[ProofEvidence, ...]:
    """Return the proofs of those devices of a miner that count by rules 3."""
    if previous is None:
        return ()
    shown = {device.device for device in previous.part("compute").devices if device.last_ppm}
    return tuple(proof for proof in proofs if proof.device in shown)
