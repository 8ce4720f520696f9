"""Any order of renting, renewing, releasing, killing and restarting, with a real engine: what was answered always holds.

POLARISE_LIVES says how many orders are tried, POLARISE_STEPS how long each is (`make test-crash`: 10 of 12).
"""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import ClassVar

import pytest
from docker.errors import APIError
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from polarise.clients import MinerClient
from polarise.messages import AllocateRequest
from polarise.usage import Usage
from tests.lab.engine import Lab, inside, lab
from tests.support.identities import People, fresh_node_identity
from tests.support.machine import Machine
from tests.support.miners import MinerProcess, miner_config
from tests.support.worker import free_port

pytestmark = [pytest.mark.docker, pytest.mark.lab]

LIVES = int(os.environ.get("POLARISE_LIVES", "1"))
STEPS = int(os.environ.get("POLARISE_STEPS", "5"))
LEASES_MAX = 3
WANTED = AllocateRequest()
CHOICE = st.integers(0, LEASES_MAX - 1)


class Lives(RuleBasedStateMachine):
    """One miner and what its renter was told."""

    lab: ClassVar[Lab]

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="polarise-lives-"))
        self.resources = contextlib.ExitStack()
        self.held: dict[str, str] = {}
        self.ended: dict[str, str] = {}
        people = People()
        config = miner_config(
            people,
            network={"port": free_port()},
            docker={"host": self.lab.host, "warm_slots": 0, "max_leases": LEASES_MAX},
        )
        identity = fresh_node_identity(people.owner)
        self.machine = Machine(
            people, identity, self.folder / "node", config, lambda: contextlib.nullcontext(self.lab.client)
        )

    @initialize()
    def begin(self) -> None:
        """Start the miner."""
        self.process: MinerProcess = self.resources.enter_context(self.machine.process())
        self.client: MinerClient = self.machine.client(self.process)

    @precondition(lambda self: len(self.held) < LEASES_MAX)
    @rule()
    def allocate(self) -> None:
        """Rent under a fresh key."""
        key = f"key-{len(self.held) + len(self.ended)}"
        self.held[self.client.allocate(WANTED, idempotency_key=key).container_id] = key

    @precondition(lambda self: self.held)
    @rule(number=CHOICE)
    def allocate_again(self, number: int) -> None:
        """Ask once more under the key of a lease that lives."""
        container_id = self.chosen(number)
        again = self.client.allocate(WANTED, idempotency_key=self.held[container_id])
        assert again.container_id == container_id

    @precondition(lambda self: self.held)
    @rule(number=CHOICE, seconds=st.integers(300, 3600))
    def renew(self, number: int, seconds: int) -> None:
        """Move an end."""
        self.client.renew(self.chosen(number), seconds)

    @precondition(lambda self: self.held)
    @rule(number=CHOICE)
    def terminate(self, number: int) -> None:
        """Release one."""
        container_id = self.chosen(number)
        answer = self.client.terminate(container_id)
        assert answer.usage is not None
        self.ended[container_id] = answer.usage.signature
        del self.held[container_id]

    @rule()
    def kill_the_miner(self) -> None:
        """SIGKILL, and start again."""
        self.process.kill()
        self.restart()

    @rule()
    def restart_the_miner(self) -> None:
        """SIGTERM, and start again."""
        assert self.process.terminate() == 0
        self.restart()

    @precondition(lambda self: self.held)
    @rule(number=CHOICE)
    def kill_a_container_and_the_miner(self, number: int) -> None:
        """The next life of the miner starts it again."""
        self.lab.client.api.kill(self.chosen(number))
        self.process.kill()
        self.restart()

    @rule()
    def restart_the_engine(self) -> None:
        """All containers stop with it; so does the miner, which starts them again."""
        self.process.kill()
        self.lab.engine.stop()
        self.lab.engine.start()
        self.lab.engine.wait(self.lab.client)
        self.restart()

    @invariant()
    def what_was_answered_holds(self) -> None:
        """The renter's list, the journal, the engine and the folders are the same leases; no statement changes."""
        if not hasattr(self, "client"):
            return
        assert {view.container_id for view in self.client.containers()} == set(self.held)
        assert self.machine.assert_consistent() == set(self.held)
        for container_id, signature in self.ended.items():
            statement = self.client.usage(container_id)
            assert statement.signature == signature
            assert statement.open("usage", Usage).is_final

    def chosen(self, number: int) -> str:
        """Return one of the leases that are held."""
        return sorted(self.held)[number % len(self.held)]

    def restart(self) -> None:
        """Give the miner another life."""
        self.resources.close()
        self.begin()

    def teardown(self) -> None:
        """Leave the engine as it was found."""
        self.resources.close()
        for container in self.lab.client.containers.list(all=True):
            with contextlib.suppress(APIError):
                container.remove(force=True)
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.mark.slow
def test_what_was_answered_holds_in_any_order() -> None:
    with lab() as built, inside(built):
        Lives.lab = built
        run_state_machine_as_test(
            Lives,
            settings=settings(
                max_examples=LIVES,
                stateful_step_count=STEPS,
                deadline=None,
                # Each step starts processes: what failed is shown as it was drawn, and not made smaller for an hour.
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            ),
        )
