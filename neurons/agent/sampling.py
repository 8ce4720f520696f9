"""The clockwork of telemetry: read once a second, alert at once, tell every five seconds.

Rules:
- The host's samples and alerts go into the system stream; a container's go into its lease's stream, for they say what
  its renter does.
- A second that was missed is not made up for; the window says how many readings it holds.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from neurons.agent.lease_table import LeaseStream
from neurons.agent.streams import Streams
from polarise.canonical import JsonValue
from polarise.errors import RequestRejected
from polarise.stream import SYSTEM
from telemetry.sampler import SAMPLE_SECONDS, TELL_SECONDS, Reading, Sampler, WatchedContainer
from telemetry.thresholds import Alert, Thresholds
from telemetry.usage import ContainerReader
from utils.clock import Clock

logger = logging.getLogger(__name__)


class Sampling:
    """Samples until it is stopped.

    Args:
        streams: Where samples and alerts go.
        sampler: What is read.
        thresholds: What raises alerts.
        clock: Wall and monotonic clock.
    """

    name = "sampling"

    def __init__(self, streams: Streams, sampler: Sampler, thresholds: Thresholds, clock: Clock) -> None:
        self._streams = streams
        self._sampler = sampler
        self._thresholds = thresholds
        self._clock = clock
        self._leases: dict[str, str] = {}
        # The watch over silence runs in another thread than the readings.
        self._judging = threading.Lock()
        self.newest: Reading | None = None

    def prepare(self) -> None:
        """Go on with the containers of the leases that go on."""
        for stream in self._streams.open_leases():
            self.watch(stream)

    def watch(self, stream: LeaseStream) -> None:
        """Sample a lease's container from now on; one that has none yet is left alone."""
        if stream.container_id is None:
            return
        folders = {name: Path(folder) for name, folder in stream.folders.items()}
        self._leases[stream.container_id] = stream.lease_id
        self._sampler.watch(WatchedContainer(stream.container_id, stream.devices), ContainerReader(folders))

    def forget(self, lease_id: str) -> None:
        """Sample its container no more."""
        for container_id in [name for name, lease in self._leases.items() if lease == lease_id]:
            del self._leases[container_id]
            self._sampler.forget(container_id)

    def run(self, stop: threading.Event) -> None:
        """Sample until ``stop`` is set."""
        begin_ns = self._clock.monotonic_ns()
        next_read, next_tell = 0.0, TELL_SECONDS
        while True:
            self.sample()
            passed = (self._clock.monotonic_ns() - begin_ns) / 1e9
            if passed >= next_tell:
                self.tell()
                next_tell = passed - passed % TELL_SECONDS + TELL_SECONDS
            next_read = max(next_read + SAMPLE_SECONDS, passed)
            if stop.wait(next_read - passed):
                return

    def sample(self) -> None:
        """Take one reading and tell what it crossed."""
        reading = self._sampler.read(self._clock.wall_unix_ms(), self._clock.monotonic_ns())
        self.newest = reading
        with self._judging:
            alerts = self._thresholds.check(reading, self._clock.monotonic_ns())
        self._raise(alerts, reading.unix_ms)

    def check_silence(self) -> None:
        """Tell when no reading has come for too long; called by somebody else's clockwork."""
        with self._judging:
            alerts = self._thresholds.check_silence(self._clock.monotonic_ns())
        self._raise(alerts, self._clock.wall_unix_ms())

    def tell(self) -> None:
        """Write what was read since the last time."""
        host, containers = self._sampler.tell()
        self._streams.emit(SYSTEM, "telemetry.sample", host)
        for container_id, payload in containers.items():
            self._emit_for(container_id, "telemetry.sample", payload)

    def _raise(self, alerts: Sequence[Alert], unix_ms: int) -> None:
        for alert in alerts:
            logger.info("threshold crossed", extra={"alert": alert.name, "subject": alert.subject, "kind": alert.kind})
            self._emit_for(alert.subject, alert.kind, alert.payload(unix_ms))

    def _emit_for(self, subject: str, kind: str, payload: Mapping[str, JsonValue]) -> None:
        stream_id = self._leases.get(subject, SYSTEM)
        try:
            self._streams.emit(stream_id, kind, payload)
        except RequestRejected as err:
            logger.debug("the lease ended meanwhile", extra={"subject": subject, "cause": str(err)})


class Signing:
    """Signs checkpoints when they are due, and listens whether the sampling has gone silent.

    Args:
        streams: The logs.
        sampling: What must not go silent.
    """

    name = "signing"

    def __init__(self, streams: Streams, sampling: Sampling) -> None:
        self._streams = streams
        self._sampling = sampling

    def prepare(self) -> None:
        """Nothing to take."""

    def run(self, stop: threading.Event) -> None:
        """Look twenty times a second."""
        while not stop.wait(0.05):
            self._streams.sign_due()
            self._sampling.check_silence()
