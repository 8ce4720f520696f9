"""A whole market on one machine: owner, ledger, miner, validator and renter, each with key, settings and folder."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import yaml

from config.loader import CHECKOUT, PREFIX
from config.schema import Config
from neurons.base.ledger_post import post
from neurons.demo.process import Daemon
from neurons.ledger.genesis import new_genesis
from neurons.ledger.node import GENESIS_FILE
from neurons.miner.disk import unmount_all
from neurons.miner.firewall import remove_rules
from neurons.miner.join import entry_statement, measure_hardware, post_entry
from neurons.miner.network import NodeNetwork
from polarise.errors import ConfigError, SubnetError, Unavailable
from polarise.genesis import Genesis, Member, write_genesis
from polarise.hardware import DeviceClaim, HardwareClaim
from polarise.keyfile import KeyKind, create_key_file
from polarise.ledger_client import LedgerClient
from polarise.ledger_registry import withdrawal
from polarise.registry import RegistryEntry, open_entry
from polarise.signing import Identity
from utils.crypto import new_secret, write_secret_file
from utils.docker_utils import connect, labelled_containers, remove_container

BLOCK_SECONDS = 1
START_SECONDS = 60
COMMAND_SECONDS = 120


class CommandFailed(SubnetError):
    """A command of the demo's renter ended with another status than 0."""


@dataclass(frozen=True, slots=True)
class Guest:
    """A further miner of a market.

    Attributes:
        name: Of its folder, and for messages.
        identity: Its key.
        daemon: Its process.
    """

    name: str
    identity: Identity
    daemon: Daemon


@dataclass(frozen=True, slots=True)
class _Started:
    program: tuple[str, ...]
    settings: Mapping[str, object]


