"""Who gets in: every tampering of a signed request over live HTTP. tests/api walks the tables."""

import base64
import contextlib
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from neurons.base.key_watch import GENERATIONS_FILE
from neurons.miner.node import MinerNode
from polarise.generations import Generations
from polarise.http_signatures import AUDIENCE_HEADER, CERTIFICATE_HEADER, sign_request
from polarise.signing import Identity, Purpose
from tests.support.http import Answer, send, signed
from tests.support.identities import People, identity
from tests.support.miners import RunningMiner, engineless, running

Headers = dict[str, str]


def headers_for(miner: RunningMiner, who: Identity, *, body: bytes = b"", age: float = 0, target: str = "") -> Headers:
    """Sign GET or POST /containers as if ``age`` seconds ago."""
    now = datetime.now(UTC) - timedelta(seconds=age)
    return sign_request(who, "GET", miner.url + (target or "/containers"), body, audience=miner.key, now=now)


def get(miner: RunningMiner, headers: Headers, target: str = "/containers") -> Answer:
    return send(miner.url, "GET", target, headers=headers)


def test_properly_signed_request_is_answered(engineless_miner: RunningMiner, people: People) -> None:
    assert get(engineless_miner, headers_for(engineless_miner, people.renter)).status == 200


def test_unsigned_request_is_refused(engineless_miner: RunningMiner) -> None:
    shape = get(engineless_miner, {}).assert_refused(401, "NOT_AUTHENTICATED", "Signature")
    assert "renter token" in str(shape["hint"])


@pytest.mark.parametrize(("age", "is_ok"), [(28, True), (32, False), (-28, True), (-32, False), (86400, False)])
def test_clock_may_be_off_by_thirty_seconds_either_way(
    engineless_miner: RunningMiner, people: People, age: float, is_ok: bool
) -> None:
    answer = get(engineless_miner, headers_for(engineless_miner, people.renter, age=age))
    if is_ok:
        assert answer.status == 200
    else:
        answer.assert_refused(401, "CLOCK_SKEW", "Signature-Input")


def test_refusal_says_by_how_much_the_clock_is_off(engineless_miner: RunningMiner, people: People) -> None:
    # The second may turn between our stamp and the miner's look at its clock.
    ahead = get(engineless_miner, headers_for(engineless_miner, people.renter, age=-47.9))
    shape = ahead.assert_refused(401, "CLOCK_SKEW", "Signature-Input")
    assert str(shape["message"]).startswith(("your clock is 47 s ahead", "your clock is 48 s ahead"))
    behind = get(engineless_miner, headers_for(engineless_miner, people.renter, age=47.1))
    assert " s behind" in str(behind.json["message"])


def test_reused_signature_is_refused(engineless_miner: RunningMiner, people: People) -> None:
    headers = headers_for(engineless_miner, people.renter)
    assert get(engineless_miner, headers).status == 200
    get(engineless_miner, headers).assert_refused(401, "NONCE_REUSED", "Signature-Input")


def test_signature_for_another_node_is_refused(engineless_miner: RunningMiner, people: People) -> None:
    url = f"{engineless_miner.url}/containers"
    headers = sign_request(people.renter, "GET", url, b"", audience=identity("other node").public_key)
    get(engineless_miner, headers).assert_refused(401, "BAD_SIGNATURE", AUDIENCE_HEADER)


def _flip(value: str) -> str:
    middle = len(value) // 2
    return value[:middle] + ("A" if value[middle] != "A" else "B") + value[middle + 1 :]


