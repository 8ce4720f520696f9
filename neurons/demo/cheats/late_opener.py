"""A miner that lets the validator wait for the openings, as one does that begins to work when it sees the questions.

Openings have two seconds: what was committed lies in memory, and showing it takes some milliseconds. Caught as
OPENING_LATE.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from neurons.miner.node import MinerNode
from neurons.miner.solver import SolverProcess

LATE_SECONDS = 3.0


class LateSolver(SolverProcess):
    """Commits in time."""

    def open(self, positions: Sequence[Sequence[int]]) -> list[dict[str, object]]:
        """Take a second more than there is."""
        time.sleep(LATE_SECONDS)
        return super().open(positions)


class LateOpener(MinerNode):
    """An honest miner but for its solver."""

    def start_solver(self) -> SolverProcess:
        """Start the late one."""
        return LateSolver()
