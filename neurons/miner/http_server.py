"""The miner's routes: decode, call one method, encode. Rights stand in `access_table`, errors in `base.http_app`."""

from __future__ import annotations

from flask import Response, request

import polarise
from neurons.base.access import Caller, Scope
from neurons.base.health import Health
from neurons.base.http_app import HttpApp, caller_address, decode_body
from neurons.base.metrics import MetricsTracker
from neurons.base.tokens import TokenIssuer
from neurons.miner.allocate import ResourceAllocator
from neurons.miner.console import LogReader
from neurons.miner.drain import Drain
from neurons.miner.lease import Lease, LeaseState
from neurons.miner.monitor import ResourceMonitor
from neurons.miner.pow import ChallengeHandler
from neurons.miner.receipts import ReceiptWriter
from neurons.miner.rented import RentedDevices
from neurons.miner.running import not_found
from neurons.miner.verdicts import VerdictBook
from polarise.decode import WireModel
from polarise.errors import RequestRejected
from polarise.http_signatures import IDEMPOTENCY_HEADER
from polarise.messages import (
    AllocateRequest,
    CommitAnswer,
    ContainerList,
    ContainerUsage,
    ContainerView,
    CountersignRequest,
    OpenAnswer,
    OpenRequest,
    PasswordAnswer,
    PrepareRequest,
    RenewRequest,
    SshKeyRequest,
    StartRequest,
    StatusAnswer,
    SuccessAnswer,
    TerminateAnswer,
    TokenAnswer,
    TokenRequest,
    UsageAnswer,
    VerdictRequest,
)
from utils.clock import Clock, iso_utc


