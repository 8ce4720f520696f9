"""An allocation that fails on the way: the caller is told why, and nothing of it is left."""

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from config.schema import Config
from neurons.miner.container import ContainerManager
from neurons.miner.lease import Lease
from neurons.miner.node import MinerNode
from neurons.miner.settings import ssh_ports
from polarise.errors import Unavailable
from polarise.messages import AllocateRequest
from polarise.signing import Identity
from tests.support.engine import containers_of, engine
from tests.support.identities import People
from tests.support.miners import RunningMiner, miner_config, running

pytestmark = pytest.mark.docker


class WithOptions(ContainerManager):
    """A container manager that asks the engine for something else than it was told to."""

    dropped: tuple[str, ...] = ()
    changed: dict[str, Any] = {}  # noqa: RUF012  never written to

    def create_options(self, lease: Lease) -> dict[str, Any]:
        options = {**super().create_options(lease), **self.changed}
        return {name: value for name, value in options.items() if name not in self.dropped}


class SilentSshd(WithOptions):
    """The program inside runs and listens to nothing."""

    changed = {"entrypoint": ["sleep", "600"]}  # noqa: RUF012  never written to


class DyingSshd(WithOptions):
    """The program inside ends at once."""

    changed = {"entrypoint": ["sh", "-c", "exit 3", "sh"]}  # noqa: RUF012  never written to


class Unlimited(WithOptions):
    dropped = ("mem_limit", "memswap_limit")


class SwapAllowed(WithOptions):
    dropped = ("memswap_limit",)


class NoPidsLimit(WithOptions):
    dropped = ("pids_limit",)


class NoCpuLimit(WithOptions):
    dropped = ("cpu_period", "cpu_quota")


class MayGainPrivileges(WithOptions):
    dropped = ("security_opt",)


class NoSeccomp(WithOptions):
    changed = {"security_opt": ["no-new-privileges:true", "seccomp=unconfined"]}  # noqa: RUF012  never written to


class OneCapabilityMore(WithOptions):
    changed = {"cap_add": ["CHOWN", "NET_RAW"]}  # noqa: RUF012  never written to


class LeavesCores(WithOptions):
    dropped = ("ulimits",)


class RefusedByEngine(WithOptions):
    changed = {"cap_add": ["NO_SUCH_CAPABILITY"]}  # noqa: RUF012  never written to


class SmallNode(MinerNode):
    """A miner with another container manager."""

    manager_type: type[ContainerManager] = ContainerManager

    def build_manager(self, manager: ContainerManager) -> ContainerManager:
        return self.manager_type(manager.client, manager.settings, manager.network, manager.mount_events, manager.disks)


@contextmanager
def miner_with(
    manager: type[ContainerManager], config: Config, data_dir: Path, identity: Identity
) -> Iterator[RunningMiner]:
    node = SmallNode(config, data_dir, identity)
    node.manager_type = manager
    with running(node) as miner:
        yield miner


def assert_nothing_is_left(miner: RunningMiner) -> None:
    assert miner.allocator.journal.all() == []
    assert list(miner.node.data_dir.leases.iterdir()) == []
    with engine() as client:
        assert containers_of(client, miner.node_id) == []


def refusal_of(miner: RunningMiner, people: People) -> Unavailable:
    with pytest.raises(Unavailable) as caught:
        miner.client(people.renter).allocate(AllocateRequest())
    return caught.value


@pytest.mark.parametrize(
    ("manager", "said"),
    [
        (Unlimited, "memory_bytes is None, asked for 134217728"),
        (SwapAllowed, "swap_bytes is "),
        (NoPidsLimit, "pids_count is None, asked for 512"),
        (NoCpuLimit, "cpu_milli is None, asked for 250"),
        (MayGainPrivileges, "no_new_privileges is False"),
        (NoSeccomp, "seccomp filter is False"),
        (LeavesCores, "core_bytes is "),
        (OneCapabilityMore, "capabilities beyond the allowed ones: 0x2000"),
    ],
)
def test_container_without_a_limit_is_never_handed_out(
    people: People, node_identity: Identity, tmp_path: Path, manager: type[ContainerManager], said: str
) -> None:
    with miner_with(manager, miner_config(people), tmp_path / "node", node_identity) as miner:
        error = refusal_of(miner, people)
        assert "the container was not handed out" in error.message
        assert said in error.message
        assert error.retry_after_seconds >= 1
        assert_nothing_is_left(miner)


