"""What the probe found of a GPU inside a rented container, held against receipt and claim, and recomputed.

Rules:
- A container that rented no GPU must see none. One that rented one sees that one, by UUID, under the name and with about the memory
  that the registry entry claims for it, and has computed from this receipt's nonce.
- Where the image has no ctypes or no libcuda nothing was looked at, which is no fault: a renter brings both.
- All of it is the word of the miner's machine. A container without any GPU can compute the same words on a processor, and say
  any name and time. What it finds is an honest mistake: a wrong device handed out, a card that is missing or renamed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
from pydantic import Field

from challenges.digest import MULTIPLIER_FIRST, MULTIPLIER_SECOND
from neurons.validator import gpu_probe
from polarise.decode import WireModel
from polarise.hardware import DeviceClaim
from polarise.receipt import Receipt

UNTOUCHED = frozenset({"no ctypes", "no libcuda"})
# NVML's total holds what the driver keeps for itself, which CUDA's does not; up to a twentieth is no other card.
MEMORY_TOLERANCE_PERCENT = 5

Check = tuple[str, object, object, bool]


class GpuTrial(WireModel):
    """The first GPU that a container sees; `state` alone where there was nothing to look at, see `gpu_probe`."""

    state: str = Field(max_length=80)
    cards_count: int = Field(default=0, ge=0, lt=1024)
    name: str = Field(default="", max_length=256)
    uuid: str = Field(default="", max_length=96)
    memory_bytes: int = Field(default=0, ge=0, lt=2**53)
    proof: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")
    last_step: str = Field(default="", pattern=r"^([0-9a-f]{16})?$")
    steps_us: int = Field(default=0, ge=0, lt=2**53)


def gpu_checks(trial: GpuTrial, receipt: Receipt) -> Iterator[Check]:
    """Yield what must hold by the receipt: name of the check, what was found, what was expected, whether it holds."""
    is_seen = trial.state == gpu_probe.LOOKED
    if not receipt.devices:
        yield "the absence of GPUs", trial.uuid or trial.state, "none was rented", not is_seen
        return
    if trial.state in UNTOUCHED:
        return
    yield "a rented GPU that computes", trial.state, gpu_probe.LOOKED, is_seen
    if not is_seen:
        return
    yield "cards_count", trial.cards_count, len(receipt.devices), trial.cards_count == len(receipt.devices)
    yield "the UUID of the first GPU", trial.uuid, receipt.devices, trial.uuid in receipt.devices
    proof, last_step = expected_words(receipt.nonce, trial.uuid)
    yield "the proof of the GPU", trial.proof, proof, trial.proof == proof
    yield "the last step of the GPU", trial.last_step, last_step, trial.last_step == last_step


def gpu_claim_checks(trial: GpuTrial, devices: tuple[DeviceClaim, ...]) -> Iterator[Check]:
    """Yield what must hold by the registry entry's claim of the same device."""
    for device in devices:
        if trial.state != gpu_probe.LOOKED or device.uuid != trial.uuid:
            continue
        yield f"the name of {device.uuid}", trial.name, device.name, trial.name == device.name
        least = device.memory_bytes * (100 - MEMORY_TOLERANCE_PERCENT) // 100
        is_there = trial.memory_bytes >= least
        yield f"the memory of {device.uuid}", trial.memory_bytes, f">= {least}", is_there


def expected_words(nonce: str, uuid: str) -> tuple[str, str]:
    """Compute on a processor what `gpu_probe.PTX` makes of a lease's nonce on the card of this UUID: proof, last step."""
    first, second = gpu_probe.seed_words(nonce, uuid)
    count = gpu_probe.BLOCKS * gpu_probe.THREADS
    words = mixed(np.arange(count, dtype=np.uint32), first, second, gpu_probe.ROUNDS)
    index = np.arange(2, dtype=np.uint32)
    for _ in range(gpu_probe.STEPS):
        first, second = mixed(index, first, second, gpu_probe.STEP_ROUNDS).tolist()
    return hashlib.sha256(words.astype("<u4").tobytes()).hexdigest(), f"{first:08x}{second:08x}"


def mixed(index: np.typing.NDArray[np.uint32], first: int, second: int, rounds: int) -> np.typing.NDArray[np.uint32]:
    """Return the word of each thread, as the kernel `mix` makes it."""
    x, y = index ^ np.uint32(first), np.uint32(second)
    for _ in range(rounds):
        x = x * np.uint32(MULTIPLIER_FIRST) + y
        x ^= x >> np.uint32(15)
        x = x * np.uint32(MULTIPLIER_SECOND)
        x ^= x >> np.uint32(13)
    return x
