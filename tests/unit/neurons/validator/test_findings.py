"""What a stranger's container may print, and what it must show."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from neurons.validator import probe
from neurons.validator.bandwidth import NetworkTrial
from neurons.validator.findings import (
    ADDED_LATER,
    LATER_ATTEMPTS,
    Findings,
    check_claims,
    check_findings,
    check_receipt,
    decode_findings,
)
from polarise.decode import decode_model
from polarise.errors import ProofRejected, RejectReason
from polarise.hardware import HardwareClaim
from polarise.receipt import Limits
from tests.support.evidence import LIMITS, findings_wire, receipt
from tests.support.proving_miner import CPU

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
        {"attempts": dict.fromkeys(LATER_ATTEMPTS, "stopped")},
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


WITH_DISK = LIMITS.model_copy(update={"disk_bytes": 256 << 20, "disk_inodes": 16384})
OWN_DISK = {"disk_bytes": 256 << 20, "disk_inodes": 16384, "is_root_writable": False, "folders_elsewhere": 0}


def test_disk_of_its_own_is_checked_where_it_is_promised() -> None:
    found = decode_findings(json.dumps(findings_wire(own_disk=OWN_DISK)).encode())
    assert check_findings(found, receipt(WITH_DISK)) == check_findings(found, receipt()) + 3


@pytest.mark.parametrize(
    "changes",
    [
        {"disk_bytes": (256 << 20) + 4096},
        {"disk_bytes": (256 << 20) - 4096},
        {"disk_inodes": 16385},
        {"is_root_writable": True},
        {"folders_elsewhere": 1},
    ],
)
def test_disk_that_is_not_the_promised_one_is_named(changes: dict[str, object]) -> None:
    found = decode_findings(json.dumps(findings_wire(own_disk={**OWN_DISK, **changes})).encode())
    with pytest.raises(ProofRejected, match="disk") as caught:
        check_findings(found, receipt(WITH_DISK))
    assert caught.value.reason is RejectReason.LIMIT_NOT_HELD


def test_promised_disk_that_nobody_looked_at_does_not_hold() -> None:
    found = decode_findings(json.dumps(findings_wire()).encode()).model_copy(update={"own_disk": None})
    with pytest.raises(ProofRejected, match="disk_bytes"):
        check_findings(found, receipt(WITH_DISK))


def test_receipt_from_before_disks_were_promised_is_read() -> None:
    wire = {name: value for name, value in LIMITS.to_wire().items() if not name.startswith("disk_")}
    assert decode_model(Limits, json.dumps(wire).encode()) == LIMITS


CLAIMED = HardwareClaim(
    cpu_model="a processor",
    cpu_milli=2000,
    memory_bytes=1 << 30,
    devices=(CPU,),
    disk_bytes=100 << 30,
    network_bits_per_second=1_000_000_000,
)
DISK = {"total_bytes": 10 << 30, "free_bytes": 1, "written_bytes": 1, "write_us": 1, "read_us": 1, "is_intact": True}
TRIAL = NetworkTrial(
    asked_bytes=1 << 20,
    sent_bytes=1 << 20,
    send_us=800_000,
    received_bytes=1 << 20,
    receive_us=8 << 20,
    usual_bits_per_second=10_000_000,
)


def _claims(
    claimed: HardwareClaim = CLAIMED,
    network: NetworkTrial | None = TRIAL,
    limits: Limits = LIMITS,
    **changes: object,
) -> int:
    found = decode_findings(json.dumps(findings_wire(**changes)).encode())
    return check_claims(found.model_copy(update={"network": network}), claimed, limits)


def test_host_that_has_what_it_claims_passes_at_the_bound() -> None:
    """Two processors for 2000, a gibibyte for one, a tenth of the disk and of what is usual."""
    assert _claims(disk=DISK) == 5


@pytest.mark.parametrize(
    ("changes", "claim"),
    [
        ({"cpus_count": 1}, "cpu_milli"),
        ({"memory_total_bytes": (1 << 30) - 1}, "memory_bytes"),
        ({"disk": {**DISK, "total_bytes": (10 << 30) - 1}}, "disk_bytes"),
        ({"disk": {**DISK, "is_intact": False}}, "disk"),
        ({"disk": {**DISK, "written_bytes": 0}}, "disk"),
        ({"network": TRIAL.model_copy(update={"receive_us": (8 << 20) + 9})}, "network_bits_per_second"),
        ({"network": TRIAL.model_copy(update={"sent_bytes": 0})}, "network_bits_per_second"),
    ],
)
def test_claim_that_is_broken_by_the_least_is_named_with_both_figures(changes: dict[str, Any], claim: str) -> None:
    with pytest.raises(ProofRejected, match=claim) as caught:
        _claims(**{"disk": DISK, **changes})
    assert caught.value.reason is RejectReason.CLAIM_NOT_MET
    assert caught.value.got is not None
    assert caught.value.expected is not None


def test_size_of_the_host_s_disk_is_not_judged_by_a_disk_of_the_lease() -> None:
    small = {**DISK, "total_bytes": 1}
    assert _claims(limits=WITH_DISK, disk=small) == 4
    with pytest.raises(ProofRejected, match="disk"):
        _claims(limits=WITH_DISK, disk={**small, "is_intact": False})


def test_what_is_not_claimed_is_not_judged() -> None:
    claimed = CLAIMED.model_copy(update={"disk_bytes": 0, "network_bits_per_second": 0})
    nothing = TRIAL.model_copy(update={"sent_bytes": 0})
    assert _claims(claimed, nothing, disk={**DISK, "written_bytes": 0}) == 3


@pytest.mark.parametrize("name", ADDED_LATER)
def test_findings_of_an_earlier_version_are_read_and_a_probe_of_today_leaves_nothing_out(name: str) -> None:
    """A bundle that is replayed has none of it; what a container prints today has all of it."""
    old = {key: value for key, value in findings_wire().items() if key not in ADDED_LATER}
    kept = decode_model(Findings, json.dumps(old).encode())
    assert check_findings(kept, receipt()) > 20
    assert check_claims(kept, CLAIMED, LIMITS) == 0
    wire = findings_wire()
    del wire[name]
    with pytest.raises(ProofRejected, match=name) as caught:
        decode_findings(json.dumps(wire).encode())
    assert caught.value.reason is RejectReason.SSH_FAILED


@pytest.mark.parametrize("name", sorted(LATER_ATTEMPTS))
def test_attempt_of_today_is_judged_where_it_was_made_and_missing_in_no_probe_of_today(name: str) -> None:
    """Docker's own list of system calls lets both sockets through; an old bundle says nothing of them."""
    tried = dict.fromkeys(probe.ATTEMPTS, "stopped")
    untold = {other: outcome for other, outcome in tried.items() if other != name}
    kept = decode_model(Findings, json.dumps(findings_wire(attempts=untold)).encode())
    assert check_findings(kept, receipt()) == _check(attempts=tried) - 1
    with pytest.raises(ProofRejected, match=f"the stop of {name}"):
        _check(attempts={**tried, name: "succeeded"})
    with pytest.raises(ProofRejected, match=f"lacks {name}"):
        decode_findings(json.dumps(findings_wire(attempts=untold)).encode())


