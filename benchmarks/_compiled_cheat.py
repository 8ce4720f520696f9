"""The cheat of `memory_cheat.c`, built with this machine's compiler: what it answers, and how long a pass takes it.

Its answers are compared with those of an honest miner, bit for bit, before anything is measured: it really makes what it
does not hold.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np

from challenges.memory import MemoryParams, unit_message
from challenges.memory_backends import NumpyMemoryBackend
from challenges.memory_digest import BLOCK_WORDS, COLUMNS, LANES, ROWS, PassKeys
from challenges.prng import UInt32Array

SOURCE = Path(__file__).with_name("memory_cheat.c")
COMPILERS = ("gcc", "cc", "clang")
FLAGS = ("-O3", "-march=native", "-shared", "-fPIC")
_WORDS = np.ctypeslib.ndpointer(dtype=np.uint32, flags="C_CONTIGUOUS")


class CompiledCheat:
    """Holds a share of the memory.

    Args:
        folder: Where the library is made.

    Raises:
        RuntimeError: There is no compiler, it failed, or what it made answers wrongly.
    """

    def __init__(self, folder: Path) -> None:
        compiler = next((path for name in COMPILERS if (path := shutil.which(name))), None)
        if compiler is None:
            raise RuntimeError(f"no compiler: expected one of {', '.join(COMPILERS)}")
        library = folder / "memory_cheat.so"
        done = subprocess.run(
            [compiler, *FLAGS, str(SOURCE), "-o", str(library)], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"{compiler} failed: {done.stderr[:300]}")
        loaded = ctypes.CDLL(str(library))
        word = ctypes.c_uint32
        self._make, self._pass = loaded.cheat_make, loaded.cheat_pass
        self._make.argtypes = (_WORDS, ctypes.c_uint64, word, word, _WORDS)
        self._pass.argtypes = (_WORDS, _WORDS, word, word, word, _WORDS, _WORDS, _WORDS)
        self._make.restype = self._pass.restype = None
        self._compare()

    def fill(self, params: MemoryParams, fill_seed: bytes, held: int) -> float:
        """Make the first blocks; returns the processor time in seconds."""
        self._params, self._held = params, held
        self._prefix = np.frombuffer(unit_message(fill_seed, 0)[:24], dtype=">u4").astype(np.uint32)
        self._blocks = np.zeros((max(held, 1), BLOCK_WORDS), dtype=np.uint32)
        began_ns = time.process_time_ns()
        self._make(self._prefix, 0, held, params.hashes, self._blocks)
        return (time.process_time_ns() - began_ns) / 1e9

    def digests(self, pass_key: bytes) -> tuple[UInt32Array, float]:
        """Do one pass; returns the digests of all blocks, [blocks, 2], and the processor time in seconds."""
        keys = PassKeys.of(pass_key)
        rows = np.ascontiguousarray(keys.rows.reshape(ROWS, COLUMNS)[:, 0])
        columns = np.ascontiguousarray(keys.columns[:COLUMNS])
        out = np.empty((self._params.blocks, LANES), dtype=np.uint32)
        began_ns = time.process_time_ns()
        self._pass(self._prefix, self._blocks, self._held, self._params.blocks, self._params.hashes, rows, columns, out)
        return out, (time.process_time_ns() - began_ns) / 1e9

    def _compare(self) -> None:
        params, seed = MemoryParams(blocks=9, hashes=3, passes=1, openings=1), bytes(range(32))
        honest = NumpyMemoryBackend()
        honest.fill(params, seed)
        expected = honest.digests(seed, range(params.blocks))
        for held in (0, 4, params.blocks):
            self.fill(params, seed, held)
            if not np.array_equal(self.digests(seed)[0], expected):
                raise RuntimeError(f"the compiled cheat answers wrongly with {held} of {params.blocks} blocks")
