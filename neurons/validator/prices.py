"""What one device counts for beside another: a policy in integers, computed from vendors' figures, not a market's price.

Rules:
- Unit: billionths of the reference card, an H100 SXM of 80 GB. Nobody quotes prices in a way that an auditor could look up
  years later, so what is published once and does not change is weighed instead.
- A known GPU is worth the geometric mean of its dense 16-bit tensor rate (twice), memory bandwidth and memory size, each
  relative to the reference. Compute counts twice, because that is what is rented; the fourth root is two integer square
  roots, rounded down.
- A name is a claim. A card is priced only as far as the rates and the memory it claims reach what a card of this name
  should show: one that claims a tenth has a tenth of the price. Without that, a processor named H100 that claims and holds
  little would be paid like one.
- By rules 3 the bandwidth that was claimed and proven counts as well, and a card whose memory was never proven is priced like
  one nobody knows. Then all that a price is made of was shown at the same moment, and since a geometric mean of parts that
  add up to a card is never above the card's, nobody gains by splitting one card into several of other names.
- A processor, and a card nobody knows, is worth its claimed matmul rate relative to what the reference should reach, and
  never more than the least known card: about its memory we know nothing.
- The claims are those of its newest measured proof. What was claimed anew since then counts once it is measured.
- The list belongs to the version of the rules: a row of hardware.csv that is added or changed changes what an old score is
  worth, and comes with new rules.
"""

from __future__ import annotations

from math import isqrt

from challenges.hardware import GpuModel, HardwareTable
from polarise.evidence import KindRate
from polarise.hardware import DeviceClaim

REFERENCE = "NVIDIA H100 80GB HBM3"
PPB = 1_000_000_000


class PriceList:
    """What every known card counts for.

    Args:
        table: The vendors' figures.

    Raises:
        ValueError: The reference card is not in the table: the installation is damaged.
    """

    def __init__(self, table: HardwareTable) -> None:
        reference = table.find(REFERENCE)
        if reference is None:
            raise ValueError(f"hardware table: the reference card {REFERENCE!r} is missing")
        self._table = table
        self._reference = reference
        self.cards_ppb = {name: _card_ppb(model, reference) for name, model in table.models.items()}
        self._least_ppb = min(self.cards_ppb.values())

    @classmethod
    def load(cls) -> PriceList:
        """Read the table that comes with this software."""
        return cls(HardwareTable.load())

    def price_ppb(self, device: DeviceClaim, rates: tuple[KindRate, ...], *, with_memory: bool = True) -> int:
        """Return what a device counts for that holds all it claims, in billionths of the reference card.

        Args:
            device: The registered claim; its name and memory count.
            rates: Claims by kind of proof, as they were when the device was measured; none for one that never was.
            with_memory: Whether the bandwidth counts; rules 2 knew no proof of it.
        """
        claimed = {rate.kind: rate.claimed_per_second for rate in rates}
        if "matmul" not in claimed or "pow" not in claimed:
            return 0
        model = self._table.find(device.name) if device.kind == "gpu" else None
        if model is None or (with_memory and "memory" not in claimed):
            return min(claimed["matmul"] * PPB // self._reference.matmul_rate_expected, self._least_ppb)
        reach_ppb = min(
            _share_ppb(claimed["matmul"], model.matmul_rate_expected),
            _share_ppb(claimed["pow"], model.pow_rate_expected),
            _share_ppb(device.memory_bytes, model.memory_bytes),
            _share_ppb(claimed["memory"], model.memory_rate_expected) if with_memory else PPB,
        )
        return self.cards_ppb[model.nvml_name] * reach_ppb // PPB


def _card_ppb(model: GpuModel, reference: GpuModel) -> int:
    compute = model.tensor16_operations_per_second * PPB // reference.tensor16_operations_per_second
    bandwidth = model.memory_bytes_per_second * PPB // reference.memory_bytes_per_second
    memory = model.memory_bytes * PPB // reference.memory_bytes
    return isqrt(isqrt(compute * compute * bandwidth * memory))


def _share_ppb(claimed: int, expected: int) -> int:
    return min(claimed * PPB // expected, PPB)
