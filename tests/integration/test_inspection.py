"""The inspection of a real container: disk, processors, memory and bandwidth against what the miner claims."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docker.models.containers import Container

from neurons.miner.container import ContainerManager
from neurons.miner.lease import Lease
from neurons.miner.node import MinerNode
from neurons.validator.bandwidth import NetworkTrial
from neurons.validator.findings import Findings
from neurons.validator.inspection import TRANSFER_BYTES, Inspector
from neurons.validator.probe import DISK_BYTES
from polarise.canonical import canonical_bytes
from polarise.decode import decode_model
from polarise.errors import RejectReason
from polarise.evidence import InspectionEvidence
from polarise.hardware import HardwareClaim
from tests.support.engine import remove_everything_of
from tests.support.identities import People, fresh_node_identity
from tests.support.miners import RunningMiner, miner_config, running
from tests.support.proving_miner import CPU
from utils import host

pytestmark = pytest.mark.docker


def inspect(miner: RunningMiner, people: People, **claims: int) -> InspectionEvidence:
    """Inspect as the validator of the test, with this host's own figures as claims but for what a test changes."""
    inventory = miner.allocator.inventory
    honest = {
        "cpu_milli": inventory.cpu_milli,
        "memory_bytes": inventory.memory_bytes,
        "disk_bytes": host.disk_free_bytes(miner.node.data_dir.root),
        "network_bits_per_second": 1_000_000_000,
    }
    hardware = HardwareClaim(cpu_model="this one", devices=(CPU,), **{**honest, **claims})
    inspector = Inspector(people.validator.public_key, memory_bytes=256 << 20, cpu_milli=500, allow_private=True)
    return inspector.inspect(miner.client(people.validator), hardware=hardware)


def findings_of(evidence: InspectionEvidence) -> Findings:
    assert evidence.findings is not None
    return decode_model(Findings, canonical_bytes(evidence.findings))  # type: ignore[arg-type]  # JSON


def test_honest_claims_hold_and_figures_are_kept(miner: RunningMiner, people: People) -> None:
    evidence = inspect(miner, people)
    assert evidence.verdict.is_passed, evidence.verdict
    findings = findings_of(evidence)
    disk, network = findings.disk, findings.network
    assert disk is not None
    assert disk.is_intact
    assert disk.written_bytes == min(DISK_BYTES, disk.free_bytes // 4)
    assert isinstance(network, NetworkTrial)
    assert network.sent_bytes == network.received_bytes == TRANSFER_BYTES
    assert network.bits_per_second > 0
    assert miner.allocator.journal.all() == []


@pytest.fixture(name="diskless_miner", scope="module")
def miner_without_disks_for_leases(people: People, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMiner]:
    """From inside its containers the host's disk can be seen."""
    identity = fresh_node_identity(people.owner)
    config = miner_config(people, docker={"disk": "none"})
    with running(MinerNode(config, tmp_path_factory.mktemp("diskless"), identity)) as miner:
        yield miner
    remove_everything_of(identity.public_key[:12])


def test_honest_claims_hold_where_leases_share_the_host_s_disk(diskless_miner: RunningMiner, people: People) -> None:
    evidence = inspect(diskless_miner, people)
    assert evidence.verdict.is_passed, evidence.verdict


@pytest.mark.parametrize("name", ["cpu_milli", "memory_bytes", "disk_bytes"])
def test_claim_beyond_what_is_there_is_not_met(diskless_miner: RunningMiner, people: People, name: str) -> None:
    claimed = {"cpu_milli": 1_000_000, "memory_bytes": 1 << 50, "disk_bytes": 1 << 52}[name]
    verdict = inspect(diskless_miner, people, **{name: claimed}).verdict
    assert verdict.reason is RejectReason.CLAIM_NOT_MET
    assert name in verdict.message
    assert verdict.got
    assert verdict.expected


class DisklessManager(ContainerManager):
    """Signs for a disk that it does not bind into the container, and does not look afterwards."""

    def create_options(self, lease: Lease) -> dict[str, Any]:
        options = super().create_options(lease)
        on_disk = str(self.disks.files(lease.lease_id).root)
        kept = [mount for mount in options["mounts"] if not mount["Source"].startswith(on_disk)]
        return options | {"mounts": kept, "read_only": False}

    def check_limits(self, container: Container, lease: Lease) -> None:
        """Find everything in order."""


@pytest.mark.disk
def test_disk_that_is_promised_and_not_there_is_a_broken_promise(people: People, tmp_path: Path) -> None:
    class Node(MinerNode):
        def build_manager(self, manager: ContainerManager) -> ContainerManager:
            return DisklessManager(
                manager.client, manager.settings, manager.network, manager.mount_events, manager.disks
            )

    identity = fresh_node_identity(people.owner)
    try:
        with running(Node(miner_config(people), tmp_path / "node", identity)) as miner:
            verdict = inspect(miner, people).verdict
    finally:
        remove_everything_of(identity.public_key[:12])
    assert verdict.reason is RejectReason.LIMIT_NOT_HELD
    assert "disk" in verdict.message


def test_network_that_is_not_claimed_is_not_tried(miner: RunningMiner, people: People) -> None:
    evidence = inspect(miner, people, network_bits_per_second=0)
    assert evidence.verdict.is_passed, evidence.verdict
    assert findings_of(evidence).network is None
