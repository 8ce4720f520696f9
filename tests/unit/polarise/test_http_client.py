"""The HTTP client against real servers on loopback that misbehave in every way it promises to survive."""

from __future__ import annotations

import socket
import threading
import time
import tracemalloc

import pytest

from polarise.addresses import allowed_addresses, is_public, resolve
from polarise.deadline import Deadline
from polarise.errors import AddressRefused, DeadlineExceeded, Unavailable
from polarise.http_client import HttpClient
from tests.unit.polarise.small_miner import raw_server

OK_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"


def drip(connection: socket.socket, stop: threading.Event, data: bytes) -> None:
    """Send one byte every 20 ms: each single read succeeds, the whole never ends."""
    for index in range(len(data)):
        if stop.wait(0.02):
            return
        connection.sendall(data[index : index + 1])


def test_answer_and_stamps_are_in_order() -> None:
    def script(connection: socket.socket, stop: threading.Event) -> None:
        stop.wait(0.05)
        connection.sendall(OK_HEAD + b"Content-Length: 2\r\n\r\n")
        stop.wait(0.05)
        connection.sendall(b"ok")

    with raw_server(script) as url:
        before_ns = time.monotonic_ns()
        response = HttpClient(url).request("GET", "/", timeout_seconds=5)
    assert (response.status, response.body, response.headers["content-type"]) == (200, b"ok", "text/plain")
    assert before_ns <= response.sent_ns < response.first_byte_ns < response.last_byte_ns
    assert response.first_byte_ns - response.sent_ns >= 40_000_000
    assert response.last_byte_ns - response.first_byte_ns >= 40_000_000


@pytest.mark.parametrize("head", [b"", OK_HEAD + b"Content-Length: 1000\r\n\r\n", OK_HEAD + b"\r\n"])
def test_slow_drip_ends_at_the_deadline(head: bytes) -> None:
    """In the head, in a counted body and in an uncounted one."""

    def script(connection: socket.socket, stop: threading.Event) -> None:
        connection.sendall(head)
        drip(connection, stop, (OK_HEAD + b"\r\n" if not head else b"") + b"x" * 1000)

    with raw_server(script) as url:
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            HttpClient(url).request("GET", "/", timeout_seconds=0.2)
    assert time.monotonic() - started < 3


def test_silence_ends_at_the_deadline() -> None:
    def script(_: socket.socket, stop: threading.Event) -> None:
        stop.wait(5)

    with raw_server(script) as url, pytest.raises(DeadlineExceeded):
        HttpClient(url).request("GET", "/", timeout_seconds=0.1)


def test_body_of_exactly_the_bound_is_read_and_one_byte_more_is_not() -> None:
    sizes = iter([100, 101])

    def script(connection: socket.socket, _: threading.Event) -> None:
        connection.sendall(OK_HEAD + b"\r\n" + b"x" * next(sizes))

    with raw_server(script) as url:
        client = HttpClient(url)
        assert len(client.request("GET", "/", timeout_seconds=2, max_bytes=100).body) == 100
        with pytest.raises(Unavailable, match="larger than 100"):
            client.request("GET", "/", timeout_seconds=2, max_bytes=100)


def test_announced_oversize_is_refused_before_it_is_read() -> None:
    def script(connection: socket.socket, _: threading.Event) -> None:
        connection.sendall(OK_HEAD + b"Content-Length: 99999999999\r\n\r\n")

    with raw_server(script) as url, pytest.raises(Unavailable, match="at most"):
        HttpClient(url).request("GET", "/", timeout_seconds=2)


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\nContent-Length: 0\r\n\r\n", "redirects"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "answered 101"),
        (OK_HEAD + b"Content-Length: 10\r\n\r\nfive!", "5 bytes are missing"),
        (OK_HEAD + b"Transfer-Encoding: chunked\r\n\r\nff\r\nfive!", "IncompleteRead"),
        (OK_HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", "IncompleteRead|ValueError"),
        (b"", "without an answer"),
        (b"\x00\xff garbage\r\n\r\n", "BadStatusLine"),
        (b"HTTP/1.1 999999999999 OK\r\n\r\n", "BadStatusLine"),
        (OK_HEAD + b"X: y\r\n" * 200 + b"\r\n", "100 headers"),
        (OK_HEAD + b"X: " + b"y" * 70000 + b"\r\n\r\n", "LineTooLong|head of the answer"),
        (OK_HEAD + (b"X: " + b"y" * 6000 + b"\r\n") * 20, "head of the answer"),
    ],
)
def test_garbage_is_unavailable(answer: bytes, complaint: str) -> None:
    with (
        raw_server(lambda connection, _: connection.sendall(answer)) as url,
        pytest.raises(Unavailable, match=complaint),
    ):
        HttpClient(url).request("GET", "/", timeout_seconds=2)


