"""Each prerequisite judged from measurements handed in: one that just holds, and one that just does not."""

from dataclasses import replace

import pytest

from neurons.setup.check import Check, Role, Status, failure, met, warning
from neurons.setup.checks import engine, image, interpreter, kernel, machine, network
from neurons.setup.checks.network import PortState
from neurons.setup.doctor import is_healthy, render_table
from neurons.setup.image import SOURCE_DATE_EPOCH
from neurons.setup.preflight import Login

GIB = 1024**3
ENGINE = engine.EngineFacts(
    client="28.2.2", server="20.10.24", api="1.41", storage_driver="overlay2", cgroup_version="1",
    memory_limit=True, swap_limit=True, cpu_limit=True, pids_limit=True,
)  # fmt: skip
SILENT = engine.EngineFacts(error="Cannot connect to the Docker daemon")
LOGIN = Login("sha256:" + "a" * 64, "20.10.24", "6.1.0", "SSH-2.0-OpenSSH_9.2p1", 0.6)
RULES = "-P FORWARD DROP\n-A FORWARD -j DOCKER-USER\n"
FIREWALL = network.Firewall(True, "/usr/sbin/iptables", RULES)


def status_and_help(check: Check) -> tuple[Status, bool]:
    """Return the status, and whether cause and fix are both there."""
    return check.status, bool(check.cause and check.fix)


@pytest.mark.parametrize(
    ("check", "status"),
    [
        (interpreter.check_python((3, 11, 0)), Status.OK),
        (interpreter.check_python((3, 10, 99)), Status.FAIL),
        (interpreter.check_packages({}, interpreter.PACKAGES), Status.OK),
        (interpreter.check_packages({"torch": "ImportError: libc"}, interpreter.PACKAGES), Status.FAIL),
        (interpreter.check_packages(None, interpreter.PACKAGES), Status.FAIL),
        (engine.check_client("/usr/bin/docker"), Status.OK),
        (engine.check_client(None), Status.FAIL),
        (engine.check_engine(ENGINE), Status.OK),
        (engine.check_engine(replace(ENGINE, api="1.40")), Status.FAIL),
        (engine.check_engine(replace(ENGINE, storage_driver="vfs")), Status.WARN),
        (engine.check_engine(SILENT), Status.FAIL),
        (engine.check_limits(ENGINE), Status.OK),
        (engine.check_limits(replace(ENGINE, pids_limit=False)), Status.FAIL),
        (engine.check_limits(replace(ENGINE, swap_limit=False)), Status.WARN),
        (engine.check_limits(SILENT), Status.FAIL),
        (image.check_image("polarise/base:x", LOGIN.image_id), Status.OK),
        (image.check_image("polarise/base:x", None), Status.FAIL),
        (image.check_login(LOGIN, identity=LOGIN.image_id, engine="20.10.24", kernel="6.1.0"), Status.OK),
        (image.check_login(LOGIN, identity=LOGIN.image_id, engine="20.10.24", kernel="6.1.1"), Status.FAIL),
        (image.check_login(LOGIN, identity=None, engine="20.10.24", kernel="6.1.0"), Status.FAIL),
        (image.check_login(None, identity=LOGIN.image_id, engine="20.10.24", kernel="6.1.0"), Status.FAIL),
        (image.check_deep_login(LOGIN, ""), Status.OK),
        (image.check_deep_login(None, "no banner"), Status.FAIL),
        (image.check_sshd(LOGIN), Status.OK),
        (image.check_sshd(replace(LOGIN, banner="SSH-2.0-dropbear")), Status.WARN),
        (image.check_sshd(None), Status.FAIL),
        (network.check_ssh_client("/usr/bin/ssh", is_required=True), Status.OK),
        (network.check_ssh_client(None, is_required=True), Status.FAIL),
        (network.check_ssh_client(None, is_required=False), Status.WARN),
        (network.check_api_port(8080, PortState.FREE), Status.OK),
        (network.check_api_port(8080, PortState.OURS), Status.OK),
        (network.check_api_port(8080, PortState.TAKEN), Status.FAIL),
        (network.check_ssh_ports(32_000, 60_999), Status.OK),
        (network.check_ssh_ports(31_999, 60_999), Status.WARN),
        (network.check_ssh_ports(1024, 19_999), Status.OK),
        (network.check_ssh_ports(1024, 20_000), Status.WARN),
        (network.check_firewall(FIREWALL), Status.OK),
        (network.check_firewall(replace(FIREWALL, iptables=None)), Status.FAIL),
        (network.check_firewall(replace(FIREWALL, is_forwarding=False)), Status.FAIL),
        (network.check_firewall(replace(FIREWALL, rules="-P FORWARD ACCEPT\n")), Status.FAIL),
        (network.check_firewall(replace(FIREWALL, rules=None)), Status.WARN),
        (kernel.check_packet_filter(kernel.PacketFilter(True)), Status.OK),
        (kernel.check_packet_filter(kernel.PacketFilter(False)), Status.WARN),
        (kernel.check_packet_filter(kernel.PacketFilter(True, ("iptables-save",))), Status.WARN),
        (kernel.check_packet_filter(kernel.PacketFilter(True, refusal="Permission denied")), Status.WARN),
        (kernel.check_settings({setting.name: setting.least for setting in kernel.WANTED}), Status.OK),
        (kernel.check_settings({}), Status.OK),
        *((kernel.check_settings({setting.name: setting.least - 1}), Status.WARN) for setting in kernel.WANTED),
        (machine.check_platform("Linux"), Status.OK),
        (machine.check_platform("Darwin"), Status.FAIL),
        (machine.check_clock(machine.Clock(SOURCE_DATE_EPOCH, True)), Status.OK),
        (machine.check_clock(machine.Clock(SOURCE_DATE_EPOCH - 1, True)), Status.FAIL),
        (machine.check_clock(machine.Clock(SOURCE_DATE_EPOCH, False)), Status.WARN),
        (machine.check_clock(machine.Clock(SOURCE_DATE_EPOCH, None)), Status.WARN),
        (machine.check_disk(10 * GIB, "/", Role.MINER), Status.OK),
        (machine.check_disk(10 * GIB - 1, "/", Role.MINER), Status.FAIL),
        (machine.check_disk(10 * GIB - 1, "/", Role.VALIDATOR), Status.OK),
        (machine.check_memory(2 * GIB, Role.MINER), Status.OK),
        (machine.check_memory(2 * GIB - 1, Role.MINER), Status.FAIL),
        (machine.check_memory(None, Role.MINER), Status.WARN),
        (machine.check_descriptors(4096), Status.OK),
        (machine.check_descriptors(4095), Status.WARN),
        (machine.check_descriptors(None), Status.OK),
        (machine.check_nvidia(machine.NvidiaFacts()), Status.OK),
        (machine.check_nvidia(machine.NvidiaFacts("550.1", ("H200",), has_toolkit=True)), Status.OK),
        (machine.check_nvidia(machine.NvidiaFacts("550.1", ("H200",), has_toolkit=False)), Status.WARN),
        (machine.check_nvidia(machine.NvidiaFacts("550.1", ("H200",), True, has_compiler=False)), Status.WARN),
    ],
)
def test_a_check_names_cause_and_fix_exactly_when_it_is_not_met(check: Check, status: Status) -> None:
    assert status_and_help(check) == (status, status is not Status.OK)


