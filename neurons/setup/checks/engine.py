"""The Docker engine: does it answer, is it new enough, and can it hold the limits a lease promises."""

from __future__ import annotations

import json
from dataclasses import dataclass

from neurons.setup.check import Check, failure, met, warning
from neurons.setup.shell import find_program, run

API_REQUIRED = (1, 41)
GOOD_STORAGE_DRIVERS = frozenset({"overlay2", "overlayfs", "btrfs", "zfs"})


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What `docker version` and `docker info` say; `error` is set, and the rest empty, when the engine is silent."""

    error: str = ""
    client: str = ""
    server: str = ""
    api: str = ""
    storage_driver: str = ""
    cgroup_version: str = ""
    root_dir: str = ""
    runtimes: tuple[str, ...] = ()
    memory_limit: bool = False
    swap_limit: bool = False
    cpu_limit: bool = False
    pids_limit: bool = False


def measure_engine() -> EngineFacts:
    """Ask the engine as who we are: a doctor asks nobody for a password. Never raises."""
    if find_program("docker") is None:
        return EngineFacts(error="docker: not found")
    version = run(["docker", "version", "--format", "{{json .}}"])
    info = run(["docker", "info", "--format", "{{json .}}"])
    if not (version.ok and info.ok):
        said = [line for line in (version.errors + info.errors).splitlines() if line.strip()]
        return EngineFacts(error=said[-1] if said else "no answer", client=_client_version(version.output))
    return read_facts(version.output, info.output)


def read_facts(version_json: str, info_json: str) -> EngineFacts:
    """Decode the engine's own account of itself; a field that is missing counts as not supported."""
    version, info = json.loads(version_json), json.loads(info_json)
    server = version.get("Server") or {}
    return EngineFacts(
        client=str((version.get("Client") or {}).get("Version", "")),
        server=str(server.get("Version", "")),
        api=str(server.get("ApiVersion") or server.get("APIVersion") or ""),
        storage_driver=str(info.get("Driver", "")),
        cgroup_version=str(info.get("CgroupVersion", "1")),
        root_dir=str(info.get("DockerRootDir", "")),
        runtimes=tuple(sorted(info.get("Runtimes") or {})),
        memory_limit=bool(info.get("MemoryLimit")),
        swap_limit=bool(info.get("SwapLimit")),
        cpu_limit=bool(info.get("CpuCfsQuota") or info.get("CPUCfsQuota")),
        pids_limit=bool(info.get("PidsLimit")),
    )


def check_client(path: str | None) -> Check:
    """Judge the docker command: set-up and doctor speak to the engine with it."""
    if path:
        return met("docker command", path, "on PATH")
    cause = "the docker command line is not installed"
    return failure("docker command", "not found", "on PATH", cause, "make setup (Debian), or install Docker")


def check_engine(facts: EngineFacts) -> Check:
    """Judge whether an engine answers and is new enough; the client's age does not matter."""
    required = f"answers, API >= {API_REQUIRED[0]}.{API_REQUIRED[1]}"
    if facts.error:
        refused = "permission denied" in facts.error.lower()
        cause = "this user may not open Docker's socket" if refused else f"no engine answers: {facts.error}"
        fix = "run as root, or: sudo usermod -aG docker $USER, then log in again" if refused else "make setup"
        return failure("docker engine", "no answer", required, cause, fix)
    measured = f"{facts.server}, API {facts.api}, {facts.storage_driver}"
    if _as_numbers(facts.api) < API_REQUIRED:
        return failure("docker engine", measured, required, "the engine is too old", "install Docker 20.10 or newer")
    if facts.storage_driver not in GOOD_STORAGE_DRIVERS:
        cause = f"storage driver {facts.storage_driver} copies whole images for each container"
        return warning("docker engine", measured, required, cause, "put Docker's data folder on ext4 or xfs")
    return met("docker engine", measured, required)


def check_limits(facts: EngineFacts) -> Check:
    """Judge whether memory, cpu and pids limits are held; an engine without them promises what it cannot keep."""
    required = "memory, cpu, pids"
    if facts.error:
        return failure("container limits", "unknown", required, "no engine answers", "make setup")
    held = {"memory": facts.memory_limit, "cpu": facts.cpu_limit, "pids": facts.pids_limit}
    measured = (
        f"cgroup v{facts.cgroup_version}: {', '.join(name for name, is_held in held.items() if is_held) or 'none'}"
    )
    lacking = ", ".join(name for name, is_held in held.items() if not is_held)
    if lacking:
        cause = f"the kernel's {lacking} controller is not mounted or not enabled"
        return failure("container limits", measured, required, cause, "mount it on /sys/fs/cgroup, restart dockerd")
    if not facts.swap_limit:
        cause = "no swap accounting: a container may use swap beyond its memory limit"
        return warning("container limits", measured, required, cause, "swapoff -a, or boot with swapaccount=1")
    return met("container limits", measured, required)


def _client_version(version_json: str) -> str:
    """A silent engine still leaves the client's half of the answer."""
    try:
        return str((json.loads(version_json).get("Client") or {}).get("Version", ""))
    except (ValueError, AttributeError):
        return ""


def _as_numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
