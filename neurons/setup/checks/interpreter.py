"""Python, the venv of the checkout, and whether the packages the roles are built on can be imported inside it."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping

from neurons.setup.check import Check, Role, failure, met
from neurons.setup.checkout import Checkout
from neurons.setup.shell import run

# Distribution name to module name; the nine that requirements.txt names first.
PACKAGES: Mapping[str, str] = {
    "flask": "flask",
    "docker": "docker",
    "paramiko": "paramiko",
    "nvidia-ml-py": "pynvml",
    "torch": "torch",
    "numpy": "numpy",
    "cryptography": "cryptography",
    "pyyaml": "yaml",
    "pytest": "pytest",
}
PYTHON_REQUIRED = (3, 11)
IMPORT_TIMEOUT_SECONDS = 180.0
_FIX = "make setup"
# Really imports: a wheel built for another machine is found and still does not load.
_PROBE = """\
import importlib, json, sys
errors = {}
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except Exception as error:
        errors[name] = f"{type(error).__name__}: {error}".splitlines()[0]
print(json.dumps(errors))
"""


def packages_for(role: Role) -> dict[str, str]:
    """Return the packages a role imports; only the miner computes, so only it needs torch."""
    return {name: module for name, module in PACKAGES.items() if name != "torch" or role is Role.MINER}


def check_python(version: tuple[int, int, int]) -> Check:
    """Judge the Python that runs this."""
    measured = ".".join(str(part) for part in version)
    required = f">= {PYTHON_REQUIRED[0]}.{PYTHON_REQUIRED[1]}"
    if version >= PYTHON_REQUIRED:
        return met("python", measured, required)
    cause = "this Python lacks what the code uses"
    return failure(
        "python", measured, required, cause, "install Python 3.11 or newer, then PYTHON=python3.11 make setup"
    )


def measure_python() -> tuple[int, int, int]:
    """Return the version of the Python that runs this."""
    major, minor, patch = (int("".join(filter(str.isdigit, part))) for part in platform.python_version_tuple())
    return major, minor, patch


def check_packages(import_errors: Mapping[str, str] | None, packages: Mapping[str, str]) -> Check:
    """Judge the venv.

    Args:
        import_errors: Module name to error of those that could not be imported; None when there is no venv.
        packages: What was tried, distribution name to module name.
    """
    required = f"{len(packages)} packages in .venv"
    if import_errors is None:
        return failure("packages", "no .venv", required, "the set-up did not run in this checkout", _FIX)
    if not import_errors:
        return met("packages", f"{len(packages)} import", required)
    module, error = next(iter(sorted(import_errors.items())))
    measured = f"{len(packages) - len(import_errors)} import"
    return failure("packages", measured, required, f"{', '.join(sorted(import_errors))} ({module}: {error})", _FIX)


def measure_packages(checkout: Checkout, packages: Mapping[str, str]) -> dict[str, str] | None:
    """Import each package with the venv's Python and return the errors by module name; None without a venv."""
    if not os.path.lexists(checkout.venv_python):  # a link that leads where we may not look counts as there
        return None
    command = [str(checkout.venv_python), "-c", _PROBE, *packages.values()]
    outcome = run(command, timeout_seconds=IMPORT_TIMEOUT_SECONDS)
    if not outcome.ok:
        return dict.fromkeys(packages.values(), outcome.tail(1) or "the interpreter ended")
    errors: dict[str, str] = json.loads(outcome.output.splitlines()[-1])
    return errors
