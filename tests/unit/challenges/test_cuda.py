"""A GPU that fails says why, and what its operator can do; nothing that could round a sum is left on."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

import torch

from challenges.cuda import causes_of, explain, open_device
from challenges.solver import SolveStopped, open_backend
from challenges.torch_backend import INEXACT_SWITCHES, fused_or_none, refuse_inexact_sums
from polarise.errors import Unavailable


@pytest.mark.parametrize(
    ("said", "to_do"),
    [
        ("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 139 GiB", "who else holds"),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", "who else holds"),
        ("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be", "xid"),
        ("Triton Error [CUDA]: unspecified launch failure", "xid"),
        ("CUDA error: uncorrectable ECC error encountered", "-d ECC"),
        ("CUDA error: CUDA-capable device(s) is/are busy or unavailable", "COMPUTE"),
        ("Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU", "nvidia-smi"),
        ("CUDA error: no CUDA-capable device is detected", "nvidia-smi"),
        ("CUDA error: unknown error", "Reload it or reboot"),
        ("The NVIDIA driver on your system is too old (found version 11040)", "update it"),
        ("CUDA error: no kernel image is available for execution on the device", "architecture"),
        ("Failed to find C compiler. Please specify via CC environment variable", "install gcc"),
        ("Command '['/usr/bin/gcc', '/tmp/x/cuda_utils.c']' returned non-zero exit status 1.", "python3-dev"),
        ("No module named 'triton'", "built for CUDA on Linux"),
        ("[Errno 13] Permission denied: '/root/.triton/cache'", "TRITON_CACHE_DIR"),
        ("CUDA error: something new", "dmesg"),
        ("", "dmesg"),
    ],
)
def test_a_failed_device_says_what_to_do(said: str, to_do: str) -> None:
    with pytest.raises(Unavailable) as caught, causes_of("cuda:1"):
        raise RuntimeError(said)
    message = str(caught.value)
    assert message.startswith("cuda:1: GPU_")
    assert to_do in message
    assert "\n" not in message
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_errors_of_ours_pass_unchanged() -> None:
    stopped = SolveStopped("stopped after 1 of 2 rounds")
    with pytest.raises(SolveStopped) as caught, causes_of("cuda:0"):
        raise stopped
    assert caught.value is stopped


def test_what_a_library_says_is_cut() -> None:
    assert len(explain("cuda:0", RuntimeError("x" * 10_000))) < 500


def test_a_device_that_is_not_there_is_unavailable() -> None:
    for open_it in (open_device, open_backend):
        with pytest.raises(Unavailable, match=r"cuda:99: .+: .+"):
            open_it("cuda:99")


def test_what_could_round_a_sum_is_turned_off() -> None:
    switches = torch.backends.cuda.matmul
    before = {name: getattr(switches, name) for name in INEXACT_SWITCHES}
    try:
        for name in INEXACT_SWITCHES:
            setattr(switches, name, True)
        refuse_inexact_sums(torch.device("cuda:0"))
        assert [getattr(switches, name) for name in INEXACT_SWITCHES] == [False] * len(INEXACT_SWITCHES)
    finally:
        for name, value in before.items():
            setattr(switches, name, value)


class StubbornSwitches:
    """A torch whose switch does not turn."""

    @property
    def allow_bf16_reduced_precision_reduction(self) -> bool:
        return True

    @allow_bf16_reduced_precision_reduction.setter
    def allow_bf16_reduced_precision_reduction(self, value: bool) -> None:
        pass


def test_a_switch_that_does_not_turn_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cuda, "matmul", StubbornSwitches())
    with pytest.raises(Unavailable, match="keeps allow_bf16_reduced_precision_reduction on"):
        refuse_inexact_sums(torch.device("cuda:0"))


def test_without_kernels_eager_torch_serves_and_the_cause_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Triton is missing here, or it finds no GPU behind a tensor of the processor."""
    assert fused_or_none(torch.device("cpu"), torch.float32) is None
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage().startswith("no kernels, eager torch instead: cpu: ")
