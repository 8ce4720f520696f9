"""Reading the registry with and without its proof, over HTTP and without it, side by side in one run.

Rules:
- The ledger is the real daemon on loopback, one connection per request, as clients make them; client and daemon share
  this process, so the rows over HTTP hold the time of both.
- "served" only takes the bytes; "checked" is the client's own call, from the question to the believed value.
- Bytes are those of the answers' bodies, for one value or for the whole registry.
- Prints numbers and asserts nothing about them.

Run: .venv/bin/python -m benchmarks.state_reads --entries 1000
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.ledger_rates import cpu_model
from config.schema import Config
from ledger import path_tree
from neurons.ledger.genesis import new_genesis
from neurons.ledger.node import GENESIS_FILE, LedgerNode
from polarise.genesis import Member, write_genesis
from polarise.hardware import DeviceClaim, HardwareClaim
from polarise.http_client import HttpClient
from polarise.ledger_client import LedgerClient
from polarise.ledger_registry import FOLDER, read_ledger_registry, registration
from polarise.registry import STATEMENT_KIND, RegistryEntry
from polarise.signing import Certificate, Identity, Purpose, SigningKey
from polarise.state_proof import check_subtree, check_value
from polarise.statement import sign_statement
from polarise.transaction import SignedTransaction, sign_transaction

THREADS = 8
DEVICES = 2


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: how often a second, and bytes of answers each time."""

    per_second: float
    answer_bytes: int | None = None


