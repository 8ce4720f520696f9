"""The matmul proof's mixes in eager torch: operands from keys, digests from the product, a chunk at a time.

Rules:
- int32 wraps around as uint32 does, and a logical shift is an arithmetic one and a mask.
- The mixes are about ten passes over each chunk, which stays in cache; main memory would make them three times slower on
  a CPU. On a GPU they are the way out where Triton cannot compile.
"""

from __future__ import annotations

import queue
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from challenges import digest, prng
from challenges.device_keys import DeviceKeys

_CPU_CHUNK_ELEMENTS = 1 << 17
_CUDA_CHUNK_ELEMENTS = 1 << 23


class EagerMixes:
    """Scratch space for one size: a pair of chunks for each thread, which may mix at once.

    Args:
        device: Where the tensors are.
        n: Side of the matrices.
        threads: How many threads mix at once.
    """

    def __init__(self, device: torch.device, n: int, threads: int) -> None:
        self._n = n
        self._chunk = min(n * n, max(n, _CUDA_CHUNK_ELEMENTS if device.type == "cuda" else _CPU_CHUNK_ELEMENTS))
        self._scratches: queue.SimpleQueue[tuple[torch.Tensor, torch.Tensor]] = queue.SimpleQueue()
        for _ in range(threads):
            words = torch.empty(self._chunk, dtype=torch.int32, device=device)
            self._scratches.put((words, torch.empty_like(words)))

    def fill(self, keys: DeviceKeys, a: torch.Tensor, b: torch.Tensor, band: slice) -> None:
        """Write these rows of A and of B, each [n, n]."""
        step = max(1, self._chunk // self._n)
        for start in range(band.start, band.stop, step):
            rows = slice(start, min(start + step, band.stop))
            self._mix(a[rows], keys.a_row[rows], keys.a_inner, keys.a_salt[rows], prng.A_SHIFT)
            self._mix(b[rows], keys.b_inner[rows], keys.b_column, keys.b_salt, prng.B_SHIFT)

    def digest(self, keys: DeviceKeys, c: torch.Tensor, band: slice, tile: int, lanes: torch.Tensor) -> None:
        """Write the lanes of a band of tiles, in blocks of columns so narrow that the scratch space holds them.

        Args:
            keys: The round's keys.
            c: The product [n, n] float32.
            band: Rows of whole tiles.
            tile: Side of a tile.
            lanes: [n / tile, n / tile, 2] int32.
        """
        capacity = max(1, self._chunk // (tile * tile))
        width = min(self._n // tile, capacity) * tile
        height = max(1, capacity * tile // width) * tile
        for top in range(band.start, band.stop, height):
            rows = slice(top, min(top + height, band.stop))
            for left in range(0, self._n, width):
                columns = slice(left, min(left + width, self._n))
                block = lanes[rows.start // tile : rows.stop // tile, columns.start // tile : columns.stop // tile]
                self._digest_block(c[rows, columns], keys.digest_row[rows], keys.digest_column[:, columns], tile, block)

    def _mix(self, out: torch.Tensor, row: torch.Tensor, column: torch.Tensor, salt: torch.Tensor, shift: int) -> None:
        with self._scratch(out.shape) as (x, y):
            torch.bitwise_xor(row, column, out=x)
            x.mul_(_signed(prng.MULTIPLIER_FIRST))
            _xor_shift(x, y, prng.XORSHIFT)
            x.bitwise_xor_(salt)
            x.mul_(_signed(prng.MULTIPLIER_SECOND))
            x.bitwise_right_shift_(shift)
            out.copy_(x)

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
