"""The real clock: it goes, and its stamps are what the world writes."""

from utils.clock import SystemClock, iso_utc, utc_now


def test_clocks_go_forward() -> None:
    clock = SystemClock()
    before = (clock.wall_unix_ms(), clock.boot_ms(), clock.monotonic_ns())
    after = (clock.wall_unix_ms(), clock.boot_ms(), clock.monotonic_ns())
    assert all(later >= earlier for earlier, later in zip(before, after, strict=True))
    assert clock.boot_id() == SystemClock().boot_id()


def test_stamp_is_rfc_3339_to_the_millisecond() -> None:
    assert iso_utc(0) == "1970-01-01T00:00:00.000Z"
    assert iso_utc(1_767_225_599_999) == "2025-12-31T23:59:59.999Z"


def test_now_is_aware() -> None:
    assert utc_now(SystemClock()).utcoffset() is not None
