"""Memory that is not all there, in the ways in which cheats of the memory proof hold it, read it or make it up."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable

import numpy as np

from challenges.memory import MemoryParams
from challenges.memory_backends import BLOCKS_PER_FILL, BlockStore, NumpyMemoryBackend
from challenges.memory_digest import LANES, PassKeys
from challenges.memory_messages import UNITS_PER_BLOCK
from challenges.memory_solver import MemoryBackend, MemoryWork
from challenges.prng import UInt32Array


class PartBackend(NumpyMemoryBackend):
    """Holds the first blocks and makes the others whenever they are read.

    Args:
        share: Of the blocks that are not held.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self._share = share
        self._held = range(0)
        self._fill: tuple[MemoryParams, bytes] | None = None
        self.hashes_count = 0

    def fill(self, params: MemoryParams, fill_seed: bytes) -> None:
        """Fill what is held."""
        self._held = range(params.blocks - missing_count(params, self._share))
        self._store = BlockStore(params, fill_seed, self._held)
        self._fill = params, fill_seed

    def digests(self, pass_key: bytes, blocks: range) -> UInt32Array:
        """Read what is there, and make the rest in batches that are thrown away."""
        parts = [super().digests(pass_key, blocks)]
        for start in range(max(blocks.start, len(self._held)), blocks.stop, BLOCKS_PER_FILL):
            batch = range(start, min(start + BLOCKS_PER_FILL, blocks.stop))
            parts.append(self.missing_digests(pass_key, batch))
        return np.concatenate(parts)

    def missing_digests(self, pass_key: bytes, blocks: range) -> UInt32Array:
        """Make these blocks anew."""
        assert self._fill is not None
        params, fill_seed = self._fill
        self.hashes_count += len(blocks) * UNITS_PER_BLOCK * params.hashes
        return BlockStore(params, fill_seed, blocks).digests(PassKeys.of(pass_key), blocks)


class InventingBackend(PartBackend):
    """Holds a part, and invents the digests of the rest."""

    def missing_digests(self, pass_key: bytes, blocks: range) -> UInt32Array:
        """Make numbers up, the same ones each time."""
        invented = b"".join(hashlib.sha256(pass_key + block.to_bytes(8, "big")).digest()[:8] for block in blocks)
        return np.frombuffer(invented, dtype="<u4").reshape(-1, LANES)


class FilledOnce(NumpyMemoryBackend):
    """Takes what it holds for what it is asked to hold."""

    def fill(self, params: MemoryParams, fill_seed: bytes) -> None:
        """Fill the first time only."""
        if self._store is None:
            super().fill(params, fill_seed)


class LinkedBackend(NumpyMemoryBackend):
    """Waits for a link in every pass.

    Args:
        seconds: How long each time that memory is read.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    def digests(self, pass_key: bytes, blocks: range) -> UInt32Array:
        """Read, late."""
        time.sleep(self._seconds)
        return super().digests(pass_key, blocks)


class Passing:
    """A prover that holds what it is asked to hold, and makes its passes in its own way.

    Args:
        params: Sizes of the proof.
        passes: Fill seed, seed and backend -> work.
    """

    def __init__(self, params: MemoryParams, passes: Callable[[bytes, bytes, MemoryBackend], MemoryWork]) -> None:
        self._params = params
        self._passes = passes
        self._backend = NumpyMemoryBackend()
        self._fill_seed = b""

    def prepare(self, fill_seed: bytes = b"") -> None:
        """Fill honestly."""
        self._fill_seed = fill_seed
        self._backend.fill(self._params, fill_seed)

    def solve(
        self,
        seed: bytes,
        *,
        on_progress: Callable[[int], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> MemoryWork:
        """Do the passes."""
        return self._passes(self._fill_seed, seed, self._backend)


def missing_count(params: MemoryParams, share: float) -> int:
    """Return how many blocks are a share of all."""
    return round(share * params.blocks)
