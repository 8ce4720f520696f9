"""The miner's side of the proof of work: scan nonces upwards from the slot's first until there are enough shares.

Rules:
- A backend scans a stretch of nonces and returns all shares in it. Stretches are queued, so that every core or a GPU has
  work, and taken in the order of their nonces: the answer is the first N shares whatever the device, its number of
  workers or the length of its stretches.
- Between stretches the solver asks whether to stop, so that a lease or SIGTERM waits for some hundredths of a second.
- Without compiled code (`challenges.pow_native`) cores are used by processes. numpy lets go of the interpreter's lock, but for some microseconds at a time only: two
  threads on two cores hash no faster than one, two processes 1.9 times as fast (`benchmarks/hashes.py`).
"""

from __future__ import annotations

import itertools
import logging
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Protocol

import numpy as np

from challenges.pow import PowCommitment, PowParams, share_prefix, share_value
from challenges.pow_native import NativePowBackend, NativeScan, NativeUnavailable
from challenges.sha256_lanes import Sha256Lanes
from challenges.solver import SolveStopped
from polarise.errors import Unavailable

logger = logging.getLogger(__name__)

PendingShares = Callable[[], Sequence[int]]

# 32,768 lanes take 3.9 MB; below 8,192 numpy's cost per call shows, above 65,536 the cache's end.
LANES = 1 << 15
CALLS_PER_SCAN = 4
WARM_UP_SEED = bytes(32)


class PowBackend(Protocol):
    """One device's arithmetic; all implementations find the same shares."""

    @property
    def scan_nonces(self) -> int:
        """Length of a stretch, a power of two of at most 2**32."""

    @property
    def scans_queued(self) -> int:
        """How many stretches keep the device busy, >= 1."""

    def prepare(self, params: PowParams) -> None:
        """Start and warm up; not timed by the validator."""

    def start_scan(self, prefix: bytes, target: int, start: int) -> PendingShares:
        """Queue the stretch from `start`, a multiple of its length, and return a call that waits for its shares."""


@dataclass(frozen=True, slots=True)
class PowWork:
    """A finished proof.

    Args:
        params: Sizes of the proof.
        nonces: The shares, rising.
    """

    params: PowParams
    nonces: tuple[int, ...]

    @property
    def commitment(self) -> PowCommitment:
        """The message that stops the validator's clock."""
        return PowCommitment(self.nonces)

    def open(self, positions: Sequence[Sequence[int]]) -> tuple[()]:
        """Return nothing for no positions: the commitment was the whole proof.

        Raises:
            ValueError: Something was asked for; the request was wrong.
        """
        if positions:
            raise ValueError(f"a proof of work has no openings, {len(positions)} were asked for")
        return ()


