"""Settings of the kernel that tenants must not be able to use against their host, and its packet filter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from neurons.setup.check import Check, met, warning
from neurons.setup.shell import find_program, is_root, run

SETTINGS = Path("/proc/sys")


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting with the least value it should have, and what a tenant can do where it has less.

    Attributes:
        name: As `sysctl` writes it.
        least: Least value.
        harm: What happens below it.
        is_set_up: Whether `setup` raises it, because more of it changes nothing for anybody else.
    """

    name: str
    least: int
    harm: str
    is_set_up: bool = False


# What the kernel counts per user, or once for all; with more, a tenant's own memory limit ends it.
PLENTY = 2_147_483_647
# The kernel allows no more terminals, and no more processes.
TERMINALS_MAX = 1_048_576
PROCESSES_MAX = 4_194_304

WANTED = (
    Setting("fs.inotify.max_user_instances", PLENTY, "one tenant takes them all, and root gets no more", True),
    Setting(
        "fs.inotify.max_user_watches", PLENTY, "one tenant takes them all, and root sees no more files change", True
    ),
    Setting(
        "fs.epoll.max_user_watches", PLENTY, "one tenant takes them all, and root's servers take no connection", True
    ),
    Setting("fs.pipe-user-pages-soft", PLENTY, "one tenant takes them all, and others get pipes of 8 KiB", True),
    Setting("fs.aio-max-nr", PLENTY, "one tenant takes them all, and databases on this host get no more", True),
    Setting("kernel.pty.max", TERMINALS_MAX, "one tenant takes them all, and nobody else logs in to a shell", True),
    Setting("fs.file-max", PLENTY, "one tenant opens them all, and nobody but root opens another file", True),
    Setting("kernel.pid_max", PROCESSES_MAX, "tenants take them all together, and nobody starts a program", True),
    Setting("kernel.dmesg_restrict", 1, "tenants read the kernel's log"),
    Setting("kernel.unprivileged_bpf_disabled", 1, "tenants load programs into the kernel"),
    Setting("net.bridge.bridge-nf-call-iptables", 1, "containers of one bridge are not kept apart"),
)


def measure_settings() -> dict[str, int]:
    """Return those of `WANTED` that this kernel has; a part of it that is not loaded has none."""
    found: dict[str, int] = {}
    for setting in WANTED:
        path = SETTINGS / Path(*setting.name.split("."))
        try:
            found[setting.name] = int(path.read_text(encoding="ascii"))
        except (OSError, ValueError):
            continue
    return found


def low_settings(found: Mapping[str, int]) -> list[Setting]:
    """Return those that are lower than they should be; what this kernel does not have is not."""
    return [setting for setting in WANTED if found.get(setting.name, setting.least) < setting.least]


def check_settings(found: Mapping[str, int]) -> Check:
    """Judge them together: one line to copy mends all."""
    name, required = "kernel settings", f"{len(WANTED)} against tenants"
    low = low_settings(found)
    if not low:
        return met(name, f"{len(found)} of {len(WANTED)} known, all set", required)
    measured = ", ".join(f"{setting.name} {found[setting.name]}" for setting in low)
    cause = "; ".join(setting.harm for setting in low)
    words = " ".join(f"{setting.name}={setting.least}" for setting in low)
    return warning(name, measured, required, cause, f"make setup, or sysctl -w {words}, kept in /etc/sysctl.d")


PROGRAMS = ("iptables-save", "iptables-restore", "ip6tables-save", "ip6tables-restore")


@dataclass(frozen=True, slots=True)
class PacketFilter:
    """What the miner keeps tenants away with; `refusal` is what iptables said where it could not be asked."""

    is_root: bool
    missing: tuple[str, ...] = ()
    refusal: str = ""


def measure_packet_filter(programs: Sequence[str] = PROGRAMS) -> PacketFilter:
    """Ask for the table that the miner writes into; changes nothing."""
    missing = tuple(program for program in programs if find_program(program) is None)
    if missing or not is_root():
        return PacketFilter(is_root(), missing)
    outcome = run([programs[0], "-t", "mangle"])
    return PacketFilter(True, refusal="" if outcome.ok else outcome.tail(1) or f"status {outcome.status}")


def check_packet_filter(found: PacketFilter) -> Check:
    """Judge whether the miner can keep tenants from this host, its network and each other; it warns, as `auto` does."""
    name, required = "packet filter", "root, iptables with the table mangle"
    cause = "the miner runs, and its tenants reach this host's services, its network and the metadata of its cloud"
    if found.missing:
        return warning(name, f"no {found.missing[0]}", required, cause, "make setup (Debian: iptables)")
    if not found.is_root:
        fix = "run the miner as root (sudo python3 main.py doctor looks again); network.firewall: required insists"
        return warning(name, "not root", required, cause, fix)
    if found.refusal:
        return warning(name, found.refusal, required, cause, "give this machine the right CAP_NET_ADMIN")
    return met(name, "iptables answers", required)
