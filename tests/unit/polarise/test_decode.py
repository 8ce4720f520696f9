"""What strangers send instead of JSON."""

from __future__ import annotations

import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from polarise.decode import MAX_BODY_BYTES, MAX_DEPTH, WireModel, decode_json, decode_model
from polarise.errors import ErrorCode, RequestRejected
from polarise.messages import AllocateRequest, StartRequest


def refusal(raw: bytes) -> RequestRejected:
    with pytest.raises(RequestRejected) as refused:
        decode_model(AllocateRequest, raw)
    assert 400 <= refused.value.status < 500
    return refused.value


def test_the_seeds_body_is_read() -> None:
    request = decode_model(AllocateRequest, b'{"memory":"2g","cpu_count":2}')
    assert (request.memory, request.cpu_count) == ("2g", 2.0)


@pytest.mark.parametrize("raw", [b"", b" \r\n", b"{}"])
def test_nothing_asked_for_is_a_valid_request(raw: bytes) -> None:
    assert decode_model(AllocateRequest, raw) == AllocateRequest()


@pytest.mark.parametrize("raw", [b'{"memory":"1g","memory":"2g"}', b'{"devices":[{"a":1,"a":1}]}'])
def test_duplicate_key_is_refused_by_name(raw: bytes) -> None:
    refused = refusal(raw)
    assert refused.code is ErrorCode.DUPLICATE_KEY
    assert refused.field in {"memory", "a"}


@pytest.mark.parametrize(
    "raw",
    [
        b"{",
        b"{'memory': 1}",
        b'{"memory": "1g"} x',
        b'{"memory": "1g"}{}',
        b'\xff\xfe{"memory": "1g"}',
        b'\xef\xbb\xbf{"memory": "1g"}',
        b'{"memory": "\xff"}',
        b'{"cpu_count": NaN}',
        b'{"cpu_count": Infinity}',
        b'{"cpu_count": -Infinity}',
        b'{"cpu_count": 1e999}',
        b'{"cpu_count": ' + b"9" * 5000 + b"}",
        b"\x00",
    ],
)
def test_broken_json_is_refused(raw: bytes) -> None:
    assert refusal(raw).code in {ErrorCode.BAD_JSON, ErrorCode.INVALID_FIELD}


@pytest.mark.parametrize("raw", [b"1e999", b"-1e999", b"NaN", b'{"a": [1e400]}'])
def test_no_number_becomes_infinite(raw: bytes) -> None:
    """1e999 is valid JSON, and an infinity in Python."""
    with pytest.raises(RequestRejected, match="BAD_JSON"):
        decode_json(raw)


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_nesting_is_bounded(opening: bytes, closing: bytes) -> None:
    assert decode_json(opening * MAX_DEPTH + b"1" + closing * MAX_DEPTH)
    for depth in (MAX_DEPTH + 1, 10_000):
        with pytest.raises(RequestRejected, match="nested deeper"):
            decode_json(opening * depth + b"1" + closing * depth)


def test_brackets_in_strings_do_not_nest() -> None:
    text = '[{"\\' * 100
    assert decode_json(json.dumps([text]).encode()) == [text]


def test_a_body_of_the_bound_is_read_and_one_byte_more_is_not() -> None:
    raw = b'"' + b"x" * (MAX_BODY_BYTES - 2) + b'"'
    assert decode_json(raw)
    with pytest.raises(RequestRejected) as refused:
        decode_json(raw + b" ")
    assert (refused.value.code, refused.value.status) == (ErrorCode.BODY_TOO_LARGE, 413)


def test_blanks_count_too() -> None:
    assert decode_model(AllocateRequest, b" " * MAX_BODY_BYTES) == AllocateRequest()
    assert refusal(b" " * (MAX_BODY_BYTES + 1)).code is ErrorCode.BODY_TOO_LARGE


def test_unknown_field_names_the_nearest_known_one() -> None:
    refused = refusal(b'{"memori": "2g"}')
    assert refused.code is ErrorCode.UNKNOWN_FIELD
    assert refused.field == "memori"
    assert "'memory'" in refused.hint
    assert "memory" in refusal(b'{"zzz": 1}').hint


