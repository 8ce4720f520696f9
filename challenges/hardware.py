"""What the vendors say of each GPU model, read from hardware.csv, and what a proof should measure on it.

Rules:
- The facts are in the file, with a source for each row; here are only the efficiencies, measured or derived in
  research (matmul 0.80 of the dense 16-bit tensor peak, SHA-256 0.0624 hashes per SM and clock, memory 0.90), and the
  peak of SHA-256, of which vendors say nothing: an SM has 64 integer lanes, and the shortest kernel known needs 903
  instructions a hash on them.
- A model the file does not know gives None, and then no peak is assumed; a name is a claim and scores nothing.
- Integers only, in base units, so that scores computed from them are equal everywhere.
"""

from __future__ import annotations

import csv
import functools
import io
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from importlib import resources
from types import MappingProxyType

MATMUL_EFFICIENCY_PPM = 800_000
MEMORY_EFFICIENCY_PPM = 900_000
SHA256_PER_SM_CLOCK_PPM = 62_400
SHA256_PER_SM_CLOCK_PEAK_PPM = 64 * 1_000_000 // 903
PPM = 1_000_000


@dataclass(frozen=True, slots=True)
class GpuModel:
    """One row of hardware.csv.

    Args:
        nvml_name: Name as NVML reports it; the key.
        architecture: NVIDIA's name of the architecture.
        compute_capability: For example "9.0".
        sm_count: Streaming multiprocessors.
        boost_hz: Boost clock.
        memory_bytes: Total device memory as NVML reports it, +-1 %.
        memory_bytes_per_second: Peak memory bandwidth.
        tensor16_operations_per_second: Dense fp16/bf16 tensor peak with fp32 accumulation.
        power_watts: Thermal design power.
        source: Where the tensor peak is from.
    """

    nvml_name: str
    architecture: str
    compute_capability: str
    sm_count: int
    boost_hz: int
    memory_bytes: int
    memory_bytes_per_second: int
    tensor16_operations_per_second: int
    power_watts: int
    source: str

    @property
    def matmul_rate_expected(self) -> int:
        """Operations per second that an honest card reaches in the matmul proof."""
        return self.tensor16_operations_per_second * MATMUL_EFFICIENCY_PPM // PPM

    @property
    def memory_rate_expected(self) -> int:
        """Bytes per second that an honest card reads in a memory pass."""
        return self.memory_bytes_per_second * MEMORY_EFFICIENCY_PPM // PPM

    @property
    def pow_rate_expected(self) -> int:
        """SHA-256 hashes per second that an honest card reaches in the proof of work."""
        return self.sm_count * self.boost_hz * SHA256_PER_SM_CLOCK_PPM // PPM

    @property
    def pow_rate_peak(self) -> int:
        """SHA-256 hashes per second that the card's integer lanes can do at its boost clock."""
        return self.sm_count * self.boost_hz * SHA256_PER_SM_CLOCK_PEAK_PPM // PPM


@dataclass(frozen=True, slots=True)
class HardwareTable:
    """All known models by NVML name."""

    models: Mapping[str, GpuModel]

    @classmethod
    @functools.cache
    def load(cls) -> HardwareTable:
        """Read the file that comes with this package, once.

        Raises:
            ValueError: A row is broken or a name stands twice: the installation is damaged.
        """
        text = resources.files("challenges").joinpath("hardware.csv").read_text(encoding="utf-8")
        return cls.parse(text)

    @classmethod
    def parse(cls, text: str) -> HardwareTable:
        """Read a table from CSV text with the columns of hardware.csv."""
        models: dict[str, GpuModel] = {}
        for row in csv.DictReader(io.StringIO(text)):
            model = _model(row)
            if model.nvml_name in models:
                raise ValueError(f"hardware table: {model.nvml_name!r} stands twice")
            models[model.nvml_name] = model
        return cls(MappingProxyType(models))

    def find(self, nvml_name: str) -> GpuModel | None:
        """Return the model NVML names so, exactly, or None."""
        return self.models.get(nvml_name)


def _model(row: Mapping[str, str]) -> GpuModel:
    return GpuModel(
        nvml_name=row["nvml_name"],
        architecture=row["arch"],
        compute_capability=row["compute_capability"],
        sm_count=int(row["sms"]),
        boost_hz=_scaled(row["boost_mhz"], 10**6),
        memory_bytes=_scaled(row["nvml_total_mib"], 1 << 20),
        memory_bytes_per_second=_scaled(row["mem_bw_gbs"], 10**9),
        tensor16_operations_per_second=_scaled(row["tensor16_dense_tflops"], 10**12),
        power_watts=int(row["tdp_w"]),
        source=row["source_tensor"],
    )


def _scaled(text: str, unit: int) -> int:
    """Turn a decimal into base units without passing through a float."""
    return int(Decimal(text) * unit)
