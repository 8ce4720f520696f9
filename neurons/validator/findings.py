"""What the probe printed inside a rented container, decoded strictly and compared with the miner's signed receipt.

Rules:
- The output is a stranger's: bounded, exact fields and types, nothing unknown.
- Files must say exactly what the receipt says (CPU within 1 %); a limit that is missing never holds.
- A disk that the receipt promises has its exact size, and nothing outside of it can be written.
- The behaviour must agree: a child that wants more memory than there is dies at the limit, burning processes get no more
  than a quarter above their CPU time, and what must not be possible is not. "Untried" is believed only of attempts
  that need a program which the image may lack.
- What the registry entry claims for the whole host must be there to be seen (`check_claims`): processors, memory, a disk
  that takes a file and gives it back. Bandwidth is what we measure ourselves (`bandwidth`).

What it is worth: the pinned host key and the chain of hashes show that whoever answers holds the container's host key,
has read the receipt's nonce, and has computed a little. The rest is what a machine whose root is the miner says of
itself. An honest mistake is found (a limit that was not set, an engine that drops an option); a dishonest miner that
recognises the inspection, by the validator's key or by the text of the probe, can print the right answers without any
container. That the devices are several is not shown here but by the round, which proves all of them at one moment.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from neurons.validator import bandwidth, probe
from neurons.validator.bandwidth import NetworkTrial
from neurons.validator.gpu_findings import GpuTrial, gpu_checks, gpu_claim_checks
from polarise.answers import printable
from polarise.decode import WireModel, decode_model
from polarise.errors import ProofRejected, RejectReason, RequestRejected
from polarise.hardware import HardwareClaim
from polarise.receipt import Limits, Receipt

MAX_OUTPUT_BYTES = 64 * 1024
SIGKILL = 9
SECCOMP_FILTER = 2
# The nine that sshd and apt need: chown, dac_override, fowner, fsetid, kill, setgid, setuid, sys_chroot, audit_write.
ALLOWED_CAPABILITIES = sum(1 << bit for bit in (0, 1, 3, 4, 5, 6, 7, 18, 29))
CPU_FILE_TOLERANCE_PPM = 10_000
CPU_BURN_TOLERANCE_PPM = 250_000
CPU_WALL_US_MIN = 500_000
# sshd, the shell and the probe itself need some of the memory too.
MEMORY_REACHED_MIN_PPM = 750_000
# Other disk than where the leases lie may have been measured; a tenth is no misunderstanding.
CLAIM_FLOOR_PPM = 100_000
PPM = 1_000_000
# Not tried by an earlier version, whose bundles are replayed too.
LATER_ATTEMPTS = frozenset({"open_vsock_socket", "open_device_netlink"})
ADDED_LATER = ("cpus_count", "memory_total_bytes", "disk", "own_disk", "gpu")

Number = Annotated[int, Field(ge=0, lt=2**53)]
Mask = Annotated[str, Field(pattern=r"^[0-9a-f]{1,16}$")]


class CpuBurn(WireModel):
    """CPU time that burning processes got, and the time that passed."""

    spent_us: Number
    wall_us: Number


class MemoryTrial(WireModel):
    """How far a child came that touches more memory than there may be, and which signal ended it."""

    touched_bytes: Number
    signal: Number


class DiskTrial(WireModel):
    """What a file on the container's disk came to: written through, and read back from the disk."""

    total_bytes: Number
    free_bytes: Number
    written_bytes: Number
    write_us: Number
    read_us: Number
    is_intact: bool


class OwnDisk(WireModel):
    """The disk under the container's folders: its size, and whether anything at the top can be written outside of it."""

    disk_bytes: Number
    disk_inodes: Number
    is_root_writable: bool
    folders_elsewhere: Number


class Findings(WireModel):
    """Everything the probe prints, see `neurons.validator.probe`, and what we measured from outside.

    What has a default was not looked at by an earlier version; its bundles are replayed too.
    """

    python_version: str = Field(max_length=32)
    cgroup_version: Literal[1, 2]
    cgroup_lines: str = Field(max_length=4000)
    memory_bytes: Number | None
    swap_bytes: int | None = Field(gt=-(2**53), lt=2**53)
    cpu_quota_us: Number | None
    cpu_period_us: Number | None
    pids_count: Number | None
    shm_bytes: Number | None
    capabilities_bounding: Mask
    capabilities_effective: Mask
    no_new_privileges: bool
    seccomp_mode: int = Field(ge=-1, le=8)
    attempts: dict[Annotated[str, Field(max_length=40)], Literal["stopped", "succeeded", "untried"]] = Field(
        max_length=64
    )
    chain: str = Field(pattern=r"^[0-9a-f]{64}$")
    cpu: CpuBurn
    memory: MemoryTrial | None
    cpus_count: Number | None = None
    memory_total_bytes: Number | None = None
    disk: DiskTrial | None = None
    own_disk: OwnDisk | None = None
    gpu: GpuTrial | None = None
    network: NetworkTrial | None = None


