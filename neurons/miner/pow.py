"""Answers challenges: prepare, start (whose answer is the signed commitment), open; each once, in this order.

Rules:
- Every kind of proof takes the same way. One that has nothing to open, the proof of work, ends with its commitment. A memory
  is filled while it is prepared; that is no part of the proof's time, and counts for the device's share of an hour.
- A device proves one thing at a time; devices prove at the same time, each with a solver of its own.
- Every challenge comes with its validator's signed order. Another validator's challenge for a busy device is answered with
  the order that keeps it busy (`orders`), or with 429 where none would be believed, which counts as if nobody were
  there. The same validator's ends its earlier one: it has begun its round again, and nobody waits for the old answer.
- A device spends its share of an hour on proofs, over all validators (`duty`); beyond it the answer is the orders that
  filled it, or 429 to the validator that filled it alone.
- A device in tenants' hands is never proven; what shows that it is rented is the answer (`rented`). Whoever prepares says so
  first and looks for a lease then, and `allocate` looks the other way round: no device is in two hands.
- Only the validator that prepared a challenge may go on with it.
- Seeds are derived here from what the validator sent and from who both are, so that no answer fits another miner.
- A solver lives from prepare to the last answer of its proof, or to its deadline; then it is killed and its memory is
  free.
- Between start and commitment no device waits for another, nor for the disk: notes are written, and solvers are ended,
  beside it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future

from challenges.draw import ChallengeKind, SeedInputs
from challenges.draw import fill_seed as derive_fill_seed
from challenges.draw import seed as derive_seed
from challenges.gpu_faults import GpuFault, fault_in
from challenges.memory_fit import CPU_MEMORY_BYTES
from challenges.memory_messages import MemoryParams
from challenges.proofs import ProofParams, bounds_of, kind_of, read_params
from neurons.base.threads import DaemonThreads
from neurons.miner.duty import WINDOW_MS, Work
from neurons.miner.excuses import Excuses
from neurons.miner.failure import holders_text
from neurons.miner.hardware import device_name
from neurons.miner.orders import OrderBook
from neurons.miner.proving import Proving, RunningProof, Step, Taken, conflict, superseded
from neurons.miner.release import DeviceRelease
from neurons.miner.rented import RentedDevices
from neurons.miner.solver import SolverFailed, SolverProcess
from neurons.miner.validations import Validation, ValidationTracker
from polarise.errors import ErrorCode, RequestRejected, Unavailable
from polarise.hardware import DeviceClaim
from polarise.messages import CommitmentBody, OpenRequest, PrepareAnswer, PrepareRequest, StartRequest
from polarise.occupied import ChallengeOrder
from polarise.signing import Identity
from polarise.statement import SignedStatement, sign_statement
from utils.clock import Clock

logger = logging.getLogger(__name__)

# From the commitment to the openings; design section 5 gives 2 s, the rest is slack for a slow link.
OPEN_WITHIN_SECONDS = 30
CLOSE_SECONDS = 5.0


class ChallengeHandler:
    """The miner's side of all proofs.

    Args:
        identity: The miner; commitments are signed with its statement subkey.
        devices: Devices in the order of the registry entry.
        tracker: Where challenges are noted for the operator, and work for the share of an hour.
        orders: What validators have ordered.
        rented: Which devices are in a tenant's hands.
        clock: Wall and monotonic clock.
        proof_seconds_max: A solver that works longer is killed.
        duty_percent: Share of an hour that a device spends on proofs.
        start_solver: Makes a solver process; cheats pass their own.
        release: Knows which solver had a device last.
    """

    def __init__(
        self,
        identity: Identity,
        devices: tuple[DeviceClaim, ...],
        tracker: ValidationTracker,
        orders: OrderBook,
        rented: RentedDevices,
        clock: Clock,
        *,
        proof_seconds_max: int,
        duty_percent: float,
        start_solver: Callable[[], SolverProcess] = SolverProcess,
        release: DeviceRelease | None = None,
    ) -> None:
        self._identity = identity
        self._devices = devices
        self._tracker = tracker
        self._orders = orders
        self._clock = clock
        self._proof_seconds_max = proof_seconds_max
        self._excuses = Excuses(orders, rented, duty_percent)
        self._start_solver = start_solver
        self._release = release or DeviceRelease()
        self._proving = Proving()
        # One thread, so that notes are written in their order; and whoever asks it to read sees all before.
        self._notes = DaemonThreads("proof-note", 1)
        self._endings = DaemonThreads("solver-end", max(1, len(devices)))

    def proving(self) -> frozenset[str]:
        """Return the devices that prove at this moment, or are about to."""
        return self._proving.devices()

    def prepare(self, request: PrepareRequest, validator_key: str) -> PrepareAnswer:
        """Start and warm up a solver for one device, or show why the device cannot prove.

        Raises:
            RequestRejected: UNKNOWN_DEVICE (422), INVALID_FIELD (422), BAD_SIGNATURE (422) of the order; TOO_MANY_REQUESTS
                (429) while it proves for another validator, or is leased, and nothing shows it; DUTY_CAP (429) when this
                validator alone has had its share of the hour.
            Unavailable: The solver could not start.
        """
        index = self._device_index(request.device)
        params = _params(request)
        _refuse_too_large(params, self._devices[index])
        order = self._orders.take(
            request.order,
            validator_key=validator_key,
            device=request.device,
            challenge_id=request.challenge_id,
            step="prepare",
        )
        running = RunningProof(request.challenge_id, validator_key, request.device, index, params)
        running.turn = self._orders.turn(order)
        running.orders = () if request.order is None else (request.order,)
        if request.fill is not None:
            fill = request.fill
            inputs = self._seed_inputs(running, epoch=fill.epoch, beacon=fill.beacon, nonce=fill.nonce)
            running.fill_seed = derive_fill_seed(inputs)
        try:
            earlier = self._proving.claim(running)
        except Taken as err:
            return self._excuses.while_proving(err.occupant.orders, order)
        if earlier is not None:
            self._give_back(
                earlier, "failed: superseded by a later challenge of the same validator, or an earlier order"
            )
        try:
            excused = self._excused(order)
            if excused is None:
                self._warm_up(running)
                return PrepareAnswer()
        except BaseException as err:
            # Whatever went wrong, the device is not left taken.
            if self._proving.drop(running):
                _end_solver(running)
            if isinstance(err, RequestRejected) and running.displaced_by is not None:
                return self._excuses.while_proving(running.displaced_by.orders, order)
            raise
        self._proving.drop(running)
        return excused

    def start(self, request: StartRequest, validator_key: str) -> SignedStatement:
        """Do the work and return the signed commitment.

        Raises:
            RequestRejected: NOT_FOUND (404) or CONFLICT (409) when it was not prepared, was started before, or a later
                challenge of the same validator took its place.
            Unavailable: The solver died or took too long.
        """
        running = self._proving.find(request.challenge_id, validator_key)
        solver = self._proving.go_on(
            running, Step.READY, Step.SOLVING, "the challenge is not ready, or was started before"
        )
        running.began_unix_ms, running.began_ns = self._clock.wall_unix_ms(), self._clock.monotonic_ns()
        if request.order is not None:
            _log_failure(self._notes.submit(self._keep_order, running, request.order))
        inputs = self._seed_inputs(running, epoch=request.epoch, beacon=request.beacon, nonce=request.nonce)
        seed = derive_seed(inputs)
        try:
            proof = solver.solve(seed, self._proof_seconds_max)
        except SolverFailed as err:
            raise self._failed(running, err, "the solver failed") from err
        body = CommitmentBody(challenge_id=request.challenge_id, device=running.device, seed=seed.hex(), proof=proof)
        statement = sign_statement(self._identity, "commitment", body)
        self._commit(running)
        fields = {
            "challenge_id": request.challenge_id,
            "device": running.device,
            "kind": kind_of(running.params).value,
            "work_ms": self._worked_ms(running),
        }
        logger.info("proof committed", extra=fields)
        return statement

    def open(self, request: OpenRequest, validator_key: str) -> list[dict[str, object]]:
        """Show the tiles or blocks that were asked for, once; the solver ends with it.

        Raises:
            RequestRejected: NOT_FOUND (404), CONFLICT (409) before the commitment and for a proof that has no openings,
                INVALID_FIELD (422) for positions outside the proof.
        """
        self._refuse_without_openings(request.challenge_id, validator_key)
        running = self._proving.find(request.challenge_id, validator_key)
        positions = [position.numbers for position in request.positions]
        bounds = bounds_of(running.params)
        if not all(_is_within(position, bounds) for position in positions):
            raise RequestRejected(
                ErrorCode.INVALID_FIELD,
                f"a position is outside the proof of {bounds}",
                hint="draw positions within the prepared sizes",
                field="positions",
                status=422,
            )
        solver = self._proving.go_on(
            running, Step.COMMITTED, Step.OPENING, "the challenge has no commitment yet, or was opened"
        )
        try:
            openings = solver.open(positions)
        except SolverFailed as err:
            raise self._failed(running, err, "the solver failed") from err
        self._end_beside(running, "opened")
        return openings

    def close(self) -> None:
        """End every solver; called when the node stops."""
        for running in self._proving.all():
            self._end(running, "failed: the miner stopped")
        for threads in (self._endings, self._notes):
            threads.join(CLOSE_SECONDS)

    def __enter__(self) -> ChallengeHandler:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _seed_inputs(self, running: RunningProof, *, epoch: int, beacon: str, nonce: str) -> SeedInputs:
        return SeedInputs(
            kind=kind_of(running.params),
            params=running.params.encode(),
            epoch=epoch,
            beacon=bytes.fromhex(beacon),
            validator_key=bytes.fromhex(running.validator_key),
            nonce=bytes.fromhex(nonce),
            miner_key=bytes.fromhex(self._identity.public_key),
            device_uuid=running.device,
            device_index=running.device_index,
        )

    def _excused(self, order: ChallengeOrder) -> PrepareAnswer | None:
        now_unix_ms = self._clock.wall_unix_ms()
        works = self._notes.submit(self._tracker.work_since, order.device, now_unix_ms - 2 * WINDOW_MS).result()
        return self._excuses.from_order(order, works, now_unix_ms)

    def _keep_order(self, running: RunningProof, statement: SignedStatement) -> None:
        """Keep the order of a start; one that does not hold is left out, for the clock runs already."""
        try:
            order = self._orders.take(
                statement,
                validator_key=running.validator_key,
                device=running.device,
                challenge_id=running.challenge_id,
                step="start",
            )
        except RequestRejected as err:
            logger.warning("order not kept", extra={"challenge_id": running.challenge_id, "cause": err.message})
            return
        running.orders = (*running.orders, statement)
        self._orders.keep(statement, order, self._clock.wall_unix_ms())

    def _warm_up(self, running: RunningProof) -> None:
        now_unix_ms = self._clock.wall_unix_ms()
        kind = kind_of(running.params).value
        prepared = Validation(
            running.challenge_id, running.validator_key, running.device, kind, "prepared", now_unix_ms, None
        )
        self._notes.submit(self._tracker.record, prepared).result()
        # The proof before may hold the device for another moment.
        self._release.check([running.device])
        try:
            solver = self._start_solver()
        except SolverFailed as err:
            raise self._failed(running, err, "the solver could not start") from err
        self._release.takes(running.device, solver)
        try:
            self._proving.equip(running, solver)
        except RequestRejected:
            solver.close()
            raise
        self._proving.set_timer(running, 2 * self._proof_seconds_max, self._expire)
        try:
            self._get_ready(running, solver)
        except SolverFailed as err:
            raise self._failed(running, err, "the solver could not start") from err
        self._proving.go_on(running, Step.PREPARING, Step.READY, "the challenge was prepared before")

    def _get_ready(self, running: RunningProof, solver: SolverProcess) -> None:
        """Let a solver allocate and warm up; filling memory is work, however it ends."""
        began_unix_ms, began_ns = self._clock.wall_unix_ms(), self._clock.monotonic_ns()
        try:
            name = device_name(self._devices[running.device_index], running.device_index)
            solver.prepare(name, running.params, running.fill_seed)
        finally:
            if running.fill_seed:
                work_ms = (self._clock.monotonic_ns() - began_ns) // 1_000_000
                self._note(running, "prepared", Work(running.device, began_unix_ms, work_ms, running.validator_key))

    def _commit(self, running: RunningProof) -> None:
        """Let the device go where nothing is to be opened: the validator may ask for its next proof at once."""
        if not bounds_of(running.params):
            if not self._end_beside(running, "committed"):
                raise superseded()
            return
        work = self._work(running)
        self._proving.go_on(running, Step.SOLVING, Step.COMMITTED, "the challenge has a commitment")
        self._note(running, "committed", work)
        self._proving.set_timer(running, OPEN_WITHIN_SECONDS, self._expire)

    def _work(self, running: RunningProof) -> Work | None:
        """Return what was worked since the start, for a challenge that has not committed yet."""
        if running.step is not Step.SOLVING:
            return None
        return Work(running.device, running.began_unix_ms, self._worked_ms(running), running.validator_key)

    def _worked_ms(self, running: RunningProof) -> int:
        return (self._clock.monotonic_ns() - running.began_ns) // 1_000_000

    def _refuse_without_openings(self, challenge_id: str, validator_key: str) -> None:
        """Answer for a proof that may be over already, which is why the tracker is asked."""
        known = self._notes.submit(self._tracker.find, challenge_id).result()
        if known is not None and (known.validator_key, known.kind) == (validator_key, ChallengeKind.POW.value):
            raise conflict("a proof of work has no openings: its commitment is the whole proof")

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

    def _expire(self, running: RunningProof) -> None:
        self._end(running, "failed: the validator did not go on")

    def _failed(self, running: RunningProof, err: SolverFailed, message: str) -> RequestRejected | Unavailable:
        """End a challenge whose solver failed, and return what its caller hears."""
        if not self._end(running, f"failed: {err}"):
            return superseded()
        fields = {"challenge_id": running.challenge_id, "device": running.device, "cause": str(err)[:400]}
        logger.warning("proof failed", extra={**fields, **_fault_fields(str(err), running.device)})
        return Unavailable(f"{message}: {err}", retry_after_seconds=60)

    def _end(self, running: RunningProof, state: str) -> bool:
        """End a challenge; returns False when something else has ended it."""
        if not self._proving.drop(running):
            return False
        self._give_back(running, state)
        return True

    def _end_beside(self, running: RunningProof, state: str) -> bool:
        """End a challenge whose answer is ready; the answer does not wait for it."""
        work = self._work(running)
        if not self._proving.drop(running):
            return False
        self._note(running, state, work)
        _log_failure(self._endings.submit(_end_solver, running))
        return True

    def _give_back(self, running: RunningProof, state: str) -> None:
        """End what a challenge has that no longer stands under its device."""
        self._note(running, state, self._work(running))
        _end_solver(running)

    def _note(self, running: RunningProof, state: str, work: Work | None) -> None:
        _log_failure(self._notes.submit(self._tracker.advance, running.challenge_id, state, work=work))


def _end_solver(running: RunningProof) -> None:
    if running.timer is not None:
        running.timer.cancel()
    if running.solver is not None:
        running.solver.close()


def _fault_fields(message: str, device: str) -> dict[str, str]:
    """Return a GPU's fault, and who else is on the card where that is the question."""
    fault = fault_in(message)
    if fault is None:
        return {}
    others = holders_text(device) if fault in {GpuFault.NO_ROOM, GpuFault.BUSY} else ""
    return {"fault": fault.value, "holders": others} if others else {"fault": fault.value}


