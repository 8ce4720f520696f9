"""Why a proof failed, as an operator can act on it: a cause and a fix, from what the solver said or how it ended."""

from __future__ import annotations

from dataclasses import dataclass

from challenges.gpu_faults import GpuFault, fault_in, sort_fault
from polarise.errors import ProofRejected
from polarise.fixes import FIXES
from polarise.hardware import DeviceClaim
from utils import gpu


@dataclass(frozen=True, slots=True)
class Failure:
    """One proof that did not hold.

    Attributes:
        cause: What happened, with the words of whoever noticed.
        fix: What to do about it.
    """

    cause: str
    fix: str


# The first whose words are among the solver's; specific ones before general ones, all in lower case.
_KNOWN: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (("no module named 'torch'", "import of torch halted"), "torch is not installed", "make setup"),
    (
        ("out of memory", "outofmemoryerror", "memoryerror", "unable to allocate"),
        "the solver ran out of memory",
        "free memory on the device (`nvidia-smi`, `free -m`), then try again",
    ),
    (
        ("sigkill",),
        "the solver was killed: the kernel ends it first where memory runs out",
        "`dmesg | grep -i 'out of memory'` shows it; free memory, or lower what leases may take (docker.reserve_memory)",
    ),
    (
        ("sigill", "sigsegv", "sigbus"),
        "the solver crashed",
        "set miner.compiled_pow to false, or remove the folder `native` of the data directory; else make setup",
    ),
    (
        ("not compiled with cuda",),
        "this torch is made for processors only",
        "remove .venv, then make setup on the machine with the driver",
    ),
    (
        ("nvidia driver", "cuda driver", "no cuda gpus", "cuda error", "cuda unknown", "device ordinal", "nvml"),
        "CUDA does not reach the device",
        "`nvidia-smi` must show it; `dmesg | grep -i xid` says why a driver lost its card; restart the machine",
    ),
    (
        ("longer than",),
        "the solver was too slow, and was ended",
        "look for other work on the device; join again if the claim is too high",
    ),
    (
        ("no process can be started",),
        "this host has no room for another process",
        "`free -m` and `ulimit -u` show what is short",
    ),
)


def failure_of(message: str, device: DeviceClaim) -> Failure:
    """Say why a solver failed.

    Args:
        message: What `SolverFailed` says.
        device: Where it worked.
    """
    if device.kind == "gpu" and not gpu.is_present(device.uuid):
        return Failure(
            f"the driver does not find {device.uuid} any more ({message[:200]})",
            "`dmesg | grep -i xid` says why the driver lost its card; restart the machine",
        )
    fault = fault_in(message)
    if fault is not None:
        others = holders_text(device.uuid) if fault in {GpuFault.NO_ROOM, GpuFault.BUSY} else ""
        return Failure(
            f"{fault}: {message[:300]}" + (f"; now held by {others}" if others else ""), sort_fault(message)[1]
        )
    lowered = message.lower()
    for words, cause, fix in _KNOWN:
        if any(word in lowered for word in words):
            return Failure(f"{cause} ({message[:200]})", fix)
    return Failure(message[:300], "`python main.py doctor` looks at what the solver needs")


def holders_text(device: str) -> str:
    """Return who has memory on a GPU at this moment, for people; empty where NVML names nobody."""
    return ", ".join(f"process {pid} ({held_bytes >> 20} MiB)" for pid, held_bytes in gpu.holders(device).items())


def failure_of_proof(err: ProofRejected) -> Failure:
    """Say why a finished proof does not hold: what a validator would find."""
    numbers = "" if err.got is None and err.expected is None else f": got {err.got}, expected {err.expected}"
    return Failure(f"{err.reason}: {err.message}{numbers}"[:400], FIXES[err.reason])