def decode_findings(raw: bytes) -> Findings:
    """Decode the probe's output.

    Raises:
        ProofRejected: SSH_FAILED, it is not what our probe of today prints.
    """
    try:
        findings = decode_model(Findings, raw, max_bytes=MAX_OUTPUT_BYTES)
    except RequestRejected as err:
        raise ProofRejected(
            RejectReason.SSH_FAILED, f"the probe's output cannot be read: {printable(err.message)}"[:400]
        ) from err
    # What is not looked at is not judged, so that leaving it out must not be a way to pass.
    if lacking := [name for name in ADDED_LATER if getattr(findings, name) is None]:
        raise ProofRejected(RejectReason.SSH_FAILED, f"the probe's output lacks {', '.join(lacking)}")
    if untold := sorted(LATER_ATTEMPTS - findings.attempts.keys()):
        raise ProofRejected(RejectReason.SSH_FAILED, f"the probe's output lacks {', '.join(untold)}")
    if findings.network is not None:
        raise ProofRejected(RejectReason.SSH_FAILED, "the probe's output tells what only we can measure")
    return findings


def check_receipt(receipt: Receipt, *, memory_bytes: int, cpu_milli: int) -> None:
    """Check that the receipt promises what was asked for; memory may be rounded down to a whole page.

    Raises:
        ProofRejected: LIMIT_NOT_HELD.
    """
    _require("memory_bytes of the receipt", receipt.limits.memory_bytes, memory_bytes - memory_bytes % 4096)
    _require("swap_bytes of the receipt", receipt.limits.swap_bytes, 0)
    _require("cpu_milli of the receipt", receipt.limits.cpu_milli, cpu_milli)
    _require("devices of the receipt", receipt.devices, ())


def check_findings(findings: Findings, receipt: Receipt) -> int:
    """Compare what was seen with what was promised.

    Returns:
        How many checks were made.

    Raises:
        ProofRejected: LIMIT_NOT_HELD with both figures, or SSH_FAILED when the chain is not the receipt's.
    """
    if not hmac.compare_digest(findings.chain, expected_chain(receipt.nonce)):
        raise ProofRejected(RejectReason.SSH_FAILED, "the proof inside the container is not the receipt's")
    checks = [*_files(findings, receipt.limits), *_privileges(findings), *_behaviour(findings, receipt.limits)]
    checks += _own_disk(findings.own_disk, receipt.limits)
    if findings.gpu is not None:
        checks += gpu_checks(findings.gpu, receipt)
    for name, got, expected, holds in checks:
        if not holds:
            raise ProofRejected(RejectReason.LIMIT_NOT_HELD, f"{name} does not hold", got=got, expected=expected)
    return len(checks) + 1


def check_claims(findings: Findings, hardware: HardwareClaim, limits: Limits) -> int:
    """Compare what was seen with what the miner claims for its whole host.

    Args:
        findings: What was seen.
        hardware: What is claimed.
        limits: What the container was promised: the disk of a lease hides how large the host's is.

    Returns:
        How many checks were made; what an earlier version did not look at is none.

    Raises:
        ProofRejected: CLAIM_NOT_MET with both figures.
    """
    checks = [*_host(findings, hardware), *_disk(findings.disk, hardware.disk_bytes, limits)]
    if findings.gpu is not None:
        checks += gpu_claim_checks(findings.gpu, hardware.devices)
    if findings.network is not None:
        checks.append(bandwidth.check(findings.network, hardware.network_bits_per_second))
    for name, got, expected, holds in checks:
        if not holds:
            raise ProofRejected(
                RejectReason.CLAIM_NOT_MET, f"{name} is claimed and not there", got=got, expected=expected
            )
    return len(checks)


def expected_chain(nonce: str) -> str:
    """Recompute the small proof inside the container, about 0.1 s."""
    digest = bytes.fromhex(nonce)
    for _ in range(probe.CHAIN_LENGTH):
        digest = hashlib.sha256(digest).digest()
    return digest.hex()


