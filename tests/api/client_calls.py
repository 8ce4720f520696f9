"""Every method of our three clients, called once in an order that makes sense, at daemons that run."""

from __future__ import annotations

import time
from collections.abc import Iterator

from polarise.checkpoint import cosign, open_checkpoint
from polarise.clients import MinerClient, OrderedWork
from polarise.cosignature import CosignatureRequest, SizedCosignature, witness_name
from polarise.hardware import CPU_DEVICE
from polarise.ledger_client import LedgerClient
from polarise.messages import AllocateRequest, MatmulSizes, OpenRequest, Position, PrepareRequest, StartRequest
from polarise.rented import sign_consent
from polarise.signing import Identity, Purpose
from polarise.ssh_keys import generate_key_pair
from polarise.stream import SYSTEM, log_verifier
from polarise.telemetry_client import TelemetryClient
from polarise.transaction import SetValue, sign_transaction
from polarise.verdict import Verdict, sign_verdict
from tests.support.evidence import score

PROOF_SECONDS = 120.0
CHALLENGE_ID = "0123456789abcdef0123456789abcdef"


def lease_calls(client: MinerClient, renter: Identity) -> Iterator[str]:
    """Rent a container, do all one can with it, give it back."""
    client.status()
    yield "status"
    client.ping()
    yield "ping"
    client.ping_wire()
    yield "ping_wire"
    now = time.time_ns() // 1_000_000
    consent = sign_consent(renter, client.node_key, now - 1000, now + 3_600_000)
    client.token(consent)
    yield "token"
    key = generate_key_pair()[1]
    wanted = AllocateRequest(memory="128m", cpu_count=0.1, ttl_seconds=600, ssh_public_key=key)
    lease = client.allocate(wanted, idempotency_key="first-lease")
    yield "allocate"
    client.containers()
    yield "containers"
    client.container(lease.container_id)
    yield "container"
    renewed = client.renew(lease.container_id, 900)
    yield "renew"
    client.countersign(renewed.receipt)
    yield "countersign"
    client.set_ssh_key(lease.container_id, generate_key_pair()[1])
    yield "set_ssh_key"
    client.new_password(lease.container_id)
    yield "new_password"
    client.usage(lease.container_id)
    yield "usage"
    with client.logs(lease.container_id):
        yield "logs"
    client.terminate(lease.container_id)
    yield "terminate"


def challenge_calls(client: MinerClient, validator: Identity) -> Iterator[str]:
    """Have the processor prove a matmul of the smallest size, open it, and judge."""
    prepare = PrepareRequest(
        challenge_id=CHALLENGE_ID,
        kind="matmul",
        device=CPU_DEVICE,
        sizes=MatmulSizes(n=256, rounds=2, tile=64, openings=1),
    )
    client.prepare(prepare, deadline_seconds=PROOF_SECONDS)
    yield "prepare"
    start = StartRequest(challenge_id=CHALLENGE_ID, epoch=7, beacon="ab" * 32, nonce="cd" * 32)
    work = OrderedWork(CPU_DEVICE, "matmul", 1000, time.time_ns() // 1_000_000)
    client.start_wire(start, work)
    yield "start_wire"
    client.start(start, work, deadline_seconds=PROOF_SECONDS)
    yield "start"
    position = Position(round_index=0, tile_row=3, tile_column=1)
    asked = OpenRequest(challenge_id=CHALLENGE_ID, positions=(position,))
    client.open(asked, deadline_seconds=PROOF_SECONDS)
    yield "open"
    verdict = Verdict(
        epoch=7,
        validator_key=validator.public_key,
        miner_key=client.node_key,
        score=score(700_000),
        evidence="e" * 64,
        evidence_url="http://127.0.0.1:8070",
    )
    client.verdict(sign_verdict(validator, verdict), deadline_seconds=PROOF_SECONDS)
    yield "verdict"


def telemetry_calls(client: TelemetryClient, validator: Identity) -> Iterator[str]:
    """Read the stream of a miner's node in every way, and cosign it."""
    with client.stream(SYSTEM, 0, follow=False):
        yield "stream"
    client.events(SYSTEM, 0)
    yield "events"
    answer = client.checkpoint(SYSTEM)
    yield "checkpoint"
    verifier = log_verifier(answer.certificate, client.node_key, SYSTEM)
    signed = open_checkpoint(str(answer.checkpoint).encode(), verifier)
    client.proof(SYSTEM, 0)
    yield "proof"
    client.log_epochs()
    yield "log_epochs"
    subkey = validator.subkey(Purpose.WITNESS)
    signature = cosign(signed.note.text, witness_name(validator.public_key), subkey.key, time.time_ns() // 10**9)
    sized = SizedCosignature(size=signed.checkpoint.size, line=signature.line())
    client.cosign(SYSTEM, CosignatureRequest(certificate=subkey.certificate, cosignatures=(sized,)))
    yield "cosign"
    client.checkpoint(SYSTEM, 1, witnesses="1")
    yield "checkpoint"


def ledger_calls(client: LedgerClient, sender: Identity, op: SetValue) -> Iterator[str]:
    """Put something on the ledger, follow it until it is final, and read it in every way."""
    client.status()
    yield "status"
    nonce = client.next_nonce(sender.public_key)
    yield "next_nonce"
    now = time.time_ns() // 1_000_000
    sent = sign_transaction(sender, op, net=client.genesis.net, nonce=nonce, time_unix_ms=now)
    client.submit(sent)
    yield "submit"
    client.wait(sent.hash, PROOF_SECONDS)
    yield "wait"
    client.transaction(sent.hash)
    yield "transaction"
    client.prove(sent.hash)
    yield "prove"
    client.prove_path(op.path)
    yield "prove_path"
    client.get(op.path)
    yield "get"
    list(client.children("/registry", "block"))
    yield "children"
    client.read(op.path)
    yield "read"
    client.read_below("/registry")
    yield "read_below"
    block = client.checkpoint()
    yield "checkpoint"
    client.final_block()
    yield "final_block"
    list(client.blocks(0))
    yield "blocks"
    list(client.leaves(0, block.block.size))
    yield "leaves"
    client.frontier(block)
    yield "frontier"
    client.consistency(1, block.block.size)
    yield "consistency"
    with client.stream(0, 10.0):
        yield "stream"
