"""Every decoder, whatever it is given: a value or a typed refusal, within its stated memory and work.

Without ``--hypothesis-seed`` the examples are the same in every run, so that no change fails by another one's luck;
``make fuzz`` looks for new ones.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.mutation import grown, mutated
from tests.fuzz.registry import REGISTRY
from tests.fuzz.target import KIB, Runner, Target, opened

BYTES_EXAMPLES = 12
MUTATED_EXAMPLES = 32
GROWN_BYTES = 8 * KIB
GROWN_FIELDS = 3

TARGETS = pytest.mark.parametrize("target", REGISTRY.targets, ids=lambda target: target.name)


@pytest.fixture
def runner(target: Target) -> Iterator[Runner]:
    with opened(target) as running:
        yield running


def examples(target: Target, count: int) -> settings:
    return settings(
        max_examples=max(count // target.weight, 2),
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


@TARGETS
def test_any_bytes(target: Target, runner: Runner) -> None:
    @examples(target, BYTES_EXAMPLES)
    @given(st.binary(max_size=512) | st.text(max_size=128).map(lambda text: text.encode("utf-8", "surrogatepass")))
    def check(raw: bytes) -> None:
        runner.run(raw)

    check()


@TARGETS
def test_changed_examples(target: Target, runner: Runner) -> None:
    seeds = target.seeds()

    @examples(target, MUTATED_EXAMPLES)
    @given(st.randoms(use_true_random=False))
    def check(random_: random.Random) -> None:
        runner.run(mutated(random_, seeds, is_canonical=target.is_canonical))

    check()


@TARGETS
def test_large_inputs(target: Target, runner: Runner) -> None:
    """What costs most for its length, and one byte more than is read."""
    size = min(target.max_bytes, GROWN_BYTES) // min(target.weight, 8)
    shapes = list(grown(target.seeds()[0], size, fields_max=GROWN_FIELDS).values())
    for raw in shapes[:: min(target.weight, 4)]:
        runner.run(raw[: target.max_bytes + 1])
