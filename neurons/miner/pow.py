"""Answers challenges: prepare, start (whose answer is the signed commitment), open; each once, in this order.

Rules:
- Every kind of proof takes the same way. One that has nothing to open, the proof of work, ends with its commitment.
- A device proves one thing at a time; a second challenge is answered 429 and costs nothing.
- Only the validator that prepared a challenge may go on with it.
- The seed is derived here from what the validator sent and from who both are, so that no answer fits another miner.
- A solver lives from prepare to the last answer of its proof, or to its deadline; then it is killed and its memory is
  free.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from challenges.draw import ChallengeKind, SeedInputs
from challenges.draw import seed as derive_seed
from challenges.proofs import ProofParams, bounds_of, kind_of, read_params
from neurons.miner.solver import SolverFailed, SolverProcess
from neurons.miner.validations import Validation, ValidationTracker
from polarise.errors import ErrorCode, RequestRejected, Unavailable
from polarise.hardware import DeviceClaim
from polarise.messages import CommitmentBody, OpenRequest, PrepareRequest, StartRequest
from polarise.signing import Identity
from polarise.statement import SignedStatement, sign_statement
from utils.clock import Clock

logger = logging.getLogger(__name__)

# From the commitment to the openings; design section 5 gives 2 s, the rest is slack for a slow link.
OPEN_WITHIN_SECONDS = 30


@dataclass
class _Running:
    challenge_id: str
    validator_key: str
    params: ProofParams
    device_index: int
    solver: SolverProcess
    timer: threading.Timer
    is_started: bool = False
    is_committed: bool = False


class ChallengeHandler:
    """The miner's side of all proofs.

    Args:
        identity: The miner; commitments are signed with its statement subkey.
        devices: Devices in the order of the registry entry.
        tracker: Where challenges are noted for the operator.
        clock: Wall and monotonic clock.
        proof_seconds_max: A solver that works longer is killed.
        start_solver: Makes a solver process; cheats pass their own.
    """

    def __init__(
        self,
        identity: Identity,
        devices: tuple[DeviceClaim, ...],
        tracker: ValidationTracker,
        clock: Clock,
        *,
        proof_seconds_max: int,
        start_solver: Callable[[], SolverProcess] = SolverProcess,
    ) -> None:
        self._identity = identity
        self._devices = devices
        self._tracker = tracker
        self._clock = clock
        self._proof_seconds_max = proof_seconds_max
        self._start_solver = start_solver
        self._running: dict[str, _Running] = {}
        self._lock = threading.Lock()

    def prepare(self, request: PrepareRequest, validator_key: str) -> None:
        """Start and warm up a solver for one device.

        Raises:
            RequestRejected: UNKNOWN_DEVICE (422), INVALID_FIELD (422), TOO_MANY_REQUESTS (429) while it is busy.
            Unavailable: The solver could not start.
        """
        index = self._device_index(request.device)
        params = _params(request)
        _refuse_too_large(params, self._devices[index])
        solver = self._claim(request, validator_key, params, index)
        self._tracker.record(
            Validation(
                request.challenge_id,
                validator_key,
                request.device,
                request.kind,
                "prepared",
                self._clock.wall_unix_ms(),
                None,
            )
        )
        try:
            solver.prepare(_device_name(self._devices[index], index), params)
        except SolverFailed as err:
            self._end(request.device, f"failed: {err}")
            raise Unavailable(f"the solver could not start: {err}", retry_after_seconds=60) from err

    def start(self, request: StartRequest, validator_key: str) -> SignedStatement:
        """Do the work and return the signed commitment.

        Raises:
            RequestRejected: NOT_FOUND (404) or CONFLICT (409) when it was not prepared, or was started before.
            Unavailable: The solver died or took too long.
        """
        device, running = self._of(request.challenge_id, validator_key)
        with self._lock:
            if running.is_started:
                raise _conflict("the challenge was started before")
            running.is_started = True
        seed = derive_seed(
            SeedInputs(
                kind=kind_of(running.params),
                params=running.params.encode(),
                epoch=request.epoch,
                beacon=bytes.fromhex(request.beacon),
                validator_key=bytes.fromhex(validator_key),
                nonce=bytes.fromhex(request.nonce),
                miner_key=bytes.fromhex(self._identity.public_key),
                device_uuid=device,
                device_index=running.device_index,
            )
        )
        began = self._clock.monotonic_ns()
        try:
            proof = running.solver.solve(seed, self._proof_seconds_max)
        except SolverFailed as err:
            self._end(device, f"failed: {err}")
            raise Unavailable(f"the solver failed: {err}", retry_after_seconds=60) from err
        body = CommitmentBody(challenge_id=request.challenge_id, device=device, seed=seed.hex(), proof=proof)
        statement = sign_statement(self._identity, "commitment", body)
        work_ms = (self._clock.monotonic_ns() - began) // 1_000_000
        self._tracker.advance(request.challenge_id, "committed", work_ms=work_ms)
        if bounds_of(running.params):
            running.is_committed = True
            self._restart_timer(device, running, OPEN_WITHIN_SECONDS)
        else:
            # Before the answer leaves: the validator may ask for the device's next proof at once.
            self._end(device, "committed")
        fields = {"challenge_id": request.challenge_id, "kind": kind_of(running.params).value, "work_ms": work_ms}
        logger.info("proof committed", extra=fields)
        return statement

    def open(self, request: OpenRequest, validator_key: str) -> list[dict[str, object]]:
        """Show the tiles that were asked for, once; the solver ends with it.

        Raises:
            RequestRejected: NOT_FOUND (404), CONFLICT (409) before the commitment and for a proof that has no openings,
                INVALID_FIELD (422) for positions outside the proof.
        """
        self._refuse_without_openings(request.challenge_id, validator_key)
        device, running = self._of(request.challenge_id, validator_key)
        if not running.is_committed:
            raise _conflict("the challenge has no commitment yet")
        positions = [(p.round_index, p.tile_row, p.tile_column) for p in request.positions]
        bounds = bounds_of(running.params)
        if any(number >= bound for position in positions for number, bound in zip(position, bounds, strict=True)):
            raise RequestRejected(
                ErrorCode.INVALID_FIELD,
                f"a position is outside the proof of {bounds}",
                hint="draw positions within the prepared sizes",
                field="positions",
                status=422,
            )
        try:
            openings = running.solver.open(positions)
        except SolverFailed as err:
            self._end(device, f"failed: {err}")
            raise Unavailable(f"the solver failed: {err}", retry_after_seconds=60) from err
        self._end(device, "opened")
        return openings

    def close(self) -> None:
        """End every solver; called when the node stops."""
        for device in list(self._running):
            self._end(device, "failed: the miner stopped")

    def __enter__(self) -> ChallengeHandler:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _refuse_without_openings(self, challenge_id: str, validator_key: str) -> None:
        """Answer for a proof that may be over already, which is why the tracker is asked."""
        known = self._tracker.find(challenge_id)
        if known is not None and (known.validator_key, known.kind) == (validator_key, ChallengeKind.POW.value):
            raise _conflict("a proof of work has no openings: its commitment is the whole proof")

    def _claim(self, request: PrepareRequest, validator_key: str, params: ProofParams, index: int) -> SolverProcess:
        with self._lock:
            if request.device in self._running:
                raise RequestRejected(
                    ErrorCode.TOO_MANY_REQUESTS,
                    f"the device {request.device} is proving something else",
                    hint="ask again in a minute; this costs no score",
                    field="device",
                    status=429,
                )
            solver = self._start_solver()
            timer = self._timer(request.device, request.challenge_id, 2 * self._proof_seconds_max)
            self._running[request.device] = _Running(request.challenge_id, validator_key, params, index, solver, timer)
        timer.start()
        return solver

    def _of(self, challenge_id: str, validator_key: str) -> tuple[str, _Running]:
        with self._lock:
            for device, running in self._running.items():
                if (running.challenge_id, running.validator_key) == (challenge_id, validator_key):
                    return device, running
        raise RequestRejected(
            ErrorCode.NOT_FOUND,
            "no such challenge is prepared for you",
            hint="POST /challenge/prepare first",
            field="challenge_id",
            status=404,
        )

    def _device_index(self, uuid: str) -> int:
        for index, device in enumerate(self._devices):
            if device.uuid == uuid:
                return index
        raise RequestRejected(
            ErrorCode.UNKNOWN_DEVICE,
            f"this miner has no device {uuid!r}",
            hint=f"devices: {', '.join(device.uuid for device in self._devices)}",
            field="device",
            status=422,
        )

    def _timer(self, device: str, challenge_id: str, seconds: float) -> threading.Timer:
        timer = threading.Timer(seconds, self._expire, (device, challenge_id))
        timer.daemon = True
        return timer

    def _restart_timer(self, device: str, running: _Running, seconds: float) -> None:
        running.timer.cancel()
        running.timer = self._timer(device, running.challenge_id, seconds)
        running.timer.start()

    def _expire(self, device: str, challenge_id: str) -> None:
        running = self._running.get(device)
        if running is not None and running.challenge_id == challenge_id:
            self._end(device, "failed: the validator did not go on")

    def _end(self, device: str, state: str) -> None:
        with self._lock:
            running = self._running.pop(device, None)
        if running is None:
            return
        running.timer.cancel()
        running.solver.close()
        self._tracker.advance(running.challenge_id, state)


def _params(request: PrepareRequest) -> ProofParams:
    try:
        return read_params(ChallengeKind(request.kind), request.sizes.model_dump())
    except ValueError as err:
        raise RequestRejected(
            ErrorCode.INVALID_FIELD, f"sizes out of range: {err}", hint="choose other sizes", field="sizes", status=422
        ) from err


def _refuse_too_large(params: ProofParams, device: DeviceClaim) -> None:
    if 0 < device.memory_bytes < params.memory_bytes:
        raise RequestRejected(
            ErrorCode.INVALID_FIELD,
            f"the proof takes {params.memory_bytes} bytes, the device has {device.memory_bytes}",
            hint="choose a smaller n",
            field="sizes",
            status=422,
        )


def _device_name(device: DeviceClaim, index: int) -> str:
    return "cpu" if device.kind == "cpu" else f"cuda:{index}"


def _conflict(message: str) -> RequestRejected:
    return RequestRejected(
        ErrorCode.CONFLICT, message, hint="prepare, start, open: each once", field="challenge_id", status=409
    )
