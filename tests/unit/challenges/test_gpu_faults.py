"""A GPU's failure is sorted by the driver's own words, and the fault is read back wherever the words were carried."""

from __future__ import annotations

import pytest

from challenges.gpu_faults import FAULTS, GpuFault, fault_in, sort_fault

# Code and text by libcudart 13.0 (cudaGetErrorString), all that tell of a device, a driver or a kernel.
RUNTIME = {
    2: ("out of memory", GpuFault.NO_ROOM),
    3: ("initialization error", GpuFault.DRIVER),
    4: ("driver shutting down", GpuFault.DRIVER),
    34: ("CUDA driver is a stub library", GpuFault.DRIVER),
    35: ("CUDA driver version is insufficient for CUDA runtime version", GpuFault.DRIVER),
    36: ("API call is not supported in the installed CUDA driver", GpuFault.DRIVER),
    46: ("CUDA-capable device(s) is/are busy or unavailable", GpuFault.BUSY),
    53: ("unspecified launch failure in prior launch", GpuFault.CRASHED),
    100: ("no CUDA-capable device is detected", GpuFault.LOST),
    101: ("invalid device ordinal", GpuFault.LOST),
    102: ("device doesn't have valid Grid license", GpuFault.DRIVER),
    200: ("device kernel image is invalid", GpuFault.SOFTWARE),
    209: ("no kernel image is available for execution on the device", GpuFault.SOFTWARE),
    214: ("uncorrectable ECC error encountered", GpuFault.DAMAGED),
    216: ("exclusive-thread device already in use by a different thread", GpuFault.BUSY),
    220: ("uncorrectable NVLink error detected during the execution", GpuFault.DAMAGED),
    222: ("the provided PTX was compiled with an unsupported toolchain.", GpuFault.DRIVER),
    226: ("Invalid access of peer GPU memory over nvlink or a hardware error", GpuFault.DAMAGED),
    700: ("an illegal memory access was encountered", GpuFault.CRASHED),
    701: ("too many resources requested for launch", GpuFault.SOFTWARE),
    702: ("the launch timed out and was terminated", GpuFault.CRASHED),
    710: ("device-side assert triggered", GpuFault.CRASHED),
    714: ("hardware stack error", GpuFault.DAMAGED),
    715: ("an illegal instruction was encountered", GpuFault.CRASHED),
    716: ("misaligned address", GpuFault.CRASHED),
    718: ("invalid program counter", GpuFault.CRASHED),
    719: ("unspecified launch failure", GpuFault.CRASHED),
    802: ("system not yet initialized", GpuFault.DRIVER),
    803: ("system has unsupported display driver / cuda driver combination", GpuFault.DRIVER),
    804: ("forward compatibility was attempted on non supported HW", GpuFault.DRIVER),
    805: ("MPS client failed to connect to the MPS control daemon or the MPS server", GpuFault.BUSY),
    807: ("MPS server is not ready to accept new MPS client requests", GpuFault.BUSY),
    810: ("the MPS client has been terminated by the server", GpuFault.BUSY),
    999: ("unknown error", GpuFault.DRIVER),
}


@pytest.mark.parametrize(("text", "fault"), RUNTIME.values(), ids=[str(code) for code in RUNTIME])
@pytest.mark.parametrize("around", ["{}", "CUDA error: {}\nCUDA kernel errors might be", "Triton Error [CUDA]: {}"])
def test_the_drivers_words_are_sorted_whoever_says_them(text: str, fault: GpuFault, around: str) -> None:
    assert sort_fault(around.format(text))[0] is fault


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 139 GiB", GpuFault.NO_ROOM),
        ("CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", GpuFault.NO_ROOM),
        ("Unable to determine the device handle for GPU0000:01:00.0: GPU is lost. Reboot the system", GpuFault.LOST),
        ("NVRM: Xid (PCI:0000:01:00): 79, GPU has fallen off the bus.", GpuFault.LOST),
        ("Failed to initialize NVML: Driver/library version mismatch", GpuFault.DRIVER),
        ("Torch not compiled with CUDA enabled", GpuFault.SOFTWARE),
        ("out of resource: shared memory, Required: 131072, Hardware limit: 101376", GpuFault.SOFTWARE),
        ("No CUDA GPUs are available", GpuFault.LOST),
        ("Found no NVIDIA driver on your system.", GpuFault.DRIVER),
        ("something that nobody has said before", GpuFault.UNKNOWN),
        ("", GpuFault.UNKNOWN),
    ],
)
def test_words_of_libraries_are_sorted(text: str, fault: GpuFault) -> None:
    assert sort_fault(text)[0] is fault


def test_every_line_of_the_table_is_reached_by_its_own_words() -> None:
    """None stands behind a more general one that would take its text."""
    for part, fault, to_do in FAULTS:
        assert sort_fault(f"before {part} after") == (fault, to_do)


@pytest.mark.parametrize("fault", GpuFault)
def test_a_fault_is_read_back_from_where_it_was_carried(fault: GpuFault) -> None:
    assert fault_in(f"the solver failed: Unavailable: cuda:0: {fault}: said: do this") is fault


@pytest.mark.parametrize("text", ["", "GPU_NO_ROOMS", "XGPU_LOST", "gpu_lost", "the GPU is lost"])
def test_no_other_text_names_a_fault(text: str) -> None:
    assert fault_in(text) is None
