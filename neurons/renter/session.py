"""One run of a renter's command: who asks, which miner, which lease."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

from neurons.base.keys import load_identity, personal_key_path
from neurons.renter.leases import Lease, LeaseStore, not_found
from neurons.renter.miners import Miner, MinerBook
from neurons.renter.output import say
from polarise.answers import printable
from polarise.clients import MinerClient
from polarise.errors import ConfigError, SubnetError
from polarise.keyfile import KeyKind
from polarise.signing import Identity
from polarise.statement import SignedStatement
from utils.crypto import read_passphrase

STATE_DIR = "~/.local/state/polarise"
STATE_VARIABLE = "POLARISE_STATE_DIR"
TIMEOUT_SECONDS = 30.0
ALLOCATE_TIMEOUT_SECONDS = 120.0
COUNTERSIGN_TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Session:
    """What the flags of a command add up to.

    Attributes:
        identity: The renter.
        leases: What is kept on this machine.
        miners: Who is known on this machine.
        usage_folder: Where the usage statements of leases that are over are kept.
        miner_text: The flag ``--miner``.
        miner_key: The flag ``--miner-key``.
        timeout_seconds: Deadline of each request.
        allow_private: Whether also addresses that only a registry entry names may be private.
    """

    identity: Identity
    leases: LeaseStore
    miners: MinerBook
    usage_folder: Path
    miner_text: str | None
    miner_key: str | None
    timeout_seconds: float
    allow_private: bool = False

    def client(self, miner: Miner | None = None) -> MinerClient:
        """Return a client of one miner; without one, of the miner the flags name."""
        chosen = miner or self.miners.find(self.miner_text, self.miner_key, self.timeout_seconds)
        return MinerClient(
            chosen.endpoint,
            chosen.node_key,
            self.identity,
            allow_private=chosen.is_named or self.allow_private,
            timeout_seconds=self.timeout_seconds,
            tls_public_key=chosen.tls_public_key,
        )

    def target(self, prefix: str) -> tuple[MinerClient, str, Lease | None]:
        """Find a container: among the kept leases, else among what the miner of the flags has of ours.

        Returns:
            The miner's client, the full container id, and the kept lease if there is one.

        Raises:
            RequestRejected: Nobody knows it (404).
            ConfigError: Several containers begin so.
        """
        lease = self.leases.matching(prefix)
        if lease is not None:
            return self.client(lease.miner), lease.container_id, lease
        if self.miner_text is None:
            raise not_found(prefix)
        client = self.client()
        found = [view.container_id for view in client.containers() if view.container_id.startswith(prefix)]
        if len(found) > 1:
            raise ConfigError(f"{prefix!r} fits {len(found)} containers", origin="ID", allowed="more digits of the id")
        if not found:
            raise not_found(prefix)
        return client, found[0], None


def countersign(client: MinerClient, receipt: SignedStatement) -> None:
    """Let the miner show that what it rents out is rented; the lease is ours whether that works or not."""
    try:
        client.countersign(receipt, timeout_seconds=COUNTERSIGN_TIMEOUT_SECONDS)
    except SubnetError as err:
        say(f"the receipt is not countersigned, which changes nothing for you: {printable(err)}")


def open_session(args: argparse.Namespace, *, timeout_seconds: float = TIMEOUT_SECONDS) -> Session:
    """Read key, state and registry as the flags say.

    Raises:
        ConfigError: One of them is missing, damaged or locked.
    """
    if args.timeout is not None and not 0 < args.timeout <= 86400:
        raise ConfigError(f"{args.timeout} s", origin="--timeout", allowed="more than 0 and at most 86400 seconds")
    path = args.key or personal_key_path(KeyKind.RENTER, os.environ)
    state_dir = state_dir_of(args)
    return Session(
        identity=load_identity(path, read_passphrase(args.passphrase_file, os.environ)),
        leases=LeaseStore(state_dir),
        miners=MinerBook(state_dir, args.registry),
        usage_folder=state_dir / "usage",
        miner_text=args.miner,
        miner_key=args.miner_key,
        timeout_seconds=args.timeout or timeout_seconds,
        allow_private=args.allow_private,
    )


def state_dir_of(args: argparse.Namespace) -> Path:
    """Return where leases and pins are kept."""
    return Path(args.state_dir or os.environ.get(STATE_VARIABLE) or STATE_DIR).expanduser()
