"""Everything the issue lists as bad input, over live HTTP: a 4xx in the one shape, and nothing changed.

The miner under test has no engine, so whatever is answered here was refused before the engine was asked.
"""

import json
import shutil
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from neurons.miner.lease import LeaseState
from polarise.http_signatures import sign_request
from polarise.ssh_keys import generate_key_pair
from tests.support.http import Answer, raw_exchange, send, signed
from tests.support.identities import People
from tests.support.leases import lease
from tests.support.miners import RunningMiner

HOST_MEMORY = "900000g"
OWN_ID = "a" * 64
OTHERS_ID = "b" * 64
ED25519 = generate_key_pair()[1]


def rsa_key(bits: int) -> str:
    key = generate_private_key(65537, bits).public_key()
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


@pytest.fixture(name="miner")
def miner_with_two_leases(engineless_miner: RunningMiner, people: People) -> Iterator[RunningMiner]:
    """A miner with one lease of the caller's and one of somebody else's; both are as they were afterwards."""
    journal, leases_folder = engineless_miner.allocator.journal, engineless_miner.node.data_dir.leases
    before = [
        journal.reserve(lambda _leases, made=made: made)  # type: ignore[misc]
        for made in (
            lease(1, renter_key=people.renter.public_key, state=LeaseState.ACTIVE, container_id=OWN_ID),
            lease(2, renter_key=people.other_renter.public_key, state=LeaseState.ACTIVE, container_id=OTHERS_ID),
        )
    ]
    yield engineless_miner
    after, folders = journal.all(), list(leases_folder.iterdir())
    for row in after:
        journal.forget(row.lease_id, 0)
    for folder in folders:
        shutil.rmtree(folder)
    assert after == before, "a refused request changed the journal"
    assert folders == []


def allocate(miner: RunningMiner, people: People, body: bytes | dict[str, object]) -> Answer:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return signed(miner.url, miner.key, people.renter, "POST", "/allocate", body=raw)


FIELDS: list[tuple[dict[str, object], int, str, str]] = [
    ({"memory": "2x"}, 400, "INVALID_FIELD", "memory"),
    ({"memory": "-1g"}, 400, "INVALID_FIELD", "memory"),
    ({"memory": 2}, 400, "INVALID_FIELD", "memory"),
    ({"memory": "1m"}, 422, "INVALID_FIELD", "memory"),
    ({"memory": HOST_MEMORY}, 422, "EXCEEDS_HOST", "memory"),
    ({"memory": "999999999999t"}, 422, "EXCEEDS_HOST", "memory"),
    ({"cpu_count": -1}, 400, "INVALID_FIELD", "cpu_count"),
    ({"cpu_count": 0}, 400, "INVALID_FIELD", "cpu_count"),
    ({"cpu_count": 0.009}, 400, "INVALID_FIELD", "cpu_count"),
    ({"cpu_count": "2"}, 400, "INVALID_FIELD", "cpu_count"),
    ({"cpu_count": True}, 400, "INVALID_FIELD", "cpu_count"),
    ({"cpu_count": 4096}, 422, "EXCEEDS_HOST", "cpu_count"),
    ({"cpu_count": 4097}, 400, "INVALID_FIELD", "cpu_count"),
    ({"devices": ["GPU-not-here"]}, 422, "UNKNOWN_DEVICE", "devices"),
    ({"devices": [99]}, 422, "UNKNOWN_DEVICE", "devices"),
    ({"devices": {"count": 64}}, 422, "UNKNOWN_DEVICE", "devices"),
    ({"devices": {"count": 0}}, 400, "INVALID_FIELD", "devices.count"),
    ({"ttl_seconds": 0}, 400, "INVALID_FIELD", "ttl_seconds"),
    ({"ttl_seconds": 86401}, 422, "INVALID_FIELD", "ttl_seconds"),
    ({"image": "ubuntu:latest"}, 422, "IMAGE_NOT_ALLOWED", "image"),
    ({"disk": "10g"}, 422, "NOT_SUPPORTED", "disk"),
    ({"isolation": "strict"}, 422, "INVALID_FIELD", "ssh_public_key"),
    ({"isolation": "none"}, 400, "INVALID_FIELD", "isolation"),
    ({"memoryy": "1g"}, 400, "UNKNOWN_FIELD", "memoryy"),
]


