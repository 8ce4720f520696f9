"""What the miner does with the agent: open and close lease streams, add events, read lines and checkpoints.

Rules:
- One connection per call, one deadline; an agent that is away is `Unavailable`, never a reason to lose an event:
  a caller repeats the call with the same ``message_id`` and the agent keeps it once.
- The folder of a lease is known without asking, so that a container can be made while the agent restarts.
"""

from __future__ import annotations

import socket
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from neurons.base.agent_wire import ANSWER_BYTES_MAX, SOCKET_NAME, Answer, Appended, Request, encode_message
from neurons.base.unix_socket import connect
from polarise.canonical import JsonValue
from polarise.cosignature import CosignatureRequest
from polarise.errors import ErrorCode, RequestRejected, Unavailable

# Where a container finds its folder, and the client its socket (`polarise.events.DEFAULT_SOCKET`).
MOUNT = "/run/polarise"
CALL_SECONDS = 10.0


class AgentClient:
    """Calls to the agent of this node.

    Args:
        data_dir: The node's data directory.
    """

    def __init__(self, data_dir: Path) -> None:
        self._socket = data_dir / "run" / SOCKET_NAME
        self._events = data_dir / "run" / "events"

    def events_folder(self, lease_id: str) -> Path:
        """Return the folder that is mounted read-only into a lease's container at `MOUNT`."""
        return self._events / lease_id

    def open_stream(self, lease_id: str, renter_key: str, devices: Sequence[str] = ()) -> Path:
        """Open a lease's stream and its socket; the same call again changes nothing.

        Returns:
            The folder to mount.

        Raises:
            RequestRejected: The id was used before.
            Unavailable: The agent is away.
        """
        answer = self._call(Request(op="open", stream=lease_id, renter_key=renter_key, devices=tuple(devices)))
        return Path(str(answer.folder))

    def watch(self, lease_id: str, container_id: str, pid: int) -> None:
        """Sample a lease's container from now on.

        Args:
            lease_id: Its stream is open.
            container_id: Engine's id.
            pid: Process id, on the host, of the container's first process.
        """
        self._call(Request(op="watch", stream=lease_id, container_id=container_id, pid=pid))

    def close_stream(self, lease_id: str) -> None:
        """End a lease's stream: its last line is written and signed, its socket is gone; twice is fine."""
        self._call(Request(op="close", stream=lease_id))

    def open_streams(self) -> tuple[str, ...]:
        """Return the ids of the leases whose streams are open."""
        return self._call(Request(op="list")).leases

    def append(self, events: Sequence[Mapping[str, JsonValue]], stream_id: str = "system") -> tuple[Appended, ...]:
        """Add events; they are on the agent's disk when this returns.

        Args:
            events: Each with ``kind`` and ``payload``; a ``message_id`` is made where none is given.
            stream_id: ``system`` or a lease's id.

        Raises:
            RequestRejected: One is malformed; none was added.
            Unavailable: The agent is away.
        """
        named: tuple[dict[str, object], ...] = tuple({"message_id": str(uuid.uuid4()), **event} for event in events)
        return self._call(Request(op="append", stream=stream_id, events=named)).appended

    def epochs(self) -> Answer:
        """Return which of the node's own streams goes on, and what was signed each time one began anew."""
        return self._call(Request(op="epochs"))

    def info(self, stream_id: str) -> Answer:
        """Return size, holder and key of a stream.

        Raises:
            RequestRejected: NOT_FOUND (404).
        """
        return self._call(Request(op="info", stream=stream_id))

    def read(self, stream_id: str, first: int, wait_seconds: float = 0.0) -> Answer:
        """Return the next signed lines, waiting for them if there are none.

        Raises:
            RequestRejected: NOT_FOUND (404), or INVALID_FIELD for a place beyond the end.
        """
        return self._call(Request(op="read", stream=stream_id, first=first, wait_ms=int(wait_seconds * 1000)))

    def checkpoint(
        self, stream_id: str, old_size: int | None = None, size: int | None = None, *, witnesses: str | None = None
    ) -> Answer:
        """Return a checkpoint, with the proof of consistency from ``old_size`` to ``size`` (or to itself).

        Args:
            stream_id: Which stream.
            old_size: A size it must go on from; the proof begins there.
            size: Where the proof ends.
            witnesses: How many must have cosigned it, or ``most``; None is the newest as the log alone signed it.

        Raises:
            RequestRejected: NOT_FOUND (404), not so many cosigned one.
        """
        return self._call(Request(op="checkpoint", stream=stream_id, first=old_size, size=size, witnesses=witnesses))

    def proof(self, stream_id: str, seq: int, *, witnesses: str | None = None) -> str:
        """Return the proof file of one line, under the checkpoint that `checkpoint` chooses.

        Raises:
            RequestRejected: INVALID_FIELD, no checkpoint covers it yet.
        """
        return self._call(Request(op="proof", stream=stream_id, first=seq, witnesses=witnesses)).text

    def cosign(self, stream_id: str, caller_key: str, cosigned: CosignatureRequest) -> None:
        """Hand in a validator's cosignatures.

        Args:
            stream_id: Which stream.
            caller_key: Node key of the validator, as its request showed it.
            cosigned: The cosignatures.

        Raises:
            RequestRejected: They do not hold, or are older than what is kept.
        """
        self._call(Request(op="cosign", stream=stream_id, caller_key=caller_key, cosigned=cosigned))

    def metrics(self) -> str:
        """Return the agent's figures as Prometheus text."""
        return self._call(Request(op="metrics")).text

    def _call(self, request: Request) -> Answer:
        timeout = CALL_SECONDS + request.wait_ms / 1000
        try:
            with connect(self._socket, timeout) as connection:
                connection.sendall(encode_message(request))
                raw = _read_line(connection)
        except OSError as err:
            raise Unavailable(
                f"the agent does not answer ({err.strerror or err}); is `python main.py agent` running?",
                retry_after_seconds=2,
            ) from err
        try:
            answer = Answer.model_validate_json(raw, strict=True)
        except ValidationError as err:
            raise Unavailable("the agent answered something else; do miner and agent run the same version?") from err
        if answer.refusal is not None:
            refusal = answer.refusal
            code = ErrorCode(refusal.code) if refusal.code in ErrorCode.__members__ else ErrorCode.INTERNAL
            raise RequestRejected(code, refusal.message, hint=refusal.hint, field=refusal.field, status=refusal.status)
        return answer


def _read_line(connection: socket.socket) -> bytes:
    received = bytearray()
    while not received.endswith(b"\n"):
        piece = connection.recv(65536)
        if not piece or len(received) > ANSWER_BYTES_MAX:
            raise ConnectionError("the agent broke off")
        received += piece
    return bytes(received)
