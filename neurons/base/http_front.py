"""What stands before the WSGI threads: whole bodies only, within bounds of size and time, and word of who has gone.

Rules:
- A body is collected here, on the event loop; a caller that sends slowly holds a few kilobytes and no thread.
- Too large is answered 413, too slow 408, without a length 411, each in the one error shape. What is refused is still
  read for a while, so that the caller sees the answer instead of a reset connection.
- A whole request is counted for its address (`rate_limits`) before it takes a thread; one too many is answered 429.
- After the body, the end of the connection or of the server sets ``DISCONNECTED``, which a streaming response asks.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from neurons.base.rate_limits import ADDRESS_KEY, RateLimits
from polarise.errors import ErrorCode, RequestRejected

DISCONNECTED = "polarise.disconnected"
DRAIN_BYTES = 16 * 1024 * 1024

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


class HttpFront:
    """ASGI application that hands complete requests to another one.

    Args:
        application: Gets the request when its body is there.
        max_body_bytes: Largest body.
        body_seconds: A body must be complete after this.
        limits: Counts requests per address.
    """

    def __init__(
        self, application: Application, *, max_body_bytes: int, body_seconds: float, limits: RateLimits | None = None
    ) -> None:
        self._application = application
        self._limits = limits
        self._max_body_bytes = max_body_bytes
        self._body_seconds = body_seconds
        self._is_ending = False
        self._open: set[threading.Event] = set()

    def end_streams(self) -> None:
        """Tell every streaming response that its reader has gone: the server is about to stop."""
        self._is_ending = True
        for gone in tuple(self._open):
            gone.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request (ASGI 3)."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        try:
            body = await asyncio.wait_for(self._read_body(scope, receive), self._body_seconds)
            self._count(scope)
        except TimeoutError:
            await _refuse(send, _too_slow(self._body_seconds))
        except RequestRejected as err:
            await _refuse(send, err)
        except ConnectionError:
            return
        else:
            await self._hand_over(scope, body, receive, send)

    async def _read_body(self, scope: Scope, receive: Receive) -> bytes:
        headers = {bytes(name).lower(): bytes(value) for name, value in scope["headers"]}
        if b"transfer-encoding" in headers:
            raise RequestRejected(
                ErrorCode.LENGTH_REQUIRED, "a chunked body has no length", hint="send Content-Length", status=411
            )
        length = int(headers.get(b"content-length", b"0"))
        if length > self._max_body_bytes:
            await _drain(receive, min(length, DRAIN_BYTES))
            raise _too_large(length, self._max_body_bytes)
        pieces: list[bytes] = []
        is_complete = length == 0
        while not is_complete:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ConnectionError
            pieces.append(message.get("body", b""))
            is_complete = not message.get("more_body", False)
        return b"".join(pieces)

    def _count(self, scope: Scope) -> None:
        if self._limits is None:
            return
        peer = scope.get("client")
        forwarded = [bytes(value).decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-for"]
        address = self._limits.address_of(peer[0] if peer else None, ",".join(forwarded))
        scope[ADDRESS_KEY] = address
        self._limits.arrived(address)

    async def _hand_over(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        gone = threading.Event()
        scope[DISCONNECTED] = gone
        self._open.add(gone)
        if self._is_ending:
            gone.set()
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive_body() -> Message:
            return messages.pop() if messages else {"type": "http.disconnect"}

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            gone.set()

        watcher = asyncio.ensure_future(watch())
        try:
            await self._application(scope, receive_body, send)
        finally:
            gone.set()
            self._open.discard(gone)
            watcher.cancel()


async def _drain(receive: Receive, size: int) -> None:
    while size > 0:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError
        size -= len(message.get("body", b""))
        if not message.get("more_body", False):
            return


async def _refuse(send: Send, err: RequestRejected) -> None:
    body = json.dumps({"status": "failure", "code": err.code, "message": err.message, "hint": err.hint}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    if err.retry_after_seconds is not None:
        headers.append((b"retry-after", str(err.retry_after_seconds).encode()))
    await send({"type": "http.response.start", "status": err.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _too_large(length: int, most: int) -> RequestRejected:
    return RequestRejected(
        ErrorCode.BODY_TOO_LARGE,
        f"the body has {length} bytes, at most {most} are read",
        hint="send a smaller request",
        status=413,
    )


def _too_slow(seconds: float) -> RequestRejected:
    return RequestRejected(
        ErrorCode.BODY_TOO_SLOW, f"the body was not complete after {seconds:g} s", hint="send it faster", status=408
    )
