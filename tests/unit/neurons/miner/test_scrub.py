"""A GPU's memory is overwritten before another tenant gets it: against a small CUDA driver that holds a tenant's bytes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from neurons.miner.scrub import scrub
from polarise.errors import Unavailable

DEVICE = "GPU-00000000-0000-0000-0000-000000000001"
SOURCE = Path(__file__).resolve().parents[3] / "support" / "small_cuda.c"

pytestmark = pytest.mark.compiler


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("driver")
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-o", folder / "libcuda.so.1", SOURCE], check=True)
    return folder


@pytest.fixture
def report(driver: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(driver))
    monkeypatch.setenv("SMALL_CUDA_REPORT", str(tmp_path / "left"))
    return tmp_path / "left"


def test_nothing_of_a_tenant_is_left(report: Path) -> None:
    scrub([DEVICE])
    assert report.read_text() == "0"


def test_card_whose_memory_somebody_holds_is_not_clean(report: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMALL_CUDA_HELD", str(12 << 20))
    with pytest.raises(Unavailable, match="which process still holds"):
        scrub([DEVICE])
    assert report.read_text() == str(12 << 20)


def test_missing_driver_is_told_with_the_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    with pytest.raises(Unavailable, match=f"{DEVICE}.*cannot be loaded"):
        scrub([DEVICE])


def test_lease_without_a_gpu_needs_no_driver() -> None:
    scrub([])
