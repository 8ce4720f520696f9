"""The CUDA driver's own library through ctypes, as far as overwriting a card's memory needs it; no torch, no toolkit.

Rules:
- One process for one card: `CUDA_VISIBLE_DEVICES` names it, and the process ends with its context.
Source: NVIDIA CUDA Driver API reference, cuda.h.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

LIBRARY = "libcuda.so.1"
OUT_OF_MEMORY = 2
CHUNK_BYTES_MAX = 1 << 30
# Smaller pieces than the driver's own pages are none of a tenant's.
CHUNK_BYTES_MIN = 2 << 20


class CudaFailed(Exception):
    """The driver is not there, or a call of it failed."""


@dataclass(frozen=True, slots=True)
class Overwritten:
    """What became of a card's memory.

    Attributes:
        bytes_count: Overwritten with zeros.
        free_bytes: Free before; what is less than this was not reached.
        total_bytes: Of the card.
    """

    bytes_count: int
    free_bytes: int
    total_bytes: int


def overwrite_memory(library: str = LIBRARY) -> Overwritten:
    """Allocate all memory of the only visible card, piece by piece, and set it to zero.

    Raises:
        CudaFailed: There is no driver, not exactly one card, or a call failed.
    """
    try:
        cuda = ctypes.CDLL(library)
    except OSError as err:
        raise CudaFailed(f"the CUDA driver cannot be loaded: {err}") from err
    _call(cuda, "cuInit", 0)
    count, device, context = ctypes.c_int(), ctypes.c_int(), ctypes.c_void_p()
    _call(cuda, "cuDeviceGetCount", ctypes.byref(count))
    if count.value != 1:
        raise CudaFailed(f"{count.value} cards are visible, expected 1")
    _call(cuda, "cuDeviceGet", ctypes.byref(device), 0)
    _call(cuda, "cuCtxCreate_v2", ctypes.byref(context), 0, device)
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    _call(cuda, "cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
    found = Overwritten(_overwrite(cuda), free.value, total.value)
    _call(cuda, "cuCtxSynchronize")
    _call(cuda, "cuCtxDestroy_v2", context)
    return found


def _overwrite(cuda: ctypes.CDLL) -> int:
    """Take and clear ever smaller pieces until none is left; all stay taken, so that each one is another."""
    size, done = CHUNK_BYTES_MAX, 0
    while size >= CHUNK_BYTES_MIN:
        address = ctypes.c_uint64()
        status = _status(cuda, "cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
        if status == OUT_OF_MEMORY:
            size //= 2
            continue
        if status:
            raise CudaFailed(f"cuMemAlloc_v2 failed with status {status}")
        _call(cuda, "cuMemsetD8_v2", address, ctypes.c_ubyte(0), ctypes.c_size_t(size))
        done += size
    return done


def _call(cuda: ctypes.CDLL, name: str, *arguments: object) -> None:
    if status := _status(cuda, name, *arguments):
        raise CudaFailed(f"{name} failed with status {status}")


def _status(cuda: ctypes.CDLL, name: str, *arguments: object) -> int:
    try:
        function = getattr(cuda, name)
    except AttributeError as err:
        raise CudaFailed(f"the CUDA driver has no {name}") from err
    return int(function(*arguments))
