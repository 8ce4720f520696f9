"""The disks of leases: can this machine give each lease a file system of its own, with a size that holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from neurons.setup.check import Check, met, warning
from neurons.setup.shell import find_program, is_root

# Program -> the Debian package that brings it.
PROGRAMS = {"mkfs.ext4": "e2fsprogs", "mount": "mount", "umount": "mount", "tar": "tar"}
LOOP_CONTROL = Path("/dev/loop-control")
# There as soon as the kernel's ext4 is; a module that is not loaded yet says nothing.
EXT4_FEATURES = Path("/sys/fs/ext4/features")


@dataclass(frozen=True, slots=True)
class LeaseDiskFacts:
    """Who we are, which programs are missing, whether the kernel has loop devices, and whether its ext4 can encrypt."""

    is_root: bool = True
    missing: tuple[str, ...] = ()
    has_loop_devices: bool = True
    has_encryption: bool = True


def measure_lease_disk() -> LeaseDiskFacts:
    """Look, without mounting anything."""
    missing = tuple(name for name in PROGRAMS if find_program(name) is None)
    has_encryption = not EXT4_FEATURES.exists() or (EXT4_FEATURES / "encryption").exists()
    return LeaseDiskFacts(is_root(), missing, LOOP_CONTROL.exists(), has_encryption)


def obstacle(facts: LeaseDiskFacts) -> tuple[str, str] | None:
    """Return what stands in the way of disks for leases, and the fix; None where nothing does."""
    if facts.missing:
        packages = sorted({PROGRAMS[name] for name in facts.missing})
        return f"not installed: {', '.join(facts.missing)}", f"apt-get install {' '.join(packages)}"
    if not facts.has_loop_devices:
        return (
            f"there is no {LOOP_CONTROL}",
            "modprobe loop; in a container or a small VM, ask its host for loop devices",
        )
    if not facts.is_root:
        return "only root may mount file systems", "run the miner as root"
    return None


def encryption_obstacle(facts: LeaseDiskFacts) -> tuple[str, str] | None:
    """Return what stands in the way of encrypted disks, beside `obstacle`, and the fix; None where nothing does."""
    if facts.has_encryption:
        return None
    return "this kernel's ext4 cannot encrypt", "boot a kernel that is built with CONFIG_FS_ENCRYPTION"


def check_lease_disk(facts: LeaseDiskFacts) -> Check:
    """Judge it; a miner without disks for its leases still works, but a tenant can fill the host's disk."""
    name, required = "disks of leases", "root, loop devices, mkfs.ext4"
    found = obstacle(facts)
    if found is None:
        return met(name, "can be made", required)
    cause = "leases share the host's disk without a limit, and `disk` in a request is refused"
    return warning(name, found[0], required, cause, found[1])


def check_disk_encryption(facts: LeaseDiskFacts) -> Check:
    """Judge whether disks can be encrypted; without that, whoever has the host's disk reads what tenants wrote."""
    name, required = "encryption of disks", "ext4 with encryption"
    found = obstacle(facts) or encryption_obstacle(facts)
    if found is None:
        return met(name, "can be done", required)
    cause = "what tenants wrote can be read from the host's disk by whoever takes it away, also after their leases"
    return warning(name, found[0], required, cause, found[1])
