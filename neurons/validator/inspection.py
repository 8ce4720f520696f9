"""Does the container keep the promise: rent like anybody, log in with the pinned host key, look, try, give back.

Rules:
- What was rented is given back whatever happens; a lease that cannot be ended is TERMINATE_FAILED.
- NO_CAPACITY (409) and TOO_MANY_REQUESTS (429) mean that the miner declined: NOT_MEASURED, neutral for a while (see
  `scoring`). Every other failure to allocate, 503 included, is ALLOCATE_FAILED: a renter would stand there too.
- Login and probe have 30 s together, in a process that is killed then (`login_process`).
- What the registry entry claims for the host is looked at in the same login; where bandwidth is claimed, bytes go through it
  first, and the login has that much longer.
- The lease ends by itself after two minutes, should this process die in between.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from neurons.validator.bandwidth import UsualRate
from neurons.validator.budget import Budget
from neurons.validator.findings import (
    MAX_OUTPUT_BYTES,
    Findings,
    check_claims,
    check_findings,
    check_receipt,
    decode_findings,
)
from neurons.validator.login_process import LoginProcess
from neurons.validator.probe_text import probe_text
from neurons.validator.verification import Verdict
from polarise.answers import open_receipt, printable
from polarise.clients import MinerClient
from polarise.errors import ErrorCode, ProofRejected, RejectReason, RequestRejected, SubnetError, Unavailable
from polarise.evidence import InspectionEvidence, VerdictRecord
from polarise.generations import Generations
from polarise.hardware import HardwareClaim
from polarise.messages import AllocateAnswer, AllocateRequest
from polarise.receipt import Receipt
from polarise.signing import KeyReplaced, Purpose
from polarise.ssh_keys import generate_key_pair
from polarise.statement import SignedStatement

logger = logging.getLogger(__name__)

TTL_SECONDS = 120
ALLOCATE_SECONDS = 60.0
LOOK_SECONDS = 30.0
TRANSFER_BYTES = 4 << 20
TRANSFER_SECONDS = 10.0
DECLINED = {ErrorCode.NO_CAPACITY, ErrorCode.TOO_MANY_REQUESTS}


@dataclass
class InspectionTrace:
    """What happened in one inspection, filled as it happens."""

    allocate_ms: int | None = None
    login_ms: int | None = None
    receipt: SignedStatement | None = None
    findings: Findings | None = None
    checks_count: int = 0


class Inspector:
    """Inspects one container per miner and epoch.

    Args:
        renter_key: The validator's public key; receipts must be made out to it.
        memory_bytes: Memory it rents.
        cpu_milli: CPU time it rents.
        allow_private: Whether containers may be on loopback and private addresses.
        generations: Which subkeys were replaced: what they sign is no receipt.
    """

    def __init__(
        self,
        renter_key: str,
        *,
        memory_bytes: int,
        cpu_milli: int,
        allow_private: bool,
        generations: Generations | None = None,
    ) -> None:
        self._renter_key = renter_key
        self._memory_bytes = memory_bytes
        self._cpu_milli = cpu_milli
        self._allow_private = allow_private
        self._generations = generations or Generations()
        self._usual_rate = UsualRate()
        self._probe = probe_text()

    def inspect(
        self, client: MinerClient, budget: Budget | None = None, hardware: HardwareClaim | None = None
    ) -> InspectionEvidence:
        """Rent, look and give back within what is left of the miner's time; never raises for what the miner does.

        Args:
            client: The miner.
            budget: Its time.
            hardware: What it claims; None compares nothing with it.
        """
        budget = budget or Budget(ALLOCATE_SECONDS + LOOK_SECONDS)
        began_ns = time.monotonic_ns()
        trace = InspectionTrace()
        try:
            self._rent_and_look(client, trace, budget, hardware)
        except ProofRejected as err:
            return self._failed(client.node_key, trace, err)
        receipt = self._receipt(client, trace)
        logger.info(
            "container inspected",
            extra={
                "miner_key": client.node_key,
                "container_id": receipt.container_id,
                **receipt.limits.to_wire(),
                "checks_count": trace.checks_count,
                "allocate_ms": trace.allocate_ms,
                "login_ms": trace.login_ms,
                "inspect_ms": _since_ms(began_ns),
            },
        )
        return self._evidence(trace, VerdictRecord())

    def refused(self) -> InspectionEvidence:
        """Return the evidence for a miner that our own address rule forbids to call: it declined."""
        record = VerdictRecord(reason=RejectReason.NOT_MEASURED, message="this validator does not call its address")
        return self._evidence(InspectionTrace(), record)

    def unreachable(self, err: SubnetError) -> InspectionEvidence:
        """Return the evidence for a miner whose endpoint cannot even be called."""
        record = VerdictRecord(reason=RejectReason.ALLOCATE_FAILED, message=printable(err, 400))
        return self._evidence(InspectionTrace(), record)

    def _rent_and_look(
        self, client: MinerClient, trace: InspectionTrace, budget: Budget, hardware: HardwareClaim | None
    ) -> None:
        private_pem, public_line = generate_key_pair()
        answer = self._allocate(client, public_line, trace, _left(budget, ALLOCATE_SECONDS))
        is_looked_at = False
        try:
            self._keep_receipt(client.node_key, answer.receipt, trace)
            self._look(client.node_key, self._receipt(client, trace), private_pem, trace, budget, hardware)
            is_looked_at = True
        finally:
            _terminate(client, answer.container_id, is_worse_known=not is_looked_at)

    def _allocate(
        self, client: MinerClient, public_line: str, trace: InspectionTrace, deadline_seconds: float
    ) -> AllocateAnswer:
        began_ns = time.monotonic_ns()
        request = AllocateRequest(
            memory=str(self._memory_bytes),
            cpu_count=self._cpu_milli / 1000,
            devices=(),
            ssh_public_key=public_line,
            ttl_seconds=TTL_SECONDS,
        )
        try:
            answer = client.allocate(request, timeout_seconds=deadline_seconds)
        except RequestRejected as err:
            reason = RejectReason.NOT_MEASURED if err.code in DECLINED else RejectReason.ALLOCATE_FAILED
            raise ProofRejected(reason, f"{err.code}: {printable(err.message)}"[:400]) from err
        except Unavailable as err:
            # An owner who drains is told so beside the points that it costs.
            said = "" if err.code is ErrorCode.UNAVAILABLE else f"{err.code}: "
            raise ProofRejected(RejectReason.ALLOCATE_FAILED, f"{said}{printable(err)}"[:400]) from err
        except (SubnetError, ValueError) as err:
            raise ProofRejected(RejectReason.ALLOCATE_FAILED, printable(err, 400)) from err
        trace.allocate_ms = _since_ms(began_ns)
        return answer

    def _keep_receipt(self, miner_key: str, receipt: SignedStatement, trace: InspectionTrace) -> None:
        try:
            self._generations.check(miner_key, Purpose.STATEMENT, receipt.certificate.counter)
        except KeyReplaced as err:
            raise ProofRejected(RejectReason.ALLOCATE_FAILED, f"no receipt of this miner: {err}"[:400]) from err
        trace.receipt = receipt

    def _look(
        self,
        miner_key: str,
        receipt: Receipt,
        private_pem: str,
        trace: InspectionTrace,
        budget: Budget,
        hardware: HardwareClaim | None,
    ) -> None:
        check_receipt(receipt, memory_bytes=self._memory_bytes, cpu_milli=self._cpu_milli)
        login = LoginProcess(receipt, private_pem, allow_private=self._allow_private)
        command = f"python3 -I - {receipt.nonce} {receipt.limits.memory_bytes} {receipt.limits.cpu_milli}"
        is_network_claimed = hardware is not None and hardware.network_bits_per_second > 0
        transfer_seconds = TRANSFER_SECONDS if is_network_claimed else 0.0
        try:
            output = login.run(
                command,
                self._probe,
                max_bytes=MAX_OUTPUT_BYTES,
                deadline_seconds=_left(budget, LOOK_SECONDS + transfer_seconds),
                transfer_bytes=TRANSFER_BYTES if is_network_claimed else 0,
                transfer_seconds=transfer_seconds,
            )
        finally:
            trace.login_ms = login.login_ms
        network = None if login.transfer is None else self._usual_rate.judgeable(miner_key, login.transfer)
        trace.findings = decode_findings(output).model_copy(update={"network": network})
        trace.checks_count = check_findings(trace.findings, receipt)
        if hardware is not None:
            trace.checks_count += check_claims(trace.findings, hardware, receipt.limits)

    def _receipt(self, client: MinerClient, trace: InspectionTrace) -> Receipt:
        if trace.receipt is None:
            raise ValueError("an allocation without a receipt is none")
        return open_receipt(trace.receipt, node_key=client.node_key, renter_key=self._renter_key)

    def _failed(self, miner_key: str, trace: InspectionTrace, err: ProofRejected) -> InspectionEvidence:
        verdict = Verdict.of(err)
        record = VerdictRecord(reason=err.reason, message=verdict.message, got=verdict.got, expected=verdict.expected)
        extra = {"miner_key": miner_key, "reason": str(err.reason), "detail": str(err)}
        logger.warning("inspection failed", extra=extra)
        return self._evidence(trace, record)

    def _evidence(self, trace: InspectionTrace, record: VerdictRecord) -> InspectionEvidence:
        return InspectionEvidence(
            asked_memory_bytes=self._memory_bytes,
            asked_cpu_milli=self._cpu_milli,
            allocate_ms=trace.allocate_ms,
            login_ms=trace.login_ms,
            receipt=trace.receipt,
            findings=None if trace.findings is None else dict(trace.findings.to_wire()),
            verdict=record,
        )


def _left(budget: Budget, seconds: float) -> float:
    """Cut a deadline to the miner's time; where that is over, a renter would have waited in vain too."""
    try:
        return budget.clamp(seconds)
    except ProofRejected as err:
        raise ProofRejected(RejectReason.ALLOCATE_FAILED, err.message, got=err.got, expected=err.expected) from err


def _terminate(client: MinerClient, container_id: str, *, is_worse_known: bool) -> None:
    """End the lease.

    Raises:
        ProofRejected: TERMINATE_FAILED, unless something worse is on its way up already.
    """
    try:
        client.terminate(container_id)
    except (SubnetError, ValueError) as err:
        if is_worse_known:
            logger.warning("container not terminated", extra={"container_id": container_id, "cause": printable(err)})
            return
        raise ProofRejected(RejectReason.TERMINATE_FAILED, printable(err, 400)) from err


def _since_ms(began_ns: int) -> int:
    return (time.monotonic_ns() - began_ns) // 1_000_000