def test_a_refused_socket_is_told_apart_from_a_silent_engine() -> None:
    refused = engine.check_engine(engine.EngineFacts(error="dial unix: permission denied"))
    assert "usermod" in refused.fix
    assert engine.check_engine(SILENT).fix == "make setup"


def test_engine_facts_are_read_from_its_own_json() -> None:
    version = '{"Client":{"Version":"28.2.2"},"Server":{"Version":"20.10.24","ApiVersion":"1.41"}}'
    info = '{"Driver":"overlay2","CgroupVersion":"2","MemoryLimit":true,"CPUCfsQuota":true,"PidsLimit":true}'
    facts = engine.read_facts(version, info)
    assert (facts.server, facts.api, facts.cgroup_version, facts.cpu_limit) == ("20.10.24", "1.41", "2", True)
    assert not facts.swap_limit


def test_only_the_miner_needs_torch() -> None:
    assert len(interpreter.packages_for(Role.MINER)) == 9
    assert "torch" not in interpreter.packages_for(Role.VALIDATOR)


def test_warnings_keep_a_machine_healthy_and_failures_do_not() -> None:
    fine = [met("a", "1", "1"), warning("b", "1", "2", "cause", "fix")]
    assert is_healthy(fine)
    assert not is_healthy([*fine, failure("c", "1", "2", "cause", "fix")])


def test_table_lines_up_and_is_coloured_only_on_request() -> None:
    checks = [met("a", "measured value", "x"), failure("longer", "m", "y", "the cause", "the fix")]
    plain = render_table(checks, Role.MINER, colour=False)
    header, first, second, cause, fix, *_ = plain.splitlines()
    assert header.index("required") == first.index("x") == second.index("y")
    assert cause.endswith("cause: the cause")
    assert fix.endswith("fix:   the fix")
    assert "\033[" not in plain
    assert "\033[31mFAIL\033[0m" in render_table(checks, Role.MINER, colour=True)


def test_ssh_ports_are_those_a_miner_takes() -> None:
    from neurons.miner.settings import SSH_PORTS

    assert (SSH_PORTS.start, SSH_PORTS.stop - 1) == (network.SSH_PORT_FIRST, network.SSH_PORT_LAST)
