"""All streams of one node: the system's, the audit log, and one per lease that outlives its lease.

Rules:
- Whose a lease's stream is, is written down when it is opened, and stays known after the lease has ended.
- Opening and closing are idempotent: a miner that crashed in between says it again.
- A lease's stream ends with `stream.closed`; nothing is added behind it.
- Where the node's own stream began anew, `system` is read as it was, and what is added goes into the newest one.
"""

from __future__ import annotations

import contextlib
import re
import threading
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from neurons.agent.lease_table import LeaseStream, LeaseTable
from neurons.base.event_log import EventLog
from neurons.base.log_certificates import keep_certificate
from polarise import __version__
from polarise.canonical import JsonValue
from polarise.errors import ErrorCode, RequestRejected
from polarise.ingress import Draft, Hop, Sender, dispatch, draft_of
from polarise.log_epoch import KIND as LOG_EPOCH_KIND
from polarise.log_epoch import LogEpoch
from polarise.signing import KEY_PATTERN, Subkey
from polarise.statement import SignedStatement
from polarise.stream import AUDIT, SYSTEM, is_system, origin_of, system_stream
from utils.clock import Clock

LEASE_PATTERN = r"[0-9a-f]{32}"
# Names the clients of one node by their key, as seed 004's client_id does.
_CLIENTS = uuid.UUID("7d1c3c6e-6f0b-4d35-9a55-0f6c1f0f6b1a")


