"""The usual rate of a GPU model, learned from accepted proofs, and the band it gives; integers, replayable by anyone.

Rules:
- A sample is an accepted rate over the table's, in millionths. One below the table's band does not count: cards under a
  better card's name, were they the many, would else become what is usual.
- An owner counts again only after four others did. Any five samples in a row are therefore of five owners: one owner is
  at most 1/5 of the average at its start, and 21.3 % of it later, (1/32) / (1 - (31/32)**5), however many its nodes are.
- A sample beyond the present band counts as the band's edge: a driver that changes all cards is followed, and one liar
  moves the average by no more than its share of the band's half.
- Mean and mean absolute deviation move by 1/n for the first 32 samples, and by 1/32 from then on; every division
  rounds down, which leaves them at most 32 millionths low.
- From 20 samples on the band is mean +- max(6 deviations, 2 honest bands), never wider than 0.4 of the mean, and its lower
  edge never below the table's. 6 deviations are 4.8 sigma of a normal distribution. Two honest bands hold every honest
  card even if all that were measured so far lie at the other end.
- What an epoch's rates are compared with is the state before the epoch; `advance` moves it afterwards, in the order in
  which the proofs stand in the evidence.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from challenges.bands import HIGH_PPM, HONEST_PPM, LOW_PPM, Band, Expectation
from challenges.draw import ChallengeKind
from challenges.hardware import PPM
from challenges.timing import RateVerdict
from polarise.rate_average import OWNERS_MIN, RateAverage, RateSample

SAMPLES_MIN = 20
WINDOW = 32
DEVIATIONS = 6
HONEST_BANDS = 2
HALF_MAX_PPM = 400_000


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
    mean = average.mean_ppm
    half = max(DEVIATIONS * average.deviation_ppm, HONEST_BANDS * HONEST_PPM[ChallengeKind(average.kind)] * mean // PPM)
    half = min(half, HALF_MAX_PPM * mean // PPM)
    return max(mean - half, LOW_PPM), mean + half


def update(average: RateAverage, sample: RateSample) -> RateAverage:
    """Return the average after one more sample, or the same where the sample does not count.

    Raises:
        ValueError: The sample is of another model or kind: our own error.
    """
    if (sample.model, sample.kind) != (average.model, average.kind):
        raise ValueError(f"a {sample.kind} sample of {sample.model!r} for {average.kind} of {average.model!r}")
    if sample.of_expected_ppm < LOW_PPM or sample.owner_key in average.recent_owners:
        return average
    low_ppm, high_ppm = edges(average)
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
