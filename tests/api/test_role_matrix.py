"""Every cell of the three access tables over real HTTP: route x caller x own-or-other, and every way to be nobody.

Rules:
- The cells are made from the tables; a new row has its tests before anybody writes them.
- Who may not come in gets 401 or 403 from every route that is not public; another's container does not exist for who may
  see only its own. Who may come in gets past both: to an answer, to a body that lacks a field (400), to an engine that is
  not there (503).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from neurons.base.access import Role, RouteAccess, Scope
from neurons.base.agent_client import AgentClient
from neurons.base.operation import Route
from neurons.ledger.access_table import LEDGER_ACCESS
from neurons.miner.access_table import MINER_ACCESS
from neurons.miner.journal import Journal
from neurons.miner.lease import LeaseState
from neurons.miner.node import MinerNode
from neurons.validator.access_table import VALIDATOR_ACCESS
from polarise.http_signatures import sign_request
from polarise.signing import Identity
from tests.api.daemons import expired_token
from tests.support.clock import ManualClock
from tests.support.http import Answer, send, signed
from tests.support.identities import People, identity
from tests.support.identities import node_identity as certified
from tests.support.leases import lease
from tests.support.miners import RunningMiner, engineless, running, wait_until
from tests.support.proving_miner import OWNER
from tests.support.served_validator import serving
from tests.support.small_ledger import LEDGER, SmallLedger, small_ledger

TABLES: dict[str, Mapping[Route, RouteAccess]] = {
    "ledger": LEDGER_ACCESS,
    "miner": MINER_ACCESS,
    "validator": VALIDATOR_ACCESS,
}
PEOPLE: dict[str, Role | None] = {
    "owner": Role.OWNER,
    "validator": Role.VALIDATOR,
    "renter": Role.RENTER,
    "auditor": Role.AUDITOR,
    "stranger": None,
}
# Way to be nobody -> the code of its 401, with a route that takes tokens.
NOBODIES = {
    "no signature": "NOT_AUTHENTICATED",
    "another signature": "BAD_SIGNATURE",
    "another node's": "BAD_SIGNATURE",
    "too old": "CLOCK_SKEW",
    "too early": "CLOCK_SKEW",
    "expired token": "TOKEN_EXPIRED",
    "token of nobody": "TOKEN_INVALID",
}
PAST_THE_GATE = {200, 400, 404, 409, 422, 503}
PUBLIC = {200, 400, 404, 503}
SYSTEM, AUDIT, OWN, OTHER = "system", "audit", "own", "other"


@dataclass
class App:
    """One daemon in this process, as its callers meet it.

    Attributes:
        url: Base URL.
        key: Its node key.
        owner: Who certified it.
        data_dir: Its folder.
        tokens: Person -> bearer token.
        clock: Where it has one of the tests'.
    """

    url: str
    key: str
    owner: Identity
    data_dir: Path
    tokens: dict[str, str] = field(default_factory=dict)
    clock: ManualClock | None = None

    def wind_clock(self) -> None:
        """Set a clock that stands still to the time by which requests are signed."""
        if self.clock is not None:
            self.clock.wall = time.time_ns() // 1_000_000


@pytest.fixture(name="ledger", scope="module")
def running_ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallLedger]:
    with small_ledger(tmp_path_factory.mktemp("ledger")) as ledger:
        yield ledger


@pytest.fixture(name="stocked", scope="module")
def miner_with_leases(people: People, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMiner]:
    """A miner whose engine is away, so that no lease can change; its agent holds a stream per person."""
    folder = tmp_path_factory.mktemp("stocked") / "node"
    with running(MinerNode(engineless(people), folder, certified("stocked", people.owner))) as miner:
        agent = AgentClient(folder)
        wait_until(lambda: _is_there(agent), 60, "no agent", poll_seconds=0.1)
        for name in [*PEOPLE, "other_renter"]:
            agent.open_stream(_stream_of(people, name), getattr(people, name).public_key)
        yield miner


def _is_there(agent: AgentClient) -> bool:
    try:
        agent.info(SYSTEM)
    except Exception:  # noqa: BLE001  it is asked again until the time is over
        return False
    return True


@pytest.fixture(name="apps", scope="module")
def every_app(
    ledger: SmallLedger, stocked: RunningMiner, people: People, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, App]]:
    folder = tmp_path_factory.mktemp("validator")
    tokens = {name: stocked.client(getattr(people, name)).token().token for name, role in PEOPLE.items() if role}
    with serving(folder, ledger, people) as validator:
        yield {
            "ledger": App(ledger.url, LEDGER.public_key, Identity(OWNER), ledger.genesis_file.parent),
            "miner": App(stocked.url, stocked.key, people.owner, stocked.node.data_dir.root, tokens),
            "validator": App(
                validator.url, validator.node.node_key, people.owner, folder / "node", clock=validator.clock
            ),
        }


def _stream_of(people: People, name: str) -> str:
    return str(getattr(people, name).public_key)[:32]


def put_leases(journal: Journal, people: People) -> dict[str, str]:
    """Make the journal hold exactly one active lease per person, and return person -> container id."""
    names = [*PEOPLE, "other_renter"]
    held = {lease.renter_key: str(lease.container_id) for lease in journal.all() if lease.state is LeaseState.ACTIVE}
    if len(held) == len(names):
        return {name: held[getattr(people, name).public_key] for name in names}
    for old in journal.all():
        journal.forget(old.lease_id, 0)
    ids = {}
    for index, name in enumerate(names):
        ids[name] = secrets.token_hex(32)
        made = lease(
            index, renter_key=getattr(people, name).public_key, state=LeaseState.ACTIVE, container_id=ids[name]
        )
        journal.reserve(lambda _leases, made=made: made)  # type: ignore[misc]
    return ids


def filled(rule: str) -> str:
    """Return a target of a route whose variables name nothing that is there, and that ends by itself."""
    target = {"/telemetry/stream": "/telemetry/stream?follow=0", "/subscribe": "/subscribe?from=999999"}.get(rule, rule)
    for variable, value in (
        ("<container_id>", "a" * 12),
        ("<stream_id>", SYSTEM),
        ("<name>", "0" * 64),
        ("<path:tile>", "0/000"),
    ):
        target = target.replace(variable, value)
    return target


def whose_of(rule: str) -> tuple[str, ...]:
    """Return what a route can be asked about."""
    if "<container_id>" in rule:
        return (OWN, OTHER)
    return (SYSTEM, AUDIT, OWN, OTHER) if names_stream(rule) else (OWN,)


def names_stream(rule: str) -> bool:
    """Whether a caller says which stream is meant."""
    return "<stream_id>" in rule or rule == "/telemetry/stream"


CELLS = [
    (method, rule, person, whose, how)
    for (method, rule), access in MINER_ACCESS.items()
    for person, role in PEOPLE.items()
    for whose in whose_of(rule)
    for how in (("signature",) if role is None or access.is_public else ("signature", "token"))
]


@pytest.mark.parametrize(("method", "rule", "person", "whose", "how"), CELLS)
def test_every_cell_of_the_miner(
    apps: dict[str, App],
    stocked: RunningMiner,
    people: People,
    method: str,
    rule: str,
    person: str,
    whose: str,
    how: str,
) -> None:
    app, access, role = apps["miner"], MINER_ACCESS[method, rule], PEOPLE[person]
    target = _miner_target(stocked, people, rule, person, whose)
    if how == "token":
        answer = send(app.url, method, target, headers={"Authorization": f"Bearer {app.tokens[person]}"})
    else:
        answer = signed(app.url, app.key, getattr(people, person), method, target)
    scope = None if role is None else access.scopes.get(role)
    if access.is_public:
        assert answer.status in PUBLIC
    elif how == "token" and access.needs_signature:
        answer.assert_refused(401, "NOT_AUTHENTICATED", "Authorization")
    elif scope is None:
        answer.assert_refused(403, "NOT_PERMITTED")
    elif "<container_id>" in rule and whose == OTHER and scope is Scope.OWN:
        answer.assert_refused(404, "NOT_FOUND", "container_id")
    elif names_stream(rule) and not _may_read(rule, role, scope, whose):
        answer.assert_refused(403, "NOT_PERMITTED")
    else:
        _check_admitted(answer, rule, scope, getattr(people, person))


def _miner_target(stocked: RunningMiner, people: People, rule: str, person: str, whose: str) -> str:
    ids = put_leases(stocked.allocator.journal, people) if "container" in rule else {}
    holder = person if whose == OWN else "other_renter"
    stream = whose if whose in {SYSTEM, AUDIT} else _stream_of(people, holder)
    if rule == "/telemetry/stream":
        return f"{rule}?stream={stream}&follow=0"
    return filled(rule.replace("<container_id>", ids.get(holder, "")).replace("<stream_id>", stream))


def _may_read(rule: str, role: Role | None, scope: Scope, whose: str) -> bool:
    """Say whether lines of a stream are for a caller: what the routes ask beyond the table."""
    if scope is Scope.ANY or rule.endswith(("/checkpoint", "/cosignature")):
        return True
    return role in {Role.VALIDATOR, Role.AUDITOR} if whose == SYSTEM else whose == OWN


def _check_admitted(answer: Answer, rule: str, scope: Scope, who: Identity) -> None:
    assert answer.status in PAST_THE_GATE, answer.body
    if rule == "/containers":
        seen = {view["renter_key"] for view in answer.json["containers"]}  # type: ignore[attr-defined]
        assert (seen == {who.public_key}) is (scope is Scope.OWN)


@pytest.mark.parametrize(
    ("role", "method", "rule"),
    [(role, method, rule) for role in ("ledger", "validator") for method, rule in TABLES[role]],
)
def test_every_cell_of_ledger_and_validator(
    apps: dict[str, App], people: People, role: str, method: str, rule: str
) -> None:
    app, access = apps[role], TABLES[role][method, rule]
    app.wind_clock()
    for who, is_owner in ((app.owner, True), (people.stranger, False)):
        answer = signed(app.url, app.key, who, method, filled(rule))
        if access.is_public or (is_owner and Role.OWNER in access.scopes):
            assert answer.status in PUBLIC, answer.body
        else:
            answer.assert_refused(403, "NOT_PERMITTED")


@pytest.mark.parametrize("way", NOBODIES)
@pytest.mark.parametrize(
    ("role", "method", "rule"), [(role, method, rule) for role, table in TABLES.items() for method, rule in table]
)
def test_nobody_comes_in(apps: dict[str, App], role: str, method: str, rule: str, way: str) -> None:
    app, access = apps[role], TABLES[role][method, rule]
    app.wind_clock()
    answer = send(app.url, method, filled(rule), headers=_headers_of_nobody(app, method, filled(rule), way))
    if access.is_public:
        assert answer.status in PUBLIC, answer.body
        return
    is_token_refused = "token" in way and access.needs_signature
    code = "NOT_AUTHENTICATED" if is_token_refused else NOBODIES[way]
    assert (answer.status, answer.json["code"]) == (401, code)


def _headers_of_nobody(app: App, method: str, target: str, way: str) -> dict[str, str]:
    if way == "no signature":
        return {}
    if way == "expired token":
        return {"Authorization": f"Bearer {expired_token(app.data_dir, app.key, app.owner.public_key)}"}
    if way == "token of nobody":
        return {"Authorization": "Bearer e30.aaaa.bbbb"}
    audience = identity("another node").public_key if way == "another node's" else app.key
    off = {"too old": -32, "too early": 32}.get(way, 0)
    now = datetime.now(UTC) + timedelta(seconds=off)
    headers = sign_request(app.owner, method, app.url + target, b"", audience=audience, now=now)
    if way == "another signature":
        other = sign_request(app.owner, method, app.url + target, b"x", audience=audience, now=now)
        headers["Signature"] = other["Signature"]
    return headers


def test_every_row_is_served(apps: dict[str, App]) -> None:
    """A route without a row ends the start; here is the other half, a row without a route."""
    for role, table in TABLES.items():
        for method, rule in table:
            answer = send(apps[role].url, method, filled(rule))
            assert answer.status != 405, (role, method, rule)
            if answer.status == 404:
                assert not str(answer.json["message"]).startswith("there is no /"), (role, method, rule)