def test_an_endless_series_of_continue_ends_at_the_deadline() -> None:
    def script(connection: socket.socket, stop: threading.Event) -> None:
        while not stop.wait(0.005):
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")

    with raw_server(script) as url, pytest.raises(DeadlineExceeded):
        HttpClient(url).request("GET", "/", timeout_seconds=0.2)


def test_nobody_listening_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(Unavailable, match="nothing listens there"):
        HttpClient(f"http://127.0.0.1:{port}").request("GET", "/", timeout_seconds=1)


def test_proxy_variables_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with raw_server(lambda connection, _: connection.sendall(OK_HEAD + b"Content-Length: 0\r\n\r\n")) as url:
        assert HttpClient(url).request("GET", "/", timeout_seconds=1).status == 200


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "[::1]", "0.0.0.0", "[::ffff:127.0.0.1]"])
def test_private_target_is_refused_before_a_connection(host: str) -> None:
    with pytest.raises(Unavailable, match=r"not a public address|looked up"):
        HttpClient(f"http://{host}:1", allow_private=False).request("GET", "/", timeout_seconds=1)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1", True),
        ("10.0.0.1", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("100.64.0.1", False),
        ("169.254.169.254", False),
        ("224.0.0.1", False),
        ("fe80::1%lo", False),
        ("fd00::1", False),
        ("::ffff:8.8.8.8", True),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
    ],
)
def test_public_addresses(address: str, public: bool) -> None:
    assert is_public(address) is public


def test_unknown_name_is_unavailable() -> None:
    with pytest.raises(Unavailable):
        resolve("no-such-host.invalid", 80, Deadline(2))


@pytest.mark.parametrize(
    "url",
    ["https://127.0.0.1", "ftp://h", "http://", "http://h/path", "http://u:p@h", "http://h:99999", "http://h\n", "h:1"],
)
def test_unusable_base_url_is_refused(url: str) -> None:
    with pytest.raises(Unavailable):
        HttpClient(url)


@pytest.mark.parametrize(("target", "header"), [("/a b", "x"), ("/a\r\nX: y", "x"), ("/", "x\r\nY: z"), ("a", "x")])
def test_nothing_breaks_out_of_the_request_head(target: str, header: str) -> None:
    with raw_server(lambda *_: None) as url, pytest.raises(Unavailable, match="ValueError"):
        HttpClient(url).request("GET", target, headers={"X": header}, timeout_seconds=1)


