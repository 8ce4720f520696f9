"""What a lease leaves behind: everything a host can run out of, counted before and after many leases.

    python benchmarks/leaks.py [--cycles 200] [--warm-up 20] [--warm-slots 1] [--private-network NAME]

One cycle is a lease: allocate, terminate. The warm-up, by four renters at once, lets caches and connections come to rest; then all counters are read,
the cycles run, and the same counters are read again until they are equal or twenty seconds have passed. It runs in a lab, an
engine and a network namespace of its own, so that nothing else on the machine moves a counter; that needs root.

The exit status is 1 where a counter has grown.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from polarise.clients import MinerClient
from polarise.messages import AllocateRequest
from polarise.ssh_keys import generate_key_pair
from tests.lab.engine import Lab, inside, lab, why_no_lab
from tests.support.identities import People, fresh_node_identity
from tests.support.miners import MinerProcess, miner_config, miner_process
from tests.support.worker import free_port
from utils import host

SETTLE_SECONDS = 20.0
PROC = Path("/proc")
# Renters of the warm-up; each is one of the leases a key may hold.
RENTERS = 4


@dataclass(frozen=True, slots=True)
class Row:
    """One counter, before and after."""

    name: str
    before: int
    after: int

    @property
    def has_grown(self) -> bool:
        """Whether something was left behind."""
        return self.after > self.before


def main() -> int:
    """Run the cycles and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cycles", type=int, default=200, help="leases between the two counts (default: 200)")
    parser.add_argument("--warm-up", type=int, default=20, help="leases before the first count (default: 20)")
    parser.add_argument("--warm-slots", type=int, default=1, help="docker.warm_slots of the miner (default: 1)")
    parser.add_argument("--private-network", metavar="NAME", help="let each lease have a private network")
    args = parser.parse_args()
    print(f"command: {' '.join(['python', *sys.argv])}")
    print(f"hardware: {host.cpu_model()}, {host.cpu_count()} CPUs")
    began = time.perf_counter()
    if cause := why_no_lab():
        print(f"left out: {cause}")
        return 0
    request = AllocateRequest(ssh_public_key=generate_key_pair()[1], private_network=args.private_network)
    rows = measure(args.cycles, args.warm_up, args.warm_slots, request=request)
    print(
        f"\n{args.cycles} leases after {args.warm_up}, {time.perf_counter() - began:.0f} s with everything around it\n"
    )
    print(f"{'counter':<28}{'before':>8}{'after':>8}{'difference':>12}")
    for row in rows:
        print(f"{row.name:<28}{row.before:8}{row.after:8}{row.after - row.before:+12}")
    return int(any(row.has_grown for row in rows))


def measure(
    cycles: int,
    warm_up: int,
    warm_slots: int = 1,
    *,
    settle_seconds: float = SETTLE_SECONDS,
    request: AllocateRequest | None = None,
) -> list[Row]:
    """Count, rent so often, and count again."""
    wanted = request or AllocateRequest(ssh_public_key=generate_key_pair()[1])
    # The engine's control groups get a parent of their own, which is what is counted.
    parent = f"polarise-leaks-{os.getpid()}"
    with tempfile.TemporaryDirectory(prefix="polarise-leaks-") as folder, lab(f"--cgroup-parent=/{parent}") as built:
        with _miner(built, Path(folder), warm_slots) as (process, client):
            _warm_up(client, wanted, warm_up)
            counters = _counters(built, Path(folder), process, client.node_key[:12], parent)
            before = _settled(counters, None, settle_seconds)
            _rent(client, wanted, cycles)
            after = _settled(counters, before, settle_seconds)
        _remove_groups(parent)
    return [Row(name, before[name], after[name]) for name in before]


@contextmanager
def _miner(built: Lab, folder: Path, warm_slots: int) -> Iterator[tuple[MinerProcess, MinerClient]]:
    people = People()
    identity = fresh_node_identity(people.owner)
    seeds = [key.key.private.private_bytes_raw().hex() for key in (identity, people.owner)]
    with inside(built):
        docker = {"host": built.host, "warm_slots": warm_slots}
        # One renter asks for more leases than one does in a minute.
        requests = {"costly_per_minute": 60_000}
        config = miner_config(people, network={"port": free_port()}, docker=docker, requests=requests)
        with miner_process(config, folder / "node", *seeds) as process:
            yield process, MinerClient(process.url, identity.public_key, people.renter, timeout_seconds=60)
            process.terminate()


