"""The matmul proof's arithmetic in torch, on the CPU or one CUDA device.

Rules:
- Bit for bit equal to the numpy reference. Operands and digests are made by `eager_mixes` on a CPU and by kernels on a GPU
  (`fused_mixes`); where Triton cannot compile, eager mixes serve there too, and a warning says so. At n = 16384 on an
  H200 they are estimated at 4 ms per operand, kernels below 0.3 ms.
- On CUDA the operands are bf16 (fp16 before sm_80) and the product is fp32 with reduced-precision reductions off, as
  bf16 output would round. Digests leave the device through pinned memory behind an event, so that waiting for round
  r - 1 does not wait for round r.
- A GPU that is made ready computes a round of full size, of which two tiles are compared with the reference: a card or a
  library that sums inexactly is found before it costs score.

The CUDA path was written without a GPU at hand: on CUDA it is a prediction. Tests run it on the CPU under Triton's
interpreter, all but the launch itself, the half-precision product, and pinned memory.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
import torch

from challenges import digest, prng
from challenges.cuda import open_device, using
from challenges.device_keys import DeviceKeys, upload
from challenges.eager_mixes import EagerMixes
from challenges.fused_mixes import FusedMixes, open_fused_mixes
from challenges.matmul_messages import MatmulParams, TilePosition
from challenges.solver import PendingRound
from challenges.tile_recomputer import TileRecomputer
from polarise.errors import Unavailable

# Of torch.backends.cuda.matmul: each may round a sum of products to sixteen bits.
INEXACT_SWITCHES = (
    "allow_bf16_reduced_precision_reduction",
    "allow_fp16_reduced_precision_reduction",
    "allow_fp16_accumulation",
)
_BF16_CAPABILITY = (8, 0)
_WARM_UP_SEED = bytes(32)

logger = logging.getLogger(__name__)


class Mixes(Protocol):
    """What makes operands and digests, for a band of rows at a time."""

    def fill(self, keys: DeviceKeys, a: torch.Tensor, b: torch.Tensor, band: slice) -> None:
        """Write these rows of A and of B, each [n, n]."""

    def digest(self, keys: DeviceKeys, c: torch.Tensor, band: slice, tile: int, lanes: torch.Tensor) -> None:
        """Write the lanes, [n / tile, n / tile, 2] int32, of a band of tiles of the product [n, n] float32."""


class TorchBackend:
    """One device's arithmetic; holds the operands of one round and scratch space: 12 * n**2 bytes on a CPU, 8 on a GPU.

    On a CPU each band of rows is the work of one thread, and threads meet twice a round. Torch's own threads meet in
    every operation and spin while they wait: beside one busy process they lost 50 to 96 % of their speed, ours half.

    Not for use by two threads at once. Subclasses may replace `multiply` to cheat in tests.

    Args:
        device: "cpu" or "cuda:N".
        fused: Kernels to use; None opens those of a GPU, and on a CPU uses none.

    Raises:
        Unavailable: No such GPU.
    """

    def __init__(self, device: str, fused: FusedMixes | None = None) -> None:
        self._is_cuda = device.startswith("cuda")
        self._device = open_device(device) if self._is_cuda else torch.device(device)
        self._operand_type = _operand_type(self._device)
        if fused is None and self._is_cuda:
            fused = fused_or_none(self._device, self._operand_type)
        self._fused = fused
        self._is_whole = self._is_cuda or fused is not None
        self._n = 0
        self._workers = 1 if self._is_whole else _cpu_count()
        self._pool = ThreadPoolExecutor(self._workers, "solver", initializer=_one_torch_thread)

    def prepare(self, params: MatmulParams) -> None:
        """Allocate for these sizes and run one round, so that libraries load and clocks rise before the timing.

        Raises:
            Unavailable: The device failed, or its products are not exact.
        """
        keys = prng.round_keys(_WARM_UP_SEED, params.n)
        lanes = self.start_round(params, keys)()
        if self._is_whole:
            self._compare_tiles(params, keys, lanes)

    def start_round(self, params: MatmulParams, keys: prng.RoundKeys) -> PendingRound:
        """Queue operands, product and digests of one round; on a CPU they are done when this returns.

        Raises:
            Unavailable: The device failed, here or in the returned call.
        """
        if not self._is_cuda:
            return self._start_round(params, keys)
        with using(self._device):
            return self._start_round(params, keys)

    def multiply(self, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> None:
        """Write the exact product of a [rows, n] and b [n, n] to c [rows, n] float32; rows is a multiple of the tile."""
        if self._is_cuda:
            torch.mm(a, b, out_dtype=torch.float32, out=c)
        else:
            torch.mm(a, b, out=c)

    def _start_round(self, params: MatmulParams, keys: prng.RoundKeys) -> PendingRound:
        if self._n != params.n:
            self._allocate(params.n)
        device_keys = upload(keys, self._device)
        tiles = params.tiles_per_side
        lanes = torch.empty((tiles, tiles, digest.LANES), dtype=torch.int32, device=self._device)

        def multiply_and_digest(rows: slice) -> None:
            self.multiply(self._a[rows], self._b, self._c[rows])
            self._mixes.digest(device_keys, self._c, rows, params.tile, lanes)

        self._in_bands(params.tile, lambda rows: self._mixes.fill(device_keys, self._a, self._b, rows))
        self._in_bands(params.tile, multiply_and_digest)
        return self._hand_over(lanes)

    def _in_bands(self, tile: int, work: Callable[[slice], None]) -> None:
        """Do ``work`` for all rows: at once on a GPU, in bands of whole tiles on the threads of a CPU."""
        if self._is_whole:
            with torch.inference_mode():
                work(slice(0, self._n))
            return
        # Two bands a thread, so that one that is held up leaves the last band to another.
        height = -(-self._n // tile // (2 * self._workers)) * tile or tile
        bands = [slice(top, min(top + height, self._n)) for top in range(0, self._n, height)]

        def run(band: slice) -> None:
            with torch.inference_mode():
                work(band)

        for _ in self._pool.map(run, bands):
            pass

    def _allocate(self, n: int) -> None:
        # What was held goes first: both sizes together may be more than there is.
        self._n = 0
        self._a = self._b = self._c = torch.empty(0, device=self._device)
        self._a = torch.empty((n, n), dtype=self._operand_type, device=self._device)
        self._b = torch.empty_like(self._a)
        self._c = torch.empty((n, n), dtype=torch.float32, device=self._device)
        self._mixes: Mixes = self._fused or EagerMixes(self._device, n, self._workers)
        self._n = n

    def _hand_over(self, lanes: torch.Tensor) -> PendingRound:
        if not self._is_cuda:
            return lambda: lanes.numpy().view(np.uint32)
        host = torch.empty(lanes.shape, dtype=lanes.dtype, pin_memory=True)
        host.copy_(lanes, non_blocking=True)
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        copied.record(torch.cuda.current_stream(self._device))

        def wait() -> prng.UInt32Array:
            with using(self._device):
                copied.synchronize()
            # Copied out, so that the pinned block goes back to torch's pool.
            return host.numpy().view(np.uint32).copy()

        return wait

    def _compare_tiles(self, params: MatmulParams, keys: prng.RoundKeys, lanes: prng.UInt32Array) -> None:
        """Compare the first and the last tile of a round with the validator's arithmetic."""
        last = params.tiles_per_side - 1
        recomputer = TileRecomputer(params)
        for index in (0, last):
            corner = index * params.tile
            product = recomputer.product(keys, TilePosition(0, index, index))
            expected = digest.tile_digest_bytes(product, keys, corner, corner)
            if lanes[index, index].astype("<u4").tobytes() != expected:
                message = f"{self._device}: tile {index}, {index} at n = {params.n} is not that of the exact product"
                raise Unavailable(f"{message}; the card or its libraries err, please send us both names")


