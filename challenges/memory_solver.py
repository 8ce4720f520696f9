"""The miner's side of the memory proof: fill the memory, read it through once per pass, commit, and open what is asked.

Rules:
- A backend holds the memory and does the arithmetic; keys, trees and the chain of passes are here, the same for every
  device.
- A pass waits for the root of the one before, so that nothing of it can be begun ahead. Between two passes lie the hashes
  of a tree, 8 bytes of digest per block: 1 ms on a CPU, and for a GPU to be kept off the host (leaf hashes on the device).
- Only leaf hashes are kept, 32 bytes per 32 MiB and pass. A leaf that is to be opened is digested again from the memory,
  which therefore stays filled until the openings are out. If it changed in between, that is found before it is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from challenges.memory import (
    BlockOpening,
    BlockPosition,
    MemoryCommitment,
    MemoryParams,
    first_pass_key,
    next_pass_key,
)
from challenges.memory_digest import DIGEST_BYTES, digest_bytes
from challenges.memory_messages import LEAF_BLOCKS
from challenges.prng import UInt32Array
from challenges.solver import SolveStopped
from polarise import merkle
from polarise.errors import Unavailable


class MemoryBackend(Protocol):
    """One device's memory and arithmetic; all implementations give equal bits."""

    def fill(self, params: MemoryParams, fill_seed: bytes) -> None:
        """Allocate and fill; not timed by the validator."""

    def digests(self, pass_key: bytes, blocks: range) -> UInt32Array:
        """Return the digests of these consecutive blocks under the key of a pass, [count, 2] uint32."""


@dataclass(frozen=True, slots=True)
class MemoryWork:
    """All passes done: the roots to send now, and what opening takes.

    Args:
        params: Sizes of the proof.
        keys: Key of each pass.
        roots: Merkle root of each pass.
        leaf_hashes: Leaf hashes of each pass.
        backend: The device, still filled.
    """

    params: MemoryParams
    keys: tuple[bytes, ...]
    roots: tuple[bytes, ...]
    leaf_hashes: tuple[tuple[bytes, ...], ...]
    backend: MemoryBackend

    @property
    def commitment(self) -> MemoryCommitment:
        """The message that stops the validator's clock."""
        return MemoryCommitment(self.roots)

    def open(self, positions: Sequence[Sequence[int]]) -> list[BlockOpening]:
        """Answer the validator's positions in their order; 32 MiB are read for each, 10 ms of a CPU.

        Raises:
            ValueError: A position is outside the proof; the request was wrong.
            Unavailable: The memory is no longer what it was.
        """
        return [self._open_one(BlockPosition(*position)) for position in positions]

    def _open_one(self, position: BlockPosition) -> BlockOpening:
        if not all(0 <= number < bound for number, bound in zip(position, self.params.bounds, strict=True)):
            raise ValueError(f"position {tuple(position)} is outside {self.params.bounds}")
        hashes, index = self.leaf_hashes[position.pass_index], position.block // LEAF_BLOCKS
        leaf = digest_bytes(self.backend.digests(self.keys[position.pass_index], self.params.leaf_blocks(index)))
        if merkle.leaf_hash(leaf) != hashes[index]:
            raise Unavailable(f"the memory has changed since pass {position.pass_index}; was it filled anew?")
        return BlockOpening(position, leaf, tuple(merkle.inclusion_proof(hashes, index)))


def solve_memory(
    params: MemoryParams,
    fill_seed: bytes,
    seed: bytes,
    backend: MemoryBackend,
    *,
    on_progress: Callable[[int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> MemoryWork:
    """Do all passes; call `backend.fill(params, fill_seed)` before the clock runs.

    Args:
        params: Sizes of the proof.
        fill_seed: What the memory was filled from, 32 bytes.
        seed: Seed of the challenge, 32 bytes.
        backend: The device.
        on_progress: Called with the number of finished passes after each.
        should_stop: Asked before each pass.

    Raises:
        SolveStopped: `should_stop` said so.
    """
    keys = [first_pass_key(fill_seed, seed)]
    roots: list[bytes] = []
    leaf_hashes: list[tuple[bytes, ...]] = []
    while True:
        if should_stop is not None and should_stop():
            raise SolveStopped(f"stopped after {len(roots)} of {params.passes} passes")
        leaf_hashes.append(pass_leaf_hashes(backend.digests(keys[-1], range(params.blocks))))
        roots.append(merkle.root_of_hashes(leaf_hashes[-1]))
        if on_progress is not None:
            on_progress(len(roots))
        if len(roots) == params.passes:
            return MemoryWork(params, tuple(keys), tuple(roots), tuple(leaf_hashes), backend)
        keys.append(next_pass_key(keys[-1], roots[-1]))


def pass_leaf_hashes(digests: UInt32Array) -> tuple[bytes, ...]:
    """Return the leaf hashes of one pass's tree from the digests of all blocks, [blocks, 2]."""
    data, size = digest_bytes(digests), LEAF_BLOCKS * DIGEST_BYTES
    return tuple(merkle.leaf_hash(data[start : start + size]) for start in range(0, len(data), size))


class MemoryProver:
    """The memory proof on one backend, as `challenges.proofs.Prover` has it; the fill seed comes with `/challenge/prepare`."""

    def __init__(self, params: MemoryParams, backend: MemoryBackend, fill_seed: bytes) -> None:
        self._params = params
        self._backend = backend
        self._fill_seed = fill_seed

    def prepare(self) -> None:
        """Allocate and fill; not timed, but with a deadline of its own."""
        self._backend.fill(self._params, self._fill_seed)

    def solve(
        self,
        seed: bytes,
        *,
        on_progress: Callable[[int], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> MemoryWork:
        """Do all passes; progress counts passes."""
        return solve_memory(
            self._params, self._fill_seed, seed, self._backend, on_progress=on_progress, should_stop=should_stop
        )
