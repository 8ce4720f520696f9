"""The three OpenAPI documents: whole, sound, current, and shown without a network."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from typing import Any

import pytest
import schemathesis
from jsonschema_rs import meta
from pydantic import BaseModel
from schemathesis.core.result import Ok

from config.loader import CHECKOUT
from config.reference import ERROR_CODES
from neurons.base.access import Role, RouteAccess, Scope
from neurons.base.openapi import api_document, path_of, refusals_of
from neurons.base.openapi_routes import DocumentPage, document_text
from neurons.base.operation import Answer, Operation, OperationTable, Route
from neurons.ledger.access_table import LEDGER_ACCESS
from neurons.ledger.operations import LEDGER_OPERATIONS
from neurons.miner.access_table import MINER_ACCESS
from neurons.miner.operations import MINER_OPERATIONS
from neurons.openapi import DOCUMENTS
from neurons.validator.access_table import VALIDATOR_ACCESS
from neurons.validator.operations import VALIDATOR_OPERATIONS
from polarise.decode import decode_model
from polarise.errors import ErrorCode
from polarise.messages import SuccessAnswer
from tests.support.http import send
from tests.support.miners import RunningMiner

TABLES: dict[str, tuple[Mapping[Route, RouteAccess], OperationTable]] = {
    "miner": (MINER_ACCESS, MINER_OPERATIONS),
    "validator": (VALIDATOR_ACCESS, VALIDATOR_OPERATIONS),
    "ledger": (LEDGER_ACCESS, LEDGER_OPERATIONS),
}
ROLES = sorted(TABLES)
PAGE = DocumentPage()
DRAFT = "https://json-schema.org/draft/2020-12/schema"


def document(role: str) -> dict[str, Any]:
    """Return a document as a reader of the file sees it."""
    loaded: dict[str, Any] = json.loads((CHECKOUT / "openapi" / f"{role}.json").read_text(encoding="utf-8"))
    return loaded


@pytest.mark.parametrize("role", ROLES)
def test_file_is_what_the_code_says(role: str) -> None:
    text = (CHECKOUT / "openapi" / f"{role}.json").read_text(encoding="utf-8")
    assert text == document_text(DOCUMENTS[role]()), f"run: python -m neurons.openapi {role} > openapi/{role}.json"


@pytest.mark.parametrize("role", ROLES)
def test_every_route_says_what_it_is_and_nothing_else_does(role: str) -> None:
    access, operations = TABLES[role]
    assert set(access) == set(operations)


def test_route_without_an_operation_makes_no_document() -> None:
    with pytest.raises(KeyError, match="/extra"):
        api_document("x", "x", {**MINER_ACCESS, ("GET", "/extra"): RouteAccess(is_public=True)}, MINER_OPERATIONS)


@pytest.mark.parametrize("role", ROLES)
def test_document_is_sound_openapi(role: str) -> None:
    schema = schemathesis.openapi.from_dict(document(role))
    found = {result.ok().label for result in schema.get_all_operations() if isinstance(result, Ok)}
    assert found == {f"{method} {path_of(rule)}" for method, rule in TABLES[role][0]}
    schema.validate()
    for shape in document(role)["components"]["schemas"].values():
        meta.validate({"$schema": DRAFT, **shape})


@pytest.mark.parametrize("role", ROLES)
def test_every_reference_leads_somewhere(role: str) -> None:
    whole = document(role)
    for reference in set(re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(whole))):
        place = whole
        for part in reference.split("/"):
            place = place[part]


@pytest.mark.parametrize("role", ROLES)
def test_every_variable_of_a_path_is_described(role: str) -> None:
    for path, item in document(role)["paths"].items():
        for operation in item.values():
            given = {p["name"] for p in operation.get("parameters", []) if p["in"] == "path"}
            assert given == set(re.findall(r"\{(\w+)\}", path)), path


@pytest.mark.parametrize("role", ROLES)
def test_every_example_of_a_body_is_one(role: str) -> None:
    for route, operation in TABLES[role][1].items():
        if operation.example is not None:
            assert operation.body is not None, route
            _checked(operation.body, json.dumps(operation.example).encode())


def _checked(model: type[BaseModel], raw: bytes) -> None:
    decode_model(model, raw)


def test_operations_differ_by_id() -> None:
    for role in ROLES:
        ids = [operation["operationId"] for item in document(role)["paths"].values() for operation in item.values()]
        assert len(ids) == len(set(ids))


def test_public_route_announces_no_refusal_of_strangers() -> None:
    plain = Operation("Do it", Answer("Done", SuccessAnswer))
    assert not {401, 403} & set(refusals_of(RouteAccess(is_public=True), plain))
    owners = refusals_of(RouteAccess({Role.OWNER: Scope.ANY}), plain)
    assert ErrorCode.TOKEN_EXPIRED in owners[401]
    signed = refusals_of(RouteAccess({Role.OWNER: Scope.ANY}, needs_signature=True), plain)
    assert ErrorCode.TOKEN_EXPIRED not in signed[401]


@pytest.mark.parametrize("role", ROLES)
def test_security_is_that_of_the_access_table(role: str) -> None:
    for (method, rule), access in TABLES[role][0].items():
        security = document(role)["paths"][path_of(rule)][method.lower()]["security"]
        assert bool(security) is not access.is_public
        assert ({"bearer": []} in security) is (not access.is_public and not access.needs_signature)


@pytest.mark.parametrize("role", ROLES)
def test_page_loads_nothing_and_runs_nothing(role: str) -> None:
    page = PAGE.render(document(role))
    assert not re.search(r"<script|<link|<img|<iframe|\bsrc=|\son\w+=|javascript:|@import|url\(|style=", page)
    assert set(re.findall(r'href="([^"]*)"', page)) == {"/openapi"}
    assert all(f"<code>{path}</code>" in page for path in document(role)["paths"])


@pytest.mark.parametrize("role", ROLES)
def test_page_names_every_refusal_of_every_route(role: str) -> None:
    page = PAGE.render(document(role))
    access, operations = TABLES[role]
    for method, rule in access:
        name = document(role)["paths"][path_of(rule)][method.lower()]["operationId"]
        shown = page[page.index(f'<details id="{name}">') :].partition("</details>")[0]
        for status, codes in refusals_of(access[method, rule], operations[method, rule]).items():
            row = re.search(rf"<tr><td>{status}</td>.*</tr>", shown)
            assert row is not None
            assert all(f"`{code}`" in row[0] for code in codes), (name, status)


def test_text_of_a_document_stays_text_on_the_page() -> None:
    hostile = "<script>alert(1)</script>"
    page = PAGE.render({**document("ledger"), "info": {"title": hostile, "version": "1", "description": hostile}})
    assert hostile not in page


def test_both_are_served_to_anybody(engineless_miner: RunningMiner) -> None:
    answer = send(engineless_miner.url, "GET", "/openapi")
    assert (answer.status, answer.json) == (200, document("miner"))
    page = send(engineless_miner.url, "GET", "/openapi/page")
    assert page.headers["content-security-policy"] == PAGE.policy
    assert "'unsafe" not in PAGE.policy
    assert page.body.decode() == PAGE.render(document("miner"))


def test_every_refusal_in_the_source_is_announced_by_some_route() -> None:
    """A code with a status that no document knows is what nobody was told of."""
    announced = {
        (str(code), status)
        for access, operations in TABLES.values()
        for route in access
        for status, codes in refusals_of(access[route], operations[route]).items()
        for code in codes
    }
    raised = {
        (code, status)
        for package in (
            "neurons/base",
            "neurons/miner",
            "neurons/validator",
            "neurons/ledger",
            "neurons/agent",
            "ledger",
        )
        for path in sorted((CHECKOUT / package).rglob("*.py"))
        for code, status in _refusals_in(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert ("NONCE_REUSED", 401) in raised
    assert raised - announced == set()


def _refusals_in(tree: ast.Module) -> set[tuple[str, int]]:
    """Return code and status of each refusal that is written out; helpers that are given either are left to real requests."""
    found = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or getattr(node.func, "id", "") != "RequestRejected" or not node.args:
            continue
        status = next((word.value for word in node.keywords if word.arg == "status"), ast.Constant(400))
        code = node.args[0]
        if isinstance(code, ast.Attribute) and isinstance(status, ast.Constant) and isinstance(status.value, int):
            found.add((code.attr, status.value))
    return found


def announced_codes() -> dict[str, set[int]]:
    """Return the statuses that each code comes with, over all documents."""
    found: dict[str, set[int]] = {}
    for access, operations in TABLES.values():
        for route in access:
            for status, codes in refusals_of(access[route], operations[route]).items():
                for code in codes:
                    found.setdefault(str(code), set()).add(status)
    return found


def test_pages_name_the_statuses_that_the_documents_do() -> None:
    """docs/errors.md gives each code its statuses, docs/api.md each status its codes."""
    api = (CHECKOUT / "docs" / "api.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([0-9, ]+) \| (.*) \|$", api[api.index("## Refusals") :], re.MULTILINE)
    for code, statuses in announced_codes().items():
        assert statuses <= {int(text) for text in re.findall(r"\d{3}", ERROR_CODES[ErrorCode(code)].status)}, code
        listed = {int(text) for names, codes in rows if f"`{code}`" in codes for text in names.split(", ")}
        assert statuses <= listed, code
