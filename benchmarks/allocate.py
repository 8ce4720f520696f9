"""How long a renter waits: POST /allocate until `ssh echo ok` answers, warm and cold, beside a plain `docker run`.

    python benchmarks/allocate.py [--count 50] [--at-once 1,4,16]

All are measured in turn in one run, so that a busy machine slows all of them. The plain container is what a person would
start by hand: sshd as its process, one key mounted, no limits, and the same wait for the login. Two real miners serve the
allocations over HTTP: one keeps a warm slot, which each warm allocation waits for before its clock starts, the other keeps
none. The login is OpenSSH with the pinned host key, each time a new connection.

At once: so many renters ask in the same moment, and each waits for its own login. The warm miner has as many slots.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from neurons.demo.market import Market
from neurons.miner.journal import Journal
from neurons.miner.slots import slots_of
from neurons.setup.image import base_image_reference
from polarise.clients import MinerClient
from polarise.messages import AllocateRequest
from polarise.ssh_keys import generate_key_pair
from utils import host
from utils.ssh import read_banner

LOGIN_SECONDS = 30
SLOT_SECONDS = 60
MEMORY = "192m"
# One renter gets a whole CPU; many at once share what there is.
CPUS = 1.0
CPUS_IN_A_CROWD = 0.1


def main() -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20, help="allocations of each kind (default: 20)")
    parser.add_argument("--at-once", default="1,4,16", help="how many renters at the same moment (default: 1,4,16)")
    options = parser.parse_args()
    count, crowds = options.count, [int(text) for text in options.at_once.split(",")]
    print(f"command: {' '.join(['python', *sys.argv])}")
    print(f"hardware: {host.cpu_model()}, {host.cpu_count()} CPUs, {platform.system()} {platform.release()}")
    with (
        tempfile.TemporaryDirectory(prefix="polarise-bench-") as folder,
        Market(miner_settings=_settings(max(crowds), slots=1)) as warm,
        Market(miner_settings=_settings(max(crowds), slots=0)) as cold,
    ):
        login = _Login(Path(folder))
        for market in (warm, cold):
            market.start_miner()
        _print(_measure(warm, cold, login, count), count)
        crowded = {crowd: {"cold": _crowd(_client(cold), login, crowd)} for crowd in crowds}
    for crowd in crowds:
        with tempfile.TemporaryDirectory() as folder, Market(miner_settings=_settings(crowd, slots=crowd)) as warm:
            warm.start_miner()
            _wait_for_slots(warm, crowd)
            crowded[crowd]["warm"] = _crowd(_client(warm), _Login(Path(folder)), crowd)
    _print_crowds(crowded)
    return 0


def _settings(leases: int, *, slots: int) -> dict[str, dict[str, object]]:
    # A lease of the size that is asked for, so that the slot fits it in all that cannot be changed.
    docker = {"default_memory": MEMORY, "warm_slots": slots, "max_leases": 2 * leases, "reserve_memory": "64m"}
    return {"docker": docker, "network": {"threads": 2 * leases + 8}, "access": {"quota_leases": 2 * leases}}


def _client(market: Market) -> MinerClient:
    return MinerClient(market.miner_url, market.miner_identity.public_key, market.renter)


def _wait_for_slots(market: Market, count: int) -> None:
    with Journal(market.root / "miner" / "journal.sqlite") as journal:
        deadline = time.monotonic() + SLOT_SECONDS
        while len(slots_of(journal.all())) < count:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the miner has not made {count} slots in {SLOT_SECONDS} s")
            time.sleep(0.02)


class _Login:
    """One throw-away key and the OpenSSH command line that uses it."""

    def __init__(self, folder: Path) -> None:
        private, self.public_key = generate_key_pair()
        self.folder = folder
        self._key = folder / "key"
        self._key.write_text(private, encoding="utf-8")
        self._key.chmod(0o600)
        (folder / "authorized_keys").write_text(self.public_key + "\n", encoding="utf-8")

    @classmethod
    def at(cls, folder: Path) -> _Login:
        """Make one in a folder of its own."""
        folder.mkdir()
        return cls(folder)

    def echo(self, port: int, host_key: str) -> None:
        """Log in with exactly this host key and run ``echo ok``."""
        known_hosts = self.folder / "known_hosts"
        known_hosts.write_text(f"[127.0.0.1]:{port} {host_key}\n", encoding="utf-8")
        options = ("StrictHostKeyChecking=yes", f"UserKnownHostsFile={known_hosts}", "IdentitiesOnly=yes")
        flags = [part for option in options for part in ("-o", option)]
        target = ["-F", "/dev/null", "-i", str(self._key), "-p", str(port), "root@127.0.0.1", "echo", "ok"]
        done = subprocess.run(["ssh", *flags, *target], capture_output=True, timeout=LOGIN_SECONDS, check=True)
        if done.stdout != b"ok\n":
            raise RuntimeError(f"unexpected answer {done.stdout!r}")


def _measure(warm: Market, cold: Market, login: _Login, count: int) -> dict[str, list[float]]:
    clients = {"warm": _client(warm), "cold": _client(cold)}
    rows: dict[str, list[float]] = {
        f"{name}: {what}": [] for name in clients for what in ("POST /allocate", "with login")
    }
    rows["plain: docker run + login"] = []
    for number in range(-1, count):
        found: list[float] = []
        for name, client in clients.items():
            if name == "warm":
                _wait_for_slots(warm, 1)
            found += _ours(client, login)
        found.append(_timed(lambda: _plain(login)))
        # The first round warms caches on all sides and is not counted.
        if number >= 0:
            for row, milliseconds in zip(rows.values(), found, strict=True):
                row.append(milliseconds)
            print(f"\r{number + 1}/{count}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return rows


def _crowd(client: MinerClient, login: _Login, count: int) -> list[float]:
    """Return how long each of so many renters waited for a login, all asking at once."""
    gate = threading.Barrier(count)

    def one(number: int) -> float:
        own = _Login.at(login.folder / f"{time.monotonic_ns()}-{number}")
        gate.wait()
        return _ours(client, own, CPUS_IN_A_CROWD)[1]

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def _ours(client: MinerClient, login: _Login, cpus: float = CPUS) -> tuple[float, float]:
    began = time.perf_counter()
    answer = client.allocate(AllocateRequest(memory=MEMORY, cpu_count=cpus, ssh_public_key=login.public_key))
    answered = (time.perf_counter() - began) * 1000
    try:
        login.echo(answer.ssh_port, answer.host_key)
        return answered, (time.perf_counter() - began) * 1000
    finally:
        client.terminate(answer.container_id)


def _plain(login: _Login) -> None:
    script = (
        "mkdir -p /run/sshd; ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key; exec /usr/sbin/sshd -D"
    )
    mount = f"{login.folder / 'authorized_keys'}:/root/.ssh/authorized_keys:ro"
    command = ["docker", "run", "-d", "-p", "127.0.0.1::22", "-v", mount, base_image_reference(), "sh", "-c", script]
    container = _output(command)
    try:
        port = int(_output(["docker", "port", container, "22/tcp"]).rpartition(":")[2])
        read_banner("127.0.0.1", port, deadline_seconds=LOGIN_SECONDS)
        host_key = _output(["docker", "exec", container, "cat", "/etc/ssh/ssh_host_ed25519_key.pub"])
        login.echo(port, " ".join(host_key.split()[:2]))
    finally:
        _output(["docker", "rm", "-f", container])


def _output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()


def _timed(action: Callable[[], None]) -> float:
    began = time.perf_counter()
    action()
    return (time.perf_counter() - began) * 1000


def _print(rows: dict[str, list[float]], count: int) -> None:
    print(f"\n{'milliseconds, n = ' + str(count):<28}{'p50':>8}{'p95':>8}{'max':>8}")
    for name, values in rows.items():
        p95 = statistics.quantiles(values, n=20, method="inclusive")[18] if len(values) > 1 else values[0]
        print(f"{name:<28}{statistics.median(values):8.0f}{p95:8.0f}{max(values):8.0f}")
    plain = statistics.median(rows["plain: docker run + login"])
    ratios = {name: statistics.median(rows[f"{name}: with login"]) / plain for name in ("warm", "cold")}
    print(f"\nratio to plain, with login, p50: warm {ratios['warm']:.2f}, cold {ratios['cold']:.2f}")


def _print_crowds(crowded: dict[int, dict[str, list[float]]]) -> None:
    print(f"\n{'at once, ms to the login':<28}{'p50':>8}{'max':>8}")
    for crowd, found in crowded.items():
        for name in ("warm", "cold"):
            print(f"{f'{name}: {crowd}':<28}{statistics.median(found[name]):8.0f}{max(found[name]):8.0f}")


if __name__ == "__main__":
    sys.exit(main())
