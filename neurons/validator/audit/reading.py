"""When a validator read the ledger for an epoch: heights of the newest block between which it did.

The window ends with the commitment, which was made after the reading. It begins with what the ledger showed a minute before
the validator's own starting time: as far as a clock may be ahead for the ledger to take its transactions.
"""

from __future__ import annotations

from dataclasses import dataclass

from ledger.state import FUTURE_MS_MAX
from neurons.validator.audit.history import Blocks
from polarise.epoch_record import EpochCommit


@dataclass(frozen=True, slots=True)
class Window:
    """Heights of the newest block, both included."""

    first: int
    last: int


def window_of(blocks: Blocks, commit: EpochCommit, leaf: int) -> Window:
    """Return the window of an epoch whose commitment stands on this leaf."""
    first = max(min(blocks.at(commit.started_unix_ms - FUTURE_MS_MAX), blocks.covering(leaf) - 1), 0)
    return Window(first, blocks.covering(leaf) - 1)
