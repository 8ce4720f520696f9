"""How much of the host's memory the sockets of a container may hold.

Rules:
- Control groups v2 count what lies unread in TCP and UDP sockets as memory of the container. v1 counts it apart, and limits
  it only when told to: a lease of 64 MiB held 1.1 GB of the host in packets to itself.
- The engine has no option for it that all its versions know, so that the miner writes the limit, after each start.
- It is read back like every other limit. Where this user may not write it, the log says so once per container.
Source: Linux Documentation/admin-guide/cgroup-v1/memory.rst, 2.7.1.
"""

from __future__ import annotations

import logging
from pathlib import Path

from telemetry.usage import CGROUP_ROOT, PROC, cgroup_folders

logger = logging.getLogger(__name__)

LIMIT = "memory.kmem.tcp.limit_in_bytes"
# Of the lease's memory, and beside it: enough for every connection, and little enough for the host.
SHARE = 4
PAGE_BYTES = 4096


def socket_bytes(memory_bytes: int) -> int:
    """Return what the sockets of a lease with so much memory may hold."""
    return memory_bytes // SHARE // PAGE_BYTES * PAGE_BYTES


def hold_socket_memory(pid: int, memory_bytes: int, *, proc: Path = PROC, cgroup_root: Path = CGROUP_ROOT) -> list[str]:
    """Limit what the sockets of a container hold, and return one sentence if the kernel has another limit.

    Args:
        pid: First process of the container, as the host counts.
        memory_bytes: The lease's.
        proc: The host's /proc.
        cgroup_root: The host's cgroups.

    Raises:
        OSError: The process is gone, or the kernel refuses the limit.
        ValueError: It is in no cgroup of its own.
    """
    folder = cgroup_folders(pid, proc=proc, root=cgroup_root).get("memory")
    if folder is None or not (folder / LIMIT).exists():
        return []
    wanted = socket_bytes(memory_bytes)
    try:
        (folder / LIMIT).write_text(str(wanted), encoding="ascii")
    except PermissionError:
        logger.warning("the memory of a container's sockets is not limited: run the miner as root", extra={"pid": pid})
        return []
    found = int((folder / LIMIT).read_text(encoding="ascii"))
    return [] if found == wanted else [f"socket_bytes is {found}, asked for {wanted}"]
