"""What a tenant's programs may do at all, whatever the lease's limits are: one profile per isolation.

Rules:
- Capabilities are dropped but for the few that sshd and apt need; no program gains privileges; the filter of system
  calls is our own (`seccomp`).
- What a host has only once is bounded: open files, locked memory, core files (none), signals and timers that wait,
  message queues, the engine's copy of a log.
- ``strict``: sshd and everything after it runs as a user of the lease's own, without a capability, also not to be had
  later. Its number is the lease's ssh port: no two leases of a host share it, so that what the kernel counts per user is
  theirs alone, and it fits into a remapped user namespace. Root with five capabilities prepares the container for some
  milliseconds, and gives all of them up before anybody can log in.
- What is asked for here is looked for on the host's side afterwards (`enforced`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from docker.types import LogConfig, Ulimit

from neurons.miner.hard_limits import HardLimits
from neurons.miner.lease import Lease
from neurons.miner.seccomp import seccomp_profile
from utils.host import cpu_numbers

OPEN_FILES_MAX = 65536
# What the kernel gives by itself; nothing is ever swapped out here, so that locking memory gains little.
LOCKED_BYTES_MAX = 8 << 20
# The kernel adds these up over all processes of a user, and a container's root is the host's. Who asks for more than its
# own limit is refused, so that tenants never come near what the host's programs may have (32 GB: 128,000 and 819,200).
SIGNALS_MAX = 4096
QUEUE_BYTES_MAX = 409_600
# Three let sshd log anybody in (SETUID, SETGID, SYS_CHROOT), AUDIT_WRITE gives root a terminal, the rest lets apt work.
CAPABILITIES = {
    "CHOWN": 0,
    "DAC_OVERRIDE": 1,
    "FOWNER": 3,
    "FSETID": 4,
    "KILL": 5,
    "SETGID": 6,
    "SETUID": 7,
    "SYS_CHROOT": 18,
    "AUDIT_WRITE": 29,
}
CAPABILITY_MASK = sum(1 << bit for bit in CAPABILITIES.values())


# To make a home and a host key for another user, to become it, and to give up all capabilities, these among them.
PREPARING = ("CHOWN", "DAC_OVERRIDE", "SETGID", "SETPCAP", "SETUID")


@dataclass(frozen=True, slots=True)
class Privileges:
    """The most that the first process of a container may have.

    Attributes:
        user_id: Whose process it is, as the container counts.
        capability_mask: Capabilities in any of its sets.
        cpus: CPUs it may run on; None for all.
    """

    user_id: int = 0
    capability_mask: int = CAPABILITY_MASK
    cpus: frozenset[int] | None = None


@dataclass(frozen=True, slots=True)
class Profile:
    """What all containers of a node have in common.

    Attributes:
        runtime: The engine's name of the program that starts containers; None for the engine's own choice.
        cpuset_cpus: CPUs that containers may run on, as `taskset` writes them; None for all.
    """

    runtime: str | None = None
    cpuset_cpus: str | None = None

    def privileges(self, lease: Lease) -> Privileges:
        """Return what must be found on the first process of a lease's container, once it greets."""
        cpus = None if self.cpuset_cpus is None else cpu_numbers(self.cpuset_cpus)
        if lease.isolation == "strict":
            return Privileges(user_id_of(lease), 0, cpus)
        return Privileges(cpus=cpus)

    def options(self, lease: Lease, engine: HardLimits) -> dict[str, Any]:
        """Return what the engine is asked for.

        Args:
            lease: Whose container it is.
            engine: What the engine itself may open and lock; more than that it cannot give.
        """
        return {
            "cap_drop": ["ALL"],
            "cap_add": list(PREPARING if lease.isolation == "strict" else CAPABILITIES),
            "security_opt": ["no-new-privileges:true", f"seccomp={seccomp_profile()}"],
            "ulimits": [
                Ulimit(name="core", soft=0, hard=0),
                _ulimit("nofile", engine.clamp(OPEN_FILES_MAX, engine.open_files)),
                _ulimit("memlock", engine.clamp(LOCKED_BYTES_MAX, engine.locked_bytes)),
                _ulimit("sigpending", engine.clamp(SIGNALS_MAX, engine.signals_count)),
                _ulimit("msgqueue", engine.clamp(QUEUE_BYTES_MAX, engine.queue_bytes)),
            ],
            # The engine's copy of PID 1's output, which goes to /dev/null; bounded for the line before that.
            "log_config": LogConfig(type="local", config={"max-size": "1m", "max-file": "2"}),
            "oom_score_adj": 500,
            "restart_policy": {"Name": "no"},
            "runtime": self.runtime,
            "cpuset_cpus": self.cpuset_cpus,
        }


def user_id_of(lease: Lease) -> int:
    """Return the user that a strict lease's programs run as."""
    return lease.ssh_port


def _ulimit(name: str, most: int) -> Ulimit:
    return Ulimit(name=name, soft=most, hard=most)
