"""How long a renter waits: POST /allocate until `ssh echo ok` answers, warm and cold, beside a plain `docker run`.

    python benchmarks/allocate.py [--count 50] [--at-once 1,4,16] [--turns 3]

All are measured in turn in one run, so that a busy machine slows all of them. The plain container is what a person would
start by hand: sshd as its process, one key mounted, no limits, and the same wait for the login. Two real miners serve the
allocations over HTTP: one keeps a warm slot, which each warm allocation waits for before its clock starts, the other keeps
none. The login is OpenSSH with the pinned host key, each time a new connection.

At once: so many renters ask in the same moment, and each waits for its own login; each crowd comes in so many turns, warm,
cold and plain one after the other. The warm miner has a slot for each.

Nothing here waits without end. The first thing that fails is named, the rest of its crowd is let finish, and the status is 1.
"""

from __future__ import annotations

import argparse
import functools
import os
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
from polarise.errors import SubnetError
from polarise.messages import AllocateRequest
from polarise.ssh_keys import generate_key_pair
from utils import host
from utils.ssh import read_banner

LOGIN_SECONDS = 30
SLOT_SECONDS = 60
GATE_SECONDS = 30
COMMAND_SECONDS = 60
MEMORY = "192m"
DISK = "256m"
# One renter gets a whole CPU; many at once share what there is.
CPUS = 1.0
CPUS_IN_A_CROWD = 0.1
# Twice as many leases are allowed for, so that slots are made anew meanwhile; a node may have 90.
CROWD_MAX = 45


class CrowdFailed(SubnetError):
    """One renter of several got no login."""


def main() -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=_positive, default=20, help="allocations of each kind (default: 20)")
    parser.add_argument(
        "--at-once", type=_crowds, default="1,4,16", help="how many renters at the same moment (default: 1,4,16)"
    )
    parser.add_argument("--turns", type=_positive, default=3, help="how often each crowd comes (default: 3)")
    options = parser.parse_args()
    print(f"command: {' '.join(['python', *sys.argv])}")
    print(f"hardware: {host.cpu_model()}, {host.cpu_count()} CPUs, {platform.system()} {platform.release()}")
    print(f"load before: {os.getloadavg()[0]:.1f}")
    try:
        _run(options.count, options.at_once, options.turns)
    except (SubnetError, subprocess.SubprocessError, RuntimeError, OSError) as err:
        print(f"\nnot measured: {_cause(err)}", file=sys.stderr)
        return 1
    print(f"load after: {os.getloadavg()[0]:.1f}")
    return 0


def _run(count: int, crowds: list[int], turns: int) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="polarise-bench-") as folder,
        Market(miner_settings=_settings(max(crowds), slots=1)) as warm,
        Market(miner_settings=_settings(max(crowds), slots=0)) as cold,
    ):
        login = _Login(Path(folder))
        for market in (warm, cold):
            market.start_miner()
        _print(_measure(warm, cold, login, count), count)
    for crowd in crowds:
        with (
            tempfile.TemporaryDirectory(prefix="polarise-bench-") as folder,
            Market(miner_settings=_settings(crowd, slots=crowd)) as warm,
            Market(miner_settings=_settings(crowd, slots=0)) as cold,
        ):
            for market in (warm, cold):
                market.start_miner()
            _print_crowd(crowd, _measure_crowd(warm, cold, _Login(Path(folder)), crowd, turns))


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number}, expected at least 1")
    return number


def _crowds(text: str) -> list[int]:
    crowds = [_positive(part) for part in text.split(",")]
    if max(crowds) > CROWD_MAX:
        raise argparse.ArgumentTypeError(f"{max(crowds)} at once, expected at most {CROWD_MAX}")
    return crowds


def _cause(err: Exception) -> str:
    """Return what failed; of a program also what it said."""
    said = getattr(err, "stderr", None) or b""
    text = said.decode(errors="replace") if isinstance(said, bytes) else str(said)
    return " ".join(f"{err} {text}".split())[:1000]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _settings(leases: int, *, slots: int) -> dict[str, dict[str, object]]:
    # A lease of the size that is asked for, so that the slot fits it in all that cannot be changed.
    # Disks are promised in full: small ones, so that two miners with a crowd each fit on a small host.
    docker = {
        "default_disk": DISK,
        "default_memory": MEMORY,
        "warm_slots": slots,
        "max_leases": 2 * leases,
        "reserve_memory": "64m",
    }
    return {
        "docker": docker,
        "network": {"threads": 2 * leases + 8},
        "access": {"quota_leases": 2 * leases},
        "requests": {"costly_per_minute": 100_000, "costly_burst": 100_000},
    }


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
        found.append(_plain(login))
        # The first round warms caches on all sides and is not counted.
        if number >= 0:
            for row, milliseconds in zip(rows.values(), found, strict=True):
                row.append(milliseconds)
            if (number + 1) % 5 == 0 or number + 1 == count:
                _say(f"one at a time: {number + 1} of {count}")
    return rows


