"""`renter ssh`: the command line OpenSSH is given, and what OpenSSH itself makes of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from neurons.renter.leases import Lease, LeaseRecord, known_hosts_line
from neurons.renter.ssh import ssh_command
from polarise.receipt import Receipt
from tests.unit.neurons.renter.conftest import Renter
from tests.unit.polarise.small_miner import SmallMiner, identity

CHECKOUT = Path(__file__).parents[4]


@pytest.fixture
def lease(renter: Renter, miner: SmallMiner, tmp_path: Path) -> Lease:
    assert renter("allocate", "--miner", miner.endpoint) == 0
    receipt = next(iter(miner.leases.values()))
    folder = tmp_path / "state" / "leases" / receipt.container_id
    record = LeaseRecord(
        endpoint=miner.endpoint, node_key=identity(1).public_key, identity_file=str(folder / "id_ed25519")
    )
    return Lease(folder, record, receipt)


@pytest.mark.skipif(shutil.which("ssh") is None, reason="needs OpenSSH's client")
def test_openssh_understands_the_pin(lease: Lease) -> None:
    """Asked with -G, ssh prints the options as it understood them."""
    command = ssh_command(lease, [])
    shown = subprocess.run(["ssh", "-G", *command[1:]], capture_output=True, text=True, check=True).stdout
    options = dict(line.partition(" ")[::2] for line in shown.lower().splitlines())
    assert options["stricthostkeychecking"] == "true"
    assert options["userknownhostsfile"] == str(lease.known_hosts).lower()
    assert options["globalknownhostsfile"] == "/dev/null"
    assert options["identitiesonly"] == "yes"
    assert options["updatehostkeys"] == "false"
    assert options["forwardagent"] == "no"
    assert "controlpath" not in options or options["controlpath"] == "none"
    assert (options["hostname"], options["port"], options["user"]) == ("127.0.0.1", "2222", "root")


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs OpenSSH's ssh-keygen")
def test_openssh_finds_the_host_key_in_the_pinned_file(lease: Lease) -> None:
    find = ["ssh-keygen", "-F", "[127.0.0.1]:2222", "-f", str(lease.known_hosts)]
    assert lease.receipt.host_key in subprocess.run(find, capture_output=True, text=True, check=True).stdout


def test_a_folder_with_blanks_stays_one_argument(lease: Lease, tmp_path: Path) -> None:
    moved = Lease(tmp_path / "a b" / "100%", lease.record, lease.receipt)
    assert f'UserKnownHostsFile="{tmp_path}/a b/100%%/known_hosts"' in ssh_command(moved, [])


def test_the_remote_command_cannot_become_an_option(lease: Lease) -> None:
    assert ssh_command(lease, ["-oProxyCommand=x", "y"])[-4:] == ["root@127.0.0.1", "--", "-oProxyCommand=x", "y"]


@pytest.mark.parametrize(
    ("host", "port", "place"),
    [("127.0.0.1", 22, "127.0.0.1"), ("Host.Example", 2222, "[host.example]:2222"), ("::1", 2222, "[::1]:2222")],
)
def test_known_hosts_line(lease: Lease, host: str, port: int, place: str) -> None:
    receipt: Receipt = lease.receipt.model_copy(update={"ssh_host": host, "ssh_port": port})
    assert known_hosts_line(receipt) == f"{place} {receipt.host_key}\n"


def test_ssh_takes_over_the_process_and_gets_the_command(lease: Lease, tmp_path: Path) -> None:
    """A stand-in for ssh on PATH prints what it was called with; its exit status is ours."""
    fake = tmp_path / "bin" / "ssh"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\nexit 33\n')
    fake.chmod(0o755)
    program = (
        "import argparse, sys; from neurons.renter.command import add_parser; p = argparse.ArgumentParser();"
        "add_parser(p.add_subparsers()); a = p.parse_args(sys.argv[1:]); sys.exit(a.handler(a))"
    )
    state = str(lease.folder.parents[1])
    words = ["renter", "ssh", "--state-dir", state, lease.container_id[:6], "--", "ls", "-l", "--all"]
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=CHECKOUT,
        env={**os.environ, "PATH": f"{fake.parent}:{os.environ['PATH']}", "PYTHONPATH": str(CHECKOUT)},
    )
    assert done.returncode == 33, done.stderr
    assert done.stdout.splitlines()[-5:] == ["root@127.0.0.1", "--", "ls", "-l", "--all"]


def test_the_parser_needs_no_third_party_package() -> None:
    """`doctor` runs before the virtual environment exists, and shares this parser."""
    program = (
        "import argparse; from neurons.renter import command; from neurons.base import keys_command;"
        "s = argparse.ArgumentParser().add_subparsers(); command.add_parser(s); keys_command.add_parser(s)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(CHECKOUT)!r}); {program}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
