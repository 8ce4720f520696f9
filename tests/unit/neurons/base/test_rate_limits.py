"""How often anybody may ask: buckets by a clock that tests move, and the whole way over real sockets."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Response

from neurons.base.access import Caller, Role, RoleTable, RouteAccess, Scope
from neurons.base.http_app import ChunkSource, Gatekeeper, HttpApp
from neurons.base.http_server import GRACE_SECONDS, HttpService
from neurons.base.nonces import NonceStore
from neurons.base.rate_limits import Rate, RateLimits, Rates, TokenBuckets
from neurons.base.service import Supervisor
from neurons.base.tokens import TokenIssuer, TokenSecret
from polarise.errors import ErrorCode, RequestRejected
from polarise.http_signatures import sign_request
from polarise.messages import SuccessAnswer
from polarise.signing import Identity
from tests.support.clock import ManualClock
from tests.support.http import Answer, send, signed
from tests.support.identities import identity
from tests.support.miners import wait_until

NODE_KEY = "ab" * 32
RENTER, STRANGER = identity("renter"), identity("stranger")
LISTED = {Role.RENTER: Scope.OWN}
TABLE = {
    ("GET", "/public"): RouteAccess(is_public=True),
    ("GET", "/own"): RouteAccess(LISTED),
    ("POST", "/costly"): RouteAccess(LISTED, is_costly=True),
    ("GET", "/owners"): RouteAccess({Role.OWNER: Scope.ANY}),
    ("GET", "/large"): RouteAccess(is_public=True),
    ("GET", "/public-stream"): RouteAccess(is_public=True),
}
RATES = Rates(anonymous=Rate(0.001, 4), failed=Rate(0.001, 2), key=Rate(0.001, 5), costly=Rate(0.001, 2))
LARGE = b"x" * (8 << 20)


def buckets(clock: ManualClock, rate: Rate | None = None, rows_max: int = 4) -> TokenBuckets:
    return TokenBuckets(rate or Rate(2, 3), clock.monotonic_ns, rows_max=rows_max)


def test_nodes_that_a_ledger_never_saw_count_for_their_address_and_nobody_elses() -> None:
    limits = RateLimits(RATES, ManualClock().monotonic_ns)
    for address in ("203.0.113.7", "203.0.113.7", None, None, None, "203.0.113.8"):
        limits.newcomer(address)
    with pytest.raises(RequestRejected, match=r"new nodes from 203\.0\.113\.7") as caught:
        limits.newcomer("203.0.113.7")
    assert caught.value.status == 429


def test_bucket_gives_its_burst_and_then_its_rate() -> None:
    clock = ManualClock()
    bucket = buckets(clock)
    assert [bucket.take("a") for _ in range(4)] == [None, None, None, 1]
    clock.advance(0.499)
    assert bucket.take("a") == 1
    clock.advance(0.001)
    assert bucket.take("a") is None
    clock.advance(1000)
    assert [bucket.take("a") for _ in range(4)] == [None, None, None, 1]


def test_wait_is_named_in_whole_seconds_and_holds() -> None:
    clock = ManualClock()
    bucket = buckets(clock, Rate(1 / 60, 1))
    assert bucket.take("a") is None
    assert bucket.take("a") == bucket.wait_seconds("a") == 60
    clock.advance(60)
    assert bucket.wait_seconds("a") is None


def test_what_is_given_back_can_be_taken_again_and_no_more() -> None:
    bucket = buckets(ManualClock())
    bucket.give_back("a")
    assert [bucket.take("a") for _ in range(3)] == [None, None, None]
    bucket.give_back("a")
    assert [bucket.take("a") for _ in range(2)] == [None, 1]


def test_buckets_of_others_are_untouched() -> None:
    bucket = buckets(ManualClock())
    assert [bucket.take("a") for _ in range(4)][-1] == 1
    assert bucket.take("b") is None


def test_table_never_grows_beyond_its_bound_and_forgets_the_oldest() -> None:
    bucket = buckets(ManualClock())
    for _ in range(4):
        bucket.take("first")
    for number in range(3):
        bucket.take(str(number))
    assert bucket.take("first") == 1, "it was asked for, but three came since"
    bucket.take("3")
    assert len(bucket) == 4
    for number in range(100_000):
        bucket.take(f"address {number}")
    assert len(bucket) == 4


@pytest.mark.parametrize(
    ("peer", "forwarded", "name"),
    [
        ("203.0.113.9", None, "203.0.113.9"),
        ("203.0.113.9", "198.51.100.1", "203.0.113.9"),  # nobody named it a proxy
        ("::ffff:203.0.113.9", None, "203.0.113.9"),
        ("2001:db8:1:2:3:4:5:6", None, "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", None, "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", None, "2001:db8:1:3::/64"),
        ("127.0.0.1", None, None),
        ("127.0.0.1", "198.51.100.1", None),
        ("::1", None, None),
        (None, None, None),
        ("no address", None, None),
        ("10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "1.1.1.1, 198.51.100.1", "198.51.100.1"),  # what the caller wrote in front counts for nothing
        ("10.0.0.1", "1.1.1.1, 198.51.100.1, 10.0.0.2", "198.51.100.1"),
        ("10.0.0.1", "198.51.100.1,2001:db8::7", "2001:db8::/64"),
        ("10.0.0.1", None, None),
        ("10.0.0.1", "unknown", None),
        ("10.0.0.1", "127.0.0.1", None),
    ],
)
def test_address_is_the_callers_own_word_in_no_case(peer: str | None, forwarded: str | None, name: str | None) -> None:
    limits = RateLimits(Rates(), ManualClock().monotonic_ns, trusted_proxies=("10.0.0.1", "10.0.0.2"))
    assert limits.address_of(peer, forwarded) == name


def test_addresses_without_a_name_are_not_counted() -> None:
    limits = RateLimits(RATES, ManualClock().monotonic_ns)
    for _ in range(100):
        limits.arrived(None)
        limits.failed(None)
        limits.check_failures(None)


class Silent:
    """A stream that never says anything."""

    def next_chunk(self) -> bytes | None:
        threading.Event().wait(0.02)
        return b""

    def close(self) -> None:
        """Nothing is held."""


def _open_silent(_gone: threading.Event) -> ChunkSource:
    return Silent()


class Site:
    """A small application on the real server, behind a proxy on loopback that it trusts."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock()
        self.nonces = NonceStore(folder / "nonces.sqlite")
        self.tokens = TokenIssuer([TokenSecret("s" * 32)], 60, NODE_KEY)
        limits = RateLimits(RATES, self.clock.monotonic_ns, trusted_proxies=("127.0.0.1",))
        roles = RoleTable(None, renters=[RENTER.public_key], is_open=True)
        gatekeeper = Gatekeeper(NODE_KEY, roles, TABLE, self.nonces, self.tokens, self.clock, limits)
        self.app = HttpApp("site", gatekeeper, streams_max=4, streams_per_key_max=9, stream_seconds_max=1.0)
        for method, rule in (("GET", "/public"), ("GET", "/own"), ("POST", "/costly"), ("GET", "/owners")):
            self.app.route(method, rule, lambda _caller, _body: SuccessAnswer())
        self.app.route("GET", "/large", lambda _caller, _body: Response(LARGE))
        self.app.route("GET", "/public-stream", lambda _caller, _body: self.app.stream(_open_silent, "text/plain"))
        self.service = HttpService(
            self.app.flask,
            "127.0.0.1",
            0,
            threads=8,
            max_body_bytes=1024,
            idle_seconds=1,
            connections_max=4,
            limits=limits,
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.service.port}"

    def get(self, address: str, target: str = "/public", method: str = "GET", **headers: str) -> Answer:
        return send(self.url, method, target, headers={"X-Forwarded-For": address, **headers})

    def sign(self, address: str, method: str = "GET", target: str = "/own", *, who: Identity = RENTER) -> Answer:
        return signed(self.url, NODE_KEY, who, method, target, headers={"X-Forwarded-For": address})


