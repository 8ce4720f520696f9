"""One GPU: hashes beside hashcat's rate, the matmul chain beside bare torch.mm, memory passes beside a copy, all checks.

Rules:
- The proofs are those a miner runs, through `challenges.proofs`, and each one is checked as a validator checks it; a
  wrong answer ends the run with an error.
- Times of single steps are taken on the device, whole proofs on the host's clock. Each number is a median, after a
  warm-up that is not counted.
- The product is compared with integers at the two largest sizes of the proof; an entry that differs ends the run.
- What it prints goes into a file as well, `benchmarks/results/MODEL-DATE.txt`, with card, driver and versions on top.
- Without a GPU it says so and ends with status 3: nothing was measured.
- `--device cpu` under TRITON_INTERPRET=1 walks the same path on the CPU in tiny sizes, so that the script itself can be
  tested; what it prints then is no measurement, and it says so.

Run: make bench-gpu   (under eight minutes; ARGS="--device cuda:1" for another card)
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TextIO

import torch

from benchmarks._gpu_exact import EDGE, measure_exactness
from benchmarks._gpu_memory import measure_memory
from benchmarks.proofs import cpu_model, print_line
from challenges import digest, prng
from challenges.cuda import open_device
from challenges.cuda_memory import CudaMemoryBackend
from challenges.device_keys import upload
from challenges.draw import ChallengeKind
from challenges.fused_mixes import open_fused_mixes
from challenges.hardware import GpuModel, HardwareTable
from challenges.matmul import MatmulParams, check_openings
from challenges.pow import PowParams, check_shares
from challenges.proofs import MatmulProver, PowProver, open_prover
from challenges.timing import fit_pow_params
from challenges.torch_backend import TorchBackend
from polarise.errors import Unavailable
from utils import gpu

NO_GPU_STATUS = 3
SIDES = (8192, 16384)
EXACT = (16384, 32768)
RESULTS = Path(__file__).parent / "results"
BYTES_PER_ELEMENT = 16
HASHCAT_PER_SM_CLOCK = 0.0624
CHAIN_TARGET_PERCENT = 93
STEPS = 20
SAMPLES = 200
OPENINGS = 32
# What a first proof of work assumes of the card; its own rate decides the size of those that count.
HASHES_PER_SECOND_ASSUMED = 1_000_000_000


def main() -> int:
    """Measure one card and return the exit status."""
    options = _parse_options()
    is_interpreted = options.device == "cpu"
    if is_interpreted and os.environ.get("TRITON_INTERPRET") != "1":
        print_line("--device cpu only walks the path, under TRITON_INTERPRET=1; benchmarks/proofs.py measures a CPU")
        return NO_GPU_STATUS
    try:
        device = torch.device("cpu") if is_interpreted else open_device(options.device)
    except Unavailable as err:
        print_line(f"no GPU, nothing was measured: {err}")
        return NO_GPU_STATUS
    with _kept(options.save, device):
        print_line(f"command: python benchmarks/gpu.py {' '.join(sys.argv[1:])}")
        if is_interpreted:
            print_line("INTERPRETED ON A CPU: the path is walked, no number below is a measurement")
        _print_versions()
        _print_hardware(device)
        _measure_sample()
        _measure_pow(options, device)
        for side in options.sides:
            _measure_matmul(options, side, device)
        for side in options.exact:
            # A backend each, which nobody keeps: at the largest size it takes 8.6 GB, and memory is measured after it.
            n = _fitting_n(side, device)
            measure_exactness(_matmul_backend(device), n, device, min(EDGE, n // 2))
        _measure_memory(options, device)
    return 0


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda:0", help="'cuda:N' (cuda:0)")
    parser.add_argument("--seconds", type=int, default=10, help="target duration of a proof (10)")
    parser.add_argument("--repeat", type=int, default=3, help="counted repetitions (3)")
    parser.add_argument("--sides", type=_sides, default=SIDES, help="sides of the matrices (8192,16384)")
    parser.add_argument("--exact", type=_sides, default=EXACT, help="sides of the products compared with integers")
    parser.add_argument("--blocks", type=int, help="blocks of 64 KiB that are filled; 92 % of the card when left out")
    parser.add_argument("--save", type=Path, default=RESULTS, help="folder of the file with the results")
    parser.add_argument("--rounds", type=int, help="rounds of the chain; what fills the seconds when left out")
    parser.add_argument("--hashes", type=int, help="hashes of a proof of work; what fills the seconds when left out")
    return parser.parse_args()


def _sides(text: str) -> tuple[int, ...]:
    return tuple(int(side) for side in text.split(","))


@contextlib.contextmanager
def _kept(folder: Path, device: torch.device) -> Iterator[None]:
    """Write what is printed into a file as well, which is there from the first line on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "interpreted"
    path = folder / f"{re.sub('[^A-Za-z0-9]+', '-', name)}-{time.strftime('%Y-%m-%d')}.txt"
    with path.open("w", encoding="utf-8") as file, contextlib.redirect_stdout(_Both(sys.stdout, file)):
        yield
    print_line(f"\nkept in {path}")


