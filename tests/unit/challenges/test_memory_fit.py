"""Sizes of the memory proof: on every card of the table making is far dearer than reading, and the passes last."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from challenges.hardware import PPM, GpuModel, HardwareTable
from challenges.memory_fit import (
    CPU_HASHES,
    CPU_SCORE_CAP_PPM,
    FASTER_KERNEL_PPM,
    GPU_SECONDS_MIN,
    HASHES_UNKNOWN_CARD,
    RATIO_MIN,
    RATIO_WANTED,
    fill_ratio_ppm,
    fit_cpu_memory_params,
    fit_gpu_memory_params,
    hashes_for,
    unit_bytes_hashed_per_second,
)
from challenges.memory_messages import CHECK_HASHES_MAX, PASSES_MAX, MemoryParams
from challenges.timing import WorkTooSmall
from polarise.errors import RejectReason

TABLE = HardwareTable.load()
MODELS = tuple(TABLE.models.values())
CARDS = pytest.mark.parametrize("model", MODELS, ids=lambda model: model.nvml_name)
H200 = TABLE.models["NVIDIA H200"]


@CARDS
def test_making_is_64_times_as_dear_as_reading_by_the_fastest_kernel(
    model: GpuModel, record_property: Callable[[str, object], None]
) -> None:
    """With 1,222 operations a hash 80, and with a kernel as much faster as is estimated to be possible still 64.

    ``benchmarks/memory.py --cards`` prints the table.
    """
    hashes = hashes_for(model)
    known, faster = fill_ratio_ppm(model, hashes), fill_ratio_ppm(model, hashes, kernel_ppm=FASTER_KERNEL_PPM)
    record_property("ratio", f"k = {hashes}: {known / PPM:.1f}, with a faster kernel {faster / PPM:.1f}")
    assert known >= RATIO_WANTED * PPM
    assert faster >= RATIO_MIN * PPM
    assert hashes == 1 or fill_ratio_ppm(model, hashes - 1) < RATIO_WANTED * PPM


@CARDS
def test_92_percent_are_read_for_five_seconds(model: GpuModel) -> None:
    params = fit_gpu_memory_params(model, model.memory_bytes, model.memory_rate_expected, 1)
    assert 0.9199 * model.memory_bytes < params.memory_bytes <= 0.92 * model.memory_bytes
    seconds = params.operations / model.memory_rate_expected
    assert GPU_SECONDS_MIN <= seconds < GPU_SECONDS_MIN * 1.05
    assert params.check_hashes <= CHECK_HASHES_MAX
    # Untimed, but somebody waits for it.
    assert params.memory_bytes * params.hashes / unit_bytes_hashed_per_second(model) < 7


def test_there_are_39_cards() -> None:
    assert len(MODELS) == 39


@pytest.mark.parametrize(
    ("name", "hashes"), [("NVIDIA B200", 6), ("NVIDIA H200", 9), ("Tesla T4", 30), ("NVIDIA L40S", 62)]
)
def test_hashes_are_those_of_the_rule_in_research(name: str, hashes: int) -> None:
    """The least k is ceil(8 * 80 / rho at k = 8)."""
    model = TABLE.models[name]
    assert hashes_for(model) == hashes
    assert -(-8 * 80 * PPM // fill_ratio_ppm(model, 8)) == hashes


def test_the_ratio_of_an_h200_is_that_of_research() -> None:
    """138.7 GB made at 54.7 GB/s with k = 8 in 2.5 s, read at 4.32 TB/s in 32 ms."""
    assert unit_bytes_hashed_per_second(H200) // 8 == pytest.approx(54.7e9, rel=0.01)
    assert fill_ratio_ppm(H200, 8) / PPM == pytest.approx(79, abs=0.5)


def test_the_estimate_of_a_faster_kernel_leaves_the_least_ratio() -> None:
    assert RATIO_MIN * FASTER_KERNEL_PPM <= RATIO_WANTED * PPM


def test_an_unknown_card_gets_the_dearest_units_of_the_table() -> None:
    assert max(hashes_for(model) for model in MODELS) == HASHES_UNKNOWN_CARD
    params = fit_gpu_memory_params(None, 8 << 30, 10**11, 5)
    assert params.hashes == HASHES_UNKNOWN_CARD


def test_a_longer_target_is_taken() -> None:
    params = fit_gpu_memory_params(H200, H200.memory_bytes, H200.memory_rate_expected, 20)
    assert 20 <= params.operations / H200.memory_rate_expected < 20.1


@pytest.mark.parametrize("memory_bytes", [0, 1, 1 << 30])
def test_a_bandwidth_that_its_memory_does_not_carry_is_not_met(memory_bytes: int) -> None:
    with pytest.raises(WorkTooSmall) as caught:
        fit_gpu_memory_params(H200, memory_bytes, H200.memory_rate_expected, 5)
    assert caught.value.reason is RejectReason.CLAIM_NOT_MET
    assert isinstance(caught.value.params, MemoryParams)
    assert caught.value.params.passes == PASSES_MAX


@pytest.mark.parametrize(("rate", "passes"), [(1, 4), (67_108_864, 4), (3_500_000_000, 157)])
def test_a_cpu_reads_64_mib_as_often_as_its_claim_takes(rate: int, passes: int) -> None:
    params = fit_cpu_memory_params(rate, 3)
    assert (params.memory_bytes, params.hashes, params.passes) == (64 << 20, CPU_HASHES, passes)


@pytest.mark.parametrize(
    ("memory_bytes", "blocks"), [(64 << 20, 1024), (1 << 40, 1024), ((64 << 20) - 1, 1023), (0, 8)]
)
def test_a_cpu_is_asked_for_no_more_memory_than_it_claims(memory_bytes: int, blocks: int) -> None:
    assert fit_cpu_memory_params(10**6, 1, memory_bytes=memory_bytes).blocks == blocks


def test_a_cpu_with_little_memory_and_a_claim_beyond_all_passes_does_not_meet_it() -> None:
    memory_bytes = 1 << 20
    most = 2 * PASSES_MAX * memory_bytes
    assert fit_cpu_memory_params(most, 1, memory_bytes=memory_bytes).passes == PASSES_MAX
    with pytest.raises(WorkTooSmall, match="the claimed bandwidth"):
        fit_cpu_memory_params(most + 2, 1, memory_bytes=memory_bytes)


def test_no_large_machine_is_refused() -> None:
    """A terabyte a second for a minute: the proof is only shorter than wanted."""
    params = fit_cpu_memory_params(10**12, 60)
    assert (params.memory_bytes, params.passes) == (64 << 20, PASSES_MAX)


@pytest.mark.parametrize(("model", "openings"), [(H200, 48), (None, 38)], ids=["H200", "unknown"])
def test_no_more_is_opened_than_the_check_has_time_for(model: GpuModel | None, openings: int) -> None:
    """A validator may open 256 tiles of a matrix."""
    params = fit_gpu_memory_params(model, 8 << 30, 10**11, 5, openings=256)
    assert params.openings == openings
    assert params.check_hashes <= CHECK_HASHES_MAX


@pytest.mark.parametrize(("rate", "seconds"), [(0, 5), (1, 0)])
def test_no_rate_and_no_target_are_our_own_error(rate: int, seconds: int) -> None:
    with pytest.raises(ValueError, match="target"):
        fit_cpu_memory_params(rate, seconds)


def test_a_cpu_never_gets_all_points_for_memory() -> None:
    assert 0 < CPU_SCORE_CAP_PPM < PPM
