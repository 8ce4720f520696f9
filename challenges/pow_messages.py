"""What the two sides of a proof of work say to each other: parameters and the commitment, which is the proof itself.

Rules:
- The number of shares is fixed and the clock stops at the last one; a first hit alone would measure luck (its time varies
  by 100 %, that of 2,000 shares by 2.2 %).
- A commitment is the nonces, 8 bytes each, big-endian, one after the other in base64: 21 kB at 2,000 shares. There are
  no openings: each share is checked.
- Nonces rise strictly, so that a set of shares has one spelling and a share cannot be counted twice.
- Wire data is decoded as strictly as in `challenges.matmul_messages`, and its length is bounded first.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from challenges.draw import encode_fields
from challenges.wire import decode_base64, encode_base64, fields_of, malformed

SHARES_MIN = 16
SHARES_MAX = 4096
SLOTS = 1 << 16
NONCE_BYTES = 8
NONCE_BITS_PER_SLOT = 48
# A quarter of a slot: with 16 shares the chance that a slot holds too few is Poisson(64) < 16, which is 1e-13.
HASHES_MAX = 1 << (NONCE_BITS_PER_SLOT - 2)

_PARAMS_DOMAIN = b"polarise/pow/params/1"
_VALUES = 1 << 64


@dataclass(frozen=True, slots=True)
class PowParams:
    """The size of one proof, chosen by the validator; the work is difficulty * shares hashes on average.

    Args:
        shares: How many shares are to be found, 16..4096; the measured rate varies by 1 / sqrt(shares).
        difficulty: Hashes per share on average, >= 1; a hash is a share with probability 1 / difficulty.
        slot: Number of the device on its host, 0..65535; no two slots have a nonce in common.

    Raises:
        ValueError: A number is out of range, or the work needs more than a quarter of the slot's nonces.
    """

    shares: int
    difficulty: int
    slot: int = 0

    def __post_init__(self) -> None:
        """Refuse what the wire or the slot's nonces cannot carry."""
        if not SHARES_MIN <= self.shares <= SHARES_MAX:
            raise ValueError(f"shares is {self.shares}, expected {SHARES_MIN}..{SHARES_MAX}")
        if not 1 <= self.difficulty <= HASHES_MAX // self.shares:
            raise ValueError(f"difficulty is {self.difficulty}, expected 1..{HASHES_MAX // self.shares}")
        if not 0 <= self.slot < SLOTS:
            raise ValueError(f"slot is {self.slot}, expected 0..{SLOTS - 1}")

    @property
    def operations(self) -> int:
        """Hashes of the whole proof, on average; the name is that of `MatmulParams`, for `timing.rate_per_second`."""
        return self.difficulty * self.shares

    @property
    def memory_bytes(self) -> int:
        """Bytes of device memory that depend on the sizes: none, the hashes live in the solver's own buffers."""
        return 0

    @property
    def target(self) -> int:
        """Largest value of a share, 64 bits; its upper half is T32, the largest last word a share can have.

        Rounded down, so that a share is rarer than 1 / difficulty by less than difficulty / 2**64, below 3e-7.
        """
        return _VALUES // self.difficulty - 1

    @property
    def nonces(self) -> range:
        """The nonces of the slot."""
        return range(self.slot << NONCE_BITS_PER_SLOT, (self.slot + 1) << NONCE_BITS_PER_SLOT)

    def encode(self) -> bytes:
        """Return the canonical bytes that go into the seed."""
        return encode_fields(_PARAMS_DOMAIN, self.shares, self.difficulty, self.slot)


@dataclass(frozen=True, slots=True)
class PowCommitment:
    """The nonces of all shares; this message stops the clock and is checked as it stands."""

    nonces: tuple[int, ...]

    def to_wire(self) -> dict[str, object]:
        """Return {"nonces": base64}."""
        return {"nonces": encode_base64(struct.pack(f">{len(self.nonces)}Q", *self.nonces))}

    @classmethod
    def from_wire(cls, value: object) -> PowCommitment:
        """Decode a miner's commitment.

        Raises:
            ProofRejected: MALFORMED: not exactly the field "nonces", base64 that is not canonical, more bytes than any
                proof has, or no whole number of nonces.
        """
        data = decode_base64("nonces", fields_of(value, ("nonces",))["nonces"], SHARES_MAX * NONCE_BYTES)
        if len(data) % NONCE_BYTES:
            raise malformed("nonces are not whole", len(data), f"a multiple of {NONCE_BYTES} bytes")
        return cls(struct.unpack(f">{len(data) // NONCE_BYTES}Q", data))
