"""Disks of leases without any mount: sizes, what a request may ask for, what is promised together, what is refused."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from neurons.miner import disk_offer
from neurons.miner.admission import DISK_BYTES_MAX, Admission
from neurons.miner.disk import GRANULE_BYTES, HIDDEN, DiskFailed, LeaseDisks, inodes_of, outside_of, round_size
from neurons.miner.lease import LeaseId
from neurons.setup.check import Status
from neurons.setup.checks.lease_disk import LeaseDiskFacts, check_disk_encryption, check_lease_disk, obstacle
from polarise.errors import ConfigError, ErrorCode, RequestRejected, Unavailable
from polarise.messages import AllocateRequest
from polarise.receipt import Limits
from tests.support import disks
from tests.support.engine import DEAD_ENGINE
from tests.unit.neurons.miner.test_running import DEFAULTS
from utils.docker_utils import connect
from utils.mounts import MountedAt

RENTER = "ab" * 32
DISK = "0:52"


@pytest.fixture(name="client")
def client_of_no_engine() -> Iterator[docker.DockerClient]:
    client = connect(DEAD_ENGINE)
    yield client
    client.close()


def limits_of(client: docker.DockerClient, folder: Path, mode: str, **request: str) -> Limits:
    admission = Admission(DEFAULTS, disks.disk_offer(client, folder, mode=mode))
    wanted = AllocateRequest.model_validate({"ssh_public_key": None, **request})
    return admission.validate(wanted, RENTER).limits


@pytest.mark.parametrize(
    ("wanted", "size"), [(1, 1), (GRANULE_BYTES - 1, 1), (GRANULE_BYTES, 1), (GRANULE_BYTES + 1, 2), (10 << 30, 80)]
)
def test_disk_is_rounded_up_to_whole_groups_with_8192_inodes_each(wanted: int, size: int) -> None:
    assert round_size(wanted) == size * GRANULE_BYTES
    assert inodes_of(round_size(wanted)) == size * 8192


def test_request_gets_the_disk_it_names_or_the_default(client: docker.DockerClient, tmp_path: Path) -> None:
    named = limits_of(client, tmp_path, "loop", disk="200m")
    assert (named.disk_bytes, named.disk_inodes) == (256 << 20, 16384)
    assert limits_of(client, tmp_path, "auto").disk_bytes == 256 << 20
    assert limits_of(client, tmp_path, "none").disk_bytes is None


def test_disk_that_cannot_be_given_is_refused_by_name(client: docker.DockerClient, tmp_path: Path) -> None:
    for mode, wanted, code in (
        ("none", "1g", ErrorCode.NOT_SUPPORTED),
        ("loop", "32t", ErrorCode.EXCEEDS_HOST),
    ):
        with pytest.raises(RequestRejected) as caught:
            limits_of(client, tmp_path, mode, disk=wanted)
        assert (caught.value.code, caught.value.field, caught.value.status) == (code, "disk", 422)
    assert limits_of(client, tmp_path, "loop", disk="32767g").disk_bytes == DISK_BYTES_MAX - (1 << 30)


def test_capacity_is_what_is_free_and_what_disks_hold_already(
    client: docker.DockerClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neurons.miner.disk_offer.host.disk_free_bytes", lambda _folder: 10 << 30)
    elsewhere = [0]
    monkeypatch.setattr("neurons.miner.disk_offer.loops.growth_bytes", lambda _folder, *, leave_out: elsewhere[0])
    offer = disks.disk_offer(client, tmp_path, total_bytes=None, reserve_bytes=1 << 30)
    assert offer.capacity_bytes() == 9 << 30
    file = offer.disks.files(LeaseId("a" * 32)).file
    file.parent.mkdir(parents=True)
    with file.open("wb") as handle:
        handle.write(os.urandom(1 << 20))
        handle.truncate(1 << 30)
    os.sync()
    assert 1 << 20 <= offer.disks.allocated_bytes() < 2 << 20
    assert offer.capacity_bytes() == (9 << 30) + offer.disks.allocated_bytes()
    elsewhere[0] = 2 << 30
    assert offer.capacity_bytes() == (7 << 30) + offer.disks.allocated_bytes()
    assert disks.disk_offer(client, tmp_path, total_bytes=5).capacity_bytes() == 5
    assert disks.disk_offer(client, tmp_path, total_bytes=None, reserve_bytes=1 << 60).capacity_bytes() == 0
    assert disks.disk_offer(client, tmp_path, mode="none").capacity_bytes() == 0


def test_host_without_what_it_takes_is_told_with_the_fix() -> None:
    able = LeaseDiskFacts()
    assert obstacle(able) is None
    assert check_lease_disk(able).status is Status.OK
    for facts, word in (
        (LeaseDiskFacts(is_root=False), "root"),
        (LeaseDiskFacts(missing=("mkfs.ext4",)), "mkfs.ext4"),
        (LeaseDiskFacts(has_loop_devices=False), "loop"),
    ):
        check = check_lease_disk(facts)
        assert check.status is Status.WARN
        assert word in check.measured
        assert check.fix
        assert check_disk_encryption(facts).status is Status.WARN
    assert check_disk_encryption(able).status is Status.OK
    without = LeaseDiskFacts(has_encryption=False)
    assert check_lease_disk(without).status is Status.OK
    assert "CONFIG_FS_ENCRYPTION" in str(check_disk_encryption(without).fix)


def test_disk_that_must_be_and_cannot_keeps_the_node_from_starting(
    client: docker.DockerClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_offer, "measure_lease_disk", lambda: LeaseDiskFacts(is_root=False))
    with pytest.raises(ConfigError, match="only root"):
        disks.disk_offer(client, tmp_path, mode="loop").prepare()
    offer = disks.disk_offer(client, tmp_path, mode="auto")
    offer.prepare()
    assert "only root" in str(offer.why_none())
    assert offer.capacity_bytes() == 0


def test_encryption_that_must_be_and_cannot_keeps_the_node_from_starting(
    client: docker.DockerClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where there are no disks at all; `auto` and `off` go on without."""
    made: list[bool] = []
    monkeypatch.setattr(LeaseDisks, "try_out", lambda _self, *, is_encrypted=False: made.append(is_encrypted))
    monkeypatch.setattr(disk_offer, "measure_lease_disk", lambda: LeaseDiskFacts(has_encryption=False))
    for mode in ("auto", "none"):
        with pytest.raises(ConfigError, match="cannot be encrypted") as caught:
            disks.disk_offer(client, tmp_path, mode=mode, encryption="required").prepare()
        assert caught.value.key_path == "docker.disk_encryption"
    assert made == []
    without = disks.disk_offer(client, tmp_path, encryption="auto")
    without.prepare()
    assert (made, without.encrypts(), without.describe()) == ([False], False, "one per lease, not encrypted")
    monkeypatch.setattr(disk_offer, "measure_lease_disk", LeaseDiskFacts)
    for encryption, is_encrypted in (("auto", True), ("required", True), ("off", False)):
        made.clear()
        offer = disks.disk_offer(client, tmp_path, encryption=encryption)
        offer.prepare()
        assert (made, offer.encrypts()) == ([is_encrypted], is_encrypted)


