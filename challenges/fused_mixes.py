"""The matmul proof's mixes on a GPU: operands and digests by the kernels of `matmul_kernels`, compared before use.

Rules:
- Before its first proof a device fills operands and digests a product of a small size, and the numpy reference has to
  agree bit for bit. A compiler or a card that does otherwise is found here, where it costs nothing.
- The product itself is not made here: `torch_backend` multiplies, with kernels or without.
- C is read where it was written and never leaves the device; what does is eight bytes per tile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from challenges import digest, prng
from challenges.cuda import using
from challenges.device_keys import DeviceKeys, upload
from polarise.errors import Unavailable

if TYPE_CHECKING:
    from types import ModuleType

_CHECK_SEED = bytes(range(32))
# Neither a power of two nor a multiple of a block, so that the edges are looked at too.
_CHECK_N = 208
_CHECK_TILE = 16


class FusedMixes:
    """The kernels on one device; opened by `open_fused_mixes`.

    Args:
        device: A CUDA device, or the CPU where Triton interprets.
        kernels: `challenges.matmul_kernels`, whose import is the caller's.
    """

    def __init__(self, device: torch.device, kernels: ModuleType) -> None:
        self._device = device
        self._kernels = kernels

    def fill(self, keys: DeviceKeys, a: torch.Tensor, b: torch.Tensor, band: slice) -> None:
        """Write A and B, each [n, n] of bf16, fp16 or fp32; the band is all rows."""
        assert band == slice(0, len(a))  # noqa: S101  the launches of a GPU are whole
        self._fill(a, keys.a_row, keys.a_inner, keys.a_salt, shift=prng.A_SHIFT, salt_on_rows=True)
        self._fill(b, keys.b_inner, keys.b_column, keys.b_salt, shift=prng.B_SHIFT, salt_on_rows=False)

    def digest(self, keys: DeviceKeys, c: torch.Tensor, band: slice, tile: int, lanes: torch.Tensor) -> None:
        """Digest every tile of a product; the band is all rows.

        Args:
            keys: The round's keys.
            c: [n, n] float32 holding exact integers.
            band: All rows.
            tile: Side of a tile.
            lanes: [n / tile, n / tile, 2] int32, written.
        """
        n = len(c)
        assert band == slice(0, n)  # noqa: S101  as above
        with using(self._device):
            self._kernels.digest_tiles[(n // tile, n // tile)](
                c, keys.digest_row, keys.digest_column, lanes, n, tile=tile, num_warps=self._kernels.tile_warps(tile)
            )

    def _fill(
        self,
        out: torch.Tensor,
        rows: torch.Tensor,
        columns: torch.Tensor,
        salts: torch.Tensor,
        *,
        shift: int,
        salt_on_rows: bool,
    ) -> None:
        n = out.shape[0]
        with using(self._device):
            self._kernels.fill_operand[self._kernels.operand_grid(n)](
                out,
                rows,
                columns,
                salts,
                n,
                shift=shift,
                salt_on_rows=salt_on_rows,
                rows_each=self._kernels.BLOCK_ROWS,
                columns_each=self._kernels.BLOCK_COLUMNS,
                num_warps=self._kernels.WARPS,
            )


def open_fused_mixes(device: torch.device, operand_type: torch.dtype) -> FusedMixes:
    """Import Triton, compile the kernels for the device, and compare them with the reference.

    Args:
        device: A CUDA device, or the CPU where TRITON_INTERPRET is set.
        operand_type: Type that the operands will have.

    Raises:
        Unavailable: Triton is missing or cannot compile here, or the kernels' bits differ.
    """
    with using(device):
        from challenges import matmul_kernels

        mixes = FusedMixes(device, matmul_kernels)
        _compare(mixes, device, operand_type)
    return mixes


def _compare(mixes: FusedMixes, device: torch.device, operand_type: torch.dtype) -> None:
    n, tile = _CHECK_N, _CHECK_TILE
    keys = prng.round_keys(_CHECK_SEED, n)
    device_keys = upload(keys, device)
    # No operand is 512: what a kernel leaves out must not pass for what lay there before.
    a = torch.full((n, n), 512, dtype=operand_type, device=device)
    b = torch.full_like(a, 512)
    mixes.fill(device_keys, a, b, slice(0, n))
    expected_a, expected_b = prng.a_rows(keys, 0, n), prng.b_columns_transposed(keys, 0, n).T
    product = expected_a @ expected_b
    lanes = torch.zeros((n // tile, n // tile, digest.LANES), dtype=torch.int32, device=device)
    mixes.digest(device_keys, torch.from_numpy(product).to(device), slice(0, n), tile, lanes)
    expected_lanes = digest.tile_digests(product, keys.digest_row, keys.digest_column, tile)
    for name, ours, expected in (
        ("A", a.float().cpu().numpy(), expected_a),
        ("B", b.float().cpu().numpy(), expected_b),
        ("digests", lanes.cpu().numpy().view(np.uint32), expected_lanes),
    ):
        if not np.array_equal(ours, expected):
            raise Unavailable(
                f"{device}: the kernels' {name} differ from the reference; please send us the card's name"
            )