def main() -> None:
    """Measure everything once and print one table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--entries", type=int, default=1000, help="nodes in the registry (default: 1000)")
    parser.add_argument("--reads", type=int, default=500, help="reads of one value per row (default: 500)")
    args = parser.parse_args()
    print(f"command: python -m benchmarks.state_reads {' '.join(sys.argv[1:])}")
    print(f"hardware: {cpu_model()}, {os.cpu_count()} cores; Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), args.entries, args.reads)
    print("| what | times/s | ms each | bytes of answers |\n|---|---:|---:|---:|")
    for name, row in rows.items():
        size = "" if row.answer_bytes is None else f"{row.answer_bytes:,}"
        print(f"| {name} | {row.per_second:,.1f} | {1000 / row.per_second:,.3f} | {size} |")


def measure(folder: Path, entries: int, reads: int) -> dict[str, Row]:
    """Fill a ledger and return the rows by name."""
    ledger = Identity(SigningKey(b"l" * 32))
    genesis = new_genesis(
        ledger,
        "bench",
        [Member(key=ledger.public_key, stake=1)],
        block_seconds=3600,
        final_confirmations=1,
        created_unix_ms=0,
    )
    write_genesis(folder / GENESIS_FILE, genesis)
    node = LedgerNode(Config.model_validate({"role": "ledger", "network": {"port": 0}}), folder, ledger)
    thread = threading.Thread(target=node.run)
    thread.start()
    while len(node.supervisors) < 2 or not node.supervisors[-1].is_healthy:
        time.sleep(0.01)
    try:
        fill(node, [entry(number, genesis.net) for number in range(entries)])
        client = LedgerClient(f"http://127.0.0.1:{node.http.port}", genesis)
        return one_value(node, client, reads) | whole_registry(node, client) | without_http(node, reads)
    finally:
        node.stop()
        thread.join()


def fill(node: LedgerNode, transactions: Sequence[SignedTransaction]) -> None:
    """Take them all, and make a block."""

    def take(share: Sequence[SignedTransaction]) -> None:
        for transaction in share:
            node.ledger.submit(transaction.raw)

    threads = [threading.Thread(target=take, args=(transactions[number::THREADS],)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    node.ledger.make_block()
    size = sum(len(transaction.raw) for transaction in transactions) // len(transactions)
    print(
        f"{len(transactions)} registry entries, transactions of {size} bytes; state {node.ledger.last_block.block.state[:16]}\n"
    )


def one_value(node: LedgerNode, client: LedgerClient, reads: int) -> dict[str, Row]:
    """Read single entries."""
    paths = [path for path, _ in node.ledger.views.values_below(FOLDER, node.ledger.log.size, after="", limit=reads)]
    http = HttpClient(client.endpoint)

    def bytes_of(route: str) -> int:
        return len(http.request("GET", f"/{route}?path={paths[0]}").body)

    def ask(route: str) -> Callable[[], object]:
        return lambda: [http.request("GET", f"/{route}?path={path}") for path in paths]

    return {
        "one value: GET /get, served": rate(len(paths), ask("get"), bytes_of("get")),
        "one value: get, the ledger's word": rate(len(paths), lambda: [client.get(path) for path in paths]),
        "one value: GET /state, served": rate(len(paths), ask("state"), bytes_of("state")),
        "one value: read, checked": rate(len(paths), lambda: [client.read(path) for path in paths]),
        "no value: read, checked": rate(
            len(paths), lambda: [client.read(f"{FOLDER}/{number:064x}") for number in range(len(paths))]
        ),
    }


def whole_registry(node: LedgerNode, client: LedgerClient) -> dict[str, Row]:
    """Read all entries."""
    listed, proved = pages(client.endpoint, "list"), pages(client.endpoint, "state/values")

    def refuse(name: str, err: Exception) -> None:
        raise AssertionError(f"{name}: {err}")

    return {
        "registry: GET /list, served": rate(1, lambda: pages(client.endpoint, "list"), listed),
        "registry: children, the ledger's word": rate(1, lambda: list(client.children(FOLDER))),
        "registry: GET /state/values, served": rate(1, lambda: pages(client.endpoint, "state/values"), proved),
        "registry: read_below, checked": rate(1, lambda: client.read_below(FOLDER)),
        "registry: checked, and every entry's signatures": rate(1, lambda: read_ledger_registry(client, refuse)),
    }


def without_http(node: LedgerNode, reads: int) -> dict[str, Row]:
    """Make and check proofs in memory."""
    state = node.ledger.states.at(node.ledger.last_block.block.height)
    assert state is not None
    size, root = state.block.block.size, state.tree.hash
    values: dict[str, bytes] = {}
    while page := node.ledger.views.values_below(FOLDER, size, after=max(values, default=""), limit=64):
        values.update({path: value for path, value in page if value is not None})
    paths = list(values)[:reads]
    found = [path_tree.find(state.tree, path) for path in paths]
    hashes = sum(len(step.siblings) for step in found[0][0].steps)
    print(f"a proof of one value has {hashes} sibling hashes\n")
    way = path_tree.find(state.tree, FOLDER)[0]

    def check_all() -> None:
        for path, (there, node_there) in zip(paths, found, strict=True):
            assert node_there is not None
            check_value(root, path, values[path], node_there.children_root, there)

    return {
        "proof of one value made": rate(len(paths), lambda: [path_tree.find(state.tree, path) for path in paths]),
        "proof of one value checked": rate(len(paths), check_all),
        "registry hashed anew and checked": rate(1, lambda: check_subtree(root, FOLDER, values, way)),
    }


def pages(endpoint: str, route: str) -> int:
    """Ask for every page of the registry and return the bytes."""
    http, size, after = HttpClient(endpoint), 0, ""
    while True:
        body = http.request("GET", f"/{route}?path={FOLDER}&after={after}").body
        size += len(body)
        following = json.loads(body)["next"]
        if following is None:
            return size
        after = following


def entry(number: int, net: str) -> SignedTransaction:
    """One node's registration, as `join` makes it."""
    owner, key = SigningKey(b"o" * 32), SigningKey(number.to_bytes(4, "big") * 8)
    certificate = Certificate.issue(owner, key.public_key, Purpose.NODE)
    identity = Identity(key, certificate)
    devices = tuple(
        DeviceClaim(
            uuid=f"GPU-{number:016x}-{place}",
            kind="gpu",
            name="NVIDIA H200",
            memory_bytes=150_754_820_096,
            matmul_ops_per_second=10**15,
            pow_hashes_per_second=10**9,
        )
        for place in range(DEVICES)
    )
    body = RegistryEntry(
        node_key=key.public_key,
        owner_key=owner.public_key,
        owner_certificate=certificate,
        endpoint=f"https://miner-{number}.example.org:8080",
        advertised_host=f"miner-{number}.example.org",
        hardware=HardwareClaim(cpu_model="AMD EPYC 9654", cpu_milli=192_000, memory_bytes=2**40, devices=devices),
        price_micros_per_hour=2_500_000,
        created_unix_ms=1_790_000_000_000,
    )
    op = registration(sign_statement(identity, STATEMENT_KIND, body))
    return sign_transaction(identity, op, net=net, nonce=0, time_unix_ms=0)


def rate(count: int, work: Callable[[], object], answer_bytes: int | None = None) -> Row:
    """Do the work, which does something so many times; the best of three runs counts."""
    return Row(count / min(timed(work) for _ in range(3)), answer_bytes)


def timed(work: Callable[[], object]) -> float:
    """Return the seconds some work takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
