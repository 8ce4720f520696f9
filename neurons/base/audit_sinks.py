"""Where a node's audit log is: with its agent (a miner), or in the node's own process (a validator, which has none)."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import polarise
from neurons.base.agent_client import AgentClient
from neurons.base.audit_spool import Event
from neurons.base.audit_trail import sift
from neurons.base.event_log import EventLog
from neurons.base.log_certificates import keep_certificate
from polarise.ingress import Hop, Sender, dispatch, draft_of
from polarise.signing import Identity, Purpose
from polarise.stream import AUDIT, origin_of
from utils.clock import Clock

FILE_NAME = "audit.sqlite"
# Names a node as the client of its own log, as seed 004's client_id does.
_CLIENTS = uuid.UUID("7d1c3c6e-6f0b-4d35-9a55-0f6c1f0f6b1a")


class AgentSink:
    """The agent's audit stream.

    Args:
        agent: How it is called.
    """

    def __init__(self, agent: AgentClient) -> None:
        self._agent = agent

    def append(self, events: Sequence[Event]) -> None:
        """See `neurons.base.audit_trail.AuditSink`."""
        sift([appended.refused for appended in self._agent.append(events, AUDIT)])


class LocalSink:
    """An audit log in this process.

    Args:
        root: The node's data directory.
        identity: The node; its log subkey signs.
        role: The node's, for the lines' ``visited``.
        clock: Wall and monotonic clock.
    """

    def __init__(self, root: Path, identity: Identity, role: str, clock: Clock) -> None:
        subkey = identity.subkey(Purpose.LOG)
        keep_certificate(root, subkey.certificate)
        key = identity.public_key
        self._log = EventLog(root / FILE_NAME, origin_of(key, AUDIT), subkey.key)
        self._hop = Hop(role, f"v{polarise.__version__}", key[:12])
        self._sender = Sender(str(uuid.uuid5(_CLIENTS, key)), is_authenticated=True)
        self._clock = clock

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._log.close()

    def append(self, events: Sequence[Event]) -> None:
        """See `neurons.base.audit_trail.AuditSink`; everything is signed when it returns."""
        now_ns = self._clock.wall_unix_ms() * 1_000_000
        messages = [dispatch(draft_of(event), self._sender, self._hop, now_ns) for event in events]
        sift(self._log.append(messages, self._clock.monotonic_ns()))
        self._log.sign()

    def latest(self) -> bytes | None:
        """Return the newest signed checkpoint."""
        return self._log.latest()
