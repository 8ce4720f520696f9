"""Work against check of the matmul proof and the proof of work, side by side in one run.

The work is done on all cores, the check on one thread.

Rules:
- The check runs in a process of its own whose BLAS has one thread, as a validator's does, and starts from the JSON text
  of commitment and openings: decoding counts.
- Both sides are warmed up by a proof that is not counted; each time is the median over the repetitions.
- The hash rates stand beside that of a bare loop over hashlib; rows take turns, so that a busy moment meets them all.
- Prints numbers and asserts nothing about them.

Run: .venv/bin/python -m benchmarks.proofs --max-n 8192
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from challenges import draw
from challenges.matmul import MatmulCommitment, MatmulParams, check_openings, openings_from_wire
from challenges.pow import PowCommitment, PowParams, check_shares
from challenges.pow_solver import NumpyPowBackend, PowBackend, ProcessPowBackend, solve_pow
from challenges.solver import MatmulBackend, NumpyBackend, open_backend, solve
from challenges.timing import fit_pow_params, pow_rate_lower_bound, rate_per_second

SIZES = (1024, 2048, 4096, 8192, 16384)
THREAD_SETTINGS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
NS_PER_SECOND = 1_000_000_000
LOOP_HASHES = 1 << 20
SCANS = 16
MATMUL_HEAD = """\
|     n | work s | Gop/s | verify s | work/verify | commitment B | openings B |
|------:|-------:|------:|---------:|------------:|-------------:|-----------:|"""


@dataclass(frozen=True, slots=True)
class Measurement:
    """Medians of one size."""

    n: int
    work_seconds: float
    verify_seconds: float
    commitment_bytes: int
    openings_bytes: int


def main() -> None:
    """Measure all sizes up to --max-n and the proof of work, and print a table of each."""
    options = _parse_options()
    backend = NumpyBackend() if options.backend == "numpy" else open_backend(options.device)
    print_line(f"command: python -m benchmarks.proofs {' '.join(sys.argv[1:])}")
    print_line(f"hardware: {cpu_model()}, {os.cpu_count()} cores; device {options.device}, {type(backend).__name__}")
    print_line(f"rounds {options.rounds}, openings {options.openings}, repetitions {options.repeat}; check: 1 thread")
    print_line(MATMUL_HEAD)
    with single_thread_process() as verifier:
        for n in (size for size in SIZES if size <= options.max_n):
            params = MatmulParams(n, options.rounds, openings=options.openings)
            print_row(params, measure_matmul(params, backend, verifier, options.repeat))
        _measure_pow(verifier, options.pow_seconds, options.repeat)


def verify(params: MatmulParams, seed: bytes, commitment_json: str, openings_json: str) -> int:
    """Check one answer from its JSON text, in the verifier's process, and return the nanoseconds it took."""
    started = time.perf_counter_ns()
    commitment = MatmulCommitment.from_wire(json.loads(commitment_json))
    openings = openings_from_wire(params, json.loads(openings_json))
    check_openings(params, seed, commitment, _positions(params, commitment_json), openings)
    return time.perf_counter_ns() - started


def verify_pow(params: PowParams, seed: bytes, commitment_json: str) -> int:
    """Do the same for a proof of work."""
    started = time.perf_counter_ns()
    check_shares(params, seed, PowCommitment.from_wire(json.loads(commitment_json)))
    return time.perf_counter_ns() - started


def measure_matmul(params: MatmulParams, backend: MatmulBackend, verifier: Executor, repeat: int) -> Measurement:
    """Return the medians of one size; the verifier is a `single_thread_process`."""
    backend.prepare(params)
    work_ns, verify_ns, sizes = [], [], (0, 0)
    # The first repetition warms both sides and is dropped.
    for repetition in range(repeat + 1):
        seed = hashlib.sha256(f"benchmark {params.n} {repetition}".encode()).digest()
        started = time.perf_counter_ns()
        work = solve(params, seed, backend)
        work_ns.append(time.perf_counter_ns() - started)
        commitment_json = json.dumps(work.commitment.to_wire(), separators=(",", ":"))
        opened = work.open(_positions(params, commitment_json))
        openings_json = json.dumps([opening.to_wire() for opening in opened], separators=(",", ":"))
        verify_ns.append(verifier.submit(verify, params, seed, commitment_json, openings_json).result())
        sizes = len(commitment_json), len(openings_json)
    return Measurement(
        params.n,
        statistics.median(work_ns[1:]) / NS_PER_SECOND,
        statistics.median(verify_ns[1:]) / NS_PER_SECOND,
        *sizes,
    )


