"""Randomness that anyone can re-check: commit, nonce, seed and opened positions, all from one opening key and a beacon.

Rules (design, section 5):
- Before an epoch the validator commits to its opening key; after it the key is revealed and every draw is recomputed.
- Every hash has a domain and length-prefixed fields, so that no two different inputs give the same bytes.
- Positions depend on the hash of the signed commitment: nobody knows them before the answer is fixed.
- Numbers are drawn by rejection, never by a bare modulo, so that each position is equally likely.
"""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

KEY_BYTES = 32
DRAW_COUNT_MAX = 4096

_COMMIT_DOMAIN = b"polarise/challenge/commit/1"
_NONCE_DOMAIN = b"polarise/challenge/nonce/1"
_SEED_DOMAIN = b"polarise/challenge/seed/1"
_FILL_NONCE_DOMAIN = b"polarise/challenge/fill-nonce/1"
_FILL_SEED_DOMAIN = b"polarise/challenge/fill-seed/1"
_OPEN_DOMAIN = b"polarise/challenge/open/1"
_DRAW_DOMAIN = b"polarise/challenge/draw/1"
_POSITIONS_DOMAIN = b"polarise/challenge/positions/1"
_WORD_BYTES = 8


class ChallengeKind(StrEnum):
    """The proofs a device can be asked for; the value is hashed into seeds, so it never changes."""

    POW = "pow"
    MATMUL = "matmul"
    MEMORY = "memory"


@dataclass(frozen=True, slots=True)
class SeedInputs:
    """All that a seed depends on; an auditor finds each of them on the ledger or in the evidence bundle.

    Args:
        kind: Which proof.
        params: The proof's parameters in their canonical bytes, for example `MatmulParams.encode()`.
        epoch: Epoch number, >= 0.
        beacon: Hash of the first final checkpoint after the challenge commit, 32 bytes.
        validator_key: Ed25519 public key of the validator, 32 bytes.
        nonce: `nonce(...)` of this device and kind, 32 bytes.
        miner_key: Ed25519 public key of the miner, 32 bytes.
        device_uuid: UUID of the device as the registry has it.
        device_index: Index of the device on its host, >= 0.
    """

    kind: ChallengeKind
    params: bytes
    epoch: int
    beacon: bytes
    validator_key: bytes
    nonce: bytes
    miner_key: bytes
    device_uuid: str
    device_index: int

    def __post_init__(self) -> None:
        """Refuse keys and hashes of another length: they would be our own bug, not a peer's."""
        for name in ("beacon", "validator_key", "nonce", "miner_key"):
            _require_32_bytes(name, getattr(self, name))


def challenge_commit(epoch: int, opening_key: bytes, miner_set_root: bytes) -> bytes:
    """Return the 32 bytes a validator posts at the start of an epoch, binding its key and the miners it will ask."""
    _require_32_bytes("opening_key", opening_key)
    _require_32_bytes("miner_set_root", miner_set_root)
    return hashlib.sha256(encode_fields(_COMMIT_DOMAIN, epoch, opening_key, miner_set_root)).digest()


def is_drawn(beacon: bytes, host: str, every: int) -> bool:
    """Whether a host is proven in the epoch of this beacon: one epoch of `every`, which one nobody knows before.

    Miners on one host are drawn together, so that one device cannot answer for two of them in turn.

    Args:
        beacon: Public randomness of the epoch, 32 bytes.
        host: Host of the miner's endpoint, as the registry has it, in lower case.
        every: One epoch of so many on average, >= 1.
    """
    _require_32_bytes("beacon", beacon)
    if every < 1:
        raise ValueError(f"every is {every}, expected >= 1")
    stream = encode_fields(_DRAW_DOMAIN, beacon, host)
    return next(_uniform_indices(stream, every)) == 0


def nonce(opening_key: bytes, beacon: bytes, device_uuid: str, kind: ChallengeKind, *, attempt: int = 0) -> bytes:
    """Return the validator's 32-byte nonce for one device and kind, unknown to all others until it is sent.

    Args:
        opening_key: The validator's 32-byte key of this epoch.
        beacon: Public randomness of the epoch, 32 bytes.
        device_uuid: The device that is asked.
        kind: The proof.
        attempt: 0, or 1 in a round that is run again, so that no answer of the first one fits.
    """
    _require_32_bytes("opening_key", opening_key)
    _require_32_bytes("beacon", beacon)
    message = encode_fields(_NONCE_DOMAIN, beacon, device_uuid, kind.value, *_again(attempt))
    return hmac.digest(opening_key, message, "sha256")


def seed(inputs: SeedInputs) -> bytes:
    """Return the 32-byte seed of one challenge; another identity, device or epoch gives another seed."""
    return _hash_inputs(_SEED_DOMAIN, inputs)


def fill_nonce(opening_key: bytes, beacon: bytes, device_uuid: str, *, attempt: int = 0) -> bytes:
    """Return the 32 bytes that `/challenge/prepare` tells of a memory proof: `nonce` comes after the memory is filled.

    Args:
        opening_key: The validator's 32-byte key of this epoch.
        beacon: Public randomness of the epoch, 32 bytes.
        device_uuid: The device that is asked.
        attempt: As in `nonce`.
    """
    _require_32_bytes("opening_key", opening_key)
    _require_32_bytes("beacon", beacon)
    message = encode_fields(_FILL_NONCE_DOMAIN, beacon, device_uuid, *_again(attempt))
    return hmac.digest(opening_key, message, "sha256")


