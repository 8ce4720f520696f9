"""The matmul proof's arithmetic in torch, on the CPU or one CUDA device; the only module here that imports torch.

Rules:
- Bit for bit equal to the numpy reference: int32 wraps around as uint32 does, and a logical shift is an arithmetic one
  and a mask.
- Operands and digests are made in chunks that stay in cache: the mixes are about ten passes over each chunk, which
  main memory would make three times slower on a CPU.
- On CUDA the operands are bf16 (fp16 before sm_80) and the product is fp32 with reduced-precision reductions off, as
  bf16 output would round. Digests leave the device through pinned memory behind an event, so that waiting for round
  r - 1 does not wait for round r.

The CUDA path was written without a GPU at hand: on the CPU it is tested, on CUDA it is a prediction. Eager mixes cost
about 4 ms per operand at n = 16384 on an H200 (estimate); the fused Triton kernel that takes it below 0.3 ms comes with
`challenges/kernels.py`.
"""

from __future__ import annotations

import os
import queue
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from challenges import digest, prng
from challenges.matmul import MatmulParams
from challenges.solver import PendingRound

_CPU_CHUNK_ELEMENTS = 1 << 17
_CUDA_CHUNK_ELEMENTS = 1 << 23
_BF16_CAPABILITY = (8, 0)
_WARM_UP_SEED = bytes(32)


@dataclass(frozen=True, slots=True)
class _Keys:
    """Keys of one round on the device, shaped [n, 1] for rows and [1, n] for columns."""

    a_row: torch.Tensor
    a_salt: torch.Tensor
    a_inner: torch.Tensor
    b_inner: torch.Tensor
    b_column: torch.Tensor
    b_salt: torch.Tensor
    digest_row: torch.Tensor
    digest_column: torch.Tensor


