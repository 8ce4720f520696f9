"""The table of GPU models: whole, exact, and silent about what it does not know."""

from __future__ import annotations

import csv
import statistics
from importlib import resources

import pytest

from challenges.hardware import HardwareTable

HEADER = (
    "nvml_name,arch,compute_capability,sms,boost_mhz,vram_gb,nvml_total_mib,mem_bw_gbs,fp32_tflops,"
    "tensor16_dense_tflops,int8_dense_tops,tdp_w,sha256_hashcat_ghs,sha256_per_sm_clk,source_specs,source_tensor\n"
)
ROW = "Card,Arch,9.0,132,1980,141,143771,4800,67,989.4,1979,700,,,https://example.org,sheet\n"


def test_every_row_is_read() -> None:
    models = HardwareTable.load().models
    assert len(models) == 39
    for model in models.values():
        assert model.source
        assert model.sm_count > 0
        assert model.matmul_rate_expected < model.tensor16_operations_per_second
        assert 1 << 32 < model.memory_bytes < 1 << 38
        assert 10**11 < model.memory_bytes_per_second < 10**13


def test_numbers_are_exact_integers_in_base_units() -> None:
    model = HardwareTable.load().find("NVIDIA H200")
    assert model is not None
    assert model.tensor16_operations_per_second == 989_400_000_000_000
    assert model.matmul_rate_expected == 791_520_000_000_000
    assert model.memory_rate_expected == 4_320_000_000_000
    assert model.pow_rate_expected == 132 * 1_980_000_000 * 624 // 10_000
    assert model.memory_bytes == 143_771 << 20


@pytest.mark.parametrize("name", ["", "H200", "nvidia h200", "NVIDIA H200 ", "NVIDIA Z999"])
def test_an_unknown_name_is_none(name: str) -> None:
    assert HardwareTable.load().find(name) is None


def test_a_name_that_stands_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        HardwareTable.parse(HEADER + ROW + ROW)


ROWS = list(csv.DictReader(resources.files("challenges").joinpath("hardware.csv").read_text("utf-8").splitlines()))
IDS = [row["nvml_name"] for row in ROWS]
SERVER_EDITION = "NVIDIA RTX PRO 6000 Blackwell Server Edition"
# NVIDIA states these tensor peaks at a clock of their own, below the boost clock of the row (Hopper's papers name it).
TENSOR_CLOCK_MHZ = {
    "NVIDIA B200": 1856,
    "NVIDIA H200": 1830,
    "NVIDIA H100 80GB HBM3": 1830,
    "NVIDIA H100 PCIe": 1620,
    "NVIDIA H200 NVL": 1545,
    "NVIDIA H100 NVL": 1545,
    # Both of NVIDIA's figures in this row mean 2430 MHz, the clock of the other source is the workstation's.
    SERVER_EDITION: 2430,
}
# Operations per SM and clock: dense fp16 with fp32 accumulation. GeForce, and the L40, do half of it.
TENSOR_PER_SM_CLOCK = {"7.0": 1024, "7.5": 1024, "8.0": 2048, "8.6": 1024, "8.9": 1024, "9.0": 4096, "10.0": 8192}
TENSOR_PER_SM_CLOCK |= {"12.0": 1024}
FP32_PER_SM_CLOCK = {"7.0": 128, "7.5": 128, "8.0": 128, "8.6": 256, "8.9": 256, "9.0": 256, "10.0": 256, "12.0": 256}


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_tensor_peak_is_sms_times_operations_times_clock(row: dict[str, str]) -> None:
    is_halved = "GeForce" in row["nvml_name"] or row["nvml_name"] == "NVIDIA L40"
    per_sm_clock = TENSOR_PER_SM_CLOCK[row["compute_capability"]] / (2 if is_halved else 1)
    clock_mhz = TENSOR_CLOCK_MHZ.get(row["nvml_name"], float(row["boost_mhz"]))
    computed = int(row["sms"]) * per_sm_clock * clock_mhz / 1e6
    assert float(row["tensor16_dense_tflops"]) == pytest.approx(computed, rel=0.03)


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_fp32_peak_is_sms_times_operations_times_clock(row: dict[str, str]) -> None:
    clock_mhz = TENSOR_CLOCK_MHZ[SERVER_EDITION] if row["nvml_name"] == SERVER_EDITION else float(row["boost_mhz"])
    computed = int(row["sms"]) * FP32_PER_SM_CLOCK[row["compute_capability"]] * clock_mhz / 1e6
    assert float(row["fp32_tflops"]) == pytest.approx(computed, rel=0.01)


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_int8_peak_is_a_known_multiple_of_the_16_bit_peak(row: dict[str, str]) -> None:
    """Twice; four times where fp32 accumulation is halved; V100 has no int8 tensor cores."""
    name = row["nvml_name"]
    factor = 4 if "GeForce" in name else 0.5 if "V100" in name else 2
    assert float(row["int8_dense_tops"]) == pytest.approx(factor * float(row["tensor16_dense_tflops"]), rel=0.03)


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_memory_is_the_advertised_size_less_what_ecc_takes(row: dict[str, str]) -> None:
    """Vendors say GB and mean GiB, or the other way round; ECC in GDDR takes a sixteenth."""
    gibibytes = float(row["nvml_total_mib"]) / 1024
    assert 0.93 * float(row["vram_gb"]) <= gibibytes <= float(row["vram_gb"])


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_row_says_where_it_is_from_and_is_plausible(row: dict[str, str]) -> None:
    assert row["source_specs"].startswith("https://www.techpowerup.com/gpu-specs/")
    assert row["source_tensor"].startswith("NVIDIA ")
    assert int(row["tdp_w"]) in range(50, 1001)
    assert float(row["boost_mhz"]) in range(1300, 2700)
    architectures = {"7.0": "Volta", "7.5": "Turing", "8.0": "Ampere", "8.6": "Ampere", "8.9": "Ada", "9.0": "Hopper"}
    assert architectures.get(row["compute_capability"], "Blackwell") == row["arch"]


HASHED = [row for row in ROWS if row["sha256_hashcat_ghs"]]


@pytest.mark.parametrize("row", HASHED, ids=[row["nvml_name"] for row in HASHED])
def test_published_hash_rate_is_what_the_row_divides_it_to(row: dict[str, str]) -> None:
    per_sm_clock = float(row["sha256_hashcat_ghs"]) * 1e3 / (int(row["sms"]) * float(row["boost_mhz"]))
    assert float(row["sha256_per_sm_clk"]) == pytest.approx(per_sm_clock, rel=0.005)


def test_expected_hash_rate_is_the_median_of_the_published_ones() -> None:
    rates = sorted(float(row["sha256_per_sm_clk"]) for row in HASHED)
    assert (len(rates), rates[0], rates[-1]) == (19, 0.054, 0.0695)
    assert statistics.median(rates) == pytest.approx(0.0624, rel=0.01)


def test_no_peak_is_more_than_a_quarter_above_the_expectation() -> None:
    """`polarise.rate_average` bounds its figures by this."""
    for model in HardwareTable.load().models.values():
        assert model.pow_rate_expected < model.pow_rate_peak <= model.pow_rate_expected * 125 // 100
        assert model.tensor16_operations_per_second <= model.matmul_rate_expected * 125 // 100 + 2
        assert model.memory_bytes_per_second <= model.memory_rate_expected * 125 // 100