@pytest.mark.parametrize(("body", "status", "code", "field"), FIELDS, ids=lambda part: json.dumps(part)[:40])
def test_bad_field_is_refused_by_name(
    miner: RunningMiner, people: People, body: dict[str, object], status: int, code: str, field: str
) -> None:
    allocate(miner, people, body).assert_refused(status, code, field)


def test_unknown_field_is_told_the_nearest_one(miner: RunningMiner, people: People) -> None:
    assert "'memory'" in str(allocate(miner, people, {"memoryy": "1g"}).json["hint"])


def test_selector_of_no_device_is_told_the_least_count_and_not_to_send_a_list(
    miner: RunningMiner, people: People
) -> None:
    shape = allocate(miner, people, {"devices": {"count": 0}}).assert_refused(400, "INVALID_FIELD", "devices.count")
    assert "greater than or equal to 1, got 0" in str(shape["message"])


def test_gpu_on_a_machine_without_one_is_told_so(miner: RunningMiner, people: People) -> None:
    if miner.allocator.inventory.gpus:
        pytest.skip("this machine has a GPU")
    shape = allocate(miner, people, {"devices": {"count": 1}}).assert_refused(422, "UNKNOWN_DEVICE", "devices")
    assert "no GPU" in str(shape["hint"])


@pytest.mark.parametrize(
    ("raw", "code", "field"),
    [
        (b'{"memory":', "BAD_JSON", None),
        (b"memory=1g", "BAD_JSON", None),
        (b'{"memory":"1g"} {}', "BAD_JSON", None),
        (b'{"cpu_count":NaN}', "BAD_JSON", None),
        (b'{"memory":"\xff"}', "BAD_JSON", None),
        (b"[" * 10_000, "BAD_JSON", None),
        (b'{"memory":"1g","memory":"2g"}', "DUPLICATE_KEY", "memory"),
        (b"[]", "INVALID_FIELD", None),
    ],
)
def test_broken_body_is_refused(miner: RunningMiner, people: People, raw: bytes, code: str, field: str | None) -> None:
    allocate(miner, people, raw).assert_refused(400, code, field)


def test_ten_megabytes_are_refused_before_anybody_is_asked_who_they_are(miner: RunningMiner) -> None:
    send(miner.url, "POST", "/allocate", body=b" " * 10_000_000).assert_refused(413, "BODY_TOO_LARGE")


KEYS: dict[str, str] = {
    "options": f'command="sh",no-pty {ED25519}',
    "second line": f"{ED25519}\n{ED25519}",
    "second line of another kind": f"{ED25519}\nPermitRootLogin yes",
    "carriage return": f"{ED25519}\r{ED25519}",
    "RSA-1024": rsa_key(1024),
    "RSA-2048": rsa_key(2048),
    "empty": "",
    "text": "hello",
    "private": generate_key_pair()[0],
    "cut off": ED25519[:-8],
    "other type in front": ED25519.replace("ssh-ed25519", "ssh-rsa", 1),
}


@pytest.mark.parametrize("name", KEYS)
def test_unusable_ssh_key_is_refused(miner: RunningMiner, people: People, name: str) -> None:
    allocate(miner, people, {"ssh_public_key": KEYS[name]}).assert_refused(400, "KEY_REFUSED", "ssh_public_key")
    body = json.dumps({"ssh_public_key": KEYS[name]}).encode()
    answer = signed(miner.url, miner.key, people.renter, "PUT", f"/containers/{OWN_ID}/ssh-key", body=body)
    answer.assert_refused(400, "KEY_REFUSED", "ssh_public_key")


ROUTES_WITH_ID = [
    ("GET", "/containers/{}"),
    ("POST", "/containers/{}/renew"),
    ("PUT", "/containers/{}/ssh-key"),
    ("POST", "/containers/{}/password"),
    ("DELETE", "/terminate/{}"),
    ("GET", "/logs/{}"),
]


@pytest.mark.parametrize(("method", "rule"), ROUTES_WITH_ID)
@pytest.mark.parametrize("container_id", [OTHERS_ID, OTHERS_ID[:12], "c" * 64, "A" * 64, "a" * 11, "a" * 65, "%25"])
def test_id_that_is_not_the_callers_does_not_exist(
    miner: RunningMiner, people: People, method: str, rule: str, container_id: str
) -> None:
    answer = signed(miner.url, miner.key, people.renter, method, rule.format(container_id))
    answer.assert_refused(404, "NOT_FOUND", "container_id")


