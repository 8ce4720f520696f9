"""Builds the lab, lets `inside` run in it, and returns what it found."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.lab.engine import Lab, lab

CHECKOUT = Path(__file__).resolve().parents[2]
SECONDS_MAX = 600.0
STOP_SECONDS = 60.0


@dataclass(frozen=True)
class Found:
    """What a run found.

    Attributes:
        where: Kernel, engine and machine, in words.
        probes: Container -> probe -> outcome; containers are control, default, standard and strict.
        attacks: Isolation -> attack -> whether it was stopped, and what was seen.
    """

    where: str
    probes: dict[str, dict[str, str]]
    attacks: dict[str, dict[str, tuple[bool, str]]]


def run(*, probes_only: bool = False) -> Found:
    """Try everything once.

    Args:
        probes_only: Leave the attacks on resources out.

    Raises:
        NoLab: There can be none here.
        RuntimeError: What ran inside failed; the message holds the end of what it said.
    """
    with lab() as built:
        folder = built.folder / "attacks"
        # Containers' users walk through here to the program.
        folder.mkdir(mode=0o755)
        _run_inside(built, folder, probes_only=probes_only)
        found = json.loads((folder / "found.json").read_text(encoding="utf-8"))
        engine = built.client.version()
    where = (
        f"Linux {platform.release()}, {platform.machine()}, Docker {engine['Version']}, control groups v{_cgroups()}"
    )
    attacks = {
        isolation: {name: (bool(stopped), str(said)) for name, (stopped, said) in outcomes.items()}
        for isolation, outcomes in found["attacks"].items()
    }
    return Found(where, found["probes"], attacks)


def _run_inside(built: Lab, folder: Path, *, probes_only: bool) -> None:
    containers = built.folder / "data" / "containers"
    arguments = ["--engine", built.host, "--engine-folder", str(containers), "--folder", str(folder)]
    command = built.command(sys.executable, "-m", "tests.security.inside", *arguments, "--image", built.image)
    log = folder / "log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [*command, *(["--probes-only"] if probes_only else [])],
            cwd=CHECKOUT,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        ) as process,
    ):
        try:
            status = process.wait(SECONDS_MAX)
        except BaseException:
            # Asked to end, it gives its leases and their disks back first.
            process.terminate()
            process.wait(STOP_SECONDS)
            raise
    if status != 0:
        said = log.read_text(encoding="utf-8", errors="replace")[-4000:]
        raise RuntimeError(f"the run inside the lab ended with {status}:\n{said}")


def _cgroups() -> int:
    return 2 if Path("/sys/fs/cgroup/cgroup.controllers").exists() else 1
