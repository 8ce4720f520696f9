"""Runs inside a rented container, sent over stdin to its python3, and prints what it finds as one JSON object.

The validator never runs this file; it sends its text. Arguments: nonce, memory limit in bytes, CPU limit in milli.

Rules:
- Standard library only, and of it only what Debian's python3-minimal has: no json, ctypes, mmap, resource. The part that looks
  at a GPU needs ctypes, and says so where there is none (`gpu_probe`); the validator puts both files into one text.
- Limits are read from the control group files, and then tried: files can be faked more easily than a kill.
- An attempt that should fail changes nothing lasting where it does not. It is untried only where the image lacks the
  program that it needs; a file that is not there cannot be misused, which counts as stopped.
"""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import sys
import time

from neurons.validator.gpu_probe import look_at_gpu

CGROUP = "/sys/fs/cgroup"
CHAIN_LENGTH = 200_000
CPU_SECONDS = 0.7
MEMORY_BEYOND = 64 << 20
MEMORY_TRIED_MAX = 1 << 30
BLOCK = 4 << 20
GPU_SECONDS = 10
UNLIMITED = 1 << 62
DISK_BYTES = 32 << 20
DISK_SECONDS = 5.0
KERNELS = ("dev", "proc", "sys")
DISK_FOLDER = "/var/tmp"  # noqa: S108  of a container of our own


def main(nonce: str, memory_bytes: int, cpu_milli: int) -> None:
    """Look, try, compute, and print."""
    status = read_status()
    found = {
        "python_version": ".".join(str(part) for part in sys.version_info[:3]),
        "cgroup_version": 1 if os.path.isdir(CGROUP + "/memory") else 2,
        "cgroup_lines": read("/proc/self/cgroup")[:4000],
        "cpus_count": len(os.sched_getaffinity(0)),
        "memory_total_bytes": memory_total(),
        "memory_bytes": memory_limit(),
        "swap_bytes": swap_limit(),
        "cpu_quota_us": cpu_quota()[0],
        "cpu_period_us": cpu_quota()[1],
        "pids_count": limit("pids", "pids.max", "pids.max"),
        "shm_bytes": shm_bytes(),
        "capabilities_bounding": status.get("CapBnd", "")[:16],
        "capabilities_effective": status.get("CapEff", "")[:16],
        "no_new_privileges": status.get("NoNewPrivs") == "1",
        "seccomp_mode": int(status.get("Seccomp", "-1")),
        "gpu": aside(lambda: look_at_gpu(nonce)),
        "attempts": {name: outcome(attempt) for name, attempt in ATTEMPTS.items()},
        "chain": chain(nonce),
        "cpu": burn(cpu_milli // 1000 + 2),
        "disk": write_and_read(DISK_FOLDER),
        "own_disk": own_disk(DISK_FOLDER),
        "memory": exhaust(memory_bytes) if memory_bytes <= MEMORY_TRIED_MAX else None,
    }
    sys.stdout.write(encode(found) + "\n")


class Encoded(str):
    """JSON that stands as it is."""

    __slots__ = ()


def encode(value: object) -> str:
    """Encode None, bool, int, str and dict as JSON; python3-minimal has no json."""
    if isinstance(value, Encoded):
        return value
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, dict):
        return "{" + ",".join(encode(str(key)) + ":" + encode(item) for key, item in value.items()) + "}"
    return '"' + "".join(c if c.isalnum() and c.isascii() else f"\\u{ord(c) & 0xFFFF:04x}" for c in str(value)) + '"'