@pytest.fixture(name="site")
def running_site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    site.service.prepare()
    supervisor = Supervisor(site.service)
    supervisor.start()
    wait_until(lambda: send(site.url, "GET", "/public").status == 200, 5, "no answer")
    yield site
    assert supervisor.stop(GRACE_SECONDS + 5)
    site.nonces.close()


def limited(answer: Answer) -> int:
    """Check a 429 in the one error shape, and return its Retry-After."""
    answer.assert_refused(429, "TOO_MANY_REQUESTS")
    return int(answer.headers["retry-after"])


def test_requests_without_a_caller_are_counted_per_address(site: Site) -> None:
    assert [site.get("198.51.100.1").status for _ in range(4)] == [200] * 4
    assert limited(site.get("198.51.100.1")) == 1000
    assert limited(site.get("198.51.100.1", "/no-such-route")) == 1000
    assert site.get("198.51.100.2").status == 200
    site.clock.advance(1000)
    assert site.get("198.51.100.1").status == 200


def test_neighbours_in_one_ipv6_network_share_a_bucket(site: Site) -> None:
    for number in range(4):
        assert site.get(f"2001:db8:0:1::{number}").status == 200
    limited(site.get("2001:db8:0:1:ffff::"))
    assert site.get("2001:db8:0:2::1").status == 200


def test_authenticated_requests_use_up_no_address_and_an_empty_one_stops_them_before_they_cost(site: Site) -> None:
    """Five signed requests pass where four of nobody would; the key has its own five."""
    assert [site.sign("198.51.100.1").status for _ in range(5)] == [200] * 5
    assert limited(site.sign("198.51.100.9")) == 1000  # the key, from wherever it comes
    assert [site.get("198.51.100.1").status for _ in range(4)] == [200] * 4


def test_keys_that_cost_nothing_do_not_get_around_their_address(site: Site) -> None:
    """A new key for each request: the address has its four all the same."""

    def ask(number: int) -> Answer:
        who = identity(f"free key {number}")
        return signed(site.url, NODE_KEY, who, "GET", "/own", headers={"X-Forwarded-For": "198.51.100.1"})

    assert [ask(number).status for number in range(4)] == [200] * 4
    limited(ask(4))
    assert site.sign("198.51.100.2").status == 200