@pytest.mark.parametrize(("method", "rule"), ROUTES_WITH_ID)
@pytest.mark.parametrize("container_id", ["../images/x", "..%2fimages%2fx", "%2e%2e/images/x", f"{OWN_ID}/../x"])
def test_id_with_a_path_in_it_leads_nowhere(
    miner: RunningMiner, people: People, method: str, rule: str, container_id: str
) -> None:
    answer = signed(miner.url, miner.key, people.renter, method, rule.format(container_id))
    answer.assert_refused(404, "NOT_FOUND")


@pytest.mark.parametrize("key", ["", " ", "a" * 65, "a b", "a;b"])
def test_unusable_idempotency_key_is_refused(miner: RunningMiner, people: People, key: str) -> None:
    answer = signed(miner.url, miner.key, people.renter, "POST", "/allocate", headers={"Idempotency-Key": key})
    answer.assert_refused(422, "INVALID_FIELD", "Idempotency-Key")


@pytest.mark.parametrize("key", ["once", "ä"])
def test_idempotency_key_that_nobody_signed_is_refused(miner: RunningMiner, people: People, key: str) -> None:
    headers = sign_request(people.renter, "POST", f"{miner.url}/allocate", b"", audience=miner.key)
    headers["Idempotency-Key"] = key.encode().decode("latin-1")
    send(miner.url, "POST", "/allocate", headers=headers).assert_refused(401, "BAD_SIGNATURE", "Signature")


@pytest.mark.parametrize(
    ("body", "field"),
    [({"ttl_seconds": -1}, "ttl_seconds"), ({"ttl_seconds": 86401}, "ttl_seconds"), ({"ttl": 5}, "ttl")],
)
def test_renewal_out_of_bounds_is_refused(
    miner: RunningMiner, people: People, body: dict[str, object], field: str
) -> None:
    raw = json.dumps(body).encode()
    answer = signed(miner.url, miner.key, people.renter, "POST", f"/containers/{OWN_ID}/renew", body=raw)
    assert 400 <= answer.status < 500
    assert answer.json["field"] == field


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"NONSENSE\r\n\r\n",
        b"POST /allocate HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /allocate HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
    ],
)
def test_what_is_no_http_is_answered_400_and_the_daemon_lives(miner: RunningMiner, sent: bytes) -> None:
    assert raw_exchange(miner.url, sent, seconds=3).startswith(b"HTTP/1.1 400")
    assert send(miner.url, "GET", "/healthz").status == 200


# The engine is stopped.


def test_stopped_engine_is_503_with_a_time_and_the_daemon_lives(miner: RunningMiner, people: People) -> None:
    for method, target in (
        ("POST", "/allocate"),
        ("GET", f"/containers/{OWN_ID}"),
        ("GET", f"/logs/{OWN_ID}"),
        ("POST", f"/containers/{OWN_ID}/password"),
    ):
        answer = signed(miner.url, miner.key, people.renter, method, target)
        answer.assert_refused(503, "UNAVAILABLE")
        assert int(answer.headers["retry-after"]) >= 1
        assert "dockerd" in str(answer.json["message"])
    assert send(miner.url, "GET", "/healthz").status == 200
    ready = send(miner.url, "GET", "/readyz")
    assert ready.status == 503
    assert "dockerd" in str(ready.json["causes"])
    # It was asked before anything was reserved, so nothing of the allocation is left.
    assert all(row.container_id for row in miner.allocator.journal.all())


def test_stopped_engine_frees_no_lease(miner: RunningMiner, people: People) -> None:
    """Neither a reconcile nor the keeper takes silence for an answer."""
    signed(miner.url, miner.key, people.renter, "GET", "/containers")
    with pytest.raises(Exception, match="does not answer"):
        miner.reconcile()
    listed = signed(miner.url, miner.key, people.renter, "GET", "/containers").json["containers"]
    assert isinstance(listed, list)
    assert [view["container_id"] for view in listed] == [OWN_ID]


def test_lease_that_cannot_be_ended_now_stays_until_it_can(engineless_miner: RunningMiner, people: People) -> None:
    journal = engineless_miner.allocator.journal
    journal.reserve(
        lambda _leases: lease(7, renter_key=people.renter.public_key, state=LeaseState.ACTIVE, container_id="d" * 64)
    )
    try:
        answer = signed(engineless_miner.url, engineless_miner.key, people.renter, "DELETE", f"/terminate/{'d' * 64}")
        answer.assert_refused(503, "UNAVAILABLE")
        assert [row.state for row in journal.all()] == [LeaseState.DELETING]
    finally:
        for row in journal.all():
            journal.forget(row.lease_id, 0)
