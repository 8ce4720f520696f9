"""The files of a lease: what sshd reads, who may read them, and nothing a renter wrote."""

import os
import subprocess
from pathlib import Path

import pytest

from neurons.miner.login import LoginFiles, password_entry
from polarise.ssh_keys import generate_key_pair, parse_public_key


@pytest.fixture(name="files")
def login_files(tmp_path: Path) -> LoginFiles:
    return LoginFiles(tmp_path / "leases" / "one")


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_host_key_is_fresh_per_lease_and_its_public_half_is_returned(tmp_path: Path) -> None:
    lines = set()
    for name in ("one", "two"):
        files = LoginFiles(tmp_path / name)
        line = files.create(None, with_password=True)
        done = subprocess.run(
            ["ssh-keygen", "-y", "-f", str(files.mounted / "host_key")], capture_output=True, text=True, check=True
        )
        assert done.stdout.split()[:2] == line.split()
        lines.add(line)
    assert len(lines) == 2


def test_modes_keep_the_private_key_private(files: LoginFiles) -> None:
    files.create(parse_public_key(generate_key_pair()[1]), with_password=False)
    assert mode(files.mounted / "host_key") == 0o600
    assert mode(files.mounted / "authorized_keys") == 0o644
    assert mode(files.mounted) == 0o755
    assert sorted(path.name for path in files.mounted.iterdir()) == ["authorized_keys", "host_key", "sshd_config"]


def test_only_the_reserialised_key_reaches_the_file(files: LoginFiles) -> None:
    line = generate_key_pair()[1]
    files.create(parse_public_key(f"  {line} comment $(touch /tmp/x)  "), with_password=False)
    assert (files.mounted / "authorized_keys").read_text(encoding="ascii") == f"{line}\n"


def test_no_key_lets_nobody_in(files: LoginFiles) -> None:
    files.create(None, with_password=True)
    assert (files.mounted / "authorized_keys").read_bytes() == b""


def test_new_key_replaces_the_old_one_by_rename(files: LoginFiles) -> None:
    """Who has the old file open reads it to its end: the new one is another file."""
    old, new = (parse_public_key(generate_key_pair()[1]) for _ in range(2))
    files.create(old, with_password=False)
    path = files.mounted / "authorized_keys"
    before = os.stat(path).st_ino
    with path.open(encoding="ascii") as reader:
        files.set_public_key(new)
        assert reader.read() == f"{old}\n"
    assert path.read_text(encoding="ascii") == f"{new}\n"
    assert path.stat().st_ino != before


@pytest.mark.parametrize(("is_on", "password", "root"), [(True, "yes", "yes"), (False, "no", "prohibit-password")])
def test_password_login_is_on_only_when_asked_for(files: LoginFiles, is_on: bool, password: str, root: str) -> None:
    files.create(None, with_password=is_on)
    lines = (files.mounted / "sshd_config").read_text(encoding="ascii").splitlines()
    assert f"PasswordAuthentication {password}" in lines
    assert f"PermitRootLogin {root}" in lines
    assert "HostKeyAlgorithms ssh-ed25519" in lines


def test_password_can_be_turned_on_later(files: LoginFiles) -> None:
    files.create(None, with_password=False)
    files.set_password_login(is_on=True)
    assert "PasswordAuthentication yes" in (files.mounted / "sshd_config").read_text(encoding="ascii")


def test_removing_twice_is_fine(files: LoginFiles) -> None:
    files.create(None, with_password=True)
    files.remove()
    files.remove()
    assert not files.folder.exists()


def test_same_lease_is_never_set_up_over_another(files: LoginFiles) -> None:
    files.create(None, with_password=True)
    with pytest.raises(FileExistsError):
        files.create(None, with_password=True)


def test_entry_for_chpasswd_holds_a_salted_hash_and_never_the_password() -> None:
    first, second = password_entry("hunter2"), password_entry("hunter2")
    assert first.startswith(b"root:$6$")
    assert first.endswith(b"\n")
    assert first.count(b"\n") == 1
    assert b"hunter2" not in first
    assert first != second


def test_private_umask_of_a_daemon_leaves_sshd_its_files(files: LoginFiles) -> None:
    """The user who logs in, not root alone, reads the key file."""
    before = os.umask(0o077)
    try:
        files.create(parse_public_key(generate_key_pair()[1]), with_password=False)
    finally:
        os.umask(before)
    assert mode(files.mounted) == 0o755
    assert mode(files.mounted / "authorized_keys") == 0o644
    assert mode(files.mounted / "sshd_config") == 0o644
    assert mode(files.mounted / "host_key") == 0o600


def test_strict_lease_lets_neither_root_nor_a_password_in(files: LoginFiles) -> None:
    files.create(parse_public_key(generate_key_pair()[1]), with_password=False, isolation="strict")
    lines = (files.mounted / "sshd_config").read_text(encoding="ascii").splitlines()
    assert {"AllowUsers renter", "PermitRootLogin no", "PasswordAuthentication no"} <= set(lines)
    assert "HostKey /run/sshd/host_key" in lines
