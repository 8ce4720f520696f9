"""Control groups: without them Docker can promise a limit and hold none.

A machine with systemd has them mounted. One without (a small virtual machine, a rescue system) may not; then they are
mounted here, as version 2 where the kernel's controllers are free for it, else as version 1 with a folder each.
"""

from __future__ import annotations

from pathlib import Path

from neurons.setup.errors import SetupError
from neurons.setup.shell import as_root, run

MOUNT_POINT = Path("/sys/fs/cgroup")
REQUIRED = frozenset({"memory", "cpu", "pids"})


def mounted_controllers(mounts: str, v2_controllers: str) -> frozenset[str]:
    """Return the controllers that are in reach.

    Args:
        mounts: The text of /proc/mounts.
        v2_controllers: The text of cgroup.controllers at the mount point; empty where there is none.
    """
    names = set(v2_controllers.split())
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) >= 4 and fields[2] == "cgroup":
            names.update(fields[3].split(","))
    return frozenset(names)


def mount_commands(proc_cgroups: str) -> list[list[str]]:
    """Return the mounts for a kernel with none, from the text of /proc/cgroups.

    Version 2 is possible when no version 1 hierarchy, here or in another namespace, holds a controller we need.
    """
    rows = [line.split() for line in proc_cgroups.splitlines() if line and not line.startswith("#")]
    enabled = {name: int(hierarchy) for name, hierarchy, _groups, is_enabled in rows if is_enabled == "1"}
    point = str(MOUNT_POINT)
    if all(enabled.get(name, 0) == 0 for name in REQUIRED):
        return [["mount", "-t", "cgroup2", "cgroup2", point]]
    commands = [["mount", "-t", "tmpfs", "-o", "mode=755", "cgroup", point]]
    for name in sorted(enabled):
        commands.append(["mkdir", "-p", f"{point}/{name}"])
        commands.append(["mount", "-t", "cgroup", "-o", name, "cgroup", f"{point}/{name}"])
    return commands


def mount_missing_cgroups() -> bool:
    """Mount cgroups where the needed controllers are out of reach; say whether anything was mounted.

    Raises:
        SetupError: The kernel refuses.
    """
    mounts = Path("/proc/mounts").read_text(encoding="utf-8")
    controllers = MOUNT_POINT / "cgroup.controllers"
    v2_text = controllers.read_text(encoding="utf-8") if controllers.exists() else ""
    if mounted_controllers(mounts, v2_text) >= REQUIRED:
        return False
    for command in mount_commands(Path("/proc/cgroups").read_text(encoding="utf-8")):
        outcome = run(as_root(command, "mount the control groups"))
        if not outcome.ok:
            raise SetupError(
                f"`{' '.join(command)}` failed: {outcome.tail(1)}",
                "mount the control groups of your kernel on /sys/fs/cgroup (memory, cpu and pids are needed)",
            )
    return True
