"""Granted leases without an engine: renewal, expiry, and an end that is put off until the engine answers."""

import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from config.schema import DockerConfig
from neurons.base.agent_client import AgentClient
from neurons.base.threads import DaemonThreads
from neurons.miner.admission import Admission, AllocationDefaults
from neurons.miner.container import ContainerManager, ContainerSettings
from neurons.miner.counters import CounterReader
from neurons.miner.journal import Journal
from neurons.miner.keeper import LeaseKeeper
from neurons.miner.lease import Expiry, Lease, LeaseState
from neurons.miner.lease_events import LeaseEvents
from neurons.miner.metering import Metering
from neurons.miner.network import NodeNetwork
from neurons.miner.running import RunningLeases
from neurons.miner.usage_book import UsageBook
from polarise.errors import ErrorCode, RequestRejected, Unavailable
from polarise.ssh_keys import generate_key_pair
from tests.support.clock import ManualClock
from tests.support.disks import disk_offer
from tests.support.engine import DEAD_ENGINE
from tests.support.identities import identity
from tests.support.leases import lease
from utils.docker_utils import connect

TTL_MAX = 100
DEFAULTS = AllocationDefaults(
    image="polarise/base:0123456789ab",
    allowed_images=frozenset(),
    memory_bytes=1 << 30,
    memory_bytes_min=64 << 20,
    cpu_milli=1000,
    shm_bytes=64 << 20,
    pids_count=512,
    ttl_seconds=60,
    ttl_seconds_max=TTL_MAX,
    password_login=True,
    registered_ssh_keys={},
)


@pytest.fixture(name="clock")
def manual_clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(name="leases")
def engineless_leases(tmp_path: Path, clock: ManualClock) -> Iterator[RunningLeases]:
    client = connect(DEAD_ENGINE)
    settings = ContainerSettings("0" * 12, "polarise-", "127.0.0.1", tmp_path / "leases", 1)
    with Journal(tmp_path / "journal.sqlite") as journal:
        events = LeaseEvents(AgentClient(tmp_path))
        offer = disk_offer(client, tmp_path, mode="none")
        manager = ContainerManager(client, settings, NodeNetwork("0" * 12), events.mount, offer.disks)
        metering = Metering(journal, UsageBook(journal, identity("miner")), manager, clock)
        yield RunningLeases(manager, journal, Admission(DEFAULTS, offer), events, metering, clock)
    client.close()


def granted(leases: RunningLeases, clock: ManualClock, seconds: int) -> Lease:
    """Put an active lease into the journal."""
    active = lease(1, state=LeaseState.ACTIVE, container_id="ab" * 32, expiry=Expiry.after(clock, seconds))
    return leases.journal.reserve(lambda _leases: active)


def test_lease_may_be_renewed_as_often_as_its_renter_likes(leases: RunningLeases, clock: ManualClock) -> None:
    current = granted(leases, clock, TTL_MAX)
    for _ in range(5):
        clock.advance(TTL_MAX - 1)
        current = leases.renew(current, TTL_MAX)
        assert current.expiry.remaining_ms(clock) == TTL_MAX * 1000


def test_no_renewal_gives_a_second_more_than_the_longest_time(leases: RunningLeases, clock: ManualClock) -> None:
    current = granted(leases, clock, 10)
    with pytest.raises(RequestRejected, match=f"{TTL_MAX + 1} s is too long"):
        leases.renew(current, TTL_MAX + 1)
    assert leases.journal.by_id(current.lease_id) == current


def test_setting_says_what_the_code_does_about_renewals() -> None:
    description = str(DockerConfig.model_fields["max_ttl_seconds"].description)
    assert "after each renewal" in description
    assert "renewals are not counted" in description


def test_lease_is_renewed_in_its_last_millisecond_and_not_at_its_end(leases: RunningLeases, clock: ManualClock) -> None:
    current = granted(leases, clock, 10)
    clock.advance(9.999)
    current = leases.renew(current, 10)
    clock.advance(10)
    with pytest.raises(RequestRejected) as caught:
        leases.renew(current, 10)
    assert caught.value.code is ErrorCode.NOT_FOUND


def test_expired_lease_is_claimed_once_and_then_nothing_renews_it(leases: RunningLeases, clock: ManualClock) -> None:
    current = granted(leases, clock, 10)
    clock.advance(9.999)
    assert leases.claim_expired(current.lease_id) is None
    clock.advance(0.001)
    claimed = leases.claim_expired(current.lease_id)
    assert claimed is not None
    assert claimed.state is LeaseState.DELETING
    assert leases.claim_expired(current.lease_id) is None
    clock.step_wall(-3600)  # even if the clock says otherwise now
    with pytest.raises(RequestRejected):
        leases.renew(current, 10)


