"""The validator's loop: once per epoch every registered miner is examined, and old openings are thrown away.

An epoch begins at once when the daemon starts; one that takes longer than it may is followed immediately by the next.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from neurons.validator.challenges import ChallengeGenerator
from neurons.validator.examination import Examiner
from neurons.validator.metrics import MetricsHandler
from polarise.errors import ConfigError, RequestRejected
from polarise.evidence import read_bundle, write_bundle
from polarise.registry import read_registry
from utils.clock import Clock

logger = logging.getLogger(__name__)


class EpochService:
    """Runs epochs until it is asked to stop.

    Args:
        registry: Folder of signed registry entries.
        generator: Makes the epoch's secret.
        examiner: Examines one miner.
        metrics: Epoch numbers and scores.
        evidence: Folder of the bundles.
        clock: Wall and monotonic clock.
        epoch_seconds: From the start of one epoch to the start of the next.
        retention_hours: How long openings are kept.
    """

    name = "epochs"

    def __init__(
        self,
        registry: Path,
        generator: ChallengeGenerator,
        examiner: Examiner,
        metrics: MetricsHandler,
        evidence: Path,
        clock: Clock,
        *,
        epoch_seconds: int,
        retention_hours: int,
    ) -> None:
        self._registry = registry
        self._generator = generator
        self._examiner = examiner
        self._metrics = metrics
        self._evidence = evidence
        self._clock = clock
        self._epoch_seconds = epoch_seconds
        self._retention_hours = retention_hours

    def prepare(self) -> None:
        """Need nothing; a registry that is not there yet is empty."""

    def run(self, stop: threading.Event) -> None:
        """Run one epoch after another."""
        while not stop.is_set():
            began_ns = self._clock.monotonic_ns()
            self.run_epoch(stop)
            took_seconds = (self._clock.monotonic_ns() - began_ns) / 1e9
            stop.wait(max(0.0, self._epoch_seconds - took_seconds))

    def run_epoch(self, stop: threading.Event) -> None:
        """Examine every miner that is registered now."""
        began_ns = self._clock.monotonic_ns()
        now_unix_ms = self._clock.wall_unix_ms()
        miners = read_registry(self._registry, _report)
        epoch = self._metrics.next_epoch(now_unix_ms // 1000 // self._epoch_seconds)
        secret = self._generator.begin_epoch(epoch, [statement for statement, _ in miners.values()])
        self._metrics.begin_epoch(secret, now_unix_ms)
        logger.info("epoch started", extra={"epoch": epoch, "miners_count": len(miners)})
        for statement, entry in miners.values():
            if stop.is_set():
                return
            self._examiner.examine(secret, statement, entry, stop)
        self._prune()
        if stop.is_set():
            return
        self._metrics.finish_epoch(epoch, self._clock.wall_unix_ms())
        took_ms = (self._clock.monotonic_ns() - began_ns) // 1_000_000
        logger.info("epoch finished", extra={"epoch": epoch, "took_ms": took_ms})

    def _prune(self) -> None:
        """Throw away openings past their retention; verdicts, seeds and digests stay."""
        before_unix_ms = self._clock.wall_unix_ms() - self._retention_hours * 3_600_000
        for evidence in self._metrics.unpruned_before(before_unix_ms):
            path = self._evidence / f"{evidence}.json"
            try:
                write_bundle(self._evidence, read_bundle(path).without_openings())
            except (OSError, RequestRejected) as err:
                logger.warning("evidence not pruned", extra={"evidence": evidence, "cause": str(err)})
            self._metrics.mark_pruned(evidence)


def _report(err: ConfigError) -> None:
    logger.warning("registry entry refused", extra={"file": err.origin, "detail": err.message})
