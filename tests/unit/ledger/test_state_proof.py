"""State proofs against the ledger's own state: the truth is proved, and anything else is refused."""

from __future__ import annotations

import dataclasses
import itertools
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ledger import path_tree
from ledger.state import SCHEMA, Account, LedgerState
from polarise.merkle import InvalidProof
from polarise.state_proof import (
    ZERO,
    Other,
    Step,
    Way,
    branch_hash,
    check_subtree,
    check_value,
    child_hash,
    name_key,
    node_hash,
)
from polarise.transaction import encode_value
from tests.unit.ledger.small_market import GENESIS, MINER, Sender

FOLDER = "/registry"
NAMES = st.sampled_from(["a", "b", "c", "d-1", "registry", "ff"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(lambda names: f"{FOLDER}/" + "/".join(names))
VALUES = st.one_of(st.integers(-9, 9), st.text(max_size=3), st.dictionaries(NAMES, st.integers(0, 3), max_size=2))
CONTENTS = st.dictionaries(PATHS, VALUES, min_size=1, max_size=14)
MANY = settings(max_examples=120, deadline=None)


@contextmanager
def state_of(values: Mapping[str, object]) -> Iterator[LedgerState]:
    """The ledger's state after one transaction for each value; rules are not asked."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.executescript(SCHEMA)
        state = LedgerState(connection, GENESIS)
        state.begin()
        sender = Sender(MINER)
        for leaf, (path, value) in enumerate(values.items()):
            state.apply(sender.sign(path, value), leaf, Account(nonce=leaf))
        yield state


def subtree(values: dict[str, object]) -> dict[str, bytes]:
    return {path: encode_value(value) for path, value in sorted(values.items())}


def proof(state: LedgerState, path: str) -> tuple[bytes | None, bytes | None, Way]:
    """What an honest ledger shows: value, root of the children, way."""
    way, node = path_tree.find(state.tree, path)
    stored = state.get(path)
    return stored.value if stored else None, node.children_root if node else None, way


def refuse_value(state: LedgerState, path: str, value: bytes | None, children: bytes | None, way: Way) -> None:
    with pytest.raises(InvalidProof):
        check_value(bytes.fromhex(state.root), path, value, children, way)


@MANY
@given(CONTENTS, PATHS)
def test_what_stands_and_what_does_not_are_proved_and_nothing_else_is(values: dict[str, object], path: str) -> None:
    with state_of(values) as state:
        root = bytes.fromhex(state.root)
        value, children, way = proof(state, path)
        assert value == (encode_value(values[path]) if path in values else None)
        check_value(root, path, value, children, way)
        if value is not None:
            refuse_value(state, path, value + b" ", children, way)
            refuse_value(state, path, None, children, way)
            refuse_value(state, path, value, None, way)
            refuse_value(state, path, None, None, way)
        else:
            refuse_value(state, path, b"1", children or ZERO, way)


@MANY
@given(CONTENTS, st.data())
def test_a_proof_of_one_path_is_none_for_another(values: dict[str, object], data: st.DataObject) -> None:
    """Moved: the value and way of one path shown for another; and the absence of one path for one that is there."""
    one = data.draw(st.sampled_from(sorted(values)))
    other = data.draw(PATHS)
    assume(one != other)
    with state_of(values) as state:
        refuse_value(state, other, *proof(state, one))
        value, _children, way = proof(state, other)
        if value is None:
            refuse_value(state, one, None, None, way)


@MANY
@given(CONTENTS, st.data())
def test_a_way_with_one_thing_changed_leads_elsewhere(values: dict[str, object], data: st.DataObject) -> None:
    path = data.draw(st.one_of(PATHS, st.sampled_from(sorted(values))))
    with state_of(values) as state:
        value, children, way = proof(state, path)
        for changed in changes(way):
            refuse_value(state, path, value, children, changed)


def changes(way: Way) -> Iterator[Way]:
    """Every way that differs in one hash, one sibling or one step."""
    for number, step in enumerate(way.steps):
        others = [Step(bytes(31) + b"\x01", step.siblings), Step(step.value, (*step.siblings, bytes(31) + b"\x01"))]
        others += [
            Step(step.value, (*step.siblings[:place], bytes(31) + b"\x02", *step.siblings[place + 1 :]))
            for place in range(len(step.siblings))
        ]
        others += [Step(step.value, step.siblings[:-1])] if step.siblings else []
        others += [Step(step.value, step.siblings[::-1])] if step.siblings[::-1] != step.siblings else []
        for other in others:
            yield dataclasses.replace(way, steps=(*way.steps[:number], other, *way.steps[number + 1 :]))
    yield dataclasses.replace(way, steps=way.steps[:-1])
    yield dataclasses.replace(way, steps=(*way.steps, way.steps[-1]))
    yield dataclasses.replace(way, steps=())
    if way.other is None:
        yield dataclasses.replace(way, other=Other(bytes(32), bytes(32)))
    else:
        yield dataclasses.replace(way, other=None)
        yield dataclasses.replace(way, other=Other(way.other.key, bytes(32)))


@MANY
@given(CONTENTS, st.data())
def test_a_subtree_holds_exactly_what_stands_there(values: dict[str, object], data: st.DataObject) -> None:
    """One value changed, left out, added or moved, and the whole is refused."""
    top = data.draw(st.one_of(st.just(FOLDER), PATHS))
    below = {path: value for path, value in values.items() if path == top or path.startswith(f"{top}/")}
    texts = subtree(below)
    with state_of(values) as state:
        root, (way, _node) = bytes.fromhex(state.root), path_tree.find(state.tree, top)
        check_subtree(root, top, texts, way)
        lies = [texts | {data.draw(PATHS.filter(lambda path: path not in texts)): b"1"}]
        for path in texts:
            rest = {place: text for place, text in texts.items() if place != path}
            lies += [rest, texts | {path: texts[path] + b"0"}, {**rest, f"{path}x": texts[path]}]
        for one, other in itertools.pairwise(texts):
            if texts[one] != texts[other]:
                lies.append(texts | {one: texts[other], other: texts[one]})
        for lie in lies:
            with pytest.raises(InvalidProof):
                check_subtree(root, top, lie, way)


def test_a_removed_value_is_proved_to_be_gone() -> None:
    with state_of({f"{FOLDER}/a": 1, f"{FOLDER}/b": 2}) as state:
        before = proof(state, f"{FOLDER}/a")
        state.apply(Sender(MINER, nonce=2).sign(f"{FOLDER}/a", None), 2, Account(nonce=2))
        check_value(bytes.fromhex(state.root), f"{FOLDER}/a", *proof(state, f"{FOLDER}/a"))
        refuse_value(state, f"{FOLDER}/a", *before)


def test_an_empty_state_root_and_broken_hashes_are_refused() -> None:
    path = f"{FOLDER}/a"
    with state_of({path: 1}) as state:
        value, children, way = proof(state, path)
        refuse_value(state, path, value, b"short", way)
        refuse_value(state, path, None, ZERO, way)
        short = dataclasses.replace(way, steps=(Step(b"short", ()), *way.steps[1:]))
        refuse_value(state, path, value, children, short)
        deep = dataclasses.replace(way, steps=(*way.steps[:-1], Step(None, (ZERO,) * 257)))
        refuse_value(state, path, value, children, deep)
        with pytest.raises(InvalidProof):
            check_value(ZERO, path, value, children, way)


def test_a_root_over_a_tree_of_no_such_shape_proves_nothing() -> None:
    """A ledger that signs a misbuilt state: another child on this path's side, and a node that holds nothing."""
    key, node, sibling = name_key("registry"), b"n" * 32, b"s" * 32
    stranger = bytes([key[0] ^ 0x80]) + key[1:]
    for other, is_shaped in ((stranger, False), (key[:-1] + bytes([key[-1] ^ 1]), True)):
        pair = (sibling, child_hash(other, node)) if key[0] & 0x80 else (child_hash(other, node), sibling)
        way = Way((Step(None, (sibling,)),), Other(other, node))
        root = node_hash(None, branch_hash(*pair))
        if is_shaped:
            check_value(root, "/registry", None, None, way)
            continue
        with pytest.raises(InvalidProof, match="does not stand where"):
            check_value(root, "/registry", None, None, way)
    empty = node_hash(None, child_hash(key, node_hash(None, ZERO)))
    with pytest.raises(InvalidProof, match="does not exist"):
        check_value(empty, "/registry", None, ZERO, Way((Step(None, ()),)))


def test_a_proof_among_thousand_entries_is_short() -> None:
    with state_of({f"{FOLDER}/{number:04d}": number for number in range(1000)}) as state:
        _value, _children, way = proof(state, f"{FOLDER}/0500")
        assert sum(len(step.siblings) for step in way.steps) < 30
        check_value(bytes.fromhex(state.root), f"{FOLDER}/none", *proof(state, f"{FOLDER}/none"))