class MinerRoutes:
    """All routes of one miner.

    Args:
        node_key: This miner's public key.
        allocator: Grants leases, and knows the granted ones.
        challenges: Answers proofs.
        verdicts: Keeps what validators found.
        receipts: Signs what renters get.
        rented: Keeps what they sign in return.
        monitor: Reads usage.
        tokens: Gives bearer tokens.
        health: Readiness checks.
        metrics: Counters.
        clock: Wall clock.
        drain: Whether new leases are granted.
    """

    def __init__(
        self,
        node_key: str,
        allocator: ResourceAllocator,
        challenges: ChallengeHandler,
        verdicts: VerdictBook,
        receipts: ReceiptWriter,
        rented: RentedDevices,
        monitor: ResourceMonitor,
        tokens: TokenIssuer,
        health: Health,
        metrics: MetricsTracker,
        clock: Clock,
        drain: Drain,
    ) -> None:
        self._node_key = node_key
        self._allocator = allocator
        self._leases = allocator.leases
        self._challenges = challenges
        self._verdicts = verdicts
        self._receipts = receipts
        self._rented = rented
        self._monitor = monitor
        self._tokens = tokens
        self._health = health
        self._metrics = metrics
        self._clock = clock
        self._drain = drain

    def register(self, app: HttpApp) -> None:
        """Add every route to the application."""
        self._app = app
        app.route("POST", "/token", self.token)
        app.route("POST", "/allocate", self.allocate)
        app.route("GET", "/containers", self.containers)
        app.route("GET", "/containers/<container_id>", self.container)
        app.route("GET", "/containers/<container_id>/usage", self.usage)
        app.route("POST", "/containers/<container_id>/renew", self.renew)
        app.route("POST", "/containers/<container_id>/countersign", self.countersign)
        app.route("PUT", "/containers/<container_id>/ssh-key", self.ssh_key)
        app.route("POST", "/containers/<container_id>/password", self.password)
        app.route("DELETE", "/terminate/<container_id>", self.terminate)
        app.route("GET", "/logs/<container_id>", self.logs)
        app.route("POST", "/challenge/prepare", self.prepare)
        app.route("POST", "/challenge/start", self.start)
        app.route("POST", "/challenge/open", self.open)
        app.route("POST", "/challenge/verdict", self.verdict)
        app.route("GET", "/status", self.status)
        app.route("GET", "/healthz", lambda _caller, _body: self._health.healthz())
        app.route("GET", "/readyz", lambda _caller, _body: self._health.readyz())
        app.route("GET", "/metrics", lambda _caller, _body: Response(self._metrics.render(), mimetype="text/plain"))

    def token(self, caller: Caller, body: bytes) -> WireModel:
        """Give a bearer token to whoever signed the request, with the consent it brings."""
        consent = decode_body(TokenRequest, body).consent if body else None
        if consent is not None:
            self._rented.check_consent(consent, caller.key)
        expires_unix_ms = self._clock.wall_unix_ms() + self._tokens.expiry_seconds * 1000
        return TokenAnswer(
            token=self._tokens.issue(caller.key, consent, caller.counter), expires_at=iso_utc(expires_unix_ms)
        )

    def allocate(self, caller: Caller, body: bytes) -> WireModel:
        """Grant a lease."""
        wanted = decode_body(AllocateRequest, body)
        granted = self._allocator.allocate_resources(
            wanted,
            caller.key,
            request.headers.get(IDEMPOTENCY_HEADER),
            consent=caller.consent,
            address=None if caller.is_listed else caller_address(),
        )
        if granted.is_new:
            self._metrics.count("polarise_leases_granted_total")
        return self._receipts.allocate_answer(granted.lease, granted.password)

    def containers(self, caller: Caller, _body: bytes) -> WireModel:
        """List the caller's active leases, or everybody's for the owner."""
        leases = [
            lease
            for lease in self._allocator.journal.all()
            if lease.state is LeaseState.ACTIVE and caller.may_see(lease.renter_key)
        ]
        return ContainerList(containers=tuple(self._view(lease, None) for lease in leases))

    def container(self, caller: Caller, _body: bytes, container_id: str) -> WireModel:
        """Show one lease with its usage."""
        lease = self._own(caller, container_id)
        return self._view(lease, self._monitor.usage(lease))

    def usage(self, caller: Caller, _body: bytes, container_id: str) -> WireModel:
        """Show what a lease has used, also after its end."""
        return UsageAnswer(usage=self._leases.usage_of(container_id, caller.may_see))

    def renew(self, caller: Caller, body: bytes, container_id: str) -> WireModel:
        """Move the end of a lease."""
        lease = self._own(caller, container_id)
        wanted = decode_body(RenewRequest, body)
        return self._receipts.renew_answer(self._leases.renew(lease, wanted.ttl_seconds))

    def countersign(self, caller: Caller, body: bytes, container_id: str) -> WireModel:
        """Take the renter's signature over the newest receipt."""
        lease = self._own(caller, container_id)
        self._rented.countersign(lease, decode_body(CountersignRequest, body).countersignature)
        return SuccessAnswer()

    def ssh_key(self, caller: Caller, body: bytes, container_id: str) -> WireModel:
        """Replace the login key."""
        lease = self._own(caller, container_id)
        self._leases.set_public_key(lease, decode_body(SshKeyRequest, body).ssh_public_key)
        return SuccessAnswer()

    def password(self, caller: Caller, _body: bytes, container_id: str) -> WireModel:
        """Replace the password."""
        lease = self._own(caller, container_id)
        password = self._leases.new_password(lease)
        return PasswordAnswer(container_id=str(lease.container_id), ssh_user="root", ssh_password=password)

    def terminate(self, caller: Caller, _body: bytes, container_id: str) -> WireModel:
        """End a lease."""
        lease = self._own(caller, container_id)
        self._leases.terminate(lease)
        self._metrics.count("polarise_leases_ended_total")
        final = self._leases.metering.book.final(lease.lease_id)
        is_gone = self._allocator.journal.by_id(lease.lease_id) is None
        return TerminateAnswer(
            container_id=str(lease.container_id), data="deleted" if is_gone else "deleting", usage=final
        )

    def logs(self, caller: Caller, _body: bytes, container_id: str) -> Response:
        """Stream the container's log; ``?follow=1`` goes on at its end."""
        lease = self._own(caller, container_id)
        follow = request.args.get("follow", "") in {"1", "true", "yes"}
        client = self._allocator.manager.client
        return self._app.stream(
            lambda gone: LogReader(client, str(lease.container_id), follow=follow, gone=gone), "text/plain"
        )

    def prepare(self, caller: Caller, body: bytes) -> WireModel:
        """Get ready for a proof, or show why the device cannot."""
        return self._challenges.prepare(decode_body(PrepareRequest, body), caller.key)

    def start(self, caller: Caller, body: bytes) -> WireModel:
        """Prove; the answer is the signed commitment."""
        commitment = self._challenges.start(decode_body(StartRequest, body), caller.key)
        self._metrics.count("polarise_proofs_committed_total")
        return CommitAnswer(commitment=commitment)

    def open(self, caller: Caller, body: bytes) -> WireModel:
        """Show the tiles that were drawn."""
        return OpenAnswer(openings=tuple(self._challenges.open(decode_body(OpenRequest, body), caller.key)))

    def verdict(self, caller: Caller, body: bytes) -> WireModel:
        """Take a validator's verdict and keep it for the operator."""
        self._verdicts.take(decode_body(VerdictRequest, body).verdict, caller.key)
        self._metrics.count("polarise_verdicts_received_total")
        return SuccessAnswer()

    def status(self, _caller: Caller | None, _body: bytes) -> WireModel:
        """Say who this is and what is free."""
        leases = self._allocator.journal.all()
        free = self._allocator.inventory.free(leases)
        return StatusAnswer(
            node_key=self._node_key,
            role="miner",
            version=polarise.__version__,
            leases_count=sum(not lease.is_slot for lease in leases),
            cpu_milli_free=free.cpu_milli,
            memory_bytes_free=free.memory_bytes,
            disk_bytes_free=max(0, free.disk_bytes),
            devices_free=free.devices,
            ssh_host=self._receipts.advertised_host,
            runtime=self._leases.manager.settings.profile.runtime,
            is_draining=self._drain.is_on(),
        )

    def _view(self, lease: Lease, usage: ContainerUsage | None) -> ContainerView:
        return self._receipts.view(lease, usage, self._rented.shown_by(lease))

    def _own(self, caller: Caller, container_id: str) -> Lease:
        try:
            lease = self._leases.of_container(container_id)
        except RequestRejected as err:
            if (loss := self._leases.loss_of(container_id, caller.may_see)) is not None:
                raise not_found(container_id, loss) from err
            raise
        if caller.scope is not Scope.ANY and lease.renter_key != caller.key:
            raise not_found(container_id)
        return lease
