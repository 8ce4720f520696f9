"""Which cards fit a measurement, and which cards nobody can tell apart."""

from __future__ import annotations

import pytest

from challenges.hardware import GpuModel, HardwareTable
from challenges.identify import Figure, ambiguous_pairs, identify

TABLE = HardwareTable.load()
# The only pairs of the table that all four figures leave; research counted the same five.
AMBIGUOUS = [
    ("NVIDIA A100-SXM4-80GB", "NVIDIA A100 80GB PCIe"),
    ("NVIDIA A100-SXM4-40GB", "NVIDIA A100-PCIE-40GB"),
    ("NVIDIA GeForce RTX 4080 SUPER", "NVIDIA GeForce RTX 4080"),
    ("NVIDIA GeForce RTX 4080", "NVIDIA GeForce RTX 4070 Ti SUPER"),
    ("NVIDIA GeForce RTX 3090 Ti", "NVIDIA GeForce RTX 3090"),
]


def figures_of(model: GpuModel) -> dict[Figure, int]:
    return {
        Figure.POW: model.pow_rate_expected,
        Figure.MATMUL: model.matmul_rate_expected,
        Figure.BANDWIDTH: model.memory_rate_expected,
        Figure.MEMORY: model.memory_bytes,
    }


def names(measured: dict[Figure, int]) -> list[str]:
    return [candidate.name for candidate in identify(measured, "", TABLE).candidates]


def test_pairs_that_nobody_can_tell_apart() -> None:
    assert list(ambiguous_pairs(TABLE, Figure)) == AMBIGUOUS


@pytest.mark.parametrize(
    ("figures", "count"),
    [
        ((Figure.POW,), 102),
        ((Figure.MATMUL,), 59),
        ((Figure.BANDWIDTH,), 61),
        ((Figure.MEMORY,), 44),
        ((Figure.POW, Figure.MATMUL), 31),
        ((Figure.MATMUL, Figure.MEMORY), 14),
    ],
)
def test_ambiguity_is_that_of_research(figures: tuple[Figure, ...], count: int) -> None:
    assert sum(1 for _ in ambiguous_pairs(TABLE, figures)) == count


@pytest.mark.parametrize("model", TABLE.models.values(), ids=lambda model: model.nvml_name)
def test_a_card_that_does_what_it_should_is_itself_or_its_twin(model: GpuModel) -> None:
    found = identify(figures_of(model), model.nvml_name, TABLE)
    twins = {name for pair in AMBIGUOUS if model.nvml_name in pair for name in pair} | {model.nvml_name}
    assert found.candidates[0].distance_ppm == 0
    assert {candidate.name for candidate in found.candidates} == twins
    assert found.is_claimed_among
    assert found.figures == tuple(Figure)


def test_nearest_comes_first() -> None:
    model = TABLE.models["NVIDIA GeForce RTX 3090"]
    measured = figures_of(model) | {Figure.BANDWIDTH: model.memory_rate_expected * 103 // 100}
    found = identify(measured, "", TABLE).candidates
    assert [candidate.name for candidate in found] == ["NVIDIA GeForce RTX 3090", "NVIDIA GeForce RTX 3090 Ti"]
    assert 0 < found[0].distance_ppm < found[1].distance_ppm <= 1_000_000


@pytest.mark.parametrize(
    ("figure", "factor_ppm"),
    [
        (Figure.POW, 1_161_834),
        (Figure.MATMUL, 1_161_834),
        (Figure.BANDWIDTH, 1_083_287),
        (Figure.MEMORY, 1_040_810),
    ],
)
def test_edge_of_each_band_fits_and_one_more_does_not(figure: Figure, factor_ppm: int) -> None:
    """Upwards and downwards: the band is one of quotients."""
    model = TABLE.models["NVIDIA B200"]
    expected = figures_of(model)[figure]
    highest, lowest = expected * factor_ppm // 1_000_000, -(-expected * 1_000_000 // factor_ppm)
    assert "NVIDIA B200" in names({figure: highest})
    assert "NVIDIA B200" not in names({figure: highest + 1})
    assert "NVIDIA B200" in names({figure: lowest})
    assert "NVIDIA B200" not in names({figure: lowest - 1})


def test_fewer_figures_leave_more_cards() -> None:
    card = figures_of(TABLE.models["NVIDIA H200"])
    by_two = names({Figure.POW: card[Figure.POW], Figure.MATMUL: card[Figure.MATMUL]})
    assert by_two[0] == "NVIDIA H100 80GB HBM3"
    assert by_two[1] == "NVIDIA H200"
    assert names(card) == ["NVIDIA H200"]
    assert set(by_two) < set(names({Figure.POW: card[Figure.POW]}))


def test_card_under_a_better_cards_name_is_not_among_those_that_fit() -> None:
    found = identify(figures_of(TABLE.models["Tesla T4"]), "NVIDIA H200", TABLE)
    assert [candidate.name for candidate in found.candidates] == ["Tesla T4"]
    assert found.is_claimed_known
    assert not found.is_claimed_among


def test_name_the_table_does_not_know_is_said_to_be_unknown() -> None:
    found = identify(figures_of(TABLE.models["Tesla T4"]), "NVIDIA Z999", TABLE)
    assert not found.is_claimed_known
    assert not found.is_claimed_among


def test_nothing_may_fit() -> None:
    assert names({Figure.POW: 1}) == []


@pytest.mark.parametrize("measured", [{}, {Figure.POW: 0}])
def test_nothing_measured_is_our_own_error(measured: dict[Figure, int]) -> None:
    with pytest.raises(ValueError, match="nothing to identify"):
        identify(measured, "", TABLE)
