"""The inspection of a real container: disk, processors, memory and bandwidth against what the miner claims."""

from __future__ import annotations

import pytest

from neurons.validator.bandwidth import NetworkTrial
from neurons.validator.findings import Findings
from neurons.validator.inspection import TRANSFER_BYTES, Inspector
from neurons.validator.probe import DISK_BYTES
from polarise.canonical import canonical_bytes
from polarise.decode import decode_model
from polarise.errors import RejectReason
from polarise.evidence import InspectionEvidence
from polarise.hardware import HardwareClaim
from tests.support.identities import People
from tests.support.miners import RunningMiner
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


@pytest.mark.parametrize("name", ["cpu_milli", "memory_bytes", "disk_bytes"])
def test_claim_beyond_what_is_there_is_not_met(miner: RunningMiner, people: People, name: str) -> None:
    claimed = {"cpu_milli": 1_000_000, "memory_bytes": 1 << 50, "disk_bytes": 1 << 52}[name]
    verdict = inspect(miner, people, **{name: claimed}).verdict
    assert verdict.reason is RejectReason.CLAIM_NOT_MET
    assert name in verdict.message
    assert verdict.got
    assert verdict.expected


def test_network_that_is_not_claimed_is_not_tried(miner: RunningMiner, people: People) -> None:
    evidence = inspect(miner, people, network_bits_per_second=0)
    assert evidence.verdict.is_passed, evidence.verdict
    assert findings_of(evidence).network is None
