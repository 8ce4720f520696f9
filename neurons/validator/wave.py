"""One wave: many devices get ready, then all of them start at the same moment, and each is opened as it answers.

Rules:
- Every kind takes the same way: prepare, ping, start (the clock runs), signed commitment (it stops), open. A proof of
  work ends at its commitment, which shows all there is.
- The stamps are those of the stamping process; here nothing of an answer is verified beyond what its opening needs.
- A device that is busy at prepare (429) has DECLINED. One that is rented, or proves for another validator, shows so at
  prepare: RENTED or OCCUPIED, or what becomes of it where what it shows does not hold. Once `/challenge/start` has left,
  everything that is no commitment is MISSING, and once positions have left, everything that is no openings is
  OPENING_LATE, whatever the excuse. A proof is never repeated.
- No answer is read beyond what an honest one of these sizes can have, nor kept where its canonical form is longer: a miner
  whose evidence fits in no bundle would lose its verdicts with it.
- Openings have two seconds: whoever sees the questions must not have time to work on the answers.
- Whose turn does not come because others take long was not measured: a miner keeps what it prepared for a while only, and
  its openings for less. Who comes first says `neurons.validator.turns`: who earns does not wait for who does not.
- A defect of ours with one device is that device's NOT_MEASURED and nobody else's.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from challenges.proofs import sizes_of
from neurons.base.threads import DaemonThreads
from neurons.validator.challenges import Challenge
from neurons.validator.opening_files import ExcuseFile, OpeningFolder
from neurons.validator.proof_trace import ProofTrace, check_commitment, signed_bytes
from neurons.validator.stamper import Stamper, StamperDied
from neurons.validator.stamper_process import PingJob, Stamped, StampFailure, StartJob, Target
from neurons.validator.turns import in_turn
from polarise.answers import printable
from polarise.canonical import canonical_bytes
from polarise.clients import MinerClient
from polarise.errors import DeadlineExceeded, ErrorCode, ProofRejected, RejectReason, RequestRejected, SubnetError
from polarise.excuse import EXCUSE_BYTES_MAX, Excuse
from polarise.generations import Generations
from polarise.messages import OpenRequest, position_of
from polarise.occupied import check_occupied
from polarise.registry import RegistryEntry
from polarise.rented import check_rented
from polarise.signing import Purpose
from polarise.statement import SignedStatement
from utils.clock import Clock, SystemClock

logger = logging.getLogger(__name__)

LOOKUP_SECONDS = 5.0
OPEN_SECONDS = 2.0
# So much later than the first, nobody is asked to get ready any more; and so much later than its commitment, to open it.
# A miner forgets the one after four minutes and the other after half of one.
PREPARE_TURN_SECONDS = 60.0
OPEN_TURN_SECONDS = 20.0
THREADS_MAX = 256
DEFECT = "this validator failed; nothing was measured"


@dataclass
class Ask:
    """One proof of one device in a wave.

    Attributes:
        entry: The miner, as registered.
        client: How it is called.
        challenge: What it is asked.
        trace: What it answered, filled by the wave.
        rejected: Why nothing is left to verify; None while everything went as it should.
        target: Where its endpoint leads.
        is_earning: Whether the miner had weight in the newest complete epoch.
    """

    entry: RegistryEntry
    client: MinerClient
    challenge: Challenge
    trace: ProofTrace = field(default_factory=ProofTrace)
    rejected: ProofRejected | None = None
    target: Target | None = None
    is_earning: bool = False

    @property
    def fields(self) -> dict[str, object]:
        """What every log line about it says."""
        return {
            "challenge_id": self.challenge.challenge_id,
            "miner_key": self.challenge.miner_key,
            "device": self.challenge.device.uuid,
            "kind": self.challenge.kind.value,
        }


class Wave:
    """Runs waves; holds nothing between them.

    Args:
        stamper: Sends the starts and takes the stamps.
        clock: Wall clock: stamps of orders, and what a rented device shows.
        validators: Keys of the ledger's validators, whose orders excuse from ours.
        openings: Where openings wait for their check; they stay in memory if left out.
        generations: Which subkeys were replaced: what they sign is no answer.
    """

    def __init__(
        self,
        stamper: Stamper,
        clock: Clock | None = None,
        validators: Collection[str] = (),
        openings: OpeningFolder | None = None,
        generations: Generations | None = None,
    ) -> None:
        self._stamper = stamper
        self._openings = openings
        self._generations = generations or Generations()
        self._clock = clock or SystemClock()
        self._validators = frozenset(validators)

    def begin_round(self) -> None:
        """Forget the openings of the round before."""
        if self._openings is not None:
            self._openings.clear()

    def run(self, asks: Sequence[Ask]) -> None:
        """Lead every proof up to its last answer; whether it is right is for `verification`.

        Each ask's trace, and `rejected` where it went wrong, say what came of it.
        """
        if not asks:
            return
        turns = in_turn(asks, is_earning=_is_earning, ordinal=_ordinal)
        threads_count = min(len(asks), THREADS_MAX)
        # Commitments come in the order in which miners send them: those of who earns have threads of their own.
        with DaemonThreads("wave", threads_count) as pool, DaemonThreads("wave-earning", threads_count) as earning:
            began_ns = time.monotonic_ns()
            _settle([(ask, pool.submit(self._prepare, ask, began_ns)) for ask in turns])
            self._ping([ask for ask in turns if ask.rejected is None])
            self._start([ask for ask in turns if ask.rejected is None], {False: pool, True: earning})

    def _prepare(self, ask: Ask, began_ns: int) -> None:
        _check_turn("to get ready", began_ns, PREPARE_TURN_SECONDS)
        try:
            ask.target = Target(ask.client.addresses(LOOKUP_SECONDS), ask.client.tls_peer)
            ask.trace.ordered_unix_ms = self._clock.wall_unix_ms()
            answer = ask.client.prepare(
                ask.challenge.prepare_request(),
                deadline_seconds=ask.challenge.prepare_deadline_seconds,
                ordered_unix_ms=ask.trace.ordered_unix_ms,
            )
        except RequestRejected as err:
            if err.status == 429 or err.code is ErrorCode.TOO_MANY_REQUESTS:
                raise ProofRejected(RejectReason.DECLINED, f"busy: {printable(err.message)}"[:400]) from err
            raise _missing("refused to prepare", err) from err
        except (SubnetError, ValueError) as err:
            raise _missing("could not prepare", err) from err
        if answer.status == "success":
            return
        shown = answer.excuse or Excuse()
        if answer.status == "rented":
            shown = Excuse(leases=shown.leases)
            ask.trace.excuse = self._kept_excuse(ask, shown)
            self._check_rented(ask, shown)
            raise ProofRejected(RejectReason.RENTED, "rented; its renters' signatures show it")
        shown = Excuse(orders=shown.orders)
        ask.trace.excuse = self._kept_excuse(ask, shown)
        self._check_occupied(ask, shown)
        raise ProofRejected(RejectReason.OCCUPIED, "proves for another validator, whose order shows it")

    def _kept_excuse(self, ask: Ask, excuse: Excuse) -> Excuse | ExcuseFile:
        """Return what a device showed as it is kept until its bundle; no bundle holds what has no or too long a form."""
        try:
            raw = canonical_bytes(excuse.to_wire())
        except ValueError as err:
            raise _missing("says it cannot prove and shows what has no canonical form", err) from err
        if len(raw) > EXCUSE_BYTES_MAX:
            raise ProofRejected(
                RejectReason.MISSING,
                "says it cannot prove and shows more than any honest miner can",
                got=f"{len(raw)} bytes",
                expected=f"at most {EXCUSE_BYTES_MAX}",
            )
        return excuse if self._openings is None else self._openings.keep_excuse(ask.challenge.challenge_id, raw)

    def _check_rented(self, ask: Ask, excuse: Excuse) -> None:
        check_rented(
            excuse.leases,
            miner_key=ask.entry.node_key,
            owner_key=ask.entry.owner_key,
            device=ask.challenge.device.uuid,
            claimed_cpu_milli=ask.entry.hardware.cpu_milli,
            now_unix_ms=self._clock.wall_unix_ms(),
        )

    def _check_occupied(self, ask: Ask, excuse: Excuse) -> None:
        check_occupied(
            excuse.orders,
            validator_key=ask.client.caller_key,
            miner_key=ask.entry.node_key,
            device=ask.challenge.device.uuid,
            validators=self._validators,
            ordered_unix_ms=ask.trace.ordered_unix_ms or 0,
        )

    def _ping(self, asks: Sequence[Ask]) -> None:
        """Measure the way to each endpoint once, whatever the number of its devices."""
        of_endpoint: dict[str, list[Ask]] = {}
        for ask in asks:
            of_endpoint.setdefault(ask.client.endpoint, []).append(ask)
        groups = list(of_endpoint.values())
        jobs = [PingJob(number, _target(group[0]), group[0].client.ping_wire()) for number, group in enumerate(groups)]

        def take(stamped: Stamped) -> None:
            for ask in groups[stamped.number]:
                ask.trace.rtt_min_ns = stamped.rtt_min_ns
                if stamped.failure is not None:
                    ask.rejected = _unanswered("did not answer a ping", stamped.failure)

        self._stamp(jobs, groups, take)

    def _start(self, asks: Sequence[Ask], pools: Mapping[bool, DaemonThreads]) -> None:
        now_unix_ms = self._clock.wall_unix_ms()
        jobs = [
            StartJob(
                number,
                _target(ask),
                ask.client.start_wire(ask.challenge.start_request(), ask.challenge.ordered_work(now_unix_ms)),
                ask.challenge.start_deadline_seconds,
                ask.challenge.commitment_bytes_max,
            )
            for number, ask in enumerate(asks)
        ]
        for ask in asks:
            logger.info("proof sent", extra={**ask.fields, "sizes": sizes_of(ask.challenge.params)})
        opening: list[tuple[Ask, Future[None]]] = []

        def take(stamped: Stamped) -> None:
            ask = asks[stamped.number]
            ask.trace.started_after_ns = stamped.sent_ns  # made relative below, once the first one is known
            pool = pools[ask.is_earning]
            opening.append((ask, pool.submit(self._take_answer, ask, stamped, time.monotonic_ns())))

        self._stamp(jobs, [[ask] for ask in asks], take)
        _settle(opening)
        _count_from_first_start(asks)

    def _take_answer(self, ask: Ask, stamped: Stamped, came_ns: int) -> None:
        """Read one commitment and have it opened."""
        statement = _commitment(ask, stamped, self._openings, self._generations)
        logger.info(
            "proof answered",
            extra={
                **ask.fields,
                "work_ms": (ask.trace.last_byte_after_ns or 0) // 1_000_000,
                "rtt_ms": round((ask.trace.rtt_min_ns or 0) / 1e6, 2),
            },
        )
        check_commitment(ask.challenge, statement)
        if ask.challenge.has_openings:
            ask.trace.positions = ask.challenge.positions(signed_bytes(statement))
            _check_turn("to be opened", came_ns, OPEN_TURN_SECONDS)
            openings = _open(ask)
            ask.trace.openings = (
                self._openings.keep(ask.challenge.challenge_id, openings) if self._openings else openings
            )

    def _stamp(
        self,
        jobs: Sequence[PingJob] | Sequence[StartJob],
        groups: Sequence[Sequence[Ask]],
        take: Callable[[Stamped], None],
    ) -> None:
        """Run a batch; what a dead process did not stamp was not measured, and costs nobody anything."""
        left = set(range(len(jobs)))
        try:
            for stamped in self._stamper.run(jobs):
                left.discard(stamped.number)
                take(stamped)
        except StamperDied as err:
            logger.warning("stamping process died", extra={"unanswered": len(left)})
            for number in left:
                for ask in groups[number]:
                    ask.rejected = ProofRejected(RejectReason.NOT_MEASURED, f"{DEFECT}: {err}")


def _commitment(ask: Ask, stamped: Stamped, folder: OpeningFolder | None, generations: Generations) -> SignedStatement:
    challenge, trace = ask.challenge, ask.trace
    if stamped.failure is StampFailure.LATE:
        raise ProofRejected(
            RejectReason.MISSING,
            "sent no commitment in time",
            got=f"> {challenge.start_deadline_seconds:.0f} s",
            expected=f"{challenge.expected_seconds:.1f} s by its claim",
        )
    if stamped.failure is StampFailure.TOO_LARGE:
        message = f"sent no commitment: {stamped.failure}, at most {challenge.commitment_bytes_max} bytes are read"
        raise ProofRejected(RejectReason.MISSING, message)
    if stamped.failure is not None:
        raise _unanswered("sent no commitment", stamped.failure)
    try:
        answer = ask.client.commit_answer(stamped.raw, max_bytes=challenge.commitment_bytes_max)
        # Whoever holds a replaced subkey is not the miner, so the miner has answered nothing.
        generations.check(challenge.miner_key, Purpose.STATEMENT, answer.commitment.certificate.counter)
    except (SubnetError, ValueError) as err:
        raise _missing("sent no commitment", err) from err
    # What has no canonical form can be neither verified nor kept: an auditor would find a verdict without evidence. One
    # that is longer than what came, as 1e20 becomes, would make a bundle too large to keep, and its verdicts with it.
    try:
        raw = signed_bytes(answer.commitment)
    except ValueError as err:
        raise _missing("sent no commitment that has a canonical form", err) from err
    if len(raw) > challenge.commitment_bytes_max:
        message = f"sent no commitment: its canonical form has {len(raw)} bytes, at most {challenge.commitment_bytes_max} are kept"
        raise ProofRejected(RejectReason.MISSING, message)
    trace.commitment = answer.commitment if folder is None else folder.keep_commitment(challenge.challenge_id, raw)
    if stamped.sent_ns is not None and stamped.first_byte_ns is not None and stamped.last_byte_ns is not None:
        trace.first_byte_after_ns = stamped.first_byte_ns - stamped.sent_ns
        trace.last_byte_after_ns = stamped.last_byte_ns - stamped.sent_ns
    return answer.commitment


def _open(ask: Ask) -> tuple[dict[str, object], ...]:
    positions = tuple(position_of(numbers) for numbers in ask.trace.positions)
    request = OpenRequest(challenge_id=ask.challenge.challenge_id, positions=positions)
    try:
        openings = ask.client.open(
            request, deadline_seconds=OPEN_SECONDS, max_bytes=ask.challenge.openings_bytes_max
        ).openings
    except DeadlineExceeded as err:
        raise ProofRejected(
            RejectReason.OPENING_LATE,
            "sent the openings too late",
            got=f"> {OPEN_SECONDS:g} s",
            expected=f"<= {OPEN_SECONDS:g} s",
        ) from err
    except (SubnetError, ValueError) as err:
        # It has seen the questions: whatever the excuse, another answer would be a second try.
        raise ProofRejected(RejectReason.OPENING_LATE, f"sent no openings in time: {printable(err)}"[:400]) from err
    try:
        raw = canonical_bytes(list(openings))  # type: ignore[arg-type]  # came through JSON, so it is JSON
    except ValueError as err:
        message = f"sent no openings that have a canonical form: {printable(err)}"[:400]
        raise ProofRejected(RejectReason.OPENING_LATE, message) from err
    if len(raw) > ask.challenge.openings_bytes_max:
        message = f"sent no openings: their canonical form has {len(raw)} bytes"
        raise ProofRejected(
            RejectReason.OPENING_LATE, f"{message}, at most {ask.challenge.openings_bytes_max} are kept"
        )
    return openings


def _settle(work: Sequence[tuple[Ask, Future[None]]]) -> None:
    """Wait for all of it; what was the miner's fault becomes its rejection, what was ours too, under another name."""
    for ask, future in work:
        try:
            future.result()
        except ProofRejected as err:
            ask.rejected = _alone(err)
        except Exception:  # a supervisor of one proof: a miner that finds a bug must not end the wave for all others
            logger.exception("proof failed", extra=ask.fields)
            ask.rejected = ProofRejected(RejectReason.NOT_MEASURED, DEFECT)


