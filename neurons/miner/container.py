"""One ssh container per lease: made, started, checked from the host, and removed without a trace.

Rules:
- create -> start -> read the ``SSH-`` banner -> read the limits back; whoever fails on the way is removed here.
- A lease that is promised a disk gets it before its container, whose root is then read-only; see `disk`.
- Every object carries this node's label and the lease id, so that a restart finds its own and nothing else.
- Ids that reach the engine come from our own journal, never from a caller.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import docker
from docker.errors import APIError, ImageNotFound
from docker.models.containers import Container
from docker.types import Mount

from neurons.miner.disk import LeaseDisks
from neurons.miner.enforced import read_enforced
from neurons.miner.gpu_request import GpuAccess, gpu_requests
from neurons.miner.hard_limits import engine_limits
from neurons.miner.lease import Lease, LeaseId, PrivatePlace
from neurons.miner.login import MOUNT, LoginFiles, start_command
from neurons.miner.network import NodeNetwork
from neurons.miner.private_network import SYSCTLS, joined
from neurons.miner.profile import Profile
from neurons.miner.socket_memory import hold_socket_memory
from polarise.errors import SubnetError, Unavailable
from polarise.receipt import Limits
from utils.docker_utils import check_engine, engine_work, find_container, labelled_containers, remove_container
from utils.ssh import read_banner

logger = logging.getLogger(__name__)

NODE_LABEL = "polarise.node"
LEASE_LABEL = "polarise.lease"
SSH_PORT_INSIDE = "22/tcp"
CPU_PERIOD_US = 100_000

# How often a silent container is asked whether it still runs.
LOOK_AGAIN_SECONDS = 1.0

StepObserver = Callable[[str], None]


class PortTaken(SubnetError):
    """Something else on this host listens on the port; the lease should get another."""


class LimitNotApplied(SubnetError):
    """The container runs, but the kernel does not hold what was asked for."""


class SlotLost(SubnetError):
    """A warm slot has no running container any more; the lease is made cold."""


class NotGreeted(Unavailable):
    """The container runs, or ran, but its sshd did not greet in time."""


@dataclass(frozen=True, slots=True)
class StartedContainer:
    """A container that greets by ssh and whose limits were read back."""

    container_id: str
    pid: int
    image_id: str
    host_key: str
    limits: Limits
    runtime: str
    private: PrivatePlace | None


@dataclass(frozen=True, slots=True)
class ContainerSettings:
    """What all containers of a node have in common.

    Attributes:
        node_id: Twelve hex digits; marks every object.
        name_prefix: Container names start with it.
        bind_address: Host address the ssh ports are published on.
        leases_folder: Where each lease has its folder.
        start_timeout_seconds: Until the banner must be there.
        profile: What a tenant's programs may do at all.
        engine_host: Address of the engine, None for the local one.
        gpu_access: How the engine is asked for GPUs.
    """

    node_id: str
    name_prefix: str
    bind_address: str
    leases_folder: Path
    start_timeout_seconds: int
    profile: Profile = field(default_factory=Profile)
    engine_host: str | None = None
    gpu_access: GpuAccess = "nvidia"

    @property
    def label(self) -> str:
        """This node's label as the engine filters it."""
        return f"{NODE_LABEL}={self.node_id}"