def fill_seed(inputs: SeedInputs) -> bytes:
    """Return the 32 bytes that a device's memory is filled from; `inputs.nonce` is `fill_nonce(...)`.

    All that a seed depends on is in it, so that no two devices or identities can share what they fill.
    """
    return _hash_inputs(_FILL_SEED_DOMAIN, inputs)


def draw_positions(
    opening_key: bytes,
    device_uuid: str,
    kind: ChallengeKind,
    signed_commitment: bytes,
    *,
    bounds: Sequence[int],
    count: int,
    attempt: int = 0,
) -> tuple[tuple[int, ...], ...]:
    """Draw the positions to open, each uniform over the product of ranges, distinct while there are enough.

    Fiat-Shamir from the root alone would let a miner try fake roots until the draw misses its gaps (0.3 ms a try);
    the validator's key, unknown to the miner, takes that away.

    Args:
        opening_key: The validator's 32-byte key of this epoch.
        device_uuid: The device that answered.
        kind: The proof it answered.
        signed_commitment: The exact bytes the miner signed, signature included.
        bounds: Exclusive upper bound of each coordinate, each >= 1: (rounds, tile rows, tile columns) for matmul,
            (passes, blocks) for memory.
        count: How many positions, 1 <= count <= 4096.
        attempt: As in `nonce`.

    Returns:
        `count` positions in the order drawn; repeats only where `count` exceeds the number of positions there are.
    """
    _require_32_bytes("opening_key", opening_key)
    if not 1 <= count <= DRAW_COUNT_MAX:
        raise ValueError(f"count is {count}, expected 1..{DRAW_COUNT_MAX}")
    if not bounds or min(bounds) < 1:
        raise ValueError(f"bounds are {tuple(bounds)}, expected each >= 1")
    key = hmac.digest(opening_key, encode_fields(_OPEN_DOMAIN, device_uuid, kind.value, *_again(attempt)), "sha256")
    stream = encode_fields(_POSITIONS_DOMAIN, key, hashlib.sha256(signed_commitment).digest())
    return tuple(_unflatten(index, bounds) for index in _draw_indices(stream, math.prod(bounds), count))


def encode_fields(domain: bytes, *fields: bytes | str | int) -> bytes:
    """Encode a domain and fields so that the bytes can be read back in one way only.

    Each field is its length as 8 bytes big-endian and its bytes; text is UTF-8, a number 8 bytes big-endian unsigned.

    Raises:
        ValueError: A number is negative or above 2**64 - 1.
    """
    return b"".join(_length_prefixed(field) for field in (domain, *fields))


def _hash_inputs(domain: bytes, inputs: SeedInputs) -> bytes:
    return hashlib.sha256(
        encode_fields(
            domain,
            inputs.kind.value,
            inputs.params,
            inputs.epoch,
            inputs.beacon,
            inputs.validator_key,
            inputs.nonce,
            inputs.miner_key,
            inputs.device_uuid,
            inputs.device_index,
        )
    ).digest()


def _again(attempt: int) -> tuple[int, ...]:
    """Return nothing for the first attempt, whose bytes are older than the second one."""
    return () if attempt == 0 else (attempt,)


def _length_prefixed(field: bytes | str | int) -> bytes:
    if isinstance(field, int):
        if not 0 <= field < 1 << 64:
            raise ValueError(f"number {field} does not fit 64 bits")
        field = field.to_bytes(8, "big")
    elif isinstance(field, str):
        field = field.encode()
    return len(field).to_bytes(8, "big") + field


def _draw_indices(stream: bytes, space: int, count: int) -> list[int]:
    if space >= 1 << 63:
        raise ValueError(f"{space} positions are too many to draw from")
    is_distinct = count <= space
    drawn: dict[int, None] = {}
    repeated: list[int] = []
    for index in _uniform_indices(stream, space):
        if is_distinct:
            drawn[index] = None
        else:
            repeated.append(index)
        if len(drawn) + len(repeated) == count:
            break
    return list(drawn) if is_distinct else repeated


def _uniform_indices(stream: bytes, space: int) -> Iterator[int]:
    """Yield numbers below `space` for ever; words in the last, incomplete multiple of `space` are thrown away."""
    limit = (1 << 64) - (1 << 64) % space
    position, size = 0, 1024
    words = b""
    while True:
        if position == len(words):
            # SHAKE's longer output starts with the shorter one, so that asking again continues the same stream.
            words = hashlib.shake_256(stream).digest(size)
            size *= 2
        word = int.from_bytes(words[position : position + _WORD_BYTES], "big")
        position += _WORD_BYTES
        if word < limit:
            yield word % space


def _unflatten(index: int, bounds: Sequence[int]) -> tuple[int, ...]:
    coordinates = []
    for bound in reversed(bounds):
        index, coordinate = divmod(index, bound)
        coordinates.append(coordinate)
    return tuple(reversed(coordinates))


def _require_32_bytes(name: str, value: bytes) -> None:
    if len(value) != KEY_BYTES:
        raise ValueError(f"{name} must be {KEY_BYTES} bytes")