def _measure_pow(verifier: Executor, target_seconds: int, repeat: int) -> None:
    cores = len(os.sched_getaffinity(0))
    backends = [NumpyPowBackend() for _ in range(cores)]
    with ProcessPowBackend(cores) as processes, ThreadPoolExecutor(cores) as threads:
        rows: dict[str, tuple[Callable[[], object], int]] = {
            "hashlib loop, 1 core": (_hash_loop, LOOP_HASHES),
            "numpy, 1 core": (lambda: _scan(backends[0], SCANS), SCANS),
            f"numpy, {cores} threads": (lambda: list(threads.map(_scan, backends, [SCANS] * cores)), cores * SCANS),
            f"numpy, {cores} processes": (lambda: _scan(processes, cores * SCANS), cores * SCANS),
        }
        rates: dict[str, list[float]] = {name: [] for name in rows}
        for _ in range(repeat + 1):
            for name, (work, count) in rows.items():
                hashes = count if work is _hash_loop else count * processes.scan_nonces
                started = time.perf_counter_ns()
                work()
                rates[name].append(hashes * NS_PER_SECOND / (time.perf_counter_ns() - started))
        medians = [statistics.median(values[1:]) for values in rates.values()]
        print_line("\n| hashes of the proof of work | MHash/s | x hashlib |")
        print_line("|:----------------------------|--------:|----------:|")
        for name, median in zip(rows, medians, strict=True):
            print_line(f"| {name:27} | {median / 1e6:7.2f} | {median / medians[0]:9.2f} |")
        _measure_pow_proofs(fit_pow_params(int(medians[-1]), target_seconds), processes, verifier, repeat)


def _measure_pow_proofs(params: PowParams, backend: PowBackend, verifier: Executor, repeat: int) -> None:
    work_ns, verify_ns, commitment_bytes = [], [], 0
    for repetition in range(repeat + 1):
        seed = hashlib.sha256(f"benchmark pow {repetition}".encode()).digest()
        started = time.perf_counter_ns()
        work = solve_pow(params, seed, backend)
        work_ns.append(time.perf_counter_ns() - started)
        text = json.dumps(work.commitment.to_wire(), separators=(",", ":"))
        verify_ns.append(verifier.submit(verify_pow, params, seed, text).result())
        commitment_bytes = len(text)
    time_ns, check_ns = int(statistics.median(work_ns[1:])), statistics.median(verify_ns[1:])
    print_line("\n| shares | difficulty | work s | MHash/s | lower bound | verify s | work/verify | commitment B |")
    print_line("|-------:|-----------:|-------:|--------:|------------:|---------:|------------:|-------------:|")
    print_line(
        f"| {params.shares:6} | {params.difficulty:10} | {time_ns / 1e9:6.3f} "
        f"| {rate_per_second(params.operations, time_ns) / 1e6:7.2f} "
        f"| {pow_rate_lower_bound(params, time_ns) / 1e6:11.2f} | {check_ns / 1e9:8.5f} "
        f"| {time_ns / check_ns:11.0f} | {commitment_bytes:12} |"
    )


def _hash_loop() -> None:
    prefix = bytes(44)
    for nonce in range(LOOP_HASHES):
        hashlib.sha256(prefix + nonce.to_bytes(8, "big")).digest()


def _scan(backend: PowBackend, count: int) -> None:
    """Scan that many stretches, none of which has a share."""
    for wait in [backend.start_scan(bytes(44), 0, index * backend.scan_nonces) for index in range(count)]:
        wait()


def _positions(params: MatmulParams, commitment_json: str) -> tuple[tuple[int, ...], ...]:
    return draw.draw_positions(
        bytes(draw.KEY_BYTES),
        "benchmark",
        draw.ChallengeKind.MATMUL,
        commitment_json.encode(),
        bounds=params.bounds,
        count=params.openings,
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


def print_row(params: MatmulParams, measured: Measurement) -> None:
    """Print one row below `MATMUL_HEAD`."""
    rate = params.operations / measured.work_seconds / 1e9
    ratio = measured.work_seconds / measured.verify_seconds
    print_line(
        f"| {params.n:5} | {measured.work_seconds:6.3f} | {rate:5.0f} | {measured.verify_seconds:8.4f} | {ratio:11.0f} "
        f"| {measured.commitment_bytes:12} | {measured.openings_bytes:10} |"
    )


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


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Work against check of the proofs, side by side.")
    parser.add_argument("--max-n", type=int, default=2048, help="largest matrix size measured, up to 16384 (2048)")
    parser.add_argument("--rounds", type=int, default=5, help="chained rounds per proof (5)")
    parser.add_argument("--openings", type=int, default=32, help="tiles recomputed by the check (32)")
    parser.add_argument("--repeat", type=int, default=3, help="counted repetitions of each size (3)")
    parser.add_argument("--pow-seconds", type=int, default=2, help="target duration of a proof of work (2)")
    parser.add_argument("--device", default="cpu", help="'cpu' or 'cuda:N' for the work (cpu)")
    parser.add_argument("--backend", choices=("auto", "numpy"), default="auto", help="torch if installed, or numpy")
    return parser.parse_args()


if __name__ == "__main__":
    main()
