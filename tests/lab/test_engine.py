"""The lab keeps to itself: no way out of it, nothing of it left, and the host's engine never notices."""

import subprocess
from pathlib import Path

import pytest

from tests.lab.engine import FOLDER, NoLab, lab, refuse_way_out
from tests.support.engine import engine

pytestmark = [pytest.mark.docker, pytest.mark.lab]


def leftovers() -> set[str]:
    """Return namespaces, folders and mounts of every lab on this host; other runs may have theirs."""
    namespaces = {f"netns {path.name}" for path in Path("/run/netns").glob("polarise-lab-*")}
    folders = {str(path) for path in Path(FOLDER).glob("polarise-lab-*")}
    mounts = {line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines() if "polarise-lab" in line}
    return namespaces | folders | mounts


def test_lab_runs_a_container_that_the_hosts_engine_does_not_know_and_leaves_nothing() -> None:
    with lab() as built, engine() as hosts:
        container = built.client.containers.run(built.image, ["sleep", "60"], detach=True)
        assert container.id not in {other.id for other in hosts.containers.list(all=True, ignore_removed=True)}
        assert "docker0" in built.output("ip", "-br", "link")
        with pytest.raises(NoLab, match="ended with 2"):
            built.output("ip", "route", "get", "192.0.2.1")
    assert not {left for left in leftovers() if built.name in left}


def test_lab_with_a_way_out_is_not_entered() -> None:
    """A default route of a second table counts as well: rules could lead there."""
    with lab() as built:
        built.output("ip", "link", "add", "out", "type", "veth", "peer", "name", "peer")
        built.output("ip", "link", "set", "out", "up")
        subprocess.run(["ip", "-n", built.name, "route", "add", "default", "dev", "out", "table", "7"], check=True)
        with pytest.raises(NoLab, match="a default route leaves the lab"):
            built.run("true")
        subprocess.run(["ip", "-n", built.name, "route", "delete", "default", "table", "7"], check=True)
        subprocess.run(["ip", "-n", built.name, "-6", "route", "add", "default", "dev", "out"], check=True)
        with pytest.raises(NoLab, match="a default route leaves the lab"):
            refuse_way_out(built.name)


def test_engine_is_not_started_in_a_namespace_with_a_way_out() -> None:
    names: list[str] = []

    def open_door(name: str) -> None:
        names.append(name)
        subprocess.run(["ip", "-n", name, "link", "add", "out", "type", "veth", "peer", "name", "peer"], check=True)
        subprocess.run(["ip", "-n", name, "link", "set", "out", "up"], check=True)
        subprocess.run(["ip", "-n", name, "route", "add", "default", "dev", "out"], check=True)

    with pytest.raises(NoLab, match="a default route leaves the lab"), lab(prepare=open_door):
        pytest.fail("the lab was built")
    assert not {left for left in leftovers() if names[0] in left}
