"""Encrypted disks of leases: what lands in the file on the host, who knows the key, and what is left when it is gone."""

from __future__ import annotations

import base64
import json
import mmap
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from neurons.miner.disk import GRANULE_BYTES, DiskFiles, LeaseDisks
from neurons.miner.lease import LeaseId
from neurons.miner.node import MinerNode
from polarise.errors import ErrorCode, RequestRejected, Unavailable
from polarise.messages import AllocateRequest
from polarise.receipt import Receipt
from polarise.signing import Identity
from polarise.telemetry_client import TelemetryClient
from polarise.usage import Usage
from tests.support.disk_leases import disk_file, kill, lease_of, rented
from tests.support.disks import FOLDER, left_over
from tests.support.engine import engine, remove_everything_of
from tests.support.identities import People, fresh_node_identity
from tests.support.miners import RunningMiner, miner_config, running, wait_until
from utils import fscrypt

pytestmark = [pytest.mark.docker, pytest.mark.disk, pytest.mark.encryption]

# What the tenant's root asks of its disk: its policy, its key to go, another one to come.
ASK = """
import errno, fcntl, os
for folder in ("/root", "/etc", "/run/polarise"):
    for request in (0xc0096616, 0xc0406618, 0xc0506617):
        handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.ioctl(handle, request, bytearray(2048), True)
            print("done", folder, hex(request))
        except OSError as err:
            print(errno.errorcode[err.errno])
"""
# Adds a key, tells it in disguise, and waits to be looked at.
KEEP = """
import sys
from pathlib import Path
from utils import fscrypt
added = fscrypt._ioctl
def spy(folder, request, buffer):
    sys.stdout.write("".join(f"{byte ^ 165:02x}" for byte in memoryview(buffer)[80:144]) + chr(10))
    added(folder, request, buffer)
fscrypt._ioctl = spy
fscrypt.add_random_key(Path(sys.argv[1]))
print("done", flush=True)
sys.stdin.read()
"""


@pytest.fixture(name="own_identity")
def identity_of_the_test_s_own(people: People) -> Iterator[Identity]:
    made = fresh_node_identity(people.owner)
    yield made
    remove_everything_of(made.public_key[:12])


@contextmanager
def empty_disk(node_id: str) -> Iterator[DiskFiles]:
    """A mounted file system of a node of the test's own, able to encrypt."""
    disks = LeaseDisks(FOLDER, node_id, None)  # type: ignore[arg-type]  # no image is looked for
    files = disks.files(LeaseId("c" * 32))
    try:
        disks._format(files, GRANULE_BYTES, is_encrypted=True)
        disks._mount_file(files)
        yield files
    finally:
        disks.remove(LeaseId("c" * 32))
        disks.folder.rmdir()


def is_in(file: Path, needle: bytes) -> bool:
    with file.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        return mapped.find(needle) >= 0


def known_keys() -> str:
    """What the kernel shows of keys; those of disks are in it by their identifiers."""
    return Path("/proc/keys").read_text(encoding="ascii")


def test_what_a_tenant_writes_is_in_the_file_only_without_encryption(
    miner: RunningMiner, people: People, own_identity: Identity, tmp_path: Path
) -> None:
    """Contents, names and targets of links; both disks are written alike and searched alike."""
    plain = miner_config(people, docker={"disk_encryption": "off"})
    with running(MinerNode(plain, tmp_path / "node", own_identity)) as other:
        for market, is_encrypted in ((miner, True), (other, False)):
            pattern, name, target = secrets.token_hex(32), secrets.token_hex(16), secrets.token_hex(64)
            with rented(market, people, tmp_path) as (answer, login):
                assert answer.limits.disk_encrypted is is_encrypted
                assert answer.receipt.open("receipt", Receipt).limits.disk_encrypted is is_encrypted
                (view,) = market.client(people.renter).containers()
                assert view.limits.disk_encrypted is is_encrypted
                login.output(
                    f"mkdir /srv/d && echo {pattern} > /srv/d/{name} && ln -s {target} /srv/d/link && "
                    f"echo {pattern} >> /etc/motd && sync"
                )
                os.sync()
                found = [is_in(disk_file(market, answer), text.encode()) for text in (pattern, name, target)]
                assert found == [not is_encrypted] * 3
                assert login.output(f"cat /srv/d/{name}") == pattern


