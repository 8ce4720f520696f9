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
from polarise.generations import KEYS_FOLDER, revoked_node
from polarise.signing import Purpose
from polarise.transaction import SignedTransaction

_KEY = "[0-9a-f]{64}"
_REGISTRY = re.compile(rf"/registry/({_KEY})")
_EPOCH = re.compile(rf"/epochs/({_KEY})/([0-9]{{10}})/(commit|record)")
_SCORES = re.compile(rf"/scores/({_KEY})/([0-9]{{10}})")
_KEYS = re.compile(rf"{KEYS_FOLDER}/({_KEY})/([a-z]+)")
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
        is_revocation: Whether it was the owner who took the node off, and not the node who wrote.
    """

    node: str
    leaf: int
    is_revocation: bool = False


class Registry:
    """Which entry a reader saw for each node, who read the newest final state below a height of blocks.

    Args:
        blocks: All blocks.
        final_confirmations: Blocks that have to cover a write until readers see it; from the genesis.
    """

    def __init__(self, blocks: Blocks, final_confirmations: int) -> None:
        self._blocks = blocks
        self._final_confirmations = final_confirmations
        self._versions: dict[str, list[tuple[RegistryWrite, str | None]]] = {}

    @property
    def nodes(self) -> list[str]:
        """Every node that ever wrote an entry, in order of the keys."""
        return sorted(self._versions)

    def add(self, write: RegistryWrite, digest: str | None) -> None:
        """Note an entry that holds, or that none holds any more; leaves come in order."""
        self._versions.setdefault(write.node, []).append((write, digest))

    def standing(self, node: str, first: int, last: int) -> set[str | None]:
        """Return the digests that stood for a node while the newest block had a height from ``first`` to ``last``."""
        versions = self._versions.get(node, [])
        later = {digest for write, digest in versions if first < self._appearance(write) <= last}
        return {self._at(node, first)} | later

    def states(self, first: int, last: int) -> Iterator[dict[str, str]]:
        """Yield the whole registry as it was while the newest block had a height from ``first`` to ``last``."""
        heights = {self._appearance(write) for versions in self._versions.values() for write, _ in versions}
        for height in (first, *sorted(height for height in heights if first < height <= last)):
            found = {node: self._at(node, height) for node in self.nodes}
            yield {node: digest for node, digest in found.items() if digest is not None}

    def _at(self, node: str, height: int) -> str | None:
        versions = reversed(self._versions.get(node, []))
        return next((digest for write, digest in versions if self._appearance(write) <= height), None)

    def _appearance(self, write: RegistryWrite) -> int:
        """Return the height of the newest block when the write became final."""
        return self._blocks.covering(write.leaf) + self._final_confirmations - 1


class Keys:
    """Which subkeys had been replaced when the newest block had some height.

    Args:
        blocks: All blocks.
        final_confirmations: As in `Registry`.
    """

    def __init__(self, blocks: Blocks, final_confirmations: int) -> None:
        self._blocks = blocks
        self._final_confirmations = final_confirmations
        self._versions: dict[tuple[str, Purpose], list[tuple[int, int]]] = {}

    def add(self, node: str, purpose: Purpose, leaf: int, counter: int) -> None:
        """Note a published certificate; leaves come in order, and the rules let generations only rise."""
        self._versions.setdefault((node, purpose), []).append((leaf, counter))

    def least(self, node: str, purpose: Purpose, height: int) -> int:
        """Return the least generation that counted when the newest block had this height."""
        size = height - self._final_confirmations + 1
        versions = self._versions.get((node, purpose), [])
        return max((counter for leaf, counter in versions if self._blocks.covering(leaf) <= size), default=0)


class History:
    """Everything the later steps ask of a replayed ledger.

    Attributes:
        blocks: All blocks.
        registry: Entries that hold; filled from `registry_writes` once their signatures were verified.
        registry_writes: Every write to the registry.
        keys: Which subkeys were replaced when.
        epochs: Validator -> epoch -> where it stands.
        others: Writes that this audit does not look into, by the first segment of their path.

    Args:
        final_confirmations: From the genesis.
    """

    def __init__(self, final_confirmations: int) -> None:
        self.blocks = Blocks()
        self.registry = Registry(self.blocks, final_confirmations)
        self.keys = Keys(self.blocks, final_confirmations)
        self.registry_writes: list[RegistryWrite] = []
        self.epochs: dict[str, dict[int, EpochLeaves]] = {}
        self.others: Counter[str] = Counter()

    def add(self, leaf: int, transaction: SignedTransaction) -> None:
        """Sort one transaction in."""
        path = transaction.body.op.path
        if (match := _REGISTRY.fullmatch(path)) is not None:
            self.registry_writes.append(RegistryWrite(match[1], leaf))
        elif (node := revoked_node(path)) is not None:
            self.registry_writes.append(RegistryWrite(node, leaf, is_revocation=True))
        elif (match := _KEYS.fullmatch(path)) is not None:
            value = transaction.body.op.value
            if isinstance(value, dict):  # the rules let nothing else in
                self.keys.add(match[1], Purpose(match[2]), leaf, int(str(value["counter"])))
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
