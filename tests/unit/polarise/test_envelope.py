"""The envelope: the seeds' own messages pass ingress, every other spelling of a line is refused by name."""

from __future__ import annotations

import json
import math
import uuid

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from polarise.canonical import JsonValue
from polarise.envelope import Event, open_line, rfc3339
from polarise.errors import ErrorCode, RequestRejected
from polarise.ingress import Hop, Sender, dispatch, place, receive, unix_ns
from polarise.line import MAX_LINE_BYTES, decode_line, encode_line
from polarise.payloads import Topic, check_container_kind, is_urgent, topic_of

UUID = "728ff542-b332-4520-bb2e-51d5e32cfc0a"
STREAM = "ab" * 32 + "/system"
HOP = Hop("agent", "v0.1.0", "agent-node-1")
NOW_NS = 1_554_901_873_679_000_001
IDS: dict[str, object] = {"message_id": UUID, "client_id": UUID, "action_id": UUID}
CLIENT: dict[str, object] = {"client_version": "0.1.0", "client_username": "vasya", "authenticated": "true"}
VISITS: list[dict[str, object]] = [
    {"svc": "baictl", "tstamp": "1554901873677", "version": "v0.1.0-481dad1", "node": "baictl-client-1"},
    {"svc": "frontend-02", "tstamp": "1554901873677", "version": "v0.1.0-7bf8717", "node": "baictl-bff-045"},
    {"svc": "fetcher-01", "tstamp": "1554901873679", "version": "v0.1.0-3ed8215", "node": "fetcher-node-045"},
    {"svc": "executor-01", "tstamp": "1554901873679", "version": "v0.1.0-3ed8215", "node": "executor-node-045fr"},
]
TOML: dict[str, object] = {
    "descriptor_filename": "descriptor_cpu.toml",
    "sha1": "d99cf00af3e9019f4fe7b180c47ef047395d2067",
    "doc": "Initial toml",
}
CONTENTS: dict[str, object] = {"contents": dict[str, object](), **TOML}
DATASET: dict[str, object] = {"src": "http://imagenet.org/somebig.zig", "md5": "gifudifdoiudfdfklfdjll"}
JOB: dict[str, object] = {
    "id": "<kubernetes label>",
    "namespace": "bai-user",
    "k8s_yaml": "<document>",
    "output": "<output>",
}
CMD_SUBMIT: dict[str, object] = {
    **IDS,
    "client_version": "0.1.0",
    "client_sha": "<sha1>",
    "client_username": "vasya",
    "date": "1554901873677",
    "visited": [
        {"svc": "fetcher", "tstamp": "1554901873677", "version": "v0.1.0-481dad1", "node": "example-node-1"},
    ],
    "type": "CMD_SUBMIT",
    "payload": {"command": "cancel", "args": {"target_action_id": UUID}},
}

# The samples of seed 004, in its order, with the pseudo-JSON made JSON and nothing else changed.
SEED_004: dict[str, dict[str, object]] = {
    "client": {
        "message_id": UUID,
        "client_id": UUID,
        "client_version": "0.1.0",
        "client_sha": "<sha1>",
        "client_username": "vasya",
        "date": "1554901873677",
        "visited": [{"svc": "baictl", "tstamp": "1554901873677", "version": "v0.1.0-481dad1"}],
        "payload": {"toml": TOML},
    },
    "bff": {
        **IDS,
        **CLIENT,
        "date": "1554901873677",
        "visited": VISITS[:2],
        "type": "BAI_APP_BFF",
        "payload": {
            "datasets": [DATASET, DATASET],
            "scripts": [{"dst": "s3://<bucket>/anubis0/<scriptfile>.tar"}],
            "toml": CONTENTS,
        },
    },
    "fetcher": {
        **IDS,
        **CLIENT,
        "date": "1554901873677",
        "visited": VISITS[:3],
        "type": "BAI_APP_FETCHER",
        "payload": {
            "datasets": [{**DATASET, "dst": "s3://mycache/datasets/20429402904290"}, {**DATASET, "dst": ""}],
            "toml": CONTENTS,
        },
    },
    "executor": {
        **IDS,
        **CLIENT,
        "date": "1554901873677",
        "visited": VISITS,
        "type": "BAI_APP_EXECUTOR",
        "payload": {"job": JOB, "datasets": [{**DATASET, "status": "SUCCESS"}], "toml": CONTENTS},
    },
    "status": {
        **IDS,
        **CLIENT,
        "date": "1554901873677",
        "visited": [{"svc": "fetcher", "tstamp": "1554901873677", "version": "v0.1.0-481dad1"}],
        "type": "BAI_APP_STATUS",
        "message": "Invalid digest|404|501 and failed to get|Timeout",
        "status": "INITIALIZING",
        "payload": {},
    },
    "submit": CMD_SUBMIT,
    "return": {
        **IDS,
        "date": "1554901873677",
        "visited": [
            {"svc": "fetcher", "tstamp": "1554901873677", "version": "v0.1.0-481dad1", "node": "example-node-1"},
        ],
        "type": "CMD_RETURN",
        "payload": {"return_code": 0, "return_value": {}, "message": "", "cmd_submit": CMD_SUBMIT},
    },
}


