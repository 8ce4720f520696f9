"""The validator's loop: once per epoch every registered miner is scored, those drawn are proven first, all are recorded.

Rules:
- Epochs begin at multiples of their length on the wall clock, so that a restart makes no further ones: where the current
  one was begun already, the daemon waits for the next boundary. Between two beginnings lies half an epoch or more.
- The very first begins at once; one that takes longer than it may is followed immediately by the next.
- Commitment and beacon come before the first challenge, scores and record after the last.
- Who is proven and who is inspected follows from the beacon (`drawing`): now and then everybody, in one round. Then
  containers are inspected and logs are read, of several miners at a time.
- Who earns is examined first, and always; the others as long as there is time for it, else they were not measured.
- A defect that one miner brings to light costs that miner its examination in this epoch and nobody else's: it is logged
  with its traceback, a score that says so is kept, and the epoch goes on.
- An epoch that was broken off is recorded as such at the next start, with the miners that were scored.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from challenges.averages import advance
from neurons.base.threads import DaemonThreads
from neurons.validator.chain import Beacon, Chain, CommitRefused, Miners
from neurons.validator.challenges import ChallengeGenerator, EpochSecret
from neurons.validator.drawing import Intervals, draw_for, has_window
from neurons.validator.examination import Examined, Examiner
from neurons.validator.metrics import MetricsHandler
from neurons.validator.records import EpochRecorder
from neurons.validator.retention import Retention
from neurons.validator.rounds import ProofRounds
from neurons.validator.turns import in_turn
from neurons.validator.verdicts import VerdictSender
from neurons.validator.verification import Averages
from polarise.errors import Unavailable
from polarise.evidence import WINDOWS_SINCE_RULES
from polarise.rate_average import RateAverage, RateSample
from utils.clock import Clock

logger = logging.getLogger(__name__)

# How long the loop looks after a record; the outbox goes on beyond it.
POSTED_SECONDS = 30.0
# So much later than the first, no miner without weight is inspected or read any more: one can take 110 s, and keys cost nothing.
EXAMINE_TURN_SECONDS = 240.0


@dataclass(frozen=True, slots=True)
class Pace:
    """How often, and how much at once.

    Attributes:
        epoch_seconds: From the start of one epoch to the start of the next.
        proof_every: One epoch of about so many has a common window.
        inspect_every: A host is inspected in about one epoch of so many; 0 to inspect nobody.
        parallel: Miners inspected and read at the same time.
    """

    epoch_seconds: int
    proof_every: int
    inspect_every: int
    parallel: int


class EpochService:
    """Runs epochs until it is asked to stop.

    Args:
        chain: Registry, commitment and beacon.
        generator: Makes the epoch's secret.
        rounds: Proves all miners that are drawn.
        examiner: Inspects and scores one miner.
        recorder: Ends epochs.
        metrics: Epoch numbers and scores.
        retention: Throws old openings away.
        clock: Wall and monotonic clock.
        pace: How often, and how much at once.
        verdicts: Told of each finished epoch.
    """

    name = "epochs"

    def __init__(
        self,
        chain: Chain,
        generator: ChallengeGenerator,
        rounds: ProofRounds,
        examiner: Examiner,
        recorder: EpochRecorder,
        metrics: MetricsHandler,
        retention: Retention,
        clock: Clock,
        pace: Pace,
        *,
        verdicts: VerdictSender | None = None,
    ) -> None:
        self._chain = chain
        self._generator = generator
        self._rounds = rounds
        self._examiner = examiner
        self._recorder = recorder
        self._metrics = metrics
        self._retention = retention
        self._clock = clock
        self._pace = pace
        self._verdicts = verdicts

    def prepare(self) -> None:
        """Record what an earlier run broke off."""
        self._recorder.record_broken_off()

    def run(self, stop: threading.Event) -> None:
        """Run one epoch after another."""
        while not stop.is_set():
            wait_seconds = self._wait_seconds()
            if wait_seconds > 0:
                logger.info("next epoch", extra={"in_seconds": round(wait_seconds)})
            if stop.wait(wait_seconds):
                return
            try:
                self.run_epoch(stop)
            except Unavailable as err:
                logger.warning("epoch waits for the ledger", extra={"cause": err.message})
                stop.wait(err.retry_after_seconds)
                continue
            except CommitRefused as err:
                logger.warning("epoch not begun", extra={"cause": str(err)})

    def _wait_seconds(self) -> float:
        newest = next(iter(self._metrics.epochs(1)), None)
        if newest is None:
            return 0.0
        return seconds_to_next(newest.started_unix_ms, self._clock.wall_unix_ms(), self._pace.epoch_seconds)

    def run_epoch(self, stop: threading.Event) -> None:
        """Examine every miner that is registered now.

        Raises:
            Unavailable: The ledger is away, nothing was begun.
            CommitRefused: The ledger would not take the commitment; the epoch is over without a record.
        """
        began_ns = self._clock.monotonic_ns()
        epoch = self._number()
        standing = self._metrics.standing(WINDOWS_SINCE_RULES)
        earning = frozenset(node for node, had in standing.items() if had.weight_ppm > 0)
        miners = self._chain.miners(_report, standing, epoch)
        secret = self._begin(epoch, miners)
        intervals = self._intervals()
        beacon = self._commit(secret, len(miners), intervals, stop)
        if beacon is None:
            return
        averages = self._metrics.averages()
        proven = self._prove(secret, beacon, self._draw(beacon, miners, intervals), averages, earning, stop)
        if proven is None:
            return
        examined, samples = proven
        self._examine_all(secret, beacon, examined, earning, stop)
        self._retention.prune()
        if stop.is_set():
            return
        # Only a finished epoch teaches: an auditor has no other to learn from.
        self._metrics.keep_averages(secret.epoch, advance(averages, samples))
        self._finish(secret.epoch, miners, began_ns, stop)

    def _number(self) -> int:
        wanted = self._clock.wall_unix_ms() // 1000 // self._pace.epoch_seconds
        on_ledger = self._chain.last_epoch(wanted)
        return self._metrics.next_epoch(wanted if on_ledger is None else on_ledger + 1)

    def _begin(self, epoch: int, miners: Miners) -> EpochSecret:
        now_unix_ms = self._clock.wall_unix_ms()
        secret = self._generator.begin_epoch(epoch, [statement for statement, _ in miners.values()])
        self._metrics.begin_epoch(secret, now_unix_ms)
        self._metrics.set_registered(epoch, [entry for _, entry in miners.values()])
        logger.info("epoch started", extra={"epoch": epoch, "miners_count": len(miners)})
        return secret

    def _intervals(self) -> Intervals:
        is_first = not self._metrics.has_complete(WINDOWS_SINCE_RULES)
        return Intervals(self._chain.validator_key, self._pace.proof_every, self._pace.inspect_every, is_first)

    def _commit(
        self, secret: EpochSecret, miners_count: int, intervals: Intervals, stop: threading.Event
    ) -> Beacon | None:
        started_unix_ms = self._metrics.epoch(secret.epoch).started_unix_ms
        try:
            beacon = self._chain.commit(secret, miners_count, started_unix_ms, intervals, stop)
        except CommitRefused:
            self._recorder.abandon(secret.epoch)
            raise
        if beacon is not None:
            is_common = has_window(beacon.value, intervals)
            self._metrics.set_beacon(secret.epoch, beacon.value, beacon.height, has_window=is_common)
            logger.info(
                "epoch committed",
                extra={"epoch": secret.epoch, "commit": secret.commit.hex(), "beacon_height": beacon.height},
            )
        return beacon

    def _draw(self, beacon: Beacon, miners: Miners, intervals: Intervals) -> list[Examined]:
        found = []
        last_window = self._metrics.last_window()
        for statement, entry in miners.values():
            newest = self._metrics.newest(entry.node_key)
            previous = None if newest is None else newest.record
            has_missed = newest is not None and last_window is not None and newest.epoch < last_window
            draw = draw_for(beacon.value, entry, previous, intervals, has_missed_window=has_missed)
            found.append(Examined(statement, entry, draw, previous))
        logger.info(
            "epoch drawn",
            extra={
                "miners_count": len(found),
                "proven_count": sum(miner.draw.is_proven for miner in found),
                "has_window": has_window(beacon.value, intervals),
            },
        )
        return found

    def _prove(
        self,
        secret: EpochSecret,
        beacon: Beacon,
        miners: Sequence[Examined],
        averages: Sequence[RateAverage],
        earning: Collection[str],
        stop: threading.Event,
    ) -> tuple[list[Examined], tuple[RateSample, ...]] | None:
        """Run the round; returns all miners, those drawn with their proofs, and what was learned of usual rates."""
        drawn = [miner.entry for miner in miners if miner.draw.is_proven]
        previous = {miner.entry.node_key: miner.previous for miner in miners}
        known: Averages = {(average.model, str(average.kind)): average for average in averages}
        outcome = self._rounds.run(secret, beacon, drawn, stop, known, previous=previous, earning=earning)
        if outcome is None:
            return None
        examined = [
            replace(miner, proofs=outcome.proofs[miner.entry.node_key], round=outcome.evidence)
            if miner.draw.is_proven
            else miner
            for miner in miners
        ]
        return examined, outcome.samples

    def _examine_all(
        self,
        secret: EpochSecret,
        beacon: Beacon,
        miners: Sequence[Examined],
        earning: Collection[str],
        stop: threading.Event,
    ) -> None:
        turns = in_turn(miners, is_earning=lambda miner: miner.entry.node_key in earning)
        end_ns = time.monotonic_ns() + round(EXAMINE_TURN_SECONDS * 1e9)
        with DaemonThreads("examine", self._pace.parallel) as pool:
            for miner in turns:
                last_ns = None if miner.entry.node_key in earning else end_ns
                pool.submit(self._examine, secret, beacon, miner, stop, last_ns)

    def _examine(
        self, secret: EpochSecret, beacon: Beacon, miner: Examined, stop: threading.Event, last_ns: int | None
    ) -> None:
        is_in_time = last_ns is None or time.monotonic_ns() <= last_ns
        try:
            self._examiner.examine(secret, beacon, miner, stop, is_called=is_in_time)
        except Exception:  # a supervisor of one examination: a miner that finds a bug must not end it for all others
            logger.exception("examination failed", extra={"epoch": secret.epoch, "miner_key": miner.entry.node_key})
            self._record_defect(secret, beacon, miner)

    def _record_defect(self, secret: EpochSecret, beacon: Beacon, miner: Examined) -> None:
        try:
            self._examiner.record_defect(secret, beacon, miner)
        except Exception:  # the same supervisor: what broke the examination may break its record too
            logger.exception("defect not recorded", extra={"epoch": secret.epoch, "miner_key": miner.entry.node_key})

    def _finish(self, epoch: int, miners: Miners, began_ns: int, stop: threading.Event) -> None:
        key = self._recorder.record(epoch, is_complete=True)
        if self._verdicts is not None:
            self._verdicts.deliver(epoch, miners)
        took_ms = (self._clock.monotonic_ns() - began_ns) // 1_000_000
        is_final = self._chain.is_final(key, POSTED_SECONDS, stop)
        logger.info("epoch finished", extra={"epoch": epoch, "took_ms": took_ms, "is_on_ledger": is_final})


def seconds_to_next(started_unix_ms: int, now_unix_ms: int, epoch_seconds: int) -> float:
    """Return how long to wait for the next epoch: 0 unless the newest began in the current stretch of the wall clock."""
    length_ms = epoch_seconds * 1000
    # Not "or later": after a clock was set back, nobody waits for it to catch up.
    if started_unix_ms // length_ms != now_unix_ms // length_ms:
        return 0.0
    begin_unix_ms = (now_unix_ms // length_ms + 1) * length_ms
    # An epoch that began late in its stretch leaves the miners' logs no time to grow before the boundary.
    if begin_unix_ms - started_unix_ms < length_ms // 2:
        begin_unix_ms += length_ms
    return (begin_unix_ms - now_unix_ms) / 1000


def _report(name: str, cause: str) -> None:
    logger.warning("registry entry refused", extra={"entry": name, "detail": cause})
