"""The GPU's kernels without a GPU: interpreted, they equal hashlib and numpy; compiled, they fit every architecture.

Both need Triton, which comes with torch for CUDA; `make test-kernels` installs it beside a torch for processors.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT_FOLDER = Path(__file__).parents[2]
# pytest: 0 is that all passed; with no test at all it would be 5.
ALL_PASSED = 0


def why_no_triton() -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed: `make test-kernels` installs it"
    return None


def run(*arguments: str, **environment: str) -> str:
    """Run Python in a process of its own, since Triton decides at its import whether it interprets."""
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "TRITON_INT"))}
    outcome = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT_FOLDER,
        env=surroundings | environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert outcome.returncode == ALL_PASSED, outcome.stdout[-8000:] + outcome.stderr[-4000:]
    return outcome.stdout


def equalities(**environment: str) -> str:
    options = ("-p", "no:randomly", "-p", "no:cacheprovider", "-q", "-o", "addopts=--import-mode=importlib")
    return run("-m", "pytest", *options, "tests/kernels/equalities.py", **environment)


@pytest.mark.kernels
@pytest.mark.slow
def test_every_kernel_equals_its_reference_under_the_interpreter() -> None:
    printed = equalities(TRITON_INTERPRET="1", POLARISE_KERNELS_DEVICE="cpu")
    assert " passed" in printed
    assert "skipped" not in printed


@pytest.mark.kernels
@pytest.mark.slow
def test_every_kernel_compiles_for_every_architecture_without_a_gpu() -> None:
    printed = run("benchmarks/kernels.py")
    for architecture in ("sm_75", "sm_80", "sm_89", "sm_90", "sm_100"):
        assert printed.count(f"| {architecture} ") >= 2, printed


@pytest.mark.gpu
def test_every_kernel_equals_its_reference_on_the_gpu() -> None:
    printed = equalities(POLARISE_KERNELS_DEVICE="cuda:0")
    assert " passed" in printed
    assert "skipped" not in printed
