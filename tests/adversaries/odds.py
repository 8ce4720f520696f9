"""How often a cheat must be caught by the formula, and how far a count may lie from it by luck."""

from __future__ import annotations

import math

CONFIDENCE = 0.99


def caught_by_openings(tiles: int, skipped: int, openings: int) -> float:
    """Return the chance that at least one of the opened tiles is a skipped one.

    Positions are distinct (`draw.draw_positions`), so that the draw is without replacement and the number of skipped
    tiles among them hypergeometric: 1 - C(T - m, s) / C(T, s), a little above 1 - (1 - m/T)**s.

    Args:
        tiles: T, tiles of all rounds.
        skipped: m, how many of them are wrong.
        openings: s, how many are opened, at most T.
    """
    return 1.0 - math.comb(tiles - skipped, openings) / math.comb(tiles, openings)


def binomial_interval(trials: int, probability: float, confidence: float = CONFIDENCE) -> tuple[int, int]:
    """Return the smallest and largest count that lie in neither tail; exact, so that 0 and 1 allow one count only."""
    tail = (1.0 - confidence) / 2
    masses = [math.comb(trials, k) * probability**k * (1.0 - probability) ** (trials - k) for k in range(trials + 1)]
    low = next(k for k in range(trials + 1) if math.fsum(masses[: k + 1]) > tail)
    high = next(k for k in range(trials, -1, -1) if math.fsum(masses[k:]) > tail)
    return low, high