def _log_failure(future: Future[None]) -> None:
    """See that a defect of what nobody waits for is not lost."""

    def look(done: Future[None]) -> None:
        if (err := done.exception()) is not None:
            logger.error("proof not noted", exc_info=err)

    future.add_done_callback(look)


def _params(request: PrepareRequest) -> ProofParams:
    try:
        return read_params(ChallengeKind(request.kind), request.sizes.model_dump())
    except ValueError as err:
        raise RequestRejected(
            ErrorCode.INVALID_FIELD, f"sizes out of range: {err}", hint="choose other sizes", field="sizes", status=422
        ) from err


def _refuse_too_large(params: ProofParams, device: DeviceClaim) -> None:
    has_bytes = device.memory_bytes
    if isinstance(params, MemoryParams) and device.kind == "cpu":
        # The rest of a host's memory is for its tenants.
        has_bytes = min(has_bytes, CPU_MEMORY_BYTES) or CPU_MEMORY_BYTES
    if 0 < has_bytes < params.memory_bytes:
        raise RequestRejected(
            ErrorCode.INVALID_FIELD,
            f"the proof takes {params.memory_bytes} bytes, the device has {has_bytes} for it",
            hint="choose smaller sizes",
            field="sizes",
            status=422,
        )


def _is_within(position: tuple[int, ...], bounds: tuple[int, ...]) -> bool:
    """Whether a position is one of this proof, and of its kind."""
    return len(position) == len(bounds) and all(number < bound for number, bound in zip(position, bounds, strict=True))