def line_of(message: object) -> bytes:
    fields = dispatch(receive(json.dumps(message).encode()), Sender(UUID), HOP, NOW_NS)
    return place(fields, STREAM, 7)


@pytest.mark.parametrize("name", SEED_004)
def test_seed_004_samples_pass_ingress(name: str) -> None:
    sample = SEED_004[name]
    event = open_line(line_of(sample))
    assert event.message_id == UUID
    assert event.date == "2019-04-10T13:11:13.677000000Z"
    assert event.tstamp == 1_554_901_873_679
    assert event.type == sample.get("type", "BAI_APP_EXECUTOR")
    given_visits = sample["visited"]
    assert isinstance(given_visits, list)
    assert [visit.svc for visit in event.visited] == [*(visit["svc"] for visit in given_visits), "agent"]
    assert all(visit.tstamp in {1_554_901_873_677, 1_554_901_873_679} for visit in event.visited)
    assert (event.stream, event.seq) == (STREAM, 7)


def test_status_of_seed_004_moves_into_the_payload() -> None:
    event = open_line(line_of(SEED_004["status"]))
    assert event.kind == "action.status"
    assert event.payload["status"] == "INITIALIZING"
    assert event.payload["message"] == "Invalid digest|404|501 and failed to get|Timeout"


@pytest.mark.parametrize(("old", "new"), [("CANCELLED", "CANCELED"), ("METRICS AVAILABLE", "METRICS_AVAILABLE")])
def test_old_spellings_of_a_status_are_understood(old: str, new: str) -> None:
    assert open_line(line_of({**SEED_004["status"], "status": old})).payload["status"] == new


def test_seed_000_monitoring_sample_in_seconds_becomes_milliseconds() -> None:
    sample = {
        "containerId": "container_123",
        "timestamp": 1634491234,
        "gpuUsage": 75.3,
        "memoryUsage": 60.5,
        "temperature": 68.7,
        "eventType": "gpu_monitoring",
    }
    event = open_line(line_of({"kind": "telemetry.sample", "payload": sample}))
    assert event.payload == {**sample, "timestamp": 1634491234000}
    assert event.type is Topic.BAI_SYS_EXECUTOR


def test_seed_000_training_fields_pass() -> None:
    payload = {
        "modelId": "m",
        "eventType": "training",
        "timestamp": 1634491234567,
        "batchId": "b1",
        "epoch": 3,
        "loss": 0.25,
        "inferenceResult": {"label": "cat"},
        "additionalParams": {"learning_rate": 0.001},
    }
    event = open_line(line_of({"kind": "training.epoch", "payload": payload}))
    assert event.payload == payload
    assert event.type is Topic.BAI_APP_EXECUTOR


def test_authenticated_is_what_the_hop_found_out() -> None:
    claims = {**SEED_004["bff"], "authenticated": True}
    raw = json.dumps(claims).encode()
    assert open_line(line_of(claims)).authenticated is False
    fields = dispatch(receive(raw), Sender(UUID, is_authenticated=True), HOP, NOW_NS)
    assert open_line(place(fields, STREAM, 0)).authenticated is True


def test_sender_is_named_by_the_hop_not_by_the_message() -> None:
    own = str(uuid.uuid4())
    fields = dispatch(receive(json.dumps(CMD_SUBMIT).encode()), Sender(own, action_id=own), HOP, NOW_NS)
    assert (fields["client_id"], fields["action_id"]) == (own, own)


@pytest.mark.parametrize(
    ("raw", "code", "field"),
    [
        (b'{"kind":"training.epoch","payload":{"loss":NaN}}', ErrorCode.BAD_JSON, None),
        (b'{"kind":"training.epoch","payload":{"loss":1e999}}', ErrorCode.BAD_JSON, None),
        (b'{"kind":"a.b","payload":{"x":1,"x":2}}', ErrorCode.DUPLICATE_KEY, "x"),
        (b'{"kind":"a.b","payload":{},"visitors":[]}', ErrorCode.UNKNOWN_FIELD, "visitors"),
        (b'{"kind":"a.b","payload":[]}', ErrorCode.INVALID_FIELD, "payload"),
        (b'{"kind":"nodots","payload":{}}', ErrorCode.INVALID_FIELD, "kind"),
        (b'{"kind":"a.b","payload":{},"date":"yesterday"}', ErrorCode.INVALID_FIELD, "date"),
        (b'{"kind":"a.b","payload":{},"message_id":"no-uuid"}', ErrorCode.INVALID_FIELD, "message_id"),
        (b'{"kind":"training.epoch","payload":{"epoch":"three"}}', ErrorCode.INVALID_FIELD, "payload.epoch"),
        (b'{"kind":"action.status","payload":{"status":"DONE"}}', ErrorCode.INVALID_FIELD, "payload.status"),
        (b'{"kind":"command.submit","payload":{"command":"cleanup","args":{}}}', ErrorCode.INVALID_FIELD, None),
        (b"[]", ErrorCode.INVALID_FIELD, None),
        (b"{", ErrorCode.BAD_JSON, None),
        (b'{"a":' * 40 + b"1" + b"}" * 40, ErrorCode.BAD_JSON, None),
    ],
)
def test_bad_messages_are_refused_by_name(raw: bytes, code: ErrorCode, field: str | None) -> None:
    with pytest.raises(RequestRejected) as caught:
        receive(raw)
    assert caught.value.code is code
    if field is not None:
        assert caught.value.field == field


