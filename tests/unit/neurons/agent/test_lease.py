"""A lease end to end: a real miner and a real agent as processes, a real container that trains, and its renter."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from neurons.setup.image import base_image_reference, image_id
from polarise.clients import MinerClient
from polarise.envelope import open_line
from polarise.errors import Unavailable
from polarise.messages import AllocateRequest
from polarise.signing import Identity, SigningKey
from polarise.ssh_keys import generate_key_pair
from polarise.telemetry_client import TelemetryClient
from telemetry.archive import Archive
from telemetry.puller import Puller
from tests.support.worker import free_port
from tests.unit.neurons.agent.agent_process import IDENTITY, NODE_KEY, ROOT, AgentProcess

pytestmark = [
    pytest.mark.docker,
    pytest.mark.skipif(image_id(base_image_reference()) is None, reason="the base image is not built"),
]
RENTER = Identity(SigningKey(b"\x21" * 32))
VALIDATOR = Identity(SigningKey(b"\x22" * 32))


@pytest.fixture
def miner(agent: AgentProcess) -> Iterator[MinerClient]:
    """A miner beside the agent, on the agent's data directory."""
    port = free_port()
    log = tempfile.TemporaryFile()  # noqa: SIM115  closed at the end, below
    process = subprocess.Popen(
        [sys.executable, __file__, str(agent.node_dir), str(port)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=log,
        stdin=subprocess.DEVNULL,
    )
    client = MinerClient(f"http://127.0.0.1:{port}", NODE_KEY, RENTER)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                client.status()
                break
            except Unavailable:
                log.seek(0)
                assert process.poll() is None, log.read().decode()
                assert time.monotonic() < deadline
                time.sleep(0.1)
        yield client
    finally:
        process.terminate()
        process.wait(30)
        log.close()
        subprocess.run(["docker", "network", "rm", f"polarise-{NODE_KEY[:12]}"], capture_output=True, check=False)


def test_a_training_run_is_found_in_the_renter_s_stream(
    agent: AgentProcess, miner: MinerClient, tmp_path: Path
) -> None:
    _, public_key = generate_key_pair()
    lease = miner.allocate(AllocateRequest(memory="128m", cpu_count=0.5, ssh_public_key=public_key))
    try:
        [lease_id] = agent.client.open_streams()
        for epoch in range(3):
            command = ["python3", "/run/polarise/events.py", "emit", "training.epoch", f'{{"epoch": {epoch}}}']
            subprocess.run(["docker", "exec", lease.container_id, *command], check=True, timeout=60)
    finally:
        miner.terminate(lease.container_id)
    assert agent.client.open_streams() == ()
    with Archive(tmp_path / "archive.sqlite") as archive:
        reader = Puller(TelemetryClient(miner.endpoint, NODE_KEY, RENTER), archive)
        reader.pull(lease_id)
        validator = Puller(TelemetryClient(miner.endpoint, NODE_KEY, VALIDATOR), archive)
        validator.pull("system")
        own = [open_line(line) for line in archive.lines(f"{NODE_KEY}/lease/{lease_id}", 0, 999)]
        system = [open_line(line) for line in archive.lines(f"{NODE_KEY}/system", 0, 999)]
    assert [event.payload["epoch"] for event in own if event.kind == "training.epoch"] == [0, 1, 2]
    assert own[-1].kind == "stream.closed"
    steps = [event.payload["status"] for event in system if event.kind == "action.status"]
    assert steps == ["INITIALIZING", "RUNNING", "SUCCEEDED"]


def test_without_an_agent_there_is_no_lease_and_nothing_is_left(agent: AgentProcess, miner: MinerClient) -> None:
    agent.kill()
    with pytest.raises(Unavailable, match="agent"):
        miner.allocate(AllocateRequest(memory="128m", cpu_count=0.5))
    assert miner.status().leases_count == 0
    agent.start()


if __name__ == "__main__":
    from config.schema import AccessConfig, Config, DockerConfig, NetworkConfig
    from neurons.miner.node import MinerNode
    from utils.logging import configure_logging

    configure_logging("INFO", "text", None)
    settings = Config(
        network=NetworkConfig(port=int(sys.argv[2])),
        docker=DockerConfig(warm_slots=0),
        access=AccessConfig(renters=(RENTER.public_key,), validators=(VALIDATOR.public_key,)),
    )
    sys.exit(MinerNode(settings, Path(sys.argv[1]), IDENTITY).run())
