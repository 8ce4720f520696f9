"""Sums over counters that begin anew: nothing counts twice, and one interval at most is lost."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurons.miner.meter import GAP_MS, Meter, Reading, whole
from polarise.usage import COUNT_MAX

FIRST = Reading("boot 1 1", "boot", 1_000, 50_000)
BEGUN = Meter(50_000, FIRST)


def reading(boot_ms: int, cpu_ns: int | None, source: str = "boot 1 1", **more: int | str | None) -> Reading:
    made = Reading(source, "boot", boot_ms, 49_000 + boot_ms, cpu_ns, 10, 20, 1 << 20)
    return replace(made, **more)  # type: ignore[arg-type]  # dataclasses.replace checks the names


def test_first_reading_counts_everything_since_the_container_started() -> None:
    meter = BEGUN.advanced(reading(6_000, 700))
    assert (meter.allocated_ms, meter.cpu_ns, meter.network_in_bytes, meter.network_out_bytes) == (5_000, 700, 10, 20)
    assert meter.memory_byte_ms == (1 << 20) * 5_000


def test_same_source_counts_the_difference_and_a_new_one_everything() -> None:
    meter = BEGUN.advanced(reading(2_000, 700)).advanced(reading(3_000, 900))
    assert meter.cpu_ns == 900
    meter = meter.advanced(reading(4_000, 50, "boot 2 9"))
    assert (meter.cpu_ns, meter.allocated_ms) == (950, 2_000)
    meter = meter.advanced(reading(5_000, 60, "boot 2 9"))
    assert (meter.cpu_ns, meter.allocated_ms) == (960, 3_000)


def test_reading_that_comes_again_or_too_late_changes_nothing() -> None:
    meter = BEGUN.advanced(reading(3_000, 900))
    assert meter.advanced(reading(3_000, 900)) == meter
    assert meter.advanced(reading(2_999, 800)) == meter
    assert meter.advanced(reading(2_999, 5, "boot 2 9")) == meter


def test_figure_that_cannot_be_read_once_is_not_counted_twice_later() -> None:
    meter = BEGUN.advanced(reading(2_000, 700)).advanced(reading(3_000, None)).advanced(reading(4_000, 800))
    assert meter.cpu_ns == 800
    never = BEGUN.advanced(reading(2_000, None, network_in_bytes=None, memory_bytes=None))
    assert (never.cpu_ns, never.network_in_bytes, never.memory_byte_ms) == (None, None, None)


def test_downtime_of_the_host_is_not_allocated_and_the_new_boot_counts_from_zero() -> None:
    meter = BEGUN.advanced(reading(2_000, 700))
    after = replace(reading(100, 30, "boot2 5 5"), boot_id="boot2")
    assert (meter.advanced(after).allocated_ms, meter.advanced(after).cpu_ns) == (1_000, 730)


def test_time_beyond_the_expiry_is_not_allocated() -> None:
    """A miner that was dead at the expiry ends the lease late; its renter does not pay for that."""
    meter = BEGUN.advanced(reading(61_000, 1), overdue_ms=20_000)
    assert meter.allocated_ms == 40_000
    assert meter.advanced(reading(62_000, 2), overdue_ms=21_000).allocated_ms == 40_000


def test_memory_of_a_gap_that_nobody_saw_is_not_invented() -> None:
    meter = BEGUN.advanced(reading(1_000 + GAP_MS, 1))
    assert meter.memory_byte_ms == (1 << 20) * GAP_MS
    assert BEGUN.advanced(reading(1_001 + GAP_MS, 1)).memory_byte_ms == (1 << 20) * GAP_MS
    assert meter.advanced(reading(9_000_000, 2, "boot 2 9")).memory_byte_ms == (1 << 20) * GAP_MS


def test_meter_comes_back_from_its_text() -> None:
    meter = BEGUN.advanced(reading(2_000, None))
    assert Meter.from_json(meter.to_json()) == meter


@pytest.mark.parametrize(("value", "shown"), [(None, None), (1_999_999, 1), (2**60 * 1_000_000, COUNT_MAX)])
def test_whole_units_stop_at_what_json_carries(value: int | None, shown: int | None) -> None:
    assert whole(value, 1_000_000) == shown


# What happens to a container that runs: it works, is read, is restarted.
STEPS = st.lists(
    st.one_of(st.tuples(st.just("work"), st.integers(1, 10**9)), st.just(("read", 0)), st.just(("restart", 0)))
)


@given(STEPS)
def test_counted_is_what_was_used_up_to_the_last_reading_before_each_restart(steps: list[tuple[str, int]]) -> None:
    meter, counter, starts, boot_ms = BEGUN, 0, 1, 1_000
    counted, unread = 0, 0
    for step, amount in steps:
        boot_ms += 1_000
        if step == "work":
            counter, unread = counter + amount, unread + amount
        elif step == "read":
            meter = meter.advanced(reading(boot_ms, counter, f"boot {starts} 1"))
            counted, unread = counted + unread, 0
        else:
            counter, unread, starts = 0, 0, starts + 1
    assert (meter.cpu_ns or 0) == counted
