"""The memory proof on this CPU: work against check, making against reading, and what missing memory costs beside the formula.

Rules:
- Tables of one run. Work is all passes on every core; the check runs on one thread in a process of its own, from the
  JSON text on. Making (fill) and reading (pass) are measured on one core, in processor time, taking turns.
- rho is fill time over pass time of *our* numpy code. What a miner with compiled code has is another number, measured in the
  last table by a cheat in C that this machine's compiler builds (`memory_cheat.c`); its answers are right, bit for bit.
  What it could lack unseen follows from what our own numpy would have claimed on the same core, and 0.6 of that.
- Missing memory is made anew for real, by the cheat of `tests/adversaries/partial_memory.py`. On a CPU core making and reading come
  one after the other, 1 + f·rho; where they hide behind each other it is max(1, f·rho), which is the formula of the proof.
- One table has all three proofs of one device on one core, from the JSON text on: what a validator pays for a device.
- `--cards` prints k and the ratio of every card of the table instead, by formula: no GPU is measured.
- Prints numbers and asserts nothing about them.

Run: .venv/bin/python -m benchmarks.memory
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

from benchmarks._compiled_cheat import CompiledCheat
from benchmarks.proofs import NS_PER_SECOND, cpu_model, print_line, single_thread_process
from challenges import draw
from challenges.draw import ChallengeKind
from challenges.hardware import PPM, HardwareTable
from challenges.matmul import MatmulCommitment, MatmulParams
from challenges.memory import MemoryCommitment, MemoryParams, block_openings_from_wire, check_block_openings
from challenges.memory_backends import NumpyMemoryBackend, open_memory_backend
from challenges.memory_fit import (
    FASTER_KERNEL_PPM,
    HASHES_UNKNOWN_CARD,
    fill_ratio_ppm,
    fit_cpu_memory_params,
    fit_gpu_memory_params,
    hashes_for,
    unit_bytes_hashed_per_second,
)
from challenges.memory_messages import CHECK_HASHES_MAX, UNIT_BYTES, UNITS_PER_BLOCK
from challenges.memory_solver import MemoryBackend, solve_memory
from challenges.pow import PowCommitment, PowParams
from challenges.proofs import ProofParams, kind_of, open_prover
from challenges.timing import CLAIM_FLOOR_PPM
from neurons.miner.hardware import CPU_CLAIM_PERCENT
from neurons.validator.proof_trace import ProofCommitment
from neurons.validator.verification import check_answer
from tests.adversaries.partial_memory import PartBackend

HASHES = (1, 2, 4, 8)
SHARES = (0.02, 0.05, 0.1, 0.25, 0.5)
PASSES_PER_TURN = 3


def main() -> None:
    """Measure, or print the table of cards."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cards", action="store_true", help="print k and ratio of every known card, by formula")
    parser.add_argument("--seconds", type=int, default=3, help="target duration of the passes (3)")
    parser.add_argument("--blocks", type=int, default=512, help="64 KiB blocks of the second and third table (512)")
    parser.add_argument("--repeat", type=int, default=3, help="counted repetitions (3)")
    options = parser.parse_args()
    print_line(f"command: python -m benchmarks.memory {' '.join(sys.argv[1:])}")
    if options.cards:
        _print_cards()
        return
    print_line(f"hardware: {cpu_model()}, {os.cpu_count()} cores; repetitions {options.repeat}; no GPU")
    with single_thread_process() as verifier:
        _measure_proof(verifier, options.seconds, options.repeat)
        _measure_device(verifier, options.repeat)
    rho, pass_seconds = _measure_ratios(options.blocks, options.repeat)
    _measure_partial(rho, options.blocks, options.repeat)
    _measure_compiled(pass_seconds, options.blocks, options.repeat)


def verify_memory(params: MemoryParams, seeds: tuple[bytes, bytes], commitment: str, openings: str) -> tuple[int, int]:
    """Check one proof from its JSON texts in the verifier's process; return the time and processor time it took, in ns."""
    started, cpu_started = time.perf_counter_ns(), time.process_time_ns()
    decoded = MemoryCommitment.from_wire(json.loads(commitment))
    positions = _positions(params, commitment)
    check_block_openings(params, *seeds, decoded, positions, block_openings_from_wire(params, json.loads(openings)))
    return time.perf_counter_ns() - started, time.process_time_ns() - cpu_started