Tamper = Callable[[Headers, RunningMiner, People], Headers]
TAMPERINGS: dict[str, Tamper] = {
    "signature flipped": lambda headers, _m, _p: headers | {"Signature": _flip(headers["Signature"])},
    "signature missing": lambda headers, _m, _p: {k: v for k, v in headers.items() if k != "Signature"},
    "input missing": lambda headers, _m, _p: {k: v for k, v in headers.items() if k != "Signature-Input"},
    "certificate of somebody else": lambda headers, miner, people: (
        headers | {CERTIFICATE_HEADER: headers_for(miner, people.owner)[CERTIFICATE_HEADER]}
    ),
    "certificate flipped": lambda headers, _m, _p: headers | {CERTIFICATE_HEADER: _flip(headers[CERTIFICATE_HEADER])},
    "certificate is no base64": lambda headers, _m, _p: headers | {CERTIFICATE_HEADER: "{}"},
    "certificate of no fields": lambda headers, _m, _p: (
        headers | {CERTIFICATE_HEADER: base64.b64encode(b"{}").decode()}
    ),
    "certificate too long": lambda headers, _m, _p: headers | {CERTIFICATE_HEADER: "A" * 5000},
    "nonce changed": lambda headers, _m, _p: (
        headers | {"Signature-Input": headers["Signature-Input"].replace('nonce="', 'nonce="0')}
    ),
    "created moved by a second": lambda headers, _m, _p: headers | {"Signature-Input": _later(headers)},
    "fewer parts covered": lambda headers, _m, _p: (
        headers | {"Signature-Input": headers["Signature-Input"].replace('"@path" ', "")}
    ),
    "nothing covered": lambda headers, _m, _p: (
        headers | {"Signature-Input": "polarise=()" + headers["Signature-Input"].partition(")")[2]}
    ),
    "other tag": lambda headers, _m, _p: (
        headers | {"Signature-Input": headers["Signature-Input"].replace("polarise-request-1", "polarise-request-2")}
    ),
    "no structured field": lambda headers, _m, _p: headers | {"Signature-Input": "((("},
}


def _later(headers: Headers) -> str:
    before, created, after = headers["Signature-Input"].partition("created=")
    digits = after.split(";")[0]
    return f"{before}{created}{int(digits) + 1}{after[len(digits) :]}"


@pytest.mark.parametrize("name", TAMPERINGS)
def test_tampered_header_is_refused(engineless_miner: RunningMiner, people: People, name: str) -> None:
    headers = headers_for(engineless_miner, people.renter)
    changed = TAMPERINGS[name](headers, engineless_miner, people)
    assert changed != headers
    answer = get(engineless_miner, changed)
    assert answer.status == 401, answer.body
    assert answer.json["code"] in {"BAD_SIGNATURE", "NOT_AUTHENTICATED"}
    assert answer.json["field"]


def test_signature_does_not_pass_on_another_path_query_method_or_host(
    engineless_miner: RunningMiner, people: People
) -> None:
    miner = engineless_miner
    for method, target, extra in (
        ("GET", f"/containers/{'a' * 12}", {}),
        ("GET", "/containers?x=1", {}),
        ("POST", "/allocate", {}),
        ("GET", "/containers", {"Host": f"localhost:{miner.url.rpartition(':')[2]}"}),
    ):
        answer = send(miner.url, method, target, headers=headers_for(miner, people.renter) | extra)
        answer.assert_refused(401, "BAD_SIGNATURE", "Signature")


def test_body_changed_by_one_byte_is_refused(engineless_miner: RunningMiner, people: People) -> None:
    miner = engineless_miner
    body = b'{"memory":"1g"}'
    headers = sign_request(people.renter, "POST", f"{miner.url}/allocate", body, audience=miner.key)
    answer = send(miner.url, "POST", "/allocate", headers=headers, body=body.replace(b"1", b"2"))
    answer.assert_refused(401, "BAD_SIGNATURE", "Signature")
    assert miner.allocator.journal.all() == []


def test_key_on_no_list_is_named_and_refused(engineless_miner: RunningMiner, people: People) -> None:
    shape = get(engineless_miner, headers_for(engineless_miner, people.stranger)).assert_refused(403, "NOT_PERMITTED")
    assert people.stranger.public_key[:12] in str(shape["message"])


def test_who_may_not_come_in_costs_no_durable_write(people: People, node_identity: Identity, tmp_path: Path) -> None:
    """Anybody can make keys and sign; only a caller with a right on the route makes the node remember a nonce."""
    with running(MinerNode(engineless(people), tmp_path / "node", node_identity)) as miner:
        for who, method, target in ((people.stranger, "GET", "/containers"), (people.auditor, "POST", "/allocate")):
            signed(miner.url, miner.key, who, method, target).assert_refused(403, "NOT_PERMITTED")
        with contextlib.closing(sqlite3.connect(tmp_path / "node" / "nonces.sqlite")) as nonces:
            assert nonces.execute("SELECT count(*) FROM nonce").fetchall() == [(0,)]
            assert signed(miner.url, miner.key, people.auditor, "POST", "/token").status == 200
            assert nonces.execute("SELECT count(*) FROM nonce").fetchall() == [(1,)]


