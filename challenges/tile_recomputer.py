"""Single tiles of a round's product, recomputed from the round's keys in a few buffers that are made once.

Rules:
- Sketch, for a tile of side b: 2·b·n mixes of 8 numpy passes each, then 2·b²·n operations of sgemm; nothing else counts.
  At n = 8192 and b = 64 on one Zen 5 core: 1.05 M mixes, 0.45 ms, and 67 Mop, 0.45 ms. b = 32 takes 0.2 and 0.2 ms.
- The inner index goes by in blocks: 1 MiB for a block of A's rows, 1 MiB for one of B's columns, 0.5 MiB to mix in.
- fp32 is exact here whatever the order of additions (see `challenges.prng`), so that BLAS may add as it likes, and
  blocks may be added to each other. The bound is asserted, as nothing else would notice a sum beyond it.
- Tiles of one round that share a row or column do not share its operands: of 32 tiles in 5 rounds at n = 8192 that
  would save 2 % of the mixes, in a real proof of more rounds nothing, and rows of 8192 elements would have to be kept.
"""

from __future__ import annotations

import numpy as np

from challenges import prng
from challenges.matmul_messages import MatmulParams, TilePosition

_INNER_BLOCK = 4096
_EXACT_END = 1 << 24


class TileRecomputer:
    """Recomputes tiles of proofs of one size. Not for use by two threads at once."""

    def __init__(self, params: MatmulParams) -> None:
        self._n = params.n
        self._tile = params.tile
        elements = params.tile * min(_INNER_BLOCK, params.n)
        self._a = np.empty(elements, dtype=np.float32)
        self._b = np.empty(elements, dtype=np.float32)
        self._scratch = prng.Scratch(min(elements, prng.CHUNK_ELEMENTS))

    def product(self, keys: prng.RoundKeys, position: TilePosition) -> prng.Float32Array:
        """Return the tile at that position as [tile, tile] float32 holding exact integers.

        Args:
            keys: Of the position's round; keys of rows and columns up to the tile's are enough.
            position: Round (not looked at), tile row and tile column.
        """
        rows = slice(position.tile_row * self._tile, (position.tile_row + 1) * self._tile)
        columns = slice(position.tile_column * self._tile, (position.tile_column + 1) * self._tile)
        total = np.zeros((self._tile, self._tile), dtype=np.float32)
        with prng.fast_broadcasts():
            for start in range(0, self._n, _INNER_BLOCK):
                total += self._partial_product(keys, rows, columns, slice(start, min(start + _INNER_BLOCK, self._n)))
        assert float(np.abs(total).max()) < _EXACT_END  # noqa: S101  12 sigma at n = 16384: not in the life of this code
        return total

    def _partial_product(self, keys: prng.RoundKeys, rows: slice, columns: slice, inner: slice) -> prng.Float32Array:
        shape = (self._tile, inner.stop - inner.start)
        a = self._a[: shape[0] * shape[1]].reshape(shape)
        b_transposed = self._b[: shape[0] * shape[1]].reshape(shape)
        prng.fill_a(keys, rows, inner, a, self._scratch)
        prng.fill_b_transposed(keys, columns, inner, b_transposed, self._scratch)
        product: prng.Float32Array = np.matmul(a, b_transposed.T)
        return product
