"""Targets: commitment and openings of the memory proof from the wire, and their check."""

from __future__ import annotations

import contextlib
import functools
import json
from typing import cast

from challenges.memory import check_block_openings, check_pass_roots
from challenges.memory_backends import NumpyMemoryBackend
from challenges.memory_messages import (
    LEAF_BYTES_MAX,
    OPENINGS_WIRE_BYTES_MAX,
    BlockOpening,
    BlockPosition,
    MemoryCommitment,
    MemoryParams,
    block_openings_from_wire,
)
from challenges.memory_solver import MemoryWork, solve_memory
from polarise.answers import MAX_ANSWER_BYTES
from polarise.errors import ProofRejected
from tests.fuzz.target import Target, plain, text_of

PARAMS = MemoryParams(blocks=8, hashes=1, passes=2, openings=2)
FILL_SEED = bytes(32)
SEED = bytes(range(32))
POSITIONS = ((0, 3), (1, 7))
OPENING = BlockOpening(BlockPosition(0, 1), bytes(64), (bytes(32), bytes(32)))


@functools.cache
def work() -> MemoryWork:
    """What an honest device answers."""
    backend = NumpyMemoryBackend()
    backend.fill(PARAMS, FILL_SEED)
    return solve_memory(PARAMS, FILL_SEED, SEED, backend)


def _json(raw: bytes) -> object:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return text_of(raw)


def _wired(value: object) -> bytes:
    return json.dumps(value).encode()


def _commitment(raw: bytes) -> object:
    decoded = MemoryCommitment.from_wire(_json(raw))
    with contextlib.suppress(ProofRejected):
        check_pass_roots(PARAMS, decoded)
    return decoded


def _openings(raw: bytes) -> object:
    decoded = block_openings_from_wire(PARAMS, _json(raw))
    with contextlib.suppress(ProofRejected):
        check_block_openings(PARAMS, FILL_SEED, SEED, work().commitment, POSITIONS, decoded)
    return decoded


TARGETS = (
    Target(
        "challenges.memory_messages.MemoryCommitment.from_wire",
        plain(_commitment),
        lambda: [_wired(work().commitment.to_wire()), _wired(MemoryCommitment((bytes(32), b"\xff" * 32)).to_wire())],
        (ProofRejected,),
        MAX_ANSWER_BYTES,
        encode=lambda value: _wired(cast(MemoryCommitment, value).to_wire()),
    ),
    Target(
        "challenges.memory_messages.BlockOpening.from_wire",
        plain(lambda raw: BlockOpening.from_wire(_json(raw))),
        lambda: [_wired(OPENING.to_wire())],
        (ProofRejected,),
        2 * LEAF_BYTES_MAX,
        encode=lambda value: _wired(cast(BlockOpening, value).to_wire()),
    ),
    Target(
        "challenges.memory_messages.block_openings_from_wire",
        plain(_openings),
        lambda: [_wired([opening.to_wire() for opening in work().open(POSITIONS)])],
        (ProofRejected,),
        OPENINGS_WIRE_BYTES_MAX,
        encode=lambda value: _wired([opening.to_wire() for opening in cast(tuple[BlockOpening, ...], value)]),
        # Two blocks made from nothing: four calls of hashlib a unit, and half a MiB for each.
        calls_base=50_000,
        memory_base_bytes=2 * 1024 * 1024,
        weight=4,
    ),
)
