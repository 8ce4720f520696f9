"""`renter renew`: move the end of a lease."""

from __future__ import annotations

import argparse
from pathlib import Path

from neurons.renter.output import print_fields, print_json
from neurons.renter.session import countersign, open_session
from polarise.answers import open_receipt
from polarise.errors import ConfigError
from polarise.messages import TTL_SECONDS_MAX


def run(args: argparse.Namespace) -> int:
    """Renew, check the new receipt, keep and countersign it."""
    session = open_session(args)
    client, container_id, lease = session.target(args.id)
    answer = client.renew(container_id, _seconds(args.ttl))
    if lease is not None:
        receipt = open_receipt(answer.receipt, node_key=client.node_key, renter_key=session.identity.public_key)
        identity_file = Path(lease.record.identity_file) if lease.record.identity_file else None
        session.leases.save(lease.miner, answer.receipt, receipt, identity_file)
    countersign(client, answer.receipt)
    if args.output == "json":
        print_json(answer.to_wire())
    else:
        print_fields({"container": container_id, "expires": answer.expires_at})
    return 0


def _seconds(ttl: int | None) -> int | None:
    """Return what no miner refuses out of hand.

    Raises:
        ConfigError: It is no time that any lease may have.
    """
    if ttl is not None and not 1 <= ttl <= TTL_SECONDS_MAX:
        raise ConfigError(
            f"a lease cannot end {ttl} s from now",
            origin="renew",
            key_path="--ttl",
            allowed=f"1 to {TTL_SECONDS_MAX} seconds; most miners allow less, and say how much",
        )
    return ttl
