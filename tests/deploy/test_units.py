"""The units of deploy/: systemd takes them, finds them tight enough, and they run what is installed."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from neurons.base.node import STOP_DEADLINE_SECONDS
from neurons.miner.journal import Journal
from neurons.setup.checks.kernel import WANTED
from neurons.setup.kernel_settings import file_text
from polarise.keyfile import KeyKind, create_key_file, read_key_header
from tests.support.identities import People
from tests.support.installed import CHECKOUT, UNITS, Machine, Unit, clean_environ, script

# What `systemd-analyze security` may find at most, of 10.0; the miner mounts disks and writes the packet filter.
EXPOSURE_MAX = {
    "polarise-agent.service": 1.6,
    "polarise-ledger.service": 1.5,
    "polarise-miner.service": 5.7,
    "polarise-validator.service": 1.5,
}
NAMES = sorted(path.name for path in UNITS.glob("*.service"))
ROLES = ("miner", "validator", "ledger")

pytestmark = pytest.mark.installing


def test_every_unit_is_judged_here() -> None:
    assert sorted(EXPOSURE_MAX) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_unit_is_not_more_exposed_than_it_was(name: str) -> None:
    threshold = f"--threshold={round(EXPOSURE_MAX[name] * 10)}"
    command = ["systemd-analyze", "security", "--offline=true", threshold, str(UNITS / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_containers_outlive_a_restart_and_secrets_come_as_credentials(name: str) -> None:
    unit = Unit.read(name)
    assert unit.one("KillMode") == "control-group"
    assert unit.one("Restart") == "on-failure"
    # 2 is a setting that has to change first; starting again would only fill the journal.
    assert unit.one("RestartPreventExitStatus") == "2"
    assert int(unit.one("TimeoutStopSec")) > STOP_DEADLINE_SECONDS
    role = "miner" if name == "polarise-agent.service" else name.removeprefix("polarise-").removesuffix(".service")
    assert unit.one("LoadCredential") == f"polarise-passphrase:/etc/polarise/secrets/{role}"
    assert f"--config /etc/polarise/{role}.yaml" in unit.one("ExecStart")


def test_the_engine_sees_what_the_miner_mounts() -> None:
    """Each of these would give the miner a mount namespace of its own, which its disks could not leave."""
    text = "\n".join(f"{key}=" for key in Unit.read("polarise-miner.service").values)
    assert not re.findall(
        r"(?m)^(?:ProtectSystem|ProtectHome|Private(?!Users)\w+|ProtectKernel\w+|ProtectControlGroups|ProtectHostname|\w+Paths|Protect(?:Proc)|"
        r"ProcSubset|TemporaryFileSystem|BindPaths|RootDirectory)=",
        text,
    )


def test_a_solver_that_runs_out_of_memory_does_not_end_the_daemon() -> None:
    for name in ("polarise-miner.service", "polarise-validator.service"):
        assert Unit.read(name).one("OOMPolicy") == "continue"


def test_kernel_settings_are_those_that_set_up_raises() -> None:
    text = (CHECKOUT / "deploy" / "sysctl.d" / "60-polarise.conf").read_text(encoding="utf-8")
    assert text == file_text([setting for setting in WANTED if setting.is_set_up])


def tree(root: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return mode, owner and content of everything below a folder that an installer may have made."""
    found = {}
    for path in sorted(root.rglob("*")):
        name, status = str(path.relative_to(root)), path.lstat()
        if path.is_file() and not path.is_symlink() and not name.endswith(("-", ".pwd.lock")):
            found[name] = (status.st_mode, status.st_uid, path.read_bytes())
        elif path.is_symlink():
            found[name] = (status.st_mode, status.st_uid, str(path.readlink()).encode())
    return found


@pytest.mark.parametrize("role", ROLES)
def test_installed_twice_it_is_the_same_and_purged_twice_nothing_is_left(tmp_path: Path, role: str) -> None:
    root = ("--root", str(tmp_path))
    venv = ("--venv", str(CHECKOUT / ".venv"))
    script("install", "--role", role, *root, *venv, "--dry-run")
    assert tree(tmp_path) == {}
    script("install", "--role", role, *root, *venv)
    first = tree(tmp_path)
    settings = tmp_path / "etc" / "polarise" / f"{role}.yaml"
    assert settings.exists()
    said = script("install", "--role", role, *root, *venv)
    assert tree(tmp_path) == first
    assert not re.findall(r"(?m)^\+ (?!systemd-)", said)
    # Code that is another is replaced; settings of the operator's and the passphrase stay.
    (tmp_path / "opt" / "polarise" / "VERSION.sha256").write_text("another\n")
    settings.write_text("role: mine\n")
    script("install", "--role", role, *root, *venv)
    settings_now = settings.read_text(encoding="utf-8")
    assert settings_now == "role: mine\n"
    assert {**tree(tmp_path), str(settings.relative_to(tmp_path)): first[str(settings.relative_to(tmp_path))]} == first
    script("uninstall", "--role", role, *root)
    assert settings.exists()
    script("uninstall", "--role", role, *root, "--purge")
    script("uninstall", "--role", role, *root, "--purge")
    left = {
        name for name in tree(tmp_path) if not name.startswith(("etc/passwd", "etc/group", "etc/shadow", "etc/gshadow"))
    }
    assert left == set()
    accounts = tmp_path / "etc" / "passwd"
    assert not accounts.exists() or "polarise" not in accounts.read_text(encoding="utf-8")


