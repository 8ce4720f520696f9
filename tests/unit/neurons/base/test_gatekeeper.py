"""Who gets in: every tampering of a signed request over live HTTP, and every cell of the miner's table."""

import base64
import contextlib
import secrets
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from neurons.base.access import Role, Scope
from neurons.base.key_watch import GENERATIONS_FILE
from neurons.miner.access_table import MINER_ACCESS
from neurons.miner.journal import Journal
from neurons.miner.lease import LeaseState
from neurons.miner.node import MinerNode
from polarise.generations import Generations
from polarise.http_signatures import AUDIENCE_HEADER, CERTIFICATE_HEADER, sign_request
from polarise.signing import Identity, Purpose
from tests.support.http import Answer, send, signed
from tests.support.identities import People, identity
from tests.support.identities import node_identity as certified
from tests.support.leases import lease
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


def test_none_of_two_hundred_replays_passes_a_restart(people: People, node_identity: Identity, tmp_path: Path) -> None:
    config = engineless(people)
    with running(MinerNode(config, tmp_path / "node", node_identity)) as miner:
        port = miner.node.http.port
        recorded = [headers_for(miner, people.renter) for _ in range(200)]
        assert {get(miner, headers).status for headers in recorded} == {200}
    again = config.model_copy(update={"network": config.network.model_copy(update={"port": port})})
    with running(MinerNode(again, tmp_path / "node", node_identity)) as miner:
        answers = [get(miner, headers) for headers in recorded]
    assert [answer.json["code"] for answer in answers] == ["NONCE_REUSED"] * 200


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


# The table, cell by cell. A caller who passes the gate meets the engine that is not there (503), a body that is
# missing a field (400) or the answer; one who does not gets 403 for the route, 404 for somebody else's container.
ROLES: dict[str, Role | None] = {
    "owner": Role.OWNER,
    "validator": Role.VALIDATOR,
    "renter": Role.RENTER,
    "auditor": Role.AUDITOR,
    "stranger": None,
}


@pytest.fixture(name="stocked", scope="module")
def miner_with_leases(people: People, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMiner]:
    """A miner whose journal holds one lease of everybody; its engine is away, so none of them can change."""
    stocked = certified("stocked", people.owner)
    with running(MinerNode(engineless(people), tmp_path_factory.mktemp("stocked"), stocked)) as miner:
        yield miner


def put_leases(journal: Journal, people: People) -> dict[str, str]:
    """Make the journal hold exactly one active lease per person, and return person -> container id."""
    for old in journal.all():
        journal.forget(old.lease_id, 0)
    ids = {}
    for index, name in enumerate([*ROLES, "other_renter"]):
        ids[name] = secrets.token_hex(32)
        made = lease(
            index, renter_key=getattr(people, name).public_key, state=LeaseState.ACTIVE, container_id=ids[name]
        )
        journal.reserve(lambda _leases, made=made: made)  # type: ignore[misc]
    return ids


CELLS = [
    (method, rule, person, whose)
    for method, rule in MINER_ACCESS
    for person in ROLES
    for whose in (("own", "other") if "<container_id>" in rule else ("own",))
]


@pytest.mark.parametrize(("method", "rule", "person", "whose"), CELLS)
def test_every_cell_of_the_table(
    stocked: RunningMiner, people: People, method: str, rule: str, person: str, whose: str
) -> None:
    names_container = "<container_id>" in rule
    ids = put_leases(stocked.allocator.journal, people)
    target = rule.replace("<container_id>", ids[person if whose == "own" else "other_renter"])
    # Who may read which stream is the routes' own second question; the table lets every role ask it.
    target = {"/telemetry/stream": "/telemetry/stream?stream=system&follow=0"}.get(target, target)
    target = target.replace("<stream_id>", "system")
    who: Identity = getattr(people, person)
    answer = signed(stocked.url, stocked.key, who, method, target)
    access, role = MINER_ACCESS[(method, rule)], ROLES[person]
    scope = None if role is None else access.scopes.get(role)
    if access.is_public:
        assert answer.status in {200, 503}
    elif scope is None:
        answer.assert_refused(403, "NOT_PERMITTED")
    elif names_container and whose == "other" and scope is Scope.OWN:
        answer.assert_refused(404, "NOT_FOUND", "container_id")
    elif "/stream" in rule:
        assert answer.status in {200, 400, 403, 503}, answer.body
    else:
        assert answer.status in {200, 400, 503}, answer.body
        if (method, rule) == ("GET", "/containers"):
            seen = {view["renter_key"] for view in answer.json["containers"]}  # type: ignore[attr-defined]
            assert (seen == {who.public_key}) is (scope is Scope.OWN)


def test_every_route_that_is_served_stands_in_the_table(engineless_miner: RunningMiner) -> None:
    """And every row of the table is served: the two lists cannot drift apart."""
    for method, rule in MINER_ACCESS:
        answer = send(engineless_miner.url, method, rule.replace("<container_id>", "a" * 12))
        assert answer.status in {200, 401, 503}, (method, rule)


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
