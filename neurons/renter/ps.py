"""`renter ps`: the renter's containers, at the miner of the flags or at every miner a lease is kept of."""

from __future__ import annotations

import argparse

from neurons.renter.miners import Miner
from neurons.renter.output import SHORT_ID_CHARS, limits_text, print_json, print_table, say
from neurons.renter.session import Session, open_session
from polarise.errors import Unavailable
from polarise.messages import ContainerView

HEADER = ("CONTAINER", "STATUS", "LOGIN", "LIMITS", "DEVICES", "EXPIRES", "MINER")


def run(args: argparse.Namespace) -> int:
    """List containers; a miner that does not answer is named, and the rest is shown."""
    session = open_session(args)
    found: list[tuple[Miner, ContainerView]] = []
    failures: list[Unavailable] = []
    for miner in _miners(session):
        try:
            found += [(miner, view) for view in session.client(miner).containers()]
        except Unavailable as err:
            failures.append(err)
    if args.output == "json":
        print_json({"containers": [{**view.to_wire(), **_wire(miner)} for miner, view in found]})
    else:
        print_table(HEADER, [_row(miner, view) for miner, view in found])
    for failure in failures[:-1]:
        say(str(failure))
    if failures:
        raise failures[-1]
    return 0


def _miners(session: Session) -> list[Miner]:
    if session.miner_text is None:
        kept = list(dict.fromkeys(lease.miner for lease in session.leases.all()))
        if kept:
            return kept
    return [session.miners.find(session.miner_text, session.miner_key, session.timeout_seconds)]


def _wire(miner: Miner) -> dict[str, str]:
    return {"endpoint": miner.endpoint, "node_key": miner.node_key}


def _row(miner: Miner, view: ContainerView) -> tuple[str, ...]:
    return (
        view.container_id[:SHORT_ID_CHARS],
        view.status,
        f"{view.ssh_user}@{view.ssh_host}:{view.ssh_port}",
        limits_text(view.limits),
        ",".join(view.devices) or "-",
        view.expires_at,
        miner.endpoint,
    )
