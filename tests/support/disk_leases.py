"""Leases with disks in tests: rented, looked at from the host, and given back with nothing left of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from neurons.miner.lease import Lease
from polarise.clients import MinerClient
from polarise.errors import ErrorCode, RequestRejected
from polarise.messages import AllocateAnswer, AllocateRequest
from polarise.ssh_keys import generate_key_pair
from tests.support.disks import left_over
from tests.support.engine import engine
from tests.support.identities import People
from tests.support.miners import RunningMiner, wait_until
from tests.support.ssh import Login


@contextmanager
def rented(
    miner: RunningMiner, people: People, folder: Path, disk: str | None = "1", isolation: str | None = None
) -> Iterator[tuple[AllocateAnswer, Login]]:
    """Rent a container with the smallest disk, unless told otherwise, and give it back; nothing of it may be left."""
    private, public = generate_key_pair()
    client = miner.client(people.renter)
    wanted = {"disk": disk, "isolation": isolation, "ssh_public_key": public}
    answer = client.allocate(AllocateRequest.model_validate(wanted))
    try:
        yield answer, Login.to(answer, folder, private_key=private)
    finally:
        give_back(client, answer)
    wait_until(lambda: left_over(miner.node_id) == [], 10, "something of the disk is left")


def give_back(client: MinerClient, answer: AllocateAnswer) -> None:
    """End a lease that the miner may have ended, or be ending at this moment."""
    try:
        client.terminate(answer.container_id)
    except RequestRejected as err:
        if err.code != ErrorCode.NOT_FOUND:
            raise


def lease_of(miner: RunningMiner, answer: AllocateAnswer) -> Lease:
    """Return the row of a lease."""
    found = miner.allocator.journal.by_container(answer.container_id)
    assert found is not None
    return found


def disk_file(miner: RunningMiner, answer: AllocateAnswer) -> Path:
    """Return the file that a lease's disk lies in."""
    return miner.allocator.manager.disks.files(lease_of(miner, answer).lease_id).file


def kill(container_id: str) -> None:
    """Kill a container, as a restart of the host does, and wait for its end."""
    with engine() as client:
        client.api.kill(container_id)
        client.api.wait(container_id, timeout=10)
