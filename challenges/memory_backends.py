"""The memory of a memory proof on a CPU: filled and digested with numpy, in this process or on every core.

Rules:
- Both backends give equal bits; the one in this process is the reference.
- Cores are used by processes, as in `challenges.pow_solver`; each holds, fills and digests a part of the blocks by itself,
  so that no memory is shared and only keys and digests pass between them.
- What is filled anew is given back first: a device holds one proof at a time.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
from collections.abc import Sequence
from multiprocessing.connection import Connection

import numpy as np

from challenges.memory import MemoryParams, unit_message
from challenges.memory_digest import BLOCK_WORDS, LANES, BlockDigester, PassKeys
from challenges.memory_messages import UNITS_PER_BLOCK
from challenges.memory_solver import MemoryBackend, PassTree
from challenges.prng import UInt32Array
from challenges.sha256_chains import HASH_WORDS, Sha256Chains
from polarise.errors import Unavailable

# 32,768 lanes take 3.9 MB; fewer, and numpy's cost per call shows.
BLOCKS_PER_FILL = 16
BLOCKS_PER_COUNTER = (1 << 32) // UNITS_PER_BLOCK

_FillRequest = tuple[MemoryParams, bytes, range]
_DigestRequest = tuple[bytes, range]


class BlockStore:
    """Consecutive blocks of one proof in this process's memory, filled with numpy on one core.

    Args:
        params: Sizes of the proof.
        fill_seed: What to fill from, 32 bytes.
        blocks: Which blocks.
    """

    def __init__(self, params: MemoryParams, fill_seed: bytes, blocks: range) -> None:
        self.blocks = blocks
        self._words = np.empty((len(blocks), BLOCK_WORDS), dtype=np.uint32)
        self._digester = BlockDigester()
        make_blocks(params, fill_seed, blocks.start, self._words)

    def digests(self, keys: PassKeys, blocks: range) -> UInt32Array:
        """Digest those of these blocks that are here, in their order."""
        start, stop = (min(max(end - self.blocks.start, 0), len(self.blocks)) for end in (blocks.start, blocks.stop))
        return self._digester.digests(self._words[start : max(start, stop)], keys)


def make_blocks(params: MemoryParams, fill_seed: bytes, first: int, out: UInt32Array) -> None:
    """Make consecutive blocks from the fill seed, 4.5 M hashes/s on one Zen 5 core.

    Args:
        params: Sizes of the proof; k is read.
        fill_seed: 32 bytes.
        first: The first block.
        out: [count, 16384] uint32.
    """
    calls = max(-(-len(out) // BLOCKS_PER_FILL), 1)
    # As many lanes as the evenest split needs: a lane costs the same whether its unit is wanted or not.
    step = max(-(-len(out) // calls), 1)
    chains = Sha256Chains(step * UNITS_PER_BLOCK)
    start = 0
    while start < len(out):
        # No call may cross 2**32 units.
        stop = min(start + step, start + BLOCKS_PER_COUNTER - (first + start) % BLOCKS_PER_COUNTER, len(out))
        units = out[start:stop].reshape(-1, HASH_WORDS)
        chains.hash_counted(unit_message(fill_seed, (first + start) * UNITS_PER_BLOCK), params.hashes, units)
        start = stop


class NumpyMemoryBackend:
    """The reference: one core, in this process; subclasses cheat in tests."""

    def __init__(self) -> None:
        self._store: BlockStore | None = None

    def fill(self, params: MemoryParams, fill_seed: bytes) -> None:
        """Fill, giving back what was held before."""
        self._store = None
        self._store = BlockStore(params, fill_seed, range(params.blocks))

    def digests(self, pass_key: bytes, blocks: range) -> UInt32Array:
        """Digest at once."""
        if self._store is None:
            raise ValueError("the memory is not filled")
        return self._store.digests(PassKeys.of(pass_key), blocks)

    def pass_tree(self, pass_key: bytes, blocks: int) -> PassTree:
        """Digest and hash at once."""
        return PassTree.of(self.digests(pass_key, range(blocks)))


class ProcessMemoryBackend:
    """The reference on several cores; a context manager, whose processes also end with ours, however that ends.

    Args:
        workers: How many processes, >= 1; each holds as many blocks as the others, and one more or less.
    """

    def __init__(self, workers: int) -> None:
        self._connections: list[Connection] = []
        context = multiprocessing.get_context("spawn")
        for index in range(workers):
            ours, theirs = context.Pipe()
            context.Process(target=_serve, args=(theirs,), name=f"memory-{index}", daemon=True).start()
            # Their end must be theirs alone, or we would not read the end of a process that died.
            theirs.close()
            self._connections.append(ours)

    def fill(self, params: MemoryParams, fill_seed: bytes) -> None:
        """Let each process fill its part.

        Raises:
            Unavailable: A process has died.
        """
        workers = len(self._connections)
        edges = [params.blocks * index // workers for index in range(workers + 1)]
        self._ask([(params, fill_seed, range(start, stop)) for start, stop in itertools.pairwise(edges)])

    def digests(self, pass_key: bytes, blocks: range) -> UInt32Array:
        """Let each process digest what it holds of these blocks.

        Raises:
            Unavailable: A process has died.
        """
        parts = self._ask([(pass_key, blocks)] * len(self._connections))
        return np.concatenate([np.frombuffer(part, dtype=np.uint32) for part in parts]).reshape(-1, LANES)

    def pass_tree(self, pass_key: bytes, blocks: int) -> PassTree:
        """Let the processes digest, and hash here.

        Raises:
            Unavailable: A process has died.
        """
        return PassTree.of(self.digests(pass_key, range(blocks)))

    def close(self) -> None:
        """End the processes and give their memory back."""
        for connection in self._connections:
            connection.close()

    def __enter__(self) -> ProcessMemoryBackend:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _ask(self, requests: Sequence[_FillRequest | _DigestRequest]) -> list[bytes]:
        try:
            for connection, request in zip(self._connections, requests, strict=True):
                connection.send(request)
            return [connection.recv_bytes() for connection in self._connections]
        except (EOFError, OSError) as err:
            raise Unavailable("a process of the solver ended; was there memory for it?") from err


def open_memory_backend(device: str) -> MemoryBackend:
    """Return the backend of "cpu", which uses every core this process may run on, or of "cuda:N".

    Raises:
        ValueError: An unknown device name.
        ImportError: A GPU without torch.
        Unavailable: No such GPU, or Triton is missing.
    """
    if device.startswith("cuda:") and device[5:].isdecimal():
        # Imported here only: a validator has no torch and imports all the rest.
        from challenges.cuda_memory import open_cuda_memory_backend

        return open_cuda_memory_backend(device)
    if device != "cpu":
        raise ValueError(f"device is {device!r}, expected 'cpu' or 'cuda:N'")
    workers = len(os.sched_getaffinity(0))
    return ProcessMemoryBackend(workers) if workers > 1 else NumpyMemoryBackend()


def _serve(connection: Connection) -> None:
    """Fill and digest as the solver asks until it closes the pipe or is gone; Ctrl-C is for the solver."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    store: BlockStore | None = None
    try:
        while True:
            request: _FillRequest | _DigestRequest = connection.recv()
            if len(request) == 3:
                store = None
                store = BlockStore(*request)
                connection.send_bytes(b"")
            elif store is not None:
                connection.send_bytes(store.digests(PassKeys.of(request[0]), request[1]).tobytes())
    except (EOFError, OSError):
        return
