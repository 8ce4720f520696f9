"""Work against check of the matmul proof, side by side in one run: seconds, processor time, their ratios, bytes sent.

The work is done on all cores or one GPU, the check on one thread of the same machine.

Rules:
- The check runs in a process of its own whose BLAS has one thread, as a validator's does, and starts from the JSON text
  of commitment and openings: decoding counts. OPENBLAS_* settings reach it; those that are set are printed.
- Work and check take turns, the check several times after each work; each time is the median. Both sides are warmed up
  by a small proof that is not counted.
- The clock compares a miner on all its cores with a validator on one, so that it depends on their number; processor
  time does not, and suffers less from whatever else runs. On a GPU processor time is the host's alone and says nothing.
- Work grows with the rounds and the check hardly does, so that any ratio can be had by more rounds. Each row therefore
  says how many rounds make the work 1,000 times the check, and rows "fit" have the sizes of a real proof: those that
  `timing.fit_params` gives for --claim, or the rate just measured, and the seconds asked for. At n = 8192 it never
  gives fewer than 8 rounds.
- A work of n = 16384 takes minutes on a CPU. Its check is measured on openings whose tiles alone were computed.
- Prints numbers and asserts nothing about them.

Tile 32 makes the check of n <= 8192 twice as cheap, the work 1 % dearer, and catches the same: a skipped fraction is found
by the number of openings, whatever their size. Its price is the leaf: n = 8192 sends 100 kB instead of 55 kB, and the
miner keeps 512 KiB a round instead of 128. `fit_params` takes it up to n = 8192 and 64 beyond, where 32 would send 188 kB.

Run: .venv/bin/python -m benchmarks.proofs --max-n 8192 --seconds 3 60
"""

from __future__ import annotations

import argparse
import hashlib
import math
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks._matmul_answers import answer_of, sketch, verify
from challenges.matmul import MatmulParams
from challenges.solver import MatmulBackend, NumpyBackend, open_backend, solve
from challenges.timing import fit_params, tile_for

SIZES = (1024, 2048, 4096, 8192, 16384)
TARGET_RATIO = 1000
CHECKS_PER_WORK = 5
CHECKS_ALONE = 15
THREAD_SETTINGS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
NS_PER_SECOND = 1_000_000_000
# Dense bf16 of an H200, about what it reaches; the rate for which proofs of n = 16384 are made.
GPU_OPERATIONS_PER_SECOND = 790 * 10**12
MATMUL_HEAD = """\
| proof  |     n | tile | rounds | work s | cores | Gop/s | verify s | work/verify | rounds for 1,000 | in CPU time | rounds | commitment B | openings B |
|:-------|------:|-----:|-------:|-------:|------:|------:|---------:|------------:|-----------------:|------------:|-------:|-------------:|-----------:|"""
CHECK_HEAD = """\
|     n | tile | rounds | verify s | CPU s    | ms a tile | commitment B | openings B |
|------:|-----:|-------:|---------:|---------:|----------:|-------------:|-----------:|"""


@dataclass(frozen=True, slots=True)
class Measurement:
    """Medians of one proof; processor time is that of all threads together."""

    params: MatmulParams
    work_seconds: float
    work_cpu_seconds: float
    verify_seconds: float
    verify_cpu_seconds: float
    commitment_bytes: int
    openings_bytes: int

    @property
    def ratio(self) -> float:
        """Time of the work over time of the check."""
        return self.work_seconds / self.verify_seconds

    @property
    def cpu_ratio(self) -> float:
        """The same in processor time."""
        return self.work_cpu_seconds / self.verify_cpu_seconds

    @property
    def cores(self) -> float:
        """How many cores the work had on average; fewer than there are where the machine was busy."""
        return self.work_cpu_seconds / self.work_seconds

    def rounds_for_target(self, ratio: float) -> int:
        """Return the fewest rounds that reach 1,000, where these rounds have that ratio; the check is taken as constant."""
        return math.ceil(TARGET_RATIO * self.params.rounds / ratio)


def main() -> None:
    """Measure all sizes up to --max-n, the proofs that would be asked for, and the check alone at n = 16384."""
    options = _parse_options()
    backend = NumpyBackend() if options.backend == "numpy" else open_backend(options.device)
    print_line(f"command: python -m benchmarks.proofs {' '.join(sys.argv[1:])}")
    print_line(f"hardware: {cpu_model()}, {os.cpu_count()} cores; device {options.device}, {type(backend).__name__}")
    set_names = ", ".join(f"{name}={value}" for name, value in os.environ.items() if name.startswith("OPENBLAS_"))
    print_line(
        f"openings {options.openings}, repetitions {options.repeat}; check: 1 thread; {set_names or 'plain BLAS'}"
    )
    print_line(MATMUL_HEAD)
    with single_thread_process() as verifier:
        rows = _measure_rows(options, backend, verifier)
        print_line(_verdict(rows))
        print_line(f"\nThe check alone; the work of these proofs is a GPU's\n{CHECK_HEAD}")
        largest = fit_params(GPU_OPERATIONS_PER_SECOND, options.seconds[0])
        for tile in options.tile:
            for rounds in (options.rounds, largest.rounds):
                _print_check(MatmulParams(largest.n, rounds, tile or tile_for(largest.n), options.openings), verifier)