def solve_pow(
    params: PowParams,
    seed: bytes,
    backend: PowBackend,
    *,
    on_progress: Callable[[int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> PowWork:
    """Find the first shares of the slot; call `backend.prepare(params)` before the clock runs.

    Args:
        params: Sizes of the proof.
        seed: Seed of the challenge, 32 bytes.
        backend: The device.
        on_progress: Called with the number of shares found after each stretch.
        should_stop: Asked before each stretch.

    Raises:
        SolveStopped: `should_stop` said so.
    """
    prefix = share_prefix(params, seed)
    # Without end: a slot has room for four times the work (see HASHES_MAX).
    starts = itertools.count(params.nonces.start, backend.scan_nonces)
    scans: deque[PendingShares] = deque()
    nonces: list[int] = []
    while len(nonces) < params.shares:
        if should_stop is not None and should_stop():
            raise SolveStopped(f"stopped after {len(nonces)} of {params.shares} shares")
        while len(scans) < backend.scans_queued:
            scans.append(backend.start_scan(prefix, params.target, next(starts)))
        nonces.extend(scans.popleft()())
        if on_progress is not None:
            on_progress(min(len(nonces), params.shares))
    return PowWork(params, tuple(nonces[: params.shares]))


class NumpyPowBackend:
    """The reference: one core, in this process; subclasses may replace `scan` to cheat in tests.

    Args:
        lanes: Nonces hashed by one call of numpy, a power of two.
        calls: Calls per stretch, a power of two.
    """

    scans_queued = 1

    def __init__(self, lanes: int = LANES, calls: int = CALLS_PER_SCAN) -> None:
        self.scan_nonces = lanes * calls
        self._lanes = Sha256Lanes(lanes)

    def prepare(self, params: PowParams) -> None:
        """Touch the scratch space."""
        self.scan(share_prefix(params, WARM_UP_SEED), params.target, params.nonces.start)

    def start_scan(self, prefix: bytes, target: int, start: int) -> PendingShares:
        """Scan one stretch at once; what is returned only hands it over."""
        shares = self.scan(prefix, target, start)
        return lambda: shares

    def scan(self, prefix: bytes, target: int, start: int) -> list[int]:
        """Return all shares of the stretch from `start`, rising."""
        shares: list[int] = []
        last_word_max = np.uint32(target >> 32)
        for first in range(start, start + self.scan_nonces, self._lanes.lanes):
            hits = np.flatnonzero(self._lanes.last_words(prefix, first) <= last_word_max)
            # The word before the last is made here, for the few whose last word may do.
            shares.extend(
                nonce for nonce in (first + lane for lane in hits.tolist()) if share_value(prefix, nonce) <= target
            )
        return shares


class ProcessPowBackend:
    """The reference on several cores; a context manager, whose processes also end with ours, however that ends.

    A thread per process sends it one stretch and waits for the answer, so that whichever is free takes the next. Pipes
    alone join them: a killed solver leaves no semaphore behind, and its processes read the end of the pipe.

    Args:
        workers: How many processes, >= 1.
    """

    scan_nonces = LANES * CALLS_PER_SCAN

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self.scans_queued = 2 * workers
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="pow-process")
        self._idle: SimpleQueue[Connection] = SimpleQueue()
        self._connections: list[Connection] = []
        context = multiprocessing.get_context("spawn")
        for index in range(workers):
            ours, theirs = context.Pipe()
            context.Process(target=_serve, args=(theirs,), name=f"pow-{index}", daemon=True).start()
            # Their end must be theirs alone, or we would not read the end of a process that died.
            theirs.close()
            self._connections.append(ours)
            self._idle.put(ours)

    def prepare(self, params: PowParams) -> None:
        """Let each process, which has numpy to import first, scan a stretch."""
        starts = itertools.count(params.nonces.start, self.scan_nonces)
        prefix = share_prefix(params, WARM_UP_SEED)
        for wait in [self.start_scan(prefix, params.target, next(starts)) for _ in range(self._workers)]:
            wait()

    def start_scan(self, prefix: bytes, target: int, start: int) -> PendingShares:
        """Queue one stretch; its shares, or Unavailable where a process has died, come from the returned call."""
        return self._threads.submit(self._scan, prefix, target, start).result

    def close(self) -> None:
        """End the processes; what is still queued is dropped."""
        self._threads.shutdown(cancel_futures=True)
        for connection in self._connections:
            connection.close()

    def __enter__(self) -> ProcessPowBackend:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _scan(self, prefix: bytes, target: int, start: int) -> list[int]:
        connection = self._idle.get()
        try:
            connection.send((prefix, target, start))
            shares: list[int] = connection.recv()
        except (EOFError, OSError) as err:
            raise Unavailable("a process of the solver ended; was there memory for it?") from err
        finally:
            self._idle.put(connection)
        return shares


def open_pow_backend(device: str, library: Path | None = None) -> PowBackend:
    """Return the backend of "cpu", which uses every core this process may run on, or of "cuda:N".

    Args:
        device: "cpu", or "cuda:N".
        library: The compiled scan; numpy where there is none, or where it may not be used.

    Raises:
        ValueError: An unknown device name.
        ImportError: A GPU without torch.
        Unavailable: No such GPU, or no Triton for it.
    """
    if device.startswith("cuda:") and device[5:].isdecimal():
        # Imported here only: a CPU proves its work without torch.
        from challenges.cuda_pow import open_cuda_pow_backend

        return open_cuda_pow_backend(device)
    if device != "cpu":
        raise ValueError(f"device is {device!r}, expected 'cpu' or 'cuda:N'")
    workers = len(os.sched_getaffinity(0))
    if library is not None:
        try:
            return NativePowBackend(NativeScan(library), workers)
        except NativeUnavailable as err:
            logger.warning("the proof of work stays with numpy: %s", err)
    return ProcessPowBackend(workers) if workers > 1 else NumpyPowBackend()


def _serve(connection: Connection) -> None:
    """Scan what the solver asks for until it closes the pipe or is gone; Ctrl-C is for the solver."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    backend = NumpyPowBackend()
    try:
        while True:
            connection.send(backend.scan(*connection.recv()))
    except (EOFError, OSError):
        return
