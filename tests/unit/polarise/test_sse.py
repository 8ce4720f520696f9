"""Frames of a stream: in whatever pieces they come, bounded, and each byte looked at once."""

from __future__ import annotations

import tracemalloc

import pytest

from polarise.errors import AnswerInvalid
from polarise.sse import MAX_FRAME_BYTES, BlockReader, Frame, FrameReader

FRAMES = [Frame("line", b"one\ntwo", "7"), Frame("checkpoint", b"note\n\nsignature"), Frame("line", b"", "8")]


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
def test_frames_come_out_as_they_went_in(step: int) -> None:
    travelling = b": alive\n\n" + b"".join(frame.encode() for frame in FRAMES)
    reader = FrameReader()
    pieces = [travelling[start : start + step] for start in range(0, len(travelling), step)]
    assert [frame for piece in pieces for frame in reader.feed(piece)] == FRAMES


def test_a_frame_of_the_bound_is_read_and_one_byte_more_is_refused() -> None:
    assert list(BlockReader(5).feed(b"12345\n\n")) == [b"12345"]
    with pytest.raises(AnswerInvalid, match="more than 5 bytes"):
        list(BlockReader(5).feed(b"123456"))
    with pytest.raises(AnswerInvalid, match="more than 5 bytes"):
        list(BlockReader(5).feed(b"123456\n\n"))


def test_a_small_piece_does_not_copy_what_was_held_before() -> None:
    """A peer that sends a byte at a time would otherwise have a quarter of a megabyte copied for each."""
    reader = FrameReader()
    list(reader.feed(b"x" * (MAX_FRAME_BYTES - 64)))
    list(reader.feed(b"x"))
    tracemalloc.start()
    try:
        list(reader.feed(b"x"))
        assert tracemalloc.get_traced_memory()[1] < 4096
    finally:
        tracemalloc.stop()
