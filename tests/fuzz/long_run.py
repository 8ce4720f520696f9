"""The long run behind ``make fuzz``: every target in turn, with inputs nobody has tried, until the time is over.

Each failure is told once per place, with the input that causes it in a file, and the run goes on. Exit status 1 when
there was any. ``--replay FILE --target NAME`` runs one input again.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.fuzz.mutation import grown, mutated
from tests.fuzz.registry import REGISTRY
from tests.fuzz.target import KIB, Runner, Target, opened

ROUND_SECONDS = 1.0
GROWN_BYTES_MAX = 1024 * KIB


def main(argv: Sequence[str] | None = None) -> int:
    """Run, and return the exit status."""
    args = _parser().parse_args(argv)
    targets = [target for target in REGISTRY if args.target in target.name]
    if args.replay is not None:
        for target in targets:
            with opened(target) as runner:
                print(target.name, runner.run(args.replay.read_bytes()), runner.highest)
        return 0
    return _Run(args.folder, random.Random(args.seed)).run(targets, args.minutes * 60)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make fuzz", description="Feed every decoder with what it should refuse.")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long (default: 10)")
    parser.add_argument("--target", default="", metavar="NAME", help="only targets whose name holds this")
    parser.add_argument("--seed", type=int, default=None, help="the same inputs again")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="one input that failed before")
    parser.add_argument("--folder", type=Path, default=Path(".polarise/fuzz"), help="where failing inputs are written")
    return parser


class _Run:
    """One run.

    Args:
        folder: Where failing inputs are written.
        random_: Where choices come from.
    """

    def __init__(self, folder: Path, random_: random.Random) -> None:
        self._folder = folder
        self._random = random_
        self._known: set[str] = set()
        self._count = 0

    def run(self, targets: Sequence[Target], seconds: float) -> int:
        """Go round the targets until the time is over."""
        end = time.monotonic() + seconds
        is_first = True
        while time.monotonic() < end:
            for target in targets:
                with self._telling(target, b""), opened(target) as runner:
                    if is_first:
                        self._grow(runner)
                    self._mutate(runner, min(end, time.monotonic() + ROUND_SECONDS))
                if time.monotonic() >= end:
                    break
            is_first = False
        print(f"{self._count} inputs, {len(self._known)} failures")
        return 1 if self._known else 0

    def _grow(self, runner: Runner) -> None:
        target = runner.target
        for seed in target.seeds()[:2]:
            for raw in grown(seed, min(target.max_bytes, GROWN_BYTES_MAX) // target.weight).values():
                self._one(runner, raw)

    def _mutate(self, runner: Runner, end: float) -> None:
        target, seeds = runner.target, runner.target.seeds()
        while time.monotonic() < end:
            if self._random.random() < 0.1:
                raw = self._random.randbytes(self._random.randint(0, 600))
            else:
                raw = mutated(self._random, seeds, is_canonical=target.is_canonical)
            self._one(runner, raw)

    def _one(self, runner: Runner, raw: bytes) -> None:
        self._count += 1
        with self._telling(runner.target, raw):
            runner.run(raw)

    @contextlib.contextmanager
    def _telling(self, target: Target, raw: bytes) -> Iterator[None]:
        try:
            yield
        except Exception as err:  # noqa: BLE001  every failure is told, and the run goes on
            place = traceback.extract_tb(err.__traceback__)[-1]
            name = f"{target.name} {type(err).__name__} {Path(place.filename).name}:{place.lineno}"
            if name in self._known:
                return
            self._known.add(name)
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / f"{len(self._known):03d}-{target.name}"
            path.write_bytes(raw)
            print(f"{name}: {str(err)[:300]!r}\n    {path}: {raw[:120]!r}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
