"""Who may write what: one table, in force from the genesis on; what no line allows is refused.

Rules:
- A pattern's ``$name`` takes one segment; ``$node`` is any node key, ``$validator`` a validator of the genesis,
  ``$epoch`` ten digits and ``$page`` two, so that names sort as numbers do. The first variable is the only one who may write there.
- ``once``: what stands there stays. ``after``: that path must exist. ``before``: that one must not. ``rising``: the epoch is
  greater than every one its writer has written under the same first segments. ``in_order``: pages are written from 0 on,
  none left out.
- ``certifies``: the value is the writer's own certificate of a subkey, of a later generation than the one that stands: older
  ones are revoked from then on. ``signed``: where the value is a statement, its subkey is not one of those.
- ``by_owner``: only whom the node's first registry entry names as its owner may write. A thief of the node's key cannot change
  what the first entry said.
- Otherwise a rule looks at the writer, the path and what exists; values are for those who read them.

The table is code of version 1. `set_rule` will put expressions on paths, which take over from here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from polarise.decode import decode_model
from polarise.errors import ErrorCode, RequestRejected
from polarise.generations import generation_path, is_revocable, revocation_path
from polarise.signing import Certificate, Purpose, SignatureInvalid
from polarise.transaction import SEGMENT_PATTERN

_KEY = "[0-9a-f]{64}"
_VARIABLES = {
    "node": _KEY,
    "validator": _KEY,
    "epoch": "[0-9]{10}",
    "miner": _KEY,
    "page": "[0-9]{2}",
    "purpose": "|".join(purpose for purpose in Purpose if is_revocable(purpose)),
}


class StateReader(Protocol):
    """What a rule may ask about the state."""

    def exists(self, path: str) -> bool:
        """Whether a value stands on the path."""

    def greatest_child(self, path: str) -> str | None:
        """Name of the last child in order of bytes, None without children."""

    def generation(self, node: str, purpose: Purpose) -> int:
        """Return the least generation of a node's subkeys that is not revoked."""

    def owner(self, node: str) -> str | None:
        """Return whom the first registry entry of a node names as its owner."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of the table.

    Attributes:
        pattern: Path with variables.
        meaning: What stands there, for people.
        is_once: A value that stands is never replaced.
        is_rising: See the module.
        after: Path (with the same variables) that must exist.
        before: Path that must not exist yet.
        is_in_order: The page before this one must exist.
        registered: The writer must stand in the registry or be a validator.
        certifies: See the module.
        signed: See the module.
        by_owner: See the module.
    """

    pattern: str
    meaning: str
    is_once: bool = False
    is_rising: bool = False
    after: str | None = None
    before: str | None = None
    is_in_order: bool = False
    registered: bool = False
    certifies: bool = False
    signed: bool = False
    by_owner: bool = False


TABLE = (
    Rule("/registry/$node", "the node's signed registry entry; null takes the node off the market", signed=True),
    Rule("/validators/$validator", "the validator's signed entry: endpoint, addresses on other engines", signed=True),
    Rule(
        "/keys/$node/$purpose",
        "certificate of the node's subkey; those of generations before it are revoked",
        registered=True,
        certifies=True,
    ),
    Rule(
        "/revoked/$node",
        "the owner's word that the node's key is lost: nothing of the node is taken any more, and its registry entry is gone",
        is_once=True,
        by_owner=True,
    ),
    Rule("/epochs/$validator/$epoch/commit", "challenge_commit, before any challenge", is_once=True, is_rising=True),
    Rule(
        "/epochs/$validator/$epoch/record",
        "the signed epoch record",
        is_once=True,
        after="/epochs/$validator/$epoch/commit",
        signed=True,
    ),
    Rule(
        "/scores/$validator/$epoch",
        "scores of one epoch, until rules 2",
        is_once=True,
        after="/epochs/$validator/$epoch/commit",
    ),
    Rule(
        "/scores/$validator/$epoch/$page",
        "one page of the scores of one epoch",
        is_once=True,
        is_in_order=True,
        after="/epochs/$validator/$epoch/commit",
        before="/epochs/$validator/$epoch/record",
    ),
    Rule(
        "/scores/$validator/$epoch/$miner",
        "score of one miner in one epoch",
        is_once=True,
        after="/epochs/$validator/$epoch/commit",
    ),
    Rule("/roots/$node/$name", "root of one of the node's logs", registered=True),
    Rule("/roots/$node/$name/$epoch", "root of one of the node's logs in one epoch", is_once=True, registered=True),
)


