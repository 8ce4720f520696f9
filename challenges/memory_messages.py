"""What the two sides of a memory proof say to each other: parameters, commitment and openings, decoded strictly.

Rules:
- A miner's commitment and openings are untrusted; they are decoded as strictly as in `challenges.matmul_messages`.
- What is well formed and still wrong is for `challenges.memory` to judge.
- A leaf is the digests of 512 blocks, 4 KiB: fewer, and the miner hashes more nodes between two passes; more, and an
  opening is longer.
- Wire: 67 bytes a pass for the commitment. An opening is a leaf and at most 14 hashes, 4.5 kB; a whole answer, with all
  openings there may be, in base64 and JSON, is below 300 kB whatever the sizes, and 196 kB for the usual 32.
- The check hashes openings · k · 2048 times, which is bounded too: 1.2 s of one core at the most.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from challenges.draw import encode_fields
from challenges.memory_digest import BLOCK_WORDS, DIGEST_BYTES
from challenges.sha256_chains import MESSAGE_BYTES
from challenges.wire import decode_base64, encode_base64, fields_of, list_of, malformed
from polarise.errors import ProofRejected, RejectReason
from polarise.merkle import HASH_BYTES, inclusion_proof_length

UNIT_BYTES = MESSAGE_BYTES
BLOCK_BYTES = 4 * BLOCK_WORDS
UNITS_PER_BLOCK = BLOCK_BYTES // UNIT_BYTES
LEAF_BLOCKS = 512

# From half a MiB, for tests, to 512 GiB.
BLOCKS_MIN = 8
BLOCKS_MAX = 1 << 23
HASHES_MAX = 128
PASSES_MAX = 1024
OPENINGS_MAX = 48
CHECK_HASHES_MAX = 32 * 80 * UNITS_PER_BLOCK
LEAF_BYTES_MAX = LEAF_BLOCKS * DIGEST_BYTES
PATH_BYTES_MAX = (BLOCKS_MAX // LEAF_BLOCKS - 1).bit_length() * HASH_BYTES
OPENINGS_WIRE_BYTES_MAX = 300_000

_PARAMS_DOMAIN = b"polarise/memory/params/1"
_HEX_HASH = re.compile("[0-9a-f]{64}")


class BlockPosition(NamedTuple):
    """One block in one pass: pass and block, each counted from 0."""

    pass_index: int
    block: int


@dataclass(frozen=True, slots=True)
class MemoryParams:
    """The size of one proof, chosen by the validator; the work is to read `memory_bytes` `passes` times.

    Args:
        blocks: How much memory is filled, in blocks of 64 KiB, 8..8388608.
        hashes: Hashes one after another for each unit of 32 bytes, the k of the definition, 1..128.
        passes: How often all blocks are digested, 1..1024.
        openings: How many digests are recomputed, 1..48.

    Raises:
        ValueError: A number is out of range, or the check would take too many hashes.
    """

    blocks: int
    hashes: int
    passes: int
    openings: int = 32

    def __post_init__(self) -> None:
        """Refuse what the wire, the miner's books or the validator's time cannot carry."""
        bounds = (
            ("blocks", self.blocks, BLOCKS_MIN, BLOCKS_MAX),
            ("hashes", self.hashes, 1, HASHES_MAX),
            ("passes", self.passes, 1, PASSES_MAX),
            ("openings", self.openings, 1, OPENINGS_MAX),
        )
        for name, number, low, high in bounds:
            if not low <= number <= high:
                raise ValueError(f"{name} is {number}, expected {low}..{high}")
        if self.check_hashes > CHECK_HASHES_MAX:
            raise ValueError(
                f"a check takes {self.check_hashes} hashes, expected <= {CHECK_HASHES_MAX}; fewer openings"
            )

    @property
    def memory_bytes(self) -> int:
        """Bytes that are filled, and read in each pass."""
        return self.blocks * BLOCK_BYTES

    @property
    def operations(self) -> int:
        """Bytes read in all passes; the name is that of `MatmulParams`, for `timing.rate_per_second`."""
        return self.passes * self.memory_bytes

    @property
    def fill_hashes(self) -> int:
        """Hashes that filling takes, none of which the validator's clock sees."""
        return self.blocks * UNITS_PER_BLOCK * self.hashes

    @property
    def check_hashes(self) -> int:
        """Hashes that checking all openings takes."""
        return self.openings * UNITS_PER_BLOCK * self.hashes

    @property
    def leaves_count(self) -> int:
        """Leaves of a pass's tree."""
        return -(-self.blocks // LEAF_BLOCKS)

    @property
    def bounds(self) -> tuple[int, int]:
        """Exclusive bounds for `draw.draw_positions`: passes, blocks."""
        return self.passes, self.blocks

    def leaf_blocks(self, leaf: int) -> range:
        """Return the blocks of one leaf; the last leaf may have fewer."""
        return range(leaf * LEAF_BLOCKS, min((leaf + 1) * LEAF_BLOCKS, self.blocks))

    def encode(self) -> bytes:
        """Return the canonical bytes that go into the seeds."""
        return encode_fields(_PARAMS_DOMAIN, self.blocks, self.hashes, self.passes, self.openings)


@dataclass(frozen=True, slots=True)
class MemoryCommitment:
    """The Merkle root of every pass, 32 bytes each; sent before the miner knows what will be opened."""

    roots: tuple[bytes, ...]

    def to_wire(self) -> dict[str, object]:
        """Return {"roots": [64 hex digits, ...]} in the order of the passes."""
        return {"roots": [root.hex() for root in self.roots]}

    @classmethod
    def from_wire(cls, value: object) -> MemoryCommitment:
        """Decode a miner's commitment.

        Raises:
            ProofRejected: MALFORMED: not exactly the field "roots", too many, or a root is not 64 lower-case hex digits.
        """
        roots = list_of("roots", fields_of(value, ("roots",))["roots"])
        if len(roots) > PASSES_MAX:
            raise malformed("too many roots", len(roots), f"<= {PASSES_MAX}")
        return cls(tuple(_decode_root(root) for root in roots))


@dataclass(frozen=True, slots=True)
class BlockOpening:
    """One leaf of one pass's tree, which holds the digest that was asked for, and its Merkle path.

    Args:
        position: The block this answers.
        leaf: Digests of 512 blocks, 8 bytes each; fewer in the last leaf.
        path: Sibling hashes from the leaf to the root, lowest first.
    """

    position: BlockPosition
    leaf: bytes
    path: tuple[bytes, ...]

    def to_wire(self) -> dict[str, object]:
        """Return {"at": [pass, block], "leaf": base64, "path": base64 of all hashes}."""
        return {
            "at": list(self.position),
            "leaf": encode_base64(self.leaf),
            "path": encode_base64(b"".join(self.path)),
        }

    @classmethod
    def from_wire(cls, value: object) -> BlockOpening:
        """Decode a miner's opening.

        Raises:
            ProofRejected: MALFORMED: a missing or unknown field, a wrong type, a number out of range, base64 that is
                not canonical, or more bytes than any opening can have.
        """
        fields = fields_of(value, ("at", "leaf", "path"))
        leaf = decode_base64("leaf", fields["leaf"], LEAF_BYTES_MAX)
        path = decode_base64("path", fields["path"], PATH_BYTES_MAX)
        return cls(_decode_position(fields["at"]), leaf, _split_hashes("path", path))


def block_openings_from_wire(params: MemoryParams, value: object) -> tuple[BlockOpening, ...]:
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
    return tuple(BlockOpening.from_wire(item) for item in items)


def path_length(params: MemoryParams, leaf: int) -> int:
    """Return how many hashes the path of one leaf has."""
    return inclusion_proof_length(leaf, params.leaves_count)


def _decode_position(value: object) -> BlockPosition:
    numbers = list_of("at", value)
    if len(numbers) != len(BlockPosition._fields):
        raise malformed("at is not two numbers", len(numbers), len(BlockPosition._fields))
    pass_index, block = numbers
    return BlockPosition(_decode_index(pass_index, PASSES_MAX), _decode_index(block, BLOCKS_MAX))


def _decode_index(value: object, end: int) -> int:
    if type(value) is not int or not 0 <= value < end:
        raise malformed("a number in at is out of range", type(value).__name__, f"int 0..{end - 1}")
    return value


def _decode_root(value: object) -> bytes:
    if type(value) is not str or _HEX_HASH.fullmatch(value) is None:
        raise malformed("a root is not a hash in hex", type(value).__name__, f"{2 * HASH_BYTES} digits 0-9a-f")
    return bytes.fromhex(value)


def _split_hashes(name: str, data: bytes) -> tuple[bytes, ...]:
    if len(data) % HASH_BYTES:
        raise malformed(f"{name} is not whole hashes", len(data), f"a multiple of {HASH_BYTES} bytes")
    return tuple(data[start : start + HASH_BYTES] for start in range(0, len(data), HASH_BYTES))
