"""Usage of real containers: counted by the kernel, across restarts of container and miner, and signed once at the end."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from neurons.miner.node import MinerNode
from polarise.cli import main as verify_main
from polarise.errors import ErrorCode, RequestRejected
from polarise.messages import AllocateAnswer, AllocateRequest
from polarise.signing import Identity
from polarise.statement import SignedStatement
from polarise.telemetry_client import TelemetryClient
from polarise.usage import Usage, open_usage
from tests.support.engine import engine, remove_everything_of
from tests.support.identities import People, fresh_node_identity
from tests.support.miners import RunningMiner, miner_config, running

pytestmark = pytest.mark.docker

BURN = "i=0; while [ $i -lt 40000 ]; do i=$((i+1)); done; cut -d' ' -f14 /proc/$$/stat"


@pytest.fixture(name="own_identity")
def identity_of_a_node_of_the_test_s_own(people: People) -> Iterator[Identity]:
    made = fresh_node_identity(people.owner)
    yield made
    remove_everything_of(made.public_key[:12])


def burn(answer: AllocateAnswer) -> int:
    """Work in the container, and return how many milliseconds its own kernel says that took."""
    with engine() as client:
        done = client.containers.get(answer.container_id).exec_run(["sh", "-c", BURN])
    assert isinstance(done.output, bytes)
    assert done.exit_code == 0, done.output
    return int(done.output) * 10


def opened(miner: RunningMiner, people: People, answer: AllocateAnswer, statement: SignedStatement | None) -> Usage:
    assert statement is not None
    return open_usage(
        statement, node_key=miner.key, renter_key=people.renter.public_key, container_id=answer.container_id
    )


def test_final_statement_is_answered_kept_logged_and_verified(
    miner: RunningMiner, people: People, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client = miner.client(people.renter)
    answer = client.allocate(AllocateRequest())
    burnt_ms = burn(answer)
    so_far = opened(miner, people, answer, client.usage(answer.container_id))
    assert not so_far.is_final
    assert so_far.cpu_ms is not None
    assert so_far.cpu_ms >= burnt_ms
    ended = client.terminate(answer.container_id)
    assert ended.data == "deleted"
    usage = opened(miner, people, answer, ended.usage)
    assert usage.is_final
    assert usage.cpu_ms is not None
    assert usage.cpu_ms >= so_far.cpu_ms
    assert usage.allocated_ms >= so_far.allocated_ms > 0
    assert usage.until_unix_ms - usage.began_unix_ms == pytest.approx(usage.allocated_ms, abs=100)
    assert usage.network_in_bytes is not None
    assert usage.memory_mib_seconds is not None
    # It can be asked for again, by its renter and the owner, and by nobody else.
    assert client.usage(answer.container_id) == ended.usage
    assert miner.client(people.owner).usage(answer.container_id[:12]) == ended.usage
    with pytest.raises(RequestRejected) as caught:
        miner.client(people.other_renter).usage(answer.container_id)
    assert caught.value.code is ErrorCode.NOT_FOUND
    # It is the last line but one of the lease's own log.
    page = TelemetryClient(miner.url, miner.key, people.renter).events(usage.lease_id, 0)
    logged = [line for line in page.lines if "allocation.usage" in line]
    assert len(logged) == 1
    assert ended.usage is not None
    assert ended.usage.signature in logged[0]
    # And it holds offline, by the file alone.
    file = tmp_path / "answer.json"
    file.write_text(ended.model_dump_json())
    assert verify_main(["verify", "usage", str(file), "--key", miner.key]) == 0
    assert f"cpu_ms: {usage.cpu_ms}" in capsys.readouterr().out


def test_restart_of_container_and_miner_counts_on_and_nothing_twice(
    people: People, own_identity: Identity, tmp_path: Path
) -> None:
    def node() -> MinerNode:
        return MinerNode(miner_config(people), tmp_path / "node", own_identity)

    with running(node()) as miner:
        answer = miner.client(people.renter).allocate(AllocateRequest())
        burnt_ms = burn(answer)
        first = opened(miner, people, answer, miner.client(people.renter).usage(answer.container_id))
        with engine() as client:
            client.api.kill(answer.container_id)
            client.api.wait(answer.container_id, timeout=10)
        miner.reconcile()
        burnt_ms += burn(answer)
    burnt_ms += burn(answer)  # nobody counts now; the kernel goes on
    with running(node()) as miner:
        client_of = miner.client(people.renter)
        second = opened(miner, people, answer, client_of.usage(answer.container_id))
        assert first.cpu_ms is not None
        assert second.cpu_ms is not None
        assert second.cpu_ms >= burnt_ms
        third = opened(miner, people, answer, client_of.terminate(answer.container_id).usage)
        assert third.cpu_ms is not None
        # What was counted twice would show as a third of the work and more.
        assert third.cpu_ms < second.cpu_ms + burnt_ms / 3
        assert second.began_unix_ms == first.began_unix_ms