class Rules:
    """The table for one set of validators.

    Args:
        validators: Keys of the genesis.
        table: The lines; the ledger's own when left out.
    """

    def __init__(self, validators: Iterable[str], table: Iterable[Rule] = TABLE) -> None:
        self._validators = frozenset(validators)
        self._lines = [(_compiled(rule.pattern), rule) for rule in table]

    def check(self, state: StateReader, sender: str, path: str, value: object) -> None:
        """Let a write through or say why not; a value of None empties the path.

        Raises:
            RequestRejected: RULE_REFUSED (403) for who and where, KEY_REFUSED (403) for a revoked key, CONFLICT (409)
                for once and in order.
        """
        if state.exists(revocation_path(sender)):
            raise _revoked(
                f"the key {sender[:12]} was revoked by its owner", "make a new node key: key new --kind node"
            )
        for pattern, rule in self._lines:
            if (match := pattern.fullmatch(path)) is not None:
                self._check_writer(state, sender, path, rule, match.groupdict())
                _check_order(state, path, rule, match.groupdict(), is_removal=value is None)
                _check_keys(state, sender, rule, match.groupdict(), value)
                return
        raise _refused(f"no rule lets anybody write {path[:80]}", "docs: the table of ledger/rules.py")

    def _check_writer(self, state: StateReader, sender: str, path: str, rule: Rule, found: Mapping[str, str]) -> None:
        writer = state.owner(found["node"]) if rule.by_owner else found.get("validator") or found["node"]
        if writer is None:
            raise _refused(
                f"{found['node'][:12]} never stood in the registry", "a node without an entry has no owner here"
            )
        if sender != writer:
            raise _refused(f"only {writer[:12]} may write {path[:80]}, not {sender[:12]}", "sign with that key")
        if "validator" in found and sender not in self._validators:
            raise _refused(f"{sender[:12]} is no validator of this ledger", "the genesis lists the validators")
        if rule.registered and sender not in self._validators and not state.exists(f"/registry/{sender}"):
            raise _refused(f"{sender[:12]} stands not in the registry", "register the node first: python main.py join")


def _check_order(state: StateReader, path: str, rule: Rule, found: Mapping[str, str], *, is_removal: bool) -> None:
    if rule.is_once and (is_removal or state.exists(path)):
        raise _conflict(f"{path[:120]} is written once and then stays")
    if rule.after is not None:
        needed = _filled(rule.after, found)
        if not state.exists(needed):
            raise _conflict(f"{needed[:120]} must be written before {path[:120]}")
    if rule.before is not None and state.exists(_filled(rule.before, found)):
        raise _conflict(f"{path[:120]} is written before {_filled(rule.before, found)[:120]}, not after it")
    if rule.is_in_order and int(found["page"]) > 0:
        needed = _filled(rule.pattern, {**found, "page": f"{int(found['page']) - 1:0{len(found['page'])}d}"})
        if not state.exists(needed):
            raise _conflict(f"{needed[:120]} must be written before {path[:120]}")
    if rule.is_rising:
        folder = _filled(rule.pattern.partition("/$epoch")[0], found)
        last = state.greatest_child(folder)
        if last is not None and found["epoch"] <= last:
            raise _conflict(f"epoch {last} was begun already; the next one is greater, got {found['epoch']}")


def _check_keys(state: StateReader, sender: str, rule: Rule, found: Mapping[str, str], value: object) -> None:
    if rule.certifies:
        _check_certificate(state, sender, Purpose(found["purpose"]), value)
    if rule.signed and (counter := _counter(value)) is not None:
        least = state.generation(sender, Purpose.STATEMENT)
        if counter < least:
            raise _revoked(f"the statement subkey of generation {counter} was replaced by {least}", "sign it anew")


def _check_certificate(state: StateReader, sender: str, purpose: Purpose, value: object) -> None:
    path, hint = generation_path(sender, purpose), "python main.py key rotate makes it"
    try:
        certificate = decode_model(Certificate, json.dumps(value).encode())
        certificate.check(issuer=sender, purpose=purpose)
    except (RequestRejected, SignatureInvalid) as err:
        raise _refused(f"{path[:80]} takes the node's own certificate: {err}"[:300], hint) from err
    standing = state.generation(sender, purpose)
    if certificate.counter <= standing:
        raise _conflict(f"generation {standing} stands on {path[:100]} already; the next one is greater")


def _counter(value: object) -> int | None:
    """Return the generation of a statement's subkey; None for what no reader takes for a statement."""
    certificate = value.get("certificate") if isinstance(value, dict) else None
    counter = certificate.get("counter") if isinstance(certificate, dict) else None
    return counter if type(counter) is int else None


def _filled(pattern: str, found: Mapping[str, str]) -> str:
    return re.sub(r"\$(\w+)", lambda name: found[name[1]], pattern)


def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(
        re.sub(r"\$(\w+)", lambda name: f"(?P<{name[1]}>{_VARIABLES.get(name[1], SEGMENT_PATTERN)})", pattern)
    )


def _refused(message: str, hint: str) -> RequestRejected:
    return RequestRejected(ErrorCode.RULE_REFUSED, message, hint=hint, field="op.path", status=403)


def _revoked(message: str, hint: str) -> RequestRejected:
    return RequestRejected(ErrorCode.KEY_REFUSED, message, hint=hint, field="from", status=403)


def _conflict(message: str) -> RequestRejected:
    return RequestRejected(
        ErrorCode.CONFLICT, message, hint="read what stands on the ledger, then decide", field="op.path", status=409
    )
