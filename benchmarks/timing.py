"""How far the rules of time are from the truth, and whether they ever accuse an honest miner: a Monte-Carlo, no work is done.

Rules:
- Times are drawn, and judged by the functions that judge real ones: `challenges.timing`, `bands`, `averages`.
- The link is research's: 80 ms there and back, on each way a log-normal delay on top, 10 ms at the median and 85 ms at the
  99th percentile. The smallest of 8 pings is subtracted.
- Honest machines claim as `join` lets them: 70 % of a median of three on a CPU, 90 % on a GPU; a third kind claims what
  the table expects. A fifth of them is up to a fifth slower than its kind, and a fifth has a link twice as bad.
- A verdict with a reason is an accusation, a flag outside the band costs nothing and is counted beside it.
- One seed, so that the same command prints the same figures. Prints numbers and asserts nothing about them.

Run: .venv/bin/python benchmarks/timing.py
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.proofs import cpu_model, print_line
from challenges import averages
from challenges.bands import Expectation, RateFlag, expect
from challenges.draw import ChallengeKind
from challenges.hardware import GpuModel, HardwareTable
from challenges.timing import (
    NS_PER_SECOND,
    PPM,
    RTT_CAP_NS,
    RateVerdict,
    duration_ns,
    fit_params,
    fit_pow_params,
    judge_rate,
    pow_rate_lower_bound,
    rate_per_second,
)
from polarise.rate_average import OWNERS_MIN, RateAverage, RateSample

PINGS = 8
RTT_SECONDS = 0.080
JITTER_MEDIAN_SECONDS = 0.010
JITTER_SIGMA = math.log(85 / 10) / statistics.NormalDist().inv_cdf(0.99)
# Raw bias, its spread, corrected bias, its spread, spread with 1000 shares, in per cent: research, section D.
RESEARCH = {1: (-12.0, 1.9, -1.9, 2.4, 3.9), 5: (-2.7, 0.5, -0.4, 0.5, 3.2), 10: (-1.4, 0.25, -0.2, 0.26, 3.2)}
SHARES = 1000
CPU_SECONDS = 3
CARDS = ("NVIDIA H200", "NVIDIA A100 80GB PCIe", "NVIDIA GeForce RTX 4090", "NVIDIA L40S", "NVIDIA GeForce RTX 2080 Ti")
BEST_KERNEL = 1.08
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Link:
    """The way between validator and miner.

    Args:
        rtt_seconds: Without delays.
        jitter_median_seconds: Of the delay on each way.
    """

    rtt_seconds: float = RTT_SECONDS
    jitter_median_seconds: float = JITTER_MEDIAN_SECONDS

    def trips_ns(self, random: np.random.Generator, *shape: int) -> NDArray[np.int64]:
        """Draw round trips, in nanoseconds."""
        ways = self.jitter_median_seconds * random.lognormal(0.0, JITTER_SIGMA, (2, *shape))
        trips: NDArray[np.int64] = ((self.rtt_seconds + ways.sum(axis=0)) * NS_PER_SECOND).astype(np.int64)
        return trips


GOOD_LINK = Link()
BAD_LINK = Link(2 * RTT_SECONDS, 2 * JITTER_MEDIAN_SECONDS)


def main() -> None:
    """Print all tables."""
    options = _parse_options()
    random = np.random.default_rng(options.seed)
    print_line(f"command: python benchmarks/timing.py {' '.join(sys.argv[1:])}".rstrip())
    print_line(f"hardware: {cpu_model()}, {os.cpu_count()} cores; seed {options.seed}; times are drawn, not measured")
    print_bias(random, options.draws)
    print_pings()
    print_accusations(random, options.miners, options.rounds)
    print_ceiling(random, options.draws)
    print_averages(random, options.markets, options.cards)


def print_bias(random: np.random.Generator, draws: int) -> None:
    """Compare bias and spread of a rate with research's, both before and after the round trip is subtracted."""
    print_line(f"\nbias and spread of a rate, {draws} draws; per cent, ours (research)")
    uncapped = {}
    print_line("| work s |       raw bias |      raw sd | corrected bias | corrected sd | with 1000 shares |")
    print_line("|-------:|---------------:|------------:|---------------:|-------------:|-----------------:|")
    for seconds, theirs in RESEARCH.items():
        raw, corrected, whole = _durations(random, seconds, draws)
        shares = SHARES / random.standard_gamma(SHARES, draws)
        ours = (*_bias_and_sd(raw), *_bias_and_sd(corrected), _bias_and_sd(corrected * shares)[1])
        cells = [f"{one:.2f} ({other:.2f})" for one, other in zip(ours, theirs, strict=True)]
        print_line(
            f"| {seconds:6} | {cells[0]:>14} | {cells[1]:>11} | {cells[2]:>14} | {cells[3]:>12} | {cells[4]:>16} |"
        )
        uncapped[seconds] = _bias_and_sd(whole)
    print_line(
        "`duration_ns` subtracts no more than 2 % of the time, research up to 100 ms whatever the time; by that rule"
    )
    print_line("; ".join(f"{seconds} s: {bias:.2f} +- {sd:.2f}" for seconds, (bias, sd) in uncapped.items()))
    trip_ms = 1000 * (RTT_SECONDS + 2 * JITTER_MEDIAN_SECONDS * math.exp(JITTER_SIGMA**2 / 2))
    print_line(f"raw bias is that of the mean round trip, {trip_ms:.0f} ms here; research's is that of about 140 ms")


