"""What an audit found: steps in their order, the places that do not hold, and what rests on a word alone.

Rules:
- A place is named so that somebody else finds it: leaf, block, or validator, epoch, miner, bundle and field.
- Without `keep_going` the first failure ends the audit (`FirstFailure`); with it all of them are collected.
- What cannot be recomputed is counted by what it is; it never counts as a failure and is never left out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace

from polarise.answers import printable
from polarise.errors import LogDamaged, SubnetError

KEY_DIGITS = 16
MESSAGE_CHARS_MAX = 600


class FirstFailure(SubnetError):
    """Something does not hold, and nobody asked for more than the first."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where something does not hold; what is not known or does not apply is None.

    Attributes:
        block: Height of a block.
        leaf: Index of a leaf.
        validator: Node key.
        epoch: The validator's epoch number.
        miner: Node key.
        bundle: Name of an evidence bundle.
        field: What in there; also a place that has no other name.
    """

    block: int | None = None
    leaf: int | None = None
    validator: str | None = None
    epoch: int | None = None
    miner: str | None = None
    bundle: str | None = None
    field: str | None = None

    def at(self, field_name: str) -> Place:
        """Return the same place with a field."""
        return replace(self, field=field_name)

    def __str__(self) -> str:
        named = [f"{name} {str(value)[:KEY_DIGITS]}" for name, value in self.to_wire().items() if name != "field"]
        return ": ".join(part for part in (", ".join(named), self.field) if part)

    def to_wire(self) -> dict[str, object]:
        """Return what is known, for JSON."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True)
class Failure:
    """One thing that does not hold."""

    place: Place
    message: str


@dataclass
class Step:
    """One step of the audit.

    Attributes:
        name: One or two words.
        detail: What was checked, with numbers; filled by whoever does it.
        is_done: Whether it came to its end.
        failures: What does not hold.
    """

    name: str
    detail: str = ""
    is_done: bool = False
    failures: list[Failure] = field(default_factory=list)


class Report:
    """Collects what one audit finds.

    Args:
        keep_going: Whether to go on after a failure.
        on_step: Called with each step when it is over.
        on_progress: Called with a line now and then.
    """

    def __init__(
        self,
        *,
        keep_going: bool = False,
        on_step: Callable[[Step], None] = lambda _step: None,
        on_progress: Callable[[str], None] = lambda _line: None,
    ) -> None:
        self.steps: list[Step] = []
        self.words: Counter[str] = Counter()
        self.progress = on_progress
        self._keep_going = keep_going
        self._on_step = on_step

    @property
    def failures(self) -> list[Failure]:
        """All failures in the order they were found."""
        return [failure for step in self.steps for failure in step.failures]

    @property
    def holds(self) -> bool:
        """Whether nothing failed."""
        return not self.failures

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """Do one step; a damaged ledger is a failure like any other."""
        step = Step(name)
        self.steps.append(step)
        try:
            yield step
            step.is_done = True
        except LogDamaged as err:
            self.fail(place_of(err), err.message)
        finally:
            self._on_step(step)

    def fail(self, place: Place, message: str) -> None:
        """Note a failure of the current step.

        Raises:
            FirstFailure: Unless all are wanted.
        """
        self.steps[-1].failures.append(Failure(place, printable(message, MESSAGE_CHARS_MAX)))
        if not self._keep_going:
            raise FirstFailure(str(place))

    def check(self, place: Place, holds: bool, message: str) -> bool:
        """Note a failure unless something holds; returns whether it does."""
        if not holds:
            self.fail(place, message)
        return holds

    def compare(self, place: Place, got: object, expected: object) -> bool:
        """Note a failure unless two values are equal; returns whether they are."""
        return self.check(place, got == expected, f"says {got}, expected {expected}")

    def word(self, what: str, count: int = 1) -> None:
        """Count something that nobody can recompute."""
        if count:
            self.words[what] += count


def place_of(err: LogDamaged) -> Place:
    """Read the place a replay names: ``leaf 12``, ``block 3``."""
    if (match := re.fullmatch(r"(leaf|block) ([0-9]+)", err.place)) is not None:
        return Place(leaf=int(match[2])) if match[1] == "leaf" else Place(block=int(match[2]))
    return Place(field=err.place)
