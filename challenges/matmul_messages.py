"""What the two sides of a matmul proof say to each other: parameters, commitment and openings, decoded strictly.

Rules:
- A miner's commitment and openings are untrusted: types are exact (no bool, float or NaN as a number), base64 is
  canonical, and length is bounded before anything is decoded, so that no field costs the verifier more than it sent.
- What is well formed and still wrong (another root, a position nobody asked for) is for `challenges.matmul` to judge.
- Wire at n = 16384, tile 64, 32 openings: 32 x (2048-byte leaf + 8 hashes) = 74 kB, below 100 kB in base64 and JSON;
  and 32 bytes per round.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from challenges.digest import DIGEST_BYTES
from challenges.draw import encode_fields
from challenges.wire import decode_base64, encode_base64, fields_of, list_of, malformed
from polarise.errors import ProofRejected, RejectReason
from polarise.merkle import HASH_BYTES, inclusion_proof_length

N_MIN = 64
N_MAX = 32768
ROUNDS_MAX = 4096
BYTES_PER_ELEMENT = 16
OPENINGS_MAX = 256
TILES = (16, 32, 64, 128)
RETAINED_BYTES_MAX = 4 << 30
LEAF_BYTES_MAX = N_MAX // min(TILES) * DIGEST_BYTES
INDEX_END = max(ROUNDS_MAX, N_MAX // min(TILES))
PATH_BYTES_MAX = (N_MAX // min(TILES)).bit_length() * HASH_BYTES

_PARAMS_DOMAIN = b"polarise/matmul/params/1"
_HEX_HASH = re.compile("[0-9a-f]{64}")


class TilePosition(NamedTuple):
    """One tile of one round: round, tile row and tile column, each counted from 0."""

    round_index: int
    tile_row: int
    tile_column: int


@dataclass(frozen=True, slots=True)
class MatmulParams:
    """The size of one proof, chosen by the validator; the work is 2·n³·rounds operations.

    Args:
        n: Side of the matrices, 64..32768, a multiple of `tile`.
        rounds: Number of chained products, 1..4096.
        tile: Side of a digest tile: 16, 32, 64 or 128.
        openings: How many tiles are recomputed, 1..256.

    Raises:
        ValueError: A number is out of range, or the miner would have to keep more than 4 GiB of digests.
    """

    n: int
    rounds: int
    tile: int = 64
    openings: int = 32

    def __post_init__(self) -> None:
        """Refuse sizes that the arithmetic, the wire or the miner's memory cannot carry."""
        if self.tile not in TILES:
            raise ValueError(f"tile is {self.tile}, expected one of {TILES}")
        if not N_MIN <= self.n <= N_MAX or self.n % self.tile:
            raise ValueError(f"n is {self.n}, expected {N_MIN}..{N_MAX} in steps of {self.tile}")
        if not 1 <= self.rounds <= ROUNDS_MAX:
            raise ValueError(f"rounds is {self.rounds}, expected 1..{ROUNDS_MAX}")
        if not 1 <= self.openings <= OPENINGS_MAX:
            raise ValueError(f"openings is {self.openings}, expected 1..{OPENINGS_MAX}")
        if self.retained_bytes > RETAINED_BYTES_MAX:
            raise ValueError(
                f"digests take {self.retained_bytes} bytes, expected <= {RETAINED_BYTES_MAX}; fewer rounds"
            )

    @property
    def tiles_per_side(self) -> int:
        """Tiles in one row or column; also the number of leaves of a round's tree."""
        return self.n // self.tile

    @property
    def leaf_bytes(self) -> int:
        """Bytes of one leaf: the digests of one row of tiles."""
        return self.tiles_per_side * DIGEST_BYTES

    @property
    def retained_bytes(self) -> int:
        """Bytes of digests the miner keeps until it has opened."""
        return self.rounds * self.tiles_per_side * self.leaf_bytes

    @property
    def operations(self) -> int:
        """Multiplications and additions of the whole proof, counted as the vendors count them."""
        return 2 * self.n**3 * self.rounds

    @property
    def memory_bytes(self) -> int:
        """Bytes of device memory the work takes at most; what `timing.fit_params` keeps below the device's."""
        return BYTES_PER_ELEMENT * self.n**2

    @property
    def bounds(self) -> tuple[int, int, int]:
        """Exclusive bounds for `draw.draw_positions`: rounds, tile rows, tile columns."""
        return self.rounds, self.tiles_per_side, self.tiles_per_side

    def encode(self) -> bytes:
        """Return the canonical bytes that go into the seed."""
        return encode_fields(_PARAMS_DOMAIN, self.n, self.rounds, self.tile, self.openings)


