"""Registry entries: three signatures, newest wins, broken files are skipped."""

from __future__ import annotations

import contextlib
import json
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from polarise.errors import ConfigError
from polarise.hardware import DeviceClaim, HardwareClaim
from polarise.registry import RegistryEntry, open_entry, read_entry, read_registry, write_entry
from polarise.signing import Certificate, Identity, Purpose, SignatureInvalid
from polarise.statement import SignedStatement, sign_statement
from tests.unit.polarise.small_miner import identity

OWNER, NODE, OTHER = identity(1), identity(2), identity(3)
DEVICE = DeviceClaim(
    uuid="cpu",
    kind="cpu",
    name="Test",
    memory_bytes=1 << 30,
    matmul_ops_per_second=10**9,
    pow_hashes_per_second=10**6,
)


def entry(node: Identity = NODE, owner: Identity = OWNER, **changes: object) -> RegistryEntry:
    values: dict[str, object] = {
        "node_key": node.public_key,
        "owner_key": owner.public_key,
        "owner_certificate": Certificate.issue(owner.key, node.public_key, Purpose.NODE),
        "endpoint": "http://127.0.0.1:8080",
        "advertised_host": "127.0.0.1",
        "hardware": HardwareClaim(cpu_model="Test", cpu_milli=1000, memory_bytes=1 << 30, devices=(DEVICE,)),
        "price_micros_per_hour": 0,
        "created_unix_ms": 1000,
    }
    return RegistryEntry.model_validate({**values, **changes})


def statement(body: RegistryEntry, signer: Identity = NODE) -> SignedStatement:
    return sign_statement(signer, "registry", body)


def test_an_entry_survives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "node.json"
    write_entry(path, statement(entry()))
    assert read_entry(path)[1] == entry()
    assert [found.name for found in path.parent.iterdir()] == ["node.json"]


def test_somebody_elses_entry_cannot_be_signed() -> None:
    with pytest.raises(SignatureInvalid, match="is signed by"):
        open_entry(statement(entry(), signer=OTHER))


@pytest.mark.parametrize(
    "certificate",
    [
        Certificate.issue(OTHER.key, NODE.public_key, Purpose.NODE),
        Certificate.issue(OWNER.key, OTHER.public_key, Purpose.NODE),
        Certificate.issue(OWNER.key, NODE.public_key, Purpose.STATEMENT),
        Certificate.issue(OWNER.key, NODE.public_key, Purpose.NODE).model_copy(update={"counter": 1}),
    ],
)
def test_the_owner_must_have_certified_this_node(certificate: Certificate) -> None:
    with pytest.raises(SignatureInvalid):
        open_entry(statement(entry(owner_certificate=certificate)))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("endpoint", "file:///etc/passwd"),
        ("endpoint", "http://h/path"),
        ("endpoint", "http://u@h"),
        ("endpoint", "http://h\n"),
        ("advertised_host", "-oProxyCommand=x y"),
        ("advertised_host", "a b"),
        ("price_micros_per_hour", -1),
        ("owner_key", "x"),
        ("tls_public_key", 5),
    ],
)
def test_an_entry_with_a_value_out_of_range_is_none(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        RegistryEntry.model_validate({**dict(entry()), name: value})


def test_a_folder_gives_the_newest_valid_entry_of_each_node(tmp_path: Path) -> None:
    write_entry(tmp_path / "a.json", statement(entry(created_unix_ms=2000, price_micros_per_hour=7)))
    write_entry(tmp_path / "b.json", statement(entry(created_unix_ms=1000)))
    write_entry(tmp_path / "c.json", statement(entry(OTHER), signer=OTHER))
    write_entry(tmp_path / "d.json", statement(entry(created_unix_ms=3000), signer=OTHER))
    (tmp_path / "e.json").write_text("{")
    (tmp_path / "f.json").mkdir()
    (tmp_path / "g.txt").write_text("not looked at")
    errors: list[ConfigError] = []
    found = read_registry(tmp_path, errors.append)
    assert sorted(found) == sorted([NODE.public_key, OTHER.public_key])
    assert found[NODE.public_key][1].price_micros_per_hour == 7
    assert sorted(Path(error.origin).name for error in errors) == ["d.json", "e.json", "f.json"]


def test_a_changed_file_is_refused_with_its_name(tmp_path: Path) -> None:
    wire = statement(entry()).to_wire()
    body = wire["body"]
    assert isinstance(body, dict)
    path = tmp_path / "x.json"
    path.write_text(json.dumps({**wire, "body": {**body, "price_micros_per_hour": 1}}))
    with pytest.raises(ConfigError, match=r"x\.json"):
        read_entry(path)


def test_an_oversized_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b" " * 65537)
    with pytest.raises(ConfigError, match="65537"):
        read_entry(path)


def _endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _loop(path: Path) -> None:
    path.symlink_to(path)


def _link_to_an_entry(path: Path) -> None:
    write_entry(path.with_suffix(".real"), statement(entry()))
    path.symlink_to(path.with_suffix(".real"))


def _huge(path: Path) -> None:
    with path.open("wb") as handle:
        handle.truncate(1 << 30)


@pytest.mark.parametrize("make", [os.mkfifo, _endless, _loop, _link_to_an_entry, _huge])
def test_what_is_no_plain_file_neither_blocks_nor_fills_the_reader(
    make: Callable[[Path], None], tmp_path: Path
) -> None:
    """A folder may lie where others write; the entry beside the trap is still read."""
    make(tmp_path / "a.json")
    write_entry(tmp_path / "b.json", statement(entry()))
    errors: list[ConfigError] = []
    tracemalloc.start()
    found = read_registry(tmp_path, errors.append)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert list(found) == [NODE.public_key]
    assert [Path(error.origin).name for error in errors] == ["a.json"]
    assert peak_bytes < 4 << 20


@pytest.mark.parametrize(("count", "is_accepted"), [(17, True), (18, False)])
def test_host_offers_no_more_devices_than_an_epoch_can_examine(count: int, is_accepted: bool) -> None:
    devices = tuple(DEVICE.model_copy(update={"uuid": f"GPU-{index}"}) for index in range(count))
    with contextlib.nullcontext() if is_accepted else pytest.raises(ValueError, match="at most 17"):
        HardwareClaim(cpu_model="Test", cpu_milli=1000, memory_bytes=1 << 30, devices=devices)