def _measure_proof(verifier: Executor, target_seconds: int, repeat: int) -> None:
    """Do proofs of the size a CPU would be asked for, on all cores."""
    backend = open_memory_backend("cpu")
    print_line(
        "\n| k | passes | fill s | work s | GB/s | verify s | in CPU time | work/verify | commitment B | openings B |"
    )
    print_line(
        "|--:|-------:|-------:|-------:|-----:|---------:|------------:|------------:|-------------:|-----------:|"
    )
    probe = fit_cpu_memory_params(1, 1)
    rate = int(probe.operations / _Proof(probe, backend, verifier, 0).work_seconds)
    passes = fit_cpu_memory_params(rate, target_seconds).passes
    for hashes in HASHES:
        params = MemoryParams(probe.blocks, hashes, passes)
        runs = [_Proof(params, backend, verifier, repetition) for repetition in range(repeat)]
        fill, work, check, check_cpu = (
            statistics.median(values)
            for values in zip(
                *((r.fill_seconds, r.work_seconds, r.check_seconds, r.check_cpu) for r in runs), strict=True
            )
        )
        print_line(
            f"| {hashes} | {passes:6} | {fill:6.2f} | {work:6.2f} | {params.operations / work / 1e9:4.1f} | {check:8.4f} "
            f"| {check_cpu:11.4f} | {work / check:11.1f} | {runs[0].commitment_bytes:12} | {runs[0].openings_bytes:10} |"
        )


class _Proof:
    """One proof on all cores, and its check."""

    def __init__(self, params: MemoryParams, backend: MemoryBackend, verifier: Executor, number: int) -> None:
        seeds = (_seed(f"fill {number}"), _seed(f"start {number}"))
        self.fill_seconds = _seconds(lambda: backend.fill(params, seeds[0]))
        started = time.perf_counter_ns()
        work = solve_memory(params, *seeds, backend)
        self.work_seconds = (time.perf_counter_ns() - started) / NS_PER_SECOND
        commitment = json.dumps(work.commitment.to_wire(), separators=(",", ":"))
        openings = work.open(_positions(params, commitment))
        text = json.dumps([opening.to_wire() for opening in openings], separators=(",", ":"))
        times = verifier.submit(verify_memory, params, seeds, commitment, text).result()
        self.check_seconds, self.check_cpu = (nanoseconds / NS_PER_SECOND for nanoseconds in times)
        self.commitment_bytes, self.openings_bytes = len(commitment), len(text)


def verify_all(answers: Sequence[_Answer]) -> tuple[int, int]:
    """Check all proofs of one device from their JSON texts; return the time and processor time it took, in ns."""
    started, cpu_started = time.perf_counter_ns(), time.process_time_ns()
    for answer in answers:
        commitment = _decoded(answer.params, json.loads(answer.commitment))
        openings = json.loads(answer.openings) if answer.openings else None
        positions = _positions_of(answer.params, answer.commitment)
        checked = check_answer(answer.params, answer.seed, commitment, positions, openings, answer.fill_seed)
        if checked.reason is not None:
            raise RuntimeError(f"an honest {type(answer.params).__name__} was rejected: {checked.reason}")
    return time.perf_counter_ns() - started, time.process_time_ns() - cpu_started