class TorchBackend:
    """One device's arithmetic; holds the operands of one round and scratch space, 12 * n**2 bytes on a CPU.

    On a CPU each band of rows is the work of one thread, and threads meet twice a round. Torch's own threads meet in
    every operation and spin while they wait: beside one busy process they lost 50 to 96 % of their speed, ours half.

    Not for use by two threads at once. Subclasses may replace `multiply` to cheat in tests.

    Args:
        device: "cpu" or "cuda:N".
    """

    def __init__(self, device: str) -> None:
        self._device = torch.device(device)
        self._is_cuda = self._device.type == "cuda"
        self._n = 0
        self._workers = 1 if self._is_cuda else _cpu_count()
        self._pool = ThreadPoolExecutor(self._workers, "solver", initializer=_one_torch_thread)
        self._scratches: queue.SimpleQueue[tuple[torch.Tensor, torch.Tensor]] = queue.SimpleQueue()

    def prepare(self, params: MatmulParams) -> None:
        """Allocate for these sizes and run one round, so that libraries load and clocks rise before the timing."""
        self.start_round(params, prng.round_keys(_WARM_UP_SEED, params.n))()

    def start_round(self, params: MatmulParams, keys: prng.RoundKeys) -> PendingRound:
        """Queue operands, product and digests of one round; on a CPU they are done when this returns."""
        if self._n != params.n:
            self._allocate(params.n)
        device_keys = self._upload_all(keys)
        tiles = params.tiles_per_side
        lanes = torch.empty((tiles, tiles, digest.LANES), dtype=torch.int32, device=self._device)
        self._in_bands(params.tile, lambda rows: self._fill_operands(device_keys, rows))
        self._in_bands(params.tile, lambda rows: self._multiply_and_digest(device_keys, rows, params.tile, lanes))
        return self._hand_over(lanes)

    def multiply(self, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> None:
        """Write the exact product of a [rows, n] and b [n, n] to c [rows, n] float32; rows is a multiple of the tile."""
        if self._is_cuda:
            torch.mm(a, b, out_dtype=torch.float32, out=c)
        else:
            torch.mm(a, b, out=c)

    def _in_bands(self, tile: int, work: Callable[[slice], None]) -> None:
        """Do ``work`` for all rows: at once on a GPU, in bands of whole tiles on the threads of a CPU."""
        if self._is_cuda:
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
        chunk = min(n * n, max(n, _CUDA_CHUNK_ELEMENTS if self._is_cuda else _CPU_CHUNK_ELEMENTS))
        operand_type = self._operand_type()
        self._a = torch.empty((n, n), dtype=operand_type, device=self._device)
        self._b = torch.empty_like(self._a)
        self._c = torch.empty((n, n), dtype=torch.float32, device=self._device)
        self._chunk = chunk
        self._scratches = queue.SimpleQueue()
        for _ in range(self._workers):
            words = torch.empty(chunk, dtype=torch.int32, device=self._device)
            self._scratches.put((words, torch.empty_like(words)))
        self._n = n

    def _operand_type(self) -> torch.dtype:
        """Choose the fastest type that holds 9-bit integers, and turn off whatever would make sums inexact.

        The switches are torch's own process-wide state; the solver is a process of its own.
        """
        torch.set_float32_matmul_precision("highest")
        if not self._is_cuda:
            return torch.float32
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
        torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
        return torch.bfloat16 if torch.cuda.get_device_capability(self._device) >= _BF16_CAPABILITY else torch.float16

    def _fill_operands(self, keys: _Keys, band: slice) -> None:
        step = max(1, self._chunk // self._n)
        for start in range(band.start, band.stop, step):
            rows = slice(start, min(start + step, band.stop))
            self._mix(self._a[rows], keys.a_row[rows], keys.a_inner, keys.a_salt[rows], prng.A_SHIFT)
            self._mix(self._b[rows], keys.b_inner[rows], keys.b_column, keys.b_salt, prng.B_SHIFT)

    def _mix(self, out: torch.Tensor, row: torch.Tensor, column: torch.Tensor, salt: torch.Tensor, shift: int) -> None:
        with self._scratch(out.shape) as (x, y):
            torch.bitwise_xor(row, column, out=x)
            x.mul_(_signed(prng.MULTIPLIER_FIRST))
            _xor_shift(x, y, prng.XORSHIFT)
            x.bitwise_xor_(salt)
            x.mul_(_signed(prng.MULTIPLIER_SECOND))
            x.bitwise_right_shift_(shift)
            out.copy_(x)

    def _multiply_and_digest(self, keys: _Keys, band: slice, tile: int, lanes: torch.Tensor) -> None:
        """Multiply a band and digest its tiles, in blocks of columns so narrow that the scratch space holds them."""
        self.multiply(self._a[band], self._b, self._c[band])
        capacity = max(1, self._chunk // (tile * tile))
        width = min(self._n // tile, capacity) * tile
        height = max(1, capacity * tile // width) * tile
        for top in range(band.start, band.stop, height):
            rows = slice(top, min(top + height, band.stop))
            for left in range(0, self._n, width):
                columns = slice(left, min(left + width, self._n))
                block = lanes[rows.start // tile : rows.stop // tile, columns.start // tile : columns.stop // tile]
                self._digest_block(
                    self._c[rows, columns], keys.digest_row[rows], keys.digest_column[:, columns], tile, block
                )

    def _digest_block(
        self, product: torch.Tensor, row_keys: torch.Tensor, column_keys: torch.Tensor, tile: int, out: torch.Tensor
    ) -> None:
        with self._scratch(product.shape) as (x, y):
            x.copy_(product)
            x.add_(row_keys)
            x.mul_(_signed(digest.MULTIPLIER_FIRST))
            _xor_shift(x, y, digest.XORSHIFT_FIRST)
            x.bitwise_xor_(column_keys)
            x.mul_(_signed(digest.MULTIPLIER_SECOND))
            _xor_shift(x, y, digest.XORSHIFT_SECOND)
            out[..., 0] = _tile_sums(x, tile)
            x.mul_(_signed(digest.MULTIPLIER_LANE))
            _xor_shift(x, y, digest.XORSHIFT_LANE)
            out[..., 1] = _tile_sums(x, tile)

    @contextmanager
    def _scratch(self, shape: torch.Size) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Lend two blocks of words; there is a pair for each thread."""
        pair = self._scratches.get()
        try:
            size = shape.numel()
            yield pair[0][:size].view(shape), pair[1][:size].view(shape)
        finally:
            self._scratches.put(pair)

    def _upload_all(self, keys: prng.RoundKeys) -> _Keys:
        return _Keys(
            a_row=self._upload(keys.a_row)[:, None],
            a_salt=self._upload(keys.a_row_salt)[:, None],
            a_inner=self._upload(keys.a_inner)[None, :],
            b_inner=self._upload(keys.b_inner)[:, None],
            b_column=self._upload(keys.b_column)[None, :],
            b_salt=self._upload(keys.b_column_salt)[None, :],
            digest_row=self._upload(keys.digest_row)[:, None],
            digest_column=self._upload(keys.digest_column)[None, :],
        )

    def _upload(self, keys: prng.UInt32Array) -> torch.Tensor:
        tensor = torch.from_numpy(keys.view(np.int32).copy())
        # From pageable memory the copy would make the host wait for the round before.
        return tensor.pin_memory().to(self._device, non_blocking=True) if self._is_cuda else tensor

    def _hand_over(self, lanes: torch.Tensor) -> PendingRound:
        if not self._is_cuda:
            return lambda: lanes.numpy().view(np.uint32)
        host = torch.empty(lanes.shape, dtype=lanes.dtype, pin_memory=True)
        host.copy_(lanes, non_blocking=True)
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        copied.record(torch.cuda.current_stream(self._device))

        def wait() -> prng.UInt32Array:
            copied.synchronize()
            # Copied out, so that the pinned block goes back to torch's pool.
            return host.numpy().view(np.uint32).copy()

        return wait


def _cpu_count() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def _one_torch_thread() -> None:
    # OpenMP keeps this setting per thread, so each of ours has to say it.
    torch.set_num_threads(1)


def _xor_shift(x: torch.Tensor, y: torch.Tensor, bits: int) -> None:
    """Do x ^= x >>> bits, with y as scratch; int32 shifts drag the sign along, which the mask takes off."""
    torch.bitwise_right_shift(x, bits, out=y)
    y.bitwise_and_((1 << (32 - bits)) - 1)
    x.bitwise_xor_(y)


def _tile_sums(block: torch.Tensor, tile: int) -> torch.Tensor:
    """Sum the words of each tile of [rows, columns] modulo 2**32."""
    rows, columns = block.shape
    bands = block.view(rows // tile, tile, columns).sum(dim=1, dtype=torch.int32)
    return bands.view(rows // tile, columns // tile, tile).sum(dim=2, dtype=torch.int32)


def _signed(word: int) -> int:
    """Read an unsigned 32-bit number as the int32 that torch wants."""
    return word - (1 << 32) if word >= 1 << 31 else word
