"""`renter key`: replace the SSH key of a container, or get a new one-time password."""

from __future__ import annotations

import argparse
from pathlib import Path

from neurons.renter.leases import Lease
from neurons.renter.login import choose_login
from neurons.renter.output import print_fields, print_json
from neurons.renter.session import Session, open_session
from polarise.decode import decode_model
from polarise.statement import SignedStatement


def run(args: argparse.Namespace) -> int:
    """Rotate the login; the old key or password is dead at once, an open session lives on."""
    login = choose_login(args)
    session = open_session(args)
    lease = session.leases.get(args.id)
    client = session.client(lease.miner)
    shown: dict[str, object] = {"container": lease.container_id}
    if login.public_line is None:
        answer = client.new_password(lease.container_id)
        _keep(session, lease, None)
        shown["password"] = answer.ssh_password
    else:
        # The new key waits beside the old one, so that a refusal leaves a login that works.
        fresh = login.keep(lease.folder / "id_ed25519.new")
        client.set_ssh_key(lease.container_id, login.public_line)
        if login.private_pem is not None and fresh is not None:
            fresh = fresh.replace(lease.folder / "id_ed25519")
        _keep(session, lease, fresh)
        shown["identity_file"] = str(fresh)
    if args.output == "json":
        print_json(shown)
    else:
        print_fields(shown)
    return 0


def _keep(session: Session, lease: Lease, identity_file: Path | None) -> None:
    statement = decode_model(SignedStatement, (lease.folder / "receipt.json").read_bytes())
    session.leases.save(lease.miner, statement, lease.receipt, identity_file)