_Check = tuple[str, object, object, bool]


def _files(findings: Findings, limits: Limits) -> Iterator[_Check]:
    for name in ("memory_bytes", "swap_bytes", "pids_count", "shm_bytes"):
        got, expected = getattr(findings, name), getattr(limits, name)
        yield name, got, expected, got == expected
    quota, period = findings.cpu_quota_us, findings.cpu_period_us
    milli = quota * 1000 // period if quota is not None and period else None
    is_near = milli is not None and abs(milli - limits.cpu_milli) * PPM <= limits.cpu_milli * CPU_FILE_TOLERANCE_PPM
    yield "cpu_milli", milli, limits.cpu_milli, is_near


def _privileges(findings: Findings) -> Iterator[_Check]:
    for name in ("capabilities_bounding", "capabilities_effective"):
        mask = int(getattr(findings, name), 16)
        yield name, f"{mask:#x}", f"nothing beyond {ALLOWED_CAPABILITIES:#x}", not mask & ~ALLOWED_CAPABILITIES
    yield "no_new_privileges", findings.no_new_privileges, True, findings.no_new_privileges
    yield "seccomp_mode", findings.seccomp_mode, SECCOMP_FILTER, findings.seccomp_mode == SECCOMP_FILTER
    for name in probe.ATTEMPTS:
        if name in LATER_ATTEMPTS and name not in findings.attempts:
            continue
        got = findings.attempts.get(name, "missing")
        holds = got == "stopped" or (got == "untried" and name in probe.NEED_PROGRAM)
        yield f"the stop of {name}", got, "stopped", holds


def _behaviour(findings: Findings, limits: Limits) -> Iterator[_Check]:
    cpu = findings.cpu
    yield "the time of the CPU trial", cpu.wall_us, f">= {CPU_WALL_US_MIN}", cpu.wall_us >= CPU_WALL_US_MIN
    used_milli = cpu.spent_us * 1000 // max(cpu.wall_us, 1)
    most_milli = limits.cpu_milli * (PPM + CPU_BURN_TOLERANCE_PPM) // PPM
    yield "cpu_milli under load", used_milli, f"<= {most_milli}", used_milli <= most_milli
    if limits.memory_bytes > probe.MEMORY_TRIED_MAX:
        return
    trial = findings.memory
    yield "the memory trial", trial and trial.signal, "killed (9)", trial is not None and trial.signal == SIGKILL
    touched = trial.touched_bytes if trial else 0
    least = limits.memory_bytes * MEMORY_REACHED_MIN_PPM // PPM
    expected = f"{least}..{limits.memory_bytes}"
    yield "memory_bytes under load", touched, expected, least <= touched <= limits.memory_bytes


def _host(findings: Findings, hardware: HardwareClaim) -> Iterator[_Check]:
    if findings.cpus_count is not None:
        milli = findings.cpus_count * 1000
        yield "cpu_milli of the host", milli, f">= {hardware.cpu_milli}", milli >= hardware.cpu_milli
    if findings.memory_total_bytes is not None:
        total = findings.memory_total_bytes
        yield "memory_bytes of the host", total, f">= {hardware.memory_bytes}", total >= hardware.memory_bytes


def _own_disk(disk: OwnDisk | None, limits: Limits) -> Iterator[_Check]:
    if limits.disk_bytes is None:
        return
    for name in ("disk_bytes", "disk_inodes"):
        got, expected = disk and getattr(disk, name), getattr(limits, name)
        yield name, got, expected, got == expected
    outside = None if disk is None else disk.folders_elsewhere + disk.is_root_writable
    yield "the disk as the only place to write", outside, 0, outside == 0


def _disk(disk: DiskTrial | None, claimed_bytes: int, limits: Limits) -> Iterator[_Check]:
    if disk is None or claimed_bytes == 0:
        return
    is_usable = disk.is_intact and disk.written_bytes > 0
    yield "a disk that keeps a file", f"{disk.written_bytes} bytes written, intact {is_usable}", "intact", is_usable
    if limits.disk_bytes is not None:
        return
    least = claimed_bytes * CLAIM_FLOOR_PPM // PPM
    yield "disk_bytes of the host", disk.total_bytes, f">= {least}", disk.total_bytes >= least


def _require(name: str, got: object, expected: object) -> None:
    if got != expected:
        raise ProofRejected(RejectReason.LIMIT_NOT_HELD, f"{name} differs from the request", got=got, expected=expected)
