"""Attacks on what a host has only once: memory, CPU, processes, logs, the miner's own files. All from inside a lease.

Rules:
- Each is tried for real, by programs that the base image has, and judged from the host: what the kernel counted, what
  lies on the host's disk, whether the renter can still log in.
- It ends by itself within seconds. The host's own share is never the target: limits are small, floods are short.
"""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import docker
from docker.errors import ContainerError

from neurons.miner.login import LOG, MOUNT
from neurons.miner.netlink_watch import held_bytes
from polarise.errors import RequestRejected, Unavailable
from polarise.messages import AllocateAnswer, AllocateRequest
from polarise.receipt import Receipt
from polarise.ssh_keys import generate_key_pair
from polarise.usage import Usage
from telemetry.usage import ContainerReader, cgroup_folders
from tests.support.http import signed
from tests.support.identities import People
from tests.support.miners import RunningMiner
from tests.support.ssh import Login

MEMORY_BYTES = 192 << 20
CPU_MILLI = 250
PIDS_COUNT = 128
# What bookkeeping around the measured seconds may add.
CPU_TOLERANCE_MILLI = 50
LOOK_SECONDS = 3.0
LOG_GROWTH_BYTES_MAX = 64 << 10
PROBES = "/tmp/probes"
HOARD_SECONDS_MAX = 20.0
TAKE_SECONDS_MAX = 60.0
KILLED = "killed"


@dataclass(frozen=True)
class Target:
    """A lease under attack.

    Attributes:
        miner: Whose it is.
        people: Who rents.
        client: The engine, for looking from the host.
        answer: The lease.
        login: How the tenant gets in.
        folder: On the host, of this run.
        engine_folder: Where the engine keeps its containers.
    """

    miner: RunningMiner
    people: People
    client: docker.DockerClient
    answer: AllocateAnswer
    login: Login
    folder: Path
    engine_folder: Path

    @property
    def pid(self) -> int:
        """Process id of the container's first process, on the host."""
        return int(self.client.api.inspect_container(self.answer.container_id)["State"]["Pid"])

    def cpu_ns(self) -> int:
        """CPU time of the whole container."""
        return ContainerReader(cgroup_folders(self.pid)).cpu_ns() or 0

    def is_alive(self) -> bool:
        """Whether the renter can log in."""
        return self.login.run("echo alive").stdout.strip() == "alive"


Outcome = tuple[bool, str]


def memory_hog(target: Target) -> Outcome:
    """Touch memory until something happens."""
    done = target.login.run("python3 -c 'held = []\nwhile True: held.append(b\"x\" * (1 << 20))'; echo $?")
    killed = done.stdout.strip() == "137"
    return (
        killed and target.is_alive(),
        f"{'killed by the kernel' if killed else 'not killed'}; the renter logs in afterwards",
    )


def cpu_loops(target: Target) -> Outcome:
    """Compute in four processes at once, at a quarter of a CPU."""
    with target.login.session() as session:
        session.ask("for i in 1 2 3 4; do (while :; do :; done) & done; echo started")
        threading.Event().wait(0.5)
        before, began = target.cpu_ns(), time.monotonic_ns()
        threading.Event().wait(LOOK_SECONDS)
        used = (target.cpu_ns() - before) * 1000 // (time.monotonic_ns() - began)
    target.login.run("pkill -f 'while :'; true")
    return used <= CPU_MILLI + CPU_TOLERANCE_MILLI, f"{used / 1000:.2f} CPUs used of {CPU_MILLI / 1000:g} rented"


def fork_bomb(target: Target) -> Outcome:
    """Multiply without end."""
    code = "import os, time\\nwhile True:\\n try: os.fork()\\n except OSError: time.sleep(0.1)"
    with target.login.session() as session:
        session.ask(f"printf '{code}' >/tmp/bomb; timeout -s KILL 8 python3 /tmp/bomb & echo started")
        threading.Event().wait(LOOK_SECONDS)
        count = _pids_count(target.pid)
        forked = subprocess.run(["true"], check=False, timeout=10).returncode == 0
    target.client.containers.get(target.answer.container_id).restart(timeout=0)
    # Restarted, because nothing inside can be started to clean up; the lease is what it was.
    target.miner.reconcile()
    alive = _within(20.0, target.is_alive)
    return count <= PIDS_COUNT and forked and alive, f"{count} processes of {PIDS_COUNT}; the host forks"


