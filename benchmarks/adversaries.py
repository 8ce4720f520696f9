"""Every cheat against the real checks: how often it is caught, beside how often the formula says it must be.

Rules:
- Two columns of plays: against the verifier's functions without a network, and as a miner over HTTP on loopback. Cheats
  without a live form are listed with the reason.
- A count belongs to the formula if it lies within the exact 99 % binomial interval around it; honest proofs, slow ones
  and ones on a trembling link among them, must all pass.
- The same seed plays the same proofs, so that a run can be repeated; only the live stamps differ.
- Exit status 1 when a count lies outside, a reason is not the one expected, or an honest proof is rejected.

Run: .venv/bin/python benchmarks/adversaries.py --trials 200 --live 3 --honest 200
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import platform
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.proofs import THREAD_SETTINGS, cpu_model, print_line
from neurons.validator.verification import VerificationEngine
from tests.adversaries import honest
from tests.adversaries.cheat import Cheat, Outcome
from tests.adversaries.exam import vendor_table
from tests.adversaries.honest import HonestPlay
from tests.adversaries.live import Stage
from tests.adversaries.odds import binomial_interval
from tests.adversaries.roster import ROSTER

HEAD = """\
| cheat | caught/tried | predicted | 99 % interval | inside | live caught/tried | inside | reasons seen |
|:------|-------------:|----------:|--------------:|:------:|------------------:|:------:|:-------------|"""


@dataclass(frozen=True, slots=True)
class Tally:
    """Plays of one cheat in one form, against what was predicted.

    Args:
        predicted: Probability of being caught.
        outcomes: One per play.
    """

    predicted: float
    outcomes: Sequence[Outcome]

    @property
    def caught(self) -> int:
        """How many were caught."""
        return sum(outcome.is_caught for outcome in self.outcomes)

    @property
    def interval(self) -> tuple[int, int]:
        """Smallest and largest count that the formula allows."""
        return binomial_interval(len(self.outcomes), self.predicted)

    @property
    def is_inside(self) -> bool:
        """Whether the count is one of these."""
        low, high = self.interval
        return low <= self.caught <= high


@dataclass(frozen=True, slots=True)
class Row:
    """One cheat in both forms; no live plays where it has no live form."""

    cheat: Cheat
    pure: Tally
    live: Tally
    strange: frozenset[str] = field(default=frozenset())

    @classmethod
    def of(cls, cheat: Cheat, pure: Sequence[Outcome], live: Sequence[Outcome]) -> Row:
        """Count what came of the plays, and note every reason that nobody expected."""
        expected = {None, *cheat.reasons}
        strange = frozenset(str(play.reason) for play in (*pure, *live) if play.reason not in expected)
        live_predicted = cheat.predicted if cheat.predicted_live is None else cheat.predicted_live
        return cls(cheat, Tally(cheat.predicted, pure), Tally(live_predicted, live), strange)

    @property
    def is_as_predicted(self) -> bool:
        """Whether nothing about this cheat is a surprise."""
        return self.pure.is_inside and self.live.is_inside and not self.strange


def main(arguments: Sequence[str] | None = None) -> int:
    """Play everything and print the tables."""
    options = _parse_options(arguments)
    began = time.monotonic()
    print_line(
        f"command: python benchmarks/adversaries.py {' '.join(sys.argv[1:] if arguments is None else arguments)}"
    )
    print_line(f"hardware: {cpu_model()}, {os.cpu_count()} cores; Python {platform.python_version()}")
    print_line(f"seed {options.seed}; {options.trials} plays, {options.live} live, {options.honest} honest\n")
    # One thread of BLAS each: the products are small, and its threads spin while they wait.
    os.environ.update(dict.fromkeys(THREAD_SETTINGS, "1"))
    with ProcessPoolExecutor(options.processes, multiprocessing.get_context("spawn")) as pool:
        pure = list(pool.map(play_pure, range(len(ROSTER)), *_repeated(options.trials, options.seed)))
        passed = pool.submit(play_honest, options.honest, options.seed).result()
    print_line(f"without a network: {time.monotonic() - began:.0f} s")
    # Nothing else runs while clocks are read.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        live, honest_live = pool.submit(play_live, options.live, options.seed).result()
    rows = [Row.of(*found) for found in zip(ROSTER, pure, live, strict=True)]
    _print_table(rows)
    _print_notes(rows)
    _print_honest([*passed, *honest_live])
    wrong = problems(rows, [*passed, *honest_live])
    for problem in wrong:
        print_line(f"NOT AS PREDICTED: {problem}")
    print_line(f"{'all as predicted' if not wrong else 'FAILED'}; {time.monotonic() - began:.0f} s")
    return 1 if wrong else 0


def play_pure(index: int, trials: int, seed: int) -> list[Outcome]:
    """Play one cheat without a network, in a process of the pool."""
    cheat = ROSTER[index]
    return [cheat.play_pure(_generator(seed, cheat.name, "pure", trial)) for trial in range(trials)]


def play_live(trials: int, seed: int) -> tuple[list[list[Outcome]], list[HonestPlay]]:
    """Play every cheat that has a live form, and some honest proofs, one after another."""
    # The miners tell of their own accidents, which are part of the play.
    logging.disable(logging.WARNING)
    with (
        tempfile.TemporaryDirectory() as folder,
        VerificationEngine(vendor_table()) as engine,
        Stage(Path(folder), engine) as stage,
    ):
        found = [_play_one_live(cheat, stage, trials, seed) for cheat in ROSTER]
        plays = [
            honest.play_live(_generator(seed, "honest", "live", trial), stage, params)
            for trial in range(trials)
            for params in honest.KINDS
        ]
    return found, plays


def play_honest(trials: int, seed: int) -> list[HonestPlay]:
    """Prove honestly without a network."""
    return [honest.play_pure(_generator(seed, "honest", "pure", trial)) for trial in range(trials)]


def problems(rows: Sequence[Row], plays: Sequence[HonestPlay]) -> list[str]:
    """Return one sentence for everything that is not as predicted."""
    found = []
    for row in rows:
        for form, tally in (("without a network", row.pure), ("live", row.live)):
            if not tally.is_inside:
                low, high = tally.interval
                found.append(
                    f"{row.cheat.name}, {form}: caught {tally.caught} of {len(tally.outcomes)}, "
                    f"expected {low} to {high}"
                )
        found += [f"{row.cheat.name}: rejected for {reason}" for reason in sorted(row.strange)]
    return found + [f"honest, {play.circumstances}: rejected for {play.reason}" for play in plays if play.reason]


def _play_one_live(cheat: Cheat, stage: Stage, trials: int, seed: int) -> list[Outcome]:
    if cheat.no_live:
        return []
    return [cheat.play_live(_generator(seed, cheat.name, "live", trial), stage) for trial in range(trials)]


def _generator(seed: int, name: str, form: str, trial: int) -> random.Random:
    return random.Random(f"{seed}/{name}/{form}/{trial}")


def _repeated(*values: int) -> list[list[int]]:
    return [[value] * len(ROSTER) for value in values]


def _print_table(rows: Sequence[Row]) -> None:
    print_line(HEAD)
    for row in rows:
        plays = (*row.pure.outcomes, *row.live.outcomes)
        seen = Counter(play.seen or str(play.reason) for play in plays if play.seen or play.reason)
        low, high = row.pure.interval
        live = f"{row.live.caught}/{len(row.live.outcomes)}" if row.live.outcomes else "none"
        print_line(
            f"| {row.cheat.name} | {row.pure.caught}/{len(row.pure.outcomes)} | {row.cheat.predicted:.4f} "
            f"| {low}..{high} | {_yes(row.pure.is_inside)} | {live} "
            f"| {_yes(row.live.is_inside) if row.live.outcomes else ''} "
            f"| {', '.join(f'{reason} {count}' for reason, count in sorted(seen.items()))} |"
        )


def _print_notes(rows: Sequence[Row]) -> None:
    print_line("")
    for row in rows:
        gains = [play.gain for play in row.pure.outcomes if play.gain is not None]
        if gains:
            print_line(f"{row.cheat.name}: largest gain {max(gains):.4f} ({row.cheat.formula})")
        if row.cheat.no_live:
            print_line(f"{row.cheat.name}: no live form: {row.cheat.no_live}")


def _print_honest(plays: Sequence[HonestPlay]) -> None:
    kinds = Counter(play.circumstances for play in plays)
    rejected = sum(play.reason is not None for play in plays)
    circumstances = ", ".join(f"{name} {count}" for name, count in sorted(kinds.items()))
    print_line(f"honest: {rejected} of {len(plays)} rejected ({circumstances})")


def _yes(is_so: bool) -> str:
    return "yes" if is_so else "NO"


def _parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=200, help="plays of each cheat without a network (200)")
    parser.add_argument("--live", type=int, default=3, help="plays of each cheat over HTTP (3)")
    parser.add_argument("--honest", type=int, default=200, help="honest proofs without a network (200)")
    parser.add_argument("--seed", type=int, default=1, help="the same seed plays the same proofs (1)")
    parser.add_argument(
        "--processes", type=int, default=min(os.cpu_count() or 1, 8), help="for plays without a network"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