def _warm_up(client: MinerClient, request: AllocateRequest, count: int) -> None:
    """Rent several at once: bridges of all ports that the cycles will get, and as many connections as they will need."""
    threads = [threading.Thread(target=_rent, args=(client, request, -(-count // RENTERS))) for _ in range(RENTERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _rent(client: MinerClient, request: AllocateRequest, count: int) -> None:
    for number in range(count):
        answer = client.allocate(request)
        client.terminate(answer.container_id)
        print(f"\r{number + 1}/{count} ", end="", file=sys.stderr, flush=True)


def _settled(counters: dict[str, Callable[[], int]], before: dict[str, int] | None, seconds: float) -> dict[str, int]:
    """Read all counters once they stand still: as they were before, or twice the same, a second apart."""
    end = time.monotonic() + seconds
    last = {name: read() for name, read in counters.items()}
    while time.monotonic() < end:
        time.sleep(1.0)
        now = {name: read() for name, read in counters.items()}
        if now == (before or last):
            return now
        last = now
    return last


def _counters(
    built: Lab, folder: Path, process: MinerProcess, node_id: str, parent: str
) -> dict[str, Callable[[], int]]:
    client, miner, engine = built.client, process.process.pid, built.engine.pid
    return {
        "containers": lambda: len(client.containers.list(all=True, ignore_removed=True)),
        "networks": lambda: len(client.networks.list()),
        "volumes": lambda: len(client.volumes.list()),
        "network interfaces": lambda: len(_lines("ip", "-n", built.name, "-o", "link")),
        "veth pairs": lambda: len(_lines("ip", "-n", built.name, "-o", "link", "show", "type", "veth")),
        "firewall rules": lambda: len(built.output("iptables-save").splitlines()),
        "firewall rules, IPv6": lambda: len(built.output("ip6tables-save").splitlines()),
        # A network namespace that is kept is one of them.
        "mounts": lambda: _count_lines(PROC / "self" / "mounts", (str(built.folder), str(folder), node_id)),
        "loop devices": lambda: sum(node_id in line for line in _lines("losetup", "-n", "-O", "BACK-FILE")),
        "control groups": lambda: sum(1 for _ in _groups(parent)),
        "processes": lambda: len(_processes(built)),
        "files open, miner": lambda: _files(miner),
        "files open, agent": lambda: sum(_files(child) for child in _children(miner)),
        # Callers keep connections to it for as long as they like; those are counted as the callers' files.
        "files open, dockerd": lambda: _files(engine) - _connections(engine, built.host.removeprefix("unix://")),
        "lease folders": lambda: len(list((folder / "node" / "leases").iterdir())),
        "event folders": lambda: len(list((folder / "node" / "run" / "events").iterdir())),
        "image layers": lambda: len(list((built.folder / "data").glob("*/l/*"))),
    }


def _connections(pid: int, listener: str) -> int:
    """Count the connections to a Unix socket of a process: connected (03), and under the listener's path."""
    lines = (PROC / str(pid) / "net" / "unix").read_text(encoding="utf-8").splitlines()
    return sum(fields[5] == "03" and fields[-1] == listener for fields in map(str.split, lines))


def _processes(built: Lab) -> list[int]:
    """Return every process of the lab: those in its network, and those that name its folder."""
    network, found = os.stat(built.namespace).st_ino, []
    for pid in _pids():
        with suppress(OSError):
            command = (PROC / str(pid) / "cmdline").read_bytes()
            is_ours = str(built.folder).encode() in command and pid != os.getpid()
            if is_ours or os.stat(PROC / str(pid) / "ns" / "net").st_ino == network:
                found.append(pid)
    return found


def _children(parent: int) -> list[int]:
    text = (PROC / str(parent) / "task" / str(parent) / "children").read_text(encoding="ascii")
    return [int(pid) for pid in text.split()]


def _pids() -> Iterable[int]:
    return [int(path.name) for path in PROC.iterdir() if path.name.isdigit()]


def _files(pid: int) -> int:
    return len(os.listdir(PROC / str(pid) / "fd"))


def _count_lines(path: Path, words: tuple[str, ...]) -> int:
    return sum(any(word in line for word in words) for line in path.read_text(encoding="utf-8").splitlines())


def _lines(*command: str) -> list[str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return [line for line in done.stdout.splitlines() if line.strip()]


def _groups(parent: str) -> Iterator[Path]:
    for top in {Path("/sys/fs/cgroup") / parent, *Path("/sys/fs/cgroup").glob(f"*/{parent}")}:
        if top.is_dir() and not top.parent.is_symlink():
            yield from (Path(folder) for folder, _, _ in os.walk(top))


def _remove_groups(parent: str) -> None:
    for folder in sorted(_groups(parent), key=lambda path: len(path.parts), reverse=True):
        with suppress(OSError):
            folder.rmdir()


if __name__ == "__main__":
    sys.exit(main())
