"""The proof of work on a GPU: stretches of nonces as launches of `sha256_kernel`, several queued, taken in their order.

Rules:
- The kernel reports candidates, nonces whose last digest word is small enough; hashlib makes each one's value before it
  counts as a share. A share is therefore never wrong, and a scan that misses one is found before the first proof, by
  comparison with the reference.
- A launch has a buffer of fixed length. Where a stretch has more candidates than that, which only the easiest targets
  bring, it is scanned again in halves, down to a length that cannot overflow.
- A stretch is 1/64 of the proof, so that what is scanned beyond the last share is under a hundredth of the work, and long
  enough that launches cost nothing: 2**24 nonces are a millisecond of an H200 by plan.
- What a launch found comes through pinned memory behind an event, so that waiting for one does not wait for the next.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from challenges.cuda import open_device, using
from challenges.pow import PowParams, share_prefix, share_value
from challenges.pow_solver import WARM_UP_SEED, NumpyPowBackend, PendingShares
from polarise.errors import Unavailable

if TYPE_CHECKING:
    from types import ModuleType

STEPS = 64
STRETCHES_PER_PROOF = 64
STRETCH_NONCES_MIN = 1 << 24
STRETCH_NONCES_MAX = 1 << 30

_WORD_MASK = (1 << 32) - 1
_WORD_BITS = 32
# As many as one program can find, so that the shortest stretch cannot overflow.
_CAPACITY_MIN = 1 << 14
_CHECK_SHARES = 64


class CudaPowBackend:
    """One device's hashes.

    Args:
        device: A CUDA device, or the CPU where Triton interprets.
        kernels: `challenges.sha256_kernel`, whose import is the caller's.
        steps: How often one program of the kernel scans its 256 nonces, a power of two.
        stretch_nonces_min: Shortest stretch, a power of two of at least one program; it is shorter only where the buffer
            asks for it.
    """

    scans_queued = 3

    def __init__(
        self,
        device: torch.device,
        kernels: ModuleType,
        *,
        steps: int = STEPS,
        stretch_nonces_min: int = STRETCH_NONCES_MIN,
    ) -> None:
        self._device = device
        self._kernels = kernels
        self._steps = steps
        self._program_nonces = steps * int(kernels.NONCES_PER_STEP)
        self._capacity = max(_CAPACITY_MIN, self._program_nonces)
        self._stretch_nonces_min = stretch_nonces_min
        self.scan_nonces = stretch_nonces_min

    def prepare(self, params: PowParams) -> None:
        """Compile, compare with the reference, choose the length of a stretch, and scan one of that length.

        Raises:
            Unavailable: The device failed, or found other shares than the reference.
        """
        self._compare()
        self.scan_nonces = self._stretch_nonces(params)
        # No target: the clocks rise, and there is nothing to look through.
        self.start_scan(share_prefix(params, WARM_UP_SEED), 0, params.nonces.start)()

    def start_scan(self, prefix: bytes, target: int, start: int) -> PendingShares:
        """Queue one stretch; its shares come from the returned call, rising.

        Raises:
            Unavailable: The device failed, here or in the returned call.
        """
        return self._queue(prefix, target, start, self.scan_nonces)

    def _queue(self, prefix: bytes, target: int, start: int, nonces: int) -> PendingShares:
        fetch = self._launch(prefix, target >> _WORD_BITS, start, nonces)

        def wait() -> list[int]:
            found = fetch()
            count = int(found[0])
            if count > self._capacity:
                # Halves of a stretch are aligned to their length, as stretches are.
                half = nonces // 2
                first = self._queue(prefix, target, start, half)
                second = self._queue(prefix, target, start + half, half)
                return [*first(), *second()]
            base = start & ~_WORD_MASK
            candidates = (base | low for low in np.sort(found[1 : 1 + count].view(np.uint32)).tolist())
            return [nonce for nonce in candidates if share_value(prefix, nonce) <= target]

        return wait

    def _launch(
        self, prefix: bytes, last_word_max: int, start: int, nonces: int
    ) -> Callable[[], npt.NDArray[np.int32]]:
        """Start the kernel, and return a call that waits for [1 + capacity] int32: how many, and their low words."""
        high, low = start >> _WORD_BITS, start & _WORD_MASK
        with using(self._device):
            found = torch.zeros(1 + self._capacity, dtype=torch.int32, device=self._device)
            self._kernels.search_shares[(nonces // self._program_nonces,)](
                *self._kernels.shared_words(prefix, high),
                self._kernels.signed(low),
                self._kernels.signed(last_word_max),
                found[:1],
                found[1:],
                self._capacity,
                steps=self._steps,
                num_warps=self._kernels.WARPS,
            )
            return self._hand_over(found)

    def _hand_over(self, found: torch.Tensor) -> Callable[[], npt.NDArray[np.int32]]:
        if self._device.type != "cuda":
            return found.numpy
        host = torch.empty(found.shape, dtype=found.dtype, pin_memory=True)
        host.copy_(found, non_blocking=True)
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        copied.record(torch.cuda.current_stream(self._device))

        def wait() -> npt.NDArray[np.int32]:
            with using(self._device):
                copied.synchronize()
            return host.numpy()

        return wait

    def _stretch_nonces(self, params: PowParams) -> int:
        """Choose a power of two: a part of the proof, long enough to be worth a launch, with half the buffer to spare."""
        wanted = min(max(params.operations // STRETCHES_PER_PROOF, self._stretch_nonces_min), STRETCH_NONCES_MAX)
        fitting = max(min(wanted, params.difficulty * self._capacity // 2), self._program_nonces)
        length: int = 1 << (fitting.bit_length() - 1)
        return length

    def _compare(self) -> None:
        """Find what one program finds, and what numpy finds in the same nonces; they lie on both sides of 2**31."""
        params = PowParams(_CHECK_SHARES, max(self._program_nonces // _CHECK_SHARES, 1))
        prefix, start = share_prefix(params, WARM_UP_SEED), (1 << 31) - self._program_nonces // 2
        reference = NumpyPowBackend(lanes=self._program_nonces, calls=1)
        ours = self._queue(prefix, params.target, start, self._program_nonces)()
        if ours != reference.scan(prefix, params.target, start):
            message = f"{self._device}: the kernel finds other shares than the reference"
            raise Unavailable(f"{message}; please send us the card's name")


def open_cuda_pow_backend(name: str) -> CudaPowBackend:
    """Return the backend of one GPU.

    Args:
        name: "cuda:N".

    Raises:
        Unavailable: No such device, or Triton is missing.
    """
    device = open_device(name)
    with using(device):
        from challenges import sha256_kernel
    return CudaPowBackend(device, sha256_kernel)
