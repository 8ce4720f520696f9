"""What is owed of a bundle's openings: for how long they are shown, and the signed word of a validator that did not.

Rules:
- A bundle says for how many hours its openings are shown; one that does not say it owes 48.
- Openings that go earlier are named in a statement of their validator: of which bundle, when and why. It stands in the
  bundle, and is no part of its name, as the openings are not.
- The statement is free and excuses nobody. It makes an early loss the validator's own word, which an audit counts apart.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from polarise.decode import WireModel
from polarise.evidence import EvidenceBundle
from polarise.signing import Identity, SignatureInvalid
from polarise.statement import sign_statement

STATEMENT_KIND = "openings_gone"
HOURS_UNSAID = 48
HOUR_MS = 3_600_000


class GoneReason(StrEnum):
    """Why openings went before their time."""

    ROOM = "ROOM"
    SIZE = "SIZE"


class OpeningsGone(WireModel):
    """Body of an ``openings_gone`` statement.

    Attributes:
        evidence: Name of the bundle.
        thrown_unix_ms: When, by the validator's wall clock.
        reason: ROOM, all openings together took more room than the validator gives them; SIZE, with them the bundle
            would have been larger than anybody reads.
    """

    evidence: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    thrown_unix_ms: Annotated[int, Field(ge=0, lt=2**53)]
    reason: GoneReason


def hours_owed(bundle: EvidenceBundle) -> int:
    """Return for how many hours after the examination its openings are shown."""
    return bundle.retention_hours or HOURS_UNSAID


def owed_until_unix_ms(bundle: EvidenceBundle) -> int:
    """Return when openings may go, by the clock of the validator that examined."""
    return bundle.examined_unix_ms + hours_owed(bundle) * HOUR_MS


def thrown_away(identity: Identity, bundle: EvidenceBundle, reason: GoneReason, now_unix_ms: int) -> EvidenceBundle:
    """Return a bundle without its openings, which are still owed, with the validator's word for it.

    Args:
        identity: The validator that examined.
        bundle: With or without openings.
        reason: Why they go.
        now_unix_ms: Its wall clock; one that was set back counts as that of the examination.
    """
    bare = bundle.without_openings()
    moment = max(now_unix_ms, bundle.examined_unix_ms)
    body = OpeningsGone(evidence=bundle.digest(), thrown_unix_ms=moment, reason=reason)
    return bare.model_copy(update={"openings_gone": sign_statement(identity, STATEMENT_KIND, body)})


def word_of(bundle: EvidenceBundle) -> OpeningsGone | None:
    """Return what the validator says of openings that went early, None where it says nothing.

    Raises:
        SignatureInvalid: Somebody else says it, it is about another bundle, or about a time in which none were owed.
    """
    if bundle.openings_gone is None:
        return None
    word = bundle.openings_gone.open(STATEMENT_KIND, OpeningsGone, signer=bundle.validator_key)
    if word.evidence != bundle.digest():
        raise SignatureInvalid(f"it is about the bundle {word.evidence}")
    if not bundle.examined_unix_ms <= word.thrown_unix_ms < owed_until_unix_ms(bundle):
        raise SignatureInvalid(f"it is of {word.thrown_unix_ms}, when no openings were owed")
    return word