def _operand_type(device: torch.device) -> torch.dtype:
    """Choose the fastest type that holds 9-bit integers, and turn off whatever would make sums inexact.

    The switches are torch's own process-wide state; the solver is a process of its own.

    Raises:
        Unavailable: A switch did not turn: sums would be rounded.
    """
    torch.set_float32_matmul_precision("highest")
    if device.type != "cuda":
        return torch.float32
    refuse_inexact_sums(device)
    return torch.bfloat16 if torch.cuda.get_device_capability(device) >= _BF16_CAPABILITY else torch.float16


def refuse_inexact_sums(device: torch.device) -> None:
    """Turn off what would round sums of half-precision products, and look whether it is off.

    Raises:
        Unavailable: A switch did not turn.
    """
    switches = torch.backends.cuda.matmul
    for name in INEXACT_SWITCHES:
        setattr(switches, name, False)
        if getattr(switches, name) is not False:
            raise Unavailable(f"{device}: torch {torch.__version__} keeps {name} on, sums would be rounded")


def fused_or_none(device: torch.device, operand_type: torch.dtype) -> FusedMixes | None:
    """Return the kernels of a device; None, with a warning that says why, where they cannot be used."""
    try:
        return open_fused_mixes(device, operand_type)
    except Unavailable as err:
        # In the message, as the solver's process shows no fields.
        logger.warning("no kernels, eager torch instead: %s", err)
        return None


def _cpu_count() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def _one_torch_thread() -> None:
    # OpenMP keeps this setting per thread, so each of ours has to say it.
    torch.set_num_threads(1)