def test_key_is_nowhere_but_in_the_kernel_and_goes_with_the_lease(
    miner: RunningMiner,
    people: People,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen: list[tuple[bytes, bytearray]] = []
    ask = fscrypt._ioctl

    def spy(folder: Path, request: int, buffer: bytearray) -> None:
        if request == fscrypt._ADD_KEY:
            seen.append((bytes(buffer[80:144]), buffer))
        ask(folder, request, buffer)

    monkeypatch.setattr(fscrypt, "_ioctl", spy)
    with rented(miner, people, tmp_path) as (answer, login):
        ((key, buffer),) = seen
        assert len(set(key)) > 32
        assert bytes(buffer[80:144]) == bytes(64)
        texts = [
            key,
            key.hex().encode(),
            base64.b64encode(key),
            base64.urlsafe_b64encode(key),
            repr(key)[2:-1].encode(),
        ]
        with engine() as client:
            inspected = json.dumps(client.api.inspect_container(answer.container_id)).encode()
            logged = client.containers.get(answer.container_id).logs()
        files = miner.allocator.manager.disks.files(lease_of(miner, answer).lease_id)
        root = miner.node.data_dir.root
        kept = [path.read_bytes() for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
        assert any(answer.container_id.encode() in content for content in kept)
        for text in texts:
            assert not any(text in content for content in (inspected, logged, caplog.text.encode(), *kept))
            assert not is_in(files.file, text)
        assert set(login.output(f"python3 -c '{ASK}'").split()) <= {"ENOTTY", "ENOTSUP"}
        identifier = fscrypt.key_of(files.encrypted)
        assert identifier is not None
        assert identifier.hex() in known_keys()
        # Somebody looks into the disk when the lease ends: the file system stays until then, its key does not.
        held = os.open(files.filesystem, os.O_RDONLY)
        try:
            assert fscrypt.has_key(Path(f"/proc/self/fd/{held}"), identifier)
            miner.client(people.renter).terminate(answer.container_id)
            assert not fscrypt.has_key(Path(f"/proc/self/fd/{held}"), identifier)
        finally:
            os.close(held)
    assert identifier.hex() not in known_keys()


def test_process_that_made_a_key_does_not_hold_it() -> None:
    """Its whole memory is searched, from outside; that the search works is shown by what it does hold."""
    with (
        empty_disk("1" * 12) as files,
        subprocess.Popen(
            [sys.executable, "-c", KEEP, str(files.filesystem)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process,
    ):
        assert process.stdout is not None
        disguised = bytes.fromhex(process.stdout.readline().decode())
        assert process.stdout.readline() == b"done\n"
        key = bytes(byte ^ 165 for byte in disguised)
        memory = list(memory_of(process.pid))
        assert process.stdin is not None
        process.stdin.close()
        assert sum(disguised.hex().encode() in part for part in memory) > 0
        assert sum(key[:16] in part or key[-16:] in part for part in memory) == 0
    assert left_over("1" * 12) == []


def memory_of(pid: int) -> Iterator[bytes]:
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as handle:
        for line in Path(f"/proc/{pid}/maps").read_text(encoding="utf-8").splitlines():
            begin, end = (int(text, 16) for text in line.split()[0].split("-"))
            if "rw" in line.split()[1]:
                handle.seek(begin)
                yield handle.read(end - begin)


def test_restart_of_the_container_keeps_the_data(miner: RunningMiner, people: People, tmp_path: Path) -> None:
    with rented(miner, people, tmp_path) as (answer, login):
        login.output("echo kept > /root/file")
        kill(answer.container_id)
        miner.reconcile()
        wait_until(lambda: login.run("true").returncode == 0, 15, "it never came back", poll_seconds=0.2)
        assert login.output("cat /root/file") == "kept"


def test_restart_of_the_host_ends_the_lease_and_says_why(miner: RunningMiner, people: People, tmp_path: Path) -> None:
    """The mounts are gone and the key with them; row, file and container are left. Nothing is tried twice."""
    client = miner.client(people.renter)
    with rented(miner, people, tmp_path) as (answer, login):
        login.output("echo lost > /root/file; sync")
        lease = lease_of(miner, answer)
        kill(answer.container_id)
        files = miner.allocator.manager.disks.files(lease.lease_id)
        subprocess.run(["umount", files.root, files.filesystem], check=True)
        miner.reconcile()
        assert client.containers() == ()
        assert miner.allocator.journal.by_id(lease.lease_id) is None
        usage = client.usage(answer.container_id).open("usage", Usage)
        assert (usage.is_final, usage.lost) == (True, "disk_key_lost")
        with pytest.raises(RequestRejected, match="key of the lease's disk") as caught:
            client.container(answer.container_id)
        assert caught.value.code is ErrorCode.NOT_FOUND
        with pytest.raises(RequestRejected) as caught:
            miner.client(people.other_renter).container(answer.container_id)
        assert "key" not in caught.value.message
        lines = TelemetryClient(miner.url, miner.key, people.renter).events(lease.lease_id, 0).lines
        assert sum("disk_key_lost" in line for line in lines) == 1


def test_disk_that_is_not_what_the_lease_says_is_not_handed_out(
    miner: RunningMiner, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder without a policy where encryption was promised; a key that is gone again before the container runs."""
    honest = LeaseDisks._mount_layers

    def forget_first(self: LeaseDisks, files: DiskFiles, lower: Path, *, is_encrypted: bool) -> None:
        honest(self, files, lower, is_encrypted=is_encrypted)
        files._forget_key()

    cheats = (("_encrypt", lambda _self, files: files.encrypted.mkdir()), ("_mount_layers", forget_first))
    for name, cheat in cheats:
        with monkeypatch.context() as patched:
            patched.setattr(LeaseDisks, name, cheat)
            with pytest.raises(Unavailable):
                miner.client(people.renter).allocate(AllocateRequest())
        assert left_over(miner.node_id) == []
        assert miner.allocator.journal.all() == []


def test_disks_in_a_folder_that_is_reached_by_a_link_are_read_back_too(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    disks = LeaseDisks(tmp_path / "link", "4" * 12, None)  # type: ignore[arg-type]  # no image is looked for
    disks.folder.mkdir()
    disks.try_out(is_encrypted=True)
    disks.try_out(is_encrypted=False)
    assert disks.known() == []


def test_folder_is_encrypted_only_while_empty_and_used_only_while_its_key_is_there() -> None:
    with empty_disk("2" * 12) as files:
        key = fscrypt.add_random_key(files.filesystem)
        (files.filesystem / "full" / "file").mkdir(parents=True)
        with pytest.raises(OSError, match="not empty"):
            fscrypt.encrypt_folder(files.filesystem / "full", key)
        (files.filesystem / "empty").mkdir()
        assert fscrypt.key_of(files.filesystem / "empty") is None
        fscrypt.encrypt_folder(files.filesystem / "empty", key)
        assert fscrypt.key_of(files.filesystem / "empty") == key
        assert fscrypt.has_key(files.filesystem, key)
        fscrypt.remove_key(files.filesystem, key)
        fscrypt.remove_key(files.filesystem, key)
        assert not fscrypt.has_key(files.filesystem, key)
        with pytest.raises(OSError, match="key not available"):
            (files.filesystem / "empty" / "file").mkdir()
        with pytest.raises(OSError, match="exists"):
            fscrypt.encrypt_folder(files.filesystem / "empty", fscrypt.KeyId(bytes(16)))
