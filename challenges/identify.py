"""Which cards fit what was measured: hash rate, matmul rate, memory bandwidth and memory size, whichever there are.

Rules:
- A card fits when each measured figure lies within the honest band of what it should measure: |ln(measured / expected)|
  at most 0.15 for hashes and matmul, 0.08 for bandwidth, 0.04 for memory size (research, section D).
- Several cards may fit: two cards are a pair nobody can tell apart when the one, measuring what it should, fits the
  other. With all four figures 5 of the 741 pairs of hardware.csv are left; `benchmarks/identify.py` lists them.
- It names what a device looks like and scores nothing. There is no table of CPUs, and so nothing to identify one by.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations
from types import MappingProxyType

from challenges.bands import HONEST_PPM
from challenges.draw import ChallengeKind
from challenges.hardware import PPM, GpuModel, HardwareTable


class Figure(StrEnum):
    """What a card is known by."""

    POW = "pow"
    MATMUL = "matmul"
    BANDWIDTH = "bandwidth"
    MEMORY = "memory"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One card that fits.

    Attributes:
        name: As NVML reports it.
        distance_ppm: Root of the mean square of the figures' deviations, each over its band; 0 fits exactly, and 1,000,000
            is the most a card that fits can have.
    """

    name: str
    distance_ppm: int


@dataclass(frozen=True, slots=True)
class Identification:
    """What a device looks like.

    Attributes:
        figures: What it was judged by.
        candidates: The cards that fit, nearest first, by name where equally near.
        claimed: The name it goes by.
        is_claimed_known: Whether the table has that name.
    """

    figures: tuple[Figure, ...]
    candidates: tuple[Candidate, ...]
    claimed: str
    is_claimed_known: bool

    @property
    def is_claimed_among(self) -> bool:
        """Whether the card it claims to be is one of those that fit."""
        return any(candidate.name == self.claimed for candidate in self.candidates)


# What a card should measure.
EXPECTED: Mapping[Figure, Callable[[GpuModel], int]] = MappingProxyType(
    {
        Figure.POW: lambda model: model.pow_rate_expected,
        Figure.MATMUL: lambda model: model.matmul_rate_expected,
        Figure.BANDWIDTH: lambda model: model.memory_rate_expected,
        Figure.MEMORY: lambda model: model.memory_bytes,
    }
)
# Largest quotient of two figures in one band; that of the memory size is e**0.04 in millionths, rounded down.
FACTOR_PPM: Mapping[Figure, int] = MappingProxyType(
    {
        Figure.POW: HONEST_PPM[ChallengeKind.POW],
        Figure.MATMUL: HONEST_PPM[ChallengeKind.MATMUL],
        Figure.BANDWIDTH: HONEST_PPM[ChallengeKind.MEMORY],
        Figure.MEMORY: 1_040_810,
    }
)


def identify(measured: Mapping[Figure, int], claimed: str, table: HardwareTable) -> Identification:
    """Compare what was measured with every card of the table.

    Args:
        measured: Rates per second, and memory in bytes, each >= 1; what was not measured is left out. A proof of work
            enters with its rate, not with the lower bound that scores.
        claimed: The name the device goes by.
        table: The known cards.

    Raises:
        ValueError: Nothing, or less than 1, was measured: our own error.
    """
    if not measured or min(measured.values()) < 1:
        raise ValueError(f"nothing to identify a card by: {dict(measured)}")
    found = (
        Candidate(model.nvml_name, _distance_ppm(measured, model))
        for model in table.models.values()
        if _fits(measured, model)
    )
    candidates = tuple(sorted(found, key=lambda candidate: (candidate.distance_ppm, candidate.name)))
    figures = tuple(figure for figure in Figure if figure in measured)
    return Identification(figures, candidates, claimed, table.find(claimed) is not None)


def ambiguous_pairs(table: HardwareTable, figures: Iterable[Figure]) -> Iterator[tuple[str, str]]:
    """Yield the pairs of cards that these figures do not tell apart, in the order of the table."""
    known_by = tuple(figures)
    for first, second in combinations(table.models.values(), 2):
        if _fits({figure: EXPECTED[figure](first) for figure in known_by}, second):
            yield first.nvml_name, second.nvml_name


def _fits(measured: Mapping[Figure, int], model: GpuModel) -> bool:
    return all(_is_within(figure, value, EXPECTED[figure](model)) for figure, value in measured.items())


def _is_within(figure: Figure, one: int, other: int) -> bool:
    return max(one, other) * PPM <= min(one, other) * FACTOR_PPM[figure]


def _distance_ppm(measured: Mapping[Figure, int], model: GpuModel) -> int:
    shares = [_share_ppm(figure, value, EXPECTED[figure](model)) for figure, value in measured.items()]
    return math.isqrt(sum(share**2 for share in shares) // len(shares))


def _share_ppm(figure: Figure, one: int, other: int) -> int:
    """Return how much of its band a deviation takes."""
    beyond_ppm = max(one, other) * PPM // min(one, other) - PPM
    return beyond_ppm * PPM // (FACTOR_PPM[figure] - PPM)
