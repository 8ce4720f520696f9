"""The virtual environment of the checkout, and the requirements inside it.

Rules:
- A `.pth` file puts the checkout on the venv's path, so that nothing of ours touches `sys.path`.
- Everything but torch comes from a lock file, by version and hash; torch comes last, as the operator's index has it.
- A stamp names the requirement files as they were installed, by hash, and the Python; equal stamp, nothing to do.
- An environment whose interpreter is gone or too old is rebuilt, not repaired.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

from neurons.setup.checkout import Checkout
from neurons.setup.errors import SetupError
from neurons.setup.progress import ALREADY_THERE, Progress
from neurons.setup.shell import run

PIP_TIMEOUT_SECONDS = 3600.0
VENV_TIMEOUT_SECONDS = 300.0
STAMP_NAME = "polarise-requirements.json"
PTH_NAME = "polarise-checkout.pth"
REQUIREMENTS = "requirements.txt"
LOCK = "requirements.lock"
DEVELOPMENT_LOCK = "requirements-dev.lock"
_IDENTIFY = "import json,sys,sysconfig;print(json.dumps([sys.version.split()[0],sysconfig.get_path('purelib')]))"


def build_venv(checkout: Checkout, progress: Progress) -> str:
    """Create the venv and put the checkout on its path.

    Returns:
        The result line of the step.

    Raises:
        SetupError: The venv module failed.
    """
    version = venv_version(checkout)
    result = ALREADY_THERE
    if not _is_usable(version):
        result = "rebuilt" if checkout.venv.exists() else "created"
        command = [sys.executable, "-m", "venv", "--clear", str(checkout.venv)]
        outcome = progress.run(command, timeout_seconds=VENV_TIMEOUT_SECONDS)
        if not outcome.ok:
            raise SetupError(f"could not create .venv:\n{outcome.tail()}", "install python3-venv, then run it again")
        result += f" with Python {sys.version.split()[0]}"
    pth = _site_packages(checkout) / PTH_NAME
    line = f"{checkout.root}\n"
    if not pth.exists() or pth.read_text(encoding="utf-8") != line:
        pth.write_text(line, encoding="utf-8")
        result = result if result != ALREADY_THERE else "put the checkout on its path"
    return result


def install_requirements(checkout: Checkout, progress: Progress, *, development: bool) -> str:
    """Install the pinned requirements, unless the stamp says that they are installed.

    Returns:
        The result line of the step.

    Raises:
        SetupError: pip failed.
    """
    lock = DEVELOPMENT_LOCK if development else LOCK
    wanted = {name: _sha256(checkout.root / name) for name in (lock, REQUIREMENTS)}
    wanted["python"] = str(venv_version(checkout))
    if wanted.items() <= read_stamp(checkout).items():
        return ALREADY_THERE
    _install(checkout, progress, "--require-hashes", "--no-deps", "-r", lock)
    _install(checkout, progress, "-r", REQUIREMENTS)
    stamp = json.dumps(wanted, indent=1, sort_keys=True)
    (checkout.venv / STAMP_NAME).write_text(stamp + "\n", encoding="utf-8")
    return f"installed {lock} and {REQUIREMENTS}"


def _install(checkout: Checkout, progress: Progress, *arguments: str) -> None:
    """Have pip install a file of the checkout, the last of its arguments."""
    *options, name = arguments
    command = [str(checkout.venv_python), "-m", "pip", "install", "--disable-pip-version-check", *options]
    outcome = progress.run(
        [*command, str(checkout.root / name)],
        timeout_seconds=PIP_TIMEOUT_SECONDS,
        environment={"PYTHONUNBUFFERED": "1"},
    )
    if not outcome.ok:
        raise SetupError(
            f"pip could not install {name}:\n{outcome.tail()}",
            "check that this machine reaches a Python package index (pip config list), then run it again",
        )


def venv_version(checkout: Checkout) -> str | None:
    """Return the Python version inside the venv, or None when there is no working interpreter."""
    identity = _identify(checkout)
    return identity[0] if identity else None


def read_stamp(checkout: Checkout) -> dict[str, str]:
    """Return what the last set-up installed: file name to SHA-256, and the Python; empty when unknown."""
    try:
        stamp = json.loads((checkout.venv / STAMP_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(key): str(value) for key, value in stamp.items()} if isinstance(stamp, dict) else {}


def _identify(checkout: Checkout) -> tuple[str, str] | None:
    outcome = run([str(checkout.venv_python), "-c", _IDENTIFY])
    if not outcome.ok:
        return None
    version, site_packages = json.loads(outcome.output)
    return str(version), str(site_packages)


def _is_usable(version: str | None) -> bool:
    """Any working Python that is new enough will do: it need not be the one that runs the set-up."""
    return version is not None and tuple(int(part) for part in version.split(".")[:2]) >= (3, 11)


def _site_packages(checkout: Checkout) -> Path:
    identity = _identify(checkout)
    if identity is None:
        raise SetupError("the Python inside .venv does not run", "remove .venv, then run the set-up again")
    return Path(identity[1])


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