def measure_matmul(params: MatmulParams, backend: MatmulBackend, verifier: Executor, repeat: int) -> Measurement:
    """Return the medians of one proof; the verifier is a `single_thread_process`."""
    backend.prepare(params)
    verifier.submit(verify, sketch(MatmulParams(params.n, 1, params.tile, openings=1))).result()
    works, checks, answer = [], [], None
    for repetition in range(repeat):
        seed = hashlib.sha256(f"benchmark {params} {repetition}".encode()).digest()
        started, cpu_started = time.perf_counter_ns(), time.process_time_ns()
        work = solve(params, seed, backend)
        works.append((time.perf_counter_ns() - started, time.process_time_ns() - cpu_started))
        answer = answer_of(work, seed)
        checks += [verifier.submit(verify, answer).result() for _ in range(CHECKS_PER_WORK)]
    if answer is None:
        raise ValueError(f"repeat is {repeat}, expected >= 1")
    return Measurement(
        params,
        *_median_seconds(works),
        *_median_seconds(checks),
        len(answer.commitment),
        len(answer.openings),
    )


def print_row(name: str, measured: Measurement) -> None:
    """Print one row below `MATMUL_HEAD`."""
    params = measured.params
    rate = params.operations / measured.work_seconds / 1e9
    print_line(
        f"| {name:6} | {params.n:5} | {params.tile:4} | {params.rounds:6} | {measured.work_seconds:6.2f} | {measured.cores:5.1f} "
        f"| {rate:5.0f} | {measured.verify_seconds:8.4f} | {measured.ratio:11,.0f} | {measured.rounds_for_target(measured.ratio):16} "
        f"| {measured.cpu_ratio:11,.0f} | {measured.rounds_for_target(measured.cpu_ratio):6} | {measured.commitment_bytes:12} | {measured.openings_bytes:10} |"
    )


@contextmanager
def single_thread_process() -> Iterator[Executor]:
    """Start the verifier with one BLAS thread; numpy reads the setting at import, so that it must be spawned."""
    before = {name: os.environ.get(name) for name in THREAD_SETTINGS}
    os.environ.update(dict.fromkeys(THREAD_SETTINGS, "1"))
    with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as executor:
        executor.submit(os.getpid).result()
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        yield executor


def print_line(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def cpu_model() -> str:
    """Return the processor's name."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown CPU"


def _measure_rows(options: argparse.Namespace, backend: MatmulBackend, verifier: Executor) -> list[Measurement]:
    """Measure and print: every size with --rounds, then what would be asked of a device of the last one's rate."""
    rows: list[Measurement] = []

    def add(name: str, params: MatmulParams) -> None:
        rows.append(measure_matmul(params, backend, verifier, options.repeat))
        print_row(name, rows[-1])

    for n in (size for size in SIZES if size <= options.max_n):
        for tile in options.tile:
            add("sizes", MatmulParams(n, options.rounds, tile or tile_for(n), options.openings))
    rate = options.claim * 10**9 or int(rows[-1].params.operations / rows[-1].work_seconds)
    for seconds in options.seconds:
        for tile in options.tile:
            add(f"fit {seconds}", fit_params(rate, seconds, tile=tile, openings=options.openings))
    return rows


def _verdict(rows: Sequence[Measurement]) -> str:
    """Say which rows reach the target, and by which time."""

    def names(found: Iterator[Measurement]) -> str:
        return "; ".join(f"n = {row.params.n}, {row.params.rounds} rounds, tile {row.params.tile}" for row in found)

    by_clock = names(row for row in rows if row.ratio >= TARGET_RATIO)
    by_cpu_time = names(row for row in rows if row.cpu_ratio >= TARGET_RATIO)
    return (
        f"work/verify >= {TARGET_RATIO:,} by the clock: {by_clock or 'no row'}\n"
        f"work/verify >= {TARGET_RATIO:,} in processor time: {by_cpu_time or 'no row'}\n"
        "Where the work had fewer cores than there are, the machine was busy, and the clock says little."
    )


def _print_check(params: MatmulParams, verifier: Executor) -> None:
    answer = sketch(params)
    # The first one fills the caches and is dropped.
    checks = [verifier.submit(verify, answer).result() for _ in range(CHECKS_ALONE + 1)][1:]
    seconds, cpu_seconds = _median_seconds(checks)
    print_line(
        f"| {params.n:5} | {params.tile:4} | {params.rounds:6} | {seconds:8.4f} | {cpu_seconds:8.4f} "
        f"| {1000 * seconds / params.openings:9.2f} | {len(answer.commitment):12} | {len(answer.openings):10} |"
    )


def _median_seconds(times_ns: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """Return the median time and the median processor time."""
    clock_ns, cpu_ns = zip(*times_ns, strict=True)
    return statistics.median(clock_ns) / NS_PER_SECOND, statistics.median(cpu_ns) / NS_PER_SECOND


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Work against check of the matmul proof, side by side.")
    parser.add_argument("--max-n", type=int, default=2048, help="largest matrix size of the work, up to 16384 (2048)")
    parser.add_argument("--rounds", type=int, default=5, help="chained rounds of the rows by size (5)")
    parser.add_argument("--seconds", type=int, nargs="+", default=[3], help="durations to fit real proofs to (3)")
    parser.add_argument("--claim", type=int, default=0, help="rate to fit them to, in Gop/s (0: the rate measured)")
    parser.add_argument("--tile", type=int, nargs="+", default=[None], help="sides of the tiles (as a validator asks)")
    parser.add_argument("--openings", type=int, default=32, help="tiles recomputed by the check (32)")
    parser.add_argument("--repeat", type=int, default=3, help="works per row (3)")
    parser.add_argument("--device", default="cpu", help="'cpu' or 'cuda:N' for the work (cpu)")
    parser.add_argument("--backend", choices=("auto", "numpy"), default="auto", help="torch if installed, or numpy")
    return parser.parse_args()


if __name__ == "__main__":
    main()
