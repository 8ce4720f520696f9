"""What the API of a miner serves: plain, over TLS and signed; with a hundred streams open; and under callers that never finish.

    python benchmarks/api.py [--count 300] [--callers 4]

Two real miners in processes of their own, one with plain HTTP, one with TLS 1.3, are asked in turn, so that a busy machine slows both.

- Requests: `GET /healthz`, which anybody may ask, and `GET /containers`, signed by a renter with a nonce each (RFC 9421), made beforehand. On
  kept connections, and with a new one each, which over TLS is a full handshake.
- Streams: a hundred `GET /telemetry/stream` of fifty auditors are open, while leases are granted and given back, beside the same without them.
- Slow callers: 500 connections that begin a handshake (or a head) and stop, and 200 requests whose body stops. Meanwhile normal requests are
  asked as before; none may fail.
"""

from __future__ import annotations

import argparse
import contextlib
import platform
import secrets
import statistics
import sys
import time
from collections.abc import Sequence

from benchmarks._load import Load, Maker, half_open, load, slow_bodies
from neurons.demo.market import Market
from polarise.clients import MinerClient
from polarise.http_signatures import sign_request
from polarise.messages import AllocateRequest
from polarise.signing import Identity, SigningKey
from polarise.telemetry_client import TelemetryClient
from utils import host

AUDITORS = 50
STREAMS_PER_AUDITOR = 2
HALF_OPEN = 500
SLOW_BODIES = 200
MEMORY = "128m"


def main() -> int:
    """Measure and print the tables; status 1 when a normal request failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300, help="requests of each caller (default: 300)")
    parser.add_argument("--callers", type=int, default=4, help="callers at the same moment (default: 4)")
    parser.add_argument("--leases", type=int, default=10, help="leases granted with and without streams (default: 10)")
    options = parser.parse_args()
    print(f"command: {' '.join(['python', *sys.argv])}")
    print(f"hardware: {host.cpu_model()}, {host.cpu_count()} CPUs, {platform.system()} {platform.release()}")
    auditors = [Identity(SigningKey(secrets.token_bytes(32))) for _ in range(AUDITORS)]
    with (
        Market(miner_settings=_settings(auditors, "off")) as plain,
        Market(miner_settings=_settings(auditors, "on")) as tls,
    ):
        markets = {"plain": plain, "TLS": tls}
        for market in markets.values():
            market.start_miner()
        failures = _requests(markets, options.callers, options.count)
        failures += _slow(markets, options.callers, options.count)
        _streams(tls, auditors, options.leases)
    if failures:
        print(f"{failures} normal requests failed", file=sys.stderr)
    return 1 if failures else 0


def _settings(auditors: Sequence[Identity], tls: str) -> dict[str, dict[str, object]]:
    keys = [auditor.public_key for auditor in auditors]
    return {
        "network": {"threads": 2 * AUDITORS * STREAMS_PER_AUDITOR + 16, "max_connections": 1024, "tls": tls},
        # What stops floods would stop this, too.
        "requests": {"key_per_second": 100_000, "costly_per_minute": 60_000},
        "access": {"auditors": keys},
        "docker": {"warm_slots": 0, "default_memory": MEMORY},
    }


def _requests(markets: dict[str, Market], callers: int, count: int) -> int:
    kinds = {
        "GET /healthz, kept connection": (_healthz, True),
        "GET /healthz, new connection": (_healthz, False),
        "GET /containers signed, kept": (_signed, True),
        "GET /containers signed, new": (_signed, False),
    }
    print(f"\n{callers} callers, {count} requests each\n")
    print("| requests | plain /s | p50 ms | p99 ms | TLS /s | p50 ms | p99 ms | TLS / plain |")
    print("|:--|--:|--:|--:|--:|--:|--:|--:|")
    failures = 0
    for name, (maker_of, is_kept) in kinds.items():
        found = {
            kind: load(market.miner_url, [maker_of(market, count) for _ in range(callers)], count, is_kept=is_kept)
            for kind, market in markets.items()
        }
        failures += sum(result.failures for result in found.values())
        cells = [f"{result.rate:,.0f} | {result.p50_ms:.2f} | {result.p99_ms:.2f}" for result in found.values()]
        print(f"| {name} | {' | '.join(cells)} | {found['TLS'].rate / found['plain'].rate:.2f} |")
    return failures


def _slow(markets: dict[str, Market], callers: int, count: int) -> int:
    print(f"\nwhile {HALF_OPEN} handshakes and {SLOW_BODIES} bodies do not go on\n")
    print("| server | requests /s | p50 ms | p99 ms | failed |")
    print("|:--|--:|--:|--:|--:|")
    failures = 0
    for kind, market in markets.items():
        with contextlib.ExitStack() as stack:
            for sock in half_open(market.miner_url, HALF_OPEN):
                stack.callback(sock.close)
            for slow in slow_bodies(market.miner_url, SLOW_BODIES):
                stack.callback(slow.close)
            found: Load = load(
                market.miner_url, [_healthz(market, count) for _ in range(callers)], count, is_kept=False
            )
        failures += found.failures
        print(f"| {kind} | {found.rate:,.0f} | {found.p50_ms:.2f} | {found.p99_ms:.2f} | {found.failures} |")
    return failures


def _streams(market: Market, auditors: Sequence[Identity], leases: int) -> None:
    without = _allocations(market, leases)
    with contextlib.ExitStack() as stack:
        for auditor in auditors:
            client = TelemetryClient(market.miner_url, market.miner_identity.public_key, auditor)
            for _ in range(STREAMS_PER_AUDITOR):
                stack.enter_context(client.stream("system", 0))
        beside = _allocations(market, leases)
        after = _allocations(market, leases)
    again = _allocations(market, leases)
    print(f"\nPOST /allocate over TLS, cold, {leases} each\n")
    print("| streams open | p50 ms | max ms |")
    print("|--:|--:|--:|")
    for streams, times in ((0, without), (100, beside), (100, after), (0, again)):
        print(f"| {streams} | {statistics.median(times):.0f} | {max(times):.0f} |")


def _allocations(market: Market, count: int) -> list[float]:
    client = MinerClient(market.miner_url, market.miner_identity.public_key, market.renter)
    times = []
    for _ in range(count):
        began = time.perf_counter()
        answer = client.allocate(AllocateRequest(memory=MEMORY, cpu_count=0.25, ttl_seconds=60))
        times.append((time.perf_counter() - began) * 1000)
        client.terminate(answer.container_id)
    return times


def _healthz(_market: Market, _count: int) -> Maker:
    return lambda: ("GET", "/healthz", {})


def _signed(market: Market, count: int) -> Maker:
    key, url = market.miner_identity.public_key, f"{market.miner_url}/containers"
    # Made beforehand: what is measured is the server.
    made = iter([sign_request(market.renter, "GET", url, b"", audience=key) for _ in range(count)])
    return lambda: ("GET", "/containers", next(made))


if __name__ == "__main__":
    sys.exit(main())
