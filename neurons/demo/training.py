"""The renter's own check of what its container told: each event found in the log and proved to the ledger."""

from __future__ import annotations

import json
import time

from neurons.base.anchor import anchor_path
from neurons.demo.market import Market
from polarise.checkpoint import parse_checkpoint
from polarise.errors import SubnetError
from polarise.notes import parse_note
from polarise.stream import log_verifier
from polarise.telemetry_client import TelemetryClient

ANCHOR_SECONDS = 30.0
KIND = "training.epoch"


class NotProved(SubnetError):
    """An event is missing, or its proof does not lead to the ledger."""


def prove_training(market: Market, container_id: str, lease_id: str, count: int) -> int:
    """Find the training events of an ended lease and prove each of them.

    Args:
        market: The running market; its renter holds the lease.
        container_id: For messages.
        lease_id: The stream's id.
        count: How many events there have to be.

    Returns:
        Height of the ledger block that holds the stream's root.

    Raises:
        NotProved: One is missing or does not lead there.
    """
    client = TelemetryClient(market.miner_url, market.miner_identity.public_key, market.renter)
    lines = [line.encode() for line in client.events(lease_id, 0).lines]
    found = [seq for seq, line in enumerate(lines) if json.loads(line)["kind"] == KIND]
    if len(found) != count:
        raise NotProved(f"{len(found)} events of container {container_id[:12]} are in its log, expected {count}")
    answer = client.checkpoint(lease_id)
    log = log_verifier(answer.certificate, market.miner_identity.public_key, lease_id)
    size, root, height = _anchored(market, lease_id)
    for seq in found:
        proof = client.proof(lease_id, seq)
        proof.verify(log, leaf=lines[seq])
        checkpoint = parse_checkpoint(parse_note(proof.checkpoint).text)
        if (checkpoint.size, checkpoint.root.hex()) != (size, root):
            raise NotProved(f"line {seq} leads to another tree than the one on the ledger")
    return height


def _anchored(market: Market, lease_id: str) -> tuple[int, str, int]:
    """Wait for the stream's root on the ledger, with proofs that it stands there and was written by a transaction."""
    ledger = market.ledger_client()
    path = anchor_path(market.miner_identity.public_key, lease_id)
    end = time.monotonic() + ANCHOR_SECONDS
    while (standing := ledger.read(path)).text is None:
        if time.monotonic() > end:
            raise NotProved(f"nothing stands on {path} after {ANCHOR_SECONDS:g} s")
        time.sleep(0.25)
    _, block, transaction = ledger.prove_path(path)
    value = transaction.body.op.value
    if not isinstance(value, dict) or standing.value != value:
        raise NotProved(f"{path} was written anew meanwhile")
    return int(value["size"]), str(value["root"]), block.block.height
