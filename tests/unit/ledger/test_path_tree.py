"""The path tree against a plain reimplementation of its definition."""

from __future__ import annotations

import hashlib

from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.path_tree import EMPTY, set_value
from polarise.state_proof import ZERO, value_hash

SEGMENTS = st.sampled_from(["a", "b", "c", "registry", "x-1"])
PATHS = st.lists(SEGMENTS, min_size=1, max_size=3).map(lambda parts: "/" + "/".join(parts))
WRITES = st.lists(st.tuples(PATHS, st.none() | st.binary(max_size=4)), max_size=30)


def plain_root(values: dict[str, bytes]) -> bytes:
    """The definition of `ledger.path_tree`, word for word and without any sharing."""

    def node(prefix: str) -> bytes:
        own = values.get(prefix)
        names = {path[len(prefix) + 1 :].split("/")[0] for path in values if path.startswith(prefix + "/")}
        children = [(hashlib.sha256(name.encode()).digest(), node(f"{prefix}/{name}")) for name in names]
        value = ZERO if own is None else value_hash(own)
        return hashlib.sha256(b"\x04" + value + trie(children, 0)).digest()

    def trie(children: list[tuple[bytes, bytes]], depth: int) -> bytes:
        if not children:
            return ZERO
        if len(children) == 1:
            return hashlib.sha256(b"\x02" + children[0][0] + children[0][1]).digest()
        halves: tuple[list[tuple[bytes, bytes]], list[tuple[bytes, bytes]]] = ([], [])
        for key, hashed in children:
            halves[key[depth // 8] >> (7 - depth % 8) & 1].append((key, hashed))
        return hashlib.sha256(b"\x03" + trie(halves[0], depth + 1) + trie(halves[1], depth + 1)).digest()

    return node("")


@settings(max_examples=200, deadline=None)
@given(WRITES)
def test_the_root_is_the_one_of_the_definition_after_every_write(writes: list[tuple[str, bytes | None]]) -> None:
    tree, values = EMPTY, dict[str, bytes]()
    for path, value in writes:
        tree = set_value(tree, path, value)
        values.pop(path, None)
        if value is not None:
            values[path] = value
        assert tree.hash == plain_root(values)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(PATHS, st.binary(max_size=4), max_size=12), st.randoms())
def test_order_does_not_matter_and_removing_leads_back(values: dict[str, bytes], random: object) -> None:
    forward = EMPTY
    for path, value in values.items():
        forward = set_value(forward, path, value)
    backward = EMPTY
    for path, value in reversed(values.items()):
        backward = set_value(backward, path, value)
    assert forward.hash == backward.hash
    for path in values:
        forward = set_value(forward, path, None)
    assert forward.hash == EMPTY.hash


def test_many_names_in_one_directory_have_the_root_of_the_definition() -> None:
    values = {f"/registry/{index:04d}": str(index).encode() for index in range(300)}
    tree = EMPTY
    for path, value in values.items():
        tree = set_value(tree, path, value)
    assert tree.hash == plain_root(values)


def test_an_older_tree_stays_what_it_was() -> None:
    before = set_value(EMPTY, "/a", b"1")
    root = before.hash
    after = set_value(before, "/a", b"2")
    assert before.hash == root != after.hash
    assert set_value(before, "/a", b"").hash != set_value(before, "/a", None).hash
