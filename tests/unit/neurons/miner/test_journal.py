"""The journal: one reservation at a time, and nothing is given to two leases however many ask at once."""

import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from neurons.miner.inventory import Inventory
from neurons.miner.journal import Journal
from neurons.miner.journal_schema import VERSION
from neurons.miner.lease import Lease, LeaseState
from polarise.errors import ConfigError, RequestRejected
from polarise.messages import DeviceSelector
from polarise.rented import Countersignature, CountersignedReceipt
from polarise.statement import sign_statement
from tests.support.identities import identity
from tests.support.leases import LIMITS, lease
from utils.gpu import Gpu

THREADS = 20
NOW_MS = 1_800_000_000_000
_SIGNED = sign_statement(
    identity("renter"),
    "countersignature",
    Countersignature(receipt="0" * 64, lease_id="0" * 32, node_key="0" * 64, signed_unix_ms=0),
)
COUNTERSIGNED = CountersignedReceipt(receipt=_SIGNED, countersignature=_SIGNED)
GPUS = tuple(Gpu(index, f"GPU-{index}", "NVIDIA H200", 1 << 37) for index in range(6))
STOCK = Inventory(
    memory_bytes=8 * LIMITS.memory_bytes,
    cpu_milli=100_000,
    gpus=GPUS,
    ssh_ports=range(20_000, 20_100),
    leases_max=90,
    leases_per_key_max=90,
)


@pytest.fixture(name="journal")
def open_journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "journal.sqlite") as journal:
        yield journal


def test_lease_comes_back_as_it_was_written(tmp_path: Path) -> None:
    made = lease(
        1,
        devices=("GPU-1", "GPU-2"),
        container_id="a" * 64,
        has_password=True,
        idempotency_key="once",
        countersigned=COUNTERSIGNED,
        isolation="strict",
        runtime="runc",
    )
    with Journal(tmp_path / "journal.sqlite") as journal:
        journal.reserve(lambda _leases: made)
    with Journal(tmp_path / "journal.sqlite") as journal:
        assert journal.all() == [made]
        assert journal.by_id(made.lease_id) == made
        assert (journal.by_device("GPU-2"), journal.by_device("GPU-3")) == (made, None)
        assert journal.by_idempotency_key(made.renter_key, "once") == made
        assert journal.by_idempotency_key("cd" * 32, "once") is None


