"""A miner that signs receipts with a memory limit it never sets, to sell the same memory many times.

The receipt looks right and so does the port; the validator that looks from inside sees it. Caught as LIMIT_NOT_HELD.
"""

from __future__ import annotations

from typing import Any

from docker.models.containers import Container

from neurons.miner.container import ContainerManager, SlotLost, StartedContainer
from neurons.miner.lease import Lease
from neurons.miner.node import MinerNode


class LimitlessManager(ContainerManager):
    """Asks the engine for no memory limit, and does not look afterwards."""

    def create_options(self, lease: Lease) -> dict[str, Any]:
        """Leave memory and swap out."""
        options = super().create_options(lease)
        return {name: value for name, value in options.items() if name not in {"mem_limit", "memswap_limit"}}

    def hand_over(self, lease: Lease, public_key: str | None) -> StartedContainer:
        """Lease no warm slot: it gets its limits when it is handed over."""
        raise SlotLost(f"the slot {lease.lease_id} is none of a cheat's")

    def check_limits(self, container: Container, lease: Lease) -> None:
        """Find everything in order."""


class LimitLiar(MinerNode):
    """An honest miner but for its containers."""

    def build_manager(self, manager: ContainerManager) -> ContainerManager:
        """Replace the honest manager."""
        return LimitlessManager(
            manager.client, manager.settings, manager.network, manager.mount_events, manager.disks, self.reach
        )
