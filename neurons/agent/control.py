"""The control socket: how the miner opens and closes streams, adds events and reads them; for this user and root only."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import cast

from neurons.agent.cosigned import Cosigned
from neurons.agent.doors import Doors
from neurons.agent.sampling import Sampling
from neurons.agent.streams import Streams
from neurons.base.agent_wire import (
    REQUEST_BYTES_MAX,
    SOCKET_NAME,
    Answer,
    Appended,
    CosignedBy,
    Refusal,
    Request,
    encode_message,
)
from neurons.base.event_log import EventLog
from neurons.base.metrics import MetricsTracker
from neurons.base.unix_socket import listen, peer_uid
from polarise.canonical import JsonValue
from polarise.checkpoint import parse_checkpoint
from polarise.decode import decode_model
from polarise.errors import ErrorCode, RequestRejected
from polarise.ingress import draft_of
from polarise.notes import parse_note
from polarise.stream import AUDIT, is_system
from telemetry import exporter
from telemetry.usage import cgroup_folders

logger = logging.getLogger(__name__)

# A call that does not end its line in this time is hung up on; one that waits for lines waits at most 10 s more.
LINE_SECONDS = 10.0
# Each thread of the largest HTTP server that the settings allow (network.threads) may wait for lines, and the miner's own
# services ask beside them.
CALLS_MAX = 256 + 64


class Control:
    """Serves the control socket, one thread per call.

    Args:
        folder: Where the socket lies.
        streams: The logs.
        cosigned: What validators cosigned of them.
        doors: The containers' sockets.
        sampling: What is measured.
        metrics: Counters.
    """

    name = "control"

    def __init__(
        self,
        folder: Path,
        streams: Streams,
        cosigned: Cosigned,
        doors: Doors,
        sampling: Sampling,
        metrics: MetricsTracker,
    ) -> None:
        self._path = folder / SOCKET_NAME
        self._streams = streams
        self._cosigned = cosigned
        self._doors = doors
        self._sampling = sampling
        self._metrics = metrics
        self._calls = threading.BoundedSemaphore(CALLS_MAX)
        self._listener: socket.socket | None = None

    def prepare(self) -> None:
        """Listen.

        Raises:
            ConfigError: The socket cannot be made.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._listener = listen(self._path, 0o600)
        self._listener.settimeout(0.2)

    def run(self, stop: threading.Event) -> None:
        """Serve until ``stop`` is set."""
        listener = cast(socket.socket, self._listener)
        while not stop.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            if not self._calls.acquire(blocking=False):
                connection.close()
                continue
            threading.Thread(target=self._converse, args=(connection,), name="control-call", daemon=True).start()
        listener.close()

    def _converse(self, connection: socket.socket) -> None:
        try:
            with connection:
                if peer_uid(connection) not in {0, os.geteuid()}:
                    return
                connection.settimeout(LINE_SECONDS)
                with connection.makefile("rb") as reader:
                    line = reader.readline(REQUEST_BYTES_MAX + 1)
                connection.sendall(encode_message(self.answer(line)))
        except OSError as err:
            logger.debug("a call broke off", extra={"cause": str(err)})
        finally:
            self._calls.release()

    def answer(self, line: bytes) -> Answer:
        """Do what one line asks for."""
        calls: dict[str, Callable[[Request], Answer]] = {
            "append": self._append,
            "open": self._open,
            "watch": self._watch,
            "close": self._close,
            "list": self._list,
            "info": self._info,
            "read": self._read,
            "checkpoint": self._checkpoint,
            "proof": self._proof,
            "epochs": self._epochs,
            "cosign": self._cosign,
            "metrics": self._render,
        }
        try:
            request = decode_model(Request, line, max_bytes=REQUEST_BYTES_MAX)
            return calls[request.op](request)
        except RequestRejected as err:
            return Answer(
                refusal=Refusal(
                    code=str(err.code), message=err.message, hint=err.hint, status=err.status, field=err.field
                )
            )

    def _append(self, request: Request) -> Answer:
        drafts = [draft_of(cast("dict[str, JsonValue]", event)) for event in request.events]
        results = self._streams.append(request.stream, drafts)
        return Answer(
            appended=tuple(
                Appended(seq=result) if isinstance(result, int) else Appended(refused=str(result)) for result in results
            )
        )

    def _open(self, request: Request) -> Answer:
        self._streams.open(request.stream, str(request.renter_key), request.devices)
        return Answer(folder=str(self._doors.open(request.stream)))

    def _watch(self, request: Request) -> Answer:
        if request.container_id is None or request.pid is None:
            raise _invalid("watch needs container_id and pid")
        try:
            folders = cgroup_folders(request.pid)
        except (OSError, ValueError) as err:
            raise _invalid(f"the container's cgroups cannot be found: {err}") from err
        self._sampling.watch(self._streams.watch(request.stream, request.container_id, folders))
        return Answer()

    def _close(self, request: Request) -> Answer:
        self._sampling.forget(request.stream)
        self._doors.close(request.stream)
        self._streams.close(request.stream)
        return Answer()

    def _list(self, _request: Request) -> Answer:
        return Answer(leases=tuple(stream.lease_id for stream in self._streams.open_leases()))

    def _info(self, request: Request) -> Answer:
        lease = None if is_system(request.stream) or request.stream == AUDIT else self._streams.lease(request.stream)
        with self._streams.reading(request.stream) as log:
            return Answer(
                renter_key=lease.renter_key if lease else None,
                is_open=self._is_open(request.stream),
                size=log.size,
                signed_size=log.signed_size,
                certificate=self._streams.certificate,
                cosigned=tuple(
                    CosignedBy(validator_key=key, size=newest.size, time_unix_s=newest.time_unix_s)
                    for key, newest in self._cosigned.by_validator(request.stream).items()
                ),
            )

    def _read(self, request: Request) -> Answer:
        first = request.first or 0
        with self._streams.reading(request.stream) as log:
            try:
                page = log.read(first, request.wait_ms / 1000)
            except IndexError as err:
                raise _invalid(f"{err}", "from") from err
            at_first = log.note_at(first) if first else None
            return Answer(
                first=first,
                lines=tuple(line.decode() for line in page.lines),
                frontier=tuple(value.hex() for value in log.frontier(first)) if page.lines else (),
                note=page.note.decode() if page.note else None,
                note_at_first=at_first.decode() if at_first else None,
                is_open=self._is_open(request.stream),
                size=log.size,
                signed_size=log.signed_size,
                certificate=self._streams.certificate,
            )

    def _is_open(self, stream_id: str) -> bool:
        if is_system(stream_id):
            return stream_id == self._streams.system
        lease = None if stream_id == AUDIT else self._streams.lease(stream_id)
        return lease is None or lease.is_open

    def _checkpoint(self, request: Request) -> Answer:
        with self._streams.reading(request.stream) as log:
            note = self._note(request, log, request.first or 0)
            proof: tuple[bytes, ...] = ()
            if request.first is not None:
                newest = parse_checkpoint(parse_note(note).text).size if note else 0
                try:
                    proof = log.consistency(request.first, newest if request.size is None else request.size)
                except IndexError as err:
                    raise _invalid(f"{err}", "old") from err
            return Answer(
                note=note.decode() if note else None,
                consistency=tuple(value.hex() for value in proof),
                signed_size=log.signed_size,
                certificate=self._streams.certificate,
            )

    def _proof(self, request: Request) -> Answer:
        with self._streams.reading(request.stream) as log:
            seq = request.first or 0
            try:
                return Answer(text=log.proof(seq, self._note(request, log, seq)).encode().decode())
            except IndexError as err:
                raise _invalid(f"{err}", "seq") from err

    def _epochs(self, _request: Request) -> Answer:
        return Answer(system=self._streams.system, epochs=self._streams.log_epochs)

    def _note(self, request: Request, log: EventLog, above: int) -> bytes | None:
        """Return the checkpoint that was asked for; None when the log has signed none yet."""
        newest = log.latest()
        if newest is None or request.witnesses is None:
            return newest
        return self._cosigned.find(request.stream, log, request.witnesses, above)

    def _cosign(self, request: Request) -> Answer:
        if request.caller_key is None or request.cosigned is None:
            raise _invalid("cosign needs caller_key and cosigned")
        self._cosigned.take(request.stream, request.caller_key, request.cosigned)
        self._metrics.count("polarise_cosignatures_taken_total")
        return Answer()

    def _render(self, _request: Request) -> Answer:
        return Answer(text=self._metrics.render() + exporter.render(self._sampling.newest))


def _invalid(message: str, field: str | None = None) -> RequestRejected:
    return RequestRejected(ErrorCode.INVALID_FIELD, message, hint="see neurons.base.agent_wire", field=field)
