"""A market of three installed machines: a provider, a validator and a ledger, each in a root and a network of its own, over TLS.

Rules:
- No machine has a default route: they know each other's addresses and nothing else.
- Every service runs as its unit says (`tests.support.installed`), every command as `deploy/run-as` runs it.
- The provider's Docker engine is its own, and sees the provider's files as the miner does.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.lab.engine import Lab, lab, refuse_way_out
from tests.support.installed import Machine

ADDRESSES = {"miner": "10.88.0.1", "validator": "10.88.0.2", "ledger": "10.88.0.3"}
PORTS = {"miner": 8080, "validator": 8070, "ledger": 8090}
EPOCH_SECONDS = 20
WAIT_SECONDS = 180
MAIN = ("/opt/polarise/.venv/bin/python", "/opt/polarise/main.py")

pytestmark = [
    pytest.mark.installing,
    pytest.mark.lab,
    pytest.mark.slow,
    pytest.mark.skipif("POLARISE_DEPLOYED" not in os.environ, reason="takes minutes; `make test-deploy` runs it"),
]


@dataclass
class Deployed:
    """The three machines, by the role that is installed there, and the provider's engine."""

    machines: dict[str, Machine]
    lab: Lab
    logs: Path

    def url(self, role: str) -> str:
        """Return where a role serves."""
        return f"https://{ADDRESSES[role]}:{PORTS[role]}"

    def log(self, unit: str) -> str:
        """Return what a service has said."""
        return (self.logs / f"{unit}.log").read_text(encoding="utf-8")

    def running(self, role: str, unit: str) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
        """Run a service."""
        return self.machines[role].running(f"polarise-{unit}.service", self.logs / f"{unit}.log")

    def wait_for(self, unit: str, word: str, count: int = 1) -> None:
        """Wait until a service has said a word so often."""
        end = time.monotonic() + WAIT_SECONDS
        while self.log(unit).count(word) < count:
            assert time.monotonic() < end, f"{unit} never said {word!r}:\n{self.log(unit)[-4000:]}"
            time.sleep(0.2)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, timeout=30)


@contextlib.contextmanager
def switch(name: str) -> Iterator[None]:
    """A namespace that is nothing but a bridge."""
    ip("netns", "add", name)
    try:
        ip("-n", name, "link", "add", "lan", "type", "bridge")
        ip("-n", name, "link", "set", "lan", "up")
        yield
    finally:
        ip("netns", "delete", name)


def plug(namespace: str, role: str, into: str) -> None:
    """Connect a machine's network with the switch, and with nothing else."""
    ip("-n", namespace, "link", "add", "lan0", "type", "veth", "peer", "name", role, "netns", into)
    ip("-n", into, "link", "set", role, "master", "lan", "up")
    ip("-n", namespace, "address", "add", f"{ADDRESSES[role]}/24", "dev", "lan0")
    for device in ("lo", "lan0"):
        ip("-n", namespace, "link", "set", device, "up")
    refuse_way_out(namespace)


@pytest.fixture
def deployed(tmp_path: Path) -> Iterator[Deployed]:
    """Install three machines and connect them."""
    lan = f"polarise-lan-{os.getpid()}"
    with contextlib.ExitStack() as stack:
        stack.enter_context(switch(lan))
        machines = {role: stack.enter_context(Machine(tmp_path / role)) for role in ADDRESSES}
        for role, machine in machines.items():
            machine.install(role)
            machine.boot()
        for role in ("validator", "ledger"):
            name = f"polarise-{role}-{os.getpid()}"
            ip("netns", "add", name)
            stack.callback(ip, "netns", "delete", name)
            plug(name, role, lan)
            machines[role].network = ("nsenter", f"--net=/run/netns/{name}", "--")
        enter = machines["miner"].mounts
        built = stack.enter_context(lab(prepare=lambda name: plug(name, "miner", lan), enter=enter))
        machines["miner"].network = ("nsenter", f"--net={built.namespace}", "--")
        yield Deployed(machines, built, tmp_path)


def make_key(machine: Machine, role: str) -> str:
    """Make an owner's key and the node's, as deploy/README.md says; return the node's public key."""
    machine.run("sh", "-c", "umask 077; mkdir -p /etc/polarise/owner; echo owner >/etc/polarise/owner/passphrase")
    owner = ("/etc/polarise/owner/owner.key", "/etc/polarise/owner/passphrase")
    machine.run(*MAIN, "key", "new", "--kind", "owner", "--file", owner[0], "--passphrase-file", owner[1])
    made = machine.run(
        *(*MAIN, "key", "new", "--kind", "node", "--file", f"/var/lib/polarise/{role}/keys/node.key"),
        *("--passphrase-file", f"/etc/polarise/secrets/{role}", "-o", "json"),
        *("--owner-key", owner[0], "--owner-passphrase-file", owner[1]),
    )
    if role != "miner":
        machine.run("chown", "-R", f"polarise-{role}:", f"/var/lib/polarise/{role}")
    return str(json.loads(made)["public_key"])