class ContainerManager:
    """Runs and removes the containers of one node.

    Args:
        client: The engine.
        settings: What they have in common.
        network: The node's bridges.
        mount_events: Returns what puts a lease's event socket into its container.
        disks: Makes the disks of leases.
        reach: Called with the name of each step; tests end the process there.
    """

    def __init__(
        self,
        client: docker.DockerClient,
        settings: ContainerSettings,
        network: NodeNetwork,
        mount_events: Callable[[Lease], Mount],
        disks: LeaseDisks,
        reach: StepObserver = lambda _step: None,
    ) -> None:
        self.client = client
        self.settings = settings
        self.network = network
        self.mount_events = mount_events
        self.disks = disks
        self._reach = reach

    def login_files(self, lease_id: LeaseId) -> LoginFiles:
        """Return the folder of a lease."""
        return LoginFiles(self.settings.leases_folder / lease_id)

    def run_container(self, lease: Lease, public_key: str | None) -> StartedContainer:
        """Start the container of a lease and wait until it can be logged in to.

        On any failure everything it made is removed again before the error leaves.

        Raises:
            PortTaken: Try again with another port.
            LimitNotApplied: The kernel does not hold a limit; the container is gone.
            Unavailable: No engine, no image, or sshd did not greet in time.
        """
        files = self.login_files(lease.lease_id)
        try:
            host_key = files.create(public_key, with_password=lease.has_password, isolation=lease.isolation)
            self._reach("allocate.files")
            image_id = self._image_id(lease.image)
            self.network.ensure(self.client, self.settings.label, lease.ssh_port)
            if lease.limits.disk_bytes is not None:
                is_encrypted = bool(lease.limits.disk_encrypted)
                self.disks.make(lease.lease_id, lease.limits.disk_bytes, image_id, is_encrypted=is_encrypted)
            container = self._create(lease, image_id)
            self._reach("allocate.created")
            if lease.private is not None:
                place = self.network.private.join(self.client, self.settings.label, container, lease.private)
                lease = replace(lease, private=place)
                self._reach("allocate.joined")
            self._start(container, lease)
            self.network.hold_cap(lease.ssh_port)
            self._reach("allocate.started")
            self.wait_for_banner(container, lease, self.settings.start_timeout_seconds)
            self._reach("allocate.greeted")
            self.check_limits(container, lease)
            return _started(container, lease, image_id, host_key)
        except BaseException:
            self._clean_up(lease)
            raise

    def hand_over(self, lease: Lease, public_key: str | None) -> StartedContainer:
        """Make a slot's container the one of a lease: limits, key, password login. It greets already.

        Raises:
            SlotLost: Its container does not run any more.
            LimitNotApplied: The kernel does not hold a limit.
            Unavailable: The engine cannot be asked, or could not change a limit.
        """
        container = next((found for found in self.containers_of(lease.lease_id) if found.status == "running"), None)
        if container is None or lease.image_id is None or lease.host_key is None:
            raise SlotLost(f"the slot {lease.lease_id} has lost its container")
        with engine_work():
            container.update(
                mem_limit=lease.limits.memory_bytes,
                memswap_limit=lease.limits.memory_bytes + lease.limits.swap_bytes,
                cpu_period=CPU_PERIOD_US,
                cpu_quota=_cpu_quota_us(lease.limits),
            )
        self._reach("allocate.updated")
        self.check_limits(container, lease)
        files = self.login_files(lease.lease_id)
        if lease.has_password:
            files.set_password_login(is_on=True)
            reload_sshd(self.client, str(container.id))
            self.wait_for_banner(container, lease, self.settings.start_timeout_seconds)
        files.set_public_key(public_key)
        self._reach("allocate.handed-over")
        return _started(container, lease, lease.image_id, lease.host_key)

    def is_current(self, slot: Lease) -> bool:
        """Whether a slot's container runs, of the image that its reference means today.

        Raises:
            Unavailable: The engine cannot be asked, or holds no such image.
        """
        container = self.find(slot)
        return container is not None and container.status == "running" and slot.image_id == self._image_id(slot.image)

    def kill(self, lease: Lease) -> None:
        """Kill whatever runs for the lease, which cuts open ssh connections; nothing is removed.

        Raises:
            Unavailable: The engine cannot be asked.
        """
        if lease.container_id is not None:
            signal_container(self.client, lease.container_id, "SIGKILL")
            return
        for container in self.containers_of(lease.lease_id):
            signal_container(self.client, str(container.id), "SIGKILL")

    def stop_container(self, lease: Lease) -> None:
        """Kill the container, which cuts open ssh connections, and remove all that is left of the lease.

        Raises:
            Unavailable: The engine cannot be asked; nothing is forgotten then.
        """
        check_engine(self.client)
        for container in self.containers_of(lease.lease_id):
            remove_container(self.client, str(container.id))
        self._reach("terminate.removed")
        self.disks.remove(lease.lease_id)
        self.login_files(lease.lease_id).remove()
        self._reach("terminate.files")

    def leave_private_network(self, lease: Lease) -> None:
        """Take a lease's private network away with the last lease in it; call it when the row is gone.

        What the engine keeps from being removed now, its watch removes later.
        """
        if lease.private is None:
            return
        try:
            self.network.private.sweep(self.client, self.settings.label)
        except Unavailable as err:
            logger.warning(
                "a private network is removed later", extra={"lease_id": lease.lease_id, "cause": err.message}
            )

    def containers_of(self, lease_id: LeaseId) -> list[Container]:
        """Return whatever the engine holds for a lease, running or not."""
        return labelled_containers(self.client, self.settings.label, f"{LEASE_LABEL}={lease_id}")

    def containers(self) -> list[Container]:
        """Return every container of this node."""
        return labelled_containers(self.client, self.settings.label)

    def find(self, lease: Lease) -> Container | None:
        """Return a lease's container; None when the engine says that it is gone."""
        return find_container(self.client, lease.container_id) if lease.container_id else None

    def check_limits(self, container: Container, lease: Lease) -> None:
        """Set the one limit that the engine cannot, read all from the kernel and compare with those of the lease.

        The networks it is in are compared as well, as the engine has them.

        Raises:
            LimitNotApplied: One differs, or cannot be read.
        """
        pid = _pid_of(container)
        try:
            allowed = self.settings.profile.privileges(lease)
            differences = hold_socket_memory(pid, lease.limits.memory_bytes)
            differences += read_enforced(pid).differences(lease.limits, allowed) + self.disks.differences(lease, pid)
        except (OSError, KeyError, ValueError) as err:
            raise LimitNotApplied(f"the limits of the container cannot be read back: {err}") from err
        differences += self._network_differences(container, lease)
        if differences:
            raise LimitNotApplied("; ".join(differences))

    def _network_differences(self, container: Container, lease: Lease) -> list[str]:
        """Return one sentence where a running container is in other networks than its lease's, or at another address."""
        found, private = joined(container.attrs), lease.private
        wanted = {self.network.bridge(lease.ssh_port).name}
        if private is not None:
            wanted.add(self.network.private.name(private.number))
        if set(found) != wanted:
            return [f"it is in the networks {sorted(found)}, asked for {sorted(wanted)}"]
        if private is not None and found[self.network.private.name(private.number)] != private.address:
            return [f"its private addresses are {found}, asked for {private.address}"]
        return []

    def _image_id(self, reference: str) -> str:
        with engine_work():
            try:
                return str(self.client.images.get(reference).id)
            except ImageNotFound as err:
                raise Unavailable(
                    f"the image {reference} is not on this host; its owner makes it with `python main.py setup`",
                    retry_after_seconds=300,
                ) from err

    def create_options(self, lease: Lease) -> dict[str, Any]:
        """Return what the engine is asked for; one place, so that a reader sees the whole profile."""
        limits = lease.limits
        return {
            "name": f"{self.settings.name_prefix}{lease.lease_id[:12]}",
            "hostname": lease.lease_id[:12],
            # Not the image's: a tenant may put a link in its place, and the engine would enter it, as the host's root, to
            # start the container again or a program in it. sshd begins at home anyhow.
            "working_dir": "/",
            "labels": {NODE_LABEL: self.settings.node_id, LEASE_LABEL: lease.lease_id},
            "network": self.network.bridge(lease.ssh_port).name,
            "ports": {SSH_PORT_INSIDE: (self.settings.bind_address, lease.ssh_port)},
            "mounts": [
                Mount(MOUNT, str(self.login_files(lease.lease_id).mounted), type="bind", read_only=True),
                self.mount_events(lease),
                *(self.disks.mounts(lease.lease_id) if limits.disk_bytes is not None else ()),
            ],
            "read_only": limits.disk_bytes is not None,
            "tmpfs": self.disks.covers() if limits.disk_bytes is not None else {},
            "mem_limit": limits.memory_bytes,
            "memswap_limit": limits.memory_bytes + limits.swap_bytes,
            # Not nano_cpus: the engine would not let a slot's be changed.
            "cpu_period": CPU_PERIOD_US,
            "cpu_quota": _cpu_quota_us(limits),
            "pids_limit": limits.pids_count,
            "shm_size": limits.shm_bytes,
            **self.settings.profile.options(lease, engine_limits(self.settings.engine_host)),
            **({"sysctls": SYSCTLS} if lease.private is not None else {}),
            "device_requests": gpu_requests(lease.devices, self.settings.gpu_access),
        }

    def _create(self, lease: Lease, image_id: str) -> Container:
        with engine_work():
            return self.client.containers.create(
                image_id, start_command(lease), detach=True, **self.create_options(lease)
            )

    def _start(self, container: Container, lease: Lease) -> None:
        with engine_work():
            try:
                container.start()
            except APIError as err:
                text = (err.explanation or str(err)).lower()
                if "port is already allocated" in text or "address already in use" in text:
                    raise PortTaken(f"port {lease.ssh_port} is taken") from err
                raise

    def wait_for_banner(self, container: Container, lease: Lease, deadline_seconds: float) -> None:
        """Wait until the container's sshd greets; one that has ended is not waited for.

        Raises:
            NotGreeted: It did not, in time.
        """
        host = "127.0.0.1" if self.settings.bind_address in {"0.0.0.0", ""} else self.settings.bind_address  # noqa: S104
        end = time.monotonic() + deadline_seconds
        while True:
            left_seconds = max(end - time.monotonic(), 0.0)
            try:
                read_banner(host, lease.ssh_port, deadline_seconds=min(left_seconds, LOOK_AGAIN_SECONDS))
            except TimeoutError as err:
                state = _state_of(container)
                if state.get("Running") and time.monotonic() < end:
                    continue
                raise NotGreeted(
                    f"the container's sshd did not answer within {deadline_seconds:g} s: {err}; the container is "
                    f"{state.get('Status')}, exit code {state.get('ExitCode')}",
                    retry_after_seconds=10,
                ) from err
            return

    def _clean_up(self, lease: Lease) -> None:
        try:
            self.stop_container(lease)
        except Unavailable:
            # The journal still holds the lease as CREATING; reconcile removes what is left when the engine is back.
            logger.warning("could not clean up", extra={"lease_id": lease.lease_id})