class Market:
    """Folders, keys and daemons of one demo; everything is stopped and removed on leaving.

    Args:
        keep: Use this folder and leave it; None takes a temporary one.
        miner_settings: Settings of the miner beyond the demo's own.
        validator_settings: The same for the validator.
        is_tls: Whether all daemons speak TLS, on loopback too.
    """

    def __init__(
        self,
        keep: Path | None = None,
        *,
        miner_settings: Mapping[str, Mapping[str, object]] | None = None,
        validator_settings: Mapping[str, Mapping[str, object]] | None = None,
        is_tls: bool = False,
    ) -> None:
        self._network = {"port": 0, "tls": "on" if is_tls else "auto"}
        self._is_kept = keep is not None
        self.root = keep.absolute() if keep else Path(tempfile.mkdtemp(prefix="polarise-demo-"))
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        if any(self.root.iterdir()):
            raise ConfigError("the folder is not empty", origin=str(self.root), allowed="a new or empty folder")
        self.renter_key_file = self.root / "renter.key"
        self.passphrase_file = self.root / "passphrase"
        self._miner_settings = dict(miner_settings or {})
        self._validator_settings = dict(validator_settings or {})
        self._daemons: list[Daemon] = []
        self._node_identities: list[Identity] = []
        self._started: dict[Daemon, _Started] = {}
        self.miner_url = ""
        self.ledger_url = ""
        self.validator_url = ""
        self._make_keys()
        self.genesis = self._make_genesis()

    def __enter__(self) -> Market:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def miner_node_id(self) -> str:
        """The miner's mark on every Docker object."""
        return self.miner_identity.public_key[:12]

    @property
    def genesis_file(self) -> Path:
        """The ledger's genesis, which everybody in this market trusts."""
        return self.root / "ledger" / GENESIS_FILE

    def ledger_client(self) -> LedgerClient:
        """Return a client of the ledger that remembers nothing."""
        return LedgerClient(self.ledger_url, self.genesis)

    def start_ledger(self) -> Daemon:
        """Start the ledger; it comes first.

        Raises:
            Unavailable: It did not start.
        """
        daemon = self._start("ledger", ("main.py", "ledger"), {"role": "ledger", "network": self._network})
        self.ledger_url = _url_of(daemon)
        return daemon

    def start_miner(self, program: tuple[str, ...] = ("main.py", "miner")) -> tuple[Daemon, str]:
        """Start the miner and return it with the URL of its API.

        Args:
            program: What to run; a cheat is another program with the same options.

        Raises:
            Unavailable: It did not start; the message holds the end of its log.
        """
        daemon = self._start("miner", program, self._miner_config())
        self.miner_url = _url_of(daemon)
        return daemon, self.miner_url

    def register_miner(self, url: str, on_measured: Callable[[DeviceClaim], None]) -> RegistryEntry:
        """Measure the miner's hardware and put its signed registry entry on the ledger."""
        config = Config.model_validate(self._miner_config())
        hardware = measure_hardware(config, self.miner_identity, self.root / "miner", on_measured)
        return self._register(self.miner_identity, url, hardware)

    def add_miner(self, name: str, program: tuple[str, ...], hardware: HardwareClaim) -> Guest:
        """Start a further miner with a key of its own and register it with this claim.

        Raises:
            Unavailable: It did not start, or the ledger is away.
        """
        identity = self._node_key(name, self.passphrase_file.read_bytes().strip())
        daemon = self._start(name, program, self._miner_config(), role="miner")
        self._register(identity, _url_of(daemon), hardware)
        return Guest(name, identity, daemon)

    def dismiss(self, guest: Guest) -> None:
        """Take a further miner off the registry, stop it, and remove what carries its mark."""
        post(self.ledger_client(), guest.identity, withdrawal(guest.identity.public_key))
        guest.daemon.stop()
        self._daemons.remove(guest.daemon)
        self._remove_marked(guest.identity)

    def _register(self, identity: Identity, url: str, hardware: HardwareClaim) -> RegistryEntry:
        statement = entry_statement(Config.model_validate(self._miner_config()), identity, url, hardware)
        post_entry(self.ledger_client(), identity, statement)
        return open_entry(statement)

    def start_validator(self) -> Daemon:
        """Start the validator.

        Raises:
            Unavailable: It did not start.
        """
        daemon = self._start("validator", ("main.py", "validator"), self._validator_config())
        self.validator_url = _url_of(daemon)
        return daemon

    def restart(self, daemon: Daemon) -> Daemon:
        """Stop a daemon and start it again on the same port.

        Raises:
            Unavailable: It did not come back.
        """
        started = self._started.pop(daemon)
        url = {"ledger": self.ledger_url, "miner": self.miner_url, "validator": self.validator_url}[daemon.role]
        daemon.stop()
        self._daemons.remove(daemon)
        network = started.settings.get("network")
        port = int(url.rpartition(":")[2])
        settings = {**started.settings, "network": {**(network if isinstance(network, dict) else {}), "port": port}}
        again = self._start(daemon.name, started.program, settings, role=daemon.role)
        _url_of(again)
        return again

    def run_renter(self, *arguments: str) -> str:
        """Run a renter's command and return what it prints.

        Raises:
            CommandFailed: It ended with another status than 0.
        """
        command = [sys.executable, "main.py", "renter", *arguments]
        done = subprocess.run(
            command,
            cwd=CHECKOUT,
            env=self.environ(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        if done.returncode != 0:
            raise CommandFailed(f"{' '.join(arguments[:2])} ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def audit(self) -> tuple[int, dict[str, object]]:
        """Download everything this market put on its ledger, derive it anew, and return exit status and report."""
        done = subprocess.run(
            [
                *(sys.executable, "main.py", "audit", "--ledger", self.ledger_url, "--genesis", str(self.genesis_file)),
                *("--download", str(self.root / "audit"), "--allow-private", "-o", "json"),
                *("--events", str(self.root / "validator" / "telemetry.sqlite")),
            ],
            cwd=CHECKOUT,
            env=self.environ(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        try:
            report = json.loads(done.stdout)
        except ValueError as err:
            raise CommandFailed(f"audit ended with {done.returncode}: {done.stderr.strip()}") from err
        return done.returncode, report

    def run_renter_json(self, *arguments: str) -> dict[str, object]:
        """Run a renter's command with ``-o json`` and return the object it prints."""
        value = json.loads(self.run_renter(*arguments, "-o", "json"))
        if not isinstance(value, dict):
            raise CommandFailed(f"{arguments[0]} printed {type(value).__name__}, expected an object")
        return value

    def environ(self) -> dict[str, str]:
        """Return the environment of all commands of this market; settings of the caller's are kept out."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        return {
            **inherited,
            "POLARISE_PASSPHRASE_FILE": str(self.passphrase_file),
            "POLARISE_RENTER_KEY": str(self.renter_key_file),
            "POLARISE_STATE_DIR": str(self.root / "renter"),
        }

    def close(self) -> None:
        """Stop the daemons in reverse order, and remove what carries the miner's mark."""
        for daemon in reversed(self._daemons):
            daemon.stop()
        self._daemons.clear()
        for identity in self._node_identities:
            self._remove_marked(identity)
        if not self._is_kept:
            shutil.rmtree(self.root, ignore_errors=True)

    def _remove_marked(self, identity: Identity) -> None:
        node_id = identity.public_key[:12]
        try:
            client = connect(None)
            with contextlib.closing(client):
                for container in labelled_containers(client, f"polarise.node={node_id}"):
                    remove_container(client, str(container.id))
                unmount_all(node_id)
                NodeNetwork(node_id).remove(client, f"polarise.node={node_id}")
            remove_rules(node_id)
        except Unavailable as err:
            print(f"could not clean up containers: {err.message}", file=sys.stderr)

    def _start(
        self, name: str, program: tuple[str, ...], settings: Mapping[str, object], *, role: str | None = None
    ) -> Daemon:
        config_file = self.root / f"{name}.yaml"
        config_file.write_text(yaml.safe_dump(dict(settings), sort_keys=False), encoding="utf-8")
        arguments = [
            *program,
            "--config",
            str(config_file),
            "--data-dir",
            str(self.root / name),
            "--log-format",
            "json",
        ]
        daemon = Daemon(name, arguments, self.environ(), self.root / f"{name}.log", role=role)
        self._daemons.append(daemon)
        self._started[daemon] = _Started(program, settings)
        return daemon

    def _make_keys(self) -> None:
        write_secret_file(self.passphrase_file, new_secret())
        passphrase = self.passphrase_file.read_bytes().strip()
        self.owner = create_key_file(self.root / "owner.key", KeyKind.OWNER, passphrase)
        self.ledger_identity = self._node_key("ledger", passphrase)
        self.miner_identity = self._node_key("miner", passphrase)
        self.validator_identity = self._node_key("validator", passphrase)
        self.renter = create_key_file(self.renter_key_file, KeyKind.RENTER, passphrase)

    def _node_key(self, role: str, passphrase: bytes) -> Identity:
        path = self.root / role / "keys" / "node.key"
        identity = create_key_file(path, KeyKind.NODE, passphrase, owner=self.owner)
        self._node_identities.append(identity)
        return identity

    def _make_genesis(self) -> Genesis:
        genesis = new_genesis(
            self.ledger_identity,
            "demo",
            [Member(key=self.validator_identity.public_key, stake=1)],
            block_seconds=BLOCK_SECONDS,
            final_confirmations=1,
            created_unix_ms=time.time_ns() // 1_000_000,
        )
        write_genesis(self.genesis_file, genesis)
        return genesis

    def _ledger_settings(self) -> dict[str, object]:
        return {"endpoint": self.ledger_url or "http://127.0.0.1:1", "genesis": str(self.genesis_file)}

    def _miner_config(self) -> dict[str, object]:
        settings: dict[str, dict[str, object]] = {
            "network": dict(self._network),
            "access": {"validators": [self.validator_identity.public_key], "renters": [self.renter.public_key]},
            "docker": {
                "default_memory": "512m",
                "container_prefix": "polarise-demo-",
                "disk_folder": str(self.root / "disks"),
            },
            # Proven in every epoch, where a real miner is proven about once an hour.
            "miner": {"proof_duty_percent": 100},
            "ledger": self._ledger_settings(),
        }
        return {"role": "miner", **_merged(settings, self._miner_settings)}

    def _validator_config(self) -> dict[str, object]:
        settings: dict[str, dict[str, object]] = {
            "network": dict(self._network),
            "validator": {
                "epoch_seconds": 30,
                "proof_target_seconds": 2,
                "proof_every": 1,
                "inspect_every": 1,
                "same_host": "in_turn",
                "allow_private_endpoints": True,
            },
            "ledger": self._ledger_settings(),
        }
        return {"role": "validator", **_merged(settings, self._validator_settings)}


def _merged(
    base: dict[str, dict[str, object]], extra: Mapping[str, Mapping[str, object]]
) -> dict[str, dict[str, object]]:
    return {name: {**base.get(name, {}), **extra.get(name, {})} for name in {**base, **extra}}


def _url_of(daemon: Daemon) -> str:
    """Return the URL in the daemon's start line; a miner's agent says "started" too."""
    return str(daemon.wait_for("started", START_SECONDS, role=daemon.role)["url"])
