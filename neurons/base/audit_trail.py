"""Who did what through a node's API, and who was refused: from each request to the spool, from there to the audit log.

Rules:
- What changed something is a line of its own, on disk before the answer leaves: key, role, route, object.
- Refusals are counted, and told once a minute in a bounded number of lines: whoever floods a node does not fill its disk.
- No body, no password, no token, no address: a line cannot be taken out of the log again. Of addresses only how many
  there were is told.
- A log that is away stops no request; lines wait in the spool and keep their order.
Decision and alternatives: docs/adr/0049-audit-log.md.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Protocol

import polarise
from config.schema import Config
from neurons.base.audit_spool import AuditSpool, Event
from polarise.canonical import JsonValue
from polarise.errors import RequestRejected, Unavailable

logger = logging.getLogger(__name__)

WINDOW_SECONDS = 60.0
ROWS_MAX = 1024
LINES_PER_WINDOW = 16
ADDRESSES_MAX = 256
LOOK_SECONDS = 0.5
RETRY_SECONDS = 2.0
OK = "OK"


class AuditSink(Protocol):
    """Where lines end up: the agent's log, or one of this process."""

    def append(self, events: Sequence[Event]) -> None:
        """Add events durably; one with a ``message_id`` that is there already is not added again.

        Raises:
            Unavailable: The log is away; the same events come again.
        """


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asked, as far as it is known; a key on no list is nobody, because such keys cost nothing."""

    key: str | None = None
    role: str | None = None


@dataclass(slots=True)
class _Refused:
    count: int = 0
    first_unix_ms: int = 0
    last_unix_ms: int = 0
    addresses: set[str] = field(default_factory=set)

    def add(self, now_unix_ms: int, address: str | None) -> None:
        self.count += 1
        self.first_unix_ms = self.first_unix_ms or now_unix_ms
        self.last_unix_ms = now_unix_ms
        if address is not None and len(self.addresses) < ADDRESSES_MAX:
            self.addresses.add(address)


class AuditTrail:
    """What a node's requests and its own life leave in the audit log; also the service that hands it on.

    Args:
        spool: Where lines wait.
        sink: The log.
        about: What is told of the node when it starts: role, version, hash of its settings.
    """

    name = "audit"

    def __init__(self, spool: AuditSpool, sink: AuditSink, about: Event) -> None:
        self._spool = spool
        self._sink = sink
        self._about = about
        self._refused: dict[tuple[Actor, str, str], _Refused] = {}
        self._lock = threading.Lock()

    def did(self, actor: Actor, action: str, target: str | None, *, is_listed: bool = True) -> None:
        """Tell that a caller changed something.

        Args:
            actor: Who.
            action: Method and rule of the route.
            target: What was changed: a container's id.
            is_listed: Keys on no list cost nothing, so what they do to no lease is counted, not told one by one.
        """
        if not is_listed and target is None:
            self._count(Actor(), action, OK, None)
            return
        self._spool.put(
            "audit.action",
            {"action": action, "actor": actor.key, "role": actor.role, "object": target, "outcome": OK},
        )

    def refused(self, actor: Actor, action: str, code: str, address: str | None) -> None:
        """Count a refusal."""
        self._count(actor, action, code, address)

    def _count(self, actor: Actor, action: str, code: str, address: str | None) -> None:
        with self._lock:
            name = (actor, action, code)
            if name not in self._refused and len(self._refused) >= ROWS_MAX:
                name = (Actor(), "others", code)
            self._refused.setdefault(name, _Refused()).add(time.time_ns() // 1_000_000, address)

    def prepare(self) -> None:
        """Tell that the node starts."""
        self._spool.put("audit.node", {"action": "daemon.started", "outcome": OK, **self._about})

    def run(self, stop: threading.Event) -> None:
        """Hand lines on until ``stop`` is set, then tell that the node stops."""
        due = time.monotonic() + WINDOW_SECONDS
        while not stop.wait(LOOK_SECONDS):
            if time.monotonic() >= due:
                self.tell_refused()
                due = time.monotonic() + WINDOW_SECONDS
            # Also without a line of ours: commands on the machine put some in.
            if not self.hand_on():
                stop.wait(RETRY_SECONDS)
        self.tell_refused()
        self._spool.put("audit.node", {"action": "daemon.stopped", "outcome": OK})
        self.hand_on()

    def hand_on(self) -> bool:
        """Hand on what waits; returns whether nothing does any more."""
        try:
            while lines := self._spool.oldest():
                self._sink.append([event for _place, event in lines])
                self._spool.drop(lines[-1][0])
        except Unavailable as err:
            logger.debug("lines of the audit log wait", extra={"cause": err.message})
            return False
        return True

    def tell_refused(self) -> None:
        """Write the refusals of this window: the most frequent ones, and all others of one code in one line."""
        with self._lock:
            refused, self._refused = self._refused, {}
        rows = sorted(refused.items(), key=lambda item: (-item[1].count, item[0][1:]))
        for (actor, action, code), row in rows[:LINES_PER_WINDOW]:
            self._tell(actor, action, code, row)
        others: dict[str, _Refused] = {}
        for (_actor, _action, code), row in rows[LINES_PER_WINDOW:]:
            other = others.setdefault(code, _Refused(0, row.first_unix_ms))
            other.count += row.count
            other.first_unix_ms = min(other.first_unix_ms, row.first_unix_ms)
            other.last_unix_ms = max(other.last_unix_ms, row.last_unix_ms)
            other.addresses |= row.addresses
        for code, row in others.items():
            self._tell(Actor(), "others", code, row)

    def _tell(self, actor: Actor, action: str, code: str, row: _Refused) -> None:
        payload: dict[str, JsonValue] = {
            "action": action,
            "actor": actor.key,
            "role": actor.role,
            "outcome": code,
            "count": row.count,
            "first_unix_ms": row.first_unix_ms,
            "last_unix_ms": row.last_unix_ms,
            "addresses_count": len(row.addresses) or None,
        }
        self._spool.put("audit.action" if code == OK else "audit.refused", payload)


def about_node(role: str, config: Config, **further: str) -> Event:
    """Return what a node tells of itself when it starts; of secret settings not even their hash."""
    told = config.model_dump(mode="json", exclude={"security": {"secret_key"}})
    return {
        "role": role,
        "version": polarise.__version__,
        "config_sha256": sha256(json.dumps(told, sort_keys=True).encode()).hexdigest(),
        **further,
    }


def sift(results: Sequence[object]) -> None:
    """Log which lines a sink refused for ever; they are not tried again."""
    for refused in results:
        if isinstance(refused, RequestRejected | str):
            logger.error("a line of the audit log is lost", extra={"kind": "refused", "cause": str(refused)})
