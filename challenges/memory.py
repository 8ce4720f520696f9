"""The memory proof: memory filled with numbers that are dear to make, read through again and again under unknown keys.

Definition: a unit is 32 bytes, unit u = SHA-256 applied k times to prefix[24] || u[8, big-endian], the prefix hashed from
the fill seed; its words are the hash's eight 32-bit words as numbers. 2048 units are a block. A pass digests every block
under the pass's key (`challenges.memory_digest`) into one Merkle root. key 0 = H(fill seed | seed), key p = H(key p-1 |
root p-1). The fill seed is told before the clock runs, the seed of the challenge starts it.

Rules:
- Random questions about the content prove no memory: a device makes the few units that are asked for when they are asked
  for. A pass needs every unit, and the memory counts because it is faster to read a unit than to make it anew, by rho =
  fill time / pass time; `challenges.memory_fit` chooses k so that rho is 64 or more even with the fastest kernel known.
- Who misses a share f of the memory makes f of the units anew in *each* pass, because the key of a pass is not known
  before the root of the one before: a pass takes max(1, f·rho) times as long if hashing hides behind reading, else
  1 + f·rho. The clock sees it: bytes read per second is the rate that is judged. Units are not made once for several
  passes; a lag as in `challenges.matmul`, with two keys known at a time, would halve rho.
- Who invents digests instead is caught by openings drawn after the commitment: with a share f of all digests invented,
  s openings pass with probability (1 - f)**s. No retry.
- Two proofs, of two devices or two identities, have two fill seeds, and no unit in common.
- The check makes an opened block from nothing with hashlib, 2048·k hashes, and digests it with numpy: 4.1 ms at k = 8 and
  29 ms at k = 66 on one Zen 5 core, whatever the memory and the number of passes.

What it does not prove: where the memory is. Memory behind a link is found by the link's rate alone. Nor what a device's
memory is if nothing is known of its bandwidth: with a rate claimed low enough, everything can be made anew in time. Of a
card in the table that is a rate far below its band. Of a CPU nothing is known, so that the proof says little there and
its score is capped (`memory_fit.CPU_SCORE_CAP_PPM`).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

import numpy as np

from challenges.draw import encode_fields
from challenges.memory_digest import DIGEST_BYTES, BlockDigester, PassKeys, digest_bytes
from challenges.memory_messages import (
    LEAF_BLOCKS,
    UNITS_PER_BLOCK,
    BlockOpening,
    BlockPosition,
    MemoryCommitment,
    MemoryParams,
    block_openings_from_wire,
    path_length,
)
from challenges.prng import UInt32Array
from polarise import merkle
from polarise.errors import ProofRejected, RejectReason

__all__ = [
    "BlockOpening",
    "BlockPosition",
    "MemoryCommitment",
    "MemoryParams",
    "block_openings_from_wire",
    "block_words",
    "check_block_openings",
    "check_pass_roots",
    "first_pass_key",
    "next_pass_key",
    "pass_keys",
    "unit_message",
]

PREFIX_BYTES = 24

_PREFIX_DOMAIN = b"polarise/memory/units/1"
_FIRST_KEY_DOMAIN = b"polarise/memory/first-key/1"
_NEXT_KEY_DOMAIN = b"polarise/memory/next-key/1"


def unit_message(fill_seed: bytes, unit: int) -> bytes:
    """Return the 32 bytes whose k-fold hash is the unit."""
    prefix = hashlib.sha256(encode_fields(_PREFIX_DOMAIN, fill_seed)).digest()[:PREFIX_BYTES]
    return prefix + unit.to_bytes(8, "big")


def block_words(params: MemoryParams, fill_seed: bytes, block: int) -> UInt32Array:
    """Make one block from nothing with hashlib: [16384] uint32; 2048·k hashes of 0.22 us on one Zen 5 core."""
    sha256 = hashlib.sha256
    prefix = unit_message(fill_seed, 0)[:PREFIX_BYTES]
    units = []
    for unit in range(block * UNITS_PER_BLOCK, (block + 1) * UNITS_PER_BLOCK):
        value = prefix + unit.to_bytes(8, "big")
        for _ in range(params.hashes):
            value = sha256(value).digest()
        units.append(value)
    return np.frombuffer(b"".join(units), dtype=">u4").astype(np.uint32)


def first_pass_key(fill_seed: bytes, seed: bytes) -> bytes:
    """Return the key of pass 0.

    Args:
        fill_seed: What the memory was filled from, 32 bytes.
        seed: Seed of the challenge, which the nonce in `/challenge/start` completes, 32 bytes.
    """
    return hashlib.sha256(encode_fields(_FIRST_KEY_DOMAIN, fill_seed, seed)).digest()


def next_pass_key(key: bytes, root: bytes) -> bytes:
    """Return the key of the pass after the one with this key and this root."""
    return hashlib.sha256(encode_fields(_NEXT_KEY_DOMAIN, key, root)).digest()


def pass_keys(params: MemoryParams, fill_seed: bytes, seed: bytes, roots: Sequence[bytes]) -> list[bytes]:
    """Return the key of every pass, given the committed roots, the last of which keys nothing."""
    keys = [first_pass_key(fill_seed, seed)]
    for root in roots[: params.passes - 1]:
        keys.append(next_pass_key(keys[-1], root))
    return keys


def check_pass_roots(params: MemoryParams, commitment: MemoryCommitment) -> None:
    """Check that there is one root of 32 bytes per pass; to be called before positions are drawn.

    Raises:
        ProofRejected: WRONG_COUNT or MALFORMED.
    """
    if len(commitment.roots) != params.passes:
        raise ProofRejected(
            RejectReason.WRONG_COUNT, "number of roots differs", got=len(commitment.roots), expected=params.passes
        )
    for root in commitment.roots:
        if len(root) != merkle.HASH_BYTES:
            raise ProofRejected(RejectReason.MALFORMED, "a root is not a hash", expected=f"{merkle.HASH_BYTES} bytes")


def check_block_openings(
    params: MemoryParams,
    fill_seed: bytes,
    seed: bytes,
    commitment: MemoryCommitment,
    positions: Sequence[Sequence[int]],
    openings: Sequence[BlockOpening],
) -> None:
    """Check a whole answer: all that is cheap first, then the digest of every opened block, bit for bit.

    With 32 openings 0.13 s of one Zen 5 core at k = 8 and 0.95 s at k = 66; a block that is opened in two passes is made
    once.

    Args:
        params: As the validator sent them.
        fill_seed: What the memory was to be filled from, as the validator derived it.
        seed: Seed of the challenge, as the validator derived it.
        commitment: What the miner signed before it knew the positions.
        positions: As `draw.draw_positions` gave them, (pass, block) each.
        openings: The miner's answer in the order of the positions; untrusted.

    Raises:
        ProofRejected: WRONG_COUNT, MALFORMED, BAD_MERKLE_PATH or BLOCK_MISMATCH, with the position that failed.
        ValueError: A position is outside the proof, which is our own error.
    """
    check_pass_roots(params, commitment)
    if len(openings) != len(positions):
        raise ProofRejected(
            RejectReason.WRONG_COUNT, "number of openings differs", got=len(openings), expected=len(positions)
        )
    asked = [_own_position(params, position) for position in positions]
    for position, opening in zip(asked, openings, strict=True):
        _check_path(params, commitment.roots[position.pass_index], position, opening)
    keys = pass_keys(params, fill_seed, seed, commitment.roots)
    digester = BlockDigester()
    made: tuple[int, UInt32Array] | None = None
    for position, opening in sorted(zip(asked, openings, strict=True), key=lambda pair: pair[0].block):
        if made is None or made[0] != position.block:
            made = position.block, block_words(params, fill_seed, position.block)
        lanes = digester.digests(made[1][None, :], PassKeys.of(keys[position.pass_index]))
        _check_digest(position, opening, digest_bytes(lanes))


def _own_position(params: MemoryParams, position: Sequence[int]) -> BlockPosition:
    asked = BlockPosition(*position)
    if not all(0 <= number < bound for number, bound in zip(asked, params.bounds, strict=True)):
        raise ValueError(f"position {tuple(asked)} is outside {params.bounds}")
    return asked


def _check_path(params: MemoryParams, root: bytes, position: BlockPosition, opening: BlockOpening) -> None:
    if opening.position != position:
        raise ProofRejected(
            RejectReason.MALFORMED,
            "opening is for another block",
            got=tuple(opening.position),
            expected=tuple(position),
        )
    leaf_index = position.block // LEAF_BLOCKS
    leaf_bytes = len(params.leaf_blocks(leaf_index)) * DIGEST_BYTES
    if len(opening.leaf) != leaf_bytes:
        raise ProofRejected(RejectReason.MALFORMED, "leaf length differs", got=len(opening.leaf), expected=leaf_bytes)
    hashes = path_length(params, leaf_index)
    if len(opening.path) != hashes:
        raise ProofRejected(RejectReason.BAD_MERKLE_PATH, "path length differs", got=len(opening.path), expected=hashes)
    try:
        leaf = merkle.leaf_hash(opening.leaf)
        merkle.verify_inclusion(leaf, leaf_index, params.leaves_count, opening.path, root)
    except merkle.InvalidProof as err:
        raise ProofRejected(RejectReason.BAD_MERKLE_PATH, f"block {tuple(position)}: {err}") from err


def _check_digest(position: BlockPosition, opening: BlockOpening, expected: bytes) -> None:
    start = position.block % LEAF_BLOCKS * DIGEST_BYTES
    committed = opening.leaf[start : start + DIGEST_BYTES]
    if not hmac.compare_digest(committed, expected):
        raise ProofRejected(
            RejectReason.BLOCK_MISMATCH,
            f"block {position.block} in pass {position.pass_index} is not what its seed and key make",
            got=committed.hex(),
            expected=expected.hex(),
        )