def test_disk_that_only_its_encryption_spoils_is_given_without(
    client: docker.DockerClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_self: LeaseDisks, *, is_encrypted: bool = False) -> None:
        if is_encrypted:
            raise DiskFailed("no such cipher")

    monkeypatch.setattr(LeaseDisks, "try_out", refuse)
    monkeypatch.setattr(disk_offer, "measure_lease_disk", LeaseDiskFacts)
    offer = disks.disk_offer(client, tmp_path, encryption="auto")
    offer.prepare()
    assert (offer.why_none(), offer.encrypts()) == (None, False)
    with pytest.raises(ConfigError, match="no such cipher"):
        disks.disk_offer(client, tmp_path, encryption="required").prepare()


def test_folder_that_others_may_write_or_mount_cannot_name_is_refused(tmp_path: Path) -> None:
    for name in ("a:b", "a,b", "a b", "a\\b"):
        with pytest.raises(DiskFailed, match="character"):
            disk_offer.check_folder(tmp_path / name / "node")
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(DiskFailed, match="nobody else may write"):
        disk_offer.check_folder(shared / "node")
    linked = tmp_path / "linked"
    linked.symlink_to(tmp_path)
    with pytest.raises(DiskFailed, match="nobody else may write"):
        disk_offer.check_folder(linked / "node")
    disk_offer.check_folder(tmp_path / "own" / "node")


def test_namespace_of_who_listens_on_a_socket_is_found(tmp_path: Path) -> None:
    path = tmp_path / "engine.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        assert disk_offer.engine_namespace(path) == Path("/proc/self/ns/mnt").readlink()


def test_engine_that_is_down_is_asked_again(client: docker.DockerClient) -> None:
    with pytest.raises(Unavailable):
        disk_offer.engine_obstacle(client, None)


ROOT = MountedAt("0:50", "/", True, "overlay", "overlay")
USR, VAR = (MountedAt(DISK, point, False, "overlay", "polarise-0-1") for point in ("/usr", "/var"))
COVER = MountedAt("0:61", HIDDEN, True, "tmpfs", "tmpfs")
HARMLESS = (
    COVER,
    MountedAt("0:60", "/dev/shm", False, "tmpfs", "shm"),
    MountedAt("254:0", "/etc/hosts", True, "ext4", "/dev/vda"),
)


def test_container_whose_folders_are_all_on_its_disk_is_in_order() -> None:
    assert list(outside_of(DISK, ["usr", "var"], [ROOT, USR, VAR, *HARMLESS])) == []


@pytest.mark.parametrize(
    ("mounts", "said"),
    [
        ([MountedAt("0:50", "/", False, "overlay", "overlay"), USR, VAR], "root of the container"),
        ([USR, VAR], "root of the container"),
        ([ROOT, USR], "/var is not on the disk"),
        ([ROOT, USR, VAR, MountedAt("0:51", "/var", False, "overlay", "other")], "/var is not on the disk"),
        ([ROOT, USR, VAR, MountedAt("254:0", "/var/lib/data", False, "ext4", "/dev/vda")], "/var/lib/data"),
        ([ROOT, USR, VAR, MountedAt("0:70", "/workspace", False, "btrfs", "/dev/sda")], "/workspace"),
        ([ROOT, USR, VAR], "disks of other leases can be seen"),
        (
            [ROOT, USR, VAR, COVER, MountedAt("0:20", HIDDEN, True, "sysfs", "sysfs")],
            "disks of other leases can be seen",
        ),
    ],
)
def test_what_can_be_written_outside_of_the_disk_is_named(mounts: list[MountedAt], said: str) -> None:
    assert said in "; ".join(outside_of(DISK, ["usr", "var"], mounts))
