"""``kill -9`` of the miner at random moments of a busy life; after each restart what was answered holds, and nothing else is there.

POLARISE_CRASHES says how often (`make test-crash`: 100), POLARISE_SEED which moments; a failure names its seed.
"""

import logging
import os
import random
import secrets
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from polarise.clients import MinerClient
from polarise.errors import ErrorCode, RequestRejected, Unavailable
from polarise.messages import AllocateRequest
from polarise.signing import Identity
from polarise.usage import Usage
from tests.support.engine import remove_everything_of
from tests.support.identities import People, fresh_node_identity
from tests.support.machine import Machine
from tests.support.miners import miner_config
from tests.support.worker import free_port

logger = logging.getLogger(__name__)
pytestmark = [pytest.mark.docker, pytest.mark.e2e]

CRASHES = int(os.environ.get("POLARISE_CRASHES", "2"))
SEED = int(os.environ.get("POLARISE_SEED") or secrets.randbelow(2**32))
LEASES_MAX = 3
# One lease takes about half a second to make and to end, so that a kill meets all of it.
LIFE_SECONDS_MAX = 2.5
WANTED = AllocateRequest()


@dataclass
class Renter:
    """What one renter was told, and the one request whose answer never came."""

    random: random.Random
    held: dict[str, str] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    asked_for: str | None = None
    ending: str | None = None

    def work(self, client: MinerClient) -> None:
        """Rent, renew and release until the miner dies."""
        try:
            while True:
                if len(self.held) < LEASES_MAX and self.random.random() < 0.6:
                    self.asked_for = self.asked_for or secrets.token_hex(8)
                    self.allocate(client)
                elif self.held:
                    self.ending = self.random.choice(sorted(self.held))
                    client.renew(self.ending, 600)
                    self.release(client)
        except Unavailable:
            return

    def allocate(self, client: MinerClient) -> None:
        """Ask, under the key whose answer is still open."""
        assert self.asked_for is not None
        answer = client.allocate(WANTED, idempotency_key=self.asked_for)
        self.held[answer.container_id], self.asked_for = self.asked_for, None

    def release(self, client: MinerClient) -> None:
        """End the lease whose end is still open; one that is gone already is ended as well."""
        assert self.ending is not None
        try:
            client.terminate(self.ending)
        except RequestRejected as err:
            if err.code is not ErrorCode.NOT_FOUND:
                raise
        self.ended.add(self.ending)
        del self.held[self.ending]
        self.ending = None

    def check(self, client: MinerClient, standing: set[str]) -> None:
        """Compare what stands after a restart with what was answered, and finish what was open."""
        assert set(self.held) - {self.ending} <= standing
        assert not self.ended & standing
        assert len(standing - set(self.held)) <= (self.asked_for is not None)
        if self.ending is not None:
            self.release(client)
        if self.asked_for is not None:
            self.allocate(client)
        assert {view.container_id for view in client.containers()} == set(self.held)
        for container_id in self.ended:
            assert client.usage(container_id).open("usage", Usage).is_final


@pytest.fixture(name="machine")
def machine_of_one_miner(people: People, tmp_path: Path) -> Iterator[Machine]:
    identity: Identity = fresh_node_identity(people.owner)
    config = miner_config(people, network={"port": free_port()}, docker={"warm_slots": 0})
    yield Machine(people, identity, tmp_path / "node", config)
    remove_everything_of(identity.public_key[:12])


@pytest.mark.slow
def test_killed_at_random_moments(machine: Machine, record_property: Callable[[str, object], None]) -> None:
    draw = random.Random(SEED)
    record_property("POLARISE_SEED", SEED)
    renter = Renter(draw)
    for number in range(CRASHES):
        logger.info("life %d of seed %d", number, SEED)
        with machine.process() as process:
            client = machine.client(process)
            renter.check(client, machine.assert_consistent())
            thread = threading.Thread(target=renter.work, args=(client,))
            thread.start()
            thread.join(draw.uniform(0, LIFE_SECONDS_MAX))
            process.kill()
            thread.join(60)
            assert not thread.is_alive()
    with machine.process() as process:
        client = machine.client(process)
        renter.check(client, machine.assert_consistent())
        for container_id in list(renter.held):
            renter.ending = container_id
            renter.release(client)
        renter.check(client, machine.assert_consistent())
        machine.assert_empty()
        assert process.terminate() == 0
