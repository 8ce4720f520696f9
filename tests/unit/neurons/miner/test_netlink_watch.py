"""What lies in netlink sockets, summed up as the kernel prints it; what becomes of it is in tests/integration/test_hostile_tenant.py."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from neurons.base.database import StorageRefused
from neurons.miner.lease import Expiry, LeaseState
from neurons.miner.netlink_watch import GROUPS_BYTES_MAX, NetlinkWatch, excess, groups_excess, held_bytes
from neurons.miner.running import RunningLeases
from tests.support.leases import lease
from tests.unit.neurons.miner.test_running import engineless_leases, manual_clock
from utils.clock import SystemClock
from utils.docker_utils import connect

__all__ = ["engineless_leases", "manual_clock"]

HEAD = b"sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode\n"


def socket_line(received: int, sent: int = 0) -> bytes:
    return (
        f"00000000d4db29ec 0   14356      00000000 {received:<8} {sent:<8} 0     2        0        9955040 \n".encode()
    )


@pytest.mark.parametrize(
    ("text", "held"),
    [
        (b"", 0),
        (HEAD, 0),
        (HEAD + socket_line(0) + socket_line(213_504, 8), 213_512),
        (HEAD + socket_line(1 << 33), 1 << 33),
        # A line that was cut off, before and in the middle of what counts.
        (HEAD + socket_line(5)[:-60] + b"\n" + socket_line(7), 7),
    ],
)
def test_sockets_are_summed_up(text: bytes, held: int) -> None:
    assert held_bytes(text) == held


def test_lease_may_hold_a_quarter_of_its_memory_and_not_a_byte_more() -> None:
    memory = 64 << 20
    assert excess(HEAD + socket_line(16 << 20), memory) is None
    assert excess(HEAD + socket_line(16 << 20, 1), memory) == "16777217 bytes lie in netlink sockets, 16777216 may"


def test_list_that_is_longer_than_any_honest_one_is_too_much_whatever_it_holds() -> None:
    line = socket_line(0)
    count = (1 << 20) // len(line)
    assert excess(HEAD + line * (count - 2), 64 << 20) is None
    assert "netlink sockets are open" in str(excess((HEAD + line * (count + 2))[: 1 << 20], 64 << 20))


def test_multicast_groups_are_too_many_where_their_list_reaches_its_bound_and_not_a_byte_before() -> None:
    line = b"1    eth0            ff150000000000000000000000000001     1 00000004 0\n"
    text = line * (GROUPS_BYTES_MAX // len(line) + 1)
    assert groups_excess(b"") is None
    assert groups_excess(text[: GROUPS_BYTES_MAX - 1]) is None
    assert "multicast groups" in str(groups_excess(text[:GROUPS_BYTES_MAX]))


@pytest.fixture(name="processes")
def first_processes() -> Iterator[list[subprocess.Popen[bytes]]]:
    with contextlib.ExitStack() as stack:
        started = [stack.enter_context(subprocess.Popen(["sleep", "600"])) for _ in range(3)]
        yield started
        for process in started:
            process.kill()


def hoarding(leases: RunningLeases, tmp_path: Path, processes: list[subprocess.Popen[bytes]]) -> NetlinkWatch:
    """Grant a lease to each process, and let the kernel's list of each say that it is far over its limit."""
    for number, process in enumerate(processes):
        row = lease(number, container_id=f"{number:064x}", expiry=Expiry.after(SystemClock(), 600))
        leases.journal.reserve(lambda _leases: row)  # noqa: B023  called at once
        leases.journal.update(row, also=leases.metering.begun(process.pid), state=LeaseState.ACTIVE)
        (tmp_path / str(process.pid) / "net").mkdir(parents=True)
        (tmp_path / str(process.pid) / "net" / "netlink").write_bytes(HEAD + socket_line(1 << 40))
    return NetlinkWatch(leases, proc=tmp_path)


def test_all_that_hoard_are_killed_before_the_engine_is_asked_to_remove_one(
    leases: RunningLeases, tmp_path: Path, processes: list[subprocess.Popen[bytes]]
) -> None:
    """The engine hangs: it takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = connect(f"tcp://127.0.0.1:{silent.getsockname()[1]}")
        leases.manager.client = client
        watch = hoarding(leases, tmp_path, processes)
        thread = threading.Thread(target=watch.look, daemon=True)
        thread.start()
        connection, _ = silent.accept()
        with connection:
            # Long before the question to the engine is given up.
            assert [process.wait(3) for process in processes] == [-9] * 3
            thread.join(3)
            assert not thread.is_alive()
        client.close()
    assert {(row.state, row.lost) for row in leases.journal.all()} == {(LeaseState.DELETING, "host_memory_taken")}


def test_hoard_is_killed_also_where_its_end_cannot_be_written_down(
    leases: RunningLeases, tmp_path: Path, processes: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = hoarding(leases, tmp_path, processes)

    def refuse(*_arguments: object, **_named: object) -> None:
        raise StorageRefused("journal.sqlite cannot be written: the disk is full")

    monkeypatch.setattr(leases.journal, "change", refuse)
    watch.look()
    assert [process.wait(3) for process in processes] == [-9] * 3