def test_a_second_role_keeps_the_code_until_the_last_goes(tmp_path: Path) -> None:
    options = ("--root", str(tmp_path), "--venv", str(CHECKOUT / ".venv"))
    for role in ("ledger", "validator"):
        script("install", "--role", role, *options)
    script("uninstall", "--role", "ledger", *options[:2], "--purge")
    assert (tmp_path / "opt" / "polarise" / "main.py").exists()
    script("uninstall", "--role", "validator", *options[:2], "--purge")
    assert not (tmp_path / "opt" / "polarise").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "--role is missing"),
        (("--role", "agent"), "--role is agent"),
        (("--role", "miner", "--root"), "--root needs a value"),
        (("--role", "miner", "--root", "/nowhere"), "/nowhere is no folder"),
        (("--role", "miner", "--purge"), "unknown option --purge"),
    ],
)
def test_wrong_options_change_nothing_and_name_the_fix(options: tuple[str, ...], words: str) -> None:
    assert words in script("install", *options, expect=2)


def test_start_is_for_the_machine_itself(tmp_path: Path) -> None:
    options = ("--root", str(tmp_path), "--venv", str(CHECKOUT / ".venv"), "--start")
    assert "--start needs a running systemd" in script("install", "--role", "ledger", *options, expect=2)
    assert tree(tmp_path) == {}


def test_a_miner_with_a_lease_is_not_uninstalled(tmp_path: Path, people: People) -> None:
    options = ("--root", str(tmp_path), "--role", "miner")
    script("install", *options, "--venv", str(CHECKOUT / ".venv"))
    data = tmp_path / "var" / "lib" / "polarise" / "miner"
    create_key_file(data / "keys" / "node.key", KeyKind.NODE, b"passphrase", owner=people.owner)
    node_key = read_key_header(data / "keys" / "node.key").public_key
    with Journal(data / "journal.sqlite") as journal:
        add_lease(journal, "00" * 16, node_key, 20_000)
    # A container that waits for a renter is nobody's lease.
    script("uninstall", *options, "--dry-run")
    with Journal(data / "journal.sqlite") as journal:
        add_lease(journal, "01" * 16, people.renter.public_key, 20_001)
    before = tree(tmp_path)
    assert "this miner has 1 leases" in script("uninstall", *options, expect=2)
    assert tree(tmp_path) == before
    script("uninstall", *options, "--force")
    assert not (tmp_path / "etc" / "systemd" / "system" / "polarise-miner.service").exists()


@pytest.mark.parametrize("script_name", ["install", "uninstall"])
def test_what_no_install_put_into_the_place_of_the_code_stays(tmp_path: Path, script_name: str) -> None:
    """A checkout in /opt/polarise, with the data that its owner keeps there."""
    key = tmp_path / "opt" / "polarise" / "data" / "miner" / "keys" / "node.key"
    key.parent.mkdir(parents=True)
    key.write_bytes(b"the only copy")
    before = tree(tmp_path)
    options = ("--role", "miner", "--root", str(tmp_path))
    if script_name == "install":
        venv = ("--venv", str(CHECKOUT / ".venv"))
        assert "no install put there" in script("install", *options, *venv, expect=2)
    else:
        assert "no install put it there" in script("uninstall", *options, "--purge")
    assert tree(tmp_path) == before


