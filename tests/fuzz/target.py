"""A fuzz target: one place where bytes of a stranger become a value, what it may answer and what it may cost.

Rules:
- A call ends with a value or with an error that stands in the target's list. Everything else is a defect.
- Memory is what Python allocates beyond what was there before (tracemalloc); work is the number of calls of functions,
  Python's and C's (sys.setprofile). Both grow at most in proportion to the input, so nothing depends on a clock.
- Seeds are valid: made by the encoders that make them in earnest.
"""

from __future__ import annotations

import contextlib
import sys
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import FrameType

Call = Callable[[bytes], object]

KIB = 1024
# The densest JSON is a list of empty lists: three bytes become an object of 56 and a pointer of 8.
MEMORY_FACTOR = 64
MEMORY_BASE_BYTES = 512 * KIB
CALLS_FACTOR = 16
CALLS_BASE = 20_000


@dataclass(frozen=True)
class Cost:
    """What one call took.

    Attributes:
        memory_bytes: Highest allocation beyond what was allocated before.
        calls_count: Functions that were called.
    """

    memory_bytes: int
    calls_count: int


@dataclass(frozen=True)
class Target:
    """One decoder.

    Attributes:
        name: What is called, as module and function.
        open: Makes what the call needs, a server or a folder; the call works until the context ends.
        seeds: Valid inputs.
        errors: The typed errors that refuse an input.
        max_bytes: Longest input that is read; a longer one is refused by its length.
        covers: Further functions that this target reaches, as module and function.
        is_canonical: Whether JSON counts in its RFC 8785 spelling only; mutations are then written so.
        encode: Turns what the call returned into bytes again; the call must return an equal value for them.
        memory_factor: Bytes of memory per byte of input.
        memory_base_bytes: Bytes of memory beside that.
        calls_base: Calls of functions beside those in proportion to the input.
        calls_factor: Calls per byte of input.
        weight: How many ordinary targets one example of this one costs; it gets so many fewer examples.
    """

    name: str
    open: Callable[[], AbstractContextManager[Call]]
    seeds: Callable[[], Sequence[bytes]]
    errors: tuple[type[Exception], ...]
    max_bytes: int
    covers: tuple[str, ...] = ()
    is_canonical: bool = False
    encode: Callable[[object], bytes] | None = None
    memory_factor: int = MEMORY_FACTOR
    memory_base_bytes: int = MEMORY_BASE_BYTES
    calls_base: int = CALLS_BASE
    calls_factor: int = CALLS_FACTOR
    weight: int = 1

    @property
    def memory_bytes(self) -> int:
        """The stated bound: what the longest input may take."""
        return self.memory_bytes_of(self.max_bytes)

    def memory_bytes_of(self, size: int) -> int:
        """Return what an input of so many bytes may take."""
        return self.memory_base_bytes + self.memory_factor * size

    def calls_of(self, size: int) -> int:
        """Return how many functions may be called for an input of so many bytes."""
        return self.calls_base + self.calls_factor * size


@dataclass
class Runner:
    """Calls one target again and again, and holds each call against its bounds."""

    target: Target
    call: Call
    highest: Cost = field(default_factory=lambda: Cost(0, 0))

    def run(self, raw: bytes) -> object:
        """Call it once; returns the value, None when the input was refused.

        Raises:
            AssertionError: More memory or more calls than stated.
            Exception: What is no typed error of this target.
        """
        with metered() as meter:
            try:
                value = self.call(raw)
            except self.target.errors:
                value = None
        cost = meter()
        self.highest = Cost(
            max(cost.memory_bytes, self.highest.memory_bytes), max(cost.calls_count, self.highest.calls_count)
        )
        allowed = Cost(self.target.memory_bytes_of(len(raw)), self.target.calls_of(len(raw)))
        assert cost.memory_bytes <= allowed.memory_bytes, f"{self.target.name}: {cost}, {allowed} for {len(raw)} bytes"
        assert cost.calls_count <= allowed.calls_count, f"{self.target.name}: {cost}, {allowed} for {len(raw)} bytes"
        return value


@contextlib.contextmanager
def opened(target: Target) -> Iterator[Runner]:
    """Give a runner that has seen every seed once, so that caches are warm; each seed must be accepted."""
    was_tracing = tracemalloc.is_tracing()
    with target.open() as call:
        for seed in target.seeds():
            call(seed)
        if not was_tracing:
            tracemalloc.start()
        try:
            yield Runner(target, call)
        finally:
            if not was_tracing:
                tracemalloc.stop()


@contextlib.contextmanager
def metered() -> Iterator[Callable[[], Cost]]:
    """Measure what happens in this thread until the block ends; the other threads' memory counts, too."""
    calls = 0

    def count(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal calls
        if event in {"call", "c_call"}:
            calls += 1

    highest = 0
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    former = sys.getprofile()
    sys.setprofile(count)
    try:
        yield lambda: Cost(highest, calls)
    finally:
        sys.setprofile(former)
        highest = tracemalloc.get_traced_memory()[1] - before


def plain(call: Call) -> Callable[[], AbstractContextManager[Call]]:
    """Return the `Target.open` of a function that needs nothing."""
    return lambda: contextlib.nullcontext(call)


def text_of(raw: bytes) -> str:
    """Return any bytes as text; what is no UTF-8 becomes halves of surrogate pairs, as on a command line."""
    return raw.decode("utf-8", "surrogateescape")
