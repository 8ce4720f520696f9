"""NVML through nvidia-ml-py: which GPUs this machine has; no driver means none, never invented ones."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import pynvml


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as NVML names it.

    Attributes:
        index: NVML index, 0-based; changes when cards are added.
        uuid: ``GPU-...``; does not change.
        name: Product name.
        memory_bytes: Device memory.
    """

    index: int
    uuid: str
    name: str
    memory_bytes: int


def list_gpus() -> tuple[Gpu, ...]:
    """Return all GPUs in the order of their index; empty without a driver."""
    with _nvml() as is_present:
        if not is_present:
            return ()
        return tuple(_gpu(index) for index in range(int(pynvml.nvmlDeviceGetCount())))


def _gpu(index: int) -> Gpu:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    return Gpu(
        index=index,
        uuid=str(pynvml.nvmlDeviceGetUUID(handle)),
        name=str(pynvml.nvmlDeviceGetName(handle)),
        memory_bytes=int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
    )


@contextlib.contextmanager
def _nvml() -> Iterator[bool]:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield False
        return
    try:
        yield True
    finally:
        pynvml.nvmlShutdown()
