"""The running daemons against their own documents and against forgers; `make test-api` makes many more requests."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping

import pytest
import requests
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.core.failures import FailureGroup

from config.schema import Config
from neurons.base.access import RouteAccess
from neurons.base.openapi import path_of
from neurons.base.openapi_routes import document_text
from neurons.base.operation import Route
from neurons.ledger.access_table import LEDGER_ACCESS
from neurons.miner.access_table import MINER_ACCESS
from neurons.miner.join import entry_statement
from neurons.openapi import DOCUMENTS
from neurons.validator.access_table import VALIDATOR_ACCESS
from polarise.clients import MinerClient
from polarise.hardware import HardwareClaim
from polarise.ledger_client import LedgerClient
from polarise.ledger_registry import registration
from polarise.telemetry_client import TelemetryClient
from tests.api.client_calls import challenge_calls, lease_calls, ledger_calls, telemetry_calls
from tests.api.daemons import Caller, Daemon, Daemons, running_daemons
from tests.api.forgeries import FORGERIES, sound
from tests.api.generated import AnyCase, AnyOperation, Exchange, check, expected_refusal, is_stream, operations_of, send
from tests.api.recorder import DocumentCheck, RecordingHttp
from tests.support.identities import People
from tests.support.proving_miner import CPU

# Of each kind and route. Without the variable they are the same in every run.
EXAMPLES = int(os.environ.get("API_EXAMPLES", "1"))
STREAM_EXAMPLES_MAX = 5
REPLAYS = int(os.environ.get("API_REPLAYS", "50"))
ACCESS: dict[str, Mapping[Route, RouteAccess]] = {
    "ledger": LEDGER_ACCESS,
    "miner": MINER_ACCESS,
    "validator": VALIDATOR_ACCESS,
}
# Read as GET /witness/<name>.
ANOTHER_ROUTE = ("GET", "/witness/add-checkpoint")
HARDWARE = HardwareClaim(cpu_model="a processor", cpu_milli=1000, memory_bytes=1 << 30, devices=(CPU,))
# Methods that only look at what is there already.
SENDS_NOTHING: dict[type[object], set[str]] = {
    MinerClient: {"addresses", "check_address", "commit_answer"},
    TelemetryClient: set(),
    LedgerClient: {"accept", "opened"},
}
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")

pytestmark = [pytest.mark.docker, pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture(name="daemons", scope="module")
def started_daemons(people: People) -> Iterator[Daemons]:
    """Ledger, miner and validator, started as an operator does."""
    yield from running_daemons(people)


@pytest.mark.parametrize("role", sorted(ACCESS))
def test_no_answer_that_the_document_does_not_announce(daemons: Daemons, role: str) -> None:
    """Requests that follow the document and requests that break it, as every caller; nothing succeeds for nobody."""
    daemon = daemons.all[role]
    operations = operations_of(requests.get(f"{daemon.url}/openapi", timeout=30).json())
    wrong: list[str] = []
    statuses: Counter[int] = Counter()
    for (method, rule), access in ACCESS[role].items():
        operation = operations[method, path_of(rule)]
        for given_path in _paths(daemons, rule):
            for mode in GenerationMode:
                wrong += _answers_of(daemons, daemon, operation, access, mode, given_path, statuses)
    sys.stdout.write(f"{role}: {statuses.total()} requests, {dict(sorted(statuses.items()))}\n")
    assert not wrong, "\n\n".join(wrong)
    daemons.clear()
    assert daemons.client(daemons.market.owner).containers() == ()


def _paths(daemons: Daemons, rule: str) -> list[dict[str, str] | None]:
    """Return what to put into the path: what schemathesis makes up, and a container that is there."""
    return [None, {"container_id": daemons.lease()}] if "<container_id>" in rule else [None]


def _answers_of(
    daemons: Daemons,
    daemon: Daemon,
    operation: AnyOperation,
    access: RouteAccess,
    mode: GenerationMode,
    path_parameters: dict[str, str] | None,
    statuses: Counter[int],
) -> list[str]:
    """Send requests to one route, and return what is wrong with the answers."""
    if mode is GenerationMode.NEGATIVE and not _can_be_broken(operation, is_path_given=path_parameters is not None):
        return []
    wrong: list[str] = []
    admitted = [caller for caller in daemon.callers if expected_refusal(caller, access) is None]

    @settings(
        max_examples=min(EXAMPLES, STREAM_EXAMPLES_MAX) if is_stream(operation) else EXAMPLES,
        deadline=None,
        database=None,
        derandomize="API_EXAMPLES" not in os.environ,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(
        case=operation.as_strategy(generation_mode=mode, path_parameters=path_parameters),
        # As often who may come in as anybody.
        caller=st.sampled_from(admitted) | st.sampled_from(daemon.callers),
    )
    def ask(case: AnyCase, caller: Caller) -> None:
        exchange = send(case, caller, daemon)
        statuses[exchange.answer.status_code] += 1
        _take_away(daemons, exchange)
        try:
            check(exchange, access, is_negative=mode is GenerationMode.NEGATIVE)
        except (AssertionError, FailureGroup) as err:
            wrong.append(f"{exchange}\n{err}")

    ask()
    return wrong


def _can_be_broken(operation: AnyOperation, *, is_path_given: bool) -> bool:
    raw = operation.definition.raw
    return "requestBody" in raw or any(not is_path_given or p["in"] != "path" for p in raw.get("parameters", []))


def _take_away(daemons: Daemons, exchange: Exchange) -> None:
    if exchange.answer.status_code == 200 and str(exchange.answer.url).endswith("/allocate"):
        daemons.client(daemons.market.owner).terminate(exchange.answer.json()["container_id"])


@pytest.mark.parametrize("role", sorted(ACCESS))
def test_method_that_no_row_names_is_refused_with_those_that_are(daemons: Daemons, role: str) -> None:
    url = daemons.all[role].url
    for rule in {rule for _, rule in ACCESS[role]}:
        served = {method for method, other in ACCESS[role] if other == rule}
        target = url + path_of(rule).replace("{container_id}", "a" * 12).replace("{", "").replace("}", "")
        for method in METHODS:
            if method in served or (method, rule) == ANOTHER_ROUTE:
                continue
            answer = requests.request(method, target, timeout=30)
            assert (answer.status_code, answer.json()["code"]) == (405, "METHOD_NOT_ALLOWED"), (method, rule)
            assert set(answer.headers["Allow"].split(", ")) >= served


@pytest.mark.parametrize("name", FORGERIES)
@pytest.mark.parametrize("role", sorted(ACCESS))
def test_signed_request_that_was_changed_is_refused(daemons: Daemons, role: str, name: str) -> None:
    daemon, (code, change) = daemons.all[role], FORGERIES[name]
    request = sound(daemon.url, daemon.key, daemons.market.owner, "GET", "/metrics")
    answer = change(request).go()
    assert answer.status == 401
    if name != "method":  # an answer to HEAD has no body
        assert answer.json["code"] == code
    assert sound(daemon.url, daemon.key, daemons.market.owner, "GET", "/metrics").go().status == 200


def test_no_request_passes_again_after_a_restart(daemons: Daemons) -> None:
    """Spent nonces lie on the disk of the daemon; its process is another one when the requests come again."""
    daemon = daemons.all["validator"]
    asked = [
        # Signed ahead of time, so that all are in time when they come again.
        sound(daemon.url, daemon.key, daemons.market.owner, "GET", "/metrics", seconds_ahead=20)
        for _ in range(REPLAYS)
    ]
    assert Counter(request.go().status for request in asked) == {200: REPLAYS}
    daemons.restart("validator")
    again = Counter(request.go().json["code"] for request in asked)
    sys.stdout.write(f"{REPLAYS} replays after a restart: {dict(again)}\n")
    assert set(again) <= {"NONCE_REUSED", "CLOCK_SKEW"}
    assert again["NONCE_REUSED"] > 0


def test_our_clients_and_the_documents_agree(daemons: Daemons) -> None:
    """Every method of the clients sends what the document knows, and the real answer is one that it announces."""
    market, people = daemons.market, daemons.people
    miner, ledger = daemons.all["miner"], daemons.all["ledger"]
    statement = entry_statement(Config(), market.miner_identity, miner.url, HARDWARE)
    leases, challenges = daemons.client(people.renter), daemons.client(people.validator)
    events = TelemetryClient(miner.url, miner.key, people.validator)
    chain = LedgerClient(ledger.url, market.genesis)
    recorders = {client: _recorded(client) for client in (leases, challenges, events, chain)}
    called = [
        (MinerClient, list(lease_calls(leases, people.renter))),
        (MinerClient, list(challenge_calls(challenges, people.validator))),
        (TelemetryClient, list(telemetry_calls(events, people.validator))),
        (LedgerClient, list(ledger_calls(chain, market.miner_identity, registration(statement)))),
    ]
    for kind in (MinerClient, TelemetryClient, LedgerClient):
        names = {name for other, found in called for name in found if other is kind}
        assert names == _methods(kind) - SENDS_NOTHING[kind], kind
    for client, recorder in recorders.items():
        document = DOCUMENTS["ledger" if client is chain else "miner"]()
        assert recorder.seen
        for exchange in recorder.seen:
            DocumentCheck(json.loads(document_text(document))).check(exchange)


def _recorded(client: MinerClient | TelemetryClient | LedgerClient) -> RecordingHttp:
    recorder = RecordingHttp(client._http)
    client._http = recorder  # type: ignore[assignment]  # speaks as the real one, which sends
    return recorder


def _methods(kind: type[object]) -> set[str]:
    return {name for name, value in vars(kind).items() if callable(value) and not name.startswith("_")}
