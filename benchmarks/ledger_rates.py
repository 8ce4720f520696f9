"""Append rate of ledger and log beside bare Ed25519 verification, and audit entries per second, in one run.

Rules:
- Entries per second of wall time, processor time per entry (all threads of the process), and the ratio of that time to
  what one bare Ed25519 verification over as many bytes takes, all in one run. On a busy machine trust the last column.
- Every append is durable (WAL, synchronous FULL) when it counts; "batch" rows share a commit, as waiting threads do.
- The HTTP row is the real daemon on loopback with one connection per request, as the client makes them.
- Prints numbers and asserts nothing about them.

Run: .venv/bin/python -m benchmarks.ledger_rates --entries 5000
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from config.schema import Config
from ledger.embedded import EmbeddedLedger
from ledger.fsck import fsck
from neurons.ledger.node import GENESIS_FILE, LEDGER_FILE, LedgerNode
from polarise.genesis import Genesis, Member, write_genesis
from polarise.ledger_client import LedgerClient
from polarise.merkle import leaf_hash, verify_inclusion
from polarise.signing import Identity, Purpose, SigningKey, verify
from polarise.transaction import (
    DOMAIN,
    SetValue,
    SignedTransaction,
    TransactionVerifier,
    decode_transaction,
    sign_transaction,
)
from tlog.store import LogStore
from utils.clock import SystemClock

THREADS = 8
HTTP_ENTRIES_MAX = 1000

ItemT = TypeVar("ItemT")


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast something went: entries per second of wall time, microseconds of processor time per entry."""

    per_second: float
    cpu_us: float


