"""Running miners: the real node in a thread of this process, or in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from config.schema import Config
from neurons.miner.allocate import ResourceAllocator
from neurons.miner.node import MinerNode
from polarise.clients import MinerClient
from polarise.signing import Identity
from tests.support.disks import FOLDER
from tests.support.engine import DEAD_ENGINE
from tests.support.identities import People

START_SECONDS = 30.0
CRASHING_MINER = "tests.support.crashing_miner"


def miner_config(people: People, **sections: Mapping[str, object]) -> Config:
    """Return a test's settings: a free port, the people's rights, and what a test changes."""
    values: dict[str, dict[str, object]] = {
        "network": {"port": 0},
        "access": people.access(),
        "miner": {"proof_duty_percent": 100},
        "docker": {
            "default_memory": "128m",
            "default_cpu_count": 0.25,
            "default_disk": "256m",
            "disk_folder": str(FOLDER),
            "start_timeout_seconds": 30,
            "warm_slots": 0,
        },
    }
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section}
    return Config.model_validate(values)


def engineless(people: People, **sections: Mapping[str, object]) -> Config:
    """Return settings of a miner whose engine is not there: whatever must not need Docker works, the rest is 503."""
    return miner_config(
        people, **{**sections, "docker": {"host": DEAD_ENGINE, "disk": "none", **sections.get("docker", {})}}
    )


@dataclass
class RunningMiner:
    """A miner at work in this process."""

    node: MinerNode

    @property
    def url(self) -> str:
        """Base URL of its API."""
        return f"http://127.0.0.1:{self.node.http.port}"

    @property
    def key(self) -> str:
        """Its node key."""
        return self.node.identity.public_key

    @property
    def node_id(self) -> str:
        """What marks its things on this host."""
        return self.node.node_id

    @property
    def allocator(self) -> ResourceAllocator:
        """What grants its leases."""
        return self.node.allocator

    def reconcile(self) -> None:
        """Do now what it does every 30 seconds."""
        self.node.reconciler.reconcile()

    def client(self, who: Identity, *, timeout_seconds: float = 60.0) -> MinerClient:
        """Return a client that asks as ``who``."""
        return MinerClient(self.url, self.key, who, timeout_seconds=timeout_seconds)


@contextlib.contextmanager
def running(node: MinerNode) -> Iterator[RunningMiner]:
    """Run a node in a thread until the block ends; its own failure to start becomes the block's."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            node.run()
        except BaseException as err:  # noqa: BLE001  handed to the test's thread below
            failures.append(err)

    thread = threading.Thread(target=run, name="miner")
    thread.start()
    try:
        wait_until(lambda: bool(failures) or is_serving(node), START_SECONDS, "the miner does not serve")
        if failures:
            raise failures[0]
        yield RunningMiner(node)
    finally:
        node.stop()
        thread.join(START_SECONDS)
    assert not thread.is_alive(), "the miner did not stop"


def is_serving(node: MinerNode) -> bool:
    """Whether every service runs and the port answers."""
    if not node.supervisors:
        return False
    with contextlib.suppress(OSError, RuntimeError):
        return can_connect(node.http.port)
    return False


def can_connect(port: int) -> bool:
    """Whether something listens on a port of loopback."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def wait_until(condition: Callable[[], bool], seconds: float, message: str, *, poll_seconds: float = 0.02) -> None:
    """Wait for a condition that another thread or process makes true; fails with ``message`` after ``seconds``."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"{message} after {seconds:g} s")
        time.sleep(poll_seconds)


@dataclass
class MinerProcess:
    """A miner in a process of its own, which a test may kill."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @property
    def url(self) -> str:
        """Base URL of its API."""
        return f"http://127.0.0.1:{self.port}"

    def wait_killed(self, seconds: float = 60.0) -> None:
        """Wait until it has killed itself."""
        status = self.process.wait(seconds)
        assert status == -signal.SIGKILL, f"status {status}\n{self.log.read_text(encoding='utf-8')}"

    def kill(self) -> None:
        """Kill it as a power cut would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def terminate(self) -> int:
        """Ask it to stop, and return its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


@contextlib.contextmanager
def miner_process(
    config: Config, data_dir: Path, seed_hex: str, owner_seed_hex: str, *, crash_at: str = ""
) -> Iterator[MinerProcess]:
    """Start `tests.support.crashing_miner` and wait until its port answers; whatever happens, it is gone at the end."""
    log = data_dir.with_name(f"{data_dir.name}-{time.monotonic_ns()}.log")
    port = config.network.port
    environ = {
        **os.environ,
        "MINER_CONFIG": config.model_dump_json(),
        "MINER_DATA_DIR": str(data_dir),
        "MINER_SEED": seed_hex,
        "MINER_OWNER_SEED": owner_seed_hex,
        "MINER_CRASH_AT": crash_at,
    }
    with log.open("wb") as handle:
        process = subprocess.Popen([sys.executable, "-m", CRASHING_MINER], env=environ, stderr=handle, stdout=handle)
    try:
        wait_until(
            lambda: process.poll() is not None or can_connect(port), START_SECONDS, "the miner process does not serve"
        )
        assert process.poll() is None, log.read_text(encoding="utf-8")
        yield MinerProcess(process, port, log)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(10)


def log_lines(log: Path) -> list[dict[str, object]]:
    """Return the JSON lines of a log."""
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines() if line.startswith("{")]