def test_listed_key_that_asks_for_what_is_not_its_own_is_no_failure(site: Site) -> None:
    for _ in range(3):
        site.sign("198.51.100.1", target="/owners").assert_refused(403, "NOT_PERMITTED")
    assert site.sign("198.51.100.1").status == 200


def test_what_keys_that_cost_nothing_make_counts_for_their_address_too(site: Site) -> None:
    keys = [identity(f"free {number}") for number in range(3)]
    assert [site.sign("198.51.100.1", "POST", "/costly", who=key).status for key in keys[:2]] == [200] * 2
    limited(site.sign("198.51.100.1", "POST", "/costly", who=keys[2]))
    assert site.sign("198.51.100.1", "POST", "/costly").status == 200, "a key on a list has what it has"
    assert site.sign("198.51.100.2", "POST", "/costly", who=keys[2]).status == 200


def test_bearer_tokens_count_for_their_key(site: Site) -> None:
    token = {"Authorization": f"Bearer {site.tokens.issue(RENTER.public_key)}"}
    assert [site.get("198.51.100.1", "/own", **token).status for _ in range(5)] == [200] * 5
    limited(site.sign("198.51.100.1"))


def test_what_makes_something_has_a_bound_of_its_own(site: Site) -> None:
    assert [site.sign("198.51.100.1", "POST", "/costly").status for _ in range(2)] == [200, 200]
    limited(site.sign("198.51.100.1", "POST", "/costly"))
    assert site.sign("198.51.100.1").status == 200


def test_address_that_fails_to_authenticate_is_not_listened_to(site: Site) -> None:
    wrong = {"Authorization": "Bearer wrong"}
    for _ in range(2):
        site.get("198.51.100.1", "/own", **wrong).assert_refused(401, "TOKEN_INVALID", "Authorization")
    limited(site.sign("198.51.100.1"))
    assert site.sign("198.51.100.2").status == 200
    assert site.get("198.51.100.1").status == 200, "what is public is not authenticated"


def test_request_sent_again_takes_nothing_from_its_signer(site: Site) -> None:
    headers = sign_request(RENTER, "GET", f"{site.url}/own", b"", audience=NODE_KEY)
    assert site.get("198.51.100.1", "/own", **headers).status == 200
    for number in range(10):
        site.get(f"203.0.113.{number}", "/own", **headers).assert_refused(401, "NONCE_REUSED", "Signature-Input")
    assert [site.sign("198.51.100.2").status for _ in range(4)] == [200] * 4


def test_streams_of_keys_on_no_list_leave_half_to_the_others(site: Site) -> None:
    places = site.app._streams
    with site.app.flask.test_request_context("/", environ_overrides={"asgi.scope": {}}):
        listed = site.app._shares(Caller(RENTER.public_key, Role.RENTER, Scope.OWN))
        free = [site.app._shares(Caller(f"{n:064x}", Role.RENTER, Scope.OWN, is_listed=False)) for n in range(3)]
    leave = [places.take(free[0]), places.take(free[1])]
    with pytest.raises(RequestRejected, match="keys on no list") as caught:
        places.take(free[2])
    assert caught.value.code is ErrorCode.TOO_MANY_REQUESTS
    leave += [places.take(listed), places.take(listed)]
    for give_back in leave:
        give_back()
    assert not places._taken, "whoever has gone leaves no row"


def test_stream_ends_after_its_life(site: Site) -> None:
    assert site.get("198.51.100.1", "/public-stream").body == b""


def hold_unread(site: Site, stack: contextlib.ExitStack) -> socket.socket:
    """Ask for eight megabytes and read none of them."""
    reader = socket.socket()
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    stack.enter_context(reader)
    reader.connect(("127.0.0.1", site.service.port))
    reader.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
    return reader


def test_answers_that_nobody_reads_are_cut_off(site: Site) -> None:
    with contextlib.ExitStack() as stack:
        readers = [hold_unread(site, stack) for _ in range(3)]
        received = 0
        threading.Event().wait(2.5)  # beyond idle_seconds, the unit under test
        with contextlib.suppress(ConnectionError):
            while piece := readers[0].recv(1 << 20):
                received += len(piece)
        assert received < len(LARGE)


def test_reader_that_takes_its_time_has_everything(site: Site) -> None:
    with contextlib.ExitStack() as stack:
        reader = hold_unread(site, stack)
        reader.settimeout(5)
        received = 0
        while received < len(LARGE):
            received += len(reader.recv(1 << 16))
        assert received >= len(LARGE)


def test_unread_answers_do_not_keep_others_out(site: Site) -> None:
    """Four connections are allowed, and four callers read nothing of what they asked for."""
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            hold_unread(site, stack)
        threading.Event().wait(1.5)  # they are closed by now, and not gone
        wait_until(lambda: _answers(site), 5, "nobody else is answered")


def _answers(site: Site) -> bool:
    with contextlib.suppress(OSError):
        return send(site.url, "GET", "/public").status == 200
    return False
