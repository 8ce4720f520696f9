"""How often anybody may ask: a bucket of requests per address and one per key, looked at before anything costs much.

Rules:
- A request is taken from the bucket of its address when it is whole. One that a listed key signed goes back there and is
  taken from the bucket of that key: whoever shows who it is uses up no address that others share. Keys on no list cost
  nothing, so that theirs counts for both, and so does what they have made.
- A request that was seen before counts for nobody's key: a replay cannot use up what its signer has.
- A TLS handshake is taken from a bucket of its own, as large as that one: it costs this node more than a request, and
  whoever makes it has shown nothing yet.
- An address whose authentications fail again and again is not listened to for a while: no signature of it is verified.
- An address that names nobody has no bucket: loopback, where a proxy of the owner's stands for everybody. It counts only
  where the settings name that proxy, and then for what the proxy says.
- Tables are bounded, the row that was asked for longest ago goes first. Pushing a row out takes as many addresses as a
  table has rows, and by then the bucket would be full again: nobody gains a request by it.
Decision and alternatives: docs/adr/0048-quotas.md.
"""

from __future__ import annotations

import math
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from config.schema import RequestsConfig
from polarise.errors import ErrorCode, RequestRejected
from utils.clock import Clock

ROWS_MAX = 16_384
# Of IPv6 a household or a rented host has at least this much to itself.
IPV6_PREFIX_BITS = 64
ADDRESS_KEY = "polarise.address"

IpAddress = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast a bucket fills, in requests per second, and how many it holds."""

    per_second: float
    burst: int


@dataclass(frozen=True, slots=True)
class Rates:
    """The buckets of one node.

    Attributes:
        anonymous: Of an address, for requests that are not authenticated (yet).
        failed: Of an address, for authentications that failed.
        key: Of a key, for all its requests.
        costly: Of a key, for those that make something: tokens, leases, logins.
    """

    anonymous: Rate = Rate(100, 1000)
    failed: Rate = Rate(1, 60)
    key: Rate = Rate(50, 500)
    costly: Rate = Rate(1, 60)


def rate_limits(settings: RequestsConfig, clock: Clock) -> RateLimits:
    """Build a node's limits from its settings."""
    rates = Rates(
        anonymous=Rate(settings.anonymous_per_second, settings.anonymous_burst),
        failed=Rate(settings.failed_per_minute / 60, settings.failed_burst),
        key=Rate(settings.key_per_second, settings.key_burst),
        costly=Rate(settings.costly_per_minute / 60, settings.costly_burst),
    )
    return RateLimits(rates, clock.monotonic_ns, trusted_proxies=settings.trusted_proxies)


class TokenBuckets:
    """Buckets by name; a name that was never seen has a full one.

    Args:
        rate: Of each bucket.
        monotonic_ns: The clock.
        rows_max: Buckets that are remembered.
    """

    def __init__(self, rate: Rate, monotonic_ns: Callable[[], int], *, rows_max: int = ROWS_MAX) -> None:
        self._rate = rate
        self._monotonic_ns = monotonic_ns
        self._rows_max = rows_max
        self._rows: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, name: str) -> int | None:
        """Take one request; returns None, or, where the bucket is empty, the seconds until there is one, >= 1."""
        with self._lock:
            level, now_ns = self._level(name)
            if level < 1:
                return self._wait_seconds(level)
            self._put(name, level - 1, now_ns)
            return None

    def wait_seconds(self, name: str) -> int | None:
        """Return what `take` would, and take nothing."""
        with self._lock:
            level, _now_ns = self._level(name)
            return None if level >= 1 else self._wait_seconds(level)

    def give_back(self, name: str) -> None:
        """Put one request back."""
        with self._lock:
            level, now_ns = self._level(name)
            self._put(name, min(level + 1, self._rate.burst), now_ns)

    def _level(self, name: str) -> tuple[float, int]:
        now_ns = self._monotonic_ns()
        level, since_ns = self._rows.get(name, (float(self._rate.burst), now_ns))
        return min(level + (now_ns - since_ns) / 1e9 * self._rate.per_second, self._rate.burst), now_ns

    def _put(self, name: str, level: float, now_ns: int) -> None:
        self._rows[name] = (level, now_ns)
        self._rows.move_to_end(name)
        if len(self._rows) > self._rows_max:
            self._rows.popitem(last=False)

    def _wait_seconds(self, level: float) -> int:
        return max(1, math.ceil((1 - level) / self._rate.per_second))


