"""No decoder without a target: a new one fails here until it has one, or a reason to have none."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.fuzz.inventory import decoders
from tests.fuzz.registry import REGISTRY
from tests.fuzz.target import KIB, Target

FOUND = decoders()


def stands_under(name: str, places: frozenset[str]) -> bool:
    """A place is a function, a class with its methods, or a module with all that is in it."""
    parts = name.split(".")
    return any(".".join(parts[:length]) in places for length in range(1, len(parts) + 1))


def test_every_decoder_has_a_target_or_a_reason() -> None:
    covered, excluded = REGISTRY.covered(), frozenset(REGISTRY.excluded)
    assert [name for name in FOUND if not stands_under(name, covered | excluded)] == []


def test_no_reason_is_left_over() -> None:
    """What is gone, or has a target by now, needs no reason any more."""
    covered = REGISTRY.covered()
    for place, reason in REGISTRY.excluded.items():
        hidden = [name for name in FOUND if stands_under(name, frozenset({place}))]
        assert hidden, place
        assert not all(stands_under(name, covered) for name in hidden), place
        assert reason, place


def test_targets_have_names_of_their_own() -> None:
    assert [name for name, count in Counter(target.name for target in REGISTRY).items() if count > 1] == []


@pytest.mark.parametrize("target", REGISTRY.targets, ids=lambda target: target.name)
def test_stated_memory_is_what_one_process_can_spare(target: Target) -> None:
    """A gigabyte and a bit for a bundle of evidence, which an auditor reads; far less for all that a daemon does."""
    most = 1100 if target.name.startswith(("polarise.evidence", "neurons.validator.replay")) else 600
    assert target.memory_bytes <= most * KIB * KIB
