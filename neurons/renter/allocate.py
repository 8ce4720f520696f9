"""`renter allocate`: rent a container, check and countersign its receipt, and keep what is needed to log in."""

from __future__ import annotations

import argparse
import secrets
import time

from pydantic import ValidationError

from neurons.renter.leases import Lease
from neurons.renter.login import Login, choose_login
from neurons.renter.output import SHORT_ID_CHARS, limits_text, print_fields, print_json, say
from neurons.renter.session import ALLOCATE_TIMEOUT_SECONDS, countersign, open_session
from polarise.answers import open_receipt, printable
from polarise.clients import MinerClient
from polarise.deadline import Deadline
from polarise.decode import rejection_of
from polarise.errors import ConfigError, ConnectionLost, DeadlineExceeded, ErrorCode, RequestRejected
from polarise.messages import AllocateAnswer, AllocateRequest, DeviceSelector

# Between a lost connection and the second try, and between looks at a first try that is at work.
RETRY_SECONDS = 1.0


def run(args: argparse.Namespace) -> int:
    """Rent one container."""
    login = choose_login(args)
    request = _request(args, login)
    session = open_session(args, timeout_seconds=ALLOCATE_TIMEOUT_SECONDS)
    session.leases.prepare()
    miner = session.miners.find(session.miner_text, session.miner_key, session.timeout_seconds)
    client = session.client(miner)
    answer = _allocate(client, request, args.idempotency_key or secrets.token_hex(16), session.timeout_seconds)
    receipt = open_receipt(answer.receipt, node_key=miner.node_key, renter_key=session.identity.public_key)
    identity_file = login.keep(session.leases.new_identity_path(receipt.container_id))
    lease = session.leases.save(miner, answer.receipt, receipt, identity_file)
    countersign(client, answer.receipt)
    _print(args.output, answer, lease)
    return 0


def _allocate(client: MinerClient, request: AllocateRequest, key: str, timeout_seconds: float) -> AllocateAnswer:
    """Ask, and once more after a lost connection: under one key that is one lease, whatever became of the first try."""
    deadline = Deadline(timeout_seconds)
    try:
        try:
            return client.allocate(request, idempotency_key=key, timeout_seconds=timeout_seconds)
        except ConnectionLost as err:
            say(f"{printable(err)}; asking again under the same Idempotency-Key, so that it stays one lease")
            return _allocate_again(client, request, key, deadline)
    except (DeadlineExceeded, ConnectionLost):
        say("the miner may have granted the lease all the same: see `renter ps`, then `renter release ID`")
        raise


def _allocate_again(client: MinerClient, request: AllocateRequest, key: str, deadline: Deadline) -> AllocateAnswer:
    while True:
        time.sleep(min(RETRY_SECONDS, deadline.left_seconds()))
        try:
            answer = client.allocate(request, idempotency_key=key, timeout_seconds=deadline.left_seconds())
        except RequestRejected as err:
            # With Retry-After: the first try is still at work.
            if err.code is not ErrorCode.CONFLICT or err.retry_after_seconds is None:
                raise
            continue
        if answer.ssh_password is None and request.ssh_public_key is None:
            # It was in the answer that was lost, and is shown once: the lease gets another.
            password = client.new_password(answer.container_id).ssh_password
            answer = answer.model_copy(update={"ssh_password": password})
        return answer


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
            private_network=args.private_network,
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
    private = answer.private_network
    network = {"private network": f"{private.name}, here {private.address}"} if private else {}
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
            **network,
            "expires": answer.expires_at,
            "data": _fate_of_data(answer),
            "ssh": f"python main.py renter ssh {short}",
        }
    )


def _fate_of_data(answer: AllocateAnswer) -> str:
    if answer.limits.disk_encrypted:
        return "deleted with the lease; a restart of the miner's host ends it and its data"
    return "deleted with the lease"
