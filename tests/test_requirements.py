"""The requirement files: nine names a newcomer expects, one line each, importable; a validator's list is torch-free.

The lock files hold each of them by version and hash, and the bill of materials is made of the lock.
"""

import base64
import csv
import hashlib
import importlib
import importlib.metadata
import io
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from neurons.setup.checkout import Checkout
from neurons.setup.environment import STAMP_NAME, build_venv, install_requirements
from neurons.setup.errors import SetupError
from neurons.setup.progress import Progress

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


def read_lock(name: str) -> dict[str, list[str]]:
    """Return version lines of a lock, "name==version", and the SHA-256 hashes that follow each."""
    entries: dict[str, list[str]] = {}
    for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
        if match := re.match(r"([A-Za-z0-9._-]+==[A-Za-z0-9.]+)", line):
            last = entries.setdefault(match[1].lower(), [])
        elif match := re.fullmatch(r"\s+--hash=sha256:([0-9a-f]{64})( \\)?", line):
            last.append(match[1])
        else:
            assert line.startswith("#"), f"{name}: {line!r} is neither a version nor a hash"
    return entries


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock"])
def test_every_locked_distribution_has_a_hash(lock: str) -> None:
    entries = read_lock(lock)
    assert len(entries) > 40
    assert [entry for entry, hashes in entries.items() if not hashes] == []


@pytest.mark.parametrize(
    ("lock", "files"),
    [
        ("requirements.lock", ["requirements-validator.txt"]),
        ("requirements-dev.lock", ["requirements-validator.txt", "requirements-dev.txt"]),
    ],
)
def test_a_lock_holds_what_the_requirement_files_pin(lock: str, files: list[str]) -> None:
    pins = {f"{name}=={version}".lower() for file in files for name, version in read_pins(file)}
    missing = sorted(pins - set(read_lock(lock)))
    assert missing == [], f"run `make lock`: {lock} lacks {missing}"


def test_what_the_tests_run_with_is_what_is_locked() -> None:
    locked = {entry.split("==")[0]: set[str]() for entry in read_lock("requirements-dev.lock")}
    for entry in read_lock("requirements-dev.lock"):
        locked[entry.split("==")[0]].add(entry.split("==")[1])
    installed = {
        re.sub(r"[-_.]+", "-", found.metadata["Name"]).lower(): found.version
        for found in importlib.metadata.distributions()
    }
    wrong = {name: version for name, version in installed.items() if name in locked and version not in locked[name]}
    assert wrong == {}


def test_the_bill_of_materials_is_made_of_the_lock() -> None:
    made = subprocess.run(
        [sys.executable, str(ROOT / "deploy" / "sbom.py")], capture_output=True, text=True, check=True
    ).stdout
    assert made == (ROOT / "sbom.cdx.json").read_text(encoding="utf-8"), "run `make lock`"


def build_wheel(folder: Path, name: str, content: str) -> Path:
    """Write a wheel of one module by hand, so that no index and no builder is needed."""
    info = f"{name}-1.0.dist-info"
    files = {
        f"{name}.py": content,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = io.StringIO()
    rows = csv.writer(record, lineterminator="\n")
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        rows.writerow([path, f"sha256={digest}", len(text.encode())])
    rows.writerow([f"{info}/RECORD", "", ""])
    wheel = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in {**files, f"{info}/RECORD": record.getvalue()}.items():
            archive.writestr(path, text)
    return wheel


def test_set_up_installs_a_file_of_the_locked_hash_and_no_other(tmp_path: Path) -> None:
    wheel = build_wheel(tmp_path, "lockedthing", "VALUE = 1\n")
    lock = tmp_path / "requirements.lock"
    lock.write_text(
        f"--no-index\n--find-links {tmp_path}\nlockedthing==1.0 \\\n    --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n"
    )
    (tmp_path / "requirements.txt").write_text("lockedthing==1.0\n")
    checkout, progress = Checkout(tmp_path), Progress(2)
    build_venv(checkout, progress)

    build_wheel(tmp_path, "lockedthing", "VALUE = 'of somebody else'\n")
    with pytest.raises(SetupError, match="lockedthing"):
        install_requirements(checkout, progress, development=False)
    assert not (checkout.venv / STAMP_NAME).exists()

    build_wheel(tmp_path, "lockedthing", "VALUE = 1\n")
    lock.write_text(re.sub(r"[0-9a-f]{64}", hashlib.sha256(wheel.read_bytes()).hexdigest(), lock.read_text()))
    assert install_requirements(checkout, progress, development=False).startswith("installed")
    shown = subprocess.run(
        [str(checkout.venv_python), "-c", "import lockedthing; print(lockedthing.VALUE)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.strip() == "1"