def _measure_device(verifier: Executor, repeat: int) -> None:
    """Print what the checks of one device cost, by the k of its memory: this CPU, an H200, the dearest card."""
    print_line(
        "\nAll three proofs of one device, one core: 2,000 shares, n = 1024 with 32 tiles, 32 blocks (fewer at k = 66)"
    )
    print_line("| k | blocks opened | verify s | in CPU time |")
    print_line("|--:|--------------:|---------:|------------:|")
    shares, tiles = PowParams(shares=2000, difficulty=256), MatmulParams(n=1024, rounds=8)
    others = [_answer_of(shares), _answer_of(tiles)]
    for hashes in (8, 9, HASHES_UNKNOWN_CARD):
        openings = min(32, CHECK_HASHES_MAX // (UNITS_PER_BLOCK * hashes))
        memory = _answer_of(MemoryParams(blocks=64, hashes=hashes, passes=4, openings=openings))
        runs = [verifier.submit(verify_all, [*others, memory]).result() for _ in range(repeat + 1)][1:]
        clock, cpu = (statistics.median(values) / NS_PER_SECOND for values in zip(*runs, strict=True))
        print_line(f"| {hashes} | {openings:13} | {clock:8.3f} | {cpu:11.3f} |")


@dataclass(frozen=True, slots=True)
class _Answer:
    """One proof as it came, in JSON."""

    params: ProofParams
    seed: bytes
    fill_seed: bytes
    commitment: str
    openings: str


def _answer_of(params: ProofParams) -> _Answer:
    seed, fill_seed = _seed("start"), _seed("fill") if isinstance(params, MemoryParams) else b""
    prover = open_prover(params, "cpu")
    prover.prepare(fill_seed)
    work = prover.solve(seed)
    commitment = json.dumps(work.commitment.to_wire(), separators=(",", ":"))
    opened = [opening.to_wire() for opening in work.open(_positions_of(params, commitment))]
    return _Answer(params, seed, fill_seed, commitment, json.dumps(opened) if opened else "")


def _decoded(params: ProofParams, value: object) -> ProofCommitment:
    match params:
        case PowParams():
            return PowCommitment.from_wire(value)
        case MatmulParams():
            return MatmulCommitment.from_wire(value)
        case MemoryParams():
            return MemoryCommitment.from_wire(value)


def _positions_of(params: ProofParams, commitment: str) -> tuple[tuple[int, ...], ...]:
    if isinstance(params, PowParams):
        return ()
    kind = kind_of(params)
    return draw.draw_positions(bytes(32), "cpu", kind, commitment.encode(), bounds=params.bounds, count=params.openings)


def _measure_ratios(blocks: int, repeat: int) -> tuple[float, float]:
    """Print rho for each k on one core; return that of the last, and its seconds per pass."""
    backend, rho, read = NumpyMemoryBackend(), 0.0, 0.0
    print_line("\n| k | MiB | fill s | MHash/s | pass ms | GB/s | rho, our code |")
    print_line("|--:|----:|-------:|--------:|--------:|-----:|--------------:|")
    for hashes in HASHES:
        params = MemoryParams(blocks, hashes, PASSES_PER_TURN)
        fills, reads = [], []
        for repetition in range(repeat + 1):
            fill_seed = _seed(f"fill {repetition}")
            fills.append(_cpu_seconds(functools.partial(backend.fill, params, fill_seed)))
            reads.append(_pass_seconds(params, fill_seed, backend))
        fill, read = statistics.median(fills[1:]), statistics.median(reads[1:])
        rho = fill / read
        print_line(
            f"| {hashes} | {params.memory_bytes >> 20:3} | {fill:6.2f} | {params.fill_hashes / fill / 1e6:7.2f} "
            f"| {1000 * read:7.2f} | {params.memory_bytes / read / 1e9:4.1f} | {rho:13.1f} |"
        )
    return rho, read


def _measure_partial(rho: float, blocks: int, repeat: int) -> None:
    """Print what a pass takes with a part of the memory, over a pass with all of it, one core, taking turns."""
    params, fill_seed = MemoryParams(blocks, HASHES[-1], PASSES_PER_TURN), _seed("fill")
    whole, parts = NumpyMemoryBackend(), {share: PartBackend(share) for share in SHARES}
    whole.fill(params, fill_seed)
    for part in parts.values():
        part.fill(params, fill_seed)
    times: dict[float, list[float]] = {share: [] for share in (0.0, *SHARES)}
    for _ in range(repeat):
        times[0.0].append(_pass_seconds(params, fill_seed, whole))
        for share, part in parts.items():
            times[share].append(_pass_seconds(params, fill_seed, part))
    full = statistics.median(times[0.0])
    print_line(f"\nMissing memory, k = {params.hashes}, rho = {rho:.0f}, one core")
    print_line("| missing | pass ms | slow-down | 1 + f·rho | measured / that | max(1, f·rho) | measured / that |")
    print_line("|--------:|--------:|----------:|----------:|----------------:|--------------:|----------------:|")
    for share in SHARES:
        f = round(share * blocks) / blocks
        slower, one_by_one, hidden = statistics.median(times[share]) / full, 1 + f * rho, max(1.0, f * rho)
        print_line(
            f"| {share:6.0%}  | {1000 * slower * full:7.1f} | {slower:9.1f} | {one_by_one:9.1f} "
            f"| {slower / one_by_one:15.2f} | {hidden:13.1f} | {slower / hidden:15.2f} |"
        )


def _measure_compiled(numpy_pass_seconds: float, blocks: int, repeat: int) -> None:
    """Print what a cheat in compiled code pays for missing memory, and what it could lack beside our own code's claim."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            cheat = CompiledCheat(Path(folder))
        except RuntimeError as err:
            print_line(f"\nno compiled cheat: {err}")
            return
        params, fill_seed = MemoryParams(blocks, HASHES[-1], 1), _seed("fill")
        fill = statistics.median(cheat.fill(params, fill_seed, blocks) for _ in range(repeat))
        full = statistics.median(cheat.digests(_seed(f"pass {index}"))[1] for index in range(3 * repeat))
        rho = fill / full
        print_line(
            f"\nCompiled cheat, k = {params.hashes}, one core: {params.fill_hashes / fill / 1e6:.0f} MHash/s, reads "
            f"{params.memory_bytes / full / 1e9:.1f} GB/s, rho = {rho:.1f}"
        )
        print_line("| missing | pass ms | slow-down | 1 + f·rho | measured / that | of our code's claim | verdict |")
        print_line("|--------:|--------:|----------:|----------:|----------------:|--------------------:|:--------|")
        for share in (*SHARES, 1.0):
            held = blocks - round(share * blocks)
            cheat.fill(params, fill_seed, held)
            took = statistics.median(cheat.digests(_seed(f"pass {index}"))[1] for index in range(repeat))
            predicted = 1 + (blocks - held) / blocks * rho
            of_claim = numpy_pass_seconds / took * 100 / CPU_CLAIM_PERCENT
            verdict = "passes" if of_claim >= CLAIM_FLOOR_PPM / PPM else "CLAIM_NOT_MET"
            print_line(
                f"| {share:6.0%}  | {1000 * took:7.1f} | {took / full:9.1f} | {predicted:9.1f} | {took / full / predicted:15.2f} "
                f"| {of_claim:19.2f} | {verdict} |"
            )


def _print_cards() -> None:
    """Print what the rule gives for each card; rates are vendors' figures and counted instructions."""
    print_line("ratios by formula; no GPU was measured")
    print_line("| card | k | rho | with a faster kernel | GB | fill s | pass ms | passes | check hashes |")
    print_line("|:-----|--:|----:|---------------------:|---:|-------:|--------:|-------:|-------------:|")
    for model in HardwareTable.load().models.values():
        params = fit_gpu_memory_params(model, model.memory_bytes, model.memory_rate_expected, 5)
        fill = params.fill_hashes * UNIT_BYTES / unit_bytes_hashed_per_second(model)
        print_line(
            f"| {model.nvml_name} | {hashes_for(model)} | {fill_ratio_ppm(model, params.hashes) / PPM:.1f} "
            f"| {fill_ratio_ppm(model, params.hashes, kernel_ppm=FASTER_KERNEL_PPM) / PPM:.1f} "
            f"| {params.memory_bytes / 1e9:.1f} | {fill:.1f} | {1000 * params.memory_bytes / model.memory_rate_expected:.1f} "
            f"| {params.passes} | {params.check_hashes} |"
        )


def _pass_seconds(params: MemoryParams, fill_seed: bytes, backend: MemoryBackend) -> float:
    """Return the processor time of one pass, the mean of some."""
    return _cpu_seconds(lambda: solve_memory(params, fill_seed, _seed("start"), backend)) / params.passes


def _positions(params: MemoryParams, commitment: str) -> tuple[tuple[int, ...], ...]:
    return draw.draw_positions(
        bytes(32), "cpu", ChallengeKind.MEMORY, commitment.encode(), bounds=params.bounds, count=params.openings
    )


def _seed(name: str) -> bytes:
    return hashlib.sha256(f"benchmark memory {name}".encode()).digest()


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter_ns()
    work()
    return (time.perf_counter_ns() - started) / NS_PER_SECOND


def _cpu_seconds(work: Callable[[], object]) -> float:
    started = time.process_time_ns()
    work()
    return (time.process_time_ns() - started) / NS_PER_SECOND


if __name__ == "__main__":
    main()