def _cpu_quota_us(limits: Limits) -> int:
    return limits.cpu_milli * CPU_PERIOD_US // 1000


def _started(container: Container, lease: Lease, image_id: str, host_key: str) -> StartedContainer:
    pid, runtime = _pid_of(container), str(container.attrs["HostConfig"]["Runtime"])
    return StartedContainer(str(container.id), pid, image_id, host_key, lease.limits, runtime, lease.private)


def _state_of(container: Container) -> dict[str, Any]:
    with engine_work():
        container.reload()
    return dict(container.attrs["State"])


def _pid_of(container: Container) -> int:
    return int(_state_of(container)["Pid"])


def signal_container(client: docker.DockerClient, container_id: str, signal_name: str) -> bool:
    """Send a signal to PID 1 of a container; returns False when the container does not run.

    Raises:
        Unavailable: The engine cannot be asked, or could not do it.
    """
    with engine_work():
        try:
            client.api.kill(container_id, signal_name)
        except APIError as err:
            if err.status_code not in {404, 409}:
                raise
            return False
        return True


def reload_sshd(client: docker.DockerClient, container_id: str) -> None:
    """Let sshd, PID 1, read its configuration again; open sessions live.

    Raises:
        Unavailable: The container does not run, or the engine cannot be asked.
    """
    if not signal_container(client, container_id, "SIGHUP"):
        raise Unavailable("the container does not run", retry_after_seconds=30)
