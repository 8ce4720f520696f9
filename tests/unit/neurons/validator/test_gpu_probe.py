"""The GPU inside a rented container: the program that looks, on a small driver, and the validator's checks of what it says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from neurons.validator import gpu_probe
from neurons.validator.gpu_findings import GpuTrial, expected_words, gpu_checks, gpu_claim_checks, mixed
from neurons.validator.probe_text import probe_text
from polarise.hardware import DeviceClaim
from tests.support.evidence import NONCE, receipt
from tests.support.ptx import run_thread

SOURCE = Path(__file__).resolve().parents[3] / "support" / "mix_cuda.c"
UUID = "GPU-10111213-1415-1617-1819-1a1b1c1d1e1f"
RENTED = receipt().model_copy(update={"devices": (UUID,)})
H200 = DeviceClaim(
    uuid=UUID,
    kind="gpu",
    name="NVIDIA H200",
    memory_bytes=141 << 30,
    matmul_ops_per_second=1,
    pow_hashes_per_second=1,
)
LOOK = "\nsys.stdout.write(encode(aside(lambda: look_at_gpu(sys.argv[1]))))\n"


@pytest.fixture(scope="module", name="driver")
def small_driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("driver")
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", folder / "libcuda.so.1", SOURCE], check=True, timeout=60)
    return folder


def look(driver: Path | None, *, fault: str = "", before: str = "") -> GpuTrial:
    """Run the text that an inspection sends as a container does, over stdin, but only the part that looks at a GPU."""
    text = before + probe_text().replace('if __name__ == "__main__":', "if False:") + LOOK
    done = subprocess.run(
        [sys.executable, "-I", "-", NONCE],
        input=text,
        env=os.environ | {"LD_LIBRARY_PATH": str(driver or "/nowhere"), "MIX_CUDA": fault},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return GpuTrial.model_validate(json.loads(done.stdout))


def failed(trial: GpuTrial) -> list[str]:
    checks = [*gpu_checks(trial, RENTED), *gpu_claim_checks(trial, (H200,))]
    return [name for name, _got, _expected, holds in checks if not holds]


@pytest.mark.compiler
def test_a_rented_card_is_looked_at_and_all_of_it_holds(driver: Path) -> None:
    trial = look(driver)
    assert (trial.state, trial.name, trial.uuid, trial.cards_count) == ("looked", "NVIDIA H200", UUID, 1)
    assert trial.memory_bytes == 139 << 30
    assert (trial.proof, trial.last_step) == expected_words(NONCE, UUID)
    assert trial.steps_us > 0
    assert failed(trial) == []
    assert len([*gpu_checks(trial, RENTED), *gpu_claim_checks(trial, (H200,))]) == 7


@pytest.mark.compiler
def test_a_card_that_computes_one_wrong_word_is_found(driver: Path) -> None:
    assert failed(look(driver, fault="wrong")) == ["the proof of the GPU", "the last step of the GPU"]


@pytest.mark.compiler
def test_another_card_than_the_claimed_one_is_found(driver: Path) -> None:
    assert failed(look(driver, fault="renamed")) == [f"the name of {UUID}"]


@pytest.mark.compiler
@pytest.mark.parametrize(
    ("fault", "state"),
    [("none", "cuInit failed with status 100"), ("lost", "cuLaunchKernel failed with status 719")],
)
def test_a_rented_card_that_is_not_there_or_fails_is_found(driver: Path, fault: str, state: str) -> None:
    trial = look(driver, fault=fault)
    assert trial.state == state
    assert failed(trial) == ["a rented GPU that computes"]
    # Without a rented device it is as it should be.
    assert all(holds for *_rest, holds in gpu_checks(trial, receipt()))


@pytest.mark.compiler
def test_a_gpu_that_nobody_rented_is_found(driver: Path) -> None:
    (check,) = gpu_checks(look(driver), receipt())
    assert check == ("the absence of GPUs", UUID, "none was rented", False)


def test_without_a_driver_it_says_so_and_nothing_is_judged() -> None:
    trial = look(None)
    assert trial == GpuTrial(state="no libcuda")
    assert failed(trial) == []


def test_without_ctypes_it_says_so_and_nothing_is_judged() -> None:
    """As in the base image, whose Python is Debian's smallest."""
    hidden = "import sys; sys.modules['ctypes'] = None\n"
    text = probe_text()
    assert text.count("from __future__") == 1
    program = text.replace("import hashlib\n", "import hashlib\n" + hidden, 1)
    program = program.replace('if __name__ == "__main__":', "if False:") + LOOK
    done = subprocess.run(
        [sys.executable, "-I", "-", NONCE], input=program, capture_output=True, text=True, timeout=60, check=True
    )
    assert failed(GpuTrial.model_validate(json.loads(done.stdout))) == []


def test_a_driver_that_kills_or_hangs_ends_nothing_but_the_look() -> None:
    program = probe_text().replace('if __name__ == "__main__":', "if False:")
    program += "\nsys.stdout.write(encode(aside(lambda: os.kill(os.getpid(), 9))))\n"
    done = subprocess.run(
        [sys.executable, "-I", "-"], input=program, capture_output=True, text=True, timeout=60, check=True
    )
    assert failed(GpuTrial.model_validate(json.loads(done.stdout))) == ["a rented GPU that computes"]


@pytest.mark.parametrize(
    ("changes", "check"),
    [
        ({"uuid": "GPU-0"}, "the UUID of the first GPU"),
        ({"proof": "0" * 64}, "the proof of the GPU"),
        ({"last_step": "0" * 16}, "the last step of the GPU"),
        ({"cards_count": 2}, "cards_count"),
        ({"name": "NVIDIA H200 NVL"}, f"the name of {UUID}"),
        ({"memory_bytes": (141 << 30) * 95 // 100 - 1}, f"the memory of {UUID}"),
    ],
)
def test_whatever_differs_is_named(changes: dict[str, object], check: str) -> None:
    proof, last_step = expected_words(NONCE, UUID)
    right = GpuTrial(
        state="looked",
        cards_count=1,
        name="NVIDIA H200",
        uuid=UUID,
        memory_bytes=(141 << 30) * 95 // 100,
        proof=proof,
        last_step=last_step,
        steps_us=1,
    )
    assert failed(right) == []
    assert check in failed(right.model_copy(update=changes))


def test_words_hang_on_nonce_and_card() -> None:
    words = {expected_words(nonce, uuid) for nonce in (NONCE, "00" * 32) for uuid in (UUID, "GPU-1")}
    assert len(words) == 4


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, (1 << 32) - 1), (0xDEADBEEF, 0x01234567)])
@pytest.mark.parametrize(("block", "size", "thread"), [(0, 2, 1), (63, 128, 127), (5, 128, 0)])
def test_the_ptx_that_is_sent_computes_what_is_expected(
    first: int, second: int, block: int, size: int, thread: int
) -> None:
    """Interpreted word by word: address, wrap-around, every shift, the number of rounds."""
    index = block * size + thread
    stored = run_thread(
        gpu_probe.PTX,
        {"out": 1 << 40, "first": first, "second": second, "rounds": 5},
        {"%ctaid.x": block, "%ntid.x": size, "%tid.x": thread},
    )
    expected = mixed(np.array([index], dtype=np.uint32), first, second, 5)
    assert stored == {(1 << 40) + 4 * index: int(expected[0])}
