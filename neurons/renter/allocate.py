"""`renter allocate`: rent a container, check and countersign its receipt, and keep what is needed to log in."""

from __future__ import annotations

import argparse

from pydantic import ValidationError

from neurons.renter.leases import Lease
from neurons.renter.login import Login, choose_login
from neurons.renter.output import SHORT_ID_CHARS, limits_text, print_fields, print_json, say
from neurons.renter.session import ALLOCATE_TIMEOUT_SECONDS, countersign, open_session
from polarise.answers import open_receipt
from polarise.decode import rejection_of
from polarise.errors import ConfigError, DeadlineExceeded
from polarise.messages import AllocateAnswer, AllocateRequest, DeviceSelector


def run(args: argparse.Namespace) -> int:
    """Rent one container."""
    login = choose_login(args)
    request = _request(args, login)
    session = open_session(args, timeout_seconds=ALLOCATE_TIMEOUT_SECONDS)
    session.leases.prepare()
    miner = session.miners.find(session.miner_text, session.miner_key, session.timeout_seconds)
    client = session.client(miner)
    try:
        answer = client.allocate(request, idempotency_key=args.idempotency_key)
    except DeadlineExceeded:
        say("the miner may have granted the lease all the same: see `renter ps`, then `renter release ID`")
        raise
    receipt = open_receipt(answer.receipt, node_key=miner.node_key, renter_key=session.identity.public_key)
    identity_file = login.keep(session.leases.new_identity_path(receipt.container_id))
    lease = session.leases.save(miner, answer.receipt, receipt, identity_file)
    countersign(client, answer.receipt)
    _print(args.output, answer, lease)
    return 0


def _request(args: argparse.Namespace, login: Login) -> AllocateRequest:
    try:
        return AllocateRequest(
            memory=args.memory,
            cpu_count=args.cpus,
            devices=_devices(args),
            disk=args.disk,
            image=args.image,
            ssh_public_key=login.public_line,
            ttl_seconds=args.ttl,
            isolation=args.isolation,
        )
    except ValidationError as err:
        refused = rejection_of(AllocateRequest, err)
        raise ConfigError(
            refused.message, origin="allocate", key_path=refused.field or "", allowed="see `renter allocate --help`"
        ) from err


def _devices(args: argparse.Namespace) -> tuple[str | int, ...] | DeviceSelector | None:
    if args.device_count is not None and args.device is None:
        return DeviceSelector(count=args.device_count, model=args.device_model)
    if args.device_count is not None or args.device_model is not None:
        raise ConfigError(
            "--device-count goes without --device, and --device-model goes with --device-count",
            origin="allocate",
            allowed="--device ID, or --device-count N [--device-model NAME]",
        )
    if args.device is None:
        return None
    return () if args.device == ["none"] else tuple(int(text) if text.isdecimal() else text for text in args.device)


def _print(output: str, answer: AllocateAnswer, lease: Lease) -> None:
    if output == "json":
        files = {"identity_file": lease.record.identity_file, "known_hosts": str(lease.known_hosts)}
        print_json({**answer.to_wire(), "endpoint": lease.record.endpoint, **files})
        return
    short = answer.container_id[:SHORT_ID_CHARS]
    password = {"password": f"{answer.ssh_password} (shown once)"} if answer.ssh_password else {}
    print_fields(
        {
            "container": answer.container_id,
            "lease": lease.receipt.lease_id,
            "login": f"{answer.ssh_user}@{answer.ssh_host} port {answer.ssh_port}",
            **password,
            "host key": answer.host_key_fingerprint,
            "limits": limits_text(answer.limits),
            "devices": ", ".join(answer.devices) or "none",
            "expires": answer.expires_at,
            "ssh": f"python main.py renter ssh {short}",
        }
    )
