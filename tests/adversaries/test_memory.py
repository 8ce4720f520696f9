"""What partial memory costs, counted beside the formula, and what weaker digests would give away."""

from __future__ import annotations

import random

import numpy as np
import pytest

from challenges.hardware import PPM, GpuModel
from challenges.memory import MemoryParams, block_words
from challenges.memory_digest import BLOCK_WORDS, BlockDigester, PassKeys
from challenges.memory_fit import FASTER_KERNEL_PPM, fill_ratio_ppm, hashes_for
from challenges.memory_messages import UNITS_PER_BLOCK
from challenges.memory_solver import solve_memory
from challenges.prng import UInt32Array
from challenges.timing import CLAIM_FLOOR_PPM
from tests.adversaries.exam import vendor_table
from tests.adversaries.memory import (
    CARD,
    HELD,
    HoldsPart,
    HostMemory,
    card_time_ns,
    slow_down,
)
from tests.adversaries.partial_memory import PartBackend, missing_count

FILL_SEED = bytes(range(32))
SEED = bytes(range(32, 64))
H200 = vendor_table().models[CARD]
MODELS = tuple(vendor_table().models.values())
MASK = 2**32 - 1


@pytest.fixture(scope="module")
def block() -> UInt32Array:
    return block_words(MemoryParams(blocks=8, hashes=1, passes=1), FILL_SEED, 3)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 1.0])
def test_what_is_missing_is_made_anew_in_every_pass(share: float) -> None:
    """Counted: no unit that was made for one pass is of use in the next."""
    backend = PartBackend(share)
    backend.fill(HELD, FILL_SEED)
    assert backend.hashes_count == 0
    solve_memory(HELD, FILL_SEED, SEED, backend)
    per_pass = missing_count(HELD, share) * UNITS_PER_BLOCK * HELD.hashes
    assert backend.hashes_count == HELD.passes * per_pass


@pytest.mark.parametrize(("share", "least"), [(0.0, 1.0), (0.05, 3.2), (0.5, 32.0), (1.0, 64.0)])
def test_the_slow_down_is_that_of_the_formula(share: float, least: float) -> None:
    """max(1, f·rho), by the hashes that were counted and the card's rates."""
    backend = PartBackend(share)
    backend.fill(HELD, FILL_SEED)
    solve_memory(HELD, FILL_SEED, SEED, backend)
    slower = card_time_ns(H200, HELD, backend.hashes_count) / card_time_ns(H200, HELD, 0)
    assert slower == pytest.approx(slow_down(H200, HELD, share), rel=5e-3)
    assert slower >= least


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.nvml_name)
def test_one_unit_in_twenty_missing_takes_three_times_as_long_on_every_card(model: GpuModel) -> None:
    assert slow_down(model, MemoryParams(1000, hashes_for(model), passes=1, openings=1), 0.05) >= 3.2


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.nvml_name)
def test_the_share_that_stays_unseen_is_one_in_38(model: GpuModel) -> None:
    """A limit: a card that claims exactly its rate loses the epoch at a slow-down of 1/0.6, that is f = 1/(0.6·rho)."""
    rho = fill_ratio_ppm(model, hashes_for(model), kernel_ppm=FASTER_KERNEL_PPM) / PPM
    unseen = PPM / CLAIM_FLOOR_PPM / rho
    assert 0.02 < unseen < 1 / 38


def test_a_little_host_memory_stays_unseen_on_slow_cards() -> None:
    """A limit: behind the fastest link a fifth of the memory of the slowest card is read in time, and no half of any."""
    slowest = min(MODELS, key=lambda model: model.memory_rate_expected)

    class OnSlowest(HostMemory):
        def model(self, rng: random.Random) -> GpuModel:
            return slowest

    outcomes = {
        share: OnSlowest(name="", how="", share=share).play_pure(random.Random(1)).reason for share in (0.2, 0.5)
    }
    assert outcomes[0.2] is None
    assert outcomes[0.5] is not None


def test_memory_of_95_percent_passes_where_units_are_cheap() -> None:
    """With k = 1 the same cheat is in time: k is what catches it."""
    cheap = MemoryParams(HELD.blocks, 1, HELD.passes, HELD.openings)
    assert HoldsPart(name="", how="", share=0.05, params=cheap).play_pure(random.Random(1)).reason is None


def _one_key_for_all_words(block: UInt32Array, first: int, second: int) -> int:
    """Digest as sum of (w ^ k1)·(k2 | 1), modulo 2**32."""
    return int(((block.astype(np.uint64) ^ np.uint64(first)) * np.uint64(second | 1)).sum()) & MASK


def _from_bit_counts(counts: list[int], first: int, second: int) -> int:
    """Digest the same block, of which nothing is known but how often each bit is set."""
    ones = (BLOCK_WORDS - count if first >> bit & 1 else count for bit, count in enumerate(counts))
    return sum(count << bit for bit, count in enumerate(ones)) * (second | 1) & MASK


def test_with_one_key_for_all_words_a_block_would_shrink_to_32_numbers(block: UInt32Array) -> None:
    """Why each place has keys of its own: 60 bytes would answer for 64 KiB, under any key."""
    counts = [int((block >> np.uint32(bit) & np.uint32(1)).sum()) for bit in range(32)]
    chance = random.Random(1)
    for _ in range(20):
        first, second = chance.getrandbits(32), chance.getrandbits(32)
        assert _from_bit_counts(counts, first, second) == _one_key_for_all_words(block, first, second)


def test_where_the_place_did_not_count_sorted_words_would_do(block: UInt32Array) -> None:
    """16,384 sorted words of 32 bits take 14 - 1.44 bits a word less than in order; here they do not answer."""
    keys = PassKeys.of(SEED)
    ordered = np.sort(block)
    same = PassKeys(np.full(BLOCK_WORDS, keys.rows[0]), np.full(BLOCK_WORDS, keys.columns[0]))
    digester = BlockDigester()
    assert np.array_equal(digester.digests(block[None, :], same), digester.digests(ordered[None, :], same))
    assert not np.array_equal(digester.digests(block[None, :], keys), digester.digests(ordered[None, :], keys))
