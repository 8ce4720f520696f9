"""What an encoder writes, its decoder reads back as the same value."""

from __future__ import annotations

import pytest

from tests.fuzz.registry import REGISTRY
from tests.fuzz.target import Target

ENCODED = [target for target in REGISTRY if target.encode is not None]


@pytest.mark.parametrize("target", REGISTRY.targets, ids=lambda target: target.name)
def test_every_seed_is_valid(target: Target) -> None:
    seeds = target.seeds()
    assert seeds
    with target.open() as call:
        for seed in seeds:
            assert len(seed) <= target.max_bytes
            call(seed)


@pytest.mark.parametrize("target", ENCODED, ids=lambda target: target.name)
def test_what_was_decoded_is_encoded_and_decoded_again(target: Target) -> None:
    assert target.encode is not None
    with target.open() as call:
        for seed in target.seeds():
            value = call(seed)
            assert call(target.encode(value)) == value