@pytest.mark.parametrize("raw", [b"[]", b"1", b'"x"', b"null", b"true"])
def test_a_body_must_be_an_object(raw: bytes) -> None:
    assert "must be a JSON object" in refusal(raw).message


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        (b'{"memory": "2x"}', "memory"),
        (b'{"memory": 5}', "memory"),
        (b'{"memory": null, "cpu_count": -1}', "cpu_count"),
        (b'{"cpu_count": 0}', "cpu_count"),
        (b'{"cpu_count": 0.001}', "cpu_count"),
        (b'{"cpu_count": "2"}', "cpu_count"),
        (b'{"cpu_count": true}', "cpu_count"),
        (b'{"ttl_seconds": 1.5}', "ttl_seconds"),
        (b'{"ttl_seconds": 0}', "ttl_seconds"),
        (b'{"isolation": "none"}', "isolation"),
        (b'{"devices": [1.5]}', "devices"),
        (b'{"devices": [true]}', "devices"),
        (b'{"devices": {"count": 0}}', "devices"),
        (b'{"ssh_public_key": ["x"]}', "ssh_public_key"),
    ],
)
def test_wrong_value_names_its_field(raw: bytes, field: str) -> None:
    refused = refusal(raw)
    assert refused.code is ErrorCode.INVALID_FIELD
    assert refused.field is not None
    assert refused.field.startswith(field)


def test_missing_field_is_named() -> None:
    with pytest.raises(RequestRejected) as refused:
        decode_model(StartRequest, b'{"challenge_id": "%s"}' % (b"0" * 32))
    assert refused.value.field == "epoch"


def test_an_id_with_a_line_feed_is_no_id() -> None:
    raw = {"challenge_id": "0" * 32 + "\n", "epoch": 0, "beacon": "0" * 64, "nonce": "0" * 64}
    with pytest.raises(RequestRejected) as refused:
        decode_model(StartRequest, json.dumps(raw).encode())
    assert refused.value.field == "challenge_id"


def test_models_are_immutable() -> None:
    with pytest.raises(ValueError, match="frozen"):
        AllocateRequest().memory = "1g"  # type: ignore[misc]


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_a_refusal(raw: bytes) -> None:
    try:
        decode_model(AllocateRequest, raw)
    except RequestRejected as refused:
        assert 400 <= refused.status < 500  # noqa: PT017  both outcomes are fine


@given(st.dictionaries(st.sampled_from(sorted(AllocateRequest.model_fields)), st.none() | st.integers() | st.text()))
def test_any_object_is_a_request_or_a_refusal(value: dict[str, object]) -> None:
    try:
        decode_model(AllocateRequest, json.dumps(value).encode())
    except RequestRejected as refused:
        assert refused.message  # noqa: PT017  both outcomes are fine


class Part(WireModel):
    """Four fields that have to be there."""

    one: int
    two: int
    three: int
    four: int


class Whole(WireModel):
    """Lists, and a part."""

    parts: tuple[Part, ...] = ()
    numbers: tuple[int, ...] = ()
    part: Part | None = None


def test_a_list_is_refused_at_its_first_wrong_item() -> None:
    with pytest.raises(RequestRejected) as caught:
        decode_model(Whole, b'{"numbers":["a","b","c"]}')
    assert caught.value.field == "numbers.0"
    cause = caught.value.__cause__
    assert isinstance(cause, ValidationError)
    assert cause.error_count() == 1


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        (b'{"part":{"one":1,"two":2,"three":3}}', "part.four"),
        (b'{"parts":[{"one":1,"two":2,"three":3,"four":4},{}]}', "parts.1.one"),
        (b'{"part":{"one":1,"two":2,"three":3,"four":4,"five":5}}', "part.five"),
    ],
)
def test_a_missing_or_unknown_field_is_named_at_any_depth(raw: bytes, field: str) -> None:
    with pytest.raises(RequestRejected) as caught:
        decode_model(Whole, raw)
    assert caught.value.field == field


@pytest.mark.parametrize(
    "raw",
    [
        b'{"numbers":[' + b",".join([b'"a"'] * 100_000) + b"]}",
        b'{"part":{"x":[' + b",".join([b"[]"] * 100_000) + b"]}}",
        b'{"part":{' + b",".join(b'"%d":0' % index for index in range(40_000)) + b"}}",
    ],
    ids=["wrong items", "missing fields", "unknown fields"],
)
def test_what_is_wrong_with_a_message_takes_no_more_memory_than_the_message(raw: bytes) -> None:
    """Pydantic keeps a complaint per wrong item and a copy of the object per missing field: hundreds of times as much."""
    tracemalloc.start()
    try:
        with pytest.raises(RequestRejected):
            decode_model(Whole, raw, max_bytes=len(raw))
        assert tracemalloc.get_traced_memory()[1] < 64 * len(raw)
    finally:
        tracemalloc.stop()


def test_very_many_faults_are_counted_and_not_listed() -> None:
    class Numbers(WireModel):
        by_name: dict[str, int]

    raw = json.dumps({"by_name": dict.fromkeys(map(str, range(100)), "x")}).encode()
    with pytest.raises(RequestRejected, match="100 fields are wrong"):
        decode_model(Numbers, raw)