@pytest.mark.parametrize(
    ("manager", "said"),
    [
        (SilentSshd, "no ssh banner"),
        (DyingSshd, "the container is exited, exit code 3"),
        (RefusedByEngine, "the engine refused"),
    ],
)
def test_container_that_does_not_come_up_is_released_with_the_reason(
    people: People, node_identity: Identity, tmp_path: Path, manager: type[ContainerManager], said: str
) -> None:
    config = miner_config(people, docker={"start_timeout_seconds": 1})
    with miner_with(manager, config, tmp_path / "node", node_identity) as miner:
        assert said in refusal_of(miner, people).message
        assert_nothing_is_left(miner)


def test_missing_image_is_503_and_the_reservation_is_released(
    people: People, node_identity: Identity, tmp_path: Path
) -> None:
    config = miner_config(people, docker={"base_image": "polarise/base:000000000000"})
    with running(MinerNode(config, tmp_path / "node", node_identity)) as miner:
        error = refusal_of(miner, people)
        assert "polarise/base:000000000000 is not on this host" in error.message
        assert "python main.py setup" in error.message
        assert_nothing_is_left(miner)


def test_port_that_another_program_holds_is_passed_over(
    people: People, node_identity: Identity, tmp_path: Path
) -> None:
    config = miner_config(people)
    first, second, third = ssh_ports(config, node_identity.public_key[:12])[:3]
    with (
        socket.create_server(("127.0.0.1", first)),
        socket.create_server(("127.0.0.1", second)),
        running(MinerNode(config, tmp_path / "node", node_identity)) as miner,
    ):
        client = miner.client(people.renter)
        answer = client.allocate(AllocateRequest())
        assert answer.ssh_port == third
        assert [row.ssh_port for row in miner.allocator.journal.all()] == [third]
        client.terminate(answer.container_id)
        assert_nothing_is_left(miner)


def test_no_free_port_at_all_is_said_and_released(people: People, node_identity: Identity, tmp_path: Path) -> None:
    first = ssh_ports(miner_config(people), node_identity.public_key[:12])[0]
    config = miner_config(people, docker={"ssh_port_first": first, "ssh_port_count": 1})
    with (
        socket.create_server(("127.0.0.1", first)),
        running(MinerNode(config, tmp_path / "node", node_identity)) as miner,
    ):
        with pytest.raises(Exception, match=f"no ssh port between {first} and {first} is free"):
            miner.client(people.renter).allocate(AllocateRequest())
        assert_nothing_is_left(miner)


def test_devices_that_a_proof_of_ours_still_holds_are_not_handed_out(
    people: People, node_identity: Identity, tmp_path: Path
) -> None:
    """The check comes when the row stands, and takes it away again; the next request gets what it asks for."""

    def held(_devices: Sequence[str]) -> None:
        assert len(miner.allocator.journal.all()) == 1
        raise Unavailable("the device GPU-0 is not free of our own proof yet", retry_after_seconds=10)

    with miner_with(ContainerManager, miner_config(people), tmp_path / "node", node_identity) as miner:
        free, miner.allocator._check_devices = miner.allocator._check_devices, held
        assert "not free of our own proof" in refusal_of(miner, people).message
        assert_nothing_is_left(miner)
        miner.allocator._check_devices = free
        miner.client(people.renter).allocate(AllocateRequest())


def test_container_that_has_ended_is_not_waited_for(people: People, node_identity: Identity, tmp_path: Path) -> None:
    """With ten minutes to start in, the answer comes because somebody looked, or the test does not end."""
    config = miner_config(people, docker={"start_timeout_seconds": 600})
    with miner_with(DyingSshd, config, tmp_path / "node", node_identity) as miner:
        assert "the container is exited, exit code 3" in refusal_of(miner, people).message
        assert_nothing_is_left(miner)
