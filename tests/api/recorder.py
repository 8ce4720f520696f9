"""What our own clients send and get, held against the OpenAPI document of the daemon they speak with.

Rules:
- A request has a route in the document, only parameters that stand there with values they may have, a body of the announced
  model, and a signature where the route wants one.
- An answer has an announced status and content type, and a body of the announced shape.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote

import jsonschema_rs

from polarise.http_client import ByteStream, HttpClient, Response

SIGNATURE_HEADERS = {"signature", "signature-input", "content-digest", "polarise-audience", "polarise-certificate"}
TRANSPORT_HEADERS = {"user-agent", "content-type"}


@dataclass(frozen=True)
class Recorded:
    """One exchange; no status where somebody else sends the bytes, no body of a stream."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    status: int | None = None
    content_type: str = ""
    answer: bytes | None = None


@dataclass
class RecordingHttp:
    """A client's way to the network, with a memory.

    Attributes:
        http: What really sends.
        seen: Every exchange.
    """

    http: HttpClient
    seen: list[Recorded] = field(default_factory=list)

    def request(self, method: str, target: str, **options: Any) -> Response:  # noqa: ANN401  as they were given
        """Send, and remember."""
        response = self.http.request(method, target, **options)
        sent = (method, target, options.get("headers") or {}, options.get("body", b""))
        content_type = response.headers.get("content-type", "")
        self.seen.append(Recorded(*sent, response.status, content_type, response.body))
        return response

    def stream(self, target: str, **options: Any) -> ByteStream:  # noqa: ANN401  as they were given
        """Open a stream, and remember its head."""
        stream = self.http.stream(target, **options)
        content_type = stream.headers.get("content-type", "")
        self.seen.append(Recorded("GET", target, options.get("headers") or {}, b"", stream.status, content_type))
        return stream

    def wire(self, method: str, target: str, **options: Any) -> bytes:  # noqa: ANN401  as they were given
        """Make the bytes of a request, and remember them."""
        self.seen.append(Recorded(method, target, options.get("headers") or {}, options.get("body", b"")))
        return self.http.wire(method, target, **options)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  whatever it is
        """Everything else goes to what really sends."""
        return getattr(self.http, name)


class DocumentCheck:
    """Holds exchanges against one document."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document

    def check(self, exchange: Recorded) -> None:
        """Raise `AssertionError` or `jsonschema_rs.ValidationError` for what the document does not announce."""
        path, _, query = exchange.target.partition("?")
        operation, variables = self._operation(exchange.method, path)
        sent = {name.lower(): value for name, value in exchange.headers.items()}
        given = {
            "path": variables,
            "query": dict(parse_qsl(query, keep_blank_values=True)),
            "header": {
                name: value for name, value in sent.items() if name not in SIGNATURE_HEADERS | TRANSPORT_HEADERS
            },
        }
        self._check_parameters(operation.get("parameters", []), given)
        assert not operation["security"] or sent.keys() >= SIGNATURE_HEADERS, exchange
        if exchange.body:
            media = operation["requestBody"]["content"][sent["content-type"]]
            self._validate(media["schema"], json.loads(exchange.body))
        else:
            assert not operation.get("requestBody", {}).get("required"), exchange
        if exchange.status is not None:
            self._check_answer(operation, exchange)

    def _operation(self, method: str, path: str) -> tuple[dict[str, Any], dict[str, str]]:
        for template, item in sorted(self._document["paths"].items(), key=lambda entry: entry[0].count("{")):
            pattern = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(template))
            if (found := re.fullmatch(pattern, path)) and method.lower() in item:
                return item[method.lower()], {name: unquote(value) for name, value in found.groupdict().items()}
        raise AssertionError(f"the document has no {method} {path}")

    def _check_parameters(self, known: list[dict[str, Any]], given: Mapping[str, Mapping[str, str]]) -> None:
        for where, values in given.items():
            parameters = {self._name(entry): entry for entry in known if entry["in"] == where}
            assert values.keys() <= parameters.keys(), (where, values)
            required = {name for name, entry in parameters.items() if entry["required"]}
            assert required <= values.keys(), (where, values)
            for name, text in values.items():
                schema = parameters[name]["schema"]
                self._validate(schema, int(text) if schema["type"] == "integer" else text)

    @staticmethod
    def _name(parameter: dict[str, Any]) -> str:
        return str(parameter["name"]).lower() if parameter["in"] == "header" else str(parameter["name"])

    def _check_answer(self, operation: dict[str, Any], exchange: Recorded) -> None:
        response = self._resolved(operation["responses"][str(exchange.status)])
        known = {name.replace(" ", ""): media for name, media in response["content"].items()}
        # Flask names the character set of a text; the document of most routes does not.
        named = exchange.content_type.replace(" ", "")
        media = known.get(named) or known[named.partition(";")[0]]
        if exchange.answer is not None and named.startswith("application/json"):
            self._validate(media["schema"], json.loads(exchange.answer))

    def _resolved(self, entry: dict[str, Any]) -> dict[str, Any]:
        if "$ref" not in entry:
            return entry
        resolved: dict[str, Any] = self._document["components"]["responses"][entry["$ref"].rpartition("/")[2]]
        return resolved

    def _validate(self, schema: dict[str, Any], value: object) -> None:
        whole = {"allOf": [schema], "components": self._document["components"]}
        jsonschema_rs.Draft202012Validator(whole).validate(value)
