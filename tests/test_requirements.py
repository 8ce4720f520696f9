"""The requirement files: nine names a newcomer expects, one line each, importable; a validator's list is torch-free."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = {
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


def read_pins(name: str) -> list[tuple[str, str]]:
    """Return (distribution, version) of each line; a line that is not an exact pin fails here."""
    lines = [line.split("#")[0].strip() for line in (ROOT / name).read_text(encoding="utf-8").splitlines()]
    matches = [re.fullmatch(r"([A-Za-z0-9-]+)==([0-9][0-9A-Za-z.]*)", line) for line in lines if line]
    assert all(matches), f"{name}: every line is NAME==VERSION"
    return [(match[1], match[2]) for match in matches if match]


@pytest.mark.parametrize("module", MODULES.values())
def test_each_of_the_nine_can_be_imported(module: str) -> None:
    assert importlib.import_module(module).__name__ == module


@pytest.mark.parametrize("distribution", MODULES)
def test_each_of_the_nine_has_exactly_one_line(distribution: str) -> None:
    assert [name for name, _ in read_pins("requirements.txt")].count(distribution) == 1


def test_validator_requirements_are_the_same_without_torch() -> None:
    expected = [pin for pin in read_pins("requirements.txt") if pin[0] != "torch"]
    assert read_pins("requirements-validator.txt") == expected


def test_no_package_is_pinned_twice_over_all_files() -> None:
    files = ("requirements.txt", "requirements-dev.txt", "requirements-kernels.txt")
    names = [name.lower() for file in files for name, _ in read_pins(file)]
    assert len(names) == len(set(names))
