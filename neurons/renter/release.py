"""`renter release`: end leases; one that is already gone counts as ended."""

from __future__ import annotations

import argparse

from neurons.renter.output import print_json, say
from neurons.renter.session import Session, open_session
from polarise.clients import MinerClient
from polarise.errors import RequestRejected, SubnetError, Unavailable

Target = tuple[MinerClient, str, bool]


def run(args: argparse.Namespace) -> int:
    """Release one lease or all; one that fails does not keep the others."""
    session = open_session(args)
    released: list[str] = []
    failures: list[tuple[str, SubnetError]] = []
    for client, container_id, is_kept in _targets(session, args):
        try:
            _release(client, container_id, is_kept=is_kept)
        except (RequestRejected, Unavailable) as err:
            failures.append((container_id, err))
            continue
        session.leases.forget(container_id)
        released.append(container_id)
        if args.output == "table":
            print(f"released {container_id}")
    if args.output == "json":
        print_json({"released": released})
    for container_id, failure in failures[:-1]:
        say(f"{container_id}: {failure}")
    if failures:
        raise failures[-1][1]
    return 0


def _targets(session: Session, args: argparse.Namespace) -> list[Target]:
    if not args.all:
        client, container_id, lease = session.target(args.id)
        return [(client, container_id, lease is not None)]
    if session.miner_text is not None:
        client = session.client()
        return [(client, view.container_id, False) for view in client.containers()]
    return [(session.client(lease.miner), lease.container_id, True) for lease in session.leases.all()]


def _release(client: MinerClient, container_id: str, *, is_kept: bool) -> None:
    try:
        client.terminate(container_id)
    except RequestRejected as err:
        if err.status != 404 or not is_kept:
            raise
        say(f"{container_id} was gone already")
