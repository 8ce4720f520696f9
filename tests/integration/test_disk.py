"""The disk of a lease: what is written stops at its size, whoever writes where, and nothing of it stays behind."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docker.types import Mount

from neurons.miner.container import ContainerManager
from neurons.miner.disk import GRANULE_BYTES, LeaseDisks, inodes_of, round_size
from neurons.miner.lease import LeaseId
from neurons.miner.node import MinerNode
from neurons.miner.reconcile import Reconciler
from polarise.errors import ErrorCode, RequestRejected, Unavailable
from polarise.messages import AllocateRequest
from polarise.receipt import Receipt
from polarise.signing import Identity
from polarise.ssh_keys import generate_key_pair
from tests.support.disk_leases import disk_file, kill, lease_of, rented
from tests.support.disks import FOLDER, left_over
from tests.support.engine import engine, remove_everything_of
from tests.support.identities import People, fresh_node_identity
from tests.support.miners import RunningMiner, miner_config, running, wait_until
from tests.support.ssh import Login
from utils.clock import SystemClock
from utils.host import disk_free_bytes
from utils.loops import growth_bytes

pytestmark = [pytest.mark.docker, pytest.mark.disk]

SMALLEST = GRANULE_BYTES
# Asks for more than there is, until it is refused; says how much it got.
FILL = (
    "dd if=/dev/zero of=/home/big bs=1M count=4096 conv=fsync 2>&1 | grep -c 'No space left'; stat -c %s /home/big; "
    "dd if=/dev/zero of=/home/rest bs=4k conv=fsync 2>/dev/null || true"
)
FILL_INODES = """
import os
count = 0
os.mkdir("/srv/files")
try:
    while count < 100_000:
        os.close(os.open(f"/srv/files/{count}", os.O_CREAT | os.O_WRONLY))
        count += 1
except OSError as err:
    print(count, err.errno)
