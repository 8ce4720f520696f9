"""Targets: every wire model of the project, found by itself; a new message is fuzzed from its first day.

Its bound is the one that the place which reads it gives; where a model is only a part of others, the general one.
"""

from __future__ import annotations

import functools
import importlib
import json
import pkgutil
import re
from collections.abc import Iterator
from typing import cast

import neurons
import polarise
from neurons.base.agent_wire import ANSWER_BYTES_MAX, REQUEST_BYTES_MAX
from neurons.validator.findings import MAX_OUTPUT_BYTES
from neurons.validator.login_process import MAX_MESSAGE_BYTES
from polarise.answers import MAX_ANSWER_BYTES
from polarise.decode import MAX_BODY_BYTES, WireModel, decode_model
from polarise.errors import RequestRejected
from polarise.evidence import MAX_BUNDLE_BYTES
from polarise.genesis import MAX_GENESIS_BYTES
from polarise.ledger_feed import MAX_EVENT_BYTES
from polarise.line import MAX_LINE_BYTES
from polarise.transaction import MAX_TRANSACTION_BYTES
from tests.fuzz.examples import example_of
from tests.fuzz.target import Target, plain
from tests.unit.ledger.small_market import GENESIS

# Sizes follow from the kind, and validators are sorted: a schema does not say so.
BY_HAND = {
    "AllocateRequest": b'{"memory":"2g","cpu_count":1.5,"devices":{"count":1},"disk":"1t","image":"a","ttl_seconds":1}',
    "Genesis": json.dumps(GENESIS.to_wire()).encode(),
    # Only a memory is filled.
    "PrepareRequest": (
        b'{"challenge_id":"%b","kind":"memory","device":"cpu","sizes":{"blocks":8,"hashes":1,"passes":1,"openings":1},'
        b'"fill":{"epoch":1,"beacon":"%b","nonce":"%b"}}' % (b"0" * 32, b"0" * 64, b"1" * 64)
    ),
}
_BOUNDS = {
    "neurons.agent.child": MAX_BODY_BYTES,
    "neurons.renter.leases": MAX_BODY_BYTES,
    "neurons.validator.findings": MAX_OUTPUT_BYTES,
    "neurons.validator.login_process": MAX_MESSAGE_BYTES,
    "polarise.envelope": MAX_LINE_BYTES,
    "polarise.epoch_record": MAX_TRANSACTION_BYTES,
    "polarise.evidence": MAX_BUNDLE_BYTES,
    "polarise.genesis": MAX_GENESIS_BYTES,
    "polarise.ingress": 2 * MAX_LINE_BYTES,
    "polarise.ledger_messages": MAX_ANSWER_BYTES,
    "polarise.telemetry_client": MAX_ANSWER_BYTES,
    "polarise.transaction": MAX_TRANSACTION_BYTES,
    "polarise.validator_messages": MAX_ANSWER_BYTES,
}
_BOUND_OF = {
    "Request": REQUEST_BYTES_MAX,
    "Answer": ANSWER_BYTES_MAX,
    "FeedLeaf": MAX_EVENT_BYTES,
    "FeedBlock": MAX_EVENT_BYTES,
}


@functools.cache
def models() -> tuple[type[WireModel], ...]:
    """Return every wire model, by name."""
    for package in (polarise, neurons):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            # The cheats' solvers are programs of their own; they have no messages.
            if not module.name.startswith("neurons.demo") and not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    found = {f"{model.__module__}.{model.__name__}": model for model in _below(WireModel)}
    return tuple(model for name, model in sorted(found.items()) if name.startswith(("polarise.", "neurons.")))


def _below(model: type[WireModel]) -> Iterator[type[WireModel]]:
    for child in model.__subclasses__():
        yield child
        yield from _below(child)


def bound_of(model: type[WireModel]) -> int:
    """Return how many bytes of a model are read at most."""
    if model.__name__.endswith("Answer") and model.__module__ == "polarise.messages":
        return MAX_ANSWER_BYTES
    return _BOUND_OF.get(model.__name__, _BOUNDS.get(model.__module__, MAX_BODY_BYTES))


def seeds_of(model: type[WireModel]) -> list[bytes]:
    """Return valid messages."""
    if model.__name__ in BY_HAND:
        return [BY_HAND[model.__name__]]
    return [_consistent(example_of(model, with_optional=full)) for full in (True, False)]


def _consistent(raw: bytes) -> bytes:
    """Let the kind of a proof be that of its sizes, and the version of a bundle that of its fields."""
    if b'"draw": ' in raw:
        raw = raw.replace(b'{"version": 1,', b'{"version": 3,')
    kind = b"pow" if b'"shares"' in raw else b"memory" if b'"blocks"' in raw else b"matmul"
    return re.sub(rb'"kind": "[a-z]+", "sizes"', b'"kind": "%s", "sizes"' % kind, raw)


def _target(model: type[WireModel]) -> Target:
    bound = bound_of(model)
    return Target(
        f"{model.__module__}.{model.__name__}",
        plain(lambda raw: decode_model(model, raw, max_bytes=bound)),
        functools.cache(lambda: seeds_of(model)),
        (RequestRejected,),
        bound,
        encode=lambda value: json.dumps(cast(WireModel, value).to_wire()).encode(),
        weight=2,
    )


TARGETS = tuple(_target(model) for model in models())