class Streams:
    """The logs of one node.

    Args:
        folder: Where their files lie.
        node_key: First half of each log's name.
        subkey: Signs checkpoints.
        clock: Wall and monotonic clock.
        log_epochs: What the node signed each time its own stream began anew, oldest first.
    """

    def __init__(
        self,
        folder: Path,
        node_key: str,
        subkey: Subkey,
        clock: Clock,
        log_epochs: Sequence[tuple[SignedStatement, LogEpoch]] = (),
    ) -> None:
        self.node_key = node_key
        self.certificate = subkey.certificate
        self._folder = folder
        self._key = subkey.key
        self._clock = clock
        self._hop = Hop("agent", f"v{__version__}", node_key[:12])
        self._lock = threading.RLock()
        self._resources = ExitStack()
        self._table = self._resources.enter_context(LeaseTable(folder / "streams.sqlite"))
        self.log_epochs = tuple(statement for statement, _ in log_epochs)
        self.system = system_stream(log_epochs[-1][1].log_epoch if log_epochs else 0)
        self._logs: dict[str, EventLog] = {name: self._open_log(name) for name in (self.system, AUDIT)}
        keep_certificate(folder, subkey.certificate)
        # How many threads work with a log; one that has ended is closed by the last of them.
        self._users: Counter[EventLog] = Counter()
        self._ended: set[EventLog] = set()
        self._leases: dict[str, LeaseStream] = {}
        for stream in self._table.open_streams():
            self._admit(stream)
        if log_epochs and self._logs[self.system].size == 0:
            self.emit(SYSTEM, LOG_EPOCH_KIND, _beginning(*log_epochs[-1]))
            self._logs[self.system].sign()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            for log in self._logs.values():
                log.sign_if_due(2**63)
                log.close()
            self._logs.clear()
            self._resources.close()

    def open(self, lease_id: str, renter_key: str, devices: Sequence[str]) -> LeaseStream:
        """Open a lease's stream; a second call with the same values changes nothing.

        The stream of a container that waits for its renter is the node's own until it is opened for somebody else.

        Raises:
            RequestRejected: CONFLICT, it is another renter's or has been closed; INVALID_FIELD.
        """
        if not re.fullmatch(LEASE_PATTERN, lease_id) or not re.fullmatch(KEY_PATTERN, renter_key):
            raise RequestRejected(ErrorCode.INVALID_FIELD, "no lease id or no key", field="lease_id")
        with self._lock:
            if found := self.lease(lease_id):
                if found.renter_key == self.node_key and found.is_open and renter_key != self.node_key:
                    found = self._leases[lease_id] = self._table.set_renter(lease_id, renter_key)
                if found.renter_key != renter_key or not found.is_open:
                    raise RequestRejected(
                        ErrorCode.CONFLICT, f"the stream of lease {lease_id} is another's or closed", status=409
                    )
                return found
            stream = self._table.add(lease_id, renter_key, devices, self._clock.wall_unix_ms())
            self._admit(stream)
            self.emit(lease_id, "stream.opened", {"devices": list(devices)})
            return stream

    def watch(self, lease_id: str, container_id: str, folders: Mapping[str, Path]) -> LeaseStream:
        """Write down which container a lease has.

        Raises:
            RequestRejected: NOT_FOUND (404), no open stream.
        """
        with self._lock:
            if lease_id not in self._leases:
                raise _unknown(lease_id)
            self._leases[lease_id] = self._table.set_container(lease_id, container_id, folders)
            return self._leases[lease_id]

    def close(self, lease_id: str) -> None:
        """End a lease's stream; one that is closed or unknown is fine."""
        with self._lock:
            if lease_id not in self._leases:
                return
            self.emit(lease_id, "stream.closed", {})
            self._logs[lease_id].sign()
            self._table.end(lease_id)
            del self._leases[lease_id]
            with self._using(lease_id) as log:
                self._ended.add(log)
                del self._logs[lease_id]

    def open_leases(self) -> list[LeaseStream]:
        """Return the streams of the leases that go on."""
        with self._lock:
            return list(self._leases.values())

    def lease(self, lease_id: str) -> LeaseStream | None:
        """Return what is known about a lease's stream, also after its end."""
        return self._table.find(lease_id)

    def emit(self, stream_id: str, kind: str, payload: Mapping[str, JsonValue]) -> int | RequestRejected:
        """Add an event of the agent's own to an open stream and return its sequence number."""
        return self.append(stream_id, [draft_of({"kind": kind, "payload": dict(payload)})])[0]

    def append(self, stream_id: str, drafts: Sequence[Draft]) -> list[int | RequestRejected]:
        """Dispatch messages into an open stream, in one durable step.

        Raises:
            RequestRejected: NOT_FOUND (404), the stream is closed or unknown.
        """
        stream_id = self.system if stream_id == SYSTEM else stream_id
        sender = self._sender(stream_id)
        now_ns = self._clock.wall_unix_ms() * 1_000_000
        messages = [dispatch(draft, sender, self._hop, now_ns) for draft in drafts]
        with self._using(stream_id) as log:
            return log.append(messages, self._clock.monotonic_ns())

    def size_bytes(self, stream_id: str) -> int:
        """Return what an open stream takes on disk, 0 for any other."""
        log = self._logs.get(stream_id)
        return log.size_bytes if log else 0

    @contextlib.contextmanager
    def reading(self, stream_id: str) -> Iterator[EventLog]:
        """Give out a log for reading; that of an ended lease is opened for the moment.

        Raises:
            RequestRejected: NOT_FOUND (404), there never was such a stream.
        """
        if stream_id in self._logs:
            with self._using(stream_id) as log:
                yield log
        elif self._was_system(stream_id) or (re.fullmatch(LEASE_PATTERN, stream_id) and self.lease(stream_id)):
            with self._open_log(stream_id) as ended:
                yield ended
        else:
            raise _unknown(stream_id)

    def _was_system(self, stream_id: str) -> bool:
        return is_system(stream_id) and self._path(stream_id).exists()

    def sign_due(self) -> None:
        """Sign every checkpoint whose time has come."""
        now_ns = self._clock.monotonic_ns()
        for stream_id in list(self._logs):
            with contextlib.suppress(RequestRejected), self._using(stream_id) as log:
                log.sign_if_due(now_ns)

    @contextlib.contextmanager
    def _using(self, stream_id: str) -> Iterator[EventLog]:
        with self._lock:
            log = self._logs.get(stream_id)
            if log is None:
                raise _unknown(stream_id)
            self._users[log] += 1
        try:
            yield log
        finally:
            with self._lock:
                self._users[log] -= 1
                if self._users[log] == 0:
                    del self._users[log]
                    if log in self._ended:
                        self._ended.remove(log)
                        log.close()

    def _admit(self, stream: LeaseStream) -> None:
        self._logs[stream.lease_id] = self._open_log(stream.lease_id)
        self._leases[stream.lease_id] = stream

    def _open_log(self, stream_id: str) -> EventLog:
        return EventLog(self._path(stream_id), origin_of(self.node_key, stream_id), self._key)

    def _path(self, stream_id: str) -> Path:
        return log_path(self._folder, stream_id)

    def _sender(self, stream_id: str) -> Sender:
        """The sockets' places decide who speaks, so what they say counts as authenticated."""
        lease = self._leases.get(stream_id)
        if lease is None:
            return Sender(str(uuid.uuid5(_CLIENTS, self.node_key)), is_authenticated=True)
        client_id = str(uuid.uuid5(_CLIENTS, lease.renter_key))
        return Sender(client_id, action_id=str(uuid.UUID(lease.lease_id)), is_authenticated=True)


def log_path(folder: Path, stream_id: str) -> Path:
    """Return where the log of a stream lies."""
    is_own = is_system(stream_id) or stream_id == AUDIT
    return folder / (f"{stream_id}.sqlite" if is_own else f"lease-{stream_id}.sqlite")


def _beginning(statement: SignedStatement, log_epoch: LogEpoch) -> dict[str, JsonValue]:
    """Return what the first line of a stream that began anew says, for everybody who reads it."""
    last = log_epoch.last_checkpoint()
    return {
        "log_epoch": log_epoch.log_epoch,
        "previous": log_epoch.previous,
        "size": 0 if last is None else last.checkpoint.size,
        "root": None if last is None else last.checkpoint.root.hex(),
        "anchored_size": log_epoch.anchored_size,
        "reason": log_epoch.reason,
        "statement": statement.digest(),
    }


def _unknown(stream_id: str) -> RequestRejected:
    return RequestRejected(
        ErrorCode.NOT_FOUND,
        f"there is no stream {stream_id[:64]!r} here",
        hint="system, audit, or a lease's id",
        status=404,
    )
