"""The miner's side of the memory proof: fill the memory, read it through once per pass, commit, and open what is asked.

Rules:
- A backend holds the memory and does the arithmetic; keys, trees and the chain of passes are here, the same for every
  device.
- A pass waits for the root of the one before, so that nothing of it can be begun ahead. Between two passes lie the hashes
  of a tree, 8 bytes of digest per block: 1 ms on a CPU. A backend makes the tree, because a GPU does not wait for a host
  to do it (`challenges.cuda_memory`).
- A small proof, a CPU's, keeps the digests of all passes, and opens at once however busy its cores are. Of a large one only
  leaf hashes are kept, 32 bytes per 32 MiB and pass, and a leaf that is to be opened is digested again from the memory,
  which therefore stays filled until the openings are out. If it changed in between, that is found before it is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
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


@dataclass(frozen=True, slots=True)
class PassTree:
    """What a pass leaves of its tree.

    Args:
        root: What is committed.
        leaf_hashes: The hashes of all leaves, 32 bytes each, one after another.
        digests: What the leaves hold, where it came to the host and is kept; else nothing.
    """

    root: bytes
    leaf_hashes: bytes
    digests: bytes = field(default=b"", compare=False)

    @classmethod
    def of(cls, digests: UInt32Array) -> PassTree:
        """Make the tree over the digests of all blocks, [blocks, 2]."""
        data, size = digest_bytes(digests), LEAF_BLOCKS * DIGEST_BYTES
        hashes = [merkle.leaf_hash(data[start : start + size]) for start in range(0, len(data), size)]
        return cls(merkle.root_of_hashes(hashes), b"".join(hashes), data)

    @property
    def hashes(self) -> list[bytes]:
        """The hashes of all leaves."""
        size = merkle.HASH_BYTES
        return [self.leaf_hashes[start : start + size] for start in range(0, len(self.leaf_hashes), size)]


class MemoryBackend(Protocol):
    """One device's memory and arithmetic; all implementations give equal bits."""

    def fill(self, params: MemoryParams, fill_seed: bytes) -> None:
        """Allocate and fill; not timed by the validator."""

    def digests(self, pass_key: bytes, blocks: range) -> UInt32Array:
        """Return the digests of these consecutive blocks under the key of a pass, [count, 2] uint32."""

    def pass_tree(self, pass_key: bytes, blocks: int) -> PassTree:
        """Digest all blocks, of which there are so many, and make the tree over their leaves."""


@dataclass(frozen=True, slots=True)
class MemoryWork:
    """All passes done: the roots to send now, and what opening takes.

    Args:
        params: Sizes of the proof.
        keys: Key of each pass.
        trees: Tree of each pass.
        backend: The device, still filled.
    """

    params: MemoryParams
    keys: tuple[bytes, ...]
    trees: tuple[PassTree, ...]
    backend: MemoryBackend

    @property
    def roots(self) -> tuple[bytes, ...]:
        """Merkle root of each pass."""
        return tuple(tree.root for tree in self.trees)

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
        hashes, index = self.trees[position.pass_index].hashes, position.block // LEAF_BLOCKS
        leaf = self._leaf(position.pass_index, index)
        if merkle.leaf_hash(leaf) != hashes[index]:
            raise Unavailable(f"the memory has changed since pass {position.pass_index}; was it filled anew?")
        return BlockOpening(position, leaf, tuple(merkle.inclusion_proof(hashes, index)))

    def _leaf(self, pass_index: int, index: int) -> bytes:
        blocks, digests = self.params.leaf_blocks(index), self.trees[pass_index].digests
        if digests:
            return digests[blocks.start * DIGEST_BYTES : blocks.stop * DIGEST_BYTES]
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
    trees: list[PassTree] = []
    is_kept = params.passes * params.blocks * DIGEST_BYTES <= KEPT_BYTES_MAX
    while True:
        if should_stop is not None and should_stop():
            raise SolveStopped(f"stopped after {len(trees)} of {params.passes} passes")
        tree = backend.pass_tree(keys[-1], params.blocks)
        trees.append(tree if is_kept else replace(tree, digests=b""))
        if on_progress is not None:
            on_progress(len(trees))
        if len(trees) == params.passes:
            return MemoryWork(params, tuple(keys), tuple(trees), backend)
        keys.append(next_pass_key(keys[-1], trees[-1].root))


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
