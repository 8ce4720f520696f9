"""What encryption of a lease's disk costs: two miners in one run, one that encrypts and one that does not, in turn.

    python benchmarks/disk_encryption.py [--count 10] [--mebibytes 256]

Measured from outside: POST /allocate, cold, until the answer; and its part that makes and mounts the disk alone. Measured
inside, by the container's own clock: a file written and synced, the same file read back after its pages were dropped, and
2,000 small files made, synced and deleted. What is behind the file of the disk (the host's own disk and its page cache) is the
same for both. How fast the kernel's AES is decides most of it, so that is printed on top.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from neurons.demo.market import Market
from neurons.miner.disk import LeaseDisks
from neurons.miner.lease import LeaseId
from polarise.clients import MinerClient
from polarise.messages import AllocateRequest
from polarise.ssh_keys import generate_key_pair
from utils import host

INSIDE_SECONDS = 600
DISK_BYTES = 1 << 30
INSIDE = """
import os, sys, time
size, block, found = int(sys.argv[1]) << 20, os.urandom(1 << 20), {}
def timed(name, action):
    began = time.perf_counter()
    action()
    found[name] = (time.perf_counter() - began) * 1000
def write():
    with open("/srv/big", "wb") as file:
        for _ in range(size >> 20):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
def read():
    with open("/srv/big", "rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while file.read(1 << 20):
            pass
def small():
    os.mkdir("/srv/small")
    for number in range(2000):
        with open(f"/srv/small/{number}", "wb") as file:
            file.write(block[:4000])
    handle = os.open("/srv/small", os.O_RDONLY)
    os.sync()
    os.close(handle)
    for number in range(2000):
        os.unlink(f"/srv/small/{number}")
    os.rmdir("/srv/small")
timed("write", write)
timed("read", read)
os.unlink("/srv/big")
timed("2,000 small files", small)
for name, milliseconds in found.items():
    print(name, milliseconds, sep="=")
"""
ROWS = ("make and mount the disk", "POST /allocate, cold", "write", "read", "2,000 small files", "DELETE /terminate")


def main() -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10, help="leases of each kind (default: 10)")
    parser.add_argument("--mebibytes", type=int, default=256, help="size of the file inside (default: 256)")
    options = parser.parse_args()
    print(f"command: {' '.join(['python', *sys.argv])}")
    print(f"hardware: {host.cpu_model()}, {host.cpu_count()} CPUs, {platform.system()} {platform.release()}")
    print(f"the kernel's XTS: {_cipher()}")
    with Market(miner_settings=_settings("off")) as plain, Market(miner_settings=_settings("required")) as encrypted:
        markets = {"plain": plain, "encrypted": encrypted}
        for market in markets.values():
            market.start_miner()
        _print(_measure(markets, options.count, options.mebibytes), options.count)
    return 0


def _settings(encryption: str) -> dict[str, dict[str, object]]:
    return {"docker": {"disk": "loop", "disk_encryption": encryption, "warm_slots": 0, "default_memory": "512m"}}


def _cipher() -> str:
    """Return the driver of the fastest XTS that the kernel has by now; the first use of it may load a faster one."""
    lines = [line.partition(":") for line in Path("/proc/crypto").read_text(encoding="ascii").splitlines()]
    drivers = [value.strip() for name, _, value in lines if name.strip() == "driver" and "xts" in value]
    return ", ".join(drivers) or "not used yet"


def _measure(markets: dict[str, Market], count: int, mebibytes: int) -> dict[str, dict[str, list[float]]]:
    found: dict[str, dict[str, list[float]]] = {name: {row: [] for row in ROWS} for name in markets}
    for number in range(-1, count):
        for name, market in markets.items():
            values = _one(market, mebibytes, is_encrypted=name == "encrypted")
            # The first round warms caches on both sides and is not counted.
            if number >= 0:
                for row, milliseconds in values.items():
                    found[name][row].append(milliseconds)
        print(f"\r{number + 1}/{count}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return found


def _one(market: Market, mebibytes: int, *, is_encrypted: bool) -> dict[str, float]:
    client = MinerClient(market.miner_url, market.miner_identity.public_key, market.renter)
    found = {"make and mount the disk": _make_disk(is_encrypted=is_encrypted)}
    _, public_key = generate_key_pair()
    began = time.perf_counter()
    answer = client.allocate(AllocateRequest(disk=str(DISK_BYTES), cpu_count=1.0, ssh_public_key=public_key))
    found["POST /allocate, cold"] = (time.perf_counter() - began) * 1000
    try:
        if answer.limits.disk_encrypted is not is_encrypted:
            raise RuntimeError(f"the disk is not what was asked for: {answer.limits}")
        command = ["docker", "exec", answer.container_id, "python3", "-c", INSIDE, str(mebibytes)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=INSIDE_SECONDS, check=True)
        lines = [line.split("=") for line in done.stdout.splitlines()]
        found.update({name: float(milliseconds) for name, milliseconds in lines})
    finally:
        began = time.perf_counter()
        client.terminate(answer.container_id)
        found["DELETE /terminate"] = (time.perf_counter() - began) * 1000
    return found


def _make_disk(*, is_encrypted: bool) -> float:
    """Return how long a disk takes without anything else of a lease; an empty folder stands for the image."""
    with tempfile.TemporaryDirectory(prefix="polarise-bench-", dir="/var/tmp") as name:
        folder = Path(name)
        image = folder / "image"
        image.mkdir()
        disks = LeaseDisks(folder, "0" * 12, _OneTree(image))  # type: ignore[arg-type]  # only asked for the tree
        began = time.perf_counter()
        disks.make(LeaseId("a" * 32), DISK_BYTES, "none", is_encrypted=is_encrypted)
        milliseconds = (time.perf_counter() - began) * 1000
        disks.remove(LeaseId("a" * 32))
    return milliseconds


class _OneTree:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def tree(self, _image_id: str) -> Path:
        return self._folder


def _print(found: dict[str, dict[str, list[float]]], count: int) -> None:
    print(f"\n{f'milliseconds, p50 of {count}':<28}{'plain':>10}{'encrypted':>12}{'ratio':>8}")
    for row in ROWS:
        plain, encrypted = (statistics.median(found[name][row]) for name in ("plain", "encrypted"))
        print(f"{row:<28}{plain:10.0f}{encrypted:12.0f}{encrypted / plain:8.2f}")


if __name__ == "__main__":
    sys.exit(main())
