"""Real containers of the base image, which has no json module: each speaks through its own socket, and only so."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Iterator

import pytest

from neurons.base.agent_client import MOUNT
from neurons.setup.image import base_image_reference, image_id
from tests.unit.neurons.agent.agent_process import LEASE, NODE_KEY, RENTER, AgentProcess
from tests.unit.neurons.agent.test_agent import OTHER_LEASE, verified_events

pytestmark = [
    pytest.mark.docker,
    pytest.mark.skipif(image_id(base_image_reference()) is None, reason="the base image is not built"),
]
EMIT = f"python3 {MOUNT}/events.py emit"
TRAIN = """
import sys
sys.path.insert(0, "/run")
assert "json" not in sys.modules
from polarise import events
assert events.json is None
for epoch in range(3):
    events.emit("training.epoch", {"epoch": epoch, "loss": 1 / (epoch + 2), "text": "a\\"b\\u20ac", "nan": float("nan")})
assert events.flush(5)
"""


class Box:
    """One running container with the folder of one lease."""

    def __init__(self, agent: AgentProcess, lease_id: str) -> None:
        folder = agent.client.open_stream(lease_id, RENTER)
        mount = f"type=bind,src={folder},dst={MOUNT},readonly"
        self.container_id = docker(
            "run", "-d", "--network=none", "--mount", mount, base_image_reference(), "sleep", "99"
        )

    def run(self, command: str, *, user: str = "0", ok: bool = True) -> str:
        done = subprocess.run(
            ["docker", "exec", "-u", user, self.container_id, "sh", "-c", command],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert (done.returncode == 0) is ok, done.stderr
        return done.stdout + done.stderr

    def pid(self) -> int:
        return int(docker("inspect", "-f", "{{.State.Pid}}", self.container_id))


def docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip()


@pytest.fixture
def boxes(agent: AgentProcess) -> Iterator[tuple[Box, Box]]:
    made: list[Box] = []
    try:
        made += [Box(agent, LEASE), Box(agent, OTHER_LEASE)]
        yield made[0], made[1]
    finally:
        for box in made:
            docker("rm", "-f", box.container_id)


def test_containers_emit_and_none_speaks_as_another(agent: AgentProcess, boxes: tuple[Box, Box]) -> None:
    a, b = boxes
    a.run(f"python3 -c '{TRAIN}'")
    a.run(f"{EMIT} training.shell '{{\"loss\": 0.1}}'", user="65534")
    b.run(f"{EMIT} training.b")
    # B's socket is not there, its own folder cannot be changed, and no mount can be made.
    assert a.run(f"ls {MOUNT}").split() == ["events.py", "events.sock"]
    for attempt in (
        f"rm {MOUNT}/events.sock",
        f"touch {MOUNT}/x",
        f"mv {MOUNT}/events.sock /tmp",
        f"mount -o remount,rw {MOUNT}",
    ):
        a.run(attempt, ok=False)
    a.run(
        f"POLARISE_EVENTS_SOCKET=/proc/1/root{agent.client.events_folder(OTHER_LEASE)}/events.sock {EMIT} training.x",
        ok=False,
    )
    mine = [e for e in verified_events(agent.client, LEASE) if e.kind.startswith("training.")]
    assert [e.kind for e in mine] == ["training.epoch"] * 3 + ["training.shell"]
    assert mine[0].payload == {"epoch": 0, "loss": 0.5, "text": 'a"b€', "nan": "nan"}
    assert {e.action_id for e in mine} == {str(uuid.UUID(LEASE))}
    assert {e.stream for e in mine} == {f"{NODE_KEY}/lease/{LEASE}"}
    others = [e.kind for e in verified_events(agent.client, OTHER_LEASE) if e.kind.startswith("training.")]
    assert others == ["training.b"]


def test_a_container_finds_the_agent_again_after_a_kill(agent: AgentProcess, boxes: tuple[Box, Box]) -> None:
    a, _ = boxes
    script = TRAIN.replace("range(3)", "range(400)").replace("assert events.flush(5)", "assert events.flush(30)")
    training = subprocess.Popen(
        ["docker", "exec", a.container_id, "python3", "-c", script + "import time; time.sleep(0)"]
    )
    for _ in range(2):
        agent.kill()
        agent.start()
    assert training.wait(60) == 0
    epochs = [e.payload["epoch"] for e in verified_events(agent.client, LEASE) if e.kind == "training.epoch"]
    assert epochs == list(range(400))


def test_a_container_s_usage_is_told_in_its_own_stream(agent: AgentProcess, boxes: tuple[Box, Box]) -> None:
    a, _ = boxes
    agent.client.watch(LEASE, a.container_id, a.pid())
    samples, first = list[str](), 0
    while not samples:
        page = agent.client.read(LEASE, first, wait_seconds=10)
        first += len(page.lines)
        samples = [line for line in page.lines if '"telemetry.sample"' in line]
    assert f'"containerId":"{a.container_id}"' in samples[0]
    assert '"pids_count":{' in samples[0]
    assert "container" not in "".join(agent.client.read("system", 0).lines)
