"""What runs inside the lab: a real miner on the lab's engine, real leases, and everything tried in them.

`python -m tests.security.inside` is started in the lab's network namespace and writes what it found as JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import docker

from neurons.miner.node import MinerNode
from polarise.errors import RequestRejected, Unavailable
from polarise.messages import AllocateAnswer, AllocateRequest
from polarise.ssh_keys import generate_key_pair
from tests.security import attacks, probes
from tests.security.attacks import ATTACKS, CPU_MILLI, MEMORY_BYTES, PIDS_COUNT, PROBES, Target
from tests.support.disks import remove_disks_of
from tests.support.identities import People, fresh_node_identity
from tests.support.miners import RunningMiner, miner_config, running
from tests.support.ssh import Login
from utils.docker_utils import connect

ISOLATIONS = ("standard", "strict")
UNCONFINED = ["seccomp=unconfined", "apparmor=unconfined"]


def main() -> int:
    """Try everything, and write what came of it."""
    parser = argparse.ArgumentParser(description="run by tests.security, inside its lab")
    parser.add_argument("--engine", required=True, help="address of the lab's engine")
    parser.add_argument("--engine-folder", type=Path, required=True, help="its folder of containers")
    parser.add_argument("--folder", type=Path, required=True, help="of this run, on the host")
    parser.add_argument("--image", required=True)
    parser.add_argument("--probes-only", action="store_true")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))
    program = probes.build(args.folder)
    found: dict[str, object] = {}
    people = People()
    with contextlib.closing(connect(args.engine)) as client:
        tried = {"control": _control(client, args.image, program), "default": _default(client, args.image, program)}
        config = miner_config(
            people,
            docker={
                "host": args.engine,
                "default_memory": str(MEMORY_BYTES),
                "default_cpu_count": CPU_MILLI / 1000,
                "pids_limit": PIDS_COUNT,
            },
        )
        node = MinerNode(config, args.folder / "miner", fresh_node_identity(people.owner))
        with _no_disk_left(node.node_id), running(node) as miner:
            for isolation in ISOLATIONS:
                with _leased(miner, people, args.folder, isolation) as (answer, login):
                    login.put(program.read_bytes(), PROBES)
                    tried[isolation] = probes.outcomes(login.output(PROBES))
                    if not args.probes_only:
                        target = Target(miner, people, client, answer, login, args.folder, args.engine_folder)
                        found[isolation] = _attack(target)
    (args.folder / "found.json").write_text(json.dumps({"probes": tried, "attacks": found}), encoding="utf-8")
    return 0


def _attack(target: attacks.Target) -> dict[str, tuple[bool, str]]:
    outcomes = {}
    for name, attack in ATTACKS.items():
        sys.stderr.write(f"  {name}\n")
        outcomes[name] = attack(target)
    return outcomes


def _control(client: docker.DockerClient, image: str, program: Path) -> dict[str, str]:
    """Try with every capability and no filter: what fails here is not possible on this machine."""
    return _plain(client, image, program, cap_add=probes.control_capabilities(), security_opt=UNCONFINED)


def _default(client: docker.DockerClient, image: str, program: Path) -> dict[str, str]:
    return _plain(client, image, program)


def _plain(client: docker.DockerClient, image: str, program: Path, **options: object) -> dict[str, str]:
    """Run the probes in a container as `docker run` makes it."""
    volumes = {str(program): {"bind": "/probes", "mode": "ro"}}
    printed = client.containers.run(image, ["/probes"], volumes=volumes, remove=True, **options)  # type: ignore[call-overload]  # options as they come
    return probes.outcomes(printed.decode("ascii"))


@contextlib.contextmanager
def _no_disk_left(node_id: str) -> Iterator[None]:
    try:
        yield
    finally:
        remove_disks_of(node_id)


@contextlib.contextmanager
def _leased(
    miner: RunningMiner, people: People, folder: Path, isolation: str
) -> Iterator[tuple[AllocateAnswer, Login]]:
    private, public = generate_key_pair()
    client = miner.client(people.renter)
    request = {"ssh_public_key": public, "isolation": isolation, "ttl_seconds": 600}
    answer = client.allocate(AllocateRequest.model_validate(request))
    try:
        yield answer, Login.to(answer, folder, private_key=private)
    finally:
        with contextlib.suppress(RequestRejected, Unavailable):
            client.terminate(answer.container_id)


if __name__ == "__main__":
    sys.exit(main())
