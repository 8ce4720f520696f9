"""Hashes of our proof of work beside hashcat's SHA-256 (mode 1400) on the same processor, in turns, in one run.

Rules:
- Ours is the proof itself, solved as a miner's solver does on all cores: with numpy, and with the compiled scan where this
  machine can make one. Its rate is the nonces it looked at over the time it took; starting is not counted, as validators
  do not count it.
- hashcat's is what its benchmark mode prints (`-b -m 1400 --opencl-device-types 1`): on processors only, with its
  optimized kernel, its own choice of sizes, starting not counted either.
- Rows take turns, and begin with another one each time, so that a busy moment meets them all. Medians, with the smallest
  and the largest; ratios are of medians.
- The two do not do quite the same. Both hash one block per candidate and compare early; hashcat makes its candidates from
  a mask and compares with one digest, we count a nonce up and compare with a bound.
- Without hashcat it says what to install and ends with status 2. Prints numbers and asserts nothing about them.

Run: .venv/bin/python -m benchmarks.hashcat --repeat 5
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.proofs import NS_PER_SECOND, cpu_model, print_line
from challenges.pow import check_shares
from challenges.pow_messages import PowParams
from challenges.pow_native import NativeUnavailable
from challenges.pow_solver import PowBackend, open_pow_backend, solve_pow
from challenges.timing import fit_pow_params
from neurons.miner.pow_library import ensure_library

PROGRAM = "hashcat"
OPTIONS = ("-b", "-m", "1400", "--opencl-device-types", "1", "--machine-readable")
# Device, mode, two clocks, milliseconds, hashes per second.
SPEED_LINE = re.compile(r"^\d+:1400:\d+:\d+:[\d.]+:(\d+)$", re.MULTILINE)
PACKAGES = "on Debian: apt-get install hashcat pocl-opencl-icd ocl-icd-libopencl1"
SECONDS_MAX = 600
PROBE = PowParams(shares=2000, difficulty=2000)


class HashcatMissing(Exception):
    """hashcat is not there, or has no OpenCL device to run on."""


def main() -> int:
    """Measure all rows in turns and print them.

    Returns:
        0, or 2 without hashcat.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=int, default=5, help="target duration of each of our proofs (5)")
    parser.add_argument("--repeat", type=int, default=5, help="repetitions (5)")
    options = parser.parse_args()
    try:
        program = _program()
        print_line(f"command: python -m benchmarks.hashcat {' '.join(sys.argv[1:])}")
        print_line(
            f"hardware: {cpu_model()}, {len(os.sched_getaffinity(0))} cores; load before {os.getloadavg()[0]:.1f}; "
            f"repetitions {options.repeat}"
        )
        print_line(f"hashcat: {_said([program, '--version'])[0].strip()}, {' '.join((PROGRAM, *OPTIONS))}")
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
            rows = {"hashcat -m 1400": lambda: _hashcat_rate(program)}
            for name, library in _libraries(Path(folder)):
                rows[name] = _proof_row(stack, library, options.seconds)
            _print_table(_measure(rows, options.repeat))
    except HashcatMissing as err:
        sys.stderr.write(f"{err}\n")
        return 2
    print_line(f"load after {os.getloadavg()[0]:.1f}")
    return 0


def parse_speed(output: str) -> int | None:
    """Return the hashes per second of all devices of hashcat's machine-readable output, None where it has no such line."""
    speeds = [int(speed) for speed in SPEED_LINE.findall(output)]
    return sum(speeds) if speeds else None


def _program() -> str:
    program = shutil.which(PROGRAM)
    if program is None:
        raise HashcatMissing(f"{PROGRAM} is not installed; {PACKAGES}")
    return program


def _said(command: list[str]) -> tuple[str, str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_MAX, check=False)
    return done.stdout, done.stderr


def _hashcat_rate(program: str) -> float:
    output, errors = _said([program, *OPTIONS])
    speed = parse_speed(output)
    if speed is None:
        lines = [line for line in (output + errors).splitlines() if line.strip() and not line.startswith("#")]
        raise HashcatMissing(f"{PROGRAM} measured nothing: {' '.join(lines[:2])}; {PACKAGES}")
    return float(speed)


def _libraries(folder: Path) -> Iterator[tuple[str, Path | None]]:
    """Yield the ways in which a miner's solver hashes here."""
    yield "proof of work, numpy", None
    try:
        yield "proof of work, compiled", ensure_library(folder / "native")
    except NativeUnavailable as err:
        print_line(f"no compiled scan: {err}")


def _proof_row(stack: contextlib.ExitStack, library: Path | None, seconds: int) -> Callable[[], float]:
    backend = open_pow_backend("cpu", library)
    if isinstance(backend, contextlib.AbstractContextManager):
        stack.enter_context(backend)
    # Twice: what lasts milliseconds says little of what lasts seconds.
    params = PROBE
    for target in (1, seconds):
        backend.prepare(params)
        params = fit_pow_params(int(_proof_rate(backend, params)), target)
    backend.prepare(params)
    return lambda: _proof_rate(backend, params)


def _proof_rate(backend: PowBackend, params: PowParams) -> float:
    seed = hashlib.sha256(os.urandom(32)).digest()
    started = time.perf_counter_ns()
    work = solve_pow(params, seed, backend)
    time_ns = time.perf_counter_ns() - started
    check_shares(params, seed, work.commitment)
    return (work.nonces[-1] + 1 - params.nonces.start) * NS_PER_SECOND / time_ns


def _measure(rows: dict[str, Callable[[], float]], repeat: int) -> dict[str, list[float]]:
    rates: dict[str, list[float]] = {name: [] for name in rows}
    names = list(rows)
    for repetition in range(repeat):
        first = repetition % len(names)
        for name in names[first:] + names[:first]:
            rates[name].append(rows[name]())
    return rates


def _print_table(rates: dict[str, list[float]]) -> None:
    medians = {name: statistics.median(values) for name, values in rates.items()}
    hashcat = next(iter(medians.values()))
    print_line("\n| SHA-256                 | MHash/s |     min |     max | x hashcat |")
    print_line("|:------------------------|--------:|--------:|--------:|----------:|")
    for name, values in rates.items():
        print_line(
            f"| {name:23} | {medians[name] / 1e6:7.2f} | {min(values) / 1e6:7.2f} | {max(values) / 1e6:7.2f} "
            f"| {medians[name] / hashcat:9.2f} |"
        )


if __name__ == "__main__":
    sys.exit(main())
