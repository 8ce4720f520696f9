"""Hash rates and the proof of work: work against check, side by side in one run.

The work is done on all cores, the check on one thread.

Rules:
- The check runs as in `benchmarks.proofs`: in a process of its own, from the JSON text on.
- The hash rates stand beside that of a bare loop over hashlib; rows take turns, so that a busy moment meets them all.
- Both sides are warmed up by a repetition that is not counted; each number is the median over the others.
- Prints numbers and asserts nothing about them.

Run: .venv/bin/python -m benchmarks.hashes
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor

from benchmarks.proofs import NS_PER_SECOND, cpu_model, print_line, single_thread_process
from challenges.pow import PowCommitment, PowParams, check_shares
from challenges.pow_solver import NumpyPowBackend, PowBackend, ProcessPowBackend, solve_pow
from challenges.timing import fit_pow_params, pow_rate_lower_bound, rate_per_second

LOOP_HASHES = 1 << 20
SCANS = 16


def main() -> None:
    """Measure the hash rates, then proofs of work, and print a table of each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=int, default=2, help="target duration of a proof of work (2)")
    parser.add_argument("--repeat", type=int, default=3, help="counted repetitions (3)")
    options = parser.parse_args()
    print_line(f"command: python -m benchmarks.hashes {' '.join(sys.argv[1:])}")
    print_line(f"hardware: {cpu_model()}, {os.cpu_count()} cores; repetitions {options.repeat}; check: 1 thread")
    with single_thread_process() as verifier:
        _measure_pow(verifier, options.seconds, options.repeat)


def verify_pow(params: PowParams, seed: bytes, commitment_json: str) -> int:
    """Check one proof of work from its JSON text, in the verifier's process, and return the nanoseconds it took."""
    started = time.perf_counter_ns()
    check_shares(params, seed, PowCommitment.from_wire(json.loads(commitment_json)))
    return time.perf_counter_ns() - started


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


if __name__ == "__main__":
    main()