def test_refused_request_spends_no_nonce_of_an_honest_one(engineless_miner: RunningMiner, people: People) -> None:
    """Somebody who saw the headers cannot burn them with another body."""
    headers = headers_for(engineless_miner, people.renter)
    get(engineless_miner, headers, "/containers?x=1").assert_refused(401, "BAD_SIGNATURE", "Signature")
    assert get(engineless_miner, headers).status == 200


def bearer(miner: RunningMiner, who: Identity) -> Headers:
    return {"Authorization": f"Bearer {miner.client(who).token().token}"}


def test_token_opens_what_its_holder_may_open(engineless_miner: RunningMiner, people: People) -> None:
    headers = bearer(engineless_miner, people.renter)
    for _ in range(2):
        assert get(engineless_miner, headers).status == 200


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "Bearer"])
def test_wrong_token_is_refused(engineless_miner: RunningMiner, token: str) -> None:
    code, field = ("TOKEN_INVALID", "Authorization") if token else ("NOT_AUTHENTICATED", "Signature")
    get(engineless_miner, {"Authorization": f"Bearer {token}"}).assert_refused(401, code, field)


def test_token_is_not_enough_where_a_signature_is_needed(engineless_miner: RunningMiner, people: People) -> None:
    headers = bearer(engineless_miner, people.renter)
    answer = send(engineless_miner.url, "POST", "/token", headers=headers)
    answer.assert_refused(401, "NOT_AUTHENTICATED", "Authorization")


def test_token_of_one_node_does_not_open_another(people: People, tmp_path: Path) -> None:
    """Each node generates a secret of its own."""
    nodes = [identity("node one"), identity("node two")]
    with (
        running(MinerNode(engineless(people), tmp_path / "one", nodes[0])) as one,
        running(MinerNode(engineless(people), tmp_path / "two", nodes[1])) as two,
    ):
        get(two, bearer(one, people.renter)).assert_refused(401, "TOKEN_INVALID", "Authorization")


def test_readiness_names_a_service_that_failed(people: People, node_identity: Identity, tmp_path: Path) -> None:
    with running(MinerNode(engineless(people), tmp_path / "node", node_identity)) as miner:
        causes = send(miner.url, "GET", "/readyz").json["causes"]
        assert isinstance(causes, dict)
        assert "services" not in causes
        miner.node.supervisors[0].last_error = "OSError: a defect"
        answer = send(miner.url, "GET", "/readyz")
        assert answer.status == 503
        assert answer.json["causes"]["services"] == "agent: OSError: a defect"  # type: ignore[index]


def test_a_replaced_request_subkey_and_its_tokens_open_nothing(
    people: People, node_identity: Identity, tmp_path: Path
) -> None:
    """What the node learned of the ledger counts from its start on; a token falls with the subkey it was given to."""
    old = people.renter
    new = replace(old, generations={Purpose.REQUEST: 1})
    config = engineless(people)
    with running(MinerNode(config, tmp_path / "node", node_identity)) as miner:
        tokens = bearer(miner, old), bearer(miner, new)
        assert [get(miner, headers_for(miner, who)).status for who in (old, new)] == [200, 200]
        assert [get(miner, token).status for token in tokens] == [200, 200]
    Generations(tmp_path / "node" / GENERATIONS_FILE).learn({(old.public_key, Purpose.REQUEST): 1})
    with running(MinerNode(config, tmp_path / "node", node_identity)) as miner:
        get(miner, headers_for(miner, old)).assert_refused(401, "KEY_REFUSED", CERTIFICATE_HEADER)
        get(miner, tokens[0]).assert_refused(401, "KEY_REFUSED", "Authorization")
        assert get(miner, headers_for(miner, new)).status == 200
        assert get(miner, tokens[1]).status == 200
