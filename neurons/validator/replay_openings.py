"""Openings that are not there: whether they may be missing, by the clock of whoever checks.

Rules:
- While they are owed it does not hold; afterwards, and where the validator signed that they went early, they are its word.
- Time is counted from the examination, and not from before the block of the beacon: nobody has drawn from a block that did
  not exist, so that dating an examination back shortens nothing.
- The validator's clock, the ledger's and ours may differ by as much as a ledger accepts, to the validator's favour.
"""

from __future__ import annotations

from ledger.state import FUTURE_MS_MAX
from polarise.block import block_of
from polarise.checkpoint import parse_checkpoint
from polarise.errors import SubnetError
from polarise.evidence import EvidenceBundle
from polarise.notes import NoteInvalid, parse_note
from polarise.openings import HOUR_MS, hours_owed, word_of
from polarise.signing import SignatureInvalid


def missing_openings(bundle: EvidenceBundle, now_unix_ms: int) -> tuple[bool | None, str]:
    """Say whether it holds that a bundle's openings are not there.

    Args:
        bundle: Some of its openings are missing.
        now_unix_ms: Wall clock of whoever checks.

    Returns:
        False, or None for the validator's word, and why.
    """
    try:
        word = word_of(bundle)
    except (SignatureInvalid, SubnetError) as err:
        return False, f"not there, and what says why does not hold: {err}"
    if word is not None:
        return (
            None,
            f"openings thrown away before their time ({word.reason}): the validator signed it, their digest stands",
        )
    hours, until_unix_ms = hours_owed(bundle), _shown_until_unix_ms(bundle)
    if now_unix_ms < until_unix_ms:
        left_ms = until_unix_ms - now_unix_ms
        return (
            False,
            f"not there, though owed for {hours} hours; {left_ms} ms are left, and the validator signed no reason",
        )
    return None, f"openings past their {hours} hours: thrown away, their digest stands"


def _shown_until_unix_ms(bundle: EvidenceBundle) -> int:
    """Return until when openings that are missing cannot be explained by two clocks."""
    began_unix_ms = bundle.examined_unix_ms
    try:
        block = block_of(parse_checkpoint(parse_note(bundle.beacon_block.encode()).text))
        began_unix_ms = max(began_unix_ms, block.time_unix_ms - FUTURE_MS_MAX)
    except NoteInvalid:
        pass  # a beacon that is no block is another finding
    return began_unix_ms + hours_owed(bundle) * HOUR_MS - FUTURE_MS_MAX