def test_lease_whose_engine_is_away_stays_deleting(leases: RunningLeases, clock: ManualClock) -> None:
    """Nobody knows whether its container runs: the wish is kept, its time is over, and that is said."""
    current = granted(leases, clock, 10)
    with pytest.raises(Unavailable, match="the lease is over and counts no more"):
        leases.terminate(current)
    found = leases.journal.by_id(current.lease_id)
    assert found is not None
    assert found.state is LeaseState.DELETING
    assert found.expiry.remaining_ms(clock) == 0


def test_login_is_not_changed_halfway_where_the_engine_is_away(leases: RunningLeases, clock: ManualClock) -> None:
    """The server would not read that passwords are off, and the answer is 503: then the old key must stand as well."""
    current = leases.journal.update(granted(leases, clock, 10), has_password=True)
    files = leases.manager.login_files(current.lease_id)
    _, old = generate_key_pair()
    files.create(old, with_password=True, isolation="standard")
    before = {path: path.read_bytes() for path in files.folder.rglob("*") if path.is_file()}
    with pytest.raises(Unavailable):
        leases.set_public_key(current, generate_key_pair()[1])
    assert {path: path.read_bytes() for path in files.folder.rglob("*") if path.is_file()} == before


@pytest.fixture(name="first")
def first_process() -> Iterator[subprocess.Popen[bytes]]:
    """What a container's first process is to the host."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


@pytest.mark.parametrize("is_gone", [False, True])
def test_lease_whose_engine_is_away_ends_with_its_first_process(
    leases: RunningLeases, clock: ManualClock, first: subprocess.Popen[bytes], *, is_gone: bool
) -> None:
    current = granted(leases, clock, 10)
    leases.journal.update(current, also=leases.metering.begun(first.pid))
    if is_gone:
        first.kill()
        first.wait(10)
    leases.terminate(current)
    assert first.wait(10) == -signal.SIGKILL
    found = leases.journal.by_id(current.lease_id)
    assert found is not None
    assert found.state is LeaseState.DELETING


def test_time_behind_the_end_is_not_allocated_whatever_still_runs(
    leases: RunningLeases, clock: ManualClock, tmp_path: Path
) -> None:
    process = tmp_path / "proc" / "7"
    process.mkdir(parents=True)
    (process / "stat").write_text(f"7 (sshd) S {' '.join(['0'] * 18)} 4242 0\n")
    (process / "cgroup").write_text("0::/docker/abc\n")
    reader = CounterReader(clock, proc=tmp_path / "proc", cgroup_root=tmp_path / "cgroup")
    leases.metering = Metering(leases.journal, leases.metering.book, leases.manager, clock, reader)
    current = granted(leases, clock, 60)
    leases.journal.update(current, also=leases.metering.begun(7))
    clock.advance(7)
    with pytest.raises(Unavailable):
        leases.end(current)
    clock.advance(30)
    ending = leases.journal.by_id(current.lease_id)
    assert ending is not None
    leases.metering.read_last(ending)
    meter = leases.metering.book.meter(current.lease_id)
    assert meter is not None
    assert meter.allocated_ms == 7_000


def test_keeper_tries_again_when_it_was_told_to_and_not_before(
    leases: RunningLeases, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    granted(leases, clock, 10)
    keeper = LeaseKeeper(leases, clock)

    def look() -> None:
        threads = DaemonThreads("test", 1)
        keeper.end_expired(threads)
        assert threads.join(5)

    def tries() -> int:
        return sum(record.message == "cannot end a lease yet" for record in caplog.records)

    look()
    assert tries() == 0
    clock.advance(10)
    look()
    look()
    assert tries() == 1
    clock.advance(5)  # what `Unavailable` says of an engine
    look()
    assert tries() == 2


def test_held_lease_delays_no_look_of_the_keeper(leases: RunningLeases, clock: ManualClock) -> None:
    current = granted(leases, clock, 10)
    clock.advance(10)
    keeper, stop = LeaseKeeper(leases, clock), threading.Event()
    with leases.locks.holding(current.lease_id):
        thread = threading.Thread(target=keeper.run, args=(stop,))
        thread.start()
        stop.set()
        thread.join(10)
        assert not thread.is_alive()