@dataclass(frozen=True, slots=True)
class MatmulCommitment:
    """The Merkle root of every round, 32 bytes each; sent before the miner knows what will be opened."""

    roots: tuple[bytes, ...]

    def to_wire(self) -> dict[str, object]:
        """Return {"roots": [64 hex digits, ...]} in the order of the rounds."""
        return {"roots": [root.hex() for root in self.roots]}

    @classmethod
    def from_wire(cls, value: object) -> MatmulCommitment:
        """Decode a miner's commitment.

        Raises:
            ProofRejected: MALFORMED: not exactly the field "roots", too many, or a root is not 64 lower-case hex digits.
        """
        roots = list_of("roots", fields_of(value, ("roots",))["roots"])
        if len(roots) > ROUNDS_MAX:
            raise malformed("too many roots", len(roots), f"<= {ROUNDS_MAX}")
        return cls(tuple(_decode_root(root) for root in roots))


@dataclass(frozen=True, slots=True)
class TileOpening:
    """One leaf of one round's tree, which holds the digest that was asked for, and its Merkle path.

    Args:
        position: The tile this answers.
        leaf: Digests of the whole row of tiles, 8 bytes each, tile column by tile column.
        path: Sibling hashes from the leaf to the root, lowest first.
    """

    position: TilePosition
    leaf: bytes
    path: tuple[bytes, ...]

    def to_wire(self) -> dict[str, object]:
        """Return {"at": [round, tile row, tile column], "leaf": base64, "path": base64 of all hashes}."""
        return {
            "at": list(self.position),
            "leaf": encode_base64(self.leaf),
            "path": encode_base64(b"".join(self.path)),
        }

    @classmethod
    def from_wire(cls, value: object) -> TileOpening:
        """Decode a miner's opening.

        Raises:
            ProofRejected: MALFORMED: a missing or unknown field, a wrong type, a number out of range, base64 that is
                not canonical, or more bytes than any opening can have.
        """
        fields = fields_of(value, ("at", "leaf", "path"))
        leaf = decode_base64("leaf", fields["leaf"], LEAF_BYTES_MAX)
        path = decode_base64("path", fields["path"], PATH_BYTES_MAX)
        return cls(_decode_position(fields["at"]), leaf, _split_hashes("path", path))


def openings_from_wire(params: MatmulParams, value: object) -> tuple[TileOpening, ...]:
    """Decode the list of openings a miner sent.

    Raises:
        ProofRejected: MALFORMED for anything but a list of openings, WRONG_COUNT before a list of another length is
            looked into.
    """
    items = list_of("openings", value)
    if len(items) != params.openings:
        raise ProofRejected(
            RejectReason.WRONG_COUNT, "number of openings differs", got=len(items), expected=params.openings
        )
    return tuple(TileOpening.from_wire(item) for item in items)


def path_length(params: MatmulParams, tile_row: int) -> int:
    """Return how many hashes the path of one row of tiles has."""
    return inclusion_proof_length(tile_row, params.tiles_per_side)


def _decode_position(value: object) -> TilePosition:
    numbers = list_of("at", value)
    if len(numbers) != len(TilePosition._fields):
        raise malformed("at is not three numbers", len(numbers), len(TilePosition._fields))
    return TilePosition(*(_decode_index(number) for number in numbers))


def _decode_index(value: object) -> int:
    if type(value) is not int or not 0 <= value < INDEX_END:
        raise malformed("a number in at is out of range", type(value).__name__, f"int 0..{INDEX_END - 1}")
    return value


def _decode_root(value: object) -> bytes:
    if type(value) is not str or _HEX_HASH.fullmatch(value) is None:
        raise malformed("a root is not a hash in hex", type(value).__name__, f"{2 * HASH_BYTES} digits 0-9a-f")
    return bytes.fromhex(value)


def _split_hashes(name: str, data: bytes) -> tuple[bytes, ...]:
    if len(data) % HASH_BYTES:
        raise malformed(f"{name} is not whole hashes", len(data), f"a multiple of {HASH_BYTES} bytes")
    return tuple(data[start : start + HASH_BYTES] for start in range(0, len(data), HASH_BYTES))
