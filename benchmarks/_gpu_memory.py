"""The memory proof on one GPU for `gpu.py`: a pass beside a copy on the device, making beside reading, and the check."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from benchmarks.proofs import print_line
from challenges.cuda import using
from challenges.cuda_memory import CudaMemoryBackend
from challenges.hardware import PPM, GpuModel
from challenges.memory import MemoryParams, check_block_openings
from challenges.memory_fit import GPU_FILL_PPM, HASHES_UNKNOWN_CARD, fill_ratio_ppm, hashes_for
from challenges.memory_messages import BLOCK_BYTES, BlockPosition
from challenges.memory_solver import MemoryProver

COPY_BYTES = 4 << 30
# What the driver and torch keep of what they call free.
FREE_USED_PPM = 970_000
PASS_TARGET_PERCENT = 90
RATIO_TARGET = 64
FILL_SEED, SEED = bytes(range(32)), bytes(32)

Timer = Callable[[Callable[[], object]], float]


def measure_memory(
    backend: CudaMemoryBackend,
    device: torch.device,
    model: GpuModel | None,
    timer: Timer,
    *,
    seconds: int,
    repeat: int,
    blocks: int | None,
) -> None:
    """Print copy, fill, passes and check.

    Args:
        backend: Of the device, with nothing filled.
        device: Where it works.
        model: Its row of the table.
        timer: Takes the seconds of one step on the device, the median of some.
        seconds: How long the passes of one proof shall last.
        repeat: Counted proofs.
        blocks: How much is filled; None takes what a proof would.
    """
    copy = _copy_rate(device, timer, COPY_BYTES if blocks is None else blocks * BLOCK_BYTES)
    hashes = HASHES_UNKNOWN_CARD if model is None else hashes_for(model)
    params = MemoryParams(blocks or _fitting_blocks(device), hashes if blocks is None else 1, 1, openings=4)
    backend.fill(params, FILL_SEED)
    # Only now, as the first fill compiles and looks at the result.
    fill = _host_seconds(device, lambda: backend.refill(params, FILL_SEED))
    read = timer(lambda: backend.pass_tree(SEED, params.blocks))
    rate = params.memory_bytes / read
    print_line(f"\nmemory: {params.blocks} blocks, {params.memory_bytes / 1e9:.1f} GB, k = {params.hashes}")
    print_line(f"copy on the device: {copy / 1e9:.0f} GB/s read and written together")
    share = 100 * rate / copy
    print_line(
        f"pass: {read * 1e3:.3f} ms, {rate / 1e9:.0f} GB/s, {share:.1f} % of the copy (target {PASS_TARGET_PERCENT} %)"
    )
    assumed = "" if model is None else f"; {fill_ratio_ppm(model, params.hashes) / PPM:.1f} by the table"
    print_line(
        f"fill: {fill:.3f} s, {params.fill_hashes / fill / 1e9:.3f} GHash/s; fill over pass {fill / read:.1f} "
        f"(target {RATIO_TARGET}{assumed})"
    )
    passes = max(2, min(1024, int(seconds / read)))
    _print_proofs(backend, replace(params, passes=passes), repeat)


def _print_proofs(backend: CudaMemoryBackend, params: MemoryParams, repeat: int) -> None:
    """Prove as a miner does, and check as a validator does."""
    prover = MemoryProver(params, backend)
    prover.prepare(FILL_SEED)
    times, checks, openings_seconds = [], [], []
    for repetition in range(repeat):
        seed = bytes([repetition]) * 32
        started = time.perf_counter()
        work = prover.solve(seed)
        times.append(time.perf_counter() - started)
        positions = [
            BlockPosition(index * params.passes // params.openings, (index * 7919) % params.blocks)
            for index in range(params.openings)
        ]
        started = time.perf_counter()
        openings = work.open(positions)
        openings_seconds.append(time.perf_counter() - started)
        started = time.perf_counter()
        check_block_openings(params, FILL_SEED, seed, work.commitment, positions, openings)
        checks.append(time.perf_counter() - started)
    seconds = statistics.median(times)
    print_line(
        f"proof: {params.passes} passes in {seconds:.3f} s (of {repeat}), {params.operations / seconds / 1e9:.0f} GB/s"
    )
    print_line(
        f"opening {params.openings} blocks {statistics.median(openings_seconds):.4f} s, "
        f"check of them {statistics.median(checks):.4f} s"
    )


def _copy_rate(device: torch.device, timer: Timer, size: int) -> float:
    """Return the bytes per second that a copy within the device reads and writes together."""
    with using(device):
        source = torch.zeros(size, dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
        return 2 * size / timer(lambda: target.copy_(source))


def _fitting_blocks(device: torch.device) -> int:
    with using(device):
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info(device)
    return min(total * GPU_FILL_PPM, free * FREE_USED_PPM) // PPM // BLOCK_BYTES


def _host_seconds(device: torch.device, work: Callable[[], None]) -> float:
    started = time.perf_counter()
    with using(device):
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return time.perf_counter() - started
