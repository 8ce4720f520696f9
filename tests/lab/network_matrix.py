"""The nine network checks from inside a tenant's container, for three ways to run it; writes the table of docs/security.md.

    python -m tests.lab.network_matrix            print the table
    python -m tests.lab.network_matrix --write    also put it into docs/security.md

`make test-security` does the same beside its own attacks. Needs root. Everything happens in a lab without a way out (`tests.lab.lan`).
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from docker.models.containers import Container

from config.schema import Config
from neurons.miner.node import MinerNode
from polarise.messages import AllocateRequest
from tests.lab.lan import (
    HOST_IP,
    INTERNET_IP,
    METADATA_IP,
    METADATA_PORT,
    PEER_IP,
    SERVICE_PORT,
    Neighbourhood,
    entered,
    neighbourhood,
)
from tests.support.identities import People, fresh_node_identity
from tests.support.miners import miner_config, running

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "security.md"
BEGIN, END = "<!-- network checks: begin -->", "<!-- network checks: end -->"
PUBLISHED_PORT = 31_000
_GREETER = """
import socket
with socket.create_server(("0.0.0.0", 22)) as listener:
    while True:
        connection, _ = listener.accept()
        connection.sendall(b"SSH-2")
"""
CHECKS = (
    "host service through the gateway",
    "host service through the host's LAN address",
    "host service through docker0's address",
    "another machine of the LAN",
    "the cloud's metadata, 169.254.169.254",
    "another tenant, direct",
    "another tenant, through the gateway and its ssh port",
    "another tenant, through the host's address and its ssh port",
    "the internet",
)


@dataclass(frozen=True, slots=True)
class Tenants:
    """Two containers, of which the first attacks the second."""

    attacker: Container
    victim: Container
    victim_port: int


Setting = Callable[[Neighbourhood], contextlib.AbstractContextManager[Tenants]]


def wanted() -> list[bool]:
    """Return what each check shall find: nothing answers but the internet."""
    return [name == CHECKS[-1] for name in CHECKS]


def check(place: Neighbourhood, tenants: Tenants) -> list[bool]:
    """Return which of the nine the attacker reaches."""
    tenants.attacker.reload()
    tenants.victim.reload()
    gateway, _ = addresses_of(tenants.attacker)
    _, victim = addresses_of(tenants.victim)
    docker0 = place.lab.output("ip", "-4", "-o", "addr", "show", "docker0").split()[3].partition("/")[0]
    return place.reaches_from(
        str(tenants.attacker.id),
        f"{gateway}:{SERVICE_PORT}",
        f"{HOST_IP}:{SERVICE_PORT}",
        f"{docker0}:{SERVICE_PORT}",
        f"{PEER_IP}:{SERVICE_PORT}",
        f"{METADATA_IP}:{METADATA_PORT}",
        f"{victim}:22",
        f"{gateway}:{tenants.victim_port}",
        f"{HOST_IP}:{tenants.victim_port}",
        f"{INTERNET_IP}:{SERVICE_PORT}",
    )


def addresses_of(container: Container) -> tuple[str, str]:
    """Return a container's gateway and its own address, in the network that leads out."""
    networks = container.attrs["NetworkSettings"]["Networks"]
    network = networks[container.attrs["HostConfig"]["NetworkMode"].replace("default", "bridge")]
    return str(network["Gateway"]), str(network["IPAddress"])


@contextlib.contextmanager
def on_docker0(place: Neighbourhood) -> Iterator[Tenants]:
    """Two containers as `docker run -p` starts them."""
    with _plain(place, None) as tenants:
        yield tenants


@contextlib.contextmanager
def on_a_shared_bridge(place: Neighbourhood) -> Iterator[Tenants]:
    """Two containers on a bridge of their own whose containers may not talk to each other, without rules."""
    network = place.lab.client.networks.create(
        "shared", driver="bridge", options={"com.docker.network.bridge.enable_icc": "false"}
    )
    try:
        with _plain(place, "shared") as tenants:
            yield tenants
    finally:
        network.remove()