"""


def test_full_disk_stops_at_its_size_and_lets_its_tenant_in(
    miner: RunningMiner, people: People, tmp_path: Path
) -> None:
    with rented(miner, people, tmp_path) as (answer, login):
        assert answer.limits.disk_bytes == SMALLEST
        assert login.output("df -B1 --output=size /var /root /tmp | sort -un").split()[1:] == [str(SMALLEST)]
        refused, written = login.output(FILL).split()
        assert refused == "1"
        assert SMALLEST * 9 // 10 < int(written) < SMALLEST
        for folder in ("/root", "/tmp", "/run", "/var/log", "/usr/bin", "/etc"):
            assert "No space left" in login.run(f"dd if=/dev/urandom of={folder}/more bs=1M count=1 conv=fsync").stderr
        assert disk_file(miner, answer).stat().st_blocks * 512 <= SMALLEST
        usage = miner.client(people.renter).container(answer.container_id).usage
        assert usage is not None
        assert usage.disk_bytes is not None
        assert SMALLEST * 95 // 100 < usage.disk_bytes <= SMALLEST
        # The miner starts a full container again, too.
        kill(answer.container_id)
        miner.reconcile()
        wait_until(lambda: login.run("true").returncode == 0, 15, "it never came back", poll_seconds=0.2)
        assert login.output("rm /home/big /home/rest && echo kept > /root/file && cat /root/file") == "kept"


def test_full_disk_lets_the_tenant_of_a_strict_lease_in_too(
    miner: RunningMiner, people: People, tmp_path: Path
) -> None:
    with rented(miner, people, tmp_path, isolation="strict") as (answer, login):
        fill = FILL.replace("/home/", "/home/renter/")
        assert login.output(fill).split()[0] == "1"
        assert login.output("id -un") == "renter"
        kill(answer.container_id)
        miner.reconcile()
        wait_until(lambda: login.run("true").returncode == 0, 15, "it never came back", poll_seconds=0.2)
        assert login.output("rm big rest && echo kept > file && cat file") == "kept"


def test_files_stop_at_the_number_of_inodes(miner: RunningMiner, people: People, tmp_path: Path) -> None:
    with rented(miner, people, tmp_path) as (answer, login):
        assert answer.limits.disk_inodes == inodes_of(SMALLEST) == 8192
        count, code = login.output(f"python3 -c '{FILL_INODES}'").split()
        assert 8000 < int(count) < 8192
        assert code == "28"
        usage = miner.client(people.renter).container(answer.container_id).usage
        assert usage is not None
        assert usage.disk_inodes == 8192
        assert login.output("echo in") == "in"


def test_nothing_outside_of_the_disk_can_be_written(miner: RunningMiner, people: People, tmp_path: Path) -> None:
    with rented(miner, people, tmp_path) as (_, login):
        for path in ("/new", "/etc/hosts", "/etc/resolv.conf", "/etc/hostname", "/etc/polarise/new"):
            assert "Read-only file system" in login.run(f"echo x >> {path}").stderr
        mounts = login.output("grep -c ' rw,.* - ext4 ' /proc/self/mountinfo || true")
        assert mounts == "0"


@pytest.mark.parametrize("isolation", ["standard", "strict"])
def test_disks_of_other_leases_cannot_be_seen(
    miner: RunningMiner, people: People, tmp_path: Path, isolation: str
) -> None:
    """The kernel tells every container which file lies behind each loop device: node, lease, and how large."""
    with rented(miner, people, tmp_path, isolation=isolation) as (answer, login):
        own = str(disk_file(miner, answer))
        assert own in subprocess.check_output(["losetup", "--all", "--noheadings"], text=True)
        assert login.run("cat /sys/block/*/loop/backing_file /sys/class/block/*/loop/backing_file").stdout == ""
        assert login.run(f"grep -rs {own} /sys/devices /sys/block/ /sys/dev").stdout == ""


def test_packages_can_be_installed_and_files_copied(miner: RunningMiner, people: People, tmp_path: Path) -> None:
    """What a tenant does first: dpkg, a user of its own, links and folders of the image replaced, sftp."""
    build = (
        "mkdir -p /tmp/p/DEBIAN /tmp/p/usr/bin && printf '#!/bin/sh\\necho works\\n' > /tmp/p/usr/bin/tool && "
        "chmod 755 /tmp/p/usr/bin/tool && printf 'Package: tool\\nVersion: 1\\nArchitecture: all\\n"
        "Maintainer: a <a@b.c>\\nDescription: d\\n' > /tmp/p/DEBIAN/control && dpkg-deb --build /tmp/p /tmp/t.deb && "
        "dpkg -i /tmp/t.deb && useradd -m someone && su someone -c tool"
    )
    with rented(miner, people, tmp_path, disk="256m") as (answer, login):
        assert login.output(build).splitlines()[-1] == "works"
        assert login.output("rm -r /usr/share/doc && mkdir /usr/share/doc && ls /usr/share/doc") == ""
        sent = tmp_path / "sent"
        sent.write_bytes(b"\x00" * 100_000)
        with login._prepared() as (arguments, environ):
            options = [part.replace("-p", "-P") if part == "-p" else part for part in arguments[1:-1]]
            options = options[: options.index("-l")] + options[options.index("-l") + 2 :]
            command = ["sftp", *options, "-b", "-", "root@127.0.0.1"]
            subprocess.run(command, env=environ, input=f"put {sent} /root/sent\n", text=True, check=True, timeout=30)
        assert login.output("stat -c %s /root/sent") == "100000"
        assert answer.limits.disk_bytes == 256 << 20


def test_disk_is_mounted_again_after_a_reboot(people: People, own_identity: Identity, tmp_path: Path) -> None:
    """A reboot takes the mounts and stops the container; row, file and container are left. So it is without encryption."""
    config = miner_config(people, docker={"disk_encryption": "off"})
    with (
        running(MinerNode(config, tmp_path / "node", own_identity)) as miner,
        rented(miner, people, tmp_path) as (answer, login),
    ):
        login.output("echo kept > /root/file; echo changed > /etc/motd; sync")
        kill(answer.container_id)
        files = miner.allocator.manager.disks.files(lease_of(miner, answer).lease_id)
        subprocess.run(["umount", files.root, files.filesystem], check=True)
        miner.reconcile()
        wait_until(lambda: login.run("true").returncode == 0, 15, "it never came back", poll_seconds=0.2)
        assert login.output("cat /root/file /etc/motd").split() == ["kept", "changed"]
        receipt = miner.client(people.renter).renew(answer.container_id, 60).receipt.open("receipt", Receipt)
        assert receipt.limits == answer.limits


def test_lease_whose_disk_is_lost_ends(miner: RunningMiner, people: People, tmp_path: Path) -> None:
    with rented(miner, people, tmp_path) as (answer, _):
        files = miner.allocator.manager.disks.files(lease_of(miner, answer).lease_id)
        kill(answer.container_id)
        subprocess.run(["umount", files.root, files.filesystem], check=True)
        files.file.unlink()
        miner.reconcile()
        assert miner.client(people.renter).containers() == ()


def test_left_over_disk_goes_and_those_of_other_nodes_stay(miner: RunningMiner, people: People) -> None:
    own, image_id = miner.allocator.manager.disks, _image_id(miner)
    other = LeaseDisks(FOLDER, "0" * 12, own.trees)
    for disks in (own, other):
        disks.make(LeaseId("a" * 32), SMALLEST, image_id)
    try:
        (own.files(LeaseId("a" * 32)).root / "root" / "file").write_text("left by a tenant", encoding="ascii")
        miner.reconcile()
        assert left_over(miner.node_id) == []
        assert other.usage(LeaseId("a" * 32)) is not None
    finally:
        other.remove(LeaseId("a" * 32))
    assert left_over("0" * 12) == []


def test_disk_of_another_node_is_not_promised_a_second_time(miner: RunningMiner) -> None:
    """Its file has next to nothing in it yet; all of its size counts against what this node can give."""
    other = LeaseDisks(FOLDER, "3" * 12, miner.allocator.manager.disks.trees)
    image_id, size = _image_id(miner), 16 << 30
    before = miner.node.disk_offer.capacity_bytes()
    try:
        other.make(LeaseId("d" * 32), size, image_id)
        assert before - miner.node.disk_offer.capacity_bytes() > size * 3 // 4
    finally:
        other.remove(LeaseId("d" * 32))
        other.folder.rmdir()


@pytest.mark.alone
def test_room_that_two_nodes_promise_at_the_same_moment_is_promised_by_one_at_most(
    people: People, own_identity: Identity, tmp_path: Path
) -> None:
    """Another node's disk comes to be after this one has looked at what is free, and before it hands the lease out."""
    others: list[LeaseDisks] = []

    def promise(step: str) -> None:
        if step != "allocate.reserved" or others:
            return
        others.append(LeaseDisks(FOLDER, "4" * 12, miner.allocator.manager.disks.trees))
        free = miner.allocator.inventory.disk_capacity()
        others[0].make(LeaseId("e" * 32), round_size(free - (1 << 30)), _image_id(miner))

    # All but 16 GiB of what there is stays for other tests.
    reserve = max(0, disk_free_bytes(FOLDER) - growth_bytes(FOLDER, leave_out=FOLDER / "none") - (16 << 30))
    config = miner_config(people, docker={"reserve_disk": str(reserve)})
    node = MinerNode(config, tmp_path / "node", own_identity, reach=promise)
    with running(node) as miner:
        try:
            with pytest.raises(Unavailable, match="went to somebody else on this host"):
                miner.client(people.renter).allocate(AllocateRequest(disk="4g"))
            assert miner.allocator.journal.all() == []
            assert left_over(miner.node_id) == []
        finally:
            for other in others:
                other.remove(LeaseId("e" * 32))
                other.folder.rmdir()
        # Alone it may have it.
        client = miner.client(people.renter)
        client.terminate(client.allocate(AllocateRequest(disk="4g")).container_id)


