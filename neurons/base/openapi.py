"""The OpenAPI 3.1 document of one daemon, made of its access table, its operations and the models of its messages.

Rules:
- Nothing is written down twice: rights come from the access table, shapes from the pydantic models (JSON schema of draft
  2020-12, which is what OpenAPI 3.1 means by a schema), meanings of codes from `config.reference`.
- Each refusal names the codes that may stand in it, so that an answer nobody announced is found by a machine.
- The same tables give the same bytes, in every process: a test compares them with the files under openapi/.
Decision and alternatives: docs/adr/0047-openapi.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

import polarise
from config.reference import ERROR_CODES
from neurons.base.access import RouteAccess
from neurons.base.operation import JSON, Answer, Operation, OperationTable, Parameter, Route
from polarise.canonical import JsonValue
from polarise.errors import ErrorCode
from polarise.node_messages import Refusal

OPENAPI_VERSION = "3.1.1"
_MODELS = "#/components/schemas/"
# What a signed request carries; RFC 9421 wants all of them together.
_SIGNED: dict[str, JsonValue] = {
    "signature": [],
    "signature_input": [],
    "content_digest": [],
    "audience": [],
    "certificate": [],
}
_SECURITY: dict[str, JsonValue] = {
    "signature": {
        "type": "apiKey",
        "in": "header",
        "name": "Signature",
        "description": "RFC 9421, Ed25519, by the caller's request key, under the label `polarise`.",
    },
    "signature_input": {
        "type": "apiKey",
        "in": "header",
        "name": "Signature-Input",
        "description": 'Covers `"@method" "@authority" "@path" "@query" "content-digest" "polarise-audience" '
        '"polarise-certificate"`, and `"idempotency-key"` where there is one; with `created` (30 s either way), `keyid`, `nonce` (8 to 64 characters, used once) '
        'and `tag="polarise-request-1"`.',
    },
    "content_digest": {
        "type": "apiKey",
        "in": "header",
        "name": "Content-Digest",
        "description": "RFC 9530, SHA-256 of the body; of an empty one, too.",
    },
    "audience": {
        "type": "apiKey",
        "in": "header",
        "name": "Polarise-Audience",
        "description": "Node key of the node that is meant to answer.",
    },
    "certificate": {
        "type": "apiKey",
        "in": "header",
        "name": "Polarise-Certificate",
        "description": "Base64 of the caller's certificate of its request key; who the caller is stands in `issuer`.",
    },
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "A token of `POST /token` of the miner; not where only a signature will do.",
    },
}
_SIGNATURE_CODES = (
    ErrorCode.NOT_AUTHENTICATED,
    ErrorCode.BAD_SIGNATURE,
    ErrorCode.CLOCK_SKEW,
    ErrorCode.KEY_REFUSED,
    ErrorCode.NONCE_REUSED,
)
_TOKEN_CODES = (ErrorCode.TOKEN_EXPIRED, ErrorCode.TOKEN_INVALID)
_BODY_CODES = (ErrorCode.DUPLICATE_KEY, ErrorCode.UNKNOWN_FIELD, ErrorCode.INVALID_FIELD)
# What the server answers before any route is asked.
_ALWAYS: Mapping[int, tuple[ErrorCode, ...]] = {
    400: (ErrorCode.BAD_JSON,),
    408: (ErrorCode.BODY_TOO_SLOW,),
    411: (ErrorCode.LENGTH_REQUIRED,),
    413: (ErrorCode.BODY_TOO_LARGE,),
    429: (ErrorCode.TOO_MANY_REQUESTS,),
    500: (ErrorCode.INTERNAL,),
    503: (ErrorCode.UNAVAILABLE,),
}
_STATUS_TEXT = {
    400: "The request is not understood",
    401: "Nobody this node can name",
    403: "Not for this caller",
    404: "Not here",
    408: "Too slow",
    409: "Not now, or not any more",
    411: "No length",
    413: "Too large",
    415: "Not JSON",
    422: "Understood, and not possible",
    429: "Too much at once",
    500: "A defect of this node, which was logged",
    503: "This node, or what it needs, is away",
}
_MAY_NAME_A_TIME = (409, 429, 503)


def api_document(
    title: str, description: str, access: Mapping[Route, RouteAccess], operations: OperationTable
) -> dict[str, JsonValue]:
    """Return the document.

    Args:
        title: Of the API.
        description: What the daemon is for.
        access: (method, rule) -> rights.
        operations: (method, rule) -> what the route says of itself; may hold more than the access table.

    Raises:
        KeyError: A route has no operation.
    """
    paths: dict[str, dict[str, JsonValue]] = {}
    for method, rule in access:
        item = paths.setdefault(path_of(rule), {})
        item[method.lower()] = _operation((method, rule), access[method, rule], operations[method, rule])
    return {
        "openapi": OPENAPI_VERSION,
        "info": {
            "title": title,
            "version": polarise.__version__,
            "description": description,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "paths": dict(paths),
        "components": {
            "schemas": _schemas(operations[route] for route in access),
            "responses": _refused(refusals_of(access[route], operations[route]) for route in access),
            "examples": {str(code): {"value": _refusal_example(code)} for code in sorted(ErrorCode)},
            "securitySchemes": dict(_SECURITY),
        },
    }


def path_of(rule: str) -> str:
    """Return a rule of Flask's as OpenAPI writes it: ``/tile/<path:tile>`` is ``/tile/{tile}``."""
    return re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule)


