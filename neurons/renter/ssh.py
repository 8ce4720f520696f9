"""`renter ssh`: OpenSSH with the host key pinned from the receipt, strict from the first connect."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Sequence

from neurons.renter.leases import Lease, LeaseStore
from neurons.renter.session import state_dir_of
from polarise.errors import ConfigError


def run(args: argparse.Namespace) -> int:
    """Become ssh; needs neither the renter's key nor the miner's API."""
    command = ssh_command(LeaseStore(state_dir_of(args)).get(args.id), args.remote_command)
    if args.print:
        print(shlex.join(command))
        return 0
    try:
        os.execvp(command[0], command)  # noqa: S606  no shell, and the list is ours
    except FileNotFoundError as err:
        raise ConfigError("there is no ssh here", origin="PATH", allowed="install OpenSSH's client") from err


def ssh_command(lease: Lease, command: Sequence[str]) -> list[str]:
    """Return ssh's arguments; ``command`` is joined by blanks on the far side, as ssh does."""
    receipt = lease.receipt
    return [
        "ssh",
        *("-a", "-x"),  # the far side is a stranger's machine: neither the agent nor the display goes there
        *("-o", "StrictHostKeyChecking=yes"),
        *("-o", f"UserKnownHostsFile={_quoted(str(lease.known_hosts))}"),
        *("-o", f"GlobalKnownHostsFile={os.devnull}"),
        *("-o", "UpdateHostKeys=no"),  # the miner must not add keys to the pinned file
        *("-o", "ControlPath=none"),  # a shared connection may belong to the port's former tenant
        *("-o", "IdentitiesOnly=yes"),
        *_login(lease.record.identity_file),
        *("-p", str(receipt.ssh_port)),
        f"{receipt.ssh_user}@{receipt.ssh_host}",
        *(("--", *command) if command else ()),
    ]


def _login(identity_file: str | None) -> list[str]:
    if identity_file is None:
        return ["-o", "PubkeyAuthentication=no"]
    return ["-i", identity_file]


def _quoted(path: str) -> str:
    """Keep a path with blanks in one piece and its percent signs unexpanded (ssh_config(5))."""
    return '"' + path.replace("%", "%%") + '"'
