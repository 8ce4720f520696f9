"""How long a renter waits: POST /allocate until `ssh echo ok` answers, beside a plain `docker run` of the same image.

    python benchmarks/allocate.py [--count 20]

Both are measured in turn in one run, so that a busy machine slows both. The plain container is what a person would
start by hand: sshd as its process, one key mounted, no limits, and the same wait for the login. A real miner serves the
allocations over HTTP; the login is OpenSSH with the pinned host key, each time a new connection.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from neurons.demo.market import Market
from neurons.setup.image import base_image_reference
from polarise.clients import MinerClient
from polarise.messages import AllocateRequest
from polarise.ssh_keys import generate_key_pair
from utils import host
from utils.ssh import read_banner

LOGIN_SECONDS = 30


def main() -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20, help="allocations of each kind (default: 20)")
    count = parser.parse_args().count
    print(f"command: {' '.join(['python', *sys.argv])}")
    print(f"hardware: {host.cpu_model()}, {host.cpu_count()} CPUs, {platform.system()} {platform.release()}")
    with tempfile.TemporaryDirectory(prefix="polarise-bench-") as folder, Market() as market:
        market.start_miner()
        rows = _measure(market, _Login(Path(folder)), count)
    _print(rows, count)
    return 0


class _Login:
    """One throw-away key and the OpenSSH command line that uses it."""

    def __init__(self, folder: Path) -> None:
        private, self.public_key = generate_key_pair()
        self.folder = folder
        self._key = folder / "key"
        self._key.write_text(private, encoding="utf-8")
        self._key.chmod(0o600)
        (folder / "authorized_keys").write_text(self.public_key + "\n", encoding="utf-8")

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


def _measure(market: Market, login: _Login, count: int) -> dict[str, list[float]]:
    client = MinerClient(market.miner_url, market.miner_identity.public_key, market.renter)
    rows: dict[str, list[float]] = {"ours: POST /allocate": [], "ours: with login": [], "plain: docker run + login": []}
    for number in range(-1, count):
        # The first pair warms caches on both sides and is not counted.
        answered, logged_in = _ours(client, login)
        plain = _timed(lambda: _plain(login))
        if number >= 0:
            for row, milliseconds in zip(rows.values(), (answered, logged_in, plain), strict=True):
                row.append(milliseconds)
            print(f"\r{number + 1}/{count}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return rows


def _ours(client: MinerClient, login: _Login) -> tuple[float, float]:
    began = time.perf_counter()
    answer = client.allocate(AllocateRequest(memory="256m", cpu_count=1, ssh_public_key=login.public_key))
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
    ratio = statistics.median(rows["ours: with login"]) / statistics.median(rows["plain: docker run + login"])
    print(f"\nratio ours / plain, both with login, p50: {ratio:.2f}")


if __name__ == "__main__":
    sys.exit(main())
