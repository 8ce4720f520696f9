"""From two stamps on the validator's clock to a rate and a verdict, in integers, so that anyone computes them equal.

Rules (design, section 5):
- A duration is the difference of the validator's monotonic stamps, less the smallest round trip seen. A miner can delay
  its pings to be given more, so that no more than 100 ms and no more than 2 % of the difference are subtracted: delayed
  pings never raise a rate by more than 1/49.
- Below 0.6 of its claim a device loses the epoch (CLAIM_NOT_MET); above 1.15 of the vendor's peak nobody believes it
  (TOO_FAST): a relay to a bigger card, or a wrong name. Between them min(claimed, measured) counts.
- Beside the claim there is what a card of this name should do, `challenges.bands`. A rate outside that band is flagged,
  and the flag costs nothing: a card that is slow and says so is worth what it says.
- A GPU should work for 5 s or more: from there on the 100 ms are the smaller cap.
- A claim that does not carry its own proof is not met: memory that is claimed small must not make the proof small.
- The rate of a proof of work is an estimate from N random events; its lower bound at two standard deviations counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from challenges.bands import Band, RateFlag
from challenges.matmul_messages import BYTES_PER_ELEMENT, ROUNDS_MAX, MatmulParams
from challenges.memory_messages import MemoryParams
from challenges.pow_messages import HASHES_MAX, SHARES_MIN, PowParams
from polarise.errors import ProofRejected, RejectReason

NS_PER_SECOND = 1_000_000_000
PPM = 1_000_000
RTT_CAP_NS = 100_000_000
RTT_SHARE_MAX_PPM = 20_000
CLAIM_FLOOR_PPM = 600_000
PEAK_CEILING_PPM = 1_150_000

N_LADDER = (256, 512, 1024, 2048, 4096, 8192, 16384)
ROUNDS_MIN = 2
ROUNDS_WANTED = 8
TILE = 64
TILE_SMALL = 32
TILE_SMALL_N_MAX = 8192

SHARES_WANTED = 2000
DIFFICULTY_FLOOR = 256


class WorkTooSmall(ProofRejected):
    """The claimed memory does not carry a proof of the claimed rate; the claim is not met, nothing need be sent.

    Args:
        params: The largest proof that the claimed memory carries; it stands in the evidence.
        what: Which rate it does not carry.
        got: What that proof would do.
        expected: What it would have to do.
    """

    def __init__(self, params: MatmulParams | MemoryParams, what: str, *, got: str, expected: str) -> None:
        self.params = params
        super().__init__(
            RejectReason.CLAIM_NOT_MET,
            f"the claimed memory is too small to prove the claimed {what}",
            got=got,
            expected=expected,
        )


@dataclass(frozen=True, slots=True)
class RateVerdict:
    """What one measured rate is worth.

    Args:
        reason: CLAIM_NOT_MET, TOO_FAST, or None where the rate is accepted.
        measured: Measured rate, operations per second.
        counted: The rate that scores: min(claimed, measured), 0 where the reason is TOO_FAST.
        ratio_ppm: Measured over claimed.
        flag: On which side of its card's band an accepted rate lies; None inside, or where nothing is expected. Scores
            nothing.
        of_expected_ppm: Measured over what its card should do; None where nothing is expected.
    """

    reason: RejectReason | None
    measured: int
    counted: int
    ratio_ppm: int
    flag: RateFlag | None = None
    of_expected_ppm: int | None = None

    @property
    def is_accepted(self) -> bool:
        """Whether the rate passes both bands."""
        return self.reason is None


def duration_ns(sent_ns: int, received_ns: int, rtt_min_ns: int) -> int:
    """Return the corrected time of the work, at least 1 ns.

    Args:
        sent_ns: Monotonic stamp when `/challenge/start` left.
        received_ns: Monotonic stamp at the last byte of the signed commitment; a miner can send the first one early.
        rtt_min_ns: Smallest round trip of the pings before, >= 0; a claim of the miner's, as long as it can delay them.

    Raises:
        ValueError: The stamps run backwards or the round trip is negative: our own error.
    """
    if received_ns < sent_ns or rtt_min_ns < 0:
        raise ValueError(f"stamps {sent_ns}..{received_ns} ns, round trip {rtt_min_ns} ns")
    elapsed_ns = received_ns - sent_ns
    return max(elapsed_ns - min(rtt_min_ns, RTT_CAP_NS, elapsed_ns * RTT_SHARE_MAX_PPM // PPM), 1)


def rate_per_second(operations: int, time_ns: int) -> int:
    """Return operations per second, rounded down; `operations` is what the params of either proof say."""
    if operations < 0 or time_ns < 1:
        raise ValueError(f"{operations} operations in {time_ns} ns")
    return operations * NS_PER_SECOND // time_ns


def pow_rate_lower_bound(params: PowParams, time_ns: int) -> int:
    """Return the hashes per second a proof of work shows at two standard deviations, D·N/T·(1 - 2/sqrt(N)), rounded down.

    N shares take a time of Gamma(N) distribution, so that D·N/T, which is `rate_per_second`, varies by 1/sqrt(N). The
    bound is above the true rate in 2.1 % of the proofs at N = 2000.

    Args:
        params: As the validator sent them; N is `shares`, D is `difficulty`.
        time_ns: `duration_ns` of the proof, >= 1.
    """
    if time_ns < 1:
        raise ValueError(f"{params.operations} hashes in {time_ns} ns")
    hashes = params.operations * NS_PER_SECOND
    # 2/sqrt(N) of `hashes` is the root of 4·N·(D·10**9)**2, an integer, so that there is one rounding and it is down.
    deviation = math.isqrt(4 * params.shares * (params.difficulty * NS_PER_SECOND) ** 2 - 1) + 1
    return (hashes - deviation) // time_ns


def ratio_ppm(measured: int, claimed: int) -> int:
    """Return measured over claimed in millionths, rounded down; a claim is >= 1."""
    if measured < 0 or claimed < 1:
        raise ValueError(f"measured {measured}, claimed {claimed}")
    return measured * PPM // claimed


def judge_rate(measured: int, claimed: int, peak: int | None, band: Band | None = None) -> RateVerdict:
    """Compare a measured rate with the claim, with what the card can do at all, and with what cards like it do.

    Args:
        measured: Operations per second.
        claimed: The miner's claim, >= 1.
        peak: The vendor's peak (`challenges.bands.Expectation.peak`), or None for an unknown card or a CPU.
        band: What cards of this name do, or None for an unknown card or a CPU.
    """
    ratio = ratio_ppm(measured, claimed)
    of_expected = None if band is None else ratio_ppm(measured, band.expected)
    if peak is not None and measured * PPM > peak * PEAK_CEILING_PPM:
        return RateVerdict(RejectReason.TOO_FAST, measured, 0, ratio, of_expected_ppm=of_expected)
    # Cross-multiplied, so that rounding decides nothing: 599,999.9 ppm fails and 600,000 passes.
    reason = RejectReason.CLAIM_NOT_MET if measured * PPM < claimed * CLAIM_FLOOR_PPM else None
    flag = None if band is None or reason is not None else band.flag(measured)
    return RateVerdict(reason, measured, min(claimed, measured), ratio, flag, of_expected)


def fit_params(
    rate_ops_per_second: int,
    target_seconds: int,
    *,
    memory_bytes: int | None = None,
    tile: int | None = None,
    openings: int = 32,
) -> MatmulParams:
    """Choose the largest n that leaves at least eight rounds, and the rounds that last about the target.

    A larger n makes the check cheaper relative to the work (n / tile per opened tile) and keeps a GPU busier; several
    rounds make the chain. At 100 Gop/s and 2 s that is n = 2048 with 12 rounds; at 790 Top/s and 10 s n = 16384 with
    898. Little memory makes n smaller and the rounds more, up to 4096: 1 GiB carries n = 8192, and that 4.5 Pop.

    Args:
        rate_ops_per_second: The rate to plan for, the device's claim, >= 1.
        target_seconds: Wanted duration of the work, >= 1.
        memory_bytes: Memory of the device, or None if it does not limit; 16 * n**2 bytes are needed.
        tile: Side of a tile; `tile_for` chooses if it is left out.
        openings: How many tiles will be opened.

    Raises:
        WorkTooSmall: The memory carries less than half of the work that would be asked for without its limit.
    """
    if rate_ops_per_second < 1 or target_seconds < 1:
        raise ValueError(f"rate {rate_ops_per_second} operations/s, target {target_seconds} s")
    budget = rate_ops_per_second * target_seconds
    n = N_LADDER[0]
    for candidate in N_LADDER:
        fits_memory = memory_bytes is None or BYTES_PER_ELEMENT * candidate**2 <= memory_bytes
        if fits_memory and 2 * candidate**3 * ROUNDS_WANTED <= budget:
            n = candidate
    rounds = _divide_nearest(budget, 2 * n**3)
    params = MatmulParams(n, min(max(rounds, ROUNDS_MIN), ROUNDS_MAX), tile or tile_for(n), openings)
    # More than the largest proof is never asked for, so that a long target refuses nobody.
    operations_min = min(budget, 2 * N_LADDER[-1] ** 3 * ROUNDS_MAX) // 2
    if params.operations < operations_min:
        raise WorkTooSmall(
            params,
            "rate",
            got=f"{params.operations} operations at n = {params.n}",
            expected=f">= {operations_min} operations",
        )
    return params


def tile_for(n: int) -> int:
    """Return the side of a tile: 32 up to n = 8192, which halves the check; beyond, its leaves are too long for the wire."""
    return TILE_SMALL if n <= TILE_SMALL_N_MAX else TILE


def fit_pow_params(rate_hashes_per_second: int, target_seconds: int, *, slot: int = 0) -> PowParams:
    """Choose the difficulty at which 2,000 shares last about the target; fewer shares for the slowest devices.

    Below 256 hashes per share a check would cost more than 1/256 of the work, and shares are saved instead, down to 16.
    At 16 GHash/s and 10 s the difficulty is 80,000,000; at 7 MHash/s and 2 s it is 7,000.

    Args:
        rate_hashes_per_second: The rate to plan for, the device's claim, >= 1.
        target_seconds: Wanted duration of the work, >= 1.
        slot: Number of the device on its host.
    """
    if rate_hashes_per_second < 1 or target_seconds < 1:
        raise ValueError(f"rate {rate_hashes_per_second} hashes/s, target {target_seconds} s")
    budget = min(rate_hashes_per_second * target_seconds, HASHES_MAX - SHARES_WANTED)
    shares = min(max(budget // DIFFICULTY_FLOOR, SHARES_MIN), SHARES_WANTED)
    return PowParams(shares, max(_divide_nearest(budget, shares), 1), slot)


def _divide_nearest(numerator: int, denominator: int) -> int:
    return (2 * numerator + denominator) // (2 * denominator)
