"""A miner that sends nonces nobody searched for instead of shares of the proof of work.

A share is found among a thousand hashes or so; a nonce taken from anywhere is none. Every share is hashed again, so that no
luck helps. Caught as SHARE_INVALID.
"""

from __future__ import annotations

import sys

from challenges.pow_messages import PowParams
from challenges.pow_solver import NumpyPowBackend
from challenges.proofs import PowProver, ProofParams, Prover, open_prover
from neurons.miner.node import MinerNode
from neurons.miner.solver import SolverProcess, main


class ForgingBackend(NumpyPowBackend):
    """Calls every thousandth nonce a share."""

    def scan(self, prefix: bytes, target: int, start: int) -> list[int]:
        """Look at no hash at all."""
        return list(range(start, start + self.scan_nonces, 1000))


class ShareForger(MinerNode):
    """An honest miner but for its solver."""

    def start_solver(self) -> SolverProcess:
        """Start this file instead of the honest solver."""
        return SolverProcess((sys.executable, "-m", "neurons.demo.cheats.share_forger"))


def _open_prover(params: ProofParams, device: str) -> Prover:
    """Forge the proof of work only; the matmul proof is done honestly."""
    return PowProver(params, ForgingBackend()) if isinstance(params, PowParams) else open_prover(params, device)


if __name__ == "__main__":
    main(_open_prover)