class RateLimits:
    """All buckets of one node; safe to use from many threads.

    Args:
        rates: How large they are.
        monotonic_ns: The clock.
        trusted_proxies: Addresses whose ``X-Forwarded-For`` is believed.
    """

    def __init__(self, rates: Rates, monotonic_ns: Callable[[], int], *, trusted_proxies: Iterable[str] = ()) -> None:
        self._rates = rates
        self._proxies = frozenset(_plain(ip_address(text)) for text in trusted_proxies)
        self._anonymous = TokenBuckets(rates.anonymous, monotonic_ns)
        self._handshakes = TokenBuckets(rates.anonymous, monotonic_ns)
        self._failed = TokenBuckets(rates.failed, monotonic_ns)
        self._keys = TokenBuckets(rates.key, monotonic_ns)
        self._costly = TokenBuckets(rates.costly, monotonic_ns)
        self.refused: Counter[str] = Counter()

    def address_of(self, peer: str | None, forwarded: str | None) -> str | None:
        """Return the name of a caller's bucket: an IPv4 address or an IPv6 /64; None where nobody is named.

        Args:
            peer: Address of the connection's other end.
            forwarded: Value of ``X-Forwarded-For``; a caller may write what it likes in front of what a proxy adds.
        """
        address = _parse(peer or "")
        if address in self._proxies:
            hops = (_parse(part) for part in reversed((forwarded or "").split(",")))
            address = next((hop for hop in hops if hop is None or hop not in self._proxies), None)
        if address is None or address.is_loopback:
            return None
        if isinstance(address, IPv6Address):
            return f"{IPv6Address(int(address) >> IPV6_PREFIX_BITS << IPV6_PREFIX_BITS)}/{IPV6_PREFIX_BITS}"
        return str(address)

    def arrived(self, address: str | None) -> None:
        """Count a request that is whole.

        Raises:
            RequestRejected: TOO_MANY_REQUESTS (429).
        """
        if address is not None and (wait := self._anonymous.take(address)) is not None:
            raise self._refusal("anonymous", f"requests of {address}", self._rates.anonymous, wait)

    def admits_handshake(self, peer: str | None) -> bool:
        """Count a TLS handshake of a connection's other end; False where there were too many."""
        address = self.address_of(peer, None)
        if address is None or self._handshakes.take(address) is None:
            return True
        self.refused["handshake"] += 1
        return False

    def check_failures(self, address: str | None) -> None:
        """Refuse to authenticate for an address that failed too often.

        Raises:
            RequestRejected: TOO_MANY_REQUESTS (429).
        """
        if address is not None and (wait := self._failed.wait_seconds(address)) is not None:
            raise self._refusal("failed", f"failed authentications of {address}", self._rates.failed, wait)

    def failed(self, address: str | None) -> None:
        """Count an authentication that failed."""
        if address is not None:
            self._failed.take(address)

    def check_key(self, address: str | None, key: str, *, is_listed: bool, is_costly: bool) -> None:
        """Refuse a key whose buckets are empty, and count nothing: whoever sends its words again must not empty them.

        Args:
            address: Where it asks from.
            key: Whose request it is.
            is_listed: Whether the owner or the ledger named the key.
            is_costly: Whether it makes something.

        Raises:
            RequestRejected: TOO_MANY_REQUESTS (429).
        """
        if (wait := self._keys.wait_seconds(key)) is not None:
            raise self._refusal("key", "requests of your key", self._rates.key, wait)
        for name in _makers(address, key, is_listed=is_listed) if is_costly else ():
            if (wait := self._costly.wait_seconds(name)) is not None:
                whose = "your key" if name == key else f"keys on no list from {name}"
                raise self._refusal("costly", f"tokens, leases and logins of {whose}", self._rates.costly, wait)

    def authenticated(self, address: str | None, key: str, *, is_listed: bool, is_costly: bool) -> None:
        """Count a request for its key; for its address no longer, unless the key stands on no list and cost nothing."""
        if address is not None and is_listed:
            self._anonymous.give_back(address)
        self._keys.take(key)
        for name in _makers(address, key, is_listed=is_listed) if is_costly else ():
            self._costly.take(name)

    def newcomer(self, address: str | None) -> None:
        """Count, for its address, a node that a ledger never saw before: its place there is for ever.

        Raises:
            RequestRejected: TOO_MANY_REQUESTS (429).
        """
        if address is not None and (wait := self._costly.take(address)) is not None:
            raise self._refusal("costly", f"new nodes from {address}", self._rates.costly, wait)

    def _refusal(self, name: str, what: str, rate: Rate, wait_seconds: int) -> RequestRejected:
        self.refused[name] += 1
        return RequestRejected(
            ErrorCode.TOO_MANY_REQUESTS,
            f"too many {what}: {rate.per_second:g} a second, {rate.burst} at once",
            hint=f"wait {wait_seconds} s; requests.{name}_* in the node's settings",
            status=429,
            retry_after_seconds=wait_seconds,
        )


def _makers(address: str | None, key: str, *, is_listed: bool) -> tuple[str, ...]:
    """Return for whom it counts that something is made."""
    return (key,) if is_listed or address is None else (key, address)


def _parse(text: str) -> IpAddress | None:
    try:
        return _plain(ip_address(text.strip()))
    except ValueError:
        return None


def _plain(address: IpAddress) -> IpAddress:
    """Return the IPv4 address that an IPv6 one only wraps."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
