"""The miner's side of the memory proof: fill the memory, read it through once per pass, commit, and open what is asked.

Rules:
- A backend holds the memory and does the arithmetic; keys, trees and the chain of passes are here, the same for every
  device.
- A pass waits for the root of the one before, so that nothing of it can be begun ahead. Between two passes lie the hashes
  of a tree, 8 bytes of digest per block: 1 ms on a CPU, and for a GPU to be kept off the host (leaf hashes on the device).
- A small proof, a CPU's, keeps the digests of all passes, and opens at once however busy its cores are. Of a large one only
  leaf hashes are kept, 32 bytes per 32 MiB and pass, and a leaf that is to be opened is digested again from the memory,
  which therefore stays filled until the openings are out. If it changed in between, that is found before it is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from challenges.draw import KEY_BYTES
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

# 8 MiB are what the largest proof of a CPU has.
KEPT_BYTES_MAX = 16 << 20


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
        digests: Digests of each pass as they are committed, where they are few enough to be kept; else nothing.
    """

    params: MemoryParams
    keys: tuple[bytes, ...]
    roots: tuple[bytes, ...]
    leaf_hashes: tuple[tuple[bytes, ...], ...]
    backend: MemoryBackend
    digests: tuple[bytes, ...] = ()

    @property
    def commitment(self) -> MemoryCommitment:
        """The message that stops the validator's clock."""
        return MemoryCommitment(self.roots)

    def open(self, positions: Sequence[Sequence[int]]) -> list[BlockOpening]:
        """Answer the validator's positions in their order; 32 MiB are read for each where no digests were kept.

        Raises:
            ValueError: A position is outside the proof; the request was wrong.
            Unavailable: The memory is no longer what it was.
        """
        return [self._open_one(BlockPosition(*position)) for position in positions]

    def _open_one(self, position: BlockPosition) -> BlockOpening:
        if not all(0 <= number < bound for number, bound in zip(position, self.params.bounds, strict=True)):
            raise ValueError(f"position {tuple(position)} is outside {self.params.bounds}")
        hashes, index = self.leaf_hashes[position.pass_index], position.block // LEAF_BLOCKS
        leaf = self._leaf(position.pass_index, index)
        if merkle.leaf_hash(leaf) != hashes[index]:
            raise Unavailable(f"the memory has changed since pass {position.pass_index}; was it filled anew?")
        return BlockOpening(position, leaf, tuple(merkle.inclusion_proof(hashes, index)))

    def _leaf(self, pass_index: int, index: int) -> bytes:
        blocks = self.params.leaf_blocks(index)
        if self.digests:
            return self.digests[pass_index][blocks.start * DIGEST_BYTES : blocks.stop * DIGEST_BYTES]
        return digest_bytes(self.backend.digests(self.keys[pass_index], blocks))


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
    kept: list[bytes] = []
    is_kept = params.passes * params.blocks * DIGEST_BYTES <= KEPT_BYTES_MAX
    while True:
        if should_stop is not None and should_stop():
            raise SolveStopped(f"stopped after {len(roots)} of {params.passes} passes")
        digests = backend.digests(keys[-1], range(params.blocks))
        leaf_hashes.append(pass_leaf_hashes(digests))
        if is_kept:
            kept.append(digest_bytes(digests))
        roots.append(merkle.root_of_hashes(leaf_hashes[-1]))
        if on_progress is not None:
            on_progress(len(roots))
        if len(roots) == params.passes:
            return MemoryWork(params, tuple(keys), tuple(roots), tuple(leaf_hashes), backend, tuple(kept))
        keys.append(next_pass_key(keys[-1], roots[-1]))


def pass_leaf_hashes(digests: UInt32Array) -> tuple[bytes, ...]:
    """Return the leaf hashes of one pass's tree from the digests of all blocks, [blocks, 2]."""
    data, size = digest_bytes(digests), LEAF_BLOCKS * DIGEST_BYTES
    return tuple(merkle.leaf_hash(data[start : start + size]) for start in range(0, len(data), size))


class MemoryProver:
    """The memory proof on one backend, as `challenges.proofs.Prover` has it."""

    def __init__(self, params: MemoryParams, backend: MemoryBackend) -> None:
        self._params = params
        self._backend = backend
        self._fill_seed = b""

    def prepare(self, fill_seed: bytes = b"") -> None:
        """Allocate and fill; not timed, but with a deadline of its own.

        Raises:
            ValueError: The fill seed is missing.
        """
        if len(fill_seed) != KEY_BYTES:
            raise ValueError(f"a memory is filled from a seed of {KEY_BYTES} bytes, got {len(fill_seed)}")
        self._fill_seed = fill_seed
        self._backend.fill(self._params, fill_seed)

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
