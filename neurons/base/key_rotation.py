"""A node's subkeys replaced: the key file first, then the ledger, and every step again until it is done.

Rules:
- Only a stopped node is rotated (the caller holds its data directory), so no process signs with the old subkeys any more.
- The key file says the new generation before anybody else hears of it. Killed before that, the old subkeys are in use and
  valid; killed behind it, the new ones are, and the old ones too until the certificates are final on the ledger.
- What is not final is finished before anything is rotated again, by this command or by the node's next start.
- Logs and cosignatures are histories under one key: their subkeys are not rotated here.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from neurons.base.keys import load_node_identity, node_key_path
from neurons.base.log_epochs import renew_log_epochs
from neurons.base.outbox import EntryState, Outbox, OutboxEntry
from polarise.errors import ConfigError, ErrorCode, Unavailable
from polarise.generations import generation_path, is_revocable, publications
from polarise.keyfile import rewrite_key_file
from polarise.ledger_client import LedgerClient
from polarise.signing import Identity, Purpose

WAIT_SECONDS = 60.0
LOOK_SECONDS = 0.2

OutboxOf = Callable[[Identity], Outbox]

_WHY_NOT = {
    Purpose.LOG: "a log is one history under one key, also over its log epochs: validators would see another log",
    Purpose.WITNESS: "a witness is known by its key, and every cosignature rests on it",
    Purpose.BROKER: "no subkey of this purpose is in use",
    Purpose.NODE: "the node key names the node: make a new node, and have the owner revoke this one (key revoke)",
}


@dataclass(frozen=True, slots=True)
class Rotated:
    """What a rotation did.

    Attributes:
        generations: Purpose -> generation in use now.
        was_begun: Whether it finished an earlier one and replaced nothing itself.
        waiting: Certificates that are not final yet.
        refused: Why the ledger refused a certificate, by its path.
    """

    generations: dict[str, int]
    was_begun: bool
    waiting: tuple[str, ...]
    refused: dict[str, str]


def publish(outbox: Outbox, identity: Identity) -> None:
    """Queue the certificates of rotated subkeys; queued or final already, nothing happens."""
    for name, op in publications(identity).items():
        outbox.put(op, key=name)


def check_purposes(purposes: Collection[Purpose]) -> None:
    """Refuse what cannot be rotated.

    Raises:
        ConfigError: One of them cannot, and why.
    """
    for purpose in purposes:
        if not is_revocable(purpose):
            allowed = ", ".join(each for each in Purpose if is_revocable(each))
            raise ConfigError(
                f"the {purpose} subkey is not rotated: {_WHY_NOT[purpose]}", origin="--purpose", allowed=allowed
            )


def rotate(
    data_dir: Path,
    passphrase: bytes,
    purposes: Collection[Purpose],
    client: LedgerClient,
    outbox_of: OutboxOf,
    *,
    wait_seconds: float = WAIT_SECONDS,
    reach: Callable[[str], None] = lambda _step: None,
) -> Rotated:
    """Replace subkeys of a stopped node and void the old ones on the ledger, or finish a rotation that was broken off.

    Args:
        data_dir: The node's folder, which the caller holds.
        passphrase: Of its key file.
        purposes: Which subkeys.
        client: The ledger.
        outbox_of: Opens the node's outbox for an identity.
        wait_seconds: How long to wait until the ledger has it; what is not final by then goes out at the node's start.
        reach: Called with the name of each step; crash tests end the process there.

    Raises:
        ConfigError: The key file cannot be opened or rewritten, or a purpose is not rotated.
    """
    check_purposes(purposes)
    identity = load_node_identity(data_dir, passphrase)
    with outbox_of(identity) as outbox:
        was_begun = bool(_waiting(outbox, identity, known_only=False)) and not _is_behind(identity, client)
    if not was_begun:
        reach("before the key file")
        identity = rewrite_key_file(node_key_path(data_dir), passphrase, generations=_next(identity, purposes, client))
        reach("key file")
    with outbox_of(identity) as outbox:
        publish(outbox, identity)
        reach("queued")
        renew_log_epochs(data_dir, identity)
        _drain(outbox, identity, wait_seconds)
        reach("sent")
        entries = {name: outbox.entry(name) for name in publications(identity)}
        return Rotated(
            {str(purpose): counter for purpose, counter in sorted(identity.generations.items())},
            was_begun,
            tuple(_waiting(outbox, identity)),
            {
                name: entry.reason or ""
                for name, entry in entries.items()
                if entry is not None and entry.state is EntryState.REFUSED and not _stands(entry)
            },
        )


def _stands(entry: OutboxEntry) -> bool:
    """Whether it was refused only because it stands there already, as with an outbox that was lost."""
    return (entry.reason or "").startswith(ErrorCode.CONFLICT)


def _is_behind(identity: Identity, client: LedgerClient) -> bool:
    """Whether the key file is an old copy: what it says was replaced, and there is nothing to finish about it."""
    return any(
        0 < counter < _standing(client, identity.public_key, purpose)
        for purpose, counter in identity.generations.items()
        if is_revocable(purpose)
    )


def _next(identity: Identity, purposes: Collection[Purpose], client: LedgerClient) -> dict[Purpose, int]:
    """Return the next generations; above what stands on the ledger, in case the key file is an old copy."""
    return {
        purpose: max(identity.generations.get(purpose, 0), _standing(client, identity.public_key, purpose)) + 1
        for purpose in purposes
    }


def _standing(client: LedgerClient, node_key: str, purpose: Purpose) -> int:
    try:
        text = client.read(generation_path(node_key, purpose)).text
    except Unavailable:
        return 0
    counter = json.loads(text).get("counter") if text is not None else 0
    return counter if isinstance(counter, int) else 0


def _waiting(outbox: Outbox, identity: Identity, *, known_only: bool = True) -> list[str]:
    """Return the certificates on their way; also those that were not even queued, unless only known ones are asked for."""
    done = {EntryState.FINAL, EntryState.REFUSED}
    entries = {name: outbox.entry(name) for name in publications(identity)}
    return [name for name, entry in entries.items() if (not known_only if entry is None else entry.state not in done)]


def _drain(outbox: Outbox, identity: Identity, wait_seconds: float) -> None:
    end = time.monotonic() + wait_seconds
    while _waiting(outbox, identity) and time.monotonic() < end:
        try:
            moved = outbox.step()
        except Unavailable:
            moved = False
        if not moved:
            time.sleep(LOOK_SECONDS)