def test_container_cannot_tell_how_fast_it_is() -> None:
    with pytest.raises(ProofRejected, match="only we can measure"):
        decode_findings(json.dumps(findings_wire(network=TRIAL.to_wire())).encode())


def test_disk_that_cannot_be_written_is_told_and_nothing_stays(tmp_path: Path) -> None:
    found = probe.write_and_read(str(tmp_path))
    assert found["is_intact"] is True
    assert found["written_bytes"] == min(probe.DISK_BYTES, int(found["free_bytes"]) // 4)
    assert list(tmp_path.iterdir()) == []
    missing = probe.write_and_read(str(tmp_path / "nowhere"))
    assert (missing["written_bytes"], missing["is_intact"]) == (0, False)


def test_disk_is_filled_by_a_quarter_at_most(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w+b") as file:
        found: dict[str, int | bool] = {"written_bytes": 0}
        digest = probe.write_through(file.fileno(), 3_000_001, found)
        assert found["written_bytes"] == (tmp_path / "file").stat().st_size == 3_000_001
        assert probe.read_back(file.fileno(), found) == digest
        file.seek(0)
        file.write(b"x")
        file.flush()
        assert probe.read_back(file.fileno(), found) != digest


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
    text = 'import neurons.validator.probe as probe\nprobe.ATTEMPTS.update(dict.fromkeys(probe.ATTEMPTS, lambda: open("/no/such")))\nprobe.CPU_SECONDS = 0.01\n'
    text += f"probe.main({'ab' * 32!r}, {2 << 30}, 500)\n"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, check=True, timeout=60)
    found = decode_findings(done.stdout)
    assert found.memory is None
    assert found.attempts == dict.fromkeys(probe.ATTEMPTS, "stopped")


@pytest.mark.parametrize("value", ["", 'a"b\\c\n\x1b', "ä", "abc", {"a": {"b": None}}, True, False, 0, -5])
def test_probe_writes_json_without_json(value: object) -> None:
    assert json.loads(probe.encode(value)) == value


def test_probe_uses_only_what_python3_minimal_has() -> None:
    imported = [name for name in vars(probe) if type(vars(probe)[name]) is type(probe)]
    assert sorted(imported) == ["hashlib", "os", "signal", "socket", "subprocess", "sys", "time"]
