"""The proof of work: a fixed number of nonces whose SHA-256 is small, found after the seed is known, each one checked.

Definition: digest = sha256(prefix || nonce), prefix = sha256(domain | seed) in 32 bytes || slot in 12, nonce in 8, all
big-endian; 52 bytes, one compression. The value of a nonce is its digest's last word followed by the word before it, 64
bits; a share is a nonce of its slot whose value is at most the target, that is 2**64 / difficulty - 1. The last word
decides alone, but for one value in 2**32, so that a solver need not finish the hash.

Rules:
- Order, repetition, range and number are checked before anything is hashed. A check is one hash per share where the work
  was `difficulty` hashes per share, with hashlib and nothing else.
- Nothing is computed before the clock: the prefix hangs on the seed, which hangs on the validator's nonce.
- Nothing is gained by skipping. Each nonce is a share with the same probability whatever the others are, so that any
  nonces, in any order, cost `difficulty` hashes per share. The honest solver takes the first shares in the order of
  their nonces, for a result that can be reproduced; the check asks for no particular ones, as it could not know them
  without the work. Nor is there a second try: seed and parameters are the validator's and a proof is never repeated.
- A share cannot be faked or counted twice, and one of another seed, device, miner or slot is none here.
- The rate is difficulty * shares / time, and what counts is its lower bound (`timing.pow_rate_lower_bound`).

What it does not prove: that a GPU did it, or one device. Shares of several devices add up, and one modern CPU core with
compiled code makes about 1/130 of what an H200 should. It is a cheap proof, open to anyone's check, of the integer rate that a miner
commands within the window; windows that all devices share are what keeps a device from being counted twice.
"""

from __future__ import annotations

import hashlib

from challenges.draw import encode_fields
from challenges.pow_messages import NONCE_BYTES, PowCommitment, PowParams
from polarise.errors import ProofRejected, RejectReason

__all__ = ["PowCommitment", "PowParams", "check_nonces_shape", "check_shares", "share_prefix", "share_value"]

SLOT_BYTES = 12

_PREFIX_DOMAIN = b"polarise/pow/prefix/1"


def share_prefix(params: PowParams, seed: bytes) -> bytes:
    """Return the 44 bytes that stand before each nonce."""
    return hashlib.sha256(encode_fields(_PREFIX_DOMAIN, seed)).digest() + params.slot.to_bytes(SLOT_BYTES, "big")


def share_value(prefix: bytes, nonce: int) -> int:
    """Return the 64-bit value of a nonce: its digest's last word, then the word before; a share's is <= the target."""
    digest = hashlib.sha256(prefix + nonce.to_bytes(NONCE_BYTES, "big")).digest()
    return int.from_bytes(digest[28:32] + digest[24:28], "big")


def check_nonces_shape(params: PowParams, commitment: PowCommitment) -> None:
    """Check all that needs no hash: the number of nonces, that they rise strictly, and that the slot holds them.

    Raises:
        ProofRejected: WRONG_COUNT or MALFORMED.
    """
    nonces = commitment.nonces
    if len(nonces) != params.shares:
        raise ProofRejected(
            RejectReason.WRONG_COUNT, "number of shares differs", got=len(nonces), expected=params.shares
        )
    for index in range(1, len(nonces)):
        if nonces[index] <= nonces[index - 1]:
            raise ProofRejected(
                RejectReason.MALFORMED,
                f"nonce {index} is not above the one before",
                got=nonces[index],
                expected=f"> {nonces[index - 1]}",
            )
    # They rise, so that the ends stand for all.
    for nonce in (nonces[0], nonces[-1]):
        if nonce not in params.nonces:
            raise ProofRejected(
                RejectReason.MALFORMED,
                f"a nonce is outside slot {params.slot}",
                got=nonce,
                expected=f"{params.nonces.start}..{params.nonces.stop - 1}",
            )


def check_shares(params: PowParams, seed: bytes, commitment: PowCommitment) -> None:
    """Check a whole answer: the form first, then each share; about 0.6 us per share, 1.3 ms at 2,000.

    Args:
        params: As the validator sent them.
        seed: Seed of the challenge, as the validator derived it.
        commitment: What the miner signed; untrusted.

    Raises:
        ProofRejected: WRONG_COUNT, MALFORMED, or SHARE_INVALID with the first share that is none.
    """
    check_nonces_shape(params, commitment)
    prefix, target = share_prefix(params, seed), params.target
    for index, nonce in enumerate(commitment.nonces):
        value = share_value(prefix, nonce)
        if value > target:
            raise ProofRejected(
                RejectReason.SHARE_INVALID,
                f"share {index}, nonce {nonce}, misses the target",
                got=f"{value:016x}",
                expected=f"<= {target:016x}",
            )
