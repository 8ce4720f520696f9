"""One line of a replay, and the two ways to come to it: recomputed, or only a validator's word."""

from __future__ import annotations

from dataclasses import dataclass

from polarise.errors import RejectReason
from polarise.evidence import ProofEvidence

# What only the validator saw: nobody can recompute a silence.
WITNESSED = frozenset(
    {
        RejectReason.MISSING,
        RejectReason.DECLINED,
        RejectReason.OPENING_LATE,
        RejectReason.NOT_MEASURED,
        RejectReason.ALLOCATE_FAILED,
        RejectReason.SSH_FAILED,
        RejectReason.HOST_KEY_MISMATCH,
        RejectReason.TERMINATE_FAILED,
    }
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of a replay.

    Attributes:
        what: What was checked.
        holds: Whether it came out the same; None where only the validator's word stands.
        detail: What differed, or why it cannot be recomputed.
    """

    what: str
    holds: bool | None
    detail: str = ""


def witnessed(what: str, reason: RejectReason | None) -> Finding:
    """Accept a verdict without evidence only where nothing but the validator's word can exist."""
    if reason in WITNESSED:
        return Finding(what, None, f"{reason}: the validator's word")
    return Finding(what, False, f"{reason or 'passed'} without evidence")


def same_reason(what: str, reason: RejectReason | None, proof: ProofEvidence) -> Finding:
    """Compare a recomputed verdict with the one that stands in the bundle."""
    found = proof.verdict.reason
    return Finding(what, reason is found, f"recomputed {reason or 'passed'}, bundle says {found or 'passed'}")