def main() -> None:
    """Measure everything once and print one table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--entries", type=int, default=5000, help="transactions per row (default: 5000)")
    count = parser.parse_args().entries
    print(f"command: python -m benchmarks.ledger_rates {' '.join(sys.argv[1:])}")
    print(f"hardware: {cpu_model()}, {os.cpu_count()} cores; Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as folder:
        rates = measure(Path(folder), count)
    bare = rates["Ed25519 verification, bare, 1 thread"]
    print("| what | entries/s | CPU us/entry | x bare verification |\n|---|---:|---:|---:|")
    for name, found in rates.items():
        print(f"| {name} | {found.per_second:,.0f} | {found.cpu_us:.0f} | {found.cpu_us / bare.cpu_us:.2f} |")


def measure(folder: Path, count: int) -> dict[str, Rate]:
    """Return entries per second by name."""
    ledger_identity, senders = identities()
    genesis = new_genesis(ledger_identity, senders)
    log_key = ledger_identity.subkey(Purpose.LOG).key
    transactions = [signed(senders[0], genesis, nonce) for nonce in range(count)]
    lines = [transaction.raw for transaction in transactions]
    print(f"{count} transactions of {len(lines[0])} bytes; {THREADS} threads where it says threads\n")
    rates = {"Ed25519 verification, bare, 1 thread": rate(count, lambda: verify_all(transactions))}
    rates["transaction decoded and verified, 1 thread"] = rate(count, lambda: open_all(lines))
    rates |= measure_log(folder, lines)
    rates |= measure_ledger(folder, genesis, log_key, senders, transactions)
    leaves = count // THREADS * THREADS
    rates["audit (fsck: everything from leaf 0)"] = rate(leaves, lambda: fsck(folder / LEDGER_FILE, genesis))
    rates["submit over HTTP, threads"] = measure_http(folder / "node", genesis, ledger_identity, senders, count)
    return rates


def measure_log(folder: Path, lines: Sequence[bytes]) -> dict[str, Rate]:
    """Append the lines one by one, in one commit, and from threads; then prove and check each."""
    rates: dict[str, Rate] = {}
    count = len(lines)
    with LogStore(folder / "one.sqlite", "bench/one") as log:
        rates["log append, one at a time"] = rate(count, lambda: [log.append(line) for line in lines])
    with LogStore(folder / "many.sqlite", "bench/many") as log:
        rates["log append, batches of 100"] = rate(
            count, lambda: [log.append_many(lines[first : first + 100]) for first in range(0, count, 100)]
        )
        root = log.root()
        proofs = timed_proofs(log, count)
        rates["inclusion proof made"] = proofs[0]
        rates["inclusion proof verified"] = rate(count, lambda: check_proofs(lines, proofs[1], root))
    with LogStore(folder / "threads.sqlite", "bench/threads") as log:
        rates["log append, threads"] = rate(count, lambda: in_threads(log.append, split(lines)))
    return rates


def measure_ledger(
    folder: Path,
    genesis: Genesis,
    log_key: SigningKey,
    senders: Sequence[Identity],
    transactions: Sequence[SignedTransaction],
) -> dict[str, Rate]:
    """Submit with everything checked: alone, and from threads that share commits."""
    rates: dict[str, Rate] = {}
    count = len(transactions)
    clock = SystemClock()
    with EmbeddedLedger(folder / "solo.sqlite", genesis, log_key, clock, block_transactions_max=count) as ledger:
        rates["ledger submit, one at a time"] = rate(count, lambda: [ledger.submit(item.raw) for item in transactions])
    # Each thread is a sender of its own, because nonces put one sender's transactions in order.
    shares = [[signed(sender, genesis, nonce).raw for nonce in range(count // THREADS)] for sender in senders]
    with EmbeddedLedger(folder / LEDGER_FILE, genesis, log_key, clock, block_transactions_max=count) as ledger:
        rates["ledger submit, threads"] = rate(sum(map(len, shares)), lambda: in_threads(ledger.submit, shares))
        ledger.make_block()
    return rates


def measure_http(folder: Path, genesis: Genesis, identity: Identity, senders: Sequence[Identity], count: int) -> Rate:
    """Submit through the daemon."""
    each = min(count, HTTP_ENTRIES_MAX) // THREADS
    write_genesis(folder / GENESIS_FILE, genesis)
    node = LedgerNode(Config.model_validate({"role": "ledger", "network": {"port": 0}}), folder, identity)
    thread = threading.Thread(target=node.run)
    thread.start()
    while len(node.supervisors) < 2 or not node.supervisors[-1].is_healthy:
        time.sleep(0.01)
    client = LedgerClient(f"http://127.0.0.1:{node.http.port}", genesis)
    shares = [[signed(sender, genesis, nonce) for nonce in range(each)] for sender in senders]
    try:
        return rate(each * THREADS, lambda: in_threads(client.submit, shares))
    finally:
        node.stop()
        thread.join()


def identities() -> tuple[Identity, list[Identity]]:
    """Return who runs the ledger, and who writes to it."""
    senders = [Identity(SigningKey(bytes([number]) * 32)) for number in range(2, 2 + THREADS)]
    return Identity(SigningKey(bytes([1]) * 32)), senders


def new_genesis(identity: Identity, senders: Sequence[Identity]) -> Genesis:
    """A ledger whose senders are all validators."""
    return Genesis(
        name="bench",
        ledger_key=identity.public_key,
        log_certificate=identity.subkey(Purpose.LOG).certificate,
        validators=tuple(Member(key=key, stake=1) for key in sorted(sender.public_key for sender in senders)),
        created_unix_ms=0,
    )


def signed(sender: Identity, genesis: Genesis, nonce: int) -> SignedTransaction:
    """One write of about the size of an epoch commit."""
    op = SetValue(path=f"/epochs/{sender.public_key}/{nonce:010d}/commit", value="ab" * 32)
    return sign_transaction(sender, op, net=genesis.net, nonce=nonce, time_unix_ms=0)


def verify_all(transactions: Sequence[SignedTransaction]) -> None:
    """Verify each signature and nothing else."""
    for transaction in transactions:
        verify(transaction.body.certificate.subject, DOMAIN, transaction.signed, transaction.body.signature)


def open_all(lines: Sequence[bytes]) -> None:
    """Read and verify each transaction as the ledger does, without taking it."""
    verifier = TransactionVerifier()
    for line in lines:
        verifier.verify(decode_transaction(line))


def check_proofs(lines: Sequence[bytes], proofs: Sequence[Sequence[bytes]], root: bytes) -> None:
    """Verify each line's inclusion proof."""
    for index, (line, proof) in enumerate(zip(lines, proofs, strict=True)):
        verify_inclusion(leaf_hash(line), index, len(lines), proof, root)


def timed_proofs(log: LogStore, count: int) -> tuple[Rate, list[list[bytes]]]:
    """Make all proofs; returns the rate and the proofs."""
    proofs: list[list[bytes]] = []
    return rate(count, lambda: proofs.extend(log.inclusion(index, count) for index in range(count))), proofs


def rate(count: int, work: Callable[[], object]) -> Rate:
    """Do the work on so many entries and say how fast it went."""
    started, cpu = time.perf_counter(), time.process_time()
    work()
    return Rate(count / (time.perf_counter() - started), (time.process_time() - cpu) * 1e6 / count)


def in_threads(work: Callable[[ItemT], object], shares: Sequence[Sequence[ItemT]]) -> None:
    """Do each share in a thread of its own."""

    def run(share: Sequence[ItemT]) -> None:
        for item in share:
            work(item)

    threads = [threading.Thread(target=run, args=(share,)) for share in shares]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def split(lines: Sequence[bytes]) -> list[Sequence[bytes]]:
    """Deal the lines out to the threads."""
    return [lines[number::THREADS] for number in range(THREADS)]


def cpu_model() -> str:
    """Return the processor's name."""
    for line in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


if __name__ == "__main__":
    main()