def configure(machine: Machine, role: str, **sections: Mapping[str, object]) -> None:
    """Change the installed settings, as an operator does."""
    file = machine.path(f"/etc/polarise/{role}.yaml")
    settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    address: dict[str, object] = {"host": ADDRESSES[role], "advertised_host": ADDRESSES[role]}
    ledger: dict[str, dict[str, object]] = (
        {} if role == "ledger" else {"ledger": {"endpoint": f"https://{ADDRESSES['ledger']}:{PORTS['ledger']}"}}
    )
    for name, section in {"network": address, **ledger, **sections}.items():
        settings[name] = {**settings.get(name, {}), **section}
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")


def renter(deployed: Deployed, *words: str) -> str:
    """Run a renter's command on the validator's machine, as its root."""
    return deployed.machines["validator"].run(
        *(
            "env",
            "POLARISE_PASSPHRASE_FILE=/var/lib/renter/passphrase",
            "POLARISE_RENTER_KEY=/var/lib/renter/renter.key",
        ),
        *("POLARISE_STATE_DIR=/var/lib/renter/state", *MAIN, "renter", *words),
    )


def test_a_provider_a_validator_and_a_ledger_complete_an_epoch_and_an_audit(deployed: Deployed) -> None:
    """Installed from deploy/, confined as their units say, over TLS; a lease outlives a restart of miner and agent."""
    machines = deployed.machines
    keys = {role: make_key(machine, role) for role, machine in machines.items()}
    rents = machines["validator"]
    rents.run("sh", "-c", "umask 077; mkdir -p /var/lib/renter; echo renter >/var/lib/renter/passphrase")
    made = rents.run(
        *(*MAIN, "key", "new", "--kind", "renter", "--file", "/var/lib/renter/renter.key", "-o", "json"),
        *("--passphrase-file", "/var/lib/renter/passphrase"),
    )
    configure(machines["ledger"], "ledger")
    configure(
        machines["validator"],
        "validator",
        validator={
            "epoch_seconds": EPOCH_SECONDS,
            "proof_target_seconds": 1,
            "proof_every": 1,
            "inspect_every": 1,
            "inspect_memory": "128m",
            "allow_private_endpoints": True,
        },
    )
    configure(
        machines["miner"],
        "miner",
        access={"validators": [keys["validator"]], "renters": [json.loads(made)["public_key"]]},
        docker={
            "host": deployed.lab.host,
            "default_memory": "128m",
            "default_cpu_count": 0.25,
            "default_disk": "256m",
            "reserve_disk": "128m",
        },
        miner={"proof_duty_percent": 100},
    )
    genesis = ("--net", "deployed", "--validator", keys["validator"], "--block-seconds", "1")
    machines["ledger"].run_as("ledger", "ledger", "init", *genesis)
    genesis_bytes = machines["ledger"].path("/var/lib/polarise/ledger/genesis.json").read_bytes()
    for machine in machines.values():
        machine.path("/etc/polarise/genesis.json").write_bytes(genesis_bytes)
        machine.path("/etc/polarise/genesis.json").chmod(0o644)

    with deployed.running("ledger", "ledger"):
        deployed.wait_for("ledger", "started")
        with deployed.running("miner", "agent"), deployed.running("miner", "miner"):
            deployed.wait_for("miner", "started")
            assert "final in block" in machines["miner"].run_as("miner", "join")
            with deployed.running("validator", "validator"):
                deployed.wait_for("validator", "epoch finished")
                audit(deployed)
            lease = json.loads(renter(deployed, "allocate", "--miner", deployed.url("miner"), "-o", "json"))
        # Miner and agent are stopped, as for an upgrade.
        (container,) = running_containers(deployed, lease["container_id"])
        with deployed.running("miner", "agent"), deployed.running("miner", "miner"):
            deployed.wait_for("miner", "started", 2)
            assert renter(deployed, "ssh", lease["container_id"], "--", "echo still here").strip() == "still here"
            assert running_containers(deployed, lease["container_id"]) == [container]
            renter(deployed, "release", lease["container_id"])


def audit(deployed: Deployed) -> None:
    """What the epoch found holds, and so does everything that was put on the ledger."""
    validator = deployed.machines["validator"]
    (bundle, *_) = sorted(validator.path("/var/lib/polarise/validator/evidence").glob("*.json"))
    evidence = json.loads(bundle.read_bytes())
    assert evidence["inspection"]["verdict"]["reason"] is None, evidence["inspection"]
    assert evidence["telemetry"]["verdict"]["reason"] is None, evidence["telemetry"]
    assert {proof["verdict"]["reason"] for proof in evidence["proofs"]} <= {None, "CLAIM_NOT_MET", "OPENING_LATE"}
    report = validator.run(
        *(*MAIN, "audit", "--ledger", deployed.url("ledger"), "--genesis", "/etc/polarise/genesis.json"),
        *("--download", "/var/lib/audit", "--allow-private", "-o", "json"),
    )
    assert json.loads(report)["failures"] == []


def running_containers(deployed: Deployed, container_id: str) -> list[tuple[str, str]]:
    """Return id and start of a container that runs."""
    found = deployed.lab.client.containers.get(container_id)
    return [(str(found.id), found.attrs["State"]["StartedAt"])] if found.status == "running" else []
