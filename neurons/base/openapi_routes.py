"""The document of a daemon over HTTP: as JSON for programs, as a page for people.

Rules:
- Both are made once, when somebody first asks.
- The page is rendered here: it loads nothing, runs no script, and a browser is told so.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from flask import Response
from jinja2 import Environment, FileSystemLoader

from neurons.base.access import Caller
from neurons.base.http_app import HttpApp
from polarise.canonical import JsonValue

Document = Mapping[str, JsonValue]
TEMPLATE = "openapi_page.html"
STYLE = "openapi_page.css"
FOLDER = Path(__file__).parent


class OpenApiRoutes:
    """Both routes of one daemon.

    Args:
        make: Makes the document.
    """

    def __init__(self, make: Callable[[], Document]) -> None:
        self._make = make
        self._page = DocumentPage()
        self._lock = threading.Lock()

    def register(self, app: HttpApp) -> None:
        """Add the routes to the application."""
        app.route("GET", "/openapi", self.document)
        app.route("GET", "/openapi/page", self.page)

    def document(self, _caller: Caller | None, _body: bytes) -> Response:
        """Return the document."""
        with self._lock:
            return Response(self._json, mimetype="application/json")

    def page(self, _caller: Caller | None, _body: bytes) -> Response:
        """Return the page."""
        with self._lock:
            response = Response(self._html, mimetype="text/html")
        response.headers["Content-Security-Policy"] = self._page.policy
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        return response

    @cached_property
    def _document(self) -> Document:
        return self._make()

    @cached_property
    def _json(self) -> str:
        return document_text(self._document)

    @cached_property
    def _html(self) -> str:
        return self._page.render(self._document)


def document_text(document: Document) -> str:
    """Return a document as the file under openapi/ has it."""
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


class DocumentPage:
    """Makes the page. Template and style are read here: an upgrade under a running daemon changes neither."""

    def __init__(self) -> None:
        environment = Environment(
            autoescape=True, trim_blocks=True, lstrip_blocks=True, loader=FileSystemLoader(FOLDER), auto_reload=False
        )
        environment.filters["json"] = lambda value: json.dumps(value, indent=2, ensure_ascii=False)
        environment.filters["shape"] = _shape
        self._template = environment.get_template(TEMPLATE)
        self._style = (FOLDER / STYLE).read_text(encoding="utf-8")

    @property
    def policy(self) -> str:
        """Its Content-Security-Policy: nothing but its own style, by that style's hash."""
        digest = base64.b64encode(hashlib.sha256(self._style.encode()).digest()).decode()
        return (
            f"default-src 'none'; style-src 'sha256-{digest}'; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )

    def render(self, document: Document) -> str:
        """Return the page of a document."""
        components: Any = document["components"]

        def answer(entry: Mapping[str, str]) -> Mapping[str, str]:
            named: Mapping[str, Mapping[str, str]] = components["responses"]
            return named[entry["$ref"].rpartition("/")[2]] if "$ref" in entry else entry

        return self._template.render(document=document, style=self._style, answer=answer)


def _shape(schema: Mapping[str, Any]) -> str:
    """Return the name of the model that a schema points at, or what it says itself."""
    for word in ("anyOf", "oneOf"):
        if word in schema:
            return " or ".join(_shape(part) for part in schema[word])
    if "event" in schema.get("properties", {}):
        return f"event {schema['properties']['event']['const']}"
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    rest = [f"{name} {value}" for name, value in schema.items() if name not in {"type", "title", "description"}]
    return ", ".join([str(schema.get("type", "any")), *rest])
