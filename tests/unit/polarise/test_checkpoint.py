"""Checkpoints, cosignatures and proofs; examples of C2SP tlog-checkpoint, tlog-cosignature and tlog-proof at 5ba5ee8."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polarise import merkle
from polarise.block import NO_BLOCK, Block, block_of, open_block
from polarise.checkpoint import (
    Checkpoint,
    CosignatureVerifier,
    SignedCheckpoint,
    check_cosignatures,
    cosign,
    cosignature_time,
    open_checkpoint,
    parse_checkpoint,
    parse_log_key,
    parse_witness_key,
    sign_checkpoint,
)
from polarise.log_proof import MAX_PROOF_BYTES, LogProof, parse_log_proof
from polarise.notes import Ed25519Verifier, NoteInvalid, parse_note
from polarise.signing import SigningKey

# The signatures' keys are not published; text, ids and times are.
EXAMPLE = """example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==
"""
KEY = SigningKey(bytes([3]) * 32)
WITNESS_KEYS = [SigningKey(bytes([number]) * 32) for number in (4, 5)]
LOG = Ed25519Verifier("log.example/one", KEY.public_key)
WITNESSES = [CosignatureVerifier(f"w{number}.example", key.public_key) for number, key in enumerate(WITNESS_KEYS)]
LEAVES = [f"leaf {index}".encode() for index in range(11)]
ROOT = merkle.root(LEAVES)


def signed(*extensions: str) -> SignedCheckpoint:
    return sign_checkpoint(Checkpoint(LOG.name, len(LEAVES), ROOT, extensions), KEY)


def proof_of(index: int) -> LogProof:
    hashes = merkle.inclusion_proof([merkle.leaf_hash(leaf) for leaf in LEAVES], index)
    return LogProof(index, tuple(hashes), signed().raw, LEAVES[index])


def test_the_published_checkpoint_is_read_and_written_back() -> None:
    note = parse_note(EXAMPLE.encode())
    checkpoint = parse_checkpoint(note.text)
    assert (checkpoint.origin, checkpoint.size) == ("example.com/behind-the-sofa", 20852163)
    assert checkpoint.text() == note.text
    assert note.encode() == EXAMPLE.encode()
    assert cosignature_time(note.signatures[1].signature) == 1679315147


@pytest.mark.parametrize(
    "text",
    [
        "",
        "origin\n5\n",
        "origin\n5\nAAAA\n",
        "origin\n05\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n",
        "origin\n-5\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n",
        "origin\n\u0665\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n",
        "origin\n99999999999999999999\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n",
        "origin\n5\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I\n",
        "origin\n5\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\nextension\n",
        "\n5\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n",
        "origin\n5\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=",
        "origin\n5\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n" + "x\n" * 65,
    ],
)
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(NoteInvalid):
        parse_checkpoint(text)


def test_a_checkpoint_of_another_log_or_key_is_refused() -> None:
    raw = signed("height 1").raw
    assert open_checkpoint(raw, LOG).checkpoint.extensions == ("height 1",)
    with pytest.raises(NoteInvalid):
        open_checkpoint(raw, Ed25519Verifier(LOG.name, WITNESS_KEYS[0].public_key))
    elsewhere = sign_checkpoint(Checkpoint("log.example/two", 0, merkle.EMPTY_ROOT), KEY)
    with pytest.raises(NoteInvalid):
        open_checkpoint(elsewhere.raw, LOG)


def test_cosignatures_count_once_per_witness() -> None:
    bare = signed()
    text = bare.note.text
    first = cosign(text, WITNESSES[0].name, WITNESS_KEYS[0], 1679315147)
    again = cosign(text, WITNESSES[0].name, WITNESS_KEYS[0], 1679315148)
    second = cosign(text, WITNESSES[1].name, WITNESS_KEYS[1], 1679315147)
    twice = SignedCheckpoint(bare.checkpoint, bare.note.with_signatures([first, again]))
    check_cosignatures(twice, WITNESSES, 1)
    with pytest.raises(NoteInvalid, match="1 known witnesses"):
        check_cosignatures(twice, WITNESSES, 2)
    check_cosignatures(SignedCheckpoint(bare.checkpoint, bare.note.with_signatures([first, second])), WITNESSES, 2)


@pytest.mark.parametrize("place", [0, 7, 8, 71])
def test_a_changed_cosignature_or_time_does_not_verify(place: int) -> None:
    text = signed().note.text
    made = cosign(text, WITNESSES[0].name, WITNESS_KEYS[0], 1679315147).signature
    WITNESSES[0].check(text, made)
    with pytest.raises(NoteInvalid):
        WITNESSES[0].check(text, made[:place] + bytes([made[place] ^ 1]) + made[place + 1 :])


def test_a_cosignature_is_no_log_signature_and_the_other_way_round() -> None:
    """One key under both types: the line with the time in front keeps them apart."""
    text = signed().note.text
    both = CosignatureVerifier(LOG.name, KEY.public_key)
    assert both.key_id != LOG.key_id
    with pytest.raises(NoteInvalid):
        LOG.check(text, cosign(text, LOG.name, KEY, 1).signature[8:])


def test_keys_are_read_as_vkey_or_hex_and_of_the_right_type_only() -> None:
    assert parse_log_key(LOG.vkey, "ignored") == LOG
    assert parse_log_key(LOG.public_key, LOG.name) == LOG
    assert parse_witness_key(WITNESSES[0].vkey) == WITNESSES[0]
    with pytest.raises(NoteInvalid, match="0x04"):
        parse_log_key(WITNESSES[0].vkey, LOG.name)
    with pytest.raises(NoteInvalid, match="0x01"):
        parse_witness_key(LOG.vkey)


@given(st.integers(0, len(LEAVES) - 1))
@settings(max_examples=20, deadline=None)
def test_a_proof_is_written_read_and_verified(index: int) -> None:
    proof = proof_of(index)
    read = parse_log_proof(proof.encode())
    assert read == proof
    assert read.verify(LOG).checkpoint.root == ROOT
    with pytest.raises(merkle.InvalidProof):
        read.verify(LOG, leaf=LEAVES[index] + b"!")


def test_every_changed_byte_of_a_proof_is_noticed() -> None:
    raw = proof_of(6).encode()
    for place in range(len(raw)):
        changed = raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :]
        with pytest.raises((NoteInvalid, merkle.InvalidProof)):
            parse_log_proof(changed).verify(LOG)


def test_a_proof_without_its_leaf_needs_one() -> None:
    proof = proof_of(2)
    bare = parse_log_proof(LogProof(proof.index, proof.hashes, proof.checkpoint).encode())
    assert bare.extra is None
    bare.verify(LOG, leaf=LEAVES[2])
    with pytest.raises(merkle.InvalidProof, match="no leaf"):
        bare.verify(LOG)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"c2sp.org/tlog-proof@v1\n\n",
        b"c2sp.org/tlog-proof@v2\nindex 0\n\nx",
        b"c2sp.org/tlog-proof@v1\nindex 00\n\nx",
        b"c2sp.org/tlog-proof@v1\nindex -1\n\nx",
        b"c2sp.org/tlog-proof@v1\nextra !\nindex 1\n\nx",
        b"c2sp.org/tlog-proof@v1\nextra AA==\n\nx",
        b"c2sp.org/tlog-proof@v1\nindex 1\nAAAA\n\nx",
        b"c2sp.org/tlog-proof@v1\nindex 1\n" + b"CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n" * 64 + b"\nx",
        b"c2sp.org/tlog-proof@v1\nindex 1\n" + b"A" * MAX_PROOF_BYTES,
    ],
)
def test_what_is_no_proof_is_refused(raw: bytes) -> None:
    with pytest.raises(NoteInvalid):
        parse_log_proof(raw)


def test_a_block_says_in_its_extension_lines_what_it_is() -> None:
    block = Block(LOG.name, len(LEAVES), ROOT, 7, 1_790_000_000_000, "ab" * 32, NO_BLOCK)
    raw = sign_checkpoint(block.checkpoint(), KEY).raw
    assert open_block(raw, LOG).block == block
    later = Checkpoint(LOG.name, len(LEAVES), ROOT, (*block.checkpoint().extensions, "shard 3"))
    assert block_of(later) == block


@pytest.mark.parametrize(
    "lines",
    [
        (),
        ("height 1", "time 2", f"state {NO_BLOCK}"),
        ("height 01", "time 2", f"state {NO_BLOCK}", f"prev {NO_BLOCK}"),
        ("time 2", "height 1", f"state {NO_BLOCK}", f"prev {NO_BLOCK}"),
        ("height 1", "time 2", f"state {NO_BLOCK.replace('0', 'G')}", f"prev {NO_BLOCK}"),
    ],
)
def test_other_extension_lines_are_no_block(lines: tuple[str, ...]) -> None:
    with pytest.raises(NoteInvalid):
        block_of(Checkpoint(LOG.name, 1, ROOT, lines))
