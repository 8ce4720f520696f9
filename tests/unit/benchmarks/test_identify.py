"""The pairs that the benchmark of identification prints are those of the proof's own rule, and its draws stay honest."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from challenges.hardware import HardwareTable
from challenges.identify import Figure, ambiguous_pairs

ROOT = Path(__file__).parents[3]


def run(*arguments: str, status: int = 0) -> str:
    outcome = subprocess.run(
        [sys.executable, "benchmarks/identify.py", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert outcome.returncode == status, outcome.stderr
    return outcome.stdout + outcome.stderr


def listed(printed: str) -> list[tuple[str, str]]:
    lines = (line[2:].partition(" (quotients")[0] for line in printed.splitlines() if line.startswith("- "))
    return [(first, second) for first, _, second in (line.partition(" / ") for line in lines)]


@pytest.mark.parametrize("figures", [tuple(Figure), (Figure.POW, Figure.MATMUL), (Figure.MEMORY,)])
def test_every_ambiguous_pair_is_printed(figures: tuple[Figure, ...]) -> None:
    printed = run("--draws", "3", "--pairs", ",".join(figures))
    assert listed(printed) == list(ambiguous_pairs(HardwareTable.load(), figures))
    assert f"| {', '.join(figures)} | {len(listed(printed))} |" in printed


def test_an_honest_card_always_fits_what_it_is() -> None:
    """Drawn inside the bands; and the same draws every time."""
    printed = run("--draws", "20")
    assert printed.count("| 100.00% |") == 2
    assert "no GPU was measured" in printed
    assert run("--draws", "20") == printed


def test_an_unknown_figure_is_named() -> None:
    assert "known are pow, matmul, bandwidth, memory" in run("--pairs", "pow,colour", status=2)


def test_the_documentation_lists_the_pairs_of_all_four_figures() -> None:
    text = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    for first, second in ambiguous_pairs(HardwareTable.load(), Figure):
        assert f"| {first} | {second} |" in text