def _alone(err: ProofRejected) -> ProofRejected:
    """Return an error without the calls it came from: they hold all that the miner sent, for as long as the round lasts."""
    err.__cause__ = err.__context__ = None
    return err.with_traceback(None)


def _count_from_first_start(asks: Sequence[Ask]) -> None:
    """Turn stamps of the starts into the time after the first one."""
    starts = [ask.trace.started_after_ns for ask in asks if ask.trace.started_after_ns is not None]
    first_ns = min(starts, default=0)
    for ask in asks:
        if ask.trace.started_after_ns is not None:
            ask.trace.started_after_ns -= first_ns


def _is_earning(ask: Ask) -> bool:
    return ask.is_earning


def _ordinal(ask: Ask) -> int:
    return ask.challenge.device_index


def _target(ask: Ask) -> Target:
    if ask.target is None:
        raise ValueError("an endpoint that was prepared has its addresses")
    return ask.target


def _check_turn(what: str, since_ns: int, seconds_max: float) -> None:
    """Ask for nothing that the miner may have forgotten while it waited for others."""
    if time.monotonic_ns() - since_ns > seconds_max * 1e9:
        raise ProofRejected(RejectReason.NOT_MEASURED, f"{DEFECT}: its turn {what} did not come in time")


def _unanswered(what: str, failure: StampFailure) -> ProofRejected:
    if failure in {StampFailure.EXHAUSTED, StampFailure.NO_TURN}:
        return ProofRejected(RejectReason.NOT_MEASURED, f"{DEFECT}: {failure}")
    return ProofRejected(RejectReason.MISSING, f"{what}: {failure}")


def _missing(what: str, err: Exception) -> ProofRejected:
    return ProofRejected(RejectReason.MISSING, f"{what}: {printable(err)}"[:400])
