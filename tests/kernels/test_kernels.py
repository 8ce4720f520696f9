"""The GPU's kernels without a GPU: interpreted, they equal hashlib and numpy; compiled, they fit every architecture.

Both need Triton, which comes with torch for CUDA; `make test-kernels` installs it beside a torch for processors.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from neurons.validator import gpu_probe

ROOT_FOLDER = Path(__file__).parents[2]
# pytest: 0 is that all passed; with no test at all it would be 5.
ALL_PASSED = 0
# Interpreting and compiling take a minute of a quiet core, and this machine may have others at work.
SECONDS_MAX = 900
NOTHING_MORE: Mapping[str, str] = MappingProxyType({})
INTERPRETED = {"TRITON_INTERPRET": "1"}


def run(*arguments: str, status: int = ALL_PASSED, environment: Mapping[str, str] = NOTHING_MORE) -> str:
    """Run Python in a process of its own, since Triton decides at its import whether it interprets; return its output."""
    surroundings = {"PYTHONPATH": str(ROOT_FOLDER)} | {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "TRITON_INT"))
    }
    outcome = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT_FOLDER,
        env=surroundings | dict(environment),
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX - 20,
        check=False,
    )
    assert outcome.returncode == status, outcome.stdout[-8000:] + outcome.stderr[-4000:]
    return outcome.stdout


def equalities(environment: Mapping[str, str]) -> str:
    options = ("-p", "no:randomly", "-p", "no:cacheprovider", "-q", "-o", "addopts=--import-mode=importlib")
    return run("-m", "pytest", *options, "tests/kernels/equalities.py", environment=environment)


@pytest.mark.kernels
@pytest.mark.slow
@pytest.mark.timeout(SECONDS_MAX)
def test_every_kernel_equals_its_reference_under_the_interpreter() -> None:
    printed = equalities(INTERPRETED | {"POLARISE_KERNELS_DEVICE": "cpu"})
    assert " passed" in printed
    assert "skipped" not in printed


@pytest.mark.kernels
@pytest.mark.slow
@pytest.mark.timeout(SECONDS_MAX)
@pytest.mark.parametrize(("part", "rows"), [("search", 1), ("mixes", 5), ("memory", 2)])
def test_every_kernel_compiles_for_every_architecture_without_a_gpu(part: str, rows: int) -> None:
    printed = run("benchmarks/kernels.py", part)
    for architecture in ("sm_75", "sm_80", "sm_89", "sm_90", "sm_100"):
        assert printed.count(f"| {architecture} ") == rows, printed


@pytest.mark.kernels
@pytest.mark.parametrize("architecture", [75, 80, 89, 90, 100])
def test_the_inspections_kernel_is_taken_by_the_assembler(tmp_path: Path, architecture: int) -> None:
    """By the one that comes with Triton; on a card the driver's own does it."""
    folder = run("-c", "import triton; print(triton.__file__)").strip()
    source = tmp_path / "mix.ptx"
    source.write_text(gpu_probe.PTX, encoding="ascii")
    assembler = Path(folder).parent / "backends" / "nvidia" / "bin" / "ptxas"
    out = tmp_path / "mix.cubin"
    subprocess.run([assembler, f"-arch=sm_{architecture}", source, "-o", out], check=True, timeout=60)
    assert out.read_bytes().startswith(b"\x7fELF")


@pytest.mark.gpu
@pytest.mark.timeout(SECONDS_MAX)
def test_every_kernel_equals_its_reference_on_the_gpu() -> None:
    printed = equalities({"POLARISE_KERNELS_DEVICE": "cuda:0"})
    assert " passed" in printed
    assert "skipped" not in printed


@pytest.mark.kernels
@pytest.mark.slow
@pytest.mark.timeout(SECONDS_MAX)
def test_the_benchmark_of_a_gpu_runs_to_its_end_under_the_interpreter(tmp_path: Path) -> None:
    """Its numbers say nothing here, and it says that; the results file holds what was printed."""
    sizes = [
        "--sides",
        "128,192",
        "--exact",
        "256",
        "--blocks",
        "8",
        "--rounds",
        "2",
        "--hashes",
        "1024",
        "--repeat",
        "1",
        "--seconds",
        "1",
    ]
    printed = run("benchmarks/gpu.py", "--device", "cpu", "--save", str(tmp_path), *sizes, environment=INTERPRETED)
    assert "no number below is a measurement" in printed
    assert printed.count("check of 2 tiles") == 2
    assert "exact at K = 256: 65536 entries equal int64" in printed
    assert "check of them" in printed
    assert "NVML sample" in printed
    (kept,) = tmp_path.iterdir()
    assert kept.name.startswith("interpreted-")
    assert printed.startswith(kept.read_text(encoding="utf-8"))


def test_the_benchmark_of_a_gpu_says_that_there_is_none() -> None:
    printed = run("benchmarks/gpu.py", "--device", "cuda:99", status=3)
    assert printed.startswith("no GPU, nothing was measured: cuda:99: ")
