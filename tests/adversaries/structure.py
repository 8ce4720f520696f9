"""Miners that forge the product in O(n²) as if the operands had structure: Hankel, Toeplitz, low rank, rank one.

Where A[i,k] hangs on i + k alone (or i - k), each entry of the product follows from its diagonal neighbour in two
multiplications, so that the whole product costs what its first row and column cost. Public systems had such operands
(0.18 s instead of 7.99 s at n = 8192, research/challenges.md section 0). Ours have keys per row and column: what is
forged is right for other matrices.
"""

from __future__ import annotations

import random

import numpy as np

from polarise.errors import RejectReason
from tests.adversaries.cheat import Cheat
from tests.adversaries.proofs import ForgedProduct, Product

RANK = 16


def hankel(_rng: random.Random, a: Product, b: Product) -> Product:
    """Read generators off the rims, A[i,k] = f(i + k) and B[k,j] = g(k + j), and walk down the diagonals."""
    n = len(a)
    f = np.concatenate((a[0], a[1:, -1])).astype(np.float64)
    g = np.concatenate((b[0], b[1:, -1])).astype(np.float64)
    product = np.empty((n, n))
    product[0] = np.correlate(g, f[:n], "valid")
    for row in range(n - 1):
        product[row + 1, 1:] = product[row, :-1] - f[row] * g[: n - 1] + f[row + n] * g[n:]
        product[row + 1, 0] = f[row + 1 : row + 1 + n] @ g[:n]
    return product.astype(np.float32)


def toeplitz(_rng: random.Random, a: Product, b: Product) -> Product:
    """Do the same for A[i,k] = f(i - k) and B[k,j] = g(k - j), which is a Hankel product with the middle turned round."""
    flipped: Product = hankel(_rng, a[:, ::-1], b[::-1])
    return flipped


def low_rank(rng: random.Random, a: Product, b: Product) -> Product:
    """Keep what A does to a few random directions, and multiply that: 4·k·n² operations."""
    sketch = np.random.default_rng(rng.getrandbits(64)).standard_normal((len(a), RANK))
    basis, _ = np.linalg.qr(a @ sketch)
    product: Product = np.rint(basis @ ((basis.T @ a) @ b)).astype(np.float32)
    return product


def rank_one(rng: random.Random, a: Product, b: Product) -> Product:
    """Give the largest singular pair of A, found by a few power steps."""
    right = np.random.default_rng(rng.getrandbits(64)).standard_normal(len(a))
    for _ in range(4):
        left = a @ right
        left /= np.linalg.norm(left)
        right = a.T @ left
    product: Product = np.rint(np.outer(left, right @ b)).astype(np.float32)
    return product


def typical_values(rng: random.Random, a: Product, _b: Product) -> Product:
    """Give integers of the right spread, 10,920·sqrt(n), and sign by chance: no entry is known, each is plausible."""
    n = len(a)
    chance = np.random.default_rng(rng.getrandbits(64))
    product: Product = np.rint(chance.normal(0, 10_920 * n**0.5, (n, n))).astype(np.float32)
    return product


CHEATS: tuple[Cheat, ...] = (
    ForgedProduct(
        name="Hankel operands",
        how="takes A and B for Hankel matrices and makes their product in O(n²)",
        reasons=(RejectReason.TILE_MISMATCH,),
        forge=hankel,
    ),
    ForgedProduct(
        name="Toeplitz operands",
        how="takes A and B for Toeplitz matrices and makes their product in O(n²)",
        reasons=(RejectReason.TILE_MISMATCH,),
        forge=toeplitz,
    ),
    ForgedProduct(
        name="low-rank operands",
        how=f"multiplies a rank-{RANK} sketch of A by B in O(k·n²)",
        reasons=(RejectReason.TILE_MISMATCH,),
        forge=low_rank,
    ),
    ForgedProduct(
        name="rank-1 fake",
        how="answers with the best rank-1 approximation",
        reasons=(RejectReason.TILE_MISMATCH,),
        forge=rank_one,
    ),
    ForgedProduct(
        name="typical values",
        how="answers with random integers of the right spread",
        reasons=(RejectReason.TILE_MISMATCH,),
        forge=typical_values,
    ),
)