@contextlib.contextmanager
def leased(place: Neighbourhood, private_network: str | None = None) -> Iterator[Tenants]:
    """Two leases of a real miner, held by two renters."""
    people = People()
    with (
        tempfile.TemporaryDirectory(prefix="polarise-lab-miner-") as folder,
        entered(place.lab),
        running(MinerNode(lab_config(people, place), Path(folder), fresh_node_identity(people.owner))) as miner,
    ):
        request = AllocateRequest(private_network=private_network)
        answers = [miner.client(who).allocate(request) for who in (people.renter, people.other_renter)]
        attacker, victim = (place.lab.client.containers.get(answer.container_id) for answer in answers)
        yield Tenants(attacker, victim, answers[1].ssh_port)
        for who, answer in zip((people.renter, people.other_renter), answers, strict=True):
            miner.client(who).terminate(answer.container_id)


@contextlib.contextmanager
def leased_with_private_networks(place: Neighbourhood) -> Iterator[Tenants]:
    """Two leases of two renters, each in a private network, which both call by the same name."""
    with leased(place, "same-name") as tenants:
        yield tenants


def lab_config(people: People, place: Neighbourhood, **network: object) -> Config:
    """Return the settings of a miner in the lab, whose ssh ports are open to the LAN."""
    return miner_config(
        people, docker={"host": place.lab.host}, network={"advertised_host": HOST_IP, "firewall": "required", **network}
    )


@contextlib.contextmanager
def _plain(place: Neighbourhood, network: str | None) -> Iterator[Tenants]:
    client = place.lab.client
    made: list[Container] = []
    try:
        for port in (PUBLISHED_PORT, PUBLISHED_PORT + 1):
            made.append(
                client.containers.run(
                    place.lab.image,
                    ["python3", "-c", _GREETER],
                    detach=True,
                    network=network,
                    ports={"22/tcp": ("0.0.0.0", port)},
                )
            )
        yield Tenants(made[0], made[1], PUBLISHED_PORT + 1)
    finally:
        for container in made:
            container.remove(force=True, v=True)


SETTINGS: tuple[tuple[str, Setting], ...] = (
    ("docker0, as `docker run` does", on_docker0),
    ("one bridge, `icc=false`, no rules", on_a_shared_bridge),
    ("a lease", leased),
    ("a lease in a private network", leased_with_private_networks),
)


def run() -> list[list[bool]]:
    """Build a lab and return the nine findings of each setting.

    Raises:
        NoLab: There can be none here.
    """
    with neighbourhood() as place:
        return measure(place)


def opened(columns: list[list[bool]]) -> list[str]:
    """Return one line for each check that a lease does not pass."""
    return [
        f"network: {name}: {'reached' if found else 'not reached'}"
        for column in columns[-2:]
        for name, found, should in zip(CHECKS, column, wanted(), strict=True)
        if found is not should
    ]


def measure(place: Neighbourhood) -> list[list[bool]]:
    """Return the nine findings of each setting."""
    columns = []
    for _, setting in SETTINGS:
        with setting(place) as tenants:
            columns.append(check(place, tenants))
    return columns


def table(columns: list[list[bool]]) -> str:
    """Return the findings as Markdown."""
    lines = [
        f"| from inside a tenant's container | {' | '.join(name for name, _ in SETTINGS)} |",
        f"|---{'|---' * len(columns)}|",
    ]
    for row, name in enumerate(CHECKS):
        lines.append(f"| {name} | {' | '.join('open' if column[row] else 'stopped' for column in columns)} |")
    scores = [sum(a == b for a, b in zip(column, wanted(), strict=True)) for column in columns]
    lines.append(f"| **as wanted** | {' | '.join(f'**{score}/{len(CHECKS)}**' for score in scores)} |")
    return "\n".join(lines)


def written_table() -> str:
    """Return the table that stands in the document."""
    return DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0].strip()


def write(columns: list[list[bool]]) -> None:
    """Put the table into the document."""
    before, rest = DOCUMENT.read_text(encoding="utf-8").split(BEGIN)
    DOCUMENT.write_text(f"{before}{BEGIN}\n{table(columns)}\n{END}{rest.split(END)[1]}", encoding="utf-8")


def main() -> int:
    """Measure, print and, where asked, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the table into docs/security.md")
    is_written = parser.parse_args().write
    columns = run()
    sys.stdout.write(f"{table(columns)}\n")
    if is_written:
        write(columns)
    return 1 if opened(columns) else 0


if __name__ == "__main__":
    sys.exit(main())
