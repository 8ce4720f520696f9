"""One miner's disk over the lives of its process: journal, engine and folders must tell the same after each death."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import docker

from config.schema import Config
from neurons.miner.journal import Journal
from neurons.miner.lease import LeaseState
from polarise.clients import MinerClient
from polarise.signing import Identity
from tests.support.disks import FOLDER, left_over, why_no_disks
from tests.support.engine import containers_of, engine
from tests.support.identities import People
from tests.support.miners import MinerProcess, miner_process, wait_until


@dataclass
class Machine:
    """One miner's disk and identity, over the lives of its process.

    Attributes:
        people: Whose requests it answers.
        identity: Its key.
        data_dir: Its disk.
        config: Its settings.
        connect_engine: A client of its engine; this host's when left out.
    """

    people: People
    identity: Identity
    data_dir: Path
    config: Config
    connect_engine: Callable[[], contextlib.AbstractContextManager[docker.DockerClient]] = engine

    @contextlib.contextmanager
    def process(self, crash_at: str = "") -> Iterator[MinerProcess]:
        """Let the miner live until the block ends, or until it reaches a step."""
        seed, owner = (key.key.private.private_bytes_raw().hex() for key in (self.identity, self.people.owner))
        with miner_process(self.config, self.data_dir, seed, owner, crash_at=crash_at) as process:
            yield process

    def client(self, process: MinerProcess) -> MinerClient:
        """Return the renter's client."""
        return MinerClient(process.url, self.identity.public_key, self.people.renter)

    def state(self) -> tuple[list[str], list[str], list[str], list[str]]:
        """Return rows (lease and state), container ids of the rows, container ids of the engine, and folders."""
        with Journal(self.data_dir / "journal.sqlite") as journal:
            rows = journal.all()
        with self.connect_engine() as client:
            containers = containers_of(client, self.identity.public_key[:12])
        return (
            [f"{row.lease_id} {row.state}" for row in rows],
            sorted(str(row.container_id) for row in rows),
            containers,
            sorted(folder.name for folder in (self.data_dir / "leases").iterdir()),
        )

    def assert_empty(self) -> None:
        """Nothing is left anywhere."""
        assert self.state() == ([], [], [], [])
        wait_until(lambda: left_over(self.identity.public_key[:12]) == [], 5, "something of a disk is left")

    def assert_one_lease(self, container_id: str) -> None:
        """There is this lease, and nothing else."""
        rows, of_rows, of_engine, folders = self.state()
        assert of_rows == of_engine == [container_id]
        assert [row.split() for row in rows] == [[folders[0], LeaseState.ACTIVE]]
        assert len(folders) == 1
        if why_no_disks() is None:
            assert sorted(path.name for path in (FOLDER / self.identity.public_key[:12]).iterdir()) == folders

    def assert_consistent(self) -> set[str]:
        """Rows, containers and folders are the same active leases; returns their container ids."""
        rows, of_rows, of_engine, folders = self.state()
        assert of_rows == of_engine
        assert sorted(row.split()[0] for row in rows) == folders
        assert {row.split()[1] for row in rows} <= {LeaseState.ACTIVE}
        return set(of_rows)
