"""The miner's HTTP API as methods: every request signed, every answer checked before anybody believes it.

Rules:
- A request names the node it is meant for (audience); only that node's key can sign the receipt that is accepted.
- A receipt must say what the answer around it says, and be made out to the caller.
- A refusal comes back as the `RequestRejected` it was; an answer of another shape is `AnswerInvalid`.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Generic

from polarise import __version__, messages
from polarise.answers import (
    MAX_ANSWER_BYTES,
    MAX_REFUSAL_BYTES,
    AnswerT,
    compare,
    decoded,
    open_receipt,
    raise_for_status,
    refusal_of,
    unix_ms,
)
from polarise.canonical import canonical_bytes
from polarise.decode import WireModel
from polarise.errors import AnswerInvalid, ErrorCode, RequestRejected
from polarise.excuse import ANSWER_BYTES_MAX
from polarise.http_client import ByteStream, HttpClient, Response
from polarise.http_signatures import IDEMPOTENCY_HEADER, IDEMPOTENCY_KEY, sign_request
from polarise.http_wire import border, parse_answer
from polarise.occupied import Step, sign_order
from polarise.receipt import ID_PATTERN
from polarise.rented import countersign
from polarise.signing import Identity
from polarise.statement import SignedStatement
from polarise.tls import Pin, TlsPeer


@dataclass(frozen=True, slots=True)
class Timed(Generic[AnswerT]):
    """An answer with the validator's own clock around it; see `polarise.http_client` for the three stamps."""

    answer: AnswerT
    sent_ns: int
    first_byte_ns: int
    last_byte_ns: int


@dataclass(frozen=True, slots=True)
class OrderedWork:
    """What a start orders beside its own fields; see `polarise.occupied.ChallengeOrder`."""

    device: str
    kind: str
    work_ms: int
    ordered_unix_ms: int