def _durations(random: np.random.Generator, seconds: float, draws: int) -> tuple[Floats, Floats, Floats]:
    """Return true time over elapsed, over corrected, and over what is left if the 2 % of `duration_ns` is no cap."""
    work_ns = int(seconds * NS_PER_SECOND)
    elapsed = work_ns + GOOD_LINK.trips_ns(random, draws)
    pings = GOOD_LINK.trips_ns(random, PINGS, draws).min(axis=0)
    corrected = [duration_ns(0, int(one), int(rtt)) for one, rtt in zip(elapsed, pings, strict=True)]
    return work_ns / elapsed, work_ns / np.array(corrected), work_ns / (elapsed - np.minimum(pings, RTT_CAP_NS))


def _bias_and_sd(ratios: Floats) -> tuple[float, float]:
    return 100 * (float(ratios.mean()) - 1), 100 * float(ratios.std())


def print_pings() -> None:
    """Print what a miner gains that answers its pings late and its proof at once."""
    print_line("\ngain of a miner that holds back its pings for a minute; nothing else changes")
    print_line("| work s | rate with honest pings of 80 ms | with late pings | gain |")
    print_line("|-------:|--------------------------------:|----------------:|-----:|")
    best = 0.0
    for milliseconds in (100, 1000, 3000, 4900, 5000, 10_000, 60_000):
        elapsed = milliseconds * 1_000_000 + int(RTT_SECONDS * NS_PER_SECOND)
        honest, late = (elapsed / duration_ns(0, elapsed, rtt) for rtt in (80_000_000, 60 * NS_PER_SECOND))
        best = max(best, late - 1)
        print_line(
            f"| {milliseconds / 1000:6.1f} | {honest:31.5f} | {late:15.5f} | {100 * (late / honest - 1):3.2f} % |"
        )
    print_line(f"largest gain over no pings at all: {100 * best:.3f} %; the bound is 1/49 = {100 / 49:.3f} %")


@dataclass(frozen=True, slots=True)
class Machine:
    """One honest machine.

    Args:
        model: Of a GPU; None for a CPU.
        rates: True rate of each kind, per second.
        claims: What it claims.
        target_seconds: How long its proofs are to take.
        link: Its way to the validator.
    """

    model: GpuModel | None
    rates: dict[ChallengeKind, float]
    claims: dict[ChallengeKind, int]
    target_seconds: int
    link: Link


def print_accusations(random: np.random.Generator, miners: int, rounds: int) -> None:
    """Judge honest miners in each kind, round after round."""
    print_line(f"\nhonest miners accused, {miners} each, {rounds} rounds of all their proofs; flags cost nothing")
    print_line(
        "| who                                      |  accused | of proofs | flagged proofs | weakest rate/claim |"
    )
    print_line(
        "|:-----------------------------------------|---------:|----------:|---------------:|-------------------:|"
    )
    total = 0
    for name, percent in (
        ("CPU, claims 70 % of its median", 70),
        ("GPU, claims 90 % of its median", 90),
        ("GPU", None),
    ):
        for seconds in (CPU_SECONDS,) if "CPU" in name else (5, 10):
            accused, flagged, weakest = 0, 0, math.inf
            for _ in range(miners):
                machine = _machine(random, percent, seconds, is_cpu="CPU" in name)
                verdicts = [_prove(random, machine, kind) for _ in range(rounds) for kind in machine.claims]
                accused += any(not verdict.is_accepted for verdict in verdicts)
                flagged += sum(verdict.flag is not None for verdict in verdicts)
                weakest = min(weakest, *(verdict.ratio_ppm / PPM for verdict in verdicts))
            label = f"{name if percent else 'GPU, claims what the table expects'}, {seconds} s"
            proofs = miners * rounds * (2 if "CPU" in name else 3)
            print_line(f"| {label:40} | {accused:8} | {proofs:9} | {flagged:14} | {weakest:18.3f} |")
            total += accused
    print_line(f"wrongly accused: {total} of {5 * miners} honest miners")