def test_a_masked_service_is_replaced_and_what_the_link_leads_to_is_left_alone(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "a root", tmp_path / "null"
    elsewhere.write_bytes(b"")
    elsewhere.chmod(0o666)
    unit = root / "etc" / "systemd" / "system" / "polarise-ledger.service"
    unit.parent.mkdir(parents=True)
    unit.symlink_to(elsewhere)
    script("install", "--role", "ledger", "--root", str(root), "--venv", str(CHECKOUT / ".venv"))
    assert not unit.is_symlink()
    assert unit.read_bytes() == (UNITS / unit.name).read_bytes()
    assert (elsewhere.stat().st_mode & 0o777, elsewhere.read_bytes()) == (0o666, b"")


def test_a_passphrase_bound_to_the_machine_is_kept_by_an_upgrade_and_purged_with_the_rest(tmp_path: Path) -> None:
    """As deploy/README.md says: encrypt it, then delete the plain one."""
    options = ("--role", "ledger", "--root", str(tmp_path))
    script("install", *options, "--venv", str(CHECKOUT / ".venv"))
    plain = tmp_path / "etc" / "polarise" / "secrets" / "ledger"
    bound = plain.with_suffix(".cred")
    plain.rename(bound)
    script("install", *options, "--venv", str(CHECKOUT / ".venv"))
    assert (plain.exists(), bound.exists()) == (False, True)
    script("uninstall", *options)
    assert bound.exists()
    script("uninstall", *options, "--purge")
    assert not bound.exists()


def test_packages_are_added_below_a_root_with_a_space(tmp_path: Path) -> None:
    root = tmp_path / "a root"
    root.mkdir()
    options = ("--role", "validator", "--root", str(root))
    script("install", *options, "--venv", str(CHECKOUT / ".venv"))
    environment = root / "opt" / "polarise" / ".venv"
    environment.unlink()
    (environment / "bin").mkdir(parents=True)
    (environment / "lib" / "python3" / "site-packages").mkdir(parents=True)
    # Writes down what it is asked for, in place of asking the network.
    (environment / "bin" / "python").write_text('#!/bin/sh\necho "$@" >>"$0.asked"\n')
    (environment / "bin" / "python").chmod(0o755)
    script("install", *options)
    asked = (environment / "bin" / "python.asked").read_text(encoding="utf-8").splitlines()
    assert [line.split()[:3] for line in asked] == [["-m", "pip", "install"]] * 2
    assert "--require-hashes" in asked[0]


@pytest.mark.parametrize("name", ["etc", "opt", "var/lib"])
def test_a_root_whose_folders_lead_out_of_it_is_left_alone(tmp_path: Path, name: str) -> None:
    """On the image /etc is a link to another folder of it; seen from here it is this machine's."""
    root, machine = tmp_path / "root", tmp_path / "machine"
    kept = machine / "polarise" / "miner" / "keys"
    kept.mkdir(parents=True)
    (root / name).parent.mkdir(parents=True)
    (root / name).symlink_to(machine)
    before = tree(tmp_path)
    options = ("--role", "miner", "--root", str(root))
    assert f"leads out of {root}" in script("install", *options, "--venv", str(CHECKOUT / ".venv"), expect=2)
    assert f"leads out of {root}" in script("uninstall", *options, "--purge", expect=2)
    assert tree(tmp_path) == before


def test_mounted_disks_are_seen_through_links_and_spaces_and_never_purged(tmp_path: Path) -> None:
    root, link = tmp_path / "a root", tmp_path / "link"
    root.mkdir()
    link.symlink_to(root)
    script("install", "--role", "miner", "--root", str(root), "--venv", str(CHECKOUT / ".venv"))
    disk = root / "var" / "lib" / "polarise" / "miner" / "disks" / "00" / "root"
    disk.mkdir(parents=True)
    # The mount is seen by nobody but the shell that makes it, and goes with it.
    purge = 'mount -t tmpfs tmpfs "$1" && echo tenant >"$1/file" && "$2" --role miner --root "$3" --purge; echo $?; cat "$1/file"'
    words = ["sh", "-c", purge, "sh", str(disk), str(CHECKOUT / "deploy" / "uninstall"), str(link)]
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", *words], capture_output=True, text=True, check=False
    )
    assert "disks of leases are mounted" in done.stderr
    assert done.stdout.splitlines()[-2:] == ["2", "tenant"]


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGHUP, signal.SIGTERM])
def test_the_copy_of_the_passphrase_goes_however_the_command_ends(tmp_path: Path, end: signal.Signals) -> None:
    with Machine(tmp_path / "root") as machine:
        machine.install("ledger")
        machine.boot()
        machine.path("/opt/polarise/main.py").write_text("import time\nprint('runs', flush=True)\ntime.sleep(60)\n")
        copies = tmp_path / "copies"
        copies.mkdir()
        tmp_path.chmod(0o755)
        # A shell cannot trap what it was told to ignore at its start, as a background job is: not what is tried here.
        heed = ("env", "--default-signal", f"TMPDIR={copies}")
        process = subprocess.Popen(
            machine.command(*heed, "/opt/polarise/deploy/run-as", "ledger", "audit", "log"),
            env=clean_environ(),
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"runs\n"
        assert [path.name for path in copies.glob("*/*")] == ["polarise-passphrase"]
        # To the whole group, as a terminal does.
        os.killpg(process.pid, end)
        assert process.wait(30) == 128 + end
        process.stdout.close()
        assert list(copies.iterdir()) == []


def add_lease(journal: Journal, lease_id: str, renter_key: str, ssh_port: int) -> None:
    """Write a row as the miner does; only what the table insists on."""
    with journal.transaction() as connection:
        connection.execute(
            "INSERT INTO lease (lease_id, state, renter_key, limits, devices, image, ssh_port, nonce, created_unix_ms, "
            "expires_unix_ms, expires_boot_ms, boot_id, has_password, request_digest) "
            "VALUES (?, 'ACTIVE', ?, '{}', '[]', 'image', ?, 'nonce', 1, 2, 3, 'boot', 0, 'digest')",
            (lease_id, renter_key, ssh_port),
        )


def test_services_start_as_their_units_say(tmp_path: Path) -> None:
    """Ledger, validator and agent run from the installed root, confined as their units ask, and end with status 0."""
    with Machine(tmp_path / "root") as machine:
        for role in ROLES:
            machine.install(role)
        machine.boot()
        for name in NAMES:
            machine.run("systemd-analyze", "verify", f"/etc/systemd/system/{name}")
        keys = make_keys(machine)
        ports = {"ledger": free_port(), "validator": free_port()}
        for role, port in ports.items():
            edit(machine, role, {r"port: \d+": f"port: {port}", r":8090": f":{ports['ledger']}"})
        machine.run_as("ledger", "ledger", "init", "--net", "test", "--validator", keys["validator"])
        machine.run("install", "-m", "0644", "/var/lib/polarise/ledger/genesis.json", "/etc/polarise/genesis.json")
        with (
            machine.running("polarise-ledger.service", tmp_path / "ledger.log") as ledger,
            machine.running("polarise-validator.service", tmp_path / "validator.log") as validator,
            machine.running("polarise-agent.service", tmp_path / "agent.log") as agent,
        ):
            for role, port in ports.items():
                wait_until_healthy(port, tmp_path / f"{role}.log")
            wait_for_line("started", tmp_path / "agent.log")
            users = {line.split(":")[0]: line.split(":")[2] for line in machine.run("cat", "/etc/passwd").splitlines()}
            for process, user in ((ledger, "polarise-ledger"), (validator, "polarise-validator"), (agent, "root")):
                status = dict(line.split(":\t", 1) for line in status_of(process.pid))
                assert status["Uid"].split() == [users[user]] * 4
                assert status["CapBnd"] == status["CapEff"] == "0" * 16
                assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
            # The system is read-only, the credential nobody else's, and the journal of the daemon in its own folder.
            assert machine.path("/var/lib/polarise/ledger/ledger.sqlite").exists()


def make_keys(machine: Machine) -> dict[str, str]:
    """Make an owner's key and one for each node, as deploy/README.md says; return public keys by role."""
    machine.run("sh", "-c", "umask 077; mkdir -p /etc/polarise/owner; echo owner >/etc/polarise/owner/passphrase")
    owner = (
        "--owner-key",
        "/etc/polarise/owner/owner.key",
        "--owner-passphrase-file",
        "/etc/polarise/owner/passphrase",
    )
    main = ("/opt/polarise/.venv/bin/python", "/opt/polarise/main.py")
    machine.run(*main, "key", "new", "--kind", "owner", "--file", owner[1], "--passphrase-file", owner[3])
    public = {}
    for role in ROLES:
        file, secret = f"/var/lib/polarise/{role}/keys/node.key", f"/etc/polarise/secrets/{role}"
        words = (
            *main,
            "key",
            "new",
            "--kind",
            "node",
            "--file",
            file,
            "--passphrase-file",
            secret,
            *owner,
            "-o",
            "json",
        )
        public[role] = str(json.loads(machine.run(*words))["public_key"])
        if role != "miner":
            machine.run("chown", "-R", f"polarise-{role}:", f"/var/lib/polarise/{role}")
    return public


def edit(machine: Machine, role: str, changes: dict[str, str]) -> None:
    """Change an installed settings file, as an operator does."""
    file = machine.path(f"/etc/polarise/{role}.yaml")
    text = file.read_text(encoding="utf-8")
    for old, new in changes.items():
        text = re.sub(old, new, text)
    file.write_text(text, encoding="utf-8")


def wait_until_healthy(port: int, log: Path) -> None:
    end = time.monotonic() + 20
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as answer:
                assert answer.status == 200
                return
        except (urllib.error.URLError, ConnectionError):
            assert time.monotonic() < end, log.read_text(encoding="utf-8")[-3000:]
            time.sleep(0.1)


def wait_for_line(word: str, log: Path) -> None:
    end = time.monotonic() + 20
    while word not in log.read_text(encoding="utf-8"):
        assert time.monotonic() < end, log.read_text(encoding="utf-8")[-3000:]
        time.sleep(0.1)


def status_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
