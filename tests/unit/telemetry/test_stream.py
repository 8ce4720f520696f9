"""A reader with nothing but the node's key: every way to change what was logged is found, and named."""

from __future__ import annotations

import pytest

from polarise.checkpoint import Checkpoint, sign_checkpoint
from polarise.errors import AnswerInvalid, LogFork, ProofRejected, RejectReason
from polarise.frontier import Frontier
from polarise.merkle import InvalidProof, leaf_hash, root
from polarise.signing import Identity, Purpose, SigningKey
from polarise.sse import MAX_FRAME_BYTES, Frame, FrameReader
from polarise.stream import HELD_LINES_MAX, StreamVerifier, log_verifier, origin_of

NODE = Identity(SigningKey(b"\x01" * 32))
LOG = NODE.subkey(Purpose.LOG)
ORIGIN = origin_of(NODE.public_key, "system")
LINES = [b'{"seq":%d}' % index for index in range(20)]


def note_of(lines: list[bytes], *, origin: str = ORIGIN, key: SigningKey = LOG.key) -> bytes:
    return sign_checkpoint(Checkpoint(origin, len(lines), root(lines)), key).raw


def verifier() -> StreamVerifier:
    return StreamVerifier(log_verifier(LOG.certificate, NODE.public_key, "system"))


def feed(reader: StreamVerifier, lines: list[bytes], first: int = 0) -> None:
    for index, line in enumerate(lines):
        reader.add_line(first + index, line)


def test_lines_are_given_out_when_a_checkpoint_covers_them() -> None:
    reader = verifier()
    feed(reader, LINES[:7])
    assert reader.add_checkpoint(note_of(LINES[:5])).lines == tuple(LINES[:5])
    feed(reader, LINES[7:], 7)
    rest = reader.add_checkpoint(note_of(LINES))
    assert (rest.first, rest.lines) == (5, tuple(LINES[5:]))
    assert reader.frontier.root() == root(LINES)


@pytest.mark.parametrize("place", [0, 4, -1])
def test_one_flipped_bit_is_found(place: int) -> None:
    reader = verifier()
    flipped = bytearray(LINES[3])
    flipped[place] ^= 1
    feed(reader, [*LINES[:3], bytes(flipped), LINES[4]])
    with pytest.raises(ProofRejected) as caught:
        reader.add_checkpoint(note_of(LINES[:5]))
    assert caught.value.reason is RejectReason.LOG_MISMATCH
    assert reader.frontier.size == 0


def test_two_lines_in_another_order_are_found() -> None:
    reader = verifier()
    feed(reader, [LINES[1], LINES[0], *LINES[2:5]])
    with pytest.raises(ProofRejected) as caught:
        reader.add_checkpoint(note_of(LINES[:5]))
    assert caught.value.reason is RejectReason.LOG_MISMATCH


@pytest.mark.parametrize("seq", [0, 2])
def test_a_repeated_or_missing_line_is_found_at_once(seq: int) -> None:
    reader = verifier()
    reader.add_line(0, LINES[0])
    with pytest.raises(ProofRejected) as caught:
        reader.add_line(seq, LINES[seq])
    assert caught.value.reason is RejectReason.LOG_GAP


def test_a_line_left_out_and_the_rest_renumbered_is_found() -> None:
    reader = verifier()
    feed(reader, [*LINES[:2], *LINES[3:6]])
    with pytest.raises(ProofRejected) as caught:
        reader.add_checkpoint(note_of(LINES[:5]))
    assert caught.value.reason is RejectReason.LOG_MISMATCH


def test_a_checkpoint_over_lines_that_were_not_sent_is_refused() -> None:
    reader = verifier()
    feed(reader, LINES[:4])
    with pytest.raises(ProofRejected) as caught:
        reader.add_checkpoint(note_of(LINES[:5]))
    assert caught.value.reason is RejectReason.LOG_GAP


def test_another_tree_of_a_size_that_was_verified_is_a_fork_with_both_notes() -> None:
    reader = verifier()
    feed(reader, LINES[:5])
    honest, forked = note_of(LINES[:5]), note_of([*LINES[:4], b'{"seq":4,"edited":true}'])
    reader.add_checkpoint(honest)
    with pytest.raises(LogFork) as caught:
        reader.add_checkpoint(forked)
    assert (caught.value.first, caught.value.second) == (honest, forked)


@pytest.mark.parametrize(
    "note",
    [
        note_of(LINES[:2], key=SigningKey(b"\x02" * 32)),
        note_of(LINES[:2], origin=origin_of(NODE.public_key, "ab" * 16)),
        note_of(LINES[:2], key=NODE.key),
        note_of(LINES[:2])[:-3] + b"A=\n",
        b"no note",
    ],
    ids=["another key", "another stream", "the node's own key", "a broken signature", "no note"],
)
def test_a_checkpoint_the_log_did_not_sign_is_refused(note: bytes) -> None:
    reader = verifier()
    feed(reader, LINES[:2])
    with pytest.raises(ProofRejected) as caught:
        reader.add_checkpoint(note)
    assert caught.value.reason is RejectReason.BAD_SIGNATURE


def test_a_log_key_the_node_did_not_certify_is_refused() -> None:
    stranger = Identity(SigningKey(b"\x02" * 32))
    for certificate in (stranger.subkey(Purpose.LOG).certificate, NODE.subkey(Purpose.STATEMENT).certificate):
        with pytest.raises(ProofRejected) as caught:
            log_verifier(certificate, NODE.public_key, "system")
        assert caught.value.reason is RejectReason.BAD_SIGNATURE


def test_lines_without_a_checkpoint_are_held_up_to_a_bound() -> None:
    reader = verifier()
    for index in range(HELD_LINES_MAX):
        reader.add_line(index, b"{}")
    with pytest.raises(ProofRejected) as caught:
        reader.add_line(HELD_LINES_MAX, b"{}")
    assert caught.value.reason is RejectReason.MALFORMED


def test_the_frontier_leads_to_the_root_of_every_size() -> None:
    edge = Frontier()
    for size in range(70):
        lines = [b"%d" % index for index in range(size)]
        assert edge.root() == root(lines)
        assert Frontier(edge.size, edge.nodes).root() == edge.root()
        edge.add(leaf_hash(b"%d" % size))
    with pytest.raises(InvalidProof):
        Frontier(3, edge.nodes[:1])


def test_frames_survive_any_cut() -> None:
    note = note_of(LINES[:3])
    frames = [Frame("line", LINES[0], "0"), Frame("checkpoint", note), Frame("line", b"", "1")]
    wire = b": alive\n\n" + b"".join(frame.encode() for frame in frames)
    for cut in range(len(wire)):
        reader = FrameReader()
        assert [*reader.feed(wire[:cut]), *reader.feed(wire[cut:])] == frames


def test_a_frame_without_end_is_refused() -> None:
    reader = FrameReader()
    assert list(reader.feed(b"data: " + b"x" * (MAX_FRAME_BYTES - 6))) == []
    with pytest.raises(AnswerInvalid):
        list(reader.feed(b"x"))
