"""From the configuration to the plain values each part of the miner takes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from config.schema import Config
from neurons.base.access import RoleTable
from neurons.base.data_dir import DataDir
from neurons.base.ledger_access import ledger_genesis
from neurons.miner import unprivileged
from neurons.miner.admission import AllocationDefaults
from neurons.miner.container import ContainerSettings
from neurons.miner.disk_offer import DiskSettings
from neurons.miner.inventory import Inventory, no_disks
from neurons.miner.open_quota import OpenQuota
from neurons.miner.pow_library import solver_command
from neurons.miner.profile import Profile
from neurons.miner.seccomp import seccomp_profile
from neurons.setup.image import base_image_reference
from polarise.errors import ConfigError
from polarise.hardware import DeviceClaim
from polarise.quantities import format_size, parse_size
from polarise.signing import Identity
from polarise.ssh_keys import parse_public_key
from utils import gpu, host

# Below the range the kernel takes client ports from, so that no outgoing connection sits on an ssh port.
SSH_PORTS = range(20_000, 32_000)
LOOPBACK = {"127.0.0.1", "localhost", "::1"}


def role_table(config: Config, identity: Identity, staked: Callable[[], Collection[str]] = frozenset) -> RoleTable:
    """Return who may call this node; ``staked`` names the ledger's validators."""
    owner = identity.owner_certificate.issuer if identity.owner_certificate else None
    access = config.access
    return RoleTable(
        owner,
        validators=access.validators,
        renters=access.renters,
        auditors=access.auditors,
        is_open=access.open,
        staked=staked,
    )


def solver_program(
    config: Config, node_id: str, root: Path, devices: Sequence[DeviceClaim]
) -> tuple[tuple[str, ...], int | None]:
    """Return how solvers are started, and as which user; see `pow_library` and `unprivileged`."""
    compiled_pow, is_wanted = config.miner.compiled_pow, config.miner.unprivileged_solver
    user = unprivileged.solver_user(node_id, devices, is_wanted=is_wanted, compiled_pow=compiled_pow)
    return solver_command(root, compiled_pow=compiled_pow), user


def open_quota(config: Config, roles: RoleTable) -> OpenQuota:
    """Return what keys on no list may hold."""
    return OpenQuota(config.access.open_share, config.access.open_leases_per_address, roles.is_listed)


def owner_key(identity: Identity) -> str:
    """Return who certified the node; its own key where nobody did."""
    return identity.owner_certificate.issuer if identity.owner_certificate else identity.public_key


def known_validators(config: Config) -> frozenset[str] | None:
    """Return the keys of the ledger's validators; None for a node that knows no ledger.

    Raises:
        ConfigError: The genesis is not a valid one.
    """
    if config.ledger.genesis is None:
        return None
    return frozenset(member.key for member in ledger_genesis(config).validators)


def disk_settings(config: Config) -> DiskSettings:
    """Return what the owner says of the disks of leases."""
    total = config.docker.total_disk
    return DiskSettings(
        mode=config.docker.disk,
        encryption=config.docker.disk_encryption,
        default_bytes=parse_size(config.docker.default_disk),
        reserve_bytes=parse_size(config.docker.reserve_disk),
        total_bytes=None if total is None else parse_size(total),
        engine_host=config.docker.host,
    )


def inventory(config: Config, node_id: str, disk_capacity: Callable[[], int] = no_disks) -> Inventory:
    """Return what of this host is for lease.

    Args:
        config: Settings.
        node_id: Twelve hex digits.
        disk_capacity: Returns the disk all leases may have together.

    Raises:
        ConfigError: The reserve leaves nothing, or a default lease would not fit.
    """
    reserve = parse_size(config.docker.reserve_memory)
    cpus = _cpus(config)
    stock = Inventory(
        memory_bytes=host.memory_bytes() - reserve,
        cpu_milli=cpus * 1000 - round(config.docker.reserve_cpu_count * 1000),
        gpus=gpu.list_gpus(),
        ssh_ports=ssh_ports(config, node_id),
        leases_max=config.docker.max_leases,
        leases_per_key_max=config.access.quota_leases,
        disk_capacity=disk_capacity,
    )
    for path, wanted, most in (
        ("docker.default_memory", parse_size(config.docker.default_memory), stock.memory_bytes),
        ("docker.default_cpu_count", round(config.docker.default_cpu_count * 1000), stock.cpu_milli),
    ):
        if wanted > most:
            shown = format_size(max(most, 0)) if path.endswith("memory") else f"{most / 1000:g}"
            raise ConfigError("more than this host offers", key_path=path, allowed=f"at most {shown}")
    return stock


def _cpus(config: Config) -> int:
    """Return how many CPUs leases run on."""
    if config.docker.cpuset_cpus is None:
        return host.cpu_count()
    wanted, online = host.cpu_numbers(config.docker.cpuset_cpus), host.cpus_online()
    if missing := wanted - online:
        raise ConfigError(
            f"this host has no CPU {min(missing)}",
            key_path="docker.cpuset_cpus",
            allowed=f"numbers from {min(online)} to {max(online)}",
        )
    return len(wanted)


def ssh_ports(config: Config, node_id: str) -> range:
    """Return this node's ports: the configured ones, or a block of its own derived from its id."""
    count = config.docker.ssh_port_count
    if config.docker.ssh_port_first is not None:
        return range(config.docker.ssh_port_first, config.docker.ssh_port_first + count)
    blocks = len(SSH_PORTS) // count
    first = SSH_PORTS.start + int(node_id[:8], 16) % blocks * count
    return range(first, first + count)


def base_image(config: Config) -> str:
    """Return the image of containers that name none."""
    return config.docker.base_image or base_image_reference()


def allocation_defaults(config: Config) -> AllocationDefaults:
    """Return what requests get where they say nothing.

    Raises:
        ConfigError: A registered ssh key cannot be used.
    """
    docker = config.docker
    return AllocationDefaults(
        image=base_image(config),
        allowed_images=frozenset(docker.allowed_images),
        memory_bytes=parse_size(docker.default_memory),
        memory_bytes_min=parse_size(docker.min_memory),
        cpu_milli=round(docker.default_cpu_count * 1000),
        shm_bytes=parse_size(docker.shm_size),
        pids_count=docker.pids_limit,
        ttl_seconds=min(docker.default_ttl_seconds, docker.max_ttl_seconds),
        ttl_seconds_max=docker.max_ttl_seconds,
        password_login=docker.password_login,
        registered_ssh_keys={key: parse_public_key(line) for key, line in config.access.renter_ssh_keys.items()},
    )


def container_settings(config: Config, node_id: str, data_dir: DataDir) -> ContainerSettings:
    """Return what all containers have in common; ssh ports open to the world only when the world is advertised to."""
    is_local = config.network.advertised_host in LOOPBACK
    return ContainerSettings(
        node_id=node_id,
        name_prefix=config.docker.container_prefix,
        bind_address="127.0.0.1" if is_local else "0.0.0.0",  # noqa: S104  renters come from elsewhere
        leases_folder=data_dir.leases,
        start_timeout_seconds=config.docker.start_timeout_seconds,
        profile=profile(config),
        engine_host=config.docker.host,
        gpu_access=config.docker.gpu_access,
    )


def profile(config: Config) -> Profile:
    """Return what a tenant's programs may do at all.

    Raises:
        ConfigError: There is no list of system calls for this machine.
    """
    # Made here once, so that a machine without a list is told at the start and not by its first renter.
    seccomp_profile()
    return Profile(runtime=config.docker.runtime, cpuset_cpus=config.docker.cpuset_cpus)
