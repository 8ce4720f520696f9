"""What keys on no list may hold of this miner together, and from one address; with ``access.open`` a new key costs nothing.

Rules:
- Together they hold at most a share of memory, CPUs, disk, leases and private networks, each rounded down, and of GPUs,
  rounded up: a host with one GPU lends it to whoever comes.
- From one address (IPv6: one /64) they hold at most so many leases; where the address names nobody, as behind a proxy
  that the settings do not name, only the share holds.
- Whether a key is on a list is asked each time: who is put on one counts here no more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from neurons.miner.firewall_rules import PRIVATE_NETWORKS_MAX
from neurons.miner.inventory import Inventory
from neurons.miner.lease import Lease
from polarise.errors import ErrorCode, RequestRejected

_LIMITS = ("memory_bytes", "cpu_milli", "disk_bytes")


def _everybody(_key: str) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class OpenQuota:
    """The bounds for keys on no list.

    Attributes:
        share: Of everything, 0 < share <= 1.
        leases_per_address_max: Leases from one address.
        is_listed: Whether the owner or the ledger named a key.
    """

    share: float = 1.0
    leases_per_address_max: int = 1000
    is_listed: Callable[[str], bool] = _everybody

    def check(self, wanted: Lease, leases: Sequence[Lease], inventory: Inventory) -> None:
        """Refuse what free keys together would hold too much of.

        Args:
            wanted: The lease as it would be made.
            leases: Everything in the journal.
            inventory: What the host has.

        Raises:
            RequestRejected: TOO_MANY_REQUESTS (429) for the address, NO_CAPACITY (409) for the share.
        """
        if self.is_listed(wanted.renter_key):
            return
        others = [lease for lease in leases if not lease.is_slot and not self.is_listed(lease.renter_key)]
        self._check_address(wanted, others)
        share = Fraction(self.share).limit_denominator(1_000_000)
        together = [wanted, *others]
        memory, cpu, disk = (sum(getattr(lease.limits, name) or 0 for lease in together) for name in _LIMITS)
        _hold(None, len(together), max(1, int(inventory.leases_max * share)), "{} leases")
        _hold("memory", memory, int(inventory.memory_bytes * share), "{} bytes of memory")
        _hold("cpu_count", cpu, int(inventory.cpu_milli * share), "{} thousandths of a CPU")
        _hold("disk", disk, int(inventory.disk_capacity() * share), "{} bytes of disk")
        devices = sum(len(lease.devices) for lease in together)
        _hold("devices", devices, math.ceil(len(inventory.gpus) * share), "{} devices")
        networks = len({lease.private.number for lease in together if lease.private})
        _hold("private_network", networks, max(1, int(PRIVATE_NETWORKS_MAX * share)), "{} private networks")

    def _check_address(self, wanted: Lease, others: Sequence[Lease]) -> None:
        if wanted.address is None:
            return
        if sum(lease.address == wanted.address for lease in others) >= self.leases_per_address_max:
            raise RequestRejected(
                ErrorCode.TOO_MANY_REQUESTS,
                f"keys on no list hold {self.leases_per_address_max} leases from {wanted.address}, which is the most they may",
                hint="release one, or ask the owner to add your public key under access.renters",
                status=429,
            )


def _hold(field: str | None, total: int, most: int, what: str) -> None:
    if total > most:
        raise RequestRejected(
            ErrorCode.NO_CAPACITY,
            f"keys on no list may hold {what.format(most)} of this miner together, and would hold {total}",
            hint="ask its owner to add your public key under access.renters, or again when a lease has ended",
            field=field,
            status=409,
        )