def read(path: str) -> str:
    """Return a file's text, empty when it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as handle:
            return handle.read().strip()
    except OSError:
        return ""


def read_status() -> dict[str, str]:
    """Return the fields of /proc/self/status."""
    pairs = (line.partition(":") for line in read("/proc/self/status").splitlines())
    return {name: value.strip() for name, _, value in pairs}


def limit(controller: str, name_v1: str, name_v2: str) -> int | None:
    """Return one limit of our control group, None when there is none."""
    text = (
        read(f"{CGROUP}/{controller}/{name_v1}")
        or read(f"{CGROUP}/{own_path()}/{name_v2}")
        or read(f"{CGROUP}/{name_v2}")
    )
    if not text.isdigit() or int(text) >= UNLIMITED:
        return None
    return int(text)


def own_path() -> str:
    """Return our path in the v2 tree; "" inside a control group namespace of our own."""
    for line in read("/proc/self/cgroup").splitlines():
        if line.startswith("0::"):
            return line[3:].strip("/")
    return ""


def memory_total() -> int:
    """Return the memory of the whole machine, 0 where it is not said."""
    for line in read("/proc/meminfo").splitlines():
        words = line.split()
        if len(words) == 3 and words[0] == "MemTotal:" and words[1].isdigit():
            return int(words[1]) << 10
    return 0


def memory_limit() -> int | None:
    """Return the memory limit."""
    return limit("memory", "memory.limit_in_bytes", "memory.max")


def swap_limit() -> int | None:
    """Return how much swap we may use on top of memory."""
    if not os.path.isdir(CGROUP + "/memory"):
        return limit("memory", "-", "memory.swap.max")
    memory, both = memory_limit(), limit("memory", "memory.memsw.limit_in_bytes", "-")
    if memory is not None and both is not None:
        return both - memory
    # Without swap accounting nothing limits swap; that is no harm where the host has none.
    has_none = any(line.split() == ["SwapTotal:", "0", "kB"] for line in read("/proc/meminfo").splitlines())
    return 0 if has_none else None


def cpu_quota() -> tuple[int | None, int | None]:
    """Return quota and period of CPU time in microseconds; the quota is None when nothing limits us."""
    quota, period = read(CGROUP + "/cpu/cpu.cfs_quota_us"), read(CGROUP + "/cpu/cpu.cfs_period_us")
    if not quota:
        text = read(f"{CGROUP}/{own_path()}/cpu.max") or read(CGROUP + "/cpu.max")
        quota, _, period = text.partition(" ")
    return (int(quota) if quota.isdigit() else None), (int(period) if period.isdigit() else None)


def shm_bytes() -> int | None:
    """Return the size of /dev/shm."""
    try:
        size = os.statvfs("/dev/shm")  # noqa: S108  looked at, not written
    except OSError:
        return None
    return size.f_blocks * size.f_frsize


class ProgramMissing(Exception):
    """The image has no such program, so that nothing was tried."""


def outcome(attempt: object) -> str:
    """Say whether something that must not be possible was stopped."""
    try:
        attempt()  # type: ignore[operator]  # one of the functions below
    except ProgramMissing:
        return "untried"
    except (OSError, subprocess.SubprocessError, ValueError):
        return "stopped"
    return "succeeded"


def program(*command: str) -> None:
    """Run a program that must fail."""
    try:
        subprocess.run(command, check=True, timeout=5, stdin=subprocess.DEVNULL, capture_output=True)
    except FileNotFoundError:
        raise ProgramMissing(command[0]) from None


def mount_tmpfs() -> None:
    """Mount something."""
    program("mount", "-t", "tmpfs", "none", "/mnt")
    program("umount", "/mnt")


def make_block_device() -> None:
    """Make a device file of the host's first disk."""
    path = f"/tmp/block-{os.getpid()}"  # noqa: S108  gone in the next line, in a container of our own
    os.mknod(path, 0o600 | 0o060000, os.makedev(254, 0))
    os.unlink(path)


def open_raw_socket() -> None:
    """Open a raw socket."""
    socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()


def open_packet_socket() -> None:
    """Listen to the bridge."""
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0x0300).close()


def open_vsock_socket() -> None:
    """Speak to the hypervisor; Docker's own list of system calls let it through for years."""
    socket.socket(40, socket.SOCK_STREAM).close()


def open_device_netlink() -> None:
    """Listen to the host's devices coming and going."""
    socket.socket(16, socket.SOCK_RAW, 15).close()


def set_host_name() -> None:
    """Set the host name, to what it is."""
    socket.sethostname(socket.gethostname())


def make_user_namespace() -> None:
    """Become root in a namespace of our own."""
    program("unshare", "--user", "--map-root-user", "true")


def make_mount_namespace() -> None:
    """Leave the mounts we were given."""
    program("unshare", "--mount", "true")


def raise_priority() -> None:
    """Take time from others."""
    os.nice(-5)


def write_kernel_setting() -> None:
    """Open a setting of the host's kernel for writing."""
    os.close(os.open("/proc/sys/kernel/printk", os.O_WRONLY))


def write_sysrq() -> None:
    """Open the switch that reboots the host, without touching it."""
    os.close(os.open("/proc/sysrq-trigger", os.O_WRONLY))


def read_kernel_memory() -> None:
    """Read the kernel's memory; Docker puts an empty file over it, which counts as stopped."""
    with open("/proc/kcore", "rb", buffering=0) as handle:
        if not handle.read(4):
            raise ValueError("empty")


def raise_own_limit() -> None:
    """Open our own memory limit for writing."""
    name = "memory/memory.limit_in_bytes" if os.path.isdir(CGROUP + "/memory") else "memory.max"
    paths = [f"{CGROUP}/{own_path()}/{name}", f"{CGROUP}/{name}"]
    path = next((path for path in paths if os.path.exists(path)), paths[-1])
    os.close(os.open(path, os.O_WRONLY))


ATTEMPTS = {
    "mount_tmpfs": mount_tmpfs,
    "make_block_device": make_block_device,
    "open_raw_socket": open_raw_socket,
    "open_packet_socket": open_packet_socket,
    "set_host_name": set_host_name,
    "make_user_namespace": make_user_namespace,
    "make_mount_namespace": make_mount_namespace,
    "raise_priority": raise_priority,
    "write_kernel_setting": write_kernel_setting,
    "write_sysrq": write_sysrq,
    "read_kernel_memory": read_kernel_memory,
    "raise_own_limit": raise_own_limit,
    "open_vsock_socket": open_vsock_socket,
    "open_device_netlink": open_device_netlink,
}
NEED_PROGRAM = frozenset({"mount_tmpfs", "make_user_namespace", "make_mount_namespace"})


