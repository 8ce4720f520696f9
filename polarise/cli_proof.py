"""``polarise verify`` on a tlog-proof: what it proves, in words, with nothing but the file and the log's key."""

from __future__ import annotations

from collections.abc import Sequence

from polarise.block import block_of
from polarise.canonical import JsonValue
from polarise.checkpoint import SignedCheckpoint, parse_checkpoint, parse_log_key, parse_witness_key
from polarise.errors import RequestRejected
from polarise.log_proof import HEADER, LogProof, parse_log_proof
from polarise.notes import NoteInvalid, parse_note
from polarise.transaction import SignedTransaction, TransactionVerifier, decode_transaction

LEAF_CHARS_SHOWN = 2000


def is_proof(raw: bytes) -> bool:
    """Tell a proof file by its first line."""
    return raw.startswith(HEADER.encode() + b"\n")


def verify_proof(raw: bytes, key: str, witnesses: Sequence[str], witnesses_min: int | None) -> dict[str, JsonValue]:
    """Check a proof and say what it shows.

    A leaf that is a ledger's transaction must also be signed by its sender.

    Args:
        raw: The file.
        key: The log's verifier key, or its public key as 64 hex digits.
        witnesses: Verifier keys of witnesses.
        witnesses_min: How many of them must have cosigned; None asks for all.

    Raises:
        NoteInvalid: The checkpoint is not the log's, or too few witnesses cosigned it.
        InvalidProof: The leaf does not stand in that tree.
        SignatureInvalid: The transaction in it is not its sender's.
    """
    proof = parse_log_proof(raw)
    origin = parse_checkpoint(parse_note(proof.checkpoint).text).origin
    signed = proof.verify(
        parse_log_key(key, origin),
        witnesses=[parse_witness_key(witness) for witness in witnesses],
        witnesses_min=len(set(witnesses)) if witnesses_min is None else witnesses_min,
    )
    return {**_log(proof, signed), **_leaf(proof.extra or b""), **_block(signed)}


def _log(proof: LogProof, signed: SignedCheckpoint) -> dict[str, JsonValue]:
    checkpoint = signed.checkpoint
    return {
        "origin": checkpoint.origin,
        "index": proof.index,
        "size": checkpoint.size,
        "root": checkpoint.root.hex(),
    }


def _leaf(content: bytes) -> dict[str, JsonValue]:
    transaction = _transaction(content)
    if transaction is None:
        return {"leaf": content.decode("utf-8", "replace")[:LEAF_CHARS_SHOWN]}
    TransactionVerifier().verify(transaction)
    body = transaction.body
    return {
        "transaction": transaction.hash,
        "net": body.net,
        "from": body.sender,
        "nonce": body.nonce,
        "signed_unix_ms": body.time_unix_ms,
        "op": body.op.to_wire(),
    }


def _transaction(content: bytes) -> SignedTransaction | None:
    try:
        return decode_transaction(content)
    except RequestRejected:
        return None


def _block(signed: SignedCheckpoint) -> dict[str, JsonValue]:
    try:
        block = block_of(signed.checkpoint)
    except NoteInvalid:
        return {}
    return {"height": block.height, "block_unix_ms": block.time_unix_ms, "state": block.state}
