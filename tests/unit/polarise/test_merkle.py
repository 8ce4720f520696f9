"""The Merkle tree against the Certificate Transparency test vectors, and its laws for any size."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polarise import merkle

# The eight leaves, roots and proofs of google/certificate-transparency merkletree tests (RFC 6962).
LEAVES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
NODE_0_1 = ROOTS[1]
NODE_0_3 = ROOTS[3]
LEAF_0 = ROOTS[0]
LEAF_1 = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"
NODE_2_3 = "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e"
LEAF_4 = "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"
NODE_4_5 = "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a"
NODE_6_7 = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"
NODE_4_7 = "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"
INCLUSION = [
    (0, 1, []),
    (0, 8, [LEAF_1, NODE_2_3, NODE_4_7]),
    (5, 8, [LEAF_4, NODE_6_7, NODE_0_3]),
    (2, 3, [NODE_0_1]),
    (1, 5, [LEAF_0, NODE_2_3, LEAF_4]),
]
CONSISTENCY = [
    (1, 1, []),
    (1, 8, [LEAF_1, NODE_2_3, NODE_4_7]),
    (6, 8, [NODE_4_5, NODE_6_7, NODE_0_3]),
    (2, 5, [NODE_2_3, LEAF_4]),
]


def _hashes(size: int) -> list[bytes]:
    return [merkle.leaf_hash(index.to_bytes(4, "big")) for index in range(size)]


def _flip(value: bytes, bit: int) -> bytes:
    return (int.from_bytes(value, "big") ^ 1 << bit % (8 * len(value))).to_bytes(len(value), "big")


def test_root_of_no_leaves_is_the_hash_of_nothing() -> None:
    assert merkle.root([]) == hashlib.sha256(b"").digest()


@pytest.mark.parametrize("size", range(1, 9))
def test_root_equals_the_published_one(size: int) -> None:
    assert merkle.root(LEAVES[:size]).hex() == ROOTS[size - 1]


@pytest.mark.parametrize(("index", "size", "proof"), INCLUSION)
def test_inclusion_proof_equals_the_published_one(index: int, size: int, proof: list[str]) -> None:
    hashes = [merkle.leaf_hash(leaf) for leaf in LEAVES[:size]]
    made = merkle.inclusion_proof(hashes, index)
    assert [item.hex() for item in made] == proof
    merkle.verify_inclusion(hashes[index], index, size, made, bytes.fromhex(ROOTS[size - 1]))


@pytest.mark.parametrize(("old", "new", "proof"), CONSISTENCY)
def test_consistency_proof_equals_the_published_one(old: int, new: int, proof: list[str]) -> None:
    hashes = [merkle.leaf_hash(leaf) for leaf in LEAVES[:new]]
    made = merkle.consistency_proof(hashes, old)
    assert [item.hex() for item in made] == proof
    merkle.verify_consistency(old, bytes.fromhex(ROOTS[old - 1]), new, bytes.fromhex(ROOTS[new - 1]), made)


def test_every_inclusion_proof_up_to_33_leaves_verifies_and_its_neighbours_do_not() -> None:
    for size in range(1, 34):
        hashes = _hashes(size)
        root = merkle.root_of_hashes(hashes)
        for index in range(size):
            proof = merkle.inclusion_proof(hashes, index)
            assert len(proof) == merkle.inclusion_proof_length(index, size)
            merkle.verify_inclusion(hashes[index], index, size, proof, root)
            with pytest.raises(merkle.InvalidProof):
                merkle.verify_inclusion(hashes[index], index + 1, size, proof, root)
            with pytest.raises(merkle.InvalidProof):
                merkle.verify_inclusion(hashes[index], index, size, [*proof, root], root)


def test_every_consistency_proof_up_to_20_leaves_verifies_and_a_longer_one_does_not() -> None:
    for new in range(21):
        hashes = _hashes(new)
        new_root = merkle.root_of_hashes(hashes)
        for old in range(new + 1):
            old_root = merkle.root_of_hashes(hashes[:old])
            proof = merkle.consistency_proof(hashes, old)
            merkle.verify_consistency(old, old_root, new, new_root, proof)
            with pytest.raises(merkle.InvalidProof):
                merkle.verify_consistency(old, old_root, new, new_root, [*proof, new_root])
            for index in range(len(proof)):
                with pytest.raises(merkle.InvalidProof):
                    merkle.verify_consistency(old, old_root, new, new_root, proof[:index] + proof[index + 1 :])


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 200), st.data())
def test_one_flipped_bit_breaks_an_inclusion_proof(size: int, data: st.DataObject) -> None:
    hashes = _hashes(size)
    root = merkle.root_of_hashes(hashes)
    index = data.draw(st.integers(0, size - 1))
    bit = data.draw(st.integers(0, 255))
    proof = merkle.inclusion_proof(hashes, index)
    target = data.draw(st.integers(0, len(proof) - 1))
    broken = [_flip(item, bit) if place == target else item for place, item in enumerate(proof)]
    with pytest.raises(merkle.InvalidProof):
        merkle.verify_inclusion(hashes[index], index, size, broken, root)
    with pytest.raises(merkle.InvalidProof):
        merkle.verify_inclusion(_flip(hashes[index], bit), index, size, proof, root)
    with pytest.raises(merkle.InvalidProof):
        merkle.verify_inclusion(hashes[index], index, size, proof, _flip(root, bit))


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 200), st.data())
def test_one_flipped_bit_breaks_a_consistency_proof(new: int, data: st.DataObject) -> None:
    hashes = _hashes(new)
    old = data.draw(st.integers(1, new - 1))
    bit = data.draw(st.integers(0, 255))
    old_root, new_root = merkle.root_of_hashes(hashes[:old]), merkle.root_of_hashes(hashes)
    proof = merkle.consistency_proof(hashes, old)
    merkle.verify_consistency(old, old_root, new, new_root, proof)
    target = data.draw(st.integers(0, len(proof) - 1))
    broken = [_flip(item, bit) if place == target else item for place, item in enumerate(proof)]
    for arguments in (
        (old, old_root, new, new_root, broken),
        (old, _flip(old_root, bit), new, new_root, proof),
        (old, old_root, new, _flip(new_root, bit), proof),
    ):
        with pytest.raises(merkle.InvalidProof):
            merkle.verify_consistency(*arguments)


def test_a_node_cannot_be_passed_off_as_a_leaf() -> None:
    """Without the 0x00 and 0x01 prefixes a two-leaf tree and a leaf of their joined hashes would be one."""
    left, right = _hashes(2)
    assert merkle.root_of_hashes([left, right]) != merkle.leaf_hash(left + right)


@pytest.mark.parametrize(("index", "size"), [(-1, 3), (3, 3), (0, 0), (1 << 70, 1 << 71)])
def test_an_index_outside_the_tree_is_refused(index: int, size: int) -> None:
    with pytest.raises(merkle.InvalidProof):
        merkle.verify_inclusion(merkle.EMPTY_ROOT, index, size, [], merkle.EMPTY_ROOT)


def test_a_short_hash_in_a_proof_is_refused() -> None:
    hashes = _hashes(2)
    with pytest.raises(merkle.InvalidProof, match="32 bytes"):
        merkle.verify_inclusion(hashes[0], 0, 2, [hashes[1][:31]], merkle.root_of_hashes(hashes))


def test_building_a_proof_outside_the_tree_is_our_own_error() -> None:
    with pytest.raises(IndexError):
        merkle.inclusion_proof(_hashes(3), 3)
    with pytest.raises(ValueError, match="old size 4"):
        merkle.consistency_proof(_hashes(3), 4)


def test_the_empty_tree_has_one_root() -> None:
    """transparency-dev/merkle, testdata/consistency/additional: two equal roots of size zero that are no hash."""
    merkle.verify_consistency(0, merkle.EMPTY_ROOT, 0, merkle.EMPTY_ROOT, [])
    with pytest.raises(merkle.InvalidProof):
        merkle.verify_consistency(0, b"don't care 1", 0, b"don't care 1", [])
    with pytest.raises(merkle.InvalidProof):
        merkle.verify_consistency(0, merkle.EMPTY_ROOT, 0, bytes(32), [])
