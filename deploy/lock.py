"""Makes the lock files: every distribution that a requirement file leads to, at one version, with the hashes of its files.

    python deploy/lock.py            # renews requirements.lock and requirements-dev.lock, keeping versions that still fit
    python deploy/lock.py --upgrade  # takes the newest versions that the requirement files allow

Rules:
- The locks hold for every platform and every Python from 3.11 on (`uv pip compile --universal`); markers say what is for whom.
- torch itself is not in them: its builds for processors and for CUDA share a version and differ in hash, and the operator
  chooses. What it needs beside CUDA is.
- Nothing names an index: a file is known by its hash, wherever it comes from.
Decision: docs/adr/0051-supply-chain.md.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
UV = Path(sys.executable).with_name("uv")
LOCK = ROOT / "requirements.lock"
DEVELOPMENT_LOCK = ROOT / "requirements-dev.lock"
# What torch 2.13 asks for on a processor, without torch.
TORCH_NEEDS = ("filelock", "fsspec>=0.8.5", "jinja2", "networkx>=2.5.1", "setuptools>=77.0.3", "sympy>=1.13.3")
_HEAD = "# Made by `make lock` from {sources}; torch is left out (docs/adr/0051-supply-chain.md).\n"


def main(arguments: list[str] | None = None) -> int:
    """Write both files; exit status 1 when no versions fit together or no index answers."""
    parser = argparse.ArgumentParser(description="Lock every distribution by version and hash.")
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions that are allowed")
    options = parser.parse_args(arguments)
    runtime = ["requirements-validator.txt"]
    try:
        write_lock(LOCK, runtime, upgrade=options.upgrade)
        write_lock(DEVELOPMENT_LOCK, [*runtime, "requirements-dev.txt"], upgrade=options.upgrade)
    except subprocess.CalledProcessError as err:
        sys.stderr.write(f"{err.stderr}\nno lock was made; see what the packages ask of each other, or UV_INDEX_URL\n")
        return 1
    return 0


def write_lock(target: Path, sources: list[str], *, upgrade: bool) -> None:
    """Resolve requirement files and replace a lock by the result.

    Args:
        target: The lock; its versions are kept where they still fit.
        sources: Requirement files in the checkout.
        upgrade: Forget the versions that were locked.

    Raises:
        subprocess.CalledProcessError: uv found no solution or no index; the lock is as it was.
    """
    command = [str(UV), "pip", "compile", "--quiet", "--universal", "--generate-hashes", "--python-version", "3.11"]
    command += ["--no-header", "--no-annotate", "--system-certs"]
    command += ["--no-emit-package", "pip", *(["--upgrade"] if upgrade else []), *sources, "-"]
    if target != LOCK:
        command += ["--constraint", str(LOCK)]
    if target.exists():
        # uv keeps what stands in its output file; nothing is written there but by us.
        command += ["--output-file", str(target)]
    needs = "\n".join(TORCH_NEEDS)
    done = subprocess.run(command, cwd=ROOT, input=needs, capture_output=True, text=True, check=True)
    body = target.read_text(encoding="utf-8") if target.exists() else done.stdout
    target.write_text(_HEAD.format(sources=" and ".join(sources)) + body, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
