"""Evidence made by hand, right unless a test changes it."""

from __future__ import annotations

from neurons.validator import probe
from neurons.validator.findings import ALLOWED_CAPABILITIES, expected_chain
from polarise.errors import RejectReason
from polarise.evidence import InspectionEvidence, ProofEvidence, ScoreRecord, VerdictRecord
from polarise.messages import MatmulSizes, MemorySizes, PowSizes, ProofKind, ProofSizes
from polarise.receipt import STATEMENT_KIND as RECEIPT_KIND
from polarise.receipt import Limits, Receipt
from polarise.ssh_keys import fingerprint, generate_key_pair
from polarise.statement import SignedStatement, sign_statement
from tests.support.proving_miner import MINER, VALIDATOR

LIMITS = Limits(memory_bytes=256 << 20, swap_bytes=0, cpu_milli=500, pids_count=512, shm_bytes=64 << 20)
CLAIM = 1_000_000
NONCE = "ab" * 32
SIZES: dict[ProofKind, ProofSizes] = {
    "pow": PowSizes(shares=16, difficulty=1, slot=0),
    "matmul": MatmulSizes(n=256, rounds=2, tile=64, openings=32),
    "memory": MemorySizes(blocks=16, hashes=8, passes=10, openings=32),
}


def proof(
    reason: RejectReason | None = None,
    *,
    measured: int = CLAIM,
    device: str = "cpu",
    kind: ProofKind = "matmul",
    claimed: int = CLAIM,
    expected: int | None = None,
) -> ProofEvidence:
    """One proof with this outcome."""
    return ProofEvidence(
        kind=kind,
        sizes=SIZES[kind],
        challenge_id="0" * 32,
        device=device,
        device_index=0,
        claimed_per_second=claimed,
        nonce="0" * 64,
        beacon="0" * 64,
        seed="0" * 64,
        measured_per_second=measured,
        verdict=VerdictRecord(reason=reason, message="as the test says" if reason else ""),
        expected_per_second=expected,
    )


def inspection(reason: RejectReason | None = None) -> InspectionEvidence:
    """One inspection with this outcome."""
    return InspectionEvidence(asked_memory_bytes=1, asked_cpu_milli=1, verdict=VerdictRecord(reason=reason))


def score(smoothed_ppm: int) -> ScoreRecord:
    """A score of an earlier epoch, with nothing measured in it, and this average of each part."""
    from neurons.validator.scoring import ScoringSystem

    empty = ScoringSystem().calculate_score([], None, None)
    parts = tuple(part.model_copy(update={"smoothed_ppm": smoothed_ppm}) for part in empty.parts)
    return empty.model_copy(update={"smoothed_ppm": smoothed_ppm, "parts": parts})


def receipt_statement(limits: Limits = LIMITS) -> SignedStatement:
    """A receipt of the miner for the validator."""
    _, host_key = generate_key_pair()
    receipt = Receipt(
        lease_id="0" * 32,
        container_id="ab" * 32,
        node_key=MINER.public_key,
        renter_key=VALIDATOR.public_key,
        ssh_host="127.0.0.1",
        ssh_port=20001,
        ssh_user="root",
        host_key=host_key,
        host_key_fingerprint=fingerprint(host_key),
        limits=limits,
        devices=(),
        image="sha256:" + "0" * 64,
        isolation="standard",
        nonce=NONCE,
        granted_unix_ms=1,
        expires_unix_ms=2,
    )
    return sign_statement(MINER, RECEIPT_KIND, receipt)


def receipt(limits: Limits = LIMITS) -> Receipt:
    """The receipt inside."""
    return receipt_statement(limits).open(RECEIPT_KIND, Receipt)


def findings_wire(**changes: object) -> dict[str, object]:
    """What the probe prints in a container that keeps `LIMITS`."""
    return {
        "python_version": "3.11.2",
        "cgroup_version": 1,
        "cgroup_lines": "0::/docker/x",
        "memory_bytes": LIMITS.memory_bytes,
        "swap_bytes": 0,
        "cpu_quota_us": 50_000,
        "cpu_period_us": 100_000,
        "pids_count": LIMITS.pids_count,
        "shm_bytes": LIMITS.shm_bytes,
        "capabilities_bounding": f"{ALLOWED_CAPABILITIES:016x}",
        "capabilities_effective": f"{ALLOWED_CAPABILITIES:016x}",
        "no_new_privileges": True,
        "seccomp_mode": 2,
        "attempts": dict.fromkeys(probe.ATTEMPTS, "stopped"),
        "chain": expected_chain(NONCE),
        "cpu": {"spent_us": 370_000, "wall_us": 702_000},
        "memory": {"touched_bytes": 244 << 20, "signal": 9},
        "cpus_count": 2,
        "memory_total_bytes": 1 << 30,
        "disk": {
            "total_bytes": 10 << 30,
            "free_bytes": 8 << 30,
            "written_bytes": 32 << 20,
            "write_us": 80_000,
            "read_us": 20_000,
            "is_intact": True,
        },
        "gpu": {"state": "no ctypes"},
        "own_disk": {
            "disk_bytes": 10 << 30,
            "disk_inodes": 1 << 20,
            "is_root_writable": True,
            "folders_elsewhere": 0,
        },
        **changes,
    }
