"""The cheats are real: each works where the rule against it is missing, and its player passes when it does not cheat."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest

from challenges import prng
from ledger.state import FUTURE_MS_MAX
from neurons.validator.replay import replay
from neurons.validator.scoring import DECLINES_NEUTRAL
from polarise.errors import RejectReason
from polarise.openings import GoneReason, owed_until_unix_ms, thrown_away
from tests.adversaries.absence import score_of
from tests.adversaries.cheat import Cheat
from tests.adversaries.easy_tiles import Conspiracy, failures
from tests.adversaries.exam import MATMUL
from tests.adversaries.linear import freivalds_vector, knowing_one_vector, linear_digests
from tests.adversaries.memory import HoldsPart, HostMemory, Invents
from tests.adversaries.messages import BreaksMessages
from tests.adversaries.proofs import ForgedProduct, Product
from tests.adversaries.roster import ROSTER
from tests.adversaries.shares import ShareCheat, params_of, shares_of
from tests.adversaries.sharing import OneForSeveral, Oversold, SharedDevice
from tests.adversaries.skipping import GRINDING, Grinder, HangsUp, TileSkipper
from tests.adversaries.structure import hankel, low_rank, toeplitz
from tests.support.proving_miner import VALIDATOR

N = 32
PLAYS = 20
NO_CHEAT: tuple[Cheat, ...] = (
    ForgedProduct(name="multiplies", how="", forge=lambda _rng, a, b: a @ b),
    TileSkipper(name="skips nothing", how="", share=0.0),
    HangsUp(name="never hangs up", how="", share=0.0),
    Grinder(name="has nothing to grind", how="", share=0.0),
    BreaksMessages(name="breaks nothing", how=""),
    ShareCheat(name="finds all", how="", nonces=lambda challenge, _rng, seed: shares_of(params_of(challenge), seed)),
    HoldsPart(name="holds all", how="", share=0.0),
    Invents(name="invents nothing", how="", share=0.0),
    HostMemory(name="has no memory elsewhere", how="", share=0.0),
    OneForSeveral(name="one for one", how="", claims=1, has_identities=True),
)


def _integers(rng: random.Random, count: int, bound: int) -> Product:
    return np.array([rng.randrange(-bound, bound) for _ in range(count)], dtype=np.float32)


def _hankel(generator: Product) -> Product:
    matrix: Product = generator[np.arange(N)[:, None] + np.arange(N)[None, :]]
    return matrix


def _toeplitz(generator: Product) -> Product:
    matrix: Product = generator[np.arange(N)[:, None] - np.arange(N)[None, :] + N - 1]
    return matrix


def _seeded() -> tuple[Product, Product, prng.RoundKeys]:
    """Return operands as the proof has them."""
    keys = prng.round_keys(bytes(range(32)), 128)
    return prng.a_rows(keys, 0, 128), prng.b_columns_transposed(keys, 0, 128).T.copy(), keys


@pytest.mark.parametrize("cheat", NO_CHEAT, ids=lambda cheat: cheat.name)
def test_player_passes_when_it_does_not_cheat(cheat: Cheat) -> None:
    outcomes = [cheat.play_pure(random.Random(trial)) for trial in range(3)]
    assert [outcome.reason for outcome in outcomes] == [None] * 3


@pytest.mark.parametrize(("forge", "arrange"), [(hankel, _hankel), (toeplitz, _toeplitz)])
def test_structured_operands_would_give_the_product_away(
    forge: Callable[[random.Random, Product, Product], Product], arrange: Callable[[Product], Product]
) -> None:
    rng = random.Random(1)
    a, b = arrange(_integers(rng, 2 * N - 1, 256)), arrange(_integers(rng, 2 * N - 1, 128))
    assert np.array_equal(forge(rng, a, b), a @ b)
    a[3, 5] += 1
    assert not np.array_equal(forge(rng, a, b), a @ b)


def test_operands_of_low_rank_would_give_the_product_away() -> None:
    rng = random.Random(1)
    a = _integers(rng, N * 4, 8).reshape(N, 4) @ _integers(rng, 4 * N, 8).reshape(4, N)
    b = _integers(rng, N * N, 128).reshape(N, N)
    assert np.array_equal(low_rank(rng, a, b), a @ b)


def test_linear_digests_need_no_product() -> None:
    """Those made without the product are those of the product."""
    a, b, keys = _seeded()
    product, tile = (a @ b).astype(np.int64).view(np.uint64), MATMUL.tile
    w, v = keys.digest_row.astype(np.uint64), keys.digest_column.astype(np.uint64)
    weighted = w[:, None] * product * v[None, :]
    tiles = 128 // tile
    sums = weighted.reshape(tiles, tile, tiles, tile).sum(axis=(1, 3), dtype=np.uint64)
    lanes = linear_digests(keys, a, b, tile).astype(np.uint64)
    assert np.array_equal(lanes[..., 0] + (lanes[..., 1] << np.uint64(32)), sums)


def test_a_known_vector_passes_freivalds_check() -> None:
    a, b, _ = _seeded()
    forged = knowing_one_vector(random.Random(3), a, b)
    r = freivalds_vector(random.Random(3), 128)
    assert np.array_equal(forged @ r, a @ (b @ r))
    assert not np.array_equal(forged, a @ b)


def test_grinding_would_win_with_the_opening_key_in_hand() -> None:
    """What the secret key takes away: with it nobody is caught, without it 59 % are."""
    cheat = Grinder(name="", how="", share=0.1, params=GRINDING, knows_key=True)
    assert not any(cheat.play_pure(random.Random(trial)).reason for trial in range(PLAYS))


def test_honest_bundle_replays_without_a_doubt() -> None:
    rng = random.Random(1)
    plot = Conspiracy.begin(rng, share=0.0)
    bundle = plot.bundle(rng, plot.drawn, plot.opening_key)
    assert [finding for finding in replay(bundle) if finding.holds is not True] == []


def test_skipped_tiles_that_are_shown_are_found_by_anyone() -> None:
    """The validator draws as it must and calls it passed; eight openings miss a fifth of the tiles in a plot of seven."""
    rng = random.Random(6)
    plot = Conspiracy.begin(rng)
    found = failures(plot.bundle(rng, plot.drawn, plot.opening_key))
    assert [finding.what for finding in found] == ["matmul proof of cpu: openings"]
    assert "recomputed TILE_MISMATCH" in found[0].detail


@pytest.mark.parametrize(("after_ms", "holds"), [(-1, False), (0, None)])
def test_withheld_openings_are_found_while_they_are_owed(after_ms: int, holds: bool | None) -> None:
    """Who throws them away at once is caught by whoever looks in time; when they are over, they are its word."""
    rng = random.Random(5)
    plot = Conspiracy.begin(rng)
    bundle = plot.bundle(rng, plot.drawn, plot.opening_key).without_openings()
    now_unix_ms = owed_until_unix_ms(bundle) - FUTURE_MS_MAX + after_ms
    doubts = [finding for finding in replay(bundle, now_unix_ms) if finding.holds is not True]
    assert [(finding.what, finding.holds) for finding in doubts] == [("matmul proof of cpu: openings", holds)]


def test_withheld_openings_cost_a_signed_word() -> None:
    """A limit: a validator in league can say that it had no room. It has to sign so, and every audit counts it."""
    rng = random.Random(5)
    plot = Conspiracy.begin(rng)
    bundle = plot.bundle(rng, plot.drawn, plot.opening_key)
    lost = thrown_away(VALIDATOR, bundle, GoneReason.ROOM, bundle.examined_unix_ms)
    doubts = [finding for finding in replay(lost, bundle.examined_unix_ms) if finding.holds is not True]
    assert [finding.holds for finding in doubts] == [None]
    assert "before their time" in doubts[0].detail


def test_device_shared_fairly_gives_each_its_part_of_the_rate() -> None:
    device = SharedDevice(1000)
    assert device.ends_ns([1000] * 4, [1.0] * 4) == [4_000_000_000] * 4
    assert device.ends_ns([1000, 1000], [1e9, 1.0]) == pytest.approx([1_000_000_001, 2_000_000_000], rel=1e-6)
    assert device.ends_ns([3000, 1000], [3.0, 1.0]) == [4_000_000_000] * 2


def test_oversold_device_counts_for_more_than_it_is() -> None:
    """A limit: parts that end one after another are each measured from the window's beginning. Bounded, not caught."""
    cheat = Oversold(name="", how="")
    gains = [cheat.play_pure(random.Random(trial)).gain for trial in range(PLAYS)]
    assert 0.4 < max(gain for gain in gains if gain is not None) < 0.511


def test_declining_costs_nothing_for_the_neutral_rounds() -> None:
    score = score_of(None, None)
    for _ in range(DECLINES_NEUTRAL):
        score = score_of(RejectReason.NOT_MEASURED, score, serves=False)
    assert score.score_ppm == 1_000_000


def test_every_predicted_rate_is_a_probability() -> None:
    assert all(0.5 < cheat.predicted <= 1.0 for cheat in ROSTER)
