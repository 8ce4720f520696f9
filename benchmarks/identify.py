"""Which of the known cards can be told from which: pairs that nobody can, and how often a card is named right.

Rules:
- Two tables by formula and one drawn. A pair is ambiguous when the one card, measuring exactly what it should, fits the other
  (`challenges.identify`). For each set of figures how many of all pairs are; for all four, and for the two that a round without
  the memory proof measures, which.
- The drawn table is about honest cards that are not exactly what they should be: each figure is drawn within its band, as
  a normal spread whose edges, at three deviations, are the band's. It says how often the right card is the nearest, and how
  many cards fit.
- Nothing is measured: the figures are vendors', the efficiencies are assumed, the bands are research's.

Run: .venv/bin/python benchmarks/identify.py   (--draws N, --pairs pow,matmul for the pairs of other figures)
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import combinations

from benchmarks.proofs import print_line
from challenges.hardware import PPM, GpuModel, HardwareTable
from challenges.identify import EXPECTED, FACTOR_PPM, Figure, ambiguous_pairs, identify

SEED = 39
DEVIATIONS_IN_BAND = 3
SHOWN = (tuple(Figure), (Figure.POW, Figure.MATMUL))


def main() -> None:
    """Print the three tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--draws", type=int, default=500, help="measurements drawn per card (500)")
    parser.add_argument("--pairs", type=_figures, help="list the pairs of these figures, split by commas")
    options = parser.parse_args()
    table = HardwareTable.load()
    print_line(f"{len(table.models)} cards of hardware.csv; bands and efficiencies by research; no GPU was measured")
    _print_counts(table)
    for figures in (options.pairs,) if options.pairs else SHOWN:
        _print_pairs(table, figures)
    _print_draws(table, options.draws)


def _print_counts(table: HardwareTable) -> None:
    cards = len(table.models)
    pairs = cards * (cards - 1) // 2
    print_line(f"\nAmbiguous pairs, of {pairs}:\n\n| figures | pairs | share |\n|:--------|------:|------:|")
    for figures in _subsets():
        count = sum(1 for _ in ambiguous_pairs(table, figures))
        print_line(f"| {_names(figures)} | {count} | {count / pairs:.1%} |")


def _print_pairs(table: HardwareTable, figures: Sequence[Figure]) -> None:
    print_line(f"\nBy {_names(figures)} nobody can tell apart:\n")
    for first, second in ambiguous_pairs(table, figures):
        factors = ", ".join(
            f"{figure.value} {_apart(figure, table.models[first], table.models[second]):.3f}" for figure in Figure
        )
        print_line(f"- {first} / {second} (quotients: {factors})")


def _print_draws(table: HardwareTable, draws: int) -> None:
    """Draw honest cards and identify them; the seed is fixed, so that two runs print the same."""
    print_line(f"\nHonest cards, {draws} draws each within the bands, seed {SEED}:\n")
    print_line("| figures | claimed card fits | is the nearest | cards that fit, mean | most often taken for another |")
    print_line("|:--------|------------------:|---------------:|---------------------:|:-----------------------------|")
    for figures in SHOWN:
        source, fitting = random.Random(SEED), []
        among, nearest = 0, 0
        taken: Counter[tuple[str, str]] = Counter()
        for model in table.models.values():
            for _ in range(draws):
                found = identify(_drawn(model, figures, source), model.nvml_name, table)
                among += found.is_claimed_among
                fitting.append(len(found.candidates))
                if found.candidates[0].name == model.nvml_name:
                    nearest += 1
                else:
                    taken[model.nvml_name, found.candidates[0].name] += 1
        total = len(fitting)
        ((first, second), times), *_rest = taken.most_common(1)
        print_line(
            f"| {_names(figures)} | {among / total:.2%} | {nearest / total:.1%} | {statistics.mean(fitting):.2f} "
            f"| {first} for {second}, {times / draws:.0%} of its draws |"
        )


def _drawn(model: GpuModel, figures: Sequence[Figure], source: random.Random) -> dict[Figure, int]:
    """Return what an honest card measures: a normal spread of the logarithm, drawn again outside the band."""
    measured = {}
    for figure in figures:
        band = math.log(FACTOR_PPM[figure] / PPM)
        deviation = math.inf
        while abs(deviation) >= band:
            deviation = source.gauss(0.0, band / DEVIATIONS_IN_BAND)
        measured[figure] = round(EXPECTED[figure](model) * math.exp(deviation))
    return measured


def _apart(figure: Figure, first: GpuModel, second: GpuModel) -> float:
    one, other = EXPECTED[figure](first), EXPECTED[figure](second)
    return max(one, other) / min(one, other)


def _subsets() -> Iterator[tuple[Figure, ...]]:
    for count in range(1, len(Figure) + 1):
        yield from combinations(Figure, count)


def _names(figures: Sequence[Figure]) -> str:
    return ", ".join(figure.value for figure in figures)


def _figures(text: str) -> tuple[Figure, ...]:
    """Read figures by name.

    Raises:
        argparse.ArgumentTypeError: One is unknown.
    """
    try:
        return tuple(Figure(name) for name in text.split(","))
    except ValueError as err:
        known = ", ".join(figure.value for figure in Figure)
        raise argparse.ArgumentTypeError(f"{err}; known are {known}") from err


if __name__ == "__main__":
    main()