def _measure_crowd(warm: Market, cold: Market, login: _Login, count: int, turns: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for turn in range(turns):
        _wait_for_slots(warm, count)
        for name, market in (("warm", warm), ("cold", cold)):
            client = _client(market)
            answered, logged_in = _crowd(functools.partial(_ours, client, cpus=CPUS_IN_A_CROWD), login, count)
            found.setdefault(f"{name}: POST /allocate", []).extend(answered)
            found.setdefault(f"{name}: with login", []).extend(logged_in)
            _say(f"{count} at once, turn {turn + 1} of {turns}, {name}: the last after {max(logged_in):.0f} ms")
        plain, _ = _crowd(_timed_plain, login, count)
        found.setdefault("plain: docker run + login", []).extend(plain)
        _say(f"{count} at once, turn {turn + 1} of {turns}, plain: the last after {max(plain):.0f} ms")
    return found


def _crowd(rent: Callable[[_Login], tuple[float, float]], login: _Login, count: int) -> tuple[list[float], list[float]]:
    """Return how long each of so many renters waited for its answer and for its login, all asking at once.

    Raises:
        CrowdFailed: One of them got none; what it rented is given back, and so is what the others did.
    """
    gate = threading.Barrier(count)

    def one(number: int) -> tuple[float, float]:
        own = _Login.at(login.folder / f"{time.monotonic_ns()}-{number}")
        gate.wait(GATE_SECONDS)
        return rent(own)

    with ThreadPoolExecutor(count) as pool:
        jobs = [pool.submit(one, number) for number in range(count)]
    failed = [error for job in jobs if (error := job.exception()) is not None]
    if failed:
        first = failed[0]
        cause = _cause(first) if isinstance(first, Exception) else repr(first)
        raise CrowdFailed(f"{len(failed)} of {count} renters at once got no login; the first: {cause}") from first
    return [job.result()[0] for job in jobs], [job.result()[1] for job in jobs]


def _ours(client: MinerClient, login: _Login, *, cpus: float = CPUS) -> tuple[float, float]:
    began = time.perf_counter()
    answer = client.allocate(AllocateRequest(memory=MEMORY, cpu_count=cpus, ssh_public_key=login.public_key))
    answered = (time.perf_counter() - began) * 1000
    try:
        login.echo(answer.ssh_port, answer.host_key)
        return answered, (time.perf_counter() - began) * 1000
    finally:
        client.terminate(answer.container_id)


def _timed_plain(login: _Login) -> tuple[float, float]:
    milliseconds = _plain(login)
    return milliseconds, milliseconds


def _plain(login: _Login) -> float:
    script = (
        "mkdir -p /run/sshd; ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key; exec /usr/sbin/sshd -D"
    )
    mount = f"{login.folder / 'authorized_keys'}:/root/.ssh/authorized_keys:ro"
    command = ["docker", "run", "-d", "-p", "127.0.0.1::22", "-v", mount, base_image_reference(), "sh", "-c", script]
    began = time.perf_counter()
    container = _output(command)
    try:
        port = int(_output(["docker", "port", container, "22/tcp"]).rpartition(":")[2])
        read_banner("127.0.0.1", port, deadline_seconds=LOGIN_SECONDS)
        host_key = _output(["docker", "exec", container, "cat", "/etc/ssh/ssh_host_ed25519_key.pub"])
        login.echo(port, " ".join(host_key.split()[:2]))
        return (time.perf_counter() - began) * 1000
    finally:
        _output(["docker", "rm", "-f", container])


def _output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=True).stdout.strip()


def _print(rows: dict[str, list[float]], count: int) -> None:
    print(f"\n{'milliseconds, n = ' + str(count):<28}{'p50':>8}{'p95':>8}{'max':>8}")
    for name, values in rows.items():
        p95 = statistics.quantiles(values, n=20, method="inclusive")[18] if len(values) > 1 else values[0]
        print(f"{name:<28}{statistics.median(values):8.0f}{p95:8.0f}{max(values):8.0f}")
    plain = statistics.median(rows["plain: docker run + login"])
    ratios = {name: statistics.median(rows[f"{name}: with login"]) / plain for name in ("warm", "cold")}
    print(f"\nratio to plain, with login, p50: warm {ratios['warm']:.2f}, cold {ratios['cold']:.2f}")


def _print_crowd(crowd: int, found: dict[str, list[float]]) -> None:
    print(f"\n{f'{crowd} at once, milliseconds':<28}{'p50':>8}{'max':>8}")
    for name, values in found.items():
        print(f"{name:<28}{statistics.median(values):8.0f}{max(values):8.0f}")


if __name__ == "__main__":
    sys.exit(main())
