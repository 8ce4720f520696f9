"""The Flask side of every daemon: bodies bounded, callers authenticated, rights checked, errors in one shape.

Rules:
- Bodies arrive complete and bounded (`http_front`) and are decoded from raw bytes.
- A route exists only with an entry in the access table; authentication comes before decoding.
- A caller's requests are counted before a nonce is written for them; streams are bounded in number, per key, per address
  where there is no key, for all keys on no list together, and in their length.
- ``{status: "failure", code, message, hint, field?}`` is the only shape of an error; a defect says no more than
  INTERNAL and is logged with its traceback.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Protocol, TypeVar

from flask import Flask, Response, g, jsonify, request
from pydantic import BaseModel
from werkzeug.exceptions import HTTPException

from neurons.base.access import Caller, RoleTable, RouteAccess, admit
from neurons.base.audit_trail import Actor, AuditTrail
from neurons.base.http_front import DISCONNECTED
from neurons.base.nonces import NonceStore
from neurons.base.rate_limits import ADDRESS_KEY, RateLimits
from neurons.base.tokens import TokenIssuer
from polarise.decode import WireModel, decode_model
from polarise.errors import ErrorCode, RequestRejected, Unavailable
from polarise.generations import Generations
from polarise.http_signatures import CERTIFICATE_HEADER, VerifiedRequest, verify_request
from polarise.node_messages import Refusal
from polarise.signing import KeyReplaced, Purpose
from utils.clock import Clock, utc_now

logger = logging.getLogger(__name__)

ModelT = TypeVar("ModelT", bound=BaseModel)
AccessTable = Mapping[tuple[str, str], RouteAccess]
STREAMS_PER_KEY_MAX = 2
STREAM_SECONDS_MAX = 21_600
_REFUSED_FOR_RIGHTS = frozenset({401, 403, 429})


class ChunkSource(Protocol):
    """What a stream is read from."""

    def next_chunk(self) -> bytes | None:
        """Return the next piece, b"" when there is none yet, None at the end; waits a second at most."""

    def close(self) -> None:
        """Give everything back."""


class Gatekeeper:
    """Authenticates a request and says what the caller may do on its route.

    Args:
        node_key: This node's public key: the audience a signed request must name.
        roles: Public key -> role.
        table: (method, rule) -> rights.
        nonces: Spent nonces.
        tokens: Bearer tokens.
        clock: Wall clock for the 30 s window.
        limits: Counts requests per key, and failures per address; none are counted when it is left out.
        generations: Which subkeys of callers were replaced; a node without a ledger knows of none.
    """

    def __init__(
        self,
        node_key: str,
        roles: RoleTable,
        table: AccessTable,
        nonces: NonceStore,
        tokens: TokenIssuer,
        clock: Clock,
        limits: RateLimits | None = None,
        generations: Generations | None = None,
    ) -> None:
        self._node_key = node_key
        self._roles = roles
        self._table = table
        self._nonces = nonces
        self._tokens = tokens
        self._clock = clock
        self._limits = limits
        self._generations = generations or Generations()

    def check_listed(self, method: str, rule: str) -> RouteAccess:
        """Return a route's row of the table, or raise `RuntimeError`: our own bug, said before the port opens."""
        if (method, rule) not in self._table:
            raise RuntimeError(f"{method} {rule} has no row in the access table")
        return self._table[(method, rule)]

    def admit(self, method: str, rule: str, body: bytes) -> Caller | None:
        """Return the caller of the current request, None on a public route.

        Raises:
            RequestRejected: 401 when it is nobody we can name, 403 when the role has no right on the route, 429 when the
                caller asks too often.
        """
        access = self._table[(method, rule)]
        if access.is_public:
            return None
        if self._limits is None:
            return self._identified(body, access)
        limits, address = self._limits, caller_address()
        limits.check_failures(address)
        try:
            caller = self._identified(body, access)
        except RequestRejected as err:
            is_known = err.code is ErrorCode.NOT_PERMITTED and g.get("actor") is not None
            if err.code is not ErrorCode.TOO_MANY_REQUESTS and not is_known:
                limits.failed(address)
            raise
        limits.authenticated(address, caller.key, is_listed=caller.is_listed, is_costly=access.is_costly)
        return caller

    def _check_generation(self, key: str, counter: int, field: str) -> None:
        try:
            self._generations.check(key, Purpose.REQUEST, counter)
        except KeyReplaced as err:
            raise RequestRejected(
                ErrorCode.KEY_REFUSED,
                str(err),
                hint="sign with the newest subkey; a token is lost with the subkey it was given to: get a new one",
                field=field,
                status=401,
            ) from err

    def _identified(self, body: bytes, access: RouteAccess) -> Caller:
        caller, verified = self._verified(body, access)
        if self._limits is not None:
            self._limits.check_key(caller_address(), caller.key, is_listed=caller.is_listed, is_costly=access.is_costly)
        if verified is not None:
            # Last, because it is a durable write: who may not come in must not cost us one.
            self._nonces.spend(verified, int(utc_now(self._clock).timestamp()))
        return caller

    def _verified(self, body: bytes, access: RouteAccess) -> tuple[Caller, VerifiedRequest | None]:
        """Return the caller, and its signed request, whose nonce is still to be spent."""
        bearer = request.headers.get("Authorization", "")
        if not bearer.startswith("Bearer "):
            now = utc_now(self._clock)
            headers = {name.lower(): value for name, value in request.headers.items()}
            verified = verify_request(request.method, _url_as_sent(), headers, body, audience=self._node_key, now=now)
            self._check_generation(verified.caller, verified.counter, CERTIFICATE_HEADER)
            return replace(self._admitted(verified.caller, access), counter=verified.counter), verified
        if access.needs_signature:
            raise RequestRejected(
                ErrorCode.NOT_AUTHENTICATED,
                "this route takes signed requests only, not a bearer token",
                hint="sign the request (RFC 9421)",
                field="Authorization",
                status=401,
            )
        token = self._tokens.check(bearer.removeprefix("Bearer ").strip())
        self._check_generation(token.key, token.counter, "Authorization")
        return replace(self._admitted(token.key, access), consent=token.consent, counter=token.counter), None

    def _admitted(self, key: str, access: RouteAccess) -> Caller:
        role, is_listed = self._roles.role_of(key), self._roles.is_listed(key)
        if is_listed:
            # For the audit log; a key on no list is nobody there, however well it signs.
            g.actor = Actor(key, str(role))
        return replace(admit(key, role, access), is_listed=is_listed)


