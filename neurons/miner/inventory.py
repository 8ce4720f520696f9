"""What this host has, what of it is leased, and whether a request still fits.

Rules:
- More than the host has can never be given: EXCEEDS_HOST (422). More than is free now: NO_CAPACITY (409).
- A device belongs to one lease at a time; a port to one lease as long as it lives.
- A device that proves at this moment is not handed out: the proof would be cut or the tenant slowed.
- Nothing is remembered here: what is leased is asked of the journal's rows, what the disk has left of the host.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from neurons.miner.lease import Lease
from polarise.errors import ErrorCode, RequestRejected
from polarise.messages import DeviceSelector
from polarise.quantities import format_size
from polarise.receipt import Limits
from utils.gpu import Gpu

# Most proofs are over by then.
PROVING_RETRY_SECONDS = 15


@dataclass(frozen=True, slots=True)
class Free:
    """What could still be leased."""

    memory_bytes: int
    cpu_milli: int
    devices: tuple[str, ...]
    leases_count: int
    disk_bytes: int


def no_disks() -> int:
    """Return the disk that leases may have together where they get none of their own."""
    return 0


@dataclass(frozen=True, slots=True)
class Inventory:
    """The part of the host that is for lease.

    Attributes:
        memory_bytes: Memory all leases may have together.
        cpu_milli: CPUs all leases may have together, in thousandths.
        gpus: The host's GPUs.
        ssh_ports: Ports for ssh.
        leases_max: Leases at a time.
        leases_per_key_max: Leases of one renter at a time.
        disk_capacity: Returns the disk all leases may have together at this moment, in bytes; 0 where they get none.
    """

    memory_bytes: int
    cpu_milli: int
    gpus: tuple[Gpu, ...]
    ssh_ports: range
    leases_max: int
    leases_per_key_max: int
    disk_capacity: Callable[[], int] = no_disks

    def free(self, leases: Iterable[Lease]) -> Free:
        """Return what is left beside ``leases``; warm slots among them wait for whoever comes."""
        leases = [lease for lease in leases if not lease.is_slot]
        used = {device for lease in leases for device in lease.devices}
        return Free(
            memory_bytes=self.memory_bytes - sum(lease.limits.memory_bytes for lease in leases),
            cpu_milli=self.cpu_milli - sum(lease.limits.cpu_milli for lease in leases),
            devices=tuple(gpu.uuid for gpu in self.gpus if gpu.uuid not in used),
            leases_count=self.leases_max - len(leases),
            disk_bytes=self.disk_capacity() - sum(lease.limits.disk_bytes or 0 for lease in leases),
        )

    def check_host(self, limits: Limits) -> None:
        """Refuse what this host could never give.

        Raises:
            RequestRejected: EXCEEDS_HOST (422) naming the field.
        """
        if limits.memory_bytes > self.memory_bytes:
            raise _exceeds("memory", format_size(limits.memory_bytes), format_size(self.memory_bytes))
        if limits.cpu_milli > self.cpu_milli:
            raise _exceeds("cpu_count", f"{limits.cpu_milli / 1000:g}", f"{self.cpu_milli / 1000:g}")
        if limits.disk_bytes is not None and limits.disk_bytes > (most := self.disk_capacity()):
            raise _exceeds("disk", format_size(limits.disk_bytes), format_size(most))

    def check_free(self, limits: Limits, renter_key: str, leases: Sequence[Lease]) -> None:
        """Refuse what does not fit beside ``leases``.

        Raises:
            RequestRejected: NO_CAPACITY (409), or TOO_MANY_REQUESTS (429) for one renter's quota.
        """
        free = self.free(leases)
        if sum(lease.renter_key == renter_key for lease in leases) >= self.leases_per_key_max:
            raise RequestRejected(
                ErrorCode.TOO_MANY_REQUESTS,
                f"you hold {self.leases_per_key_max} leases here, which is the most one key may",
                hint="release one: DELETE /terminate/{id}",
                status=429,
            )
        if free.leases_count < 1:
            raise _no_capacity(None, f"all {self.leases_max} leases are taken")
        if limits.memory_bytes > free.memory_bytes:
            raise _no_capacity("memory", f"{format_size(max(free.memory_bytes, 0))} of memory are free")
        if limits.cpu_milli > free.cpu_milli:
            raise _no_capacity("cpu_count", f"{max(free.cpu_milli, 0) / 1000:g} CPUs are free")
        if limits.disk_bytes is not None and limits.disk_bytes > free.disk_bytes:
            raise _no_capacity("disk", f"{format_size(max(free.disk_bytes, 0))} of disk are free")

    def pick_devices(
        self,
        wanted: tuple[str | int, ...] | DeviceSelector | None,
        leases: Sequence[Lease],
        proving: Collection[str] = (),
    ) -> tuple[str, ...]:
        """Return the exact UUIDs for what a request asks.

        Args:
            wanted: What is asked for.
            leases: What is leased.
            proving: Devices that prove at this moment; they are not handed out.

        Raises:
            RequestRejected: UNKNOWN_DEVICE (422) or NO_CAPACITY (409), field devices.
        """
        if wanted is None or wanted == ():
            return ()
        free = self.free(leases).devices
        if isinstance(wanted, DeviceSelector):
            return self._select(wanted, free, proving)
        named = tuple(self._resolve(name) for name in wanted)
        if len(set(named)) != len(named):
            raise RequestRejected(
                ErrorCode.INVALID_FIELD, "a device is named twice", hint="name each device once", field="devices"
            )
        if missing := [uuid for uuid in named if uuid not in free]:
            raise _no_capacity("devices", f"{', '.join(missing)} is leased to somebody else")
        if busy := [uuid for uuid in named if uuid in proving]:
            raise _proving(", ".join(busy))
        return named

    def pick_port(self, leases: Sequence[Lease], excluded: Collection[int]) -> int:
        """Return the first port no lease has; after refusals one further and further on.

        Whoever holds a refused port, another node of the same block for one, mostly holds those beside it too.

        Args:
            leases: All rows.
            excluded: Ports that were tried for this lease and are taken by somebody else.

        Raises:
            RequestRejected: NO_CAPACITY (409).
        """
        taken = {lease.ssh_port for lease in leases} | set(excluded)
        free = [port for port in self.ssh_ports if port not in taken]
        if not free:
            raise _no_capacity(None, f"no ssh port between {self.ssh_ports[0]} and {self.ssh_ports[-1]} is free")
        return free[min((1 << len(excluded)) - 1, len(free) - 1)]

    def _select(self, selector: DeviceSelector, free: tuple[str, ...], proving: Collection[str]) -> tuple[str, ...]:
        fitting = [gpu for gpu in self.gpus if selector.model is None or selector.model.lower() in gpu.name.lower()]
        if len(fitting) < selector.count:
            raise self._unknown(f"{selector.count} x {selector.model or 'GPU'}")
        found = [gpu.uuid for gpu in fitting if gpu.uuid in free]
        if len(found) < selector.count:
            raise _no_capacity("devices", f"{len(found)} such devices are free")
        idle = [uuid for uuid in found if uuid not in proving]
        if len(idle) < selector.count:
            raise _proving(f"all but {len(idle)} of these devices")
        return tuple(idle[: selector.count])

    def _resolve(self, name: str | int) -> str:
        for gpu in self.gpus:
            if name in (gpu.uuid, gpu.index):
                return gpu.uuid
        raise self._unknown(str(name))

    def _unknown(self, name: str) -> RequestRejected:
        known = ", ".join(f"{gpu.index}: {gpu.name} {gpu.uuid}" for gpu in self.gpus) or "none, this host has no GPU"
        return RequestRejected(
            ErrorCode.UNKNOWN_DEVICE,
            f"this host has no device {name[:96]!r}",
            hint=f"devices here: {known}",
            field="devices",
            status=422,
        )


def _exceeds(field: str, wanted: str, most: str) -> RequestRejected:
    return RequestRejected(
        ErrorCode.EXCEEDS_HOST,
        f"{wanted} is more than this host offers ({most})",
        hint=f"ask for at most {most}",
        field=field,
        status=422,
    )


def _no_capacity(field: str | None, message: str) -> RequestRejected:
    return RequestRejected(
        ErrorCode.NO_CAPACITY, message, hint="ask for less, or again when a lease has ended", field=field, status=409
    )


def _proving(devices: str) -> RequestRejected:
    return RequestRejected(
        ErrorCode.NO_CAPACITY,
        f"{devices} is proving to a validator at this moment",
        hint="ask again in a minute; a proof takes seconds",
        field="devices",
        status=409,
        retry_after_seconds=PROVING_RETRY_SECONDS,
    )
