"""From the scores of an epoch to each miner's share of the market; design section 7.

Rules:
- worth = sum over the miner's devices of price x what the device is worth now of its claim (its weakest measured/claimed,
  less what declining took), by rules 3 as far as a common window showed it, its memory included. A device that was never measured, or
  failed its newest proof, adds nothing; nor, by rules 3, one that was never in a common window.
- By rules 3 an epoch that was broken off gives no weight at all, and a miner is worth nothing while its validator inspects and never saw a container of it.
- weight = 0 below 70 points, else score x worth, as a share of the whole epoch in millionths.
- The weights of an epoch add up to exactly 1,000,000, or to 0 where nobody is worth anything: each is rounded down, and
  what is left goes, one each, to the largest remainders; of equal ones to the smaller miner key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from challenges.timing import PPM
from neurons.validator.prices import PriceList
from neurons.validator.scoring import ACCEPTABLE_PPM
from neurons.validator.scoring.compute_2 import device_ppm
from neurons.validator.scoring.compute_3 import worth_ppm
from polarise.evidence import WINDOWS_SINCE_RULES, DeviceScore, ScoreRecord
from polarise.hardware import DeviceClaim, HardwareClaim

# By older rules an epoch that was broken off gave weights to whoever was scored in it.
WEIGHED_WHOLE_SINCE_RULES = 3


@dataclass(frozen=True, slots=True)
class MinerWorth:
    """What decides one miner's weight.

    Attributes:
        miner_key: Who.
        score_ppm: Its score.
        worth_ppb: What its devices count for, in billionths of the reference card.
    """

    miner_key: str
    score_ppm: int
    worth_ppb: int


def worth_ppb(prices: PriceList, hardware: HardwareClaim, score: ScoreRecord) -> int:
    """Return what a miner's devices count for, in billionths of the reference card.

    Args:
        prices: What a device counts for that holds its claim.
        hardware: The registry entry's claim in the epoch of the score.
        score: By rules that know what stands of each device; by older ones everything is 0.
    """
    if score.rules_version < WINDOWS_SINCE_RULES:
        return _worth_by_rules_2(prices, hardware, score)
    if not _is_inspected(score):
        return 0
    computing = {device.device: device for device in score.part("compute").devices}
    memories = {device.device: device for device in score.part("memory").devices}
    return sum(
        _device_worth_ppb(prices, claim, computing[claim.uuid], memories.get(claim.uuid))
        for claim in hardware.devices
        if claim.uuid in computing
    )


def _device_worth_ppb(prices: PriceList, claim: DeviceClaim, computing: DeviceScore, memory: DeviceScore | None) -> int:
    """Return what one device counts for: its price, times its weakest proof."""
    rates = computing.rates + (memory.rates if memory else ())
    weakest_ppm = worth_ppm(computing) if memory is None else min(worth_ppm(computing), worth_ppm(memory))
    return prices.price_ppb(claim, rates) * weakest_ppm // PPM


def _worth_by_rules_2(prices: PriceList, hardware: HardwareClaim, score: ScoreRecord) -> int:
    measured = {device.device: device for device in score.part("compute").devices}
    return sum(
        prices.price_ppb(claim, found.rates, with_memory=False) * device_ppm(found) // PPM
        for claim in hardware.devices
        if (found := measured.get(claim.uuid)) is not None
    )


def weights_ppm(miners: Sequence[MinerWorth]) -> dict[str, int]:
    """Return each miner's share of the whole in millionths."""
    shares = {miner.miner_key: _share(miner) for miner in miners}
    total = sum(shares.values())
    if total == 0:
        return dict.fromkeys(shares, 0)
    weights = {key: share * PPM // total for key, share in shares.items()}
    left = PPM - sum(weights.values())
    # A share of 0 has no remainder, and there are fewer to give than there are remainders.
    for key in sorted(shares, key=lambda key: (-(shares[key] * PPM % total), key))[:left]:
        weights[key] += 1
    return weights


def _is_inspected(score: ScoreRecord) -> bool:
    """Whether a container of the miner was ever measured, or its validator inspects nobody."""
    if score.rules_version < WINDOWS_SINCE_RULES:
        return True
    service = score.part("service")
    return service.last_ppm is not None or service.declines_count == 0


def _share(miner: MinerWorth) -> int:
    return miner.score_ppm * miner.worth_ppb if miner.score_ppm >= ACCEPTABLE_PPM else 0