def refusals_of(access: RouteAccess, operation: Operation) -> dict[int, tuple[ErrorCode, ...]]:
    """Return every code a route may refuse with, by its status: what is its own, and what any request can meet."""
    found: dict[int, set[ErrorCode]] = {status: set(codes) for status, codes in _ALWAYS.items()}

    def add(status: int, codes: Iterable[ErrorCode]) -> None:
        found.setdefault(status, set()).update(codes)

    if not access.is_public:
        add(401, _SIGNATURE_CODES if access.needs_signature else (*_SIGNATURE_CODES, *_TOKEN_CODES))
        add(403, [ErrorCode.NOT_PERMITTED])
    if operation.body is not None:
        add(400, _BODY_CODES)
        add(415, [ErrorCode.UNSUPPORTED_MEDIA_TYPE])
    if any(parameter.where == "query" for parameter in operation.parameters):
        add(400, [ErrorCode.INVALID_FIELD])
    for status, codes in operation.refusals.items():
        add(status, codes)
    return {status: tuple(sorted(codes)) for status, codes in sorted(found.items())}


def _operation(route: Route, access: RouteAccess, operation: Operation) -> dict[str, JsonValue]:
    method, rule = route
    made: dict[str, JsonValue] = {
        "operationId": re.sub(r"\W+", "_", f"{method.lower()}{path_of(rule)}").strip("_"),
        "summary": operation.summary,
    }
    if operation.description:
        made["description"] = operation.description
    if operation.parameters:
        made["parameters"] = [_parameter(parameter) for parameter in operation.parameters]
    if body := _body(operation):
        made["requestBody"] = body
    made["responses"] = _responses(access, operation)
    made["security"] = _security(access)
    made["x-roles"] = (
        "anybody" if access.is_public else {str(role): str(scope) for role, scope in access.scopes.items()}
    )
    return made


def _security(access: RouteAccess) -> list[JsonValue]:
    if access.is_public:
        return []
    return [dict(_SIGNED)] if access.needs_signature else [dict(_SIGNED), {"bearer": []}]


def _parameter(parameter: Parameter) -> dict[str, JsonValue]:
    return {
        "name": parameter.name,
        "in": parameter.where,
        "description": parameter.description,
        "required": parameter.is_required or parameter.where == "path",
        "schema": dict(parameter.schema),
    }


def _body(operation: Operation) -> dict[str, JsonValue] | None:
    if operation.text_body:
        content: dict[str, JsonValue] = {"text/plain": {"schema": {"type": "string"}}}
        return {"description": operation.text_body, "required": True, "content": content}
    if operation.body is None:
        return None
    media: dict[str, JsonValue] = {"schema": {"$ref": _MODELS + operation.body.__name__}}
    if operation.example is not None:
        media["example"] = dict(operation.example)
    is_required = any(info.is_required() for info in operation.body.model_fields.values())
    return {"required": is_required, "content": {JSON: media}}


