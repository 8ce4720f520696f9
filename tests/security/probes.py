"""The probes: a small program of ours that tries one thing after another with the kernel, and what it printed.

Rules:
- A probe counts only where it succeeds in the control, which has every capability the engine can give and no filter: what
  not even that can do on this machine says nothing about us.
- Few are meant to work, each for a reason; every other one that succeeds in a lease is a hole.
- The names stand in the program alone (`probes.c`).
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("probes.c")
COMPILER = "gcc"
SUCCEEDED = "succeeded"
MEANT = {
    "route_netlink": "programs ask it for their addresses",
    "trace_own_child": "debuggers",
    "change_root": "sshd locks its unprivileged half in with it; needs SYS_CHROOT, which leads nowhere without mounts",
    "become_another_user": "sshd and apt; from root downwards only",
}
# Docker 20.10 knows no later ones; SYS_ADMIN contains what they were split from.
CAPABILITIES = """
    CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE
    NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN
    SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE
    MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ
"""


def names() -> list[str]:
    """Return the names of all probes in their order."""
    table = SOURCE.read_text(encoding="utf-8").partition("PROBES[] = {")[2]
    return re.findall(r"PROBE\((\w+)\)", table)


def build(folder: Path) -> Path:
    """Compile the program; static, because it runs in whatever image."""
    program = folder / "probes"
    subprocess.run([COMPILER, "-O1", "-static", "-o", str(program), str(SOURCE)], check=True, timeout=120)
    return program


def outcomes(printed: str) -> dict[str, str]:
    """Return what became of each probe: ``succeeded``, or ``stopped`` with the error.

    Raises:
        ValueError: The program did not come to its end.
    """
    found = dict(line.split(" ", 1) for line in printed.splitlines())
    if list(found) != names():
        raise ValueError(f"the probes broke off after {list(found)[-1:]}")
    return found


def control_capabilities() -> list[str]:
    """Return every capability that this host can give; a host that is a container itself lacks some."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    mask = int(status.partition("CapBnd:")[2].split()[0], 16)
    return [name for bit, name in enumerate(CAPABILITIES.split()) if mask >> bit & 1]


def counting(control: dict[str, str]) -> list[str]:
    """Return the probes that count: those that succeed in the control."""
    return [name for name, outcome in control.items() if outcome == SUCCEEDED]


def holes(control: dict[str, str], lease: dict[str, str]) -> list[str]:
    """Return the probes that succeed in a lease, count, and are not meant to."""
    return [name for name in counting(control) if lease[name] == SUCCEEDED and name not in MEANT]