def test_file_of_the_version_before_is_read_and_takes_a_countersignature(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    made = lease(1, state=LeaseState.ACTIVE, container_id="a" * 64)
    with Journal(path) as journal:
        journal.reserve(lambda _leases: made)
    connection = sqlite3.connect(path)
    connection.executescript(
        "ALTER TABLE lease DROP COLUMN countersigned; ALTER TABLE lease DROP COLUMN consent; "
        "ALTER TABLE lease DROP COLUMN address; "
        "ALTER TABLE lease DROP COLUMN lost; "
        "ALTER TABLE lease DROP COLUMN private; "
        "DROP TABLE spent_key; DROP TABLE usage; "
        "DROP TABLE usage_statement; ALTER TABLE lease DROP COLUMN isolation; ALTER TABLE lease DROP COLUMN runtime; "
        "PRAGMA user_version = 1"
    )
    connection.close()
    with Journal(path) as journal:
        assert journal.all() == [made]
        signed = journal.update(made, countersigned=COUNTERSIGNED)
        assert signed.countersigned == COUNTERSIGNED
    with Journal(path) as journal:
        assert journal.all() == [signed]


def test_file_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    with Journal(path):
        pass
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    connection.close()
    with pytest.raises(ConfigError, match="newer version"):
        Journal(path)


def test_update_and_forget(journal: Journal) -> None:
    made = journal.reserve(lambda _leases: lease(1))
    changed = journal.update(made, state=LeaseState.ACTIVE, container_id="a" * 64)
    assert journal.all() == [changed]
    journal.forget(made.lease_id, NOW_MS)
    assert journal.all() == []


def test_refusal_to_decide_writes_nothing(journal: Journal) -> None:
    def refuse(_leases: list[Lease]) -> Lease:
        raise LookupError

    with pytest.raises(LookupError):
        journal.reserve(refuse)
    assert journal.all() == []


def test_container_is_found_by_id_or_by_a_prefix_that_fits_one_alone(journal: Journal) -> None:
    first = journal.reserve(lambda _leases: lease(1, container_id="a" * 63 + "1"))
    journal.reserve(lambda _leases: lease(2, container_id="a" * 63 + "2"))
    assert journal.by_container("a" * 63 + "1") == first
    assert journal.by_container("a" * 12) is None
    assert journal.by_container("b" * 12) is None


def test_wildcards_of_sql_find_nothing(journal: Journal) -> None:
    journal.reserve(lambda _leases: lease(1, container_id="a" * 64))
    for pattern in ("%", "_" * 64, "a" * 11 + "%", "' OR 1=1 --"):
        assert journal.by_container(pattern) is None


def in_parallel(work: Callable[[int], None]) -> list[Exception]:
    """Run ``work`` in twenty threads that begin together."""
    failures: list[Exception] = []
    barrier = threading.Barrier(THREADS)

    def run(number: int) -> None:
        barrier.wait()
        try:
            work(number)
        except Exception as err:  # noqa: BLE001  counted by the caller
            failures.append(err)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures


def test_twenty_at_once_share_no_port_no_device_and_no_byte(journal: Journal) -> None:
    """Memory is enough for eight of them, devices for six of those that want one."""

    def reserve(number: int) -> None:
        def decide(leases: list[Lease]) -> Lease:
            STOCK.check_free(LIMITS, f"{number:064x}", leases)
            wanted = DeviceSelector(count=1) if number % 2 else None
            return lease(number, devices=STOCK.pick_devices(wanted, leases), ssh_port=STOCK.pick_port(leases, ()))

        journal.reserve(decide)

    failures = in_parallel(reserve)
    granted = journal.all()
    assert len(granted) == 8
    assert len(failures) == THREADS - 8
    assert all(isinstance(err, RequestRejected) for err in failures)
    assert max(Counter(row.ssh_port for row in granted).values()) == 1
    devices = Counter(device for row in granted for device in row.devices)
    assert not devices or max(devices.values()) == 1
    assert STOCK.free(granted).memory_bytes == 0


def test_twenty_that_move_at_once_get_twenty_ports(journal: Journal) -> None:
    made = [journal.reserve(lambda _leases, number=number: lease(number)) for number in range(THREADS)]  # type: ignore[misc]
    refused = {row.ssh_port for row in made}
    failures = in_parallel(
        lambda number: void(journal.move(made[number], lambda leases: STOCK.pick_port(leases, refused)))
    )
    assert failures == []
    ports = [row.ssh_port for row in journal.all()]
    assert len(set(ports)) == THREADS
    assert not refused & set(ports)


def void(_result: object) -> None:
    """Drop a result."""


def test_update_of_one_column_loses_no_change_of_another(journal: Journal) -> None:
    """Who read the row before somebody ended the lease must not write it back to life."""
    read = journal.reserve(lambda _leases: lease(1, state=LeaseState.ACTIVE, container_id="ab" * 32))
    journal.update(read, state=LeaseState.DELETING)
    after = journal.update(read, has_password=True)
    assert (after.state, after.has_password) == (LeaseState.DELETING, True)
    assert journal.by_id(read.lease_id) == after


def test_change_that_raises_or_declines_writes_nothing(journal: Journal) -> None:
    read = journal.reserve(lambda _leases: lease(1))

    def fail(_found: Lease) -> Lease:
        raise KeyError

    with pytest.raises(KeyError):
        journal.change(read.lease_id, fail)
    assert journal.change(read.lease_id, lambda _found: None) is None
    assert journal.by_id(read.lease_id) == read
    journal.forget(read.lease_id, 0)
    assert journal.change(read.lease_id, lambda found: found) is None
