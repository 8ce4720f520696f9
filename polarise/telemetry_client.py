"""The event routes of a miner as methods: a stream, a page, a checkpoint with its consistency proof, a cosignature."""

from __future__ import annotations

from pydantic import Field

from polarise import __version__
from polarise.answers import MAX_REFUSAL_BYTES, decoded, raise_for_status, refusal_of
from polarise.canonical import canonical_bytes
from polarise.cosignature import CosignatureRequest
from polarise.decode import WireModel
from polarise.errors import AnswerInvalid
from polarise.http_client import ByteStream, HttpClient, Response
from polarise.http_signatures import sign_request
from polarise.log_epoch import LogEpochsAnswer
from polarise.log_proof import LogProof, parse_log_proof
from polarise.messages import SuccessAnswer
from polarise.notes import NoteInvalid
from polarise.signing import Certificate, Identity
from polarise.statement import SignedStatement
from polarise.stream import AUDIT, SYSTEM_PATTERN
from polarise.tls import Pin

STREAM_ID_PATTERN = rf"^({SYSTEM_PATTERN}|{AUDIT}|[0-9a-f]{{32}})$"


class CheckpointAnswer(WireModel):
    """GET /streams/{id}/checkpoint.

    Attributes:
        certificate: The node's word for the log's key.
        checkpoint: The signed note, as text, with its cosignature lines; None before the first.
        consistency: With ``?old=``: hashes (hex) that lead from the tree of that size to this one.
    """

    status: str = "success"
    certificate: Certificate
    checkpoint: str | None
    consistency: tuple[str, ...] = Field(default=(), max_length=64)


class EventsAnswer(WireModel):
    """GET /streams/{id}/events?from=.

    Attributes:
        certificate: The node's word for the log's key.
        first: Sequence number of the first line.
        frontier: Complete subtrees (hex, largest first) before it; they prove themselves by the root.
        lines: The lines, exactly as they were hashed.
        checkpoint: A signed note that covers precisely the lines up to the last one here; None when there are none.
    """

    status: str = "success"
    certificate: Certificate
    first: int = Field(ge=0)
    frontier: tuple[str, ...] = Field(max_length=64)
    lines: tuple[str, ...] = Field(max_length=4096)
    checkpoint: str | None


class TelemetryClient:
    """The streams of one node, as one identity sees them.

    Args:
        endpoint: Base URL of the node's API.
        node_key: The node's key; the audience of every request.
        identity: Who asks.
        allow_private: Whether loopback and private addresses may be connected to.
        tls_public_key: The node's TLS key, where its registry entry names one.
    """

    def __init__(
        self,
        endpoint: str,
        node_key: str,
        identity: Identity,
        *,
        allow_private: bool = True,
        tls_public_key: str | None = None,
    ) -> None:
        self.node_key = node_key
        self._identity = identity
        self._http = HttpClient(endpoint, allow_private=allow_private, pin=Pin(node_key, tls_public_key))

    def stream(
        self,
        stream_id: str,
        first: int,
        *,
        follow: bool = True,
        idle_seconds: float = 60.0,
        timeout_seconds: float = 30.0,
        seconds_max: float | None = None,
    ) -> ByteStream:
        """Open the stream at sequence number ``first``, which acknowledges everything before it.

        Args:
            stream_id: Which stream.
            first: Sequence number of the first line wanted.
            follow: Whether to wait for more at its end.
            idle_seconds: Longest silence.
            timeout_seconds: Until the stream begins.
            seconds_max: For all of it; None for no end.

        Raises:
            RequestRejected: The node refuses.
            Unavailable: It cannot answer now.
        """
        target = f"/telemetry/stream?stream={stream_id}&from={first}" + ("" if follow else "&follow=0")
        stream = self._http.stream(
            target,
            headers=self._signed(target),
            timeout_seconds=timeout_seconds,
            idle_seconds=idle_seconds,
            seconds_max=seconds_max,
        )
        if stream.status >= 400:
            body = stream.read_rest(MAX_REFUSAL_BYTES, timeout_seconds)
            raise refusal_of(stream.status, stream.headers.get("retry-after"), body)
        return stream

    def events(self, stream_id: str, first: int, *, timeout_seconds: float = 30.0) -> EventsAnswer:
        """Read one page."""
        target = f"/streams/{stream_id}/events?from={first}"
        return decoded(EventsAnswer, self._get(target, timeout_seconds))

    def checkpoint(
        self,
        stream_id: str,
        old_size: int | None = None,
        size: int | None = None,
        *,
        witnesses: str | None = None,
        timeout_seconds: float = 30.0,
    ) -> CheckpointAnswer:
        """Return a checkpoint, with the proof of consistency from ``old_size`` to ``size`` (or to itself).

        Args:
            stream_id: Which stream.
            old_size: Where the proof begins; with ``witnesses`` the checkpoint is larger.
            size: Where the proof ends.
            witnesses: How many must have cosigned it, or `polarise.cosignature.MOST`; None asks for the newest.
            timeout_seconds: Deadline.

        Raises:
            RequestRejected: NOT_FOUND (404), not so many cosigned one.
        """
        given = (("old", old_size), ("size", size), ("witnesses", witnesses))
        query = [f"{name}={value}" for name, value in given if value is not None]
        target = f"/streams/{stream_id}/checkpoint" + ("?" + "&".join(query) if query else "")
        return decoded(CheckpointAnswer, self._get(target, timeout_seconds))

    def proof(
        self, stream_id: str, seq: int, *, witnesses: str | None = None, timeout_seconds: float = 30.0
    ) -> LogProof:
        """Return one line's proof; `LogProof.verify` with `polarise.stream.log_verifier` checks it.

        Args:
            stream_id: Which stream.
            seq: Which line.
            witnesses: Under which checkpoint, as for `checkpoint`.
            timeout_seconds: Deadline.

        Raises:
            AnswerInvalid: The answer is no proof.
        """
        asked = "" if witnesses is None else f"&witnesses={witnesses}"
        response = self._get(f"/streams/{stream_id}/proof?seq={seq}{asked}", timeout_seconds)
        raise_for_status(response)
        try:
            return parse_log_proof(response.body)
        except NoteInvalid as err:
            raise AnswerInvalid(f"the answer is no proof: {err}") from err

    def log_epochs(self, *, timeout_seconds: float = 30.0) -> tuple[SignedStatement, ...]:
        """Return what the node signed each time its own stream began anew; `polarise.log_epoch` checks it."""
        return decoded(LogEpochsAnswer, self._get("/streams/system/epochs", timeout_seconds)).epochs

    def cosign(self, stream_id: str, cosigned: CosignatureRequest, *, timeout_seconds: float = 30.0) -> None:
        """Hand cosignatures of this identity's back to the node.

        Raises:
            RequestRejected: They do not hold there, or are older than what the node has.
        """
        target, body = f"/streams/{stream_id}/cosignature", canonical_bytes(cosigned.to_wire())
        headers = {"Content-Type": "application/json", **self._signed(target, "POST", body)}
        response = self._http.request("POST", target, headers=headers, body=body, timeout_seconds=timeout_seconds)
        decoded(SuccessAnswer, response)

    def _get(self, target: str, timeout_seconds: float) -> Response:
        return self._http.request("GET", target, headers=self._signed(target), timeout_seconds=timeout_seconds)

    def _signed(self, target: str, method: str = "GET", body: bytes = b"") -> dict[str, str]:
        url = self._http.base_url + target
        headers = sign_request(self._identity, method, url, body, audience=self.node_key)
        return {"User-Agent": f"polarise/{__version__}", **headers}