class HttpApp:
    """A Flask application whose routes receive the caller and the raw body.

    Args:
        name: For Flask.
        gatekeeper: Says who calls.
        streams_max: Streams open at once; of these, keys on no list have half, and so has one address without a key.
        streams_per_key_max: Of these, one caller's.
        stream_seconds_max: A stream ends after this; its reader comes again.
        audit: Is told who changed what, and who was refused.
    """

    def __init__(
        self,
        name: str,
        gatekeeper: Gatekeeper,
        *,
        streams_max: int,
        streams_per_key_max: int = STREAMS_PER_KEY_MAX,
        stream_seconds_max: float = STREAM_SECONDS_MAX,
        audit: AuditTrail | None = None,
    ) -> None:
        self.flask = Flask(name, static_folder=None)
        # Else a path with "//" in it is redirected by an HTML page, past the error handler.
        self.flask.url_map.merge_slashes = False
        self._gatekeeper = gatekeeper
        self._audit = audit
        self._streams_half = max(1, streams_max // 2)
        self._streams_per_key_max = streams_per_key_max
        self._stream_seconds_max = stream_seconds_max
        self._streams = _Places(streams_max)
        self.flask.register_error_handler(Exception, self._answer_error)

    def route(self, method: str, rule: str, view: Callable[..., WireModel | Response]) -> None:
        """Register one route; ``view(caller, body, **path_variables)`` returns a model or a response.

        Raises:
            RuntimeError: It has no row in the access table.
        """
        access = self._gatekeeper.check_listed(method, rule)

        def handle(**path_variables: str) -> Response:
            g.access = access
            body = request.get_data(cache=False)
            caller = self._gatekeeper.admit(method, rule, body)
            g.caller = caller
            answer = view(caller, body, **path_variables)
            if self._audit is not None and caller is not None and access.is_audited:
                target = next(iter(path_variables.values()), getattr(answer, "container_id", None))
                actor = Actor(caller.key, str(caller.role))
                self._audit.did(actor, f"{method} {rule}", target, is_listed=caller.is_listed)
            return jsonify(answer.to_wire()) if isinstance(answer, WireModel) else answer

        self.flask.add_url_rule(
            rule, endpoint=f"{method} {rule}", view_func=handle, methods=[method], provide_automatic_options=False
        )

    def stream(self, open_source: Callable[[threading.Event], ChunkSource], mimetype: str) -> Response:
        """Answer with a stream, while there is a place for it.

        Args:
            open_source: Given the event that is set when the caller has gone, opens what is streamed.
            mimetype: Content type of the stream.

        Raises:
            RequestRejected: TOO_MANY_REQUESTS (429), this caller, or all of its kind, have as many open as they may.
            Unavailable: Too many streams are open.
        """
        leave = self._streams.take(self._shares(g.caller))
        try:
            gone: threading.Event = request.environ["asgi.scope"][DISCONNECTED]
            source = open_source(gone)
        except BaseException:
            leave()
            raise
        response = Response(_pump(source, gone, time.monotonic() + self._stream_seconds_max), mimetype=mimetype)
        response.call_on_close(leave)
        response.call_on_close(source.close)
        return response

    def _answer_error(self, error: Exception) -> Response:
        response = _answer_error(error)
        access: RouteAccess | None = g.get("access")
        if self._audit is None or access is None:
            return response
        if response.status_code in _REFUSED_FOR_RIGHTS or access.is_audited:
            code = error.code if isinstance(error, RequestRejected | Unavailable) else ErrorCode.INTERNAL
            action = f"{request.method} {request.url_rule}"
            self._audit.refused(g.get("actor") or Actor(), action, str(code), caller_address())
        return response

    def _shares(self, caller: Caller | None) -> dict[str, int]:
        """Return whom a stream of this caller counts for, and how many each may have."""
        if caller is None:
            address = caller_address()
            return {} if address is None else {address: self._streams_half}
        shares = {f"the key {caller.key}": self._streams_per_key_max}
        return shares if caller.is_listed else {**shares, "keys on no list": self._streams_half}


class _Places:
    """How many streams are open, and whose."""

    def __init__(self, count_max: int) -> None:
        self._count_max = count_max
        self._count = 0
        self._taken: Counter[str] = Counter()
        self._lock = threading.Lock()

    def take(self, shares: Mapping[str, int]) -> Callable[[], None]:
        """Take one and return what gives it back; fails as `HttpApp.stream`.

        Args:
            shares: Whom it counts for, and how many each of them may have.
        """
        with self._lock:
            for name, most in shares.items():
                if self._taken[name] >= most:
                    raise RequestRejected(
                        ErrorCode.TOO_MANY_REQUESTS,
                        f"{name[:80]} has {most} streams open here, which is the most it may",
                        hint="close one of them",
                        status=429,
                    )
            if self._count >= self._count_max:
                raise Unavailable("too many streams are open on this node", retry_after_seconds=5)
            self._count += 1
            self._taken.update(shares.keys())
        return functools.partial(self._leave, tuple(shares))

    def _leave(self, names: tuple[str, ...]) -> None:
        with self._lock:
            self._count -= 1
            self._taken.subtract(names)
            self._taken += Counter()


def decode_body(model: type[ModelT], body: bytes) -> ModelT:
    """Decode the current request's body; JSON is the only content type.

    Raises:
        RequestRejected: As `polarise.decode.decode_model`, or UNSUPPORTED_MEDIA_TYPE (415).
    """
    if body and request.mimetype not in {"application/json", ""}:
        raise RequestRejected(
            ErrorCode.UNSUPPORTED_MEDIA_TYPE,
            f"the content type {request.mimetype!r} is not read here",
            hint="send Content-Type: application/json",
            field="Content-Type",
            status=415,
        )
    return decode_model(model, body)


def caller_address() -> str | None:
    """Return the name of the bucket that the current request's address has; None where it names nobody."""
    address: str | None = request.environ["asgi.scope"].get(ADDRESS_KEY)
    return address


def _url_as_sent() -> str:
    """Return the URL the caller signed; Flask's own ``request.url`` is decoded and no longer the bytes on the wire."""
    scope = request.environ["asgi.scope"]
    query = scope["query_string"].decode("ascii")
    path = scope["raw_path"].decode("ascii")
    return f"{request.scheme}://{request.headers.get('Host', '')}{path}" + (f"?{query}" if query else "")


def _pump(source: ChunkSource, gone: threading.Event, end: float) -> Iterator[bytes]:
    while not gone.is_set() and time.monotonic() < end and (chunk := source.next_chunk()) is not None:
        # An empty piece means "nothing yet"; it is our chance to look at ``gone`` again.
        if chunk:
            yield chunk


def _answer_error(error: Exception) -> Response:
    if isinstance(error, RequestRejected):
        response = _failure(error.code, error.message, error.hint, error.status, field=error.field)
        if error.retry_after_seconds is not None:
            response.headers["Retry-After"] = str(error.retry_after_seconds)
        return response
    if isinstance(error, Unavailable):
        response = _failure(error.code, error.message, "try again later", 503)
        response.headers["Retry-After"] = str(error.retry_after_seconds)
        logger.warning("unavailable", extra={"path": request.path, "cause": error.message})
        return response
    if isinstance(error, HTTPException):
        return _answer_http_exception(error)
    logger.error("request failed", exc_info=error, extra={"method": request.method, "path": request.path})
    return _failure(ErrorCode.INTERNAL, "this node has a defect; it was logged", "tell the node's owner", 500)


def _answer_http_exception(error: HTTPException) -> Response:
    status = error.code or 500
    if status == 405:
        response = _failure(
            ErrorCode.METHOD_NOT_ALLOWED, f"{request.method} is not served here", "see GET /openapi", 405
        )
        response.headers["Allow"] = ", ".join(sorted(getattr(error, "valid_methods", None) or ()))
        return response
    if status == 404:
        return _failure(ErrorCode.NOT_FOUND, f"there is no {request.path[:100]}", "see GET /openapi", 404)
    return _failure(ErrorCode.BAD_JSON, error.description or error.name, "see docs/api.md", status)


def _failure(code: ErrorCode, message: str, hint: str, status: int, *, field: str | None = None) -> Response:
    refusal = Refusal(code=code, message=message, hint=hint, field=field).to_wire()
    response = jsonify({name: value for name, value in refusal.items() if value is not None})
    response.status_code = status
    return response
