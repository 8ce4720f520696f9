"""Miners that multiply more cheaply than exactly: fewer bits, fewer terms, a rounded result."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np

from polarise.errors import RejectReason
from tests.adversaries.cheat import Cheat
from tests.adversaries.proofs import ForgedProduct, Product


def bf16_output(a: Product, b: Product) -> Product:
    """Keep the upper half of each result, as plain bf16 output does."""
    return ((a @ b).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def fp16_sums(a: Product, b: Product) -> Product:
    """Round each result to 11 bits, as an accumulator in fp16 would at best; scaled, so that nothing overflows."""
    product: Product = ((a @ b) / 1024).astype(np.float16).astype(np.float32) * np.float32(1024)
    return product


def seven_bit_operands(a: Product, b: Product) -> Product:
    """Drop the lowest two bits of A, which would fit an 8-bit unit with one bit to spare."""
    product: Product = (np.floor(a / 4) * np.float32(4)) @ b
    return product


def half_the_terms(a: Product, b: Product) -> Product:
    """Sum half of the inner index and double it."""
    half = len(a) // 2
    product: Product = a[:, :half] @ b[:half] * np.float32(2)
    return product


def zeros(a: Product, _b: Product) -> Product:
    """Multiply nothing."""
    return np.zeros_like(a)


SHORTCUTS: tuple[Callable[[Product, Product], Product], ...] = (
    bf16_output,
    fp16_sums,
    seven_bit_operands,
    half_the_terms,
    zeros,
)


def any_shortcut(rng: random.Random, a: Product, b: Product) -> Product:
    """Take one of them."""
    return rng.choice(SHORTCUTS)(a, b)


CHEATS: tuple[Cheat, ...] = (
    ForgedProduct(
        name="wrong dtype",
        how="multiplies in bf16, in fp16, with 7-bit operands, over half the terms, or not at all",
        reasons=(RejectReason.TILE_MISMATCH,),
        forge=any_shortcut,
    ),
)
