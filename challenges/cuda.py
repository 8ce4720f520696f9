"""One CUDA device as the solver meets it: whether it is there, current while we launch, and the cause where it fails.

Rules:
- Whatever torch, Triton or the driver raise becomes Unavailable, which names the device, what was said, and what the
  operator can do. A failed device is nobody's cheat: it costs the miner this proof and no more.
- The driver's own words decide; they are the same from its runtime, its driver interface and Triton.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from polarise.errors import SubnetError, Unavailable

# Part of what the driver, cuBLAS or Triton says -> what it means to the operator; the first that fits is taken.
CAUSES = (
    ("out of memory", "no room on the device: `nvidia-smi` shows who else holds its memory"),
    ("CUBLAS_STATUS_ALLOC_FAILED", "no room on the device: `nvidia-smi` shows who else holds its memory"),
    ("out of resource", "this card's multiprocessors are too small for the kernel; please send us the card's name"),
    ("not compiled with CUDA", "this torch is built for processors alone: install the one built for CUDA"),
    ("invalid device ordinal", "the driver shows fewer devices: does `nvidia-smi` list this one?"),
    ("no kernel image", "this torch has no code for a card of this architecture: install one that has"),
    ("PTX was compiled with an unsupported toolchain", "the driver is older than this torch: update it"),
    ("driver version is insufficient", "the driver is older than this torch: update it"),
    ("driver on your system is too old", "the driver is older than this torch: update it"),
    ("busy or unavailable", "another process holds the device alone: `nvidia-smi -q -d COMPUTE` shows the mode"),
    ("uncorrectable ECC", "the device's memory is damaged: `nvidia-smi -q -d ECC`, then reset or replace the card"),
    ("NVLink", "a link between cards failed: `dmesg | grep -i xid` says which"),
    ("illegal memory access", "a kernel crashed, ours or the card is at fault: `dmesg | grep -i xid` says more"),
    ("illegal instruction", "a kernel crashed, ours or the card is at fault: `dmesg | grep -i xid` says more"),
    ("misaligned address", "a kernel crashed, ours or the card is at fault: `dmesg | grep -i xid` says more"),
    ("launch failure", "a kernel crashed, ours or the card is at fault: `dmesg | grep -i xid` says more"),
    ("launch timed out", "a display's watchdog ended the kernel: prove on a card without a display"),
    ("GPU is lost", "the card fell off the bus: `dmesg | grep -i xid`, then reboot"),
    ("no CUDA-capable device", "the driver shows no device: does `nvidia-smi` answer?"),
    ("Found no NVIDIA driver", "the driver is not loaded: does `nvidia-smi` answer?"),
    ("system not yet initialized", "the fabric manager of this machine does not run: start nvidia-fabricmanager"),
    ("unknown error", "the driver failed: does `nvidia-smi` answer? Reload it or reboot"),
    ("initialization error", "the driver failed: does `nvidia-smi` answer? Reload it or reboot"),
    ("C compiler", "Triton builds its launcher when it first runs: install gcc, and python3-dev for this Python"),
    ("gcc", "Triton builds its launcher when it first runs: install gcc, and python3-dev for this Python"),
    ("clang", "Triton builds its launcher when it first runs: install gcc, and python3-dev for this Python"),
    ("No module named 'triton'", "Triton comes with the torch that is built for CUDA on Linux: install that one"),
    (".triton", "Triton keeps what it compiled there: make it writable, or set TRITON_CACHE_DIR"),
)
_OTHER = "`nvidia-smi` and `dmesg | grep -i xid` may say more"
_MESSAGE_LENGTH_MAX = 300


def open_device(name: str) -> torch.device:
    """Return the device, after looking whether it is there.

    Args:
        name: "cuda:N".

    Raises:
        Unavailable: This torch has no CUDA, or the driver shows no such device.
    """
    with causes_of(name):
        device = torch.device(name)
        torch.empty(0, device=device)
    return device


@contextmanager
def using(device: torch.device) -> Iterator[None]:
    """Make the device current, as Triton launches where torch stands, and turn its failures into causes."""
    with causes_of(str(device)):
        if device.type != "cuda":
            yield
            return
        with torch.cuda.device(device):
            yield


@contextmanager
def causes_of(name: str) -> Iterator[None]:
    """Turn whatever the device's libraries raise into Unavailable; what is ours already passes.

    Raises:
        Unavailable: With the device, the library's own words, and what to do.
    """
    try:
        yield
    except SubnetError:
        raise
    except Exception as err:
        raise Unavailable(explain(name, err)) from err


def explain(name: str, err: BaseException) -> str:
    """Return one line: the device, the first line of what was said, and what to do."""
    text = str(err)
    said = (text.strip().splitlines() or [type(err).__name__])[0][:_MESSAGE_LENGTH_MAX]
    cause = next((cause for part, cause in CAUSES if part.lower() in text.lower()), _OTHER)
    return f"{name}: {said}: {cause}"
