"""Which generation of each node's subkeys counts: what a node published as its newest, and whom an owner revoked.

A node certifies its subkeys, and nobody can take a certificate back. So a rotation is a number on the ledger: the certificate of
the newest subkey of a purpose, below which every older one is void (rules: ``ledger/rules.py``).

Rules:
- A generation counts for everybody from the block in which it is final. What was signed and shown before stays valid: whoever
  looks at old things asks what stood at their time, not now.
- Numbers never fall, also when the ledger is away or shows less than before.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Mapping
from pathlib import Path

from polarise.errors import ConfigError
from polarise.signing import Identity, KeyReplaced, Purpose
from polarise.transaction import SetValue

logger = logging.getLogger(__name__)

KEYS_FOLDER = "/keys"
REVOKED_FOLDER = "/revoked"
# Above every generation a certificate may name.
EVERY_GENERATION = 2**53
MEMORY_BYTES_MAX = 64 * 1024 * 1024
REVOCABLE = frozenset({Purpose.REQUEST, Purpose.STATEMENT, Purpose.LEDGER, Purpose.TLS})

Found = Mapping[tuple[str, Purpose], int]


def is_revocable(purpose: Purpose) -> bool:
    """Whether subkeys of a purpose are rotated by number; logs and cosignatures are histories under one key."""
    return purpose in REVOCABLE


def generation_path(node_key: str, purpose: Purpose) -> str:
    """Return where the newest certificate of a node's subkey stands."""
    return f"{KEYS_FOLDER}/{node_key}/{purpose}"


def revocation_path(node_key: str) -> str:
    """Return where an owner's revocation of a node stands."""
    return f"{REVOKED_FOLDER}/{node_key}"


def revoked_node(path: str) -> str | None:
    """Return the node that a write on this path revokes, None where it is another path."""
    folder, _, node = path.rpartition("/")
    return node if folder == REVOKED_FOLDER else None


def publications(identity: Identity) -> dict[str, SetValue]:
    """Return what a node has on the ledger for its rotated subkeys: a name that is the same each time -> the write.

    Of the TLS subkey the number stands there; which key callers pin is said by the registry entry.
    """
    found: dict[str, SetValue] = {}
    for purpose, counter in sorted(identity.generations.items()):
        if counter > 0 and is_revocable(purpose):
            path = generation_path(identity.public_key, purpose)
            found[f"{path}/{counter}"] = SetValue(path=path, value=identity.subkey(purpose).certificate.to_wire())
    return found


class Generations:
    """The least generation that counts, by node and purpose; safe to use from several threads.

    Args:
        memory: File in which it is kept over restarts; None keeps nothing.

    Raises:
        ConfigError: The file is damaged.
    """

    def __init__(self, memory: Path | None = None) -> None:
        self._memory = memory
        self._lock = threading.Lock()
        self._least: dict[tuple[str, Purpose], int] = _load(memory) if memory is not None and memory.exists() else {}

    def learn(self, found: Found) -> None:
        """Take what was read; numbers only rise."""
        with self._lock:
            risen = {key: counter for key, counter in found.items() if counter > self._least.get(key, 0)}
            if not risen:
                return
            self._least.update(risen)
            if self._memory is not None:
                _save(self._memory, self._least)
        logger.info("subkeys replaced", extra={"nodes": sorted({node[:12] for node, _ in risen})[:20]})

    def least(self, node_key: str, purpose: Purpose) -> int:
        """Return the least generation of a node's subkeys that counts."""
        return self._least.get((node_key, purpose), 0)

    def check(self, node_key: str, purpose: Purpose, counter: int) -> None:
        """Refuse a subkey that was replaced.

        Raises:
            KeyReplaced: It was, or its node was revoked.
        """
        least = self.least(node_key, purpose)
        if counter < least:
            message = f"the {purpose} subkey of generation {counter} of {node_key[:12]} was replaced by {least}"
            raise KeyReplaced(
                f"the node key {node_key[:12]} was revoked by its owner" if least == EVERY_GENERATION else message
            )


def _load(memory: Path) -> dict[tuple[str, Purpose], int]:
    try:
        kept = json.loads(memory.read_bytes()[: MEMORY_BYTES_MAX + 1])
        return {
            (node, Purpose(purpose)): int(counter)
            for node, all_of in kept.items()
            for purpose, counter in all_of.items()
        }
    except (OSError, ValueError, AttributeError, TypeError) as err:
        raise ConfigError(
            f"not a list of generations: {err}",
            origin=str(memory),
            allowed="remove it; it is read from the ledger anew",
        ) from err


def _save(memory: Path, least: Found) -> None:
    kept: dict[str, dict[str, int]] = {}
    for (node, purpose), counter in sorted(least.items()):
        kept.setdefault(node, {})[str(purpose)] = counter
    temporary = memory.with_suffix(".tmp")
    temporary.write_text(json.dumps(kept), encoding="utf-8")
    temporary.replace(memory)
