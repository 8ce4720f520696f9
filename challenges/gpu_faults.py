"""Why a GPU failed, sorted by the driver's own words into a few faults, each with what its operator can do.

Rules:
- The words are those of `cuGetErrorString` and `cudaGetErrorString`, of torch, Triton and NVML around them. The first line of
  the table that fits is taken; special ones stand before general ones.
- A fault's name stands in the message itself, so that whatever carries the text, a log, the solver's pipe, a refusal that a
  validator reads, `miner status`, carries the fault; `fault_in` reads it back.
- No fault is a cheat: the proof is lost, and nothing else. Standard library only, as the miner itself has no torch.
"""

from __future__ import annotations

import re
from enum import StrEnum


class GpuFault(StrEnum):
    """What is wrong with a device or what drives it."""

    NO_ROOM = "GPU_NO_ROOM"
    LOST = "GPU_LOST"
    BUSY = "GPU_BUSY"
    DAMAGED = "GPU_DAMAGED"
    CRASHED = "GPU_CRASHED"
    DRIVER = "GPU_DRIVER"
    SOFTWARE = "GPU_SOFTWARE"
    UNKNOWN = "GPU_FAILED"


_HOLDERS = "no room on the device: `nvidia-smi` shows who else holds its memory"
_CRASH = "a kernel crashed, ours or the card is at fault: `dmesg | grep -i xid` says more"
_OLD = "the driver is older than this torch: update it"
_RELOAD = "the driver failed: does `nvidia-smi` answer? Reload it or reboot"
_BUS = "the card fell off the bus: `dmesg | grep -i xid`, then reboot"
_LINK = "a link between cards failed: `dmesg | grep -i xid` says which"
_MEMORY = "the device's memory is damaged: `nvidia-smi -q -d ECC`, then reset or replace the card"
_ALONE = "another process holds the device alone: `nvidia-smi -q -d COMPUTE` shows the mode"
_MPS = (
    "the control daemon of MPS does not serve us: `nvidia-smi` shows nvidia-cuda-mps-server; end it, or start it anew"
)
_COMPILER = "Triton builds its launcher when it first runs: install gcc, and python3-dev for this Python"

# Part of what was said, in any case -> the fault, and what to do.
FAULTS: tuple[tuple[str, GpuFault, str], ...] = (
    ("out of memory", GpuFault.NO_ROOM, _HOLDERS),
    ("CUBLAS_STATUS_ALLOC_FAILED", GpuFault.NO_ROOM, _HOLDERS),
    ("GPU is lost", GpuFault.LOST, _BUS),
    ("fallen off the bus", GpuFault.LOST, _BUS),
    ("uncorrectable ECC", GpuFault.DAMAGED, _MEMORY),
    ("ECC_UNCORRECTABLE", GpuFault.DAMAGED, _MEMORY),
    ("NVLink", GpuFault.DAMAGED, _LINK),
    ("hardware stack error", GpuFault.DAMAGED, _CRASH),
    ("busy or unavailable", GpuFault.BUSY, _ALONE),
    ("already in use by a different thread", GpuFault.BUSY, _ALONE),
    ("MPS ", GpuFault.BUSY, _MPS),
    (
        "out of resource",
        GpuFault.SOFTWARE,
        "this card's multiprocessors are too small for the kernel; please send us the card's name",
    ),
    (
        "too many resources requested",
        GpuFault.SOFTWARE,
        "this card's multiprocessors are too small for the kernel; please send us the card's name",
    ),
    (
        "not compiled with CUDA",
        GpuFault.SOFTWARE,
        "this torch is built for processors alone: install the one built for CUDA",
    ),
    (
        "no kernel image",
        GpuFault.SOFTWARE,
        "this torch has no code for a card of this architecture: install one that has",
    ),
    (
        "kernel image is invalid",
        GpuFault.SOFTWARE,
        "what Triton compiled is damaged: remove ~/.triton, or set TRITON_CACHE_DIR",
    ),
    ("unsupported toolchain", GpuFault.DRIVER, _OLD),
    ("driver version is insufficient", GpuFault.DRIVER, _OLD),
    ("not supported in the installed CUDA driver", GpuFault.DRIVER, _OLD),
    ("driver on your system is too old", GpuFault.DRIVER, _OLD),
    ("forward compatibility was attempted", GpuFault.DRIVER, _OLD),
    (
        "unsupported display driver",
        GpuFault.DRIVER,
        "the driver's module and its library differ: it was updated under a running system, reboot",
    ),
    (
        "Driver/library version mismatch",
        GpuFault.DRIVER,
        "the driver's module and its library differ: it was updated under a running system, reboot",
    ),
    (
        "driver is a stub",
        GpuFault.DRIVER,
        "this libcuda is the toolkit's, without a driver: take it off LD_LIBRARY_PATH",
    ),
    ("Grid license", GpuFault.DRIVER, "this virtual GPU has no licence: see nvidia-gridd"),
    ("illegal memory access", GpuFault.CRASHED, _CRASH),
    ("illegal instruction", GpuFault.CRASHED, _CRASH),
    ("misaligned address", GpuFault.CRASHED, _CRASH),
    ("invalid program counter", GpuFault.CRASHED, _CRASH),
    ("device-side assert", GpuFault.CRASHED, _CRASH),
    ("launch failure", GpuFault.CRASHED, _CRASH),
    ("launch timed out", GpuFault.CRASHED, "a display's watchdog ended the kernel: prove on a card without a display"),
    ("invalid device ordinal", GpuFault.LOST, "the driver shows fewer devices: does `nvidia-smi` list this one?"),
    ("no CUDA-capable device", GpuFault.LOST, "the driver shows no device: does `nvidia-smi` answer?"),
    ("No CUDA GPUs are available", GpuFault.LOST, "the driver shows no device: does `nvidia-smi` answer?"),
    ("Found no NVIDIA driver", GpuFault.DRIVER, "the driver is not loaded: does `nvidia-smi` answer?"),
    ("driver shutting down", GpuFault.DRIVER, _RELOAD),
    (
        "system not yet initialized",
        GpuFault.DRIVER,
        "the fabric manager of this machine does not run: start nvidia-fabricmanager",
    ),
    ("unknown error", GpuFault.DRIVER, _RELOAD),
    ("initialization error", GpuFault.DRIVER, _RELOAD),
    ("C compiler", GpuFault.SOFTWARE, _COMPILER),
    ("gcc", GpuFault.SOFTWARE, _COMPILER),
    ("clang", GpuFault.SOFTWARE, _COMPILER),
    (
        "No module named 'triton'",
        GpuFault.SOFTWARE,
        "Triton comes with the torch that is built for CUDA on Linux: install that one",
    ),
    (
        ".triton",
        GpuFault.SOFTWARE,
        "Triton keeps what it compiled there: make it writable, or set TRITON_CACHE_DIR",
    ),
)
_OTHER = "`nvidia-smi` and `dmesg | grep -i xid` may say more"
_NAME = re.compile(rf"\b({'|'.join(GpuFault)})\b")


def sort_fault(text: str) -> tuple[GpuFault, str]:
    """Return the fault that a library's words mean, and what to do about it."""
    lowered = text.lower()
    for part, fault, to_do in FAULTS:
        if part.lower() in lowered:
            return fault, to_do
    return GpuFault.UNKNOWN, _OTHER


def fault_in(message: str) -> GpuFault | None:
    """Return the fault that a message of `challenges.cuda.explain` names; None in any other text."""
    found = _NAME.search(message)
    return None if found is None else GpuFault(found[1])
