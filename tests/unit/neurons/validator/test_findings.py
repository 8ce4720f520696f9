"""What a stranger's container may print, and what it must show."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from neurons.validator import probe
from neurons.validator.findings import check_findings, check_receipt, decode_findings
from polarise.errors import ProofRejected, RejectReason
from tests.support.evidence import LIMITS, findings_wire, receipt

TRIED_ALWAYS = sorted(set(probe.ATTEMPTS) - probe.NEED_PROGRAM)


def _check(**changes: object) -> int:
    return check_findings(decode_findings(json.dumps(findings_wire(**changes)).encode()), receipt())


def test_container_that_keeps_its_promise_passes() -> None:
    assert _check() > 20


@pytest.mark.parametrize(
    "changes",
    [
        {"memory_bytes": LIMITS.memory_bytes + 1},
        {"memory_bytes": None},
        {"swap_bytes": 1},
        {"swap_bytes": None},
        {"pids_count": None},
        {"shm_bytes": LIMITS.shm_bytes - 4096},
        {"cpu_quota_us": None},
        {"cpu_quota_us": 50_700},
        {"cpu_quota_us": 49_300},
        {"cpu_period_us": 0},
        {"capabilities_bounding": "00000000200400ff"},
        {"capabilities_effective": "0000003fffffffff"},
        {"no_new_privileges": False},
        {"seccomp_mode": 0},
        {"attempts": {}},
        {"attempts": {**dict.fromkeys(probe.ATTEMPTS, "stopped"), "mount_tmpfs": "succeeded"}},
        *({"attempts": dict.fromkeys(probe.ATTEMPTS, "stopped") | {name: "untried"}} for name in TRIED_ALWAYS),
        {"cpu": {"spent_us": 640_000, "wall_us": 1_000_000}},
        {"cpu": {"spent_us": 0, "wall_us": 1}},
        {"memory": None},
        {"memory": {"touched_bytes": 320 << 20, "signal": 0}},
        {"memory": {"touched_bytes": 320 << 20, "signal": 9}},
        {"memory": {"touched_bytes": 128 << 20, "signal": 9}},
    ],
)
def test_each_limit_that_does_not_hold_is_named(changes: dict[str, object]) -> None:
    with pytest.raises(ProofRejected) as caught:
        _check(**changes)
    assert caught.value.reason is RejectReason.LIMIT_NOT_HELD


def test_attempt_whose_program_is_missing_is_no_broken_promise() -> None:
    untried = dict.fromkeys(probe.NEED_PROGRAM, "untried")
    assert _check(attempts=dict.fromkeys(probe.ATTEMPTS, "stopped") | untried) > 20


def test_only_a_missing_program_leaves_an_attempt_untried(tmp_path: Path) -> None:
    assert probe.outcome(lambda: probe.program("no-such-program-anywhere")) == "untried"
    assert probe.outcome(lambda: probe.program("false")) == "stopped"
    assert probe.outcome(lambda: probe.program("true")) == "succeeded"
    assert probe.outcome((tmp_path / "nothing").open) == "stopped"


def test_cpu_quota_may_differ_by_one_percent() -> None:
    assert _check(cpu_quota_us=50_400) > 20


def test_proof_inside_is_bound_to_the_receipt() -> None:
    with pytest.raises(ProofRejected) as caught:
        _check(chain="0" * 64)
    assert caught.value.reason is RejectReason.SSH_FAILED


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xff\xfe",
        b"null",
        b"[]",
        b"[" * 10_000,
        b"sh: python3: not found\n",
        json.dumps(findings_wire(more=1)).encode(),
        json.dumps(findings_wire(memory_bytes="1")).encode(),
        json.dumps(findings_wire(memory_bytes=-1)).encode(),
        json.dumps(findings_wire(memory_bytes=1e9)).encode(),
        json.dumps(findings_wire(no_new_privileges=1)).encode(),
        json.dumps(findings_wire(cgroup_lines="x" * 4001)).encode(),
        json.dumps(findings_wire(attempts={"a": "maybe"})).encode(),
        json.dumps(findings_wire(chain="\u001b[2J" + "0" * 60)).encode(),
        json.dumps(findings_wire()).encode() + b" " * 65536,
        json.dumps(findings_wire()).encode()[:-1] + b',"swap_bytes":0}',
        json.dumps(findings_wire()).replace('"swap_bytes": 0', '"swap_bytes": NaN').encode(),
    ],
)
def test_garbage_from_inside_is_an_ssh_failure(raw: bytes) -> None:
    with pytest.raises(ProofRejected) as caught:
        decode_findings(raw)
    assert caught.value.reason is RejectReason.SSH_FAILED
    assert caught.value.message.isprintable()


@pytest.mark.parametrize(("memory_bytes", "cpu_milli"), [((256 << 20) + 4096, 500), (256 << 20, 501)])
def test_receipt_must_promise_what_was_asked_for(memory_bytes: int, cpu_milli: int) -> None:
    check_receipt(receipt(), memory_bytes=(256 << 20) + 4095, cpu_milli=500)
    with pytest.raises(ProofRejected) as caught:
        check_receipt(receipt(), memory_bytes=memory_bytes, cpu_milli=cpu_milli)
    assert caught.value.reason is RejectReason.LIMIT_NOT_HELD


def test_probe_prints_what_the_decoder_reads() -> None:
    """Run here, with nothing to be limited: memory beyond what is tried, so that no child is killed."""
    text = "import neurons.validator.probe as probe\nprobe.ATTEMPTS.clear()\nprobe.CPU_SECONDS = 0.01\n"
    text += f"probe.main({'ab' * 32!r}, {2 << 30}, 500)\n"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, check=True, timeout=60)
    found = decode_findings(done.stdout)
    assert found.memory is None
    assert found.attempts == {}


@pytest.mark.parametrize("value", ["", 'a"b\\c\n\x1b', "ä", "abc", {"a": {"b": None}}, True, False, 0, -5])
def test_probe_writes_json_without_json(value: object) -> None:
    assert json.loads(probe.encode(value)) == value


def test_probe_uses_only_what_python3_minimal_has() -> None:
    imported = [name for name in vars(probe) if type(vars(probe)[name]) is type(probe)]
    assert sorted(imported) == ["hashlib", "os", "socket", "subprocess", "sys", "time"]
