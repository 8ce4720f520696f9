"""Operands: pinned, of the promised range, equal in any block, and without a structure that makes products cheap."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
import pytest

from challenges import prng

SEED = bytes(range(32))


def _a(n: int) -> prng.Float32Array:
    return prng.a_rows(prng.round_keys(SEED, n), 0, n)


def _b(n: int) -> prng.Float32Array:
    return prng.b_columns_transposed(prng.round_keys(SEED, n), 0, n).T


def _mix(outer: int, inner: int, salt: int, shift: int) -> int:
    """Say the definition once more, in Python's own integers."""
    x = (outer ^ inner) * 0x7FEB352D % 2**32
    x = ((x >> 15) ^ x ^ salt) * 0x846CA68B % 2**32
    signed = x - 2**32 if x >= 2**31 else x
    return signed >> shift


def test_operands_equal_their_definition() -> None:
    n = 64
    keys = prng.round_keys(SEED, n)
    a, b = _a(n), _b(n)
    for i in range(0, n, 7):
        for k in range(n):
            assert a[i, k] == _mix(int(keys.a_row[i]), int(keys.a_inner[k]), int(keys.a_row_salt[i]), 23)
            assert b[k, i] == _mix(int(keys.b_column[i]), int(keys.b_inner[k]), int(keys.b_column_salt[i]), 24)


def test_keys_are_shake_streams_named_after_their_field() -> None:
    encoded = b"".join(
        len(field).to_bytes(8, "big") + field for field in (b"polarise/matmul/keys/1", SEED, b"b_column_salt")
    )
    words = hashlib.shake_256(encoded).digest(4 * 64)
    expected = [int.from_bytes(words[start : start + 4], "little") for start in range(0, 256, 4)]
    assert prng.round_keys(SEED, 64).b_column_salt.tolist() == expected


@pytest.mark.parametrize(
    ("n", "a_hash", "b_hash"),
    [
        (
            64,
            "0f4f63ce6c8ffb03aba6e483243c1b6f5fc61e85b601239dfb8b590798a68364",
            "ef5dbbf2bbef9ef99d2896931fb7cb6729c7fb4a1c78e7d917228e2cd377e981",
        ),
        (
            128,
            "0d23711879d12e7be58bbb3f1b57c39714e6ad5ed51760fd2479241377b9f909",
            "8f318647c5d4f063bd16a9fbd8212f18c1c8a9d0287f3e1081b454dcf33f1299",
        ),
    ],
)
def test_known_answers(n: int, a_hash: str, b_hash: str) -> None:
    assert hashlib.sha256(_a(n).astype("<i2").tobytes()).hexdigest() == a_hash
    assert hashlib.sha256(_b(n).astype("<i2").tobytes()).hexdigest() == b_hash


def test_any_block_equals_its_part_of_the_whole() -> None:
    n = 192
    keys = prng.round_keys(SEED, n)
    a, b = _a(n), _b(n)
    scratch = prng.Scratch(64 * 100)
    block = np.empty((64, 100), dtype=np.float32)
    prng.fill_a(keys, slice(64, 128), slice(50, 150), block, scratch)
    assert np.array_equal(block, a[64:128, 50:150])
    prng.fill_b_transposed(keys, slice(64, 128), slice(50, 150), block, scratch)
    assert np.array_equal(block, b[50:150, 64:128].T)
    assert np.array_equal(prng.a_rows(keys, 100, 101), a[100:101])
    assert np.array_equal(prng.b_columns_transposed(keys, 100, 101), b[:, 100:101].T)


def test_values_fill_their_range_evenly() -> None:
    """Chi-squared per degree of freedom within 5 sigma of 1, and a mean of -1/2: positive entries would be guessable."""
    for matrix, low, high in ((_a(512), -256, 255), (_b(512), -128, 127)):
        values, counts = np.unique(matrix, return_counts=True)
        assert values[0] == low
        assert values[-1] == high
        assert len(values) == high - low + 1
        expected = matrix.size / len(values)
        freedom = len(values) - 1
        assert abs(((counts - expected) ** 2 / expected).sum() / freedom - 1) < 5 * (2 / freedom) ** 0.5
        assert abs(matrix.mean() + 0.5) < 5 * high / matrix.size**0.5


def _displacements(matrix: npt.NDArray[np.float64]) -> dict[str, npt.NDArray[np.float64]]:
    """Differences that vanish, or have few singular values, for matrices whose products are cheap."""
    n = len(matrix)
    indices = np.arange(n)
    nodes = np.linspace(-1, 1, n)
    return {
        "low rank": matrix,
        "Toeplitz": matrix[1:, 1:] - matrix[:-1, :-1],
        "Hankel": matrix[1:, :-1] - matrix[:-1, 1:],
        "Cauchy": nodes[:, None] * matrix - matrix * nodes[None, :],
        "Vandermonde": nodes[:, None] * matrix[:, :-1] - matrix[:, 1:],
        "dyadic": matrix - matrix[indices ^ 1][:, indices ^ 1],
    }


@pytest.mark.parametrize("operand", ["a", "b"])
def test_operands_have_no_displacement_structure(operand: str) -> None:
    """Each displacement has the rank and the largest singular value of independent noise of the same distribution."""
    n = 256
    matrix = (_a(n) if operand == "a" else _b(n)).astype(np.float64) + 0.5
    control = np.random.default_rng(1).integers(matrix.min(), matrix.max() + 1, (n, n)).astype(np.float64)
    for name, displaced in _displacements(matrix).items():
        noise = np.linalg.svd(_displacements(control)[name], compute_uv=False)
        spectrum = np.linalg.svd(displaced, compute_uv=False)
        assert (spectrum > 1e-6).sum() >= (noise > 1e-6).sum() - 1, name
        assert spectrum[0] == pytest.approx(noise[0], rel=0.1), name
        assert spectrum[: n // 2].sum() == pytest.approx(noise[: n // 2].sum(), rel=0.03), name


def test_the_structure_test_finds_a_hankel_operand() -> None:
    """The operand of a known broken system, a function of i + j, must not pass the test above."""
    n = 256
    words = np.random.default_rng(1).integers(-256, 256, 2 * n).astype(np.float64)
    hankel = words[np.arange(n)[:, None] + np.arange(n)[None, :]]
    assert np.linalg.matrix_rank(_displacements(hankel)["Hankel"]) <= 2


def test_rows_and_rounds_share_nothing() -> None:
    a = _a(256)
    other = prng.a_rows(prng.round_keys(bytes(32), 256), 0, 256)
    correlation = np.asarray(np.corrcoef(np.concatenate((a, other)))) - np.eye(512)
    # 131,000 pairs of 256 values each: the largest of as many normal deviates of sigma 1/16 stays below 5.5 sigma.
    assert np.abs(correlation).max() < 5.5 / 16


def test_fp32_product_is_exact() -> None:
    n = 512
    a, b = _a(n), _b(n)
    exact = a.astype(np.int64) @ b.astype(np.int64)
    assert np.array_equal((a @ b).astype(np.int64), exact)
    assert np.abs(exact).max() < 1 << 24
