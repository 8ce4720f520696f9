"""The Debian packages a node needs, installed only when what they bring is missing.

Rules:
- A package is missing when its program or file is, however else it may have come here.
- `apt-get update` runs only when something is to be installed.
- Without systemd no package starts a daemon while it is installed: the engine step starts dockerd itself, and the init
  script of docker.io fails inside containers because it raises limits, which would break the whole apt run.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from neurons.setup.errors import SetupError
from neurons.setup.progress import ALREADY_THERE, Progress
from neurons.setup.shell import as_root, find_program, run

APT_TIMEOUT_SECONDS = 900.0
APT_ENVIRONMENT = {"DEBIAN_FRONTEND": "noninteractive"}
POLICY = Path("/usr/sbin/policy-rc.d")
CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")


@dataclass(frozen=True, slots=True)
class Package:
    """A Debian package and the question whether what it brings is already on this machine."""

    name: str
    is_present: Callable[[], bool]


def packages_for(*, with_engine: bool, builds_image: bool, development: bool = False) -> list[Package]:
    """Return the packages a machine needs: one for the venv, the rest only where containers will run.

    Args:
        with_engine: False on machines that only validate or rent.
        builds_image: False where the image is given by digest.
        development: Also what only the tests run.
    """
    packages = [Package("python3-venv", lambda: importlib.util.find_spec("ensurepip") is not None)]
    if not with_engine:
        return packages
    if development:
        packages.append(Package("rsync", lambda: find_program("rsync") is not None))
        # Looks at the units of deploy/; it brings no service manager to life.
        packages.append(Package("systemd", lambda: find_program("systemd-analyze") is not None))
    if builds_image:
        packages.append(Package("mmdebstrap", lambda: bool(find_program("mmdebstrap") or find_program("debootstrap"))))
    return [
        *packages,
        Package("docker.io", lambda: find_program("dockerd") is not None),
        Package("iptables", lambda: find_program("iptables") is not None),
        Package("iproute2", lambda: find_program("ip") is not None),
        Package("openssh-client", lambda: bool(find_program("ssh") and find_program("ssh-keygen"))),
        Package("e2fsprogs", lambda: find_program("mkfs.ext4") is not None),
        Package("mount", lambda: bool(find_program("mount") and find_program("umount"))),
        Package("ca-certificates", CA_BUNDLE.exists),
    ]


def install_packages(progress: Progress, packages: Sequence[Package], *, engine_answers: bool) -> str:
    """Install those of the packages that are missing.

    Args:
        progress: Shows what apt is doing.
        packages: What the machine needs.
        engine_answers: A Docker engine already runs here, so none is installed beside it.

    Returns:
        The result line of the step.

    Raises:
        SetupError: Not Debian, apt failed, or neither root nor sudo.
    """
    wanted = [package for package in packages if not package.is_present()]
    missing = [package.name for package in wanted if not (engine_answers and package.name == "docker.io")]
    if not missing:
        return ALREADY_THERE
    if find_program("apt-get") is None:
        raise SetupError(
            f"missing: {', '.join(missing)}, and this is not Debian",
            "install these, or what your system calls them, with its own package manager; a machine that only "
            "validates or rents needs none of them: python main.py setup --no-engine",
        )
    progress.note(f"installing with apt as root: {' '.join(missing)}")
    with _daemons_held_back():
        _apt(progress, ["update", "-q"])
        _apt(progress, ["install", "-q", "-y", "--no-install-recommends", *_names_of_this_release(missing)])
    return f"installed {len(missing)}: {' '.join(missing)}"


def _names_of_this_release(missing: list[str]) -> list[str]:
    """Newer Debian has the docker command in a package of its own, and may have lost mmdebstrap to a backport."""
    names = list(missing)
    if "docker.io" in names and _has_candidate("docker-cli"):
        names.append("docker-cli")
    if "mmdebstrap" in names and not _has_candidate("mmdebstrap"):
        names[names.index("mmdebstrap")] = "debootstrap"
    return names


def _has_candidate(name: str) -> bool:
    policy = run(["apt-cache", "policy", name]).output
    return "Candidate:" in policy and "Candidate: (none)" not in policy


def _apt(progress: Progress, arguments: list[str]) -> None:
    command = ["env", *(f"{key}={value}" for key, value in APT_ENVIRONMENT.items()), "apt-get", *arguments]
    outcome = progress.run(as_root(command, "install packages with apt"), timeout_seconds=APT_TIMEOUT_SECONDS)
    if not outcome.ok:
        raise SetupError(
            f"apt-get {arguments[0]} failed:\n{outcome.tail()}",
            "check the network and the apt sources with `apt-get update`, then run `make setup` again",
        )


@contextlib.contextmanager
def _daemons_held_back() -> Iterator[None]:
    """Deny daemon starts during the apt run where no systemd runs and nobody else denies them."""
    if Path("/run/systemd/system").exists() or POLICY.exists():
        yield
        return
    script = f"printf '#!/bin/sh\\nexit 101\\n' > {POLICY} && chmod 755 {POLICY}"
    run(as_root(["sh", "-c", script], "hold back daemon starts"))
    try:
        yield
    finally:
        run(as_root(["rm", "-f", str(POLICY)], "allow daemon starts again"))