def chain(nonce: str) -> str:
    """Hash the receipt's nonce many times over; whoever answers has it and has computed."""
    digest = bytes.fromhex(nonce)
    for _ in range(CHAIN_LENGTH):
        digest = hashlib.sha256(digest).digest()
    return digest.hex()


def burn(processes: int) -> dict[str, int]:
    """Let processes compute at once; return the CPU time they got and the time that passed, in microseconds."""
    before, began = os.times(), time.monotonic()
    for child in [fork_and(spin) for _ in range(min(processes, 16))]:
        os.waitpid(child, 0)
    after, wall = os.times(), time.monotonic() - began
    spent = after.children_user - before.children_user + after.children_system - before.children_system
    return {"spent_us": int(spent * 1e6), "wall_us": int(wall * 1e6)}


def spin() -> None:
    """Compute until the time is over."""
    end = time.monotonic() + CPU_SECONDS
    while time.monotonic() < end:
        pass


def own_disk(folder: str) -> dict[str, int | bool]:
    """Return the size of the disk a folder is on, whether all that can be written at the top is on it, and the root."""
    size, device = os.statvfs(folder), os.stat(folder).st_dev
    tops = [entry for entry in os.scandir("/") if entry.is_dir(follow_symlinks=False) and entry.name not in KERNELS]
    return {
        "disk_bytes": size.f_blocks * size.f_frsize,
        "disk_inodes": size.f_files,
        "is_root_writable": os.access("/", os.W_OK),
        "folders_elsewhere": sum(entry.stat().st_dev != device for entry in tops),
    }


def write_and_read(folder: str) -> dict[str, int | bool]:
    """Write a file through to the disk, a quarter of what is free at most, and read it back from there."""
    found: dict[str, int | bool] = {
        "total_bytes": 0,
        "free_bytes": 0,
        "written_bytes": 0,
        "write_us": 0,
        "read_us": 0,
        "is_intact": False,
    }
    path = f"{folder}/disk-{os.getpid()}"
    try:
        size = os.statvfs(folder)
        found["total_bytes"], found["free_bytes"] = size.f_blocks * size.f_frsize, size.f_bavail * size.f_frsize
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    except OSError:
        return found
    try:
        written = write_through(file, min(DISK_BYTES, found["free_bytes"] // 4), found)
        found["is_intact"] = read_back(file, found) == written
    except OSError:
        pass
    finally:
        os.close(file)
        os.unlink(path)
    return found


def write_through(file: int, wanted_bytes: int, found: dict[str, int | bool]) -> str:
    """Write what no disk can make small, for some seconds at most, and return its hash."""
    block, digest, began = os.urandom(BLOCK), hashlib.sha256(), time.monotonic()
    while found["written_bytes"] < wanted_bytes and time.monotonic() < began + DISK_SECONDS:
        done = os.write(file, block[: wanted_bytes - found["written_bytes"]])
        digest.update(block[:done])
        found["written_bytes"] += done
    os.fsync(file)
    found["write_us"] = int((time.monotonic() - began) * 1e6)
    return digest.hexdigest()


def read_back(file: int, found: dict[str, int | bool]) -> str:
    """Read a file that the kernel was told to forget, and return its hash."""
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    os.lseek(file, 0, os.SEEK_SET)
    digest, began = hashlib.sha256(), time.monotonic()
    while block := os.read(file, BLOCK):
        digest.update(block)
    found["read_us"] = int((time.monotonic() - began) * 1e6)
    return digest.hexdigest()


def exhaust(memory_bytes: int) -> dict[str, int]:
    """Let a child touch more memory than there may be; return how far it came and which signal ended it."""
    reader, writer = os.pipe()

    def touch() -> None:
        os.close(reader)
        held: list[bytes] = []
        while len(held) * BLOCK < memory_bytes + MEMORY_BEYOND:
            held.append(b"\x01" * BLOCK)
            os.write(writer, b".")

    child = fork_and(touch)
    os.close(writer)
    blocks = 0
    while chunk := os.read(reader, 4096):
        blocks += len(chunk)
    os.close(reader)
    _, status = os.waitpid(child, 0)
    return {"touched_bytes": blocks * BLOCK, "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0}


def aside(look: object) -> object:
    """Return what a function finds in a child, which a driver may end or hold up without holding up the rest."""
    reader, writer = os.pipe()

    def tell() -> None:
        os.close(reader)
        signal.alarm(GPU_SECONDS)
        with open(writer, "w", encoding="ascii") as pipe:
            pipe.write(encode(look()))  # type: ignore[operator]  # as above

    child = fork_and(tell)
    os.close(writer)
    with open(reader, encoding="ascii") as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    if status or not said:
        return {"state": f"ended with status {status}"}
    return Encoded(said)


def fork_and(work: object) -> int:
    """Run a function in a child that ends with it."""
    child = os.fork()
    if child:
        return child
    try:
        work()  # type: ignore[operator]  # spin or touch
    except MemoryError:
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