class _Both:
    """Two files as one for `print`."""

    def __init__(self, *files: TextIO) -> None:
        self._files = files

    def write(self, text: str) -> int:
        for file in self._files:
            file.write(text)
        return len(text)

    def flush(self) -> None:
        for file in self._files:
            file.flush()


def _print_versions() -> None:
    def installed(name: str) -> str:
        try:
            return version(name)
        except PackageNotFoundError:
            return "none"

    commit = subprocess.run(
        ["git", "-C", str(RESULTS), "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    print_line(
        f"driver {gpu.driver_version() or 'none'}; torch {torch.__version__}, CUDA {torch.version.cuda}, "
        f"Triton {installed('triton')}, numpy {installed('numpy')}, Python {sys.version.split()[0]}; "
        f"this software {commit.stdout.strip() or 'unknown'}"
    )


def _print_hardware(device: torch.device) -> None:
    if device.type != "cuda":
        print_line(f"hardware: {cpu_model()}, no GPU")
        return
    card = torch.cuda.get_device_properties(device)
    model = HardwareTable.load().find(card.name)
    boost = f"{model.boost_hz / 1e6:.0f} MHz boost by the vendor" if model else "not in hardware.csv"
    print_line(f"hardware: {card.name}, {card.multi_processor_count} SMs, {boost}; {cpu_model()}")
    print_line(f"sm_{card.major}{card.minor}, {card.total_memory / 1e9:.1f} GB")


def _model(device: torch.device) -> GpuModel | None:
    return HardwareTable.load().find(torch.cuda.get_device_name(device)) if device.type == "cuda" else None


def _measure_sample() -> None:
    """Print what one reading of all cards costs, as the agent takes it every second."""
    with gpu.GpuSampler() as sampler:
        cards = len(sampler.read())
        times = []
        for _ in range(SAMPLES if cards else 0):
            started = time.perf_counter()
            sampler.read()
            times.append(time.perf_counter() - started)
    if times:
        print_line(f"NVML sample of {cards} cards: {statistics.median(times) * 1e3:.3f} ms, median of {SAMPLES}")
    else:
        print_line("NVML sample: no driver, nothing to read")


def _measure_memory(options: argparse.Namespace, device: torch.device) -> None:
    from challenges import memory_kernels

    each = None if device.type == "cuda" else 1 << 15
    backend = CudaMemoryBackend(device, memory_kernels, units_each=each)
    measure_memory(
        backend,
        device,
        _model(device),
        lambda step: _step_seconds(step, device),
        seconds=max(5, options.seconds) if device.type == "cuda" else 0,
        repeat=options.repeat,
        blocks=options.blocks,
    )


def _measure_pow(options: argparse.Namespace, device: torch.device) -> None:
    params = (
        PowParams(64, max(options.hashes // 64, 1)) if options.hashes else fit_pow_params(HASHES_PER_SECOND_ASSUMED, 1)
    )
    seconds = _pow_seconds(params, device, 1)[0]
    if not options.hashes:
        # Once more, since the first proof may have been too short to show the rate.
        for _ in range(2):
            params = fit_pow_params(max(int(params.operations / seconds), 1), options.seconds)
            seconds = _pow_seconds(params, device, 1)[0]
    times = [seconds, *_pow_seconds(params, device, options.repeat - 1)]
    rate = params.operations / statistics.median(times)
    print_line(f"\nproof of work: {params.shares} shares of difficulty {params.difficulty}, {_seconds(times)}")
    line = f"rate: {rate / 1e9:.3f} GHash/s"
    model = _model(device)
    if model is not None:
        per_sm_clock = rate / (model.sm_count * model.boost_hz)
        line += f", {per_sm_clock:.4f} a SM and boost clock, {per_sm_clock / HASHCAT_PER_SM_CLOCK:.3f} x hashcat (target 1.0)"
    print_line(line)


def _pow_seconds(params: PowParams, device: torch.device, repeat: int) -> list[float]:
    """Prove and check a few times; the seconds of the proofs alone."""
    prover = _pow_prover(params, device)
    prover.prepare()
    times = []
    for repetition in range(repeat):
        seed = _seed(ChallengeKind.POW, repetition)
        started = time.perf_counter()
        work = prover.solve(seed)
        times.append(time.perf_counter() - started)
        check_shares(params, seed, work.commitment)
    return times


def _pow_prover(params: PowParams, device: torch.device) -> PowProver:
    if device.type == "cuda":
        prover = open_prover(params, str(device))
        assert isinstance(prover, PowProver)
        return prover
    from challenges import sha256_kernel
    from challenges.cuda_pow import CudaPowBackend

    return PowProver(params, CudaPowBackend(device, sha256_kernel, steps=1, stretch_nonces_min=256))


def _matmul_backend(device: torch.device) -> TorchBackend:
    if device.type == "cpu":
        return TorchBackend("cpu", open_fused_mixes(device, torch.float32))
    return TorchBackend(str(device))


def _measure_matmul(options: argparse.Namespace, side: int, device: torch.device) -> None:
    n = _fitting_n(side, device)
    backend = _matmul_backend(device)
    small = MatmulParams(n, rounds=1, openings=1)
    backend.prepare(small)
    bare = _measure_steps(backend, n, device)
    rounds = options.rounds or max(2, min(4096, int(options.seconds / bare)))
    params = MatmulParams(n, rounds, openings=min(OPENINGS, rounds))
    prover = MatmulProver(params, backend)
    prover.prepare()
    times, checks = [], []
    for repetition in range(options.repeat):
        seed = _seed(ChallengeKind.MATMUL, repetition)
        started = time.perf_counter()
        work = prover.solve(seed)
        times.append(time.perf_counter() - started)
        last = params.tiles_per_side - 1
        positions = [
            (index * rounds // params.openings, (5 * index) % (last + 1), last) for index in range(params.openings)
        ]
        openings = work.open(positions)
        started = time.perf_counter()
        check_openings(params, seed, work.commitment, positions, openings)
        checks.append(time.perf_counter() - started)
    seconds = statistics.median(times)
    print_line(f"chain: {rounds} rounds, {_seconds(times)}, {seconds / rounds * 1e3:.3f} ms a round")
    print_line(f"rate: {params.operations / seconds / 1e12:.1f} Top/s")
    share = 100 * bare * rounds / seconds
    print_line(f"bare torch.mm in {share:.1f} % of the chain's time (target {CHAIN_TARGET_PERCENT} %)")
    size = len(json.dumps([opening.to_wire() for opening in openings], separators=(",", ":")))
    print_line(f"check of {params.openings} tiles: {_seconds(checks)}; openings {size} bytes")


def _measure_steps(backend: TorchBackend, n: int, device: torch.device) -> float:
    """Print what one product and the mixes around it take; return the seconds of the product."""
    keys = upload(prng.round_keys(_seed(ChallengeKind.MATMUL, -1), n), device)
    mixes, a, b, c = backend._mixes, backend._a, backend._b, backend._c
    lanes = torch.empty((n // 64, n // 64, digest.LANES), dtype=torch.int32, device=device)
    product = _step_seconds(lambda: backend.multiply(a, b, c), device)
    fill = _step_seconds(lambda: mixes.fill(keys, a, b, slice(0, n)), device)
    digests = _step_seconds(lambda: mixes.digest(keys, c, slice(0, n), 64, lanes), device)
    print_line(f"\nmatmul: n = {n}, operands {a.dtype}, mixes {type(mixes).__name__}; medians of {STEPS}")
    print_line(f"torch.mm {product * 1e3:.3f} ms, {2 * n**3 / product / 1e12:.1f} Top/s")
    print_line(f"operands {fill * 1e3:.3f} ms, {2 * a.nbytes / fill / 1e9:.0f} GB/s written")
    print_line(f"digests {digests * 1e3:.3f} ms, {c.nbytes / digests / 1e9:.0f} GB/s read")
    return product


def _step_seconds(step: Callable[[], object], device: torch.device) -> float:
    """Return the median time of one step on the device."""
    step()
    times = []
    for _ in range(STEPS if device.type == "cuda" else 1):
        times.append(_cuda_seconds(step, device) if device.type == "cuda" else _host_seconds(step))
    return statistics.median(times)


def _cuda_seconds(step: Callable[[], object], device: torch.device) -> float:
    with torch.cuda.device(device):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begin.record()
        step()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1e3


def _host_seconds(step: Callable[[], object]) -> float:
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


def _fitting_n(n: int, device: torch.device) -> int:
    """Return the side, halved until two rounds' matrices fit the card."""
    memory = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None
    while memory is not None and BYTES_PER_ELEMENT * n * n > memory:
        n //= 2
    return n


def _seed(kind: ChallengeKind, repetition: int) -> bytes:
    return hashlib.sha256(f"benchmark gpu {kind.value} {repetition}".encode()).digest()


def _seconds(times: list[float]) -> str:
    return f"{statistics.median(times):.4f} s (of {len(times)}: {min(times):.4f} to {max(times):.4f})"


if __name__ == "__main__":
    sys.exit(main())