class MinerClient:
    """One miner, as one identity sees it.

    Args:
        endpoint: Base URL of the miner's API.
        node_key: The miner's node key, from the registry or pinned at first contact.
        identity: Who asks.
        allow_private: Whether loopback and private addresses may be connected to.
        timeout_seconds: Deadline of each request that names no other.
        tls_public_key: The node's TLS key, where its registry entry names one.
    """

    def __init__(
        self,
        endpoint: str,
        node_key: str,
        identity: Identity,
        *,
        allow_private: bool = True,
        timeout_seconds: float = 30.0,
        tls_public_key: str | None = None,
    ) -> None:
        self.node_key = node_key
        self._identity = identity
        self._http = HttpClient(endpoint, allow_private=allow_private, pin=Pin(node_key, tls_public_key))
        self._timeout_seconds = timeout_seconds

    @property
    def endpoint(self) -> str:
        """Base URL of the miner's API."""
        return self._http.base_url

    @property
    def caller_key(self) -> str:
        """Public key of who asks."""
        return self._identity.public_key

    def status(self) -> messages.StatusAnswer:
        """Ask who the node is and what is free.

        Raises:
            AnswerInvalid: It names another node key than the one expected.
        """
        answer = read_status(self._http, self._timeout_seconds)
        if answer.node_key != self.node_key:
            raise AnswerInvalid(f"{self.endpoint} is node {answer.node_key[:12]}, expected {self.node_key[:12]}")
        return answer

    def check_address(self) -> None:
        """Look the endpoint up and judge where it leads, without connecting.

        Raises:
            AddressRefused: Our own rule forbids to call it.
            Unavailable: There is no such name.
        """
        self._http.check_address(self._timeout_seconds)

    def addresses(self, timeout_seconds: float) -> tuple[tuple[str, int], ...]:
        """Return where the endpoint leads, judged; see `HttpClient.addresses`."""
        return self._http.addresses(timeout_seconds)

    @property
    def tls_peer(self) -> TlsPeer | None:
        """Who must be at the other end, for whoever connects by itself; None for plain HTTP."""
        return self._http.tls_peer

    def ping_wire(self) -> bytes:
        """Return the bytes of one ping, for whoever sends and stamps by itself."""
        return self._http.wire("GET", "/healthz")

    def start_wire(self, request: messages.StartRequest, work: OrderedWork) -> bytes:
        """Return the signed bytes of ``POST /challenge/start`` with its order; they are good for half a minute."""
        body = canonical_bytes(self._ordered(request, work).to_wire())
        return self._http.wire(
            "POST", "/challenge/start", headers=self._signed("POST", "/challenge/start", body), body=body
        )

    def commit_answer(self, raw: bytes, *, max_bytes: int) -> messages.CommitAnswer:
        """Read the answer to `start_wire` as it was received.

        Raises:
            RequestRejected: The peer refused.
            Unavailable: The peer cannot answer now, or what came is no answer.
        """
        with border(self.endpoint):
            status, headers, body = parse_answer(raw, "POST", max_bytes)
        return decoded(messages.CommitAnswer, Response(status, headers, body, 0, 0, 0))

    def ping(self, *, timeout_seconds: float | None = None) -> int:
        """Return the nanoseconds from request to answer of GET /healthz, on a fresh connection, connecting left out."""
        response = self._http.request(
            "GET", "/healthz", timeout_seconds=self._timeout_seconds if timeout_seconds is None else timeout_seconds
        )
        raise_for_status(response)
        return response.first_byte_ns - response.sent_ns

    def token(self, consent: SignedStatement | None = None) -> messages.TokenAnswer:
        """Get a bearer token for plain HTTP clients.

        Args:
            consent: Lets the miner show leases that are made under the token; see `polarise.rented.sign_consent`.
        """
        request = None if consent is None else messages.TokenRequest(consent=consent)
        return self._call("POST", "/token", messages.TokenAnswer, request).answer

    def allocate(
        self,
        request: messages.AllocateRequest,
        *,
        idempotency_key: str | None = None,
        timeout_seconds: float | None = None,
    ) -> messages.AllocateAnswer:
        """Rent a container.

        Args:
            request: What is asked for.
            idempotency_key: The same key again gives the same lease, so a lost answer can be asked for once more.
            timeout_seconds: Deadline of this request.

        Raises:
            RequestRejected: The key is none; or what the miner says.
            AnswerInvalid: The receipt does not hold, says something else than the answer, or has another isolation or
                private network than asked for.
        """
        if idempotency_key is not None and not IDEMPOTENCY_KEY.fullmatch(idempotency_key):
            raise RequestRejected(
                ErrorCode.INVALID_FIELD,
                f"{idempotency_key[:80]!r} is not a usable key",
                hint="1 to 64 letters, digits, _ or -",
                field=IDEMPOTENCY_HEADER,
            )
        answer = self._call(
            "POST",
            "/allocate",
            messages.AllocateAnswer,
            request,
            idempotency_key=idempotency_key,
            timeout_seconds=timeout_seconds,
        ).answer
        self._check_allocation(answer, request)
        return answer

    def containers(self) -> tuple[messages.ContainerView, ...]:
        """List the caller's containers; the owner sees all."""
        return self._call("GET", "/containers", messages.ContainerList).answer.containers

    def container(self, container_id: str) -> messages.ContainerView:
        """Show one container."""
        return self._call("GET", f"/containers/{_checked_id(container_id)}", messages.ContainerView).answer

    def renew(self, container_id: str, ttl_seconds: int | None = None) -> messages.RenewAnswer:
        """Let the lease end ``ttl_seconds`` from now.

        Raises:
            AnswerInvalid: The new receipt does not hold or says something else than the answer.
        """
        request = messages.RenewRequest(ttl_seconds=ttl_seconds)
        path = f"/containers/{_checked_id(container_id)}/renew"
        answer = self._call("POST", path, messages.RenewAnswer, request).answer
        receipt = open_receipt(answer.receipt, node_key=self.node_key, renter_key=self._identity.public_key)
        compare("container_id", answer.container_id, receipt.container_id)
        compare("container_id", answer.container_id, container_id)
        compare("expires_at", unix_ms(answer.expires_at), receipt.expires_unix_ms)
        return answer

    def countersign(self, receipt: SignedStatement, *, timeout_seconds: float | None = None) -> None:
        """Sign a receipt as the renter it is made out to, so that the miner can show that its device is rented.

        Args:
            receipt: The newest one of the lease, as `allocate` or `renew` brought it.
            timeout_seconds: Deadline of this request.

        Raises:
            AnswerInvalid: It is no receipt of this miner for this caller.
        """
        body = open_receipt(receipt, node_key=self.node_key, renter_key=self._identity.public_key)
        statement = countersign(self._identity, receipt, _now_unix_ms())
        path = f"/containers/{body.container_id}/countersign"
        request = messages.CountersignRequest(countersignature=statement)
        self._call("POST", path, messages.SuccessAnswer, request, timeout_seconds=timeout_seconds)

    def set_ssh_key(self, container_id: str, line: str) -> None:
        """Replace every SSH key of the container by this one."""
        request = messages.SshKeyRequest(ssh_public_key=line)
        self._call("PUT", f"/containers/{_checked_id(container_id)}/ssh-key", messages.SuccessAnswer, request)

    def new_password(self, container_id: str) -> messages.PasswordAnswer:
        """Get a new one-time password; the old one is dead."""
        return self._call("POST", f"/containers/{_checked_id(container_id)}/password", messages.PasswordAnswer).answer

    def terminate(self, container_id: str) -> messages.TerminateAnswer:
        """End the lease and remove the container; `polarise.usage.open_usage` checks the usage statement it brings."""
        return self._call("DELETE", f"/terminate/{_checked_id(container_id)}", messages.TerminateAnswer).answer

    def usage(self, container_id: str) -> SignedStatement:
        """Ask what a lease has used, also after its end; `polarise.usage.open_usage` checks the statement."""
        path = f"/containers/{_checked_id(container_id)}/usage"
        return self._call("GET", path, messages.UsageAnswer).answer.usage

    def logs(self, container_id: str, *, follow: bool = False, idle_seconds: float = 600.0) -> ByteStream:
        """Read the container's output; iterate the result and close it.

        Args:
            container_id: Whose output.
            follow: Whether to wait for more.
            idle_seconds: Longest silence before the stream counts as dead.
        """
        target = f"/logs/{_checked_id(container_id)}" + ("?follow=1" if follow else "")
        headers = self._signed("GET", target, b"")
        stream = self._http.stream(
            target, headers=headers, timeout_seconds=self._timeout_seconds, idle_seconds=idle_seconds
        )
        if stream.status >= 400:
            body = stream.read_rest(MAX_REFUSAL_BYTES, self._timeout_seconds)
            raise refusal_of(stream.status, stream.headers.get("retry-after"), body)
        return stream

    def prepare(
        self, request: messages.PrepareRequest, *, deadline_seconds: float, ordered_unix_ms: int | None = None
    ) -> messages.PrepareAnswer:
        """Announce a proof; nothing is timed yet. A device that is taken answers with what shows it.

        Args:
            request: Without its order, which is signed here.
            deadline_seconds: Of this request.
            ordered_unix_ms: Stamp of the order; by this machine's clock when it is left out.

        Raises:
            AnswerInvalid: The answer is larger than the largest excuse, or no answer.
        """
        order = self._order(
            "prepare",
            request.challenge_id,
            OrderedWork(
                request.device, request.kind, 0, _now_unix_ms() if ordered_unix_ms is None else ordered_unix_ms
            ),
        )
        return self._call(
            "POST",
            "/challenge/prepare",
            messages.PrepareAnswer,
            request.model_copy(update={"order": order}),
            timeout_seconds=deadline_seconds,
            max_bytes=ANSWER_BYTES_MAX,
        ).answer

    def start(
        self,
        request: messages.StartRequest,
        work: OrderedWork | None = None,
        *,
        deadline_seconds: float,
        max_bytes: int = MAX_ANSWER_BYTES,
    ) -> Timed[messages.CommitAnswer]:
        """Start the clock and wait for the commitment, whose signature the caller checks.

        A miner can send its first byte before it has the commitment: the work took until ``last_byte_ns``.

        Args:
            request: Without its order, which is signed here.
            work: What the order says; none is sent without it.
            deadline_seconds: Of this request.
            max_bytes: Bound of the answer.

        Raises:
            AnswerInvalid: The answer is larger than ``max_bytes``, or no commitment.
        """
        return self._call(
            "POST",
            "/challenge/start",
            messages.CommitAnswer,
            request if work is None else self._ordered(request, work),
            timeout_seconds=deadline_seconds,
            max_bytes=max_bytes,
        )

    def open(
        self, request: messages.OpenRequest, *, deadline_seconds: float, max_bytes: int = MAX_ANSWER_BYTES
    ) -> messages.OpenAnswer:
        """Ask for the drawn openings.

        Raises:
            AnswerInvalid: The answer is larger than ``max_bytes``, or no openings.
        """
        return self._call(
            "POST",
            "/challenge/open",
            messages.OpenAnswer,
            request,
            timeout_seconds=deadline_seconds,
            max_bytes=max_bytes,
        ).answer

    def verdict(self, statement: SignedStatement, *, deadline_seconds: float) -> None:
        """Tell the miner its verdict."""
        request = messages.VerdictRequest(verdict=statement)
        self._call("POST", "/challenge/verdict", messages.SuccessAnswer, request, timeout_seconds=deadline_seconds)

    def _ordered(self, request: messages.StartRequest, work: OrderedWork) -> messages.StartRequest:
        return request.model_copy(update={"order": self._order("start", request.challenge_id, work)})

    def _order(self, step: Step, challenge_id: str, work: OrderedWork) -> SignedStatement:
        return sign_order(
            self._identity,
            miner_key=self.node_key,
            device=work.device,
            kind=work.kind,
            challenge_id=challenge_id,
            step=step,
            work_ms=work.work_ms,
            ordered_unix_ms=work.ordered_unix_ms,
        )

    def _call(
        self,
        method: str,
        target: str,
        model: type[AnswerT],
        request: WireModel | None = None,
        *,
        idempotency_key: str | None = None,
        timeout_seconds: float | None = None,
        max_bytes: int = MAX_ANSWER_BYTES,
    ) -> Timed[AnswerT]:
        body = b"" if request is None else canonical_bytes(request.to_wire())
        response = self._http.request(
            method,
            target,
            headers=self._signed(method, target, body, idempotency_key),
            body=body,
            timeout_seconds=self._timeout_seconds if timeout_seconds is None else timeout_seconds,
            max_bytes=min(max_bytes, MAX_ANSWER_BYTES),
        )
        answer = decoded(model, response)
        return Timed(answer, response.sent_ns, response.first_byte_ns, response.last_byte_ns)

    def _signed(self, method: str, target: str, body: bytes, idempotency_key: str | None = None) -> dict[str, str]:
        headers = {"User-Agent": f"polarise/{__version__}", "Content-Type": "application/json"} if body else {}
        url = self._http.base_url + target
        signed = sign_request(
            self._identity, method, url, body, audience=self.node_key, idempotency_key=idempotency_key
        )
        return {**headers, **signed}

    def _check_allocation(self, answer: messages.AllocateAnswer, request: messages.AllocateRequest) -> None:
        receipt = open_receipt(answer.receipt, node_key=self.node_key, renter_key=self._identity.public_key)
        for name in (
            "container_id",
            "ssh_host",
            "ssh_port",
            "ssh_user",
            "host_key",
            "host_key_fingerprint",
            "limits",
            "devices",
            "private_network",
        ):
            compare(name, getattr(answer, name), getattr(receipt, name))
        compare("expires_at", unix_ms(answer.expires_at), receipt.expires_unix_ms)
        isolation = request.isolation or "standard"
        if receipt.isolation != isolation:
            raise AnswerInvalid(f"the lease is {receipt.isolation}, asked for {isolation}")
        network = receipt.private_network.name if receipt.private_network else None
        if network != request.private_network:
            raise AnswerInvalid(f"the lease has the private network {network}, asked for {request.private_network}")


def read_status(http: HttpClient, timeout_seconds: float) -> messages.StatusAnswer:
    """Ask a node whose key is not known yet who it is; nothing in the answer is signed."""
    return decoded(messages.StatusAnswer, http.request("GET", "/status", timeout_seconds=timeout_seconds))


def _now_unix_ms() -> int:
    return time.time_ns() // 1_000_000


def _checked_id(container_id: str) -> str:
    if not re.fullmatch(ID_PATTERN, container_id):
        raise RequestRejected(
            ErrorCode.INVALID_FIELD,
            f"{container_id[:80]!r} is not a container id",
            hint="12 to 64 lower-case hex digits, as `renter ps` shows them",
            field="container_id",
        )
    return container_id
