"""Where no packet filter can be had: what the three modes make of it, and what the operator is told.

The programs are small scripts in a folder that is the whole PATH; the real kernel's part is in tests/lab/test_network.py.
"""

import json
import logging
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from neurons.miner import firewall
from neurons.miner.firewall import Firewall, Mode
from neurons.miner.firewall_rules import compile_ipv4, compile_ipv6, read_nameservers, restore_text
from neurons.setup import shell
from neurons.setup.checks.kernel import PROGRAMS
from polarise.errors import ConfigError, Unavailable
from tests.support.miners import wait_until

NODE = "0123456789ab"
EMPTY_TABLE = "#!/bin/sh\necho '*mangle'; echo ':INPUT ACCEPT [0:0]'; echo ':FORWARD ACCEPT [0:0]'; echo COMMIT\n"
REFUSING = "#!/bin/sh\necho 'Permission denied (you must be root)' >&2\nexit 4\n"
TAKING_AND_FORGETTING = "#!/bin/sh\nwhile read -r line; do :; done\n"

COUNTING_NOTHING = """#!/bin/sh
while read -r line; do
  case $line in *hashlimit*|*connlimit*) echo 'unknown option hashlimit' >&2; exit 2;; esac
done
"""

Install = Callable[[str, str], None]


@pytest.fixture(name="install")
def programs_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Return what puts programs (save, restore) where the real ones would be; none are there at first."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(shell, "ADMIN_PATH", str(folder))
    monkeypatch.setattr(firewall, "is_root", lambda: True)

    def install(save: str, restore: str) -> None:
        for program in PROGRAMS:
            (folder / program).write_text(save if program.endswith("save") else restore)
            (folder / program).chmod(0o755)

    return install


def new(mode: Mode, tmp_path: Path, told: list[str | None] | None = None) -> Firewall:
    return Firewall(NODE, mode, tmp_path / "firewall.json", on_change=(told if told is not None else []).append)


def let_rules_stand(tmp_path: Path, first: str = ":", *, has_limits: bool = True) -> None:
    """Have the kernel's table print the node's rules, after it ran ``first``."""
    ipv4 = compile_ipv4(NODE, read_nameservers(), has_limits=has_limits)
    for family, rules in (("ip6", compile_ipv6(NODE)), ("ip", ipv4)):
        text = restore_text(rules, {}).replace("-I INPUT 1", "-A INPUT").replace("-I FORWARD 1", "-A FORWARD")
        script = f"#!/bin/sh\n{first.replace('FAMILY', family)}\nprintf '%s' '{text}'\n"
        (tmp_path / "programs" / f"{family}tables-save").write_text(script)