def fill_shared_memory(target: Target) -> Outcome:
    """Write to /dev/shm and to /dev until nothing fits."""
    sizes = []
    for folder in ("/dev/shm", "/dev"):
        target.login.run(f"dd if=/dev/zero of={folder}/fill bs=1M count=512 2>/dev/null")
        done = target.login.run(f"stat -c %s {folder}/fill 2>/dev/null || echo 0; rm -f {folder}/fill")
        sizes.append(int(done.stdout.split()[0] if done.stdout.split() else 0))
    most = max(target.answer.limits.shm_bytes, 64 << 20)
    said = " and ".join(f"{size >> 20} MiB" for size in sizes)
    return max(sizes) <= most and target.is_alive(), f"{said} in memory of the lease's own"


def fill_disk(target: Target) -> Outcome:
    """Write to the home until nothing fits, and log in on the full disk."""
    most = target.answer.limits.disk_bytes
    if most is None:
        return False, "the lease has no disk of its own here"
    target.login.run("dd if=/dev/zero of=fill bs=1M 2>/dev/null; true", seconds=120.0)
    written = int(target.login.output("stat -c %s fill"))
    alive = target.is_alive()
    target.login.run("rm -f fill")
    return (
        written <= most and alive,
        f"{written >> 20} MiB written of {most >> 20}; the renter logs in on the full disk",
    )


def flood_log(target: Target) -> Outcome:
    """Write to PID 1's standard error as fast as possible; with a pipe to the engine that costs the host."""
    before = _tree_bytes(target.engine_folder / target.answer.container_id)
    target.login.run("timeout 3 sh -c 'yes flood >/proc/1/fd/2'; true")
    grown = _tree_bytes(target.engine_folder / target.answer.container_id) - before
    return grown <= LOG_GROWTH_BYTES_MAX, f"{grown} bytes written on the host by three seconds of flood"


def exhaust_inotify(target: Target) -> Outcome:
    """Take every inotify instance the user has; a container's root shares them with the host's root."""
    return _exhaust(target, "inotify", "fs/inotify/max_user_instances", "instances", "the host's root", _host_has)


def exhaust_terminals(target: Target) -> Outcome:
    """Take every pseudo-terminal that the kernel gives to containers; without one nobody logs in to a shell."""
    return _exhaust(target, "terminal", "kernel/pty/max", "terminals", "another container", _neighbour_has)


def exhaust_events(target: Target) -> Outcome:
    """Take all the events of asynchronous input and output; the kernel counts them once for the whole machine."""
    return _exhaust(target, "events", "fs/aio-max-nr", "thousand events", "the host's root", _host_has)


def exhaust_timers(target: Target) -> Outcome:
    """Take every timer; each holds a signal, which the kernel counts per user."""
    return _exhaust(target, "timer", None, "timers", "the host's root", _host_has)


def exhaust_queues(target: Target) -> Outcome:
    """Take every message queue; their bytes are counted per user."""
    return _exhaust(target, "queue", None, "queues", "the host's root", _host_has)


# Sends wrong requests whose answers nobody reads, with sockets as large as the kernel lets them be.
HOARD = """
import socket, struct, sys, time
count, size = int(sys.argv[1]), 60000
wrong = struct.pack("=IHHII", 16 + size, 0xffff, 5, 1, 0) + bytes(size)
held = []
for _ in range(count):
    one = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    held.append(one)
    while one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
        try:
            one.send(wrong)
        except OSError:
            break
time.sleep(60)
"""


