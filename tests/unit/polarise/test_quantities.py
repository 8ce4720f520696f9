"""Sizes as people write them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polarise.quantities import SIZE_PATTERN, format_size, parse_size


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("1", 1),
        ("2g", 2 << 30),
        ("2G", 2 << 30),
        ("512m", 512 << 20),
        ("512 MiB", 512 << 20),
        ("512MB", 512 << 20),
        ("1.5g", 3 << 29),
        ("10b", 10),
        ("1ti", 1 << 40),
        (" 1k ", 1024),
    ],
)
def test_sizes(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    "text",
    [
        "", "0", "0g", "2x", "-1g", "+1g", "1e3", "1,5g", "0x10", "g", "1 g b", "1.5", "0.3k", "nan", "inf", "1_000",
        "\u0662g", "1i", "1ib", "2\u212a", "1" * 13, "1" * 40, "1g\n2g",
    ],
)  # fmt: skip
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write"):
        parse_size(text)


def test_sizes_are_shown_in_the_largest_unit() -> None:
    assert [format_size(n) for n in (1, 1023, 1024, 3 << 29, 2 << 40)] == ["1 B", "1023 B", "1 KiB", "1.5 GiB", "2 TiB"]


@given(st.integers(1, 10**12 - 1), st.sampled_from(["", "k", "m", "g", "t"]))
def test_every_whole_number_parses_exactly(number: int, unit: str) -> None:
    shift = ["", "k", "m", "g", "t"].index(unit) * 10
    assert parse_size(f"{number}{unit}") == number << shift


@given(st.text(max_size=40))
def test_any_text_is_a_size_or_a_value_error(text: str) -> None:
    try:
        assert parse_size(text) >= 1
    except ValueError as err:
        assert "write" in str(err)  # noqa: PT017  both outcomes are fine


@given(st.from_regex(SIZE_PATTERN, fullmatch=True, alphabet=st.characters(codec="ascii")) | st.text(max_size=8))
def test_pattern_of_the_documents_is_the_spelling_that_is_read(text: str) -> None:
    """What it cannot say is only that a size is a whole number of bytes, and of 32 characters at most."""
    try:
        parse_size(text)
    except ValueError as err:
        assert not re.search(SIZE_PATTERN, text) or "whole number" in str(err) or len(text) > 32  # noqa: PT017
    else:
        assert re.search(SIZE_PATTERN, text)
