"""A few leases leave nothing behind; `benchmarks/leaks.py` counts the same over two hundred."""

import pytest

from benchmarks.leaks import measure

pytestmark = [pytest.mark.docker, pytest.mark.lab, pytest.mark.slow]

# The engine's own connections come and go, and come to rest only after tens of leases.
RESTLESS = {"files open, dockerd", "files open, miner"}


def test_leases_leave_nothing_behind() -> None:
    rows = measure(cycles=3, warm_up=3, settle_seconds=5)
    assert {row.name: row.after - row.before for row in rows if row.has_grown and row.name not in RESTLESS} == {}
    assert {"containers", "veth pairs", "firewall rules", "mounts", "control groups"} <= {row.name for row in rows}