def hoard_netlink(target: Target) -> Outcome:
    """Leave more and more unread in netlink sockets, which no control group counts; a lease of its own ends by it."""
    client = target.miner.client(target.people.renter)
    isolation = target.answer.receipt.open("receipt", Receipt).isolation
    answer = client.allocate(AllocateRequest(ssh_public_key=generate_key_pair()[1], isolation=isolation))
    peak, began = 0, time.monotonic()
    with contextlib.suppress(RequestRejected):
        container = target.client.containers.get(answer.container_id)
        path = Path(f"/proc/{container.attrs['State']['Pid']}/net/netlink")
        container.exec_run(["python3", "-c", HOARD, "4000"], detach=True)
        with contextlib.suppress(OSError):
            while time.monotonic() - began < HOARD_SECONDS_MAX:
                peak = max(peak, held_bytes(path.read_bytes()))
                threading.Event().wait(0.05)
        client.terminate(answer.container_id)
    seconds = time.monotonic() - began
    lost = client.usage(answer.container_id).open("usage", Usage).lost
    return lost == "host_memory_taken", f"{peak >> 20} MiB held, {seconds:.0f} s, then the miner ended the lease"


def kill_everything(target: Target) -> Outcome:
    """Kill every process that can be seen."""
    with _canary() as canary:
        target.login.run("kill -9 -1")
        threading.Event().wait(0.5)
        lives = canary.poll() is None
    return lives and _within(10.0, target.is_alive), "processes of the host and sshd live"


def change_login_files(target: Target) -> Outcome:
    """Write, replace, remove, cover and make writable what sshd reads."""
    tries = (
        f"echo x >>{MOUNT}/authorized_keys",
        f"mv {MOUNT}/sshd_config {MOUNT}/other",
        f"rm -f {MOUNT}/host_key",
        f"rmdir {MOUNT} || mv {MOUNT} /etc/other",
        f"mount --bind /tmp {MOUNT}",
        f"mount -o remount,rw,bind {MOUNT}",
    )
    refused = sum(target.login.run(command).returncode != 0 for command in tries)
    return refused == len(tries) and target.is_alive(), f"{refused} of {len(tries)} refused"


def link_log_to_host(target: Target) -> Outcome:
    """Turn the log into a link to a file of the host, and ask the miner for the log."""
    secret = target.folder / "secret-of-the-host"
    secret.write_text("a secret of the host", encoding="ascii")
    is_linked = target.login.run(f"ln -sf {secret} {LOG}").returncode == 0
    path = f"/logs/{target.answer.container_id}"
    answer = signed(target.miner.url, target.miner.key, target.people.renter, "GET", path)
    is_safe = b"a secret of the host" not in answer.body
    target.login.run(f"rm -f {LOG} && touch {LOG}")
    how = "the link was made and led nowhere" if is_linked else "no link could be made"
    return is_safe, how if is_safe else "the host's file was shown"


def climb_out_of_ids(target: Target) -> Outcome:
    """Put paths of the engine's own API, and containers of others, where an id belongs."""
    images = {image.id for image in target.client.images.list()}
    foreign = target.client.containers.create(_image_of(target), ["sleep", "1"])
    ids = ["..%2Fimages%2Fx", "../images/x", "%2e%2e", "0" * 12, str(foreign.id), f"{foreign.id}%00", "*", "a" * 65]
    statuses = []
    try:
        for container_id in ids:
            for method, path in (("DELETE", "/terminate/"), ("GET", "/logs/"), ("GET", "/containers/")):
                answer = signed(
                    target.miner.url, target.miner.key, target.people.renter, method, f"{path}{container_id}"
                )
                statuses.append(answer.status)
        is_there = any(other.id == foreign.id for other in target.client.containers.list(all=True))
    finally:
        foreign.remove(force=True)
    is_safe = is_there and images == {image.id for image in target.client.images.list()}
    refused = sum(400 <= status < 500 for status in statuses)
    return is_safe and refused == len(statuses), f"{refused} of {len(statuses)} refused, nothing removed"


