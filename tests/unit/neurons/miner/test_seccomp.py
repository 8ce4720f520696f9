"""The filter of system calls as a list: nothing forgotten, nothing allowed by accident, conditions as tight as they read."""

import json
import re
from pathlib import Path

import pytest

from neurons.miner.seccomp import AF_UNIX, NAMESPACE_FLAGS, SOCKETS, seccomp_profile
from neurons.miner.system_calls import ALLOWED, allowed_on, refused
from polarise.errors import ConfigError

MACHINES = ("x86_64", "aarch64")
CONDITIONAL = {"clone", "clone3", "socket", "socketpair", "personality", "mknod", "mknodat"}
TABLE = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
GENERIC_TABLE = Path("/usr/include/asm-generic/unistd.h")
LAST_OF_LINUX_6_1 = 450


def rules(machine: str, name: str) -> list[dict[str, object]]:
    return [rule for rule in json.loads(seccomp_profile(machine))["syscalls"] if name in rule["names"]]


@pytest.mark.skipif(not TABLE.exists(), reason="needs the kernel's table for x86_64, Debian's linux-libc-dev")
def test_every_call_of_the_kernels_table_is_allowed_or_refused_with_a_reason() -> None:
    text = TABLE.read_text(encoding="utf-8")
    known = {m[1] for m in re.finditer(r"#define __NR_(\w+) (\d+)", text) if int(m[2]) <= LAST_OF_LINUX_6_1}
    assert len(known) > 350
    assert known - set(allowed_on("x86_64")) - refused() - CONDITIONAL == set()


@pytest.mark.skipif(
    not GENERIC_TABLE.exists(), reason="needs the kernel's table of later architectures, linux-libc-dev"
)
def test_list_of_aarch64_names_calls_of_its_table() -> None:
    """Newer ones than the table are known to no filter and left out by it."""
    text = GENERIC_TABLE.read_text(encoding="utf-8")
    known = {m[1] for m in re.finditer(r"#define __NR(?:3264)?_(\w+)\s", text)}
    newer = set(allowed_on("aarch64")) - known
    assert newer <= {
        *("cachestat", "fchmodat2", "futex_requeue", "futex_wait", "futex_wake", "getxattrat", "listxattrat"),
        *("map_shadow_stack", "mseal", "removexattrat", "setxattrat"),
    }
    assert known & refused() >= {"io_uring_setup", "mount", "unshare", "bpf"}


def test_no_call_is_allowed_and_refused() -> None:
    assert set(allowed_on("x86_64")) & refused() == set()
    assert set(allowed_on("x86_64")) & CONDITIONAL == set()
    assert len(ALLOWED) == len(set(ALLOWED))


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    "name",
    [
        *("io_uring_setup", "userfaultfd", "process_vm_readv", "name_to_handle_at", "clock_adjtime", "vmsplice"),
        *("keyctl", "add_key", "mount", "unshare", "setns", "bpf", "perf_event_open", "open_by_handle_at", "fsopen"),
    ],
)
def test_dangerous_call_is_in_no_rule(machine: str, name: str) -> None:
    assert rules(machine, name) == []
    assert name in refused()


@pytest.mark.parametrize("machine", MACHINES)
def test_what_is_not_named_is_refused_on_the_one_architecture(machine: str) -> None:
    profile = json.loads(seccomp_profile(machine))
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    assert profile["architectures"] == [f"SCMP_ARCH_{machine.upper()}"]
    assert {rule["action"] for rule in profile["syscalls"]} == {"SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"}


@pytest.mark.parametrize("machine", MACHINES)
def test_sockets_are_of_four_families_and_their_plain_protocols(machine: str) -> None:
    found = set()
    for rule in rules(machine, "socket"):
        values = {arg["index"]: arg["value"] for arg in rule["args"]}  # type: ignore[attr-defined]  # read from JSON
        assert all(arg["op"] == "SCMP_CMP_EQ" for arg in rule["args"])  # type: ignore[attr-defined]  # the same
        found.add((values[0], values.get(2)))
    assert found == {(AF_UNIX, None), *SOCKETS}
    assert {family for family, _ in found} == {1, 2, 10, 16}
    (pair,) = rules(machine, "socketpair")
    assert pair["args"] == [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]


@pytest.mark.parametrize("machine", MACHINES)
def test_clone_takes_no_namespace_and_clone3_is_not_there(machine: str) -> None:
    (clone,) = rules(machine, "clone")
    assert clone["args"] == [{"index": 0, "value": NAMESPACE_FLAGS, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]
    (clone3,) = rules(machine, "clone3")
    assert (clone3["action"], clone3["errnoRet"]) == ("SCMP_ACT_ERRNO", 38)


def test_device_files_are_of_no_kind_that_may_be_made() -> None:
    kinds = {arg["valueTwo"] for rule in rules("x86_64", "mknodat") for arg in rule["args"]}  # type: ignore[attr-defined]  # read from JSON
    assert kinds & {0x2000, 0x6000} == set()


def test_calls_of_early_x86_are_not_in_the_list_of_aarch64() -> None:
    assert set(allowed_on("x86_64")) - set(allowed_on("aarch64")) >= {"open", "fork", "arch_prctl", "poll"}
    assert rules("aarch64", "mknod") == []


def test_machine_without_a_list_is_refused_with_the_fix() -> None:
    with pytest.raises(ConfigError, match="no list of system calls for riscv64"):
        seccomp_profile("riscv64")
