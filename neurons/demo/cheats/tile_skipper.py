"""A miner that computes 80 % of the tiles of every product and leaves the rest as they are.

It saves a fifth of the work; 32 openings let it pass with probability 0.8^32 = 0.0008. Caught as TILE_MISMATCH.
"""

from __future__ import annotations

import sys

import torch

from challenges.matmul import MatmulParams
from challenges.proofs import MatmulProver, ProofParams, Prover, open_prover
from challenges.torch_backend import TorchBackend
from neurons.miner.node import MinerNode
from neurons.miner.solver import SolverProcess, main

SKIPPED_PERCENT = 20


class SkippingBackend(TorchBackend):
    """Multiplies four fifths of the tiles of each band of rows."""

    def prepare(self, params: MatmulParams) -> None:
        """Remember the tile size, then warm up as the honest one does."""
        self._tile = params.tile
        super().prepare(params)

    def multiply(self, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> None:
        """Leave the last fifth of the tiles, in row order, zero."""
        down, across = a.shape[0] // self._tile, b.shape[1] // self._tile
        done = down * across * (100 - SKIPPED_PERCENT) // 100
        rows, columns = done // across * self._tile, done % across * self._tile
        c.zero_()
        c[:rows] = torch.mm(a[:rows], b)
        c[rows : rows + self._tile, :columns] = torch.mm(a[rows : rows + self._tile], b[:, :columns])


class TileSkipper(MinerNode):
    """An honest miner but for its solver."""

    def start_solver(self) -> SolverProcess:
        """Start this file instead of the honest solver."""
        return SolverProcess((sys.executable, "-m", "neurons.demo.cheats.tile_skipper"))


def _open_prover(params: ProofParams, device: str) -> Prover:
    """Skip where it saves work unseen, it hopes; the proof of work is done honestly, as every share is checked."""
    return (
        MatmulProver(params, SkippingBackend(device))
        if isinstance(params, MatmulParams)
        else open_prover(params, device)
    )


if __name__ == "__main__":
    main(_open_prover)
