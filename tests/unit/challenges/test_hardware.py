"""The table of GPU models: whole, exact, and silent about what it does not know."""

from __future__ import annotations

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