def _responses(access: RouteAccess, operation: Operation) -> dict[str, JsonValue]:
    answers: dict[int, list[Answer]] = {}
    for answer in (operation.answer, *operation.other_answers):
        answers.setdefault(answer.status, []).append(answer)
    refusals = refusals_of(access, operation)
    return {
        str(status): _response(status, answers[status], refusals.get(status, ()))
        if status in answers
        else {"$ref": f"#/components/responses/{_refused_name(status, refusals[status])}"}
        for status in sorted({*answers, *refusals})
    }


def _refused_name(status: int, codes: tuple[ErrorCode, ...]) -> str:
    return "_".join([str(status), *codes])


def _response(status: int, answers: list[Answer], codes: tuple[ErrorCode, ...]) -> dict[str, JsonValue]:
    """Return one status: its answers, its refusals, or both under one media type."""
    content: dict[str, JsonValue] = {}
    headers = {name: text for answer in answers for name, text in answer.headers.items()}
    shapes: list[JsonValue] = []
    for answer in answers:
        if answer.media_type == JSON:
            shapes.append(_json_schema(answer))
        elif answer.media_type is not None:
            content[answer.media_type] = _media(answer)
    said = [answer.description for answer in answers]
    if codes:
        shapes.append({"$ref": f"{_MODELS}Refusal", "properties": {"code": {"enum": [str(code) for code in codes]}}})
        said.append(f"{_STATUS_TEXT[status]}: {', '.join(f'`{code}`' for code in codes)}")
        if status in _MAY_NAME_A_TIME:
            headers.setdefault("Retry-After", "Seconds after which the same request makes sense again")
    if shapes:
        media: dict[str, JsonValue] = {"schema": shapes[0] if len(shapes) == 1 else {"anyOf": shapes}}
        if codes:
            media["examples"] = {str(code): {"$ref": f"#/components/examples/{code}"} for code in codes}
        content = {JSON: media, **content}
    made: dict[str, JsonValue] = {"description": ". ".join(said)}
    if headers:
        made["headers"] = {
            name: {"description": text, "schema": {"type": "string"}} for name, text in sorted(headers.items())
        }
    if content:
        made["content"] = content
    return made


def _json_schema(answer: Answer) -> dict[str, JsonValue]:
    return {"type": "object"} if answer.model is None else {"$ref": _MODELS + answer.model.__name__}


def _media(answer: Answer) -> dict[str, JsonValue]:
    if answer.is_binary:
        return {}
    if not answer.events:
        return {"schema": {"type": "string"}}
    # OpenAPI 3.1 has no word for the items of a stream; what reads them takes the schema for that of one event.
    return {"schema": {"oneOf": [_event(name, model) for name, model in answer.events.items()]}}


def _event(name: str, model: type[BaseModel] | None) -> dict[str, JsonValue]:
    data: dict[str, JsonValue] = {"type": "string"}
    if model is not None:
        data |= {"contentMediaType": JSON, "contentSchema": {"$ref": _MODELS + model.__name__}}
    fields: dict[str, JsonValue] = {"event": {"const": name}, "data": data, "id": {"type": "string"}}
    return {"type": "object", "properties": fields, "required": ["event", "data"], "additionalProperties": False}


def _refused(found: Iterable[Mapping[int, tuple[ErrorCode, ...]]]) -> dict[str, JsonValue]:
    """Return the answers that are nothing but refusals, each once, by their names."""
    refused = {(status, codes) for refusals in found for status, codes in refusals.items()}
    return {_refused_name(status, codes): _response(status, [], codes) for status, codes in sorted(refused)}


def _refusal_example(code: ErrorCode) -> dict[str, JsonValue]:
    meaning = ERROR_CODES[code]
    return {"status": "failure", "code": str(code), "message": meaning.meaning, "hint": meaning.answer}


def _schemas(operations: Iterable[Operation]) -> dict[str, JsonValue]:
    models: set[type[BaseModel]] = {Refusal}
    for operation in operations:
        answers = (operation.answer, *operation.other_answers)
        found = [operation.body, *(answer.model for answer in answers)]
        found += [model for answer in answers for model in answer.events.values()]
        models.update(model for model in found if model is not None)
    in_order = sorted(models, key=lambda model: model.__name__)
    _, made = models_json_schema([(model, "validation") for model in in_order], ref_template=_MODELS + "{model}")
    definitions: dict[str, JsonValue] = made["$defs"]
    return {name: definitions[name] for name in sorted(definitions)}
