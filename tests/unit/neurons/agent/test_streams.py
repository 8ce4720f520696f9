"""When a checkpoint is signed, whose stream an alert goes into, and what a stream remembers; with a clock of our own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from neurons.agent.doors import BURST_LINES_MAX, LINES_PER_SECOND_MAX, Doors
from neurons.agent.sampling import Sampling
from neurons.agent.streams import Streams
from neurons.base.event_log import BATCH_LINES_MAX, EventLog
from neurons.base.metrics import MetricsTracker
from polarise.canonical import JsonValue
from polarise.checkpoint import parse_checkpoint
from polarise.envelope import Event, open_line
from polarise.errors import ErrorCode, RequestRejected
from polarise.ingress import draft_of
from polarise.merkle import root, verify_consistency
from polarise.notes import parse_note
from polarise.signing import Purpose
from telemetry.sampler import Reading, Sampler
from telemetry.thresholds import Limits, Thresholds
from telemetry.usage import ContainerUsage, HostUsage
from tests.unit.neurons.agent.agent_process import IDENTITY, LEASE, NODE_KEY, RENTER
from utils.gpu import GpuReading

MS = 1_000_000
STEP = draft_of({"kind": "training.step", "payload": {}})
SAMPLE = draft_of({"kind": "node.note", "payload": {}})


@dataclass
class HandClock:
    """A clock that a test moves."""

    unix_ms: int = 1_700_000_000_000
    ns: int = 0

    def wall_unix_ms(self) -> int:
        return self.unix_ms

    def boot_ms(self) -> int:
        return self.ns // MS

    def boot_id(self) -> str:
        return "test"

    def monotonic_ns(self) -> int:
        return self.ns


class NoCards:
    def read(self) -> tuple[GpuReading, ...]:
        return ()


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def streams(tmp_path: Path, clock: HandClock) -> Iterator[Streams]:
    with Streams(tmp_path, NODE_KEY, IDENTITY.subkey(Purpose.LOG), clock) as opened:
        opened.open(LEASE, RENTER, ["GPU-1"])
        yield opened


def signed_size(streams: Streams) -> int:
    with streams.reading(LEASE) as log:
        return log.signed_size


def events(log: EventLog) -> list[Event]:
    page = log.read(0)
    return [open_line(line) for line in page.lines]


def test_a_line_is_signed_250_ms_after_it_came(streams: Streams, clock: HandClock) -> None:
    streams.append(LEASE, [STEP])
    clock.ns = 250 * MS - 1
    streams.sign_due()
    assert signed_size(streams) == 0
    clock.ns = 250 * MS
    streams.sign_due()
    assert signed_size(streams) == 2


def test_a_sample_may_wait_five_seconds_but_not_behind_a_line(tmp_path: Path, clock: HandClock) -> None:
    with Streams(tmp_path, NODE_KEY, IDENTITY.subkey(Purpose.LOG), clock) as streams:
        payload: dict[str, JsonValue] = {
            "eventType": "host_metrics",
            "timestamp": 1,
            "gpuUsage": None,
            "memoryUsage": 1,
            "temperature": None,
        }
        streams.emit("system", "telemetry.sample", payload)
        with streams.reading("system") as log:
            for ns, size in ((5000 * MS - 1, 0), (5000 * MS, 1)):
                clock.ns = ns
                streams.sign_due()
                assert log.signed_size == size
            streams.emit("system", "telemetry.sample", payload)
            streams.append("system", [SAMPLE])
            clock.ns += 250 * MS
            streams.sign_due()
            assert log.signed_size == 3


def test_256_lines_are_signed_at_once(streams: Streams) -> None:
    streams.append(LEASE, [STEP] * (BATCH_LINES_MAX - 2))
    assert signed_size(streams) == 0
    streams.append(LEASE, [STEP])
    assert signed_size(streams) == BATCH_LINES_MAX
    streams.append(LEASE, [STEP] * 600)
    assert signed_size(streams) == 3 * BATCH_LINES_MAX


def test_every_checkpoint_goes_on_from_every_earlier_one(streams: Streams) -> None:
    for _ in range(5):
        streams.append(LEASE, [STEP] * 3)
        with streams.reading(LEASE) as log:
            log.sign()
    with streams.reading(LEASE) as log:
        lines, roots = log.read(0).lines, {}
        for size in (4, 7, 10, 13, 16):
            note = log.note_at(size)
            assert note is not None
            roots[size] = parse_checkpoint(parse_note(note).text).root
            assert roots[size] == root(lines[:size])
            verify_consistency(4, roots[4], size, roots[size], log.consistency(4, size))
        assert log.sign() == log.latest()


def test_time_in_a_stream_never_goes_back(streams: Streams, clock: HandClock) -> None:
    clock.unix_ms -= 60_000
    streams.append(LEASE, [STEP])
    with streams.reading(LEASE) as log:
        log.sign()
        first, second = events(log)
    assert second.tstamp == first.tstamp
    assert second.visited[-1].tstamp == first.tstamp - 60_000


def test_a_line_too_long_is_refused_alone(streams: Streams) -> None:
    big = draft_of({"kind": "training.step", "payload": {"x": "y" * 16_200}})
    results = streams.append(LEASE, [STEP, big, STEP])
    assert [isinstance(result, RequestRejected) for result in results] == [False, True, False]
    with streams.reading(LEASE) as log:
        log.sign()
        assert [event.seq for event in events(log)] == [0, 1, 2]


def test_a_stream_of_another_renter_or_an_ended_one_is_not_opened(streams: Streams) -> None:
    for renter in (NODE_KEY, RENTER):  # the second is its own renter, but by then it has ended
        with pytest.raises(RequestRejected) as caught:
            streams.open(LEASE, renter, [])
        assert caught.value.code is ErrorCode.CONFLICT
        streams.close(LEASE)
    with pytest.raises(RequestRejected) as caught:
        streams.append(LEASE, [STEP])
    assert caught.value.code is ErrorCode.NOT_FOUND


def test_lines_a_crash_left_unsigned_are_signed_at_the_next_start(tmp_path: Path) -> None:
    key = IDENTITY.subkey(Purpose.LOG).key
    log = EventLog(tmp_path / "log.sqlite", f"{NODE_KEY}/system", key)
    log.append([{"kind": "a.b", "message_id": "1", "tstamp": 5}], 0)
    with EventLog(tmp_path / "log.sqlite", f"{NODE_KEY}/system", key) as again:
        assert again.read(0).note is None
        assert again.sign_if_due(0)
        assert len(again.read(0).lines) == 1
        assert again.append([{"kind": "a.b", "message_id": "1", "tstamp": 5}], 0) == [0]
    log.close()


def test_a_container_s_sample_and_alert_go_into_its_lease_s_stream(streams: Streams, clock: HandClock) -> None:
    class Scripted(Sampler):
        def read(self, unix_ms: int, monotonic_ns: int) -> Reading:
            super().read(unix_ms, monotonic_ns)
            full = ContainerUsage(0.5, 95, 100, 3)
            self._last = Reading(unix_ms, HostUsage(0.1, 10, 100), (), {"c1": full})
            return self._last

    sampling = Sampling(streams, Scripted(NoCards()), Thresholds(Limits()), clock)
    sampling.watch(streams.watch(LEASE, "c1", {"": Path("/nowhere")}))
    sampling.sample()
    sampling.tell()
    clock.ns = 4_000 * MS
    sampling.check_silence()
    with streams.reading(LEASE) as log, streams.reading("system") as system:
        log.sign()
        system.sign()
        own = [(event.kind, event.payload.get("containerId"), event.payload.get("alert")) for event in events(log)]
        host = [(event.kind, event.payload.get("eventType"), event.payload.get("alert")) for event in events(system)]
    assert own == [
        ("stream.opened", None, None),
        ("alert.raised", None, "memory_usage"),
        ("telemetry.sample", "c1", None),
    ]
    assert host == [("telemetry.sample", "host_metrics", None), ("alert.raised", "threshold", "silence")]


def test_a_container_that_used_up_its_allowance_is_not_listened_to_for_a_while(streams: Streams) -> None:
    with tempfile.TemporaryDirectory(prefix="pl-") as folder:
        doors = Doors(Path(folder), streams, MetricsTracker())
        doors.prepare()
        door = doors._doors[LEASE]
        assert door.pause_seconds(BURST_LINES_MAX - LINES_PER_SECOND_MAX) == 0
        assert 1.9 < door.pause_seconds(3 * LINES_PER_SECOND_MAX) <= 2
        doors.close(LEASE)