def test_required_refuses_to_start_without_the_program(install: Install, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no program 'iptables-save'") as refused:
        new("required", tmp_path).prepare()
    assert refused.value.key_path == "network.firewall"


def test_auto_starts_without_the_program_and_is_loud(
    install: Install, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wall = new("auto", tmp_path)
    with caplog.at_level(logging.WARNING):
        wall.prepare()
    assert [record.levelname for record in caplog.records if "NO FIREWALL" in record.message] == ["WARNING"]
    assert json.loads((tmp_path / "firewall.json").read_text()) == {
        "state": "off",
        "cause": "there is no program 'iptables-save' (Debian: iptables)",
    }
    wall.guard()
    wall.check()


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_process_that_may_not_read_rules_has_none(install: Install, tmp_path: Path, mode: Mode) -> None:
    install(REFUSING, REFUSING)
    wall = new(mode, tmp_path)
    if mode == "required":
        with pytest.raises(ConfigError, match="iptables-save ended with 4: Permission denied"):
            wall.prepare()
    else:
        wall.prepare()
        assert (wall.state, "Permission denied" in wall.cause) == ("off", True)


def test_process_that_is_not_root_has_none(install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(EMPTY_TABLE, TAKING_AND_FORGETTING)
    monkeypatch.setattr(firewall, "is_root", lambda: False)
    with pytest.raises(ConfigError, match="this process is not root"):
        new("required", tmp_path).prepare()


def test_rules_that_can_be_read_and_not_written_close_the_node_in_auto_too(install: Install, tmp_path: Path) -> None:
    """`auto` goes without only where it never could; a kernel that refuses a rule is a fault, and nothing is leased."""
    install(EMPTY_TABLE, REFUSING)
    told: list[str | None] = []
    wall = new("auto", tmp_path, told)
    wall.prepare()
    for ask in (wall.guard, wall.check):
        with pytest.raises(Unavailable, match="Permission denied") as refused:
            ask()
        assert refused.value.retry_after_seconds == firewall.RETRY_SECONDS
    # Another cause is logged, and tells those who hold leases nothing new.
    install(EMPTY_TABLE, "#!/bin/sh\necho 'no such target' >&2\nexit 2\n")
    with pytest.raises(Unavailable, match="no such target"):
        wall.guard()
    assert [cause is not None for cause in told] == [True]
    (tmp_path / "firewall.json").unlink()
    (tmp_path / "firewall.json").mkdir()
    install(EMPTY_TABLE, REFUSING)
    with pytest.raises(Unavailable, match="Permission denied"):
        wall.guard()


def test_rules_that_are_taken_and_not_kept_are_not_believed(install: Install, tmp_path: Path) -> None:
    install(EMPTY_TABLE, TAKING_AND_FORGETTING)
    with pytest.raises(ConfigError, match=r"has 0 rules after \d+ were written"):
        new("required", tmp_path).prepare()


def test_rules_that_hold_again_are_told_once(install: Install, tmp_path: Path) -> None:
    """The second kernel here has the rules in it already, as after a restart with leases."""
    install(EMPTY_TABLE, REFUSING)
    told: list[str | None] = []
    wall = new("auto", tmp_path, told)
    wall.prepare()
    install(EMPTY_TABLE, TAKING_AND_FORGETTING)
    let_rules_stand(tmp_path)
    wall.guard()
    wall.guard()
    assert (wall.state, told[-1], len(told)) == ("on", None, 2)


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_kernel_that_counts_no_connections_still_closes_what_is_closed(
    install: Install, tmp_path: Path, mode: Mode, caplog: pytest.LogCaptureFixture
) -> None:
    install(EMPTY_TABLE, COUNTING_NOTHING)
    let_rules_stand(tmp_path, has_limits=False)
    wall = new(mode, tmp_path)
    if mode == "required":
        with pytest.raises(ConfigError, match="unknown option hashlimit"):
            wall.prepare()
        return
    wall.prepare()
    wall.guard()
    assert wall.state == "on"
    assert [record.levelname for record in caplog.records if "NO CONNECTION LIMITS" in record.message] == ["WARNING"]


def test_off_says_so_and_needs_nothing(install: Install, tmp_path: Path) -> None:
    wall = new("off", tmp_path)
    wall.prepare()
    wall.guard()
    assert (wall.state, wall.cause) == ("off", "network.firewall is off")


def test_many_at_once_share_a_look_and_none_gets_one_that_began_before_it_asked(
    install: Install, tmp_path: Path
) -> None:
    """Ten ask while a look is under way: that one began too early for them, the next one serves them all."""
    install(EMPTY_TABLE, TAKING_AND_FORGETTING)
    looks, gate = tmp_path / "looks", tmp_path / "gate"
    let_rules_stand(tmp_path, f"echo FAMILY >> {looks}; while [ -e {gate} ]; do :; done")
    wall = new("required", tmp_path)
    wall.prepare()
    looks.write_text("")
    gate.touch()
    first = threading.Thread(target=wall.guard)
    first.start()
    wait_until(lambda: looks.read_text() == "ip\n", 10, "nobody looks")
    others = [threading.Thread(target=wall.guard) for _ in range(10)]
    for other in others:
        other.start()
    gate.unlink()
    for thread in (first, *others):
        thread.join(30)
    found = looks.read_text().split()
    # Two, and a few more where threads were late; without sharing it would be eleven.
    assert found.count("ip") in range(2, 6)
    assert found == ["ip", "ip6"] * found.count("ip")