def test_disk_that_somebody_looks_into_goes_all_the_same(miner: RunningMiner) -> None:
    """An operator's shell in the folder holds up no end of a lease; the loop device goes when the shell does."""
    disks = miner.allocator.manager.disks
    disks.make(LeaseId("b" * 32), SMALLEST, _image_id(miner))
    with (disks.files(LeaseId("b" * 32)).root / "etc" / "passwd").open():
        disks.remove(LeaseId("b" * 32))
        assert disks.known() == []
    wait_until(lambda: left_over(miner.node_id) == [], 10, "the loop device is left")


def test_lease_without_the_disk_it_was_promised_is_not_handed_out(
    miner: RunningMiner, people: People, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image with a volume of its own, an engine that drops an option, a folder that is another disk's."""
    honest = ContainerManager.create_options
    outside = tmp_path / "outside"
    outside.mkdir()
    extra = Mount("/var/lib/outside", str(outside), type="bind", read_only=False)
    cheats: tuple[tuple[str, Any], ...] = (
        ("root of the container", lambda options: options | {"read_only": False}),
        (
            "/srv is not on the disk",
            lambda options: options | {"mounts": [m for m in options["mounts"] if m["Target"] != "/srv"]},
        ),
        ("/var/lib/outside", lambda options: options | {"mounts": [*options["mounts"], extra]}),
    )
    for said, cheat in cheats:
        with monkeypatch.context() as patched:
            patched.setattr(ContainerManager, "create_options", lambda self, lease, c=cheat: c(honest(self, lease)))
            with pytest.raises(Unavailable, match=said):
                miner.client(people.renter).allocate(AllocateRequest())
        assert left_over(miner.node_id) == []
        assert miner.allocator.journal.all() == []


def test_more_disk_than_there_is_is_refused_by_name(miner: RunningMiner, people: People, tmp_path: Path) -> None:
    client, most = miner.client(people.renter), miner.allocator.inventory.disk_capacity()
    with pytest.raises(RequestRejected) as caught:
        client.allocate(AllocateRequest(disk="30t"))
    assert (caught.value.code, caught.value.field) == (ErrorCode.EXCEEDS_HOST, "disk")
    # So much that what other miners promise meanwhile makes no difference.
    with rented(miner, people, tmp_path, disk="8g"):
        with pytest.raises(RequestRejected) as caught:
            client.allocate(AllocateRequest(disk=str(most - (4 << 30))))
        assert (caught.value.code, caught.value.field) == (ErrorCode.NO_CAPACITY, "disk")


@pytest.fixture(name="own_identity")
def identity_of_the_test_s_own(people: People) -> Iterator[Identity]:
    made = fresh_node_identity(people.owner)
    yield made
    remove_everything_of(made.public_key[:12])


def test_miner_without_disks_says_so_and_leases_as_before(
    people: People, own_identity: Identity, tmp_path: Path
) -> None:
    config = miner_config(people, docker={"disk": "none"})
    with running(MinerNode(config, tmp_path / "node", own_identity)) as miner:
        with pytest.raises(RequestRejected, match=r"docker.disk is none") as caught:
            miner.client(people.renter).allocate(AllocateRequest(disk="1g"))
        assert (caught.value.code, caught.value.field) == (ErrorCode.NOT_SUPPORTED, "disk")
        with rented(miner, people, tmp_path, disk=None) as (answer, login):
            assert (answer.limits.disk_bytes, answer.limits.disk_inodes) == (None, None)
            assert login.output("touch /new && echo made") == "made"


def test_disk_of_a_lease_outlives_the_setting(people: People, own_identity: Identity, tmp_path: Path) -> None:
    """Who turns disks off gets no new ones; those that are there are kept, mounted and removed as before."""
    with running(MinerNode(miner_config(people), tmp_path / "node", own_identity)) as miner:
        private, public = generate_key_pair()
        answer = miner.client(people.renter).allocate(AllocateRequest(ssh_public_key=public))
        login = Login.to(answer, tmp_path, private_key=private)
        login.output("echo kept > /root/file")
    config = miner_config(people, docker={"disk": "none"})
    with running(MinerNode(config, tmp_path / "node", own_identity)) as miner:
        Reconciler(miner.allocator, SystemClock()).reconcile()
        assert login.output("cat /root/file") == "kept"
        miner.client(people.renter).terminate(answer.container_id)
        assert left_over(miner.node_id) == []


def _image_id(miner: RunningMiner) -> str:
    with engine() as client:
        return str(client.images.get(miner.allocator._admission.defaults.image).id)


def test_engine_that_does_not_see_our_mounts_is_found_out() -> None:
    """As in a service manager's private mounts: a process with a mount namespace of its own asks."""
    program = (
        "from neurons.miner.disk_offer import engine_obstacle; from utils.docker_utils import connect; "
        "client = connect(None); print(engine_obstacle(client, None)); client.close()"
    )
    asked = [sys.executable, "-c", program]
    for command, said in ((asked, "None"), (["unshare", "--mount", *asked], "does not see our mounts")):
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        assert said in done.stdout
