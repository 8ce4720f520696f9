"""The usual rate of a GPU model, learned from accepted proofs, and the band it gives; integers, replayable by anyone.

Rules:
- A sample is an accepted rate over the table's, in millionths. One below the table's band does not count: cards under a
  better card's name, were they the many, would else become what is usual.
- An owner counts again only after four others did. Any five samples in a row are therefore of five owners: one owner is
  at most 1/5 of the average at its start, and 21.3 % of it later, (1/32) / (1 - (31/32)**5), however many its nodes are.
- A sample further from the mean than two honest bands counts as one at that distance (of the first twenty, as the
  edge of the table's band): a driver that changes all cards is followed, and one liar moves the average by no more than
  its share of that.
- Mean and mean absolute deviation move by 1/n for the first 32 samples, and by 1/32 from then on; every division
  rounds down, which leaves them at most 32 millionths low.
- From 20 samples on the band reaches to two honest bands from the mean, or to seven deviations where that is further, and
  never below the table's. Two honest bands hold every honest card, even if all that were measured so far lie at the other
  end; seven deviations are 5.6 sigma of a normal distribution.
- What an epoch's rates are compared with is the state before the epoch; `advance` moves it afterwards, in the order in
  which the proofs stand in the evidence.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from challenges.bands import HIGH_PPM, LOW_PPM, Band, Expectation
from challenges.draw import ChallengeKind
from challenges.hardware import PPM
from challenges.timing import RateVerdict
from polarise.rate_average import OWNERS_MIN, RateAverage, RateSample

SAMPLES_MIN = 20
WINDOW = 32
DEVIATIONS = 7
# Two honest bands as one quotient: e**0.30, e**0.16. A proof of work varies by 1/sqrt(2000) on top each time; three of
# that are allowed for.
SPREAD_PPM: Mapping[ChallengeKind, int] = MappingProxyType(
    {ChallengeKind.POW: 1_440_410, ChallengeKind.MATMUL: 1_349_858, ChallengeKind.MEMORY: 1_173_510}
)


def sample_of(expectation: Expectation, owner_key: str, verdict: RateVerdict) -> RateSample | None:
    """Return what a rate adds to its model's average; None where it was not accepted, or no model is known.

    Args:
        expectation: What the device should measure.
        owner_key: Owner of the miner, 64 hex digits.
        verdict: Of `judge_rate`, given this expectation's band.
    """
    if expectation.model is None or verdict.of_expected_ppm is None or not verdict.is_accepted:
        return None
    return RateSample(
        model=expectation.model,
        kind=expectation.kind.value,
        owner_key=owner_key,
        of_expected_ppm=verdict.of_expected_ppm,
    )


def is_usable(average: RateAverage) -> bool:
    """Whether enough samples counted; they are of at least five owners then."""
    return average.samples_count >= SAMPLES_MIN


def band_of(expectation: Expectation, average: RateAverage | None) -> Band | None:
    """Return the band in which a device's rate is expected; None where only its claim is.

    Args:
        expectation: What the device should measure by the table.
        average: Of its model and kind, as it was before the epoch; None when there is none.

    Raises:
        ValueError: The average is of another model or kind: our own error.
    """
    if expectation.model is None:
        return None
    if average is None:
        return expectation.band
    if (average.model, average.kind) != (expectation.model, expectation.kind):
        raise ValueError(f"{average.kind} of {average.model!r} for {expectation.kind} of {expectation.model!r}")
    low_ppm, high_ppm = edges(average)
    return Band(expectation.rate, low_ppm, high_ppm)


def edges(average: RateAverage) -> tuple[int, int]:
    """Return both edges of the band in millionths of the table's rate: the table's own until the average is usable."""
    if not is_usable(average):
        return LOW_PPM, HIGH_PPM
    low_ppm, high_ppm = _honest(average)
    half = DEVIATIONS * average.deviation_ppm
    return max(min(average.mean_ppm - half, low_ppm), LOW_PPM), max(average.mean_ppm + half, high_ppm)


def update(average: RateAverage, sample: RateSample) -> RateAverage:
    """Return the average after one more sample, or the same where the sample does not count.

    Raises:
        ValueError: The sample is of another model or kind: our own error.
    """
    if (sample.model, sample.kind) != (average.model, average.kind):
        raise ValueError(f"a {sample.kind} sample of {sample.model!r} for {average.kind} of {average.model!r}")
    if sample.of_expected_ppm < LOW_PPM or sample.owner_key in average.recent_owners:
        return average
    low_ppm, high_ppm = _reach(average)
    taken = min(max(sample.of_expected_ppm, low_ppm), high_ppm)
    count = average.samples_count + 1
    weight = min(count, WINDOW)
    deviation = abs(taken - average.mean_ppm) if average.samples_count else 0
    return RateAverage(
        model=average.model,
        kind=average.kind,
        samples_count=count,
        mean_ppm=(average.mean_ppm * (weight - 1) + taken) // weight,
        deviation_ppm=(average.deviation_ppm * (weight - 1) + deviation) // weight,
        recent_owners=(*average.recent_owners, sample.owner_key)[-(OWNERS_MIN - 1) :],
    )


def advance(averages: Sequence[RateAverage], samples: Iterable[RateSample]) -> tuple[RateAverage, ...]:
    """Return all averages after one epoch, by model and kind.

    Args:
        averages: The state before it, at most one of each model and kind.
        samples: Of the epoch, in the order of its proofs: by miner key, then by device, then by kind.
    """
    state = {(average.model, average.kind): average for average in averages}
    for sample in samples:
        key = (sample.model, sample.kind)
        state[key] = update(state.get(key) or RateAverage(model=sample.model, kind=sample.kind), sample)
    return tuple(state[key] for key in sorted(state))


def _reach(average: RateAverage) -> tuple[int, int]:
    """Return how far from the mean a sample counts as what it is."""
    return _honest(average) if is_usable(average) else (LOW_PPM, HIGH_PPM)


def _honest(average: RateAverage) -> tuple[int, int]:
    """Return two honest bands down and up from the mean."""
    quotient_ppm = SPREAD_PPM[ChallengeKind(average.kind)]
    return average.mean_ppm * PPM // quotient_ppm, average.mean_ppm * quotient_ppm // PPM
