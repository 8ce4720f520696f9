"""A miner that drains grants nothing new, says so everywhere, and remembers it over a restart."""

import argparse
from pathlib import Path

import pytest

from neurons.cli import build_parser
from neurons.miner.drain import Drain
from neurons.miner.node import MinerNode
from neurons.miner.retries import request_digest
from neurons.miner.status import read_status, render
from polarise.errors import ConfigError, ErrorCode, Unavailable
from polarise.messages import AllocateRequest
from polarise.signing import Identity
from tests.support.http import signed
from tests.support.identities import People
from tests.support.leases import lease
from tests.support.miners import RunningMiner, engineless, running


def drain(root: Path, *words: str) -> int:
    """Run ``miner drain``."""
    args: argparse.Namespace = build_parser().parse_args(["miner", "drain", "--data-dir", str(root), *words])
    status: int = args.handler(args)
    return status


def test_draining_miner_refuses_new_leases_and_nothing_else(
    engineless_miner: RunningMiner, people: People, capsys: pytest.CaptureFixture[str]
) -> None:
    miner, root = engineless_miner, engineless_miner.node.data_dir.root
    wanted = AllocateRequest()
    held = lease(
        1,
        renter_key=people.renter.public_key,
        state="ACTIVE",
        container_id="ab" * 32,
        idempotency_key="once",
        request_digest=request_digest(wanted),
    )
    miner.allocator.journal.reserve(lambda _leases: held)
    client = miner.client(people.renter)
    try:
        assert not client.status().is_draining
        assert drain(root) == 0
        printed = capsys.readouterr().out
        assert "1 leases go on, the last until" in printed
        assert "costs service score" in printed
        answer = signed(miner.url, miner.key, people.renter, "POST", "/allocate")
        answer.assert_refused(503, "DRAINING")
        assert answer.headers["retry-after"] == "300"
        with pytest.raises(Unavailable) as caught:
            client.allocate(wanted)
        assert (caught.value.code, caught.value.retry_after_seconds) == (ErrorCode.DRAINING, 300)
        assert client.status().is_draining
        assert "draining" in render(read_status(root)).splitlines()[0]
        # What was granted goes on: shown, renewed, and answered again.
        assert [view.container_id for view in client.containers()] == ["ab" * 32]
        client.renew("ab" * 32, 60)
        assert client.allocate(wanted, idempotency_key="once").container_id == "ab" * 32
        assert drain(root, "--off") == 0
        assert not client.status().is_draining
        with pytest.raises(Unavailable) as caught:
            client.allocate(wanted)
        assert caught.value.code is ErrorCode.UNAVAILABLE
    finally:
        Drain(root).switch(on=False)
        miner.allocator.journal.forget(held.lease_id, 0)


def test_draining_outlives_a_restart(people: People, node_identity: Identity, tmp_path: Path) -> None:
    root = tmp_path / "node"
    with running(MinerNode(engineless(people), root, node_identity)):
        assert drain(root) == 0
        assert drain(root) == 0
    with running(MinerNode(engineless(people), root, node_identity)) as miner:
        assert miner.client(people.renter).status().is_draining
        assert drain(root, "--off") == 0
        assert drain(root, "--off") == 0
        assert not miner.client(people.renter).status().is_draining


def test_folder_of_no_miner_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a miner's data directory"):
        drain(tmp_path)
    with pytest.raises(ConfigError, match="cannot write"):
        Drain(tmp_path / "missing").switch(on=True)