def test_a_message_one_byte_too_long_is_refused() -> None:
    empty = b'{"kind":"a.b","payload":{"x":""}}'
    fits = empty.replace(b'""', b'"' + b"x" * (MAX_LINE_BYTES - len(empty)) + b'"')
    assert receive(fits).kind == "a.b"
    with pytest.raises(RequestRejected) as caught:
        receive(fits.replace(b"x}", b"xx}").replace(b'x"}', b'xx"}'))
    assert caught.value.code is ErrorCode.BODY_TOO_LARGE


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw.replace(b",", b", ", 1),
        lambda raw: raw + b" ",
        lambda raw: raw.replace(b'"seq":7', b'"seq":7.0'),
        lambda raw: raw.replace(b'"svc"', b'"\\u0073vc"', 1),
    ],
)
def test_another_spelling_of_a_line_is_refused(change: object) -> None:
    raw = line_of(SEED_004["bff"])
    assert callable(change)
    with pytest.raises(RequestRejected) as caught:
        open_line(change(raw))
    assert caught.value.code is ErrorCode.NOT_CANONICAL


def test_fields_of_a_line_in_another_order_are_refused() -> None:
    raw = line_of(SEED_004["bff"])
    value = json.loads(raw)
    shuffled = json.dumps(dict(reversed(value.items())), separators=(",", ":")).encode()
    with pytest.raises(RequestRejected) as caught:
        decode_line(shuffled)
    assert caught.value.code is ErrorCode.NOT_CANONICAL


def test_duplicate_key_in_a_line_is_refused() -> None:
    with pytest.raises(RequestRejected) as caught:
        decode_line(b'{"a":1,"a":1}')
    assert caught.value.code is ErrorCode.DUPLICATE_KEY


def test_unknown_kind_is_stored() -> None:
    event = open_line(line_of({"kind": "weather.sunny", "payload": {"anything": [1, None]}}))
    assert event.payload == {"anything": [1, None]}


def test_integers_no_reader_agrees_on_become_text() -> None:
    assert open_line(line_of({"kind": "a.b", "payload": {"n": 2**53}})).payload["n"] == str(2**53)
    assert open_line(line_of({"kind": "a.b", "payload": {"n": 2**53 - 1}})).payload["n"] == 2**53 - 1


@pytest.mark.parametrize("kind", ["telemetry.sample", "alert.raised", "action.status", "command.submit", "node.x"])
def test_a_container_cannot_speak_for_the_agent(kind: str) -> None:
    with pytest.raises(RequestRejected) as caught:
        check_container_kind(kind)
    assert caught.value.code is ErrorCode.NOT_PERMITTED


def test_kinds_have_the_topics_of_the_seed() -> None:
    assert topic_of("action.status") is Topic.BAI_APP_STATUS
    assert topic_of("alert.raised") is Topic.BAI_SYS_EXECUTOR
    assert topic_of("inference.result") is Topic.BAI_APP_EXECUTOR
    assert [is_urgent(kind) for kind in ("alert.raised", "action.status", "command.submit", "telemetry.sample")] == [
        True,
        True,
        True,
        False,
    ]


def test_instants_are_told_apart_by_size() -> None:
    assert unix_ns("1634491234") == 1634491234 * 10**9
    assert unix_ns("1554901873677") == 1554901873677 * 10**6
    assert unix_ns(1554901873677000001) == 1554901873677000001
    assert rfc3339(1554901873677000001) == "2019-04-10T13:11:13.677000001Z"
    with pytest.raises(ValueError, match="whole number"):
        unix_ns(True)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=8), json_values, max_size=5))
def test_the_fast_encoder_writes_what_rfc_8785_writes(value: dict[str, JsonValue]) -> None:
    try:
        expected = rfc8785.dumps(value)
    except ValueError:  # a lone surrogate, or a whole float beyond 2^53
        with pytest.raises(RequestRejected):
            encode_line(value)
        return
    assert encode_line(value) == expected


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_are_written_the_same_way(number: float) -> None:
    if number.is_integer() and abs(number) >= 2**53:
        return
    line = encode_line({"x": number})
    assert line == rfc8785.dumps({"x": number})
    read = decode_line(line)["x"]
    assert isinstance(read, int | float)
    assert math.isclose(read, number, rel_tol=0, abs_tol=0)


def test_event_survives_its_own_line() -> None:
    raw = line_of(SEED_004["executor"])
    event = open_line(raw)
    assert isinstance(event, Event)
    assert event.to_line() == raw
