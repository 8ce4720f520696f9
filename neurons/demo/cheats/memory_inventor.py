"""A miner that holds three quarters of the memory it is asked to fill, and invents the digests of the rest.

It needs a quarter less memory and loses no time; 32 openings let it pass with probability 0.75^32 = 0.0001. Caught as
BLOCK_MISMATCH.
"""

from __future__ import annotations

import hashlib
import sys

import numpy as np

from challenges.memory_backends import BlockStore, NumpyMemoryBackend
from challenges.memory_digest import DIGEST_BYTES, LANES
from challenges.memory_messages import MemoryParams
from challenges.memory_solver import MemoryProver
from challenges.prng import UInt32Array
from challenges.proofs import ProofParams, Prover, open_prover
from neurons.miner.node import MinerNode
from neurons.miner.solver import SolverProcess, main

HELD_PERCENT = 75


class InventingBackend(NumpyMemoryBackend):
    """Makes up what it does not hold."""

    def fill(self, params: MemoryParams, fill_seed: bytes) -> None:
        """Fill three quarters."""
        self._store = None
        self._store = BlockStore(params, fill_seed, range(params.blocks * HELD_PERCENT // 100))

    def digests(self, pass_key: bytes, blocks: range) -> UInt32Array:
        """Digest what is there; the rest is a hash of whatever is at hand."""
        held = super().digests(pass_key, blocks)
        missing = len(blocks) - len(held)
        invented = hashlib.shake_256(pass_key + bytes([blocks.start & 0xFF])).digest(missing * DIGEST_BYTES)
        return np.concatenate([held, np.frombuffer(invented, dtype=np.uint32).reshape(-1, LANES)])


class MemoryInventor(MinerNode):
    """An honest miner but for its solver."""

    def start_solver(self) -> SolverProcess:
        """Start this file instead of the honest solver."""
        return SolverProcess((sys.executable, "-m", "neurons.demo.cheats.memory_inventor"))


def _open_prover(params: ProofParams, device: str) -> Prover:
    """Invent in the memory proof only."""
    return MemoryProver(params, InventingBackend()) if isinstance(params, MemoryParams) else open_prover(params, device)


if __name__ == "__main__":
    main(_open_prover)
