"""Miners that know linear facts about the product without it: A(Br) for one vector, and a linear digest per tile."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np

from challenges import digest, prng
from challenges.matmul import MatmulParams
from challenges.proofs import Work
from challenges.solver import NumpyBackend, PendingRound, solve
from neurons.validator.challenges import Challenge
from polarise.errors import RejectReason
from tests.adversaries.cheat import Cheat
from tests.adversaries.proofs import ForgedProduct, Product, ProverCheat, matmul_params


def knowing_one_vector(rng: random.Random, a: Product, b: Product) -> Product:
    """Return a matrix C' with C'·r = A(B·r) for a random r, in O(n²): it would pass Freivalds' check with that r."""
    r = freivalds_vector(rng, len(a))
    product = np.zeros_like(a)
    # r starts with 1, so that the first column alone carries the whole of C·r.
    product[:, 0] = a @ (b @ r)
    return product


def freivalds_vector(rng: random.Random, n: int) -> Product:
    """Return a vector of zeros and ones that starts with 1."""
    r: Product = np.array([1, *(rng.randrange(2) for _ in range(n - 1))], dtype=np.float32)
    return r


def linear_digests(keys: prng.RoundKeys, a: Product, b: Product, tile: int) -> prng.UInt32Array:
    """Return for each tile the sum of w[i]·C[i,j]·v[j] modulo 2**64, without C: 2·n² + n³ / b² multiplications.

    Returns:
        [tiles, tiles, 2] uint32, the lower and the upper half, in the place of the real digest's lanes.
    """
    tiles = len(a) // tile
    w = keys.digest_row.astype(np.uint64).reshape(tiles, tile)
    v = keys.digest_column.astype(np.uint64).reshape(tiles, tile)
    # Signed to unsigned keeps the residue modulo 2**64, which is all that counts here.
    a_words, b_words = a.astype(np.int64).view(np.uint64), b.astype(np.int64).view(np.uint64)
    wa = np.einsum("tb,tbk->tk", w, a_words.reshape(tiles, tile, -1))
    bv = np.einsum("ktb,tb->kt", b_words.reshape(len(b), tiles, tile), v)
    sums = wa @ bv
    return np.stack((sums & np.uint64(0xFFFFFFFF), sums >> np.uint64(32)), axis=-1).astype(np.uint32)


class LinearBackend(NumpyBackend):
    """Commits to linear digests; the product is never made."""

    def start_round(self, params: MatmulParams, keys: prng.RoundKeys) -> PendingRound:
        """Digest one round in O(n²)."""
        a = prng.a_rows(keys, 0, params.n)
        b = np.ascontiguousarray(prng.b_columns_transposed(keys, 0, params.n).T)
        lanes = linear_digests(keys, a, b, params.tile)
        assert lanes.shape[-1] == digest.LANES
        return lambda: lanes


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearDigest(ProverCheat):
    """A miner that hopes for a linear digest."""

    def solve(self, challenge: Challenge, rng: random.Random, seed: bytes) -> Work:
        """Run the chain on linear digests."""
        return solve(matmul_params(challenge), seed, LinearBackend())


CHEATS: tuple[Cheat, ...] = (
    LinearDigest(
        name="linear digest",
        how="commits to wᵀA(Bv) per tile, which needs no product",
        reasons=(RejectReason.TILE_MISMATCH,),
    ),
    ForgedProduct(
        name="A(Br) known",
        how="commits to a matrix that satisfies Freivalds' check for a vector it knows",
        reasons=(RejectReason.TILE_MISMATCH,),
        forge=knowing_one_vector,
    ),
)
