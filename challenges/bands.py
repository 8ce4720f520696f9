"""What a device of a known model should measure, and the band around it in which a rate is nothing to speak of.

Rules:
- A GPU model of hardware.csv has an expected rate of each kind: 0.0624 hashes per SM and clock, 0.80 of the dense tensor
  peak, 0.90 of the memory bandwidth. Until there is an average of its model (`challenges.averages`), 0.6 to 1.1 of that
  are the band.
- Of a CPU, and of a GPU the table does not know, nothing but its own claim is expected: no band, no peak, no flag. Claims
  are floors (`join` claims 70 % of what it measures), so that more than the claim says nothing.
- A rate outside the band is flagged. DEGRADED: the card is slow, or is not the one it is called, and its owner claims
  little enough to hold it. FAST: faster than its kind, and still possible.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from challenges.draw import ChallengeKind
from challenges.hardware import PPM, GpuModel

LOW_PPM = 600_000
HIGH_PPM = 1_100_000

# How far honest cards of one model lie from their usual rate, as a quotient up or down: e**0.15, e**0.15 and e**0.08 in
# millionths, rounded down; research, section D.
HONEST_PPM: Mapping[ChallengeKind, int] = MappingProxyType(
    {ChallengeKind.POW: 1_161_834, ChallengeKind.MATMUL: 1_161_834, ChallengeKind.MEMORY: 1_083_287}
)


class RateFlag(StrEnum):
    """On which side of its band a rate lies; shown, and worth nothing."""

    DEGRADED = "DEGRADED"
    FAST = "FAST"


@dataclass(frozen=True, slots=True)
class Band:
    """Where rates of one model and kind are expected; both edges belong to it.

    Args:
        expected: The table's rate, per second, >= 1.
        low_ppm: Lower edge, of the expected rate.
        high_ppm: Upper edge.
    """

    expected: int
    low_ppm: int = LOW_PPM
    high_ppm: int = HIGH_PPM

    def flag(self, measured: int) -> RateFlag | None:
        """Return the side on which a rate is outside, or None; cross-multiplied, so that rounding decides nothing."""
        if measured * PPM < self.expected * self.low_ppm:
            return RateFlag.DEGRADED
        return RateFlag.FAST if measured * PPM > self.expected * self.high_ppm else None


@dataclass(frozen=True, slots=True)
class Expectation:
    """What one device should measure in one kind of proof.

    Args:
        kind: Which proof.
        rate: Operations, hashes or bytes per second: the table's, or else the device's own claim.
        peak: What its model can do at all; None where the table does not know it.
        model: Its name in the table; None where the claim is all there is.
    """

    kind: ChallengeKind
    rate: int
    peak: int | None
    model: str | None

    @property
    def band(self) -> Band | None:
        """The table's band; None where the claim is all there is."""
        return None if self.model is None else Band(self.rate)


def expect(model: GpuModel | None, kind: ChallengeKind, claimed: int) -> Expectation:
    """Return what a device should measure.

    Args:
        model: `HardwareTable.find` of a GPU's name; None for a CPU.
        kind: Which proof.
        claimed: The device's claim of this kind, per second, >= 1.
    """
    if model is None:
        return Expectation(kind, claimed, None, None)
    match kind:
        case ChallengeKind.POW:
            rate, peak = model.pow_rate_expected, model.pow_rate_peak
        case ChallengeKind.MATMUL:
            rate, peak = model.matmul_rate_expected, model.tensor16_operations_per_second
        case ChallengeKind.MEMORY:
            rate, peak = model.memory_rate_expected, model.memory_bytes_per_second
    return Expectation(kind, rate, peak, model.nvml_name)
