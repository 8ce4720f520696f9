"""`renter release`: end leases, show and keep what each used; one that is already gone counts as ended."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from neurons.renter.files import write_private
from neurons.renter.output import print_json, say, usage_text
from neurons.renter.session import Session, open_session
from polarise.answers import printable
from polarise.canonical import JsonValue
from polarise.clients import MinerClient
from polarise.errors import AnswerInvalid, RequestRejected, SubnetError, Unavailable
from polarise.statement import SignedStatement
from polarise.usage import Usage, open_usage

Target = tuple[MinerClient, str, bool]


def run(args: argparse.Namespace) -> int:
    """Release one lease or all; one that fails does not keep the others."""
    session = open_session(args)
    released: list[str] = []
    used: dict[str, JsonValue] = {}
    failures: list[tuple[str, SubnetError]] = []
    for client, container_id, is_kept in _targets(session, args):
        try:
            statement = _release(client, container_id, is_kept=is_kept)
        except (RequestRejected, Unavailable) as err:
            failures.append((container_id, err))
            continue
        session.leases.forget(container_id)
        released.append(container_id)
        usage = None if statement is None else _keep(session, client, container_id, statement)
        if usage is not None:
            used[container_id] = usage.to_wire()
        if args.output == "table":
            print(f"released {container_id}" + (f": {usage_text(usage)}" if usage else ""))
    if args.output == "json":
        print_json({"released": released, "usage": used})
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


def _release(client: MinerClient, container_id: str, *, is_kept: bool) -> SignedStatement | None:
    try:
        answer = client.terminate(container_id)
    except RequestRejected as err:
        if err.status != 404 or not is_kept:
            raise
        say(f"{container_id} was gone already")
        return _ask_usage(client, container_id)
    if answer.data == "deleting":
        say(f"{container_id}: the lease is over; its files are still being deleted")
    return answer.usage


def _ask_usage(client: MinerClient, container_id: str) -> SignedStatement | None:
    try:
        return client.usage(container_id)
    except (RequestRejected, Unavailable) as err:
        say(f"{container_id}: the miner shows no usage: {printable(err)}")
        return None


def _keep(session: Session, client: MinerClient, container_id: str, statement: SignedStatement) -> Usage | None:
    """Check a usage statement and write it down; the lease is over whether it holds or not."""
    me = session.identity.public_key
    try:
        usage = open_usage(statement, node_key=client.node_key, renter_key=me, container_id=container_id)
    except AnswerInvalid as err:
        say(f"{container_id}: {printable(err)}")
        return None
    path: Path = session.usage_folder / f"{container_id}.json"
    write_private(path, json.dumps(statement.to_wire(), indent=2) + "\n")
    say(f"usage kept in {path}; check it with: python -m polarise.cli verify usage {path} --key {client.node_key}")
    return usage
