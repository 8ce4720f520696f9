"""The bytes of one HTTP/1.1 exchange: the request's head, a reader that keeps the deadline, a bounded body.

What sockets and `http.client` raise becomes `Unavailable` or `DeadlineExceeded` in one place, `border`.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from typing import cast

from polarise.deadline import Patience
from polarise.errors import AnswerInvalid, ConnectionLost, DeadlineExceeded, Unavailable

MAX_HEAD_BYTES = 64 * 1024
PIECE_BYTES = 64 * 1024


@contextlib.contextmanager
def border(name: str) -> Iterator[None]:
    """Turn what sockets and http.client raise into our errors; ``name`` says who it was about."""
    try:
        yield
    except TimeoutError as err:
        raise DeadlineExceeded(f"{name} did not answer in time") from err
    except ConnectionRefusedError as err:
        raise Unavailable(f"{name}: nothing listens there; is it running, and is the URL right?") from err
    except (ConnectionResetError, BrokenPipeError, http.client.IncompleteRead, ssl.SSLEOFError) as err:
        raise ConnectionLost(f"{name} broke off: {type(err).__name__}") from err
    except ssl.SSLError as err:
        raise Unavailable(f"{name}: no TLS 1.3 with it: {err.reason}; does it serve https there?") from err
    except (OSError, http.client.HTTPException, ValueError) as err:
        raise Unavailable(f"{name}: {type(err).__name__}: {str(err)[:200]!r}") from err


def request_head(method: str, target: str, authority: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """Return request line and headers; Host, Content-Length and Connection are ours.

    Raises:
        ValueError: Something would break out of its line.
    """
    if not re.fullmatch(r"[A-Z]+", method) or not re.fullmatch(r"/[\x21-\x7e]*", target):
        raise ValueError(f"{method[:20]!r} {target[:100]!r} is no request line")
    fields = {"Host": authority, **headers, "Content-Length": str(len(body)), "Connection": "close"}
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    if any("\r" in line or "\n" in line for line in lines):
        raise ValueError("a header holds a line break")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


class SocketReader(io.RawIOBase):
    """The receiving half of a socket, with the time left applied to every single read.

    Args:
        sock: Where the bytes come from.
        patience: Asked before each read.
        limit_bytes: Most that may still come; None for no bound.
        first: What was read already, to stamp it.
    """

    def __init__(self, sock: socket.socket, patience: Patience, limit_bytes: int | None, first: bytes = b"") -> None:
        self._sock = sock
        self.patience = patience
        self.limit_bytes = limit_bytes
        self._first = first

    def makefile(self, _mode: str) -> io.BufferedReader:
        """Stand in for a socket where `http.client.HTTPResponse` wants one."""
        return io.BufferedReader(self)

    def readable(self) -> bool:
        """Say yes; see `io.RawIOBase`."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # what BufferedReader passes
        """Receive once, within the time that is left."""
        if self._first:
            count = min(len(self._first), len(buffer))
            buffer[:count], self._first = self._first[:count], self._first[count:]
            return count
        self._sock.settimeout(self.patience.left_seconds())
        count = self._sock.recv_into(buffer)
        if self.limit_bytes is not None:
            self.limit_bytes -= count
            if self.limit_bytes < 0:
                raise Unavailable(f"the head of the answer is larger than {MAX_HEAD_BYTES} bytes")
        return count

    def hang_up(self) -> None:
        """Wake whoever is reading; the socket itself is closed by its owner."""
        with contextlib.suppress(OSError):
            # Not the method of a TLS socket: that one would go on reading without decrypting.
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)


def read_body(response: http.client.HTTPResponse, max_bytes: int) -> bytes:
    """Read the whole body.

    Raises:
        AnswerInvalid: It is larger than ``max_bytes``.
        ConnectionLost: It breaks off.
    """
    if response.length is not None and response.length > max_bytes:
        raise AnswerInvalid(f"the answer has {response.length} bytes, at most {max_bytes} are read")
    content = _read_chunks(response, max_bytes + 1) if response.chunked else response.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise AnswerInvalid(f"the answer is larger than {max_bytes} bytes")
    check_complete(response, is_at_end=True)
    return content


def parse_answer(raw: bytes, method: str, max_bytes: int) -> tuple[int, dict[str, str], bytes]:
    """Read one whole answer that somebody else received; the same rules as for one from a socket.

    Returns:
        Status (2xx, 4xx or 5xx), headers with names in lower case, body.

    Raises:
        AnswerInvalid: The body is larger than ``max_bytes``.
        Unavailable: It breaks off, redirects, or is no HTTP.
        http.client.HTTPException: Likewise; use it inside `border`.
    """
    response = http.client.HTTPResponse(cast(socket.socket, _Received(raw)), method=method)
    with contextlib.closing(response):
        response.begin()
        if response.status // 100 not in {2, 4, 5}:
            raise Unavailable(f"answered {response.status}; redirects are not followed")
        headers = {name.lower(): value for name, value in response.getheaders()}
        return response.status, headers, read_body(response, max_bytes)


class _Received:
    """Bytes that stand where `http.client.HTTPResponse` wants a socket."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._raw)


def read_piece(response: http.client.HTTPResponse, max_bytes: int) -> bytes:
    """Return the next piece of the body, b"" at its end.

    Raises:
        Unavailable: It breaks off, or a chunk has a negative size, which http.client takes for one without an end.
    """
    piece = response.read1(max_bytes)
    if response.chunked and (response.chunk_left or 0) < 0:
        raise Unavailable("a chunk of the answer has a negative size")
    check_complete(response, is_at_end=not piece)
    return piece


def _read_chunks(response: http.client.HTTPResponse, end_bytes: int) -> bytes:
    """Read chunks into one buffer: http.client keeps an object for each, and the peer says how small they are."""
    content = bytearray()
    while len(content) < end_bytes and (piece := read_piece(response, min(PIECE_BYTES, end_bytes - len(content)))):
        content += piece
    return bytes(content)


def check_complete(response: http.client.HTTPResponse, *, is_at_end: bool) -> None:
    """http.client does not complain when a bounded read meets the end of a connection too early."""
    if is_at_end and response.length:
        raise ConnectionLost(f"the answer broke off, {response.length} bytes are missing")
