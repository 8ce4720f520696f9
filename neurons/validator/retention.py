"""How long openings are kept: their time and their room are limited; verdicts, seeds and digests stay for ever.

Rules:
- Openings past their time go first; then, while all that are kept take more room than they may, the oldest.
- What a bundle says of its openings' time is kept, also where the settings say less by now.
- Openings that go while they are owed leave a signed word in their bundle, which every audit shows and counts.
- A bundle keeps its name when its openings go: they are bound by digests of their own.
- A bundle that cannot be read or written is noted and passed over: it must not keep the others from being looked at.
"""

from __future__ import annotations

import logging
from pathlib import Path

from neurons.validator.metrics import MetricsHandler
from polarise.errors import RequestRejected
from polarise.evidence import read_bundle, write_bundle
from polarise.openings import HOUR_MS, GoneReason, owed_until_unix_ms, thrown_away
from polarise.signing import Identity
from utils.clock import Clock

logger = logging.getLogger(__name__)


class Retention:
    """Throws openings away.

    Args:
        identity: The validator's; signs what goes before its time.
        metrics: Knows which bundles have openings.
        folder: Where the bundles lie.
        clock: Wall clock.
        hours: How long openings are kept.
        bytes_max: Room of all bundles that have openings, together.
    """

    def __init__(
        self,
        identity: Identity,
        metrics: MetricsHandler,
        folder: Path,
        clock: Clock,
        *,
        hours: int,
        bytes_max: int,
    ) -> None:
        self._identity = identity
        self._metrics = metrics
        self._folder = folder
        self._clock = clock
        self._hours = hours
        self._bytes_max = bytes_max

    def prune(self) -> None:
        """Throw away what is too old, then what is too much."""
        now_unix_ms = self._clock.wall_unix_ms()
        for name in self._metrics.unpruned_before(now_unix_ms - self._hours * HOUR_MS):
            self._prune_one(name, now_unix_ms, is_room_needed=False)
        kept = [(name, self._size(name)) for name in self._metrics.unpruned_before(2**53)]
        excess = sum(size for _, size in kept) - self._bytes_max
        if excess > 0:
            logger.warning(
                "openings are thrown away before their time: they take more room than they may",
                extra={"excess_bytes": excess, "bytes_max": self._bytes_max},
            )
        for name, size in kept:
            if excess <= 0:
                return
            self._prune_one(name, now_unix_ms, is_room_needed=True)
            excess -= size

    def _prune_one(self, name: str, now_unix_ms: int, *, is_room_needed: bool) -> None:
        try:
            bundle = read_bundle(self._path(name))
            if now_unix_ms >= owed_until_unix_ms(bundle):
                write_bundle(self._folder, bundle.without_openings())
            elif is_room_needed:
                write_bundle(self._folder, thrown_away(self._identity, bundle, GoneReason.ROOM, now_unix_ms))
            else:
                return  # it was promised for longer than the settings say by now
        except (OSError, RequestRejected) as err:
            logger.warning("evidence not pruned", extra={"evidence": name, "cause": str(err)})
        self._metrics.mark_pruned(name)

    def _size(self, name: str) -> int:
        try:
            return self._path(name).stat().st_size
        except OSError:
            return 0

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"
