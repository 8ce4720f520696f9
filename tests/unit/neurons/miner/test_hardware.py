"""What a miner claims of its host: every GPU, the processor beside them, and what else is for lease."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import RootModel, ValidationError

from neurons.base.tls import tls_public_key
from neurons.miner.hardware import devices_of
from neurons.miner.join import entry_statement, measure_hardware
from polarise.canonical import digest_hex
from polarise.hardware import CPU_DEVICE, HardwareClaim
from polarise.registry import STATEMENT_KIND, open_entry
from polarise.statement import SignedStatement, sign_statement
from tests.support.identities import People, node_identity
from tests.support.miners import engineless
from tests.support.proving_miner import CPU, MINER, entry_of
from utils import host
from utils.gpu import Gpu

CARDS = tuple(Gpu(index, f"GPU-{index}", "NVIDIA H200", 1 << 37) for index in range(16))


def test_processor_stands_behind_the_gpus_so_that_an_index_stays_a_place() -> None:
    assert [device.uuid for device in devices_of(CARDS[:2], claim_cpu=True)] == ["GPU-0", "GPU-1", CPU_DEVICE]
    assert [device.uuid for device in devices_of(CARDS[:2], claim_cpu=False)] == ["GPU-0", "GPU-1"]


def test_host_without_gpus_has_its_processor_whatever_the_setting() -> None:
    for claim_cpu in (True, False):
        (processor,) = devices_of((), claim_cpu=claim_cpu)
        assert (processor.uuid, processor.kind) == (CPU_DEVICE, "cpu")


def test_sixteen_gpus_and_the_processor_fit_into_an_entry_and_one_more_does_not() -> None:
    most = devices_of(CARDS, claim_cpu=True)
    claim = HardwareClaim(cpu_model="x", cpu_milli=1, memory_bytes=1, devices=most)
    assert len(claim.devices) == 17
    with pytest.raises(ValidationError, match="at most 17"):
        HardwareClaim(
            cpu_model="x",
            cpu_milli=1,
            memory_bytes=1,
            devices=(*most, CPU.model_copy(update={"uuid": "GPU-16"})),
        )


def test_join_claims_disk_and_what_the_owner_says_of_the_network(tmp_path: Path, people: People) -> None:
    config = engineless(people, miner={"network_bits_per_second": 10**9})
    identity = node_identity("measured miner", people.owner)
    claim = measure_hardware(config, identity, tmp_path, lambda _device: None)
    assert claim.network_bits_per_second == 10**9
    assert 0 < claim.disk_bytes <= 2 * host.disk_free_bytes(tmp_path)
    plain = open_entry(entry_statement(config, identity, "http://127.0.0.1:1", claim))
    assert (plain.hardware, plain.tls_public_key) == (claim, None)
    over_tls = open_entry(entry_statement(config, identity, "https://m.example:1", claim))
    assert over_tls.tls_public_key == tls_public_key(identity)


def test_entry_of_before_still_opens_under_the_name_it_had() -> None:
    """Its signed body has neither disk nor network; what is missing is no claim, and nothing is added to what was signed."""
    statement = entry_of()
    hardware = dict(statement.body["hardware"])  # type: ignore[call-overload]  # it is an object
    del hardware["disk_bytes"], hardware["network_bits_per_second"]
    old = _signed_without({**statement.body, "hardware": hardware})
    read = SignedStatement.model_validate_json(old.model_dump_json())
    entry = open_entry(read)
    assert (entry.hardware.disk_bytes, entry.hardware.network_bits_per_second) == (0, 0)
    assert read.digest() == old.digest() == digest_hex(old.to_wire())
    assert "disk_bytes" not in str(read.to_wire())


def _signed_without(body: dict[str, object]) -> SignedStatement:
    """Sign a body as it stands, as a version did that knew no more fields."""
    return sign_statement(MINER, STATEMENT_KIND, RootModel[dict[str, object]](body))
