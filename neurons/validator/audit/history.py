"""What the leaves of a ledger tell: who stood in the registry when, which epochs there were, and which block covers what.

Rules:
- It is filled while the ledger is replayed, so that only what is signed and allowed gets in.
- It holds indices of leaves and hashes; the values are read from the copy when they are needed.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from polarise.block import SignedBlock
from polarise.transaction import SignedTransaction

_KEY = "[0-9a-f]{64}"
_REGISTRY = re.compile(rf"/registry/({_KEY})")
_EPOCH = re.compile(rf"/epochs/({_KEY})/([0-9]{{10}})/(commit|record)")
_SCORES = re.compile(rf"/scores/({_KEY})/([0-9]{{10}})")


@dataclass
class EpochLeaves:
    """Where an epoch stands.

    Attributes:
        commit: Leaf of the commitment.
        scores: Leaf of the score sheet.
        record: Leaf of the record.
    """

    commit: int | None = None
    scores: int | None = None
    record: int | None = None


class Blocks:
    """Sizes, times and hashes of all blocks, 48 bytes each."""

    def __init__(self) -> None:
        self._sizes = array("Q")
        self._times = array("Q")
        self._hashes = bytearray()

    def __len__(self) -> int:
        return len(self._sizes)

    def add(self, block: SignedBlock) -> None:
        """Add the next one."""
        self._sizes.append(block.block.size)
        self._times.append(block.block.time_unix_ms)
        self._hashes += bytes.fromhex(block.hash)

    def size(self, height: int) -> int:
        """Return how many leaves a block covers."""
        return self._sizes[height]

    def hash(self, height: int) -> str:
        """Return a block's hash, 64 hex digits."""
        return self._hashes[32 * height : 32 * height + 32].hex()

    def covering(self, leaf: int) -> int:
        """Return the height of the first block that covers a leaf."""
        return bisect_right(self._sizes, leaf)

    def at(self, time_unix_ms: int) -> int:
        """Return the height of the last block before a time, -1 when there is none."""
        return bisect_left(self._times, time_unix_ms) - 1


class Registry:
    """Which entry stood for each node after how many leaves."""

    def __init__(self) -> None:
        self._versions: dict[str, list[tuple[int, str | None]]] = {}

    @property
    def nodes(self) -> list[str]:
        """Every node that ever wrote an entry, in order of the keys."""
        return sorted(self._versions)

    def add(self, node: str, leaf: int, digest: str | None) -> None:
        """Note an entry that holds, or that none holds any more; leaves come in order."""
        self._versions.setdefault(node, []).append((leaf, digest))

    def standing(self, node: str, first: int, last: int) -> set[str | None]:
        """Return the digests that stood for a node at any moment between two sizes of the ledger."""
        versions = self._versions.get(node, [])
        before = [digest for leaf, digest in versions if leaf < first]
        return {before[-1] if before else None} | {digest for leaf, digest in versions if first <= leaf < last}

    def states(self, first: int, last: int) -> Iterator[dict[str, str]]:
        """Yield the whole registry as it was at each moment between two sizes of the ledger."""
        changes = {leaf + 1 for versions in self._versions.values() for leaf, _ in versions if first <= leaf < last}
        for size in sorted({first, *changes}):
            found = {node: self._at(node, size) for node in self.nodes}
            yield {node: digest for node, digest in found.items() if digest is not None}

    def _at(self, node: str, size: int) -> str | None:
        return next((digest for leaf, digest in reversed(self._versions[node]) if leaf < size), None)


@dataclass
class History:
    """Everything the later steps ask of a replayed ledger.

    Attributes:
        blocks: All blocks.
        registry: Entries that hold.
        registry_leaves: (node, leaf) of every write to the registry.
        epochs: Validator -> epoch -> where it stands.
        others: Writes that this audit does not look into, by the first segment of their path.
    """

    blocks: Blocks = field(default_factory=Blocks)
    registry: Registry = field(default_factory=Registry)
    registry_leaves: list[tuple[str, int]] = field(default_factory=list)
    epochs: dict[str, dict[int, EpochLeaves]] = field(default_factory=dict)
    others: Counter[str] = field(default_factory=Counter)

    def add(self, leaf: int, transaction: SignedTransaction) -> None:
        """Sort one transaction in."""
        path = transaction.body.op.path
        if (match := _REGISTRY.fullmatch(path)) is not None:
            self.registry_leaves.append((match[1], leaf))
        elif (match := _EPOCH.fullmatch(path)) is not None:
            setattr(self._epoch(match[1], int(match[2])), match[3], leaf)
        elif (match := _SCORES.fullmatch(path)) is not None:
            self._epoch(match[1], int(match[2])).scores = leaf
        else:
            self.others[path.split("/")[1]] += 1

    def _epoch(self, validator: str, number: int) -> EpochLeaves:
        return self.epochs.setdefault(validator, {}).setdefault(number, EpochLeaves())
