"""The memory of a memory proof on one GPU: filled, digested and hashed by `memory_kernels`, compared before it counts.

Rules:
- Units, digests and the leaves of the tree stay on the device. What leaves it in a pass are leaf hashes, 32 bytes per 32 MiB,
  and the few nodes whose tree the host finishes: every kernel of a pass is queued before the host waits once.
- What was held is given back before more is taken: both together may be more than there is.
- After it has filled, a device shows two whole blocks, their digests and the tree of a pass, and hashlib and numpy have to
  agree bit for bit. A card, a compiler or a library that errs is found here, where it costs no score.
- A launch fills 4 GiB at most, so that an index fits a word, and a device that is asked to stop is soon done.

Written without a GPU at hand: tests run every line but the launch itself and `cuda.using` under Triton's interpreter.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np
import torch

from challenges.cuda import open_device, using
from challenges.memory import MemoryParams, block_words, unit_message
from challenges.memory_digest import BLOCK_WORDS, LANES, ROWS, BlockDigester, PassKeys, key_words
from challenges.memory_messages import LEAF_BLOCKS, UNITS_PER_BLOCK
from challenges.memory_solver import PassTree
from challenges.prng import UInt32Array
from challenges.sha256_chains import HASH_WORDS
from polarise import merkle
from polarise.errors import Unavailable

if TYPE_CHECKING:
    from types import ModuleType

BLOCKS_PER_LAUNCH = 1 << 16
# Of a level with so few nodes hashlib makes the root sooner than the device could be asked seven times more.
NODES_ON_HOST = 64

_BLOCKS_PER_COUNTER = (1 << 32) // UNITS_PER_BLOCK
_CHECK_KEY = bytes(range(32))


class CudaMemoryBackend:
    """One device's memory, which holds one proof at a time.

    Args:
        device: A CUDA device, or the CPU where Triton interprets.
        kernels: `challenges.memory_kernels`, whose import is the caller's.
        units_each: Units of one program of the fill, a power of two.
        nodes_on_host: From how few nodes on the host makes the tree.
    """

    def __init__(
        self,
        device: torch.device,
        kernels: ModuleType,
        *,
        units_each: int | None = None,
        nodes_on_host: int = NODES_ON_HOST,
    ) -> None:
        self._device = device
        self._kernels = kernels
        self._units_each = units_each or int(kernels.UNITS_PER_PROGRAM)
        self._nodes_on_host = nodes_on_host
        self._words = torch.empty((0, BLOCK_WORDS), dtype=torch.int32)

    def fill(self, params: MemoryParams, fill_seed: bytes) -> None:
        """Give back what was held, allocate, fill, and compare with the reference.

        Raises:
            Unavailable: No room, the device failed, or it made something else than the reference.
        """
        with using(self._device):
            self._words = torch.empty((0, BLOCK_WORDS), dtype=torch.int32)
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
            self._words = torch.empty((params.blocks, BLOCK_WORDS), dtype=torch.int32, device=self._device)
            self.refill(params, fill_seed)
            self._compare(params, fill_seed)

    def refill(self, params: MemoryParams, fill_seed: bytes) -> None:
        """Queue the launches that fill what is allocated; for whoever times them, `fill` is for proofs."""
        start = 0
        while start < params.blocks:
            # No launch may cross 2**32 units.
            counter_end = start + _BLOCKS_PER_COUNTER - start % _BLOCKS_PER_COUNTER
            stop = min(start + BLOCKS_PER_LAUNCH, counter_end, params.blocks)
            self._fill(params, fill_seed, range(start, stop))
            start = stop

    def digests(self, pass_key: bytes, blocks: range) -> UInt32Array:
        """Digest these blocks and bring the digests to the host.

        Raises:
            ValueError: The memory is not filled so far.
            Unavailable: The device failed.
        """
        self._require_filled(blocks)
        with using(self._device):
            return self._digest(pass_key, blocks).cpu().numpy().view(np.uint32)

    def pass_tree(self, pass_key: bytes, blocks: int) -> PassTree:
        """Digest all blocks and make their tree, of which the host finishes the last levels.

        Raises:
            ValueError: The memory is not filled so far.
            Unavailable: The device failed.
        """
        self._require_filled(range(blocks))
        with using(self._device):
            return self.tree_over(self._hash_leaves(self._digest(pass_key, range(blocks))))

    def tree_over(self, leaves: torch.Tensor) -> PassTree:
        """Make the tree over leaf hashes that lie on the device, [count, 8] int32, and wait for it."""
        nodes = leaves
        while len(nodes) > self._nodes_on_host:
            nodes = self._next_level(nodes)
        # One copy, and so one wait, for both.
        together = torch.cat((leaves, nodes)).cpu().numpy().astype(">i4").tobytes()
        size = merkle.HASH_BYTES
        end = len(leaves) * size
        upper = [together[start : start + size] for start in range(end, len(together), size)]
        return PassTree(merkle.root_of_hashes(upper), together[:end])

    def _require_filled(self, blocks: range) -> None:
        if blocks.stop > len(self._words):
            raise ValueError(f"{len(self._words)} blocks are filled, asked for {blocks}")

    def _fill(self, params: MemoryParams, fill_seed: bytes, blocks: range) -> None:
        message = struct.unpack(">8i", unit_message(fill_seed, blocks.start * UNITS_PER_BLOCK))
        units = len(blocks) * UNITS_PER_BLOCK
        self._kernels.fill_units[(-(-units // self._units_each),)](
            self._words[blocks.start : blocks.stop],
            *message,
            units,
            params.hashes,
            units_each=self._units_each,
            num_warps=self._kernels.FILL_WARPS,
        )

    def _digest(self, pass_key: bytes, blocks: range) -> torch.Tensor:
        """Queue the digests of some blocks, [count, 2] int32."""
        keys = torch.from_numpy(key_words(pass_key).view(np.int32).copy()).to(self._device)
        lanes = torch.empty((len(blocks), LANES), dtype=torch.int32, device=self._device)
        self._kernels.digest_blocks[(len(blocks),)](
            self._words[blocks.start : blocks.stop],
            keys[:ROWS],
            keys[ROWS:],
            lanes,
            num_warps=self._kernels.DIGEST_WARPS,
        )
        return lanes

    def _hash_leaves(self, digests: torch.Tensor) -> torch.Tensor:
        """Queue the hashes of all leaves, [leaves, 8] int32; the last one may be shorter, and is a launch of its own."""
        full = len(digests) // LEAF_BLOCKS
        hashes = torch.empty((-(-len(digests) // LEAF_BLOCKS), HASH_WORDS), dtype=torch.int32, device=self._device)
        for first, count, length in ((0, full, LEAF_BLOCKS), (full, len(hashes) - full, len(digests) % LEAF_BLOCKS)):
            if count:
                self._kernels.hash_leaves[(-(-count // self._kernels.LEAVES_PER_PROGRAM),)](
                    digests[first * LEAF_BLOCKS :],
                    hashes[first:],
                    count,
                    length * LANES,
                    leaves_each=self._kernels.LEAVES_PER_PROGRAM,
                    num_warps=self._kernels.TREE_WARPS,
                )
        return hashes

    def _next_level(self, nodes: torch.Tensor) -> torch.Tensor:
        parents = torch.empty((-(-len(nodes) // 2), HASH_WORDS), dtype=torch.int32, device=self._device)
        self._kernels.hash_nodes[(-(-len(parents) // self._kernels.LEAVES_PER_PROGRAM),)](
            nodes,
            parents,
            len(nodes),
            nodes_each=self._kernels.LEAVES_PER_PROGRAM,
            num_warps=self._kernels.TREE_WARPS,
        )
        return parents

    def _compare(self, params: MemoryParams, fill_seed: bytes) -> None:
        """Compare the first and the last block with hashlib, all digests' tree with `merkle`, and their digests with numpy."""
        lanes = self.digests(_CHECK_KEY, range(params.blocks))
        keys, digester = PassKeys.of(_CHECK_KEY), BlockDigester()
        for block in (0, params.blocks - 1):
            expected = block_words(params, fill_seed, block)
            if not np.array_equal(self._words[block].cpu().numpy().view(np.uint32), expected):
                raise _differs(self._device, f"block {block}")
            if not np.array_equal(lanes[block], digester.digests(expected[None, :], keys)[0]):
                raise _differs(self._device, f"the digest of block {block}")
        if self.pass_tree(_CHECK_KEY, params.blocks) != PassTree.of(lanes):
            raise _differs(self._device, "the tree of a pass")


def open_cuda_memory_backend(name: str) -> CudaMemoryBackend:
    """Return the backend of one GPU.

    Args:
        name: "cuda:N".

    Raises:
        Unavailable: No such device, or Triton is missing.
    """
    device = open_device(name)
    with using(device):
        from challenges import memory_kernels
    return CudaMemoryBackend(device, memory_kernels)


def _differs(device: torch.device, what: str) -> Unavailable:
    return Unavailable(f"{device}: {what} differs from the reference; please send us the card's name")