def test_stream_yields_pieces_as_they_come_and_ends() -> None:
    def script(connection: socket.socket, stop: threading.Event) -> None:
        connection.sendall(OK_HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        for piece in (b"one", b"two"):
            connection.sendall(b"3\r\n" + piece + b"\r\n")
            stop.wait(0.05)
        connection.sendall(b"0\r\n\r\n")

    with raw_server(script) as url, HttpClient(url).stream("/", timeout_seconds=2, idle_seconds=2) as stream:
        assert list(stream) == [b"one", b"two"]


def test_idle_stream_ends_with_deadline_exceeded() -> None:
    def script(connection: socket.socket, stop: threading.Event) -> None:
        connection.sendall(OK_HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
        stop.wait(5)

    with raw_server(script) as url:
        stream = HttpClient(url).stream("/", timeout_seconds=2, idle_seconds=0.1)
        assert next(stream) == b"one"
        with pytest.raises(DeadlineExceeded):
            next(stream)
        assert list(stream) == []


@pytest.mark.parametrize("head", [b"Content-Length: 10\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\na\r\n"])
def test_stream_that_breaks_off_is_unavailable(head: bytes) -> None:
    with raw_server(lambda connection, _: connection.sendall(OK_HEAD + head + b"five!")) as url:
        stream = HttpClient(url).stream("/", timeout_seconds=2, idle_seconds=1)
        with pytest.raises(Unavailable):
            list(stream)


def test_stream_closed_by_another_thread_just_ends() -> None:
    def script(connection: socket.socket, stop: threading.Event) -> None:
        connection.sendall(OK_HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
        stop.wait(5)

    with raw_server(script) as url:
        stream = HttpClient(url).stream("/", timeout_seconds=2, idle_seconds=5)
        assert next(stream) == b"one"
        closer = threading.Timer(0.05, stream.close)
        closer.start()
        assert list(stream) == []
        closer.join()


@pytest.mark.parametrize("size", [b"-1", b"-5"])
def test_a_chunk_of_negative_size_is_refused_before_anything_of_it_is_read(size: bytes) -> None:
    """http.client takes -1 for "up to the end of the connection" and would read without any bound."""

    def script(connection: socket.socket, stop: threading.Event) -> None:
        connection.sendall(OK_HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + size + b"\r\n")
        while not stop.is_set():
            connection.sendall(b"x" * 65536)

    with raw_server(script) as url:
        with pytest.raises(Unavailable, match="negative size"):
            HttpClient(url).request("GET", "/", timeout_seconds=5)
        with HttpClient(url).stream("/", timeout_seconds=5) as pieces, pytest.raises(Unavailable, match="negative"):
            list(pieces)


def test_small_chunks_take_no_more_memory_than_their_content() -> None:
    count = 100_000

    def script(connection: socket.socket, _: threading.Event) -> None:
        connection.sendall(OK_HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"2\r\nab\r\n" * count + b"0\r\n\r\n")

    with raw_server(script) as url:
        tracemalloc.start()
        try:
            body = HttpClient(url).request("GET", "/", timeout_seconds=30).body
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert body == b"ab" * count
    # The script's own copy of what it sends counts, too: seven bytes a chunk, twice.
    assert peak < 30 * count


def test_the_address_that_was_judged_is_the_one_that_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that says another address the second time (DNS rebinding) is asked once only."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def answer(host: str, *arguments: object, **named: object) -> object:
        asked.append(host)
        return real("127.0.0.1" if len(asked) == 1 else "127.0.0.2", *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    with raw_server(lambda connection, _: connection.sendall(OK_HEAD + b"Content-Length: 2\r\n\r\nhi")) as url:
        port = url.rpartition(":")[2]
        assert HttpClient(f"http://localhost:{port}").request("GET", "/", timeout_seconds=5).body == b"hi"
    assert asked == ["localhost"]


@pytest.mark.parametrize("second", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::ffff:127.0.0.1", "64:ff9b::7f00:1"])
def test_one_private_address_among_public_ones_refuses_the_name(monkeypatch: pytest.MonkeyPatch, second: str) -> None:
    """Whoever answers for a name could let us take the private one by refusing the other."""
    family = socket.AF_INET6 if ":" in second else socket.AF_INET
    found = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.216.34", 80)),
        (family, socket.SOCK_STREAM, 6, "", (second, 80)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_a, **_n: found)
    # The name is not on loopback, so plain HTTP is refused as well; what counts is that nothing is connected to.
    monkeypatch.setattr(socket.socket, "connect", lambda *_a: pytest.fail("connected"))
    with pytest.raises(Unavailable):
        HttpClient("http://miner.example", allow_private=False).request("GET", "/", timeout_seconds=5)
    with pytest.raises(AddressRefused, match="not a public address"):
        allowed_addresses("miner.example", 443, Deadline(5), allow_private=False)
