"""Who may write what: one table, in force from the genesis on; what no line allows is refused.

Rules:
- A pattern's ``$name`` takes one segment; ``$node`` is any node key, ``$validator`` a validator of the genesis,
  ``$epoch`` ten digits and ``$page`` two, so that names sort as numbers do. The first variable is the only one who may write there.
- ``once``: what stands there stays. ``after``: that path must exist. ``before``: that one must not. ``rising``: the epoch is
  greater than every one its writer has written under the same first segments. ``in_order``: pages are written from 0 on,
  none left out.
- A rule looks at the writer, the path and what exists; values are for those who read them.

The table is code of version 1. `set_rule` will put expressions on paths, which take over from here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from polarise.errors import ErrorCode, RequestRejected
from polarise.transaction import SEGMENT_PATTERN

_KEY = "[0-9a-f]{64}"
_VARIABLES = {"node": _KEY, "validator": _KEY, "epoch": "[0-9]{10}", "miner": _KEY, "page": "[0-9]{2}"}


class StateReader(Protocol):
    """What a rule may ask about the state."""

    def exists(self, path: str) -> bool:
        """Whether a value stands on the path."""

    def greatest_child(self, path: str) -> str | None:
        """Name of the last child in order of bytes, None without children."""


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
    """

    pattern: str
    meaning: str
    is_once: bool = False
    is_rising: bool = False
    after: str | None = None
    before: str | None = None
    is_in_order: bool = False
    registered: bool = False


TABLE = (
    Rule("/registry/$node", "the node's signed registry entry; null takes the node off the market"),
    Rule("/validators/$validator", "the validator's signed entry: endpoint, addresses on other engines"),
    Rule("/epochs/$validator/$epoch/commit", "challenge_commit, before any challenge", is_once=True, is_rising=True),
    Rule(
        "/epochs/$validator/$epoch/record",
        "the signed epoch record",
        is_once=True,
        after="/epochs/$validator/$epoch/commit",
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

    def check(self, state: StateReader, sender: str, path: str, *, is_removal: bool) -> None:
        """Let a write through or say why not.

        Raises:
            RequestRejected: RULE_REFUSED (403) for who and where, CONFLICT (409) for once and in order.
        """
        for pattern, rule in self._lines:
            if (match := pattern.fullmatch(path)) is not None:
                self._check_writer(state, sender, path, rule, match.groupdict())
                _check_order(state, path, rule, match.groupdict(), is_removal=is_removal)
                return
        raise _refused(f"no rule lets anybody write {path[:80]}", "docs: the table of ledger/rules.py")

    def _check_writer(self, state: StateReader, sender: str, path: str, rule: Rule, found: Mapping[str, str]) -> None:
        writer = found.get("validator") or found["node"]
        if sender != writer:
            raise _refused(f"only {writer[:12]} may write {path[:80]}, not {sender[:12]}", "sign with that node's key")
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


def _filled(pattern: str, found: Mapping[str, str]) -> str:
    return re.sub(r"\$(\w+)", lambda name: found[name[1]], pattern)


def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(
        re.sub(r"\$(\w+)", lambda name: f"(?P<{name[1]}>{_VARIABLES.get(name[1], SEGMENT_PATTERN)})", pattern)
    )


def _refused(message: str, hint: str) -> RequestRejected:
    return RequestRejected(ErrorCode.RULE_REFUSED, message, hint=hint, field="op.path", status=403)


def _conflict(message: str) -> RequestRejected:
    return RequestRejected(
        ErrorCode.CONFLICT, message, hint="read what stands on the ledger, then decide", field="op.path", status=409
    )