def _machine(random: np.random.Generator, percent: int | None, seconds: int, *, is_cpu: bool) -> Machine:
    # Some slow, some on a bad link; the rest within a few per cent of its kind.
    pace = random.normal(1.0, 0.03) * (random.uniform(0.8, 1.0) if random.random() < 0.2 else 1.0)
    link = BAD_LINK if random.random() < 0.2 else GOOD_LINK
    model = None if is_cpu else HardwareTable.load().models[CARDS[random.integers(len(CARDS))]]
    if model is None:
        rates = {ChallengeKind.POW: 7e6 * pace, ChallengeKind.MATMUL: 1e11 * pace}
    else:
        rates = {kind: expect(model, kind, 1).rate * pace for kind in ChallengeKind}
    claims = {}
    for kind, rate in rates.items():
        measured = statistics.median(rate * random.normal(1.0, 0.02, 3))
        claims[kind] = expect(model, kind, 1).rate if percent is None else max(int(measured) * percent // 100, 1)
    return Machine(model, rates, claims, seconds, link)


def _prove(random: np.random.Generator, machine: Machine, kind: ChallengeKind) -> RateVerdict:
    """Draw the time of one proof and judge it as a validator does."""
    claimed, rate = machine.claims[kind], machine.rates[kind] * random.normal(1.0, 0.02)
    expectation = expect(machine.model, kind, claimed)
    pings = int(machine.link.trips_ns(random, PINGS).min())
    on_the_way = int(machine.link.trips_ns(random, 1)[0])

    def taken_ns(operations: float) -> int:
        return duration_ns(0, int(operations / rate * NS_PER_SECOND) + on_the_way, pings)

    match kind:
        case ChallengeKind.POW:
            pow_params = fit_pow_params(claimed, machine.target_seconds)
            hashes = pow_params.difficulty * random.standard_gamma(pow_params.shares)
            measured = pow_rate_lower_bound(pow_params, taken_ns(hashes))
        case ChallengeKind.MATMUL:
            matmul_params = fit_params(claimed, machine.target_seconds)
            measured = rate_per_second(matmul_params.operations, taken_ns(matmul_params.operations))
        case ChallengeKind.MEMORY:
            read_bytes = claimed * machine.target_seconds
            measured = rate_per_second(read_bytes, taken_ns(read_bytes))
    return judge_rate(measured, claimed, expectation.peak, expectation.band)


def print_ceiling(random: np.random.Generator, draws: int) -> None:
    """Count proofs of work that are TOO_FAST by the old ceiling, 1.15 of the expectation, and by that of the peak."""
    print_line(f"\nhonest proofs of work above the ceiling, {draws} each: the card's published rate, and 1.08 of it")
    print_line(
        "| card                         | published/expected | 1.15 x expected | 1.15 x peak | at 1.08: old | new |"
    )
    print_line(
        "|:-----------------------------|-------------------:|----------------:|------------:|-------------:|----:|"
    )
    published = {"NVIDIA GeForce RTX 2080 Ti": 0.0695, "NVIDIA GeForce RTX 5090": 0.0694, "NVIDIA H100 PCIe": 0.061}
    for name, per_sm_clock in published.items():
        model = HardwareTable.load().models[name]
        rate = per_sm_clock * model.sm_count * model.boost_hz
        cells = []
        for pace in (1.0, BEST_KERNEL):
            bounds = _bounds(random, model, rate * pace, draws)
            for peak in (model.pow_rate_expected, expect(model, ChallengeKind.POW, 1).peak):
                cells.append(sum(not judge_rate(bound, 1, peak).is_accepted for bound in bounds))
        ratio = rate / model.pow_rate_expected
        print_line(f"| {name:28} | {ratio:18.3f} | {cells[0]:15} | {cells[1]:11} | {cells[2]:12} | {cells[3]:3} |")


def _bounds(random: np.random.Generator, model: GpuModel, rate: float, draws: int) -> list[int]:
    params = fit_pow_params(model.pow_rate_expected, 10)
    times = params.difficulty * random.standard_gamma(params.shares, draws) / rate
    return [pow_rate_lower_bound(params, int(time * NS_PER_SECOND)) for time in times]


def print_averages(random: np.random.Generator, markets: int, cards: int) -> None:
    """Learn averages in many markets, and judge honest cards against the band of each.

    Cards of a model lie anywhere in the honest band, +-15 % (+-8 % for the memory), each as likely, around a usual rate
    between 0.8 and 1.25 of the table's; a proof of work varies by its 2,000 shares on top. In half of the markets one owner
    of five lies as low or as high as counts. Cards of one market share its average, so that markets count as well as cards.
    """
    print_line(f"\nhonest cards outside the band of their model's average: {markets} markets x {cards} cards each")
    print_line(
        "| kind   | owners           | flagged | of cards  | rate      | band, median of usual | mean off by, max |"
    )
    print_line(
        "|:-------|:-----------------|--------:|----------:|----------:|----------------------:|-----------------:|"
    )
    model = HardwareTable.load().models["NVIDIA H200"]
    for kind, honest in ((ChallengeKind.POW, 0.15), (ChallengeKind.MATMUL, 0.15), (ChallengeKind.MEMORY, 0.08)):
        expectation = expect(model, kind, 1)
        for liars in (False, True):
            flagged, offs, edges = 0, [], []
            for _ in range(markets):
                usual = random.uniform(0.8, 1.1 if kind is ChallengeKind.POW else 1.25)
                average = _learned(random, expectation, usual, honest, is_lied_to=liars)
                measured = usual * _honest_paces(random, kind, honest, cards)
                flagged += _flagged(expectation, average, measured)
                offs.append(abs(average.mean_ppm / PPM / usual - 1))
                edges.append([edge / PPM / usual for edge in averages.edges(average)])
            low, high = np.median(np.array(edges), axis=0)
            count = markets * cards
            rate = f"{flagged / count:.1e}" if flagged else f"< {3 / count:.0e}"
            who = "5, one that lies" if liars else "8"
            print_line(
                f"| {kind.value:6} | {who:16} | {flagged:7} | {count:9} | {rate:>9} | {low:13.3f} - {high:.3f} "
                f"| {100 * max(offs):14.1f} % |"
            )


def _honest_paces(random: np.random.Generator, kind: ChallengeKind, honest: float, count: int) -> Floats:
    paces = random.uniform(1 - honest, 1 + honest, count)
    noise = 2000 / random.standard_gamma(2000, count) if kind is ChallengeKind.POW else random.normal(1, 0.005, count)
    return np.asarray(paces * noise)


def _learned(
    random: np.random.Generator, expectation: Expectation, usual: float, honest: float, *, is_lied_to: bool
) -> RateAverage:
    """Let eight owners, or five of whom one lies, be measured for forty epochs."""
    owners_count = OWNERS_MIN if is_lied_to else 8
    lie = random.choice([0.6, 1.4])
    average = RateAverage(model=str(expectation.model), kind=expectation.kind.value)
    steady = random.uniform(1 - honest, 1 + honest, owners_count)
    for _ in range(40):
        paces = usual * steady * _honest_paces(random, expectation.kind, 0.0, owners_count)
        if is_lied_to:
            paces[0] = lie
        samples = [
            RateSample(
                model=str(expectation.model),
                kind=expectation.kind.value,
                owner_key=f"{owner:064x}",
                of_expected_ppm=int(pace * PPM),
            )
            for owner, pace in enumerate(paces)
        ]
        (average,) = averages.advance((average,), samples)
    return average


def _flagged(expectation: Expectation, average: RateAverage, measured: Floats) -> int:
    """Count the cards outside the band; the edges are the real functions', the comparison is theirs, many at once."""
    band = averages.band_of(expectation, average)
    assert band is not None
    rates = (measured * expectation.rate).astype(np.int64).astype(object)
    outside = (rates * PPM < band.expected * band.low_ppm) | (rates * PPM > band.expected * band.high_ppm)
    sample = range(0, len(rates), max(len(rates) // 50, 1))
    assert all((band.flag(int(rates[index])) in tuple(RateFlag)) == bool(outside[index]) for index in sample)
    return int(outside.sum())


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Bias of the rules of time, and whom they accuse.")
    parser.add_argument("--draws", type=int, default=100_000, help="draws of each time (100000)")
    parser.add_argument("--miners", type=int, default=2000, help="honest miners of each of five kinds (2000)")
    parser.add_argument("--rounds", type=int, default=12, help="rounds each of them proves (12)")
    parser.add_argument("--markets", type=int, default=400, help="averages learned for each row (400)")
    parser.add_argument("--cards", type=int, default=25_000, help="honest cards judged by each of them (25000)")
    parser.add_argument("--seed", type=int, default=4, help="of all draws (4)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
