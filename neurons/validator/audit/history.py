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
_PAGE = re.compile(rf"/scores/({_KEY})/([0-9]{{10}})/([0-9]{{2}})")


@dataclass
class EpochLeaves:
    """Where an epoch stands.

    Attributes:
        commit: Leaf of the commitment.
        sheet: Leaf of the only score sheet, until rules 2.
        pages: Leaf of each page of the scores, from rules 2 on, by its number.
        record: Leaf of the record.
    """

    commit: int | None = None
    sheet: int | None = None
    pages: dict[int, int] = field(default_factory=dict)
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


@dataclass(frozen=True, slots=True)
class RegistryWrite:
    """One write to the registry.

    Attributes:
        node: Whose entry.
        leaf: Index of the transaction.
        confirmations: Blocks that have to cover it until readers see it.
    """

    node: str
    leaf: int
    confirmations: int


@dataclass(frozen=True, slots=True)
class Moment:
    """What a reader of the ledger saw: its newest block, and how many leaves, the pending ones counted."""

    height: int
    size: int


class Registry:
    """Which entry a reader saw for each node, and when.

    Args:
        blocks: All blocks.
    """

    def __init__(self, blocks: Blocks) -> None:
        self._blocks = blocks
        self._versions: dict[str, list[tuple[RegistryWrite, str | None]]] = {}

    @property
    def nodes(self) -> list[str]:
        """Every node that ever wrote an entry, in order of the keys."""
        return sorted(self._versions)

    def add(self, write: RegistryWrite, digest: str | None) -> None:
        """Note an entry that holds, or that none holds any more; leaves come in order."""
        self._versions.setdefault(write.node, []).append((write, digest))

    def standing(self, node: str, first: Moment, last: Moment) -> set[str | None]:
        """Return the digests that stood for a node at any moment between two."""
        later = {digest for write, digest in self._versions.get(node, []) if self._appears(write, first, last)}
        return {self._at(node, first)} | later

    def states(self, first: Moment, last: Moment) -> Iterator[dict[str, str]]:
        """Yield the whole registry as it was at each moment between two."""
        writes = [write for versions in self._versions.values() for write, _ in versions]
        moments = {self._appearance(write) for write in writes if self._appears(write, first, last)}
        for moment in sorted({first, *moments}, key=lambda moment: (moment.height, moment.size)):
            found = {node: self._at(node, moment) for node in self.nodes}
            yield {node: digest for node, digest in found.items() if digest is not None}

    def _at(self, node: str, moment: Moment) -> str | None:
        versions = reversed(self._versions.get(node, []))
        return next((digest for write, digest in versions if self._is_seen(write, moment)), None)

    def _is_seen(self, write: RegistryWrite, moment: Moment) -> bool:
        if write.confirmations == 0:
            return write.leaf < moment.size
        return self._blocks.covering(write.leaf) + write.confirmations - 1 <= moment.height

    def _appears(self, write: RegistryWrite, first: Moment, last: Moment) -> bool:
        return self._is_seen(write, last) and not self._is_seen(write, first)

    def _appearance(self, write: RegistryWrite) -> Moment:
        covering = self._blocks.covering(write.leaf)
        if write.confirmations == 0:
            return Moment(covering - 1, write.leaf + 1)
        height = covering + write.confirmations - 1
        return Moment(height, self._blocks.size(height))


class History:
    """Everything the later steps ask of a replayed ledger.

    Attributes:
        blocks: All blocks.
        registry: Entries that hold; filled from `registry_writes` once their signatures were verified.
        registry_writes: Every write to the registry.
        epochs: Validator -> epoch -> where it stands.
        others: Writes that this audit does not look into, by the first segment of their path.

    Args:
        final_confirmations: From the genesis; what counts for a writer that named no number.
    """

    def __init__(self, final_confirmations: int) -> None:
        self.blocks = Blocks()
        self.registry = Registry(self.blocks)
        self.registry_writes: list[RegistryWrite] = []
        self.epochs: dict[str, dict[int, EpochLeaves]] = {}
        self.others: Counter[str] = Counter()
        self._final_confirmations = final_confirmations

    def add(self, leaf: int, transaction: SignedTransaction) -> None:
        """Sort one transaction in."""
        op = transaction.body.op
        path = op.path
        if (match := _REGISTRY.fullmatch(path)) is not None:
            concern = self._final_confirmations if op.read_concern is None else op.read_concern
            self.registry_writes.append(RegistryWrite(match[1], leaf, concern))
        elif (match := _EPOCH.fullmatch(path)) is not None:
            setattr(self._epoch(match[1], int(match[2])), match[3], leaf)
        elif (match := _SCORES.fullmatch(path)) is not None:
            self._epoch(match[1], int(match[2])).sheet = leaf
        elif (match := _PAGE.fullmatch(path)) is not None:
            self._epoch(match[1], int(match[2])).pages[int(match[3])] = leaf
        else:
            self.others[path.split("/")[1]] += 1

    def _epoch(self, validator: str, number: int) -> EpochLeaves:
        return self.epochs.setdefault(validator, {}).setdefault(number, EpochLeaves())