def outlive_the_lease(target: Target) -> Outcome:
    """Leave a process that ignores every signal, and end the lease."""
    target.login.run("trap '' TERM HUP INT; nohup sh -c 'trap \"\" TERM HUP; sleep 600' >/dev/null 2>&1 & echo")
    pid = target.pid
    target.miner.client(target.people.renter).terminate(target.answer.container_id)
    gone = _within(10.0, lambda: not Path(f"/proc/{pid}").exists())
    with contextlib.suppress(RequestRejected, Unavailable):
        target.miner.client(target.people.renter).renew(target.answer.container_id, 60)
        gone = False
    return gone, "container, processes and id are gone"


# The last one ends the lease.
ATTACKS: dict[str, Callable[[Target], Outcome]] = {
    attack.__name__: attack
    for attack in (
        memory_hog,
        cpu_loops,
        fork_bomb,
        fill_shared_memory,
        fill_disk,
        flood_log,
        exhaust_inotify,
        exhaust_terminals,
        exhaust_events,
        exhaust_timers,
        exhaust_queues,
        hoard_netlink,
        kill_everything,
        change_login_files,
        link_log_to_host,
        climb_out_of_ids,
        outlive_the_lease,
    )
}


def _image_of(target: Target) -> str:
    return str(target.client.api.inspect_container(target.answer.container_id)["Image"])


def _pids_count(pid: int) -> int:
    lines = Path(f"/proc/{pid}/cgroup").read_text(encoding="ascii").splitlines()
    fields = [line.split(":", 2) for line in lines]
    folder = next((Path("/sys/fs/cgroup/pids") for _, names, _ in fields if "pids" in names.split(",")), None)
    path = next(path for _, names, path in fields if ("pids" in names.split(",")) == (folder is not None))
    return int(((folder or Path("/sys/fs/cgroup")) / path.lstrip("/") / "pids.current").read_text(encoding="ascii"))


def _tree_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _exhaust(
    target: Target, kind: str, setting: str | None, what: str, whose: str, has_one: Callable[[Target, str], bool]
) -> Outcome:
    # Where memory ends first, the program is killed and what it took is free again: so the others try all the while.
    is_over, others = threading.Event(), [True]

    def try_too() -> None:
        while not is_over.wait(0.1):
            others.append(has_one(target, kind))

    watcher = threading.Thread(target=try_too, name="others")
    with target.login.session() as session:
        watcher.start()
        try:
            taken = session.ask(f"{PROBES} take {kind} || echo {KILLED}", seconds=TAKE_SECONDS_MAX).split()[0]
        except AssertionError:
            taken = KILLED
        is_over.set()
        watcher.join()
        is_free = all(others) and has_one(target, kind)
    said = f"{taken} {what} taken" if taken != KILLED else f"killed for its memory while it took {what}"
    # The kernel may have killed sshd as well, which the miner starts again.
    back = taken != KILLED or _within(TAKE_SECONDS_MAX, lambda: _comes_back(target))
    if setting is not None:
        most = (Path("/proc/sys") / setting).read_text(encoding="ascii").strip()
        said += f" ({setting.replace('/', '.')} = {most})"
    said += f"; {whose} " + ("has its own" if is_free else "had none left meanwhile")
    return is_free and back, said if back else f"{said}; nobody logs in any more"


def _comes_back(target: Target) -> bool:
    target.miner.reconcile()
    return target.is_alive()


def _host_has(target: Target, kind: str) -> bool:
    return subprocess.run([target.folder / "probes", "one", kind], check=False, capture_output=True).returncode == 0


def _neighbour_has(target: Target, kind: str) -> bool:
    volumes = {str(target.folder / "probes"): {"bind": "/probes", "mode": "ro"}}
    with contextlib.suppress(ContainerError):
        target.client.containers.run(_image_of(target), ["/probes", "one", kind], volumes=volumes, remove=True)
        return True
    return False


def _within(seconds: float, condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        threading.Event().wait(0.2)
    return True


@contextlib.contextmanager
def _canary() -> Iterator[subprocess.Popen[bytes]]:
    """A process of the host's root that an attack must not reach."""
    process = subprocess.Popen(["sleep", "60"])
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)
