"""The rules of the house that a program can check: what the source never contains, and what every room has."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from polarise.errors import ErrorCode, RejectReason

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("polarise", "utils", "tlog", "challenges", "telemetry", "ledger", "config", "neurons")
SOURCE = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=name(path))


def imported(tree: ast.Module) -> Iterator[str]:
    """Yield the dotted names a module imports, at its top or inside a function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def words(tree: ast.Module) -> set[str]:
    """Return every identifier, attribute and argument name; comments and strings do not count."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
            if isinstance(node.value, ast.Name):
                found.add(f"{node.value.id}.{node.attr}")
        elif isinstance(node, ast.keyword) and node.arg:
            found.add(node.arg)
    return found


@pytest.mark.parametrize("path", [*SOURCE, ROOT / "main.py", *TESTS], ids=name)
def test_nothing_is_unpickled_and_no_path_is_bent(path: Path) -> None:
    tree = parse(path)
    modules = {module.split(".")[0] for module in imported(tree)}
    assert not modules & {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal"}
    assert not words(tree) & {"allow_pickle", "sys.path"}


@pytest.mark.parametrize("path", TESTS, ids=name)
def test_tests_use_real_things(path: Path) -> None:
    tree = parse(path)
    assert not {module for module in imported(tree) if "mock" in module.lower().split(".")}
    assert not words(tree) & {"Mock", "MagicMock", "AsyncMock"}


@pytest.mark.parametrize("path", SOURCE, ids=name)
def test_every_module_says_on_top_what_it_is_responsible_for(path: Path) -> None:
    assert ast.get_docstring(parse(path))


@pytest.mark.parametrize("path", [path for path in SOURCE if path.name == "__init__.py"], ids=name)
def test_every_package_is_one_sentence(path: Path) -> None:
    docstring = ast.get_docstring(parse(path)) or ""
    assert docstring.partition("\n\n")[0].endswith(".")


@pytest.mark.parametrize("folder", sorted({path.parent for path in SOURCE if "demo/cheats" not in str(path)}), ids=name)
def test_every_folder_of_source_is_a_package(folder: Path) -> None:
    assert (folder / "__init__.py").exists()


def test_licence_is_the_seeds() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert text.startswith("The MIT License (MIT)") or text.startswith("MIT License")
    assert "Copyright (c) 2024 Polarise Compute" in text.splitlines()


def test_no_print_outside_the_command_line() -> None:
    """`ruff` knows the same rule; this one also sees a file that was exempted by mistake."""
    speakers = ("neurons/cli.py", "polarise/cli.py", "neurons/setup/", "neurons/renter/", "neurons/demo/")
    for path in SOURCE:
        relative = name(path)
        if relative.startswith(speakers) or "command" in path.name or "print" not in words(parse(path)):
            continue
        pytest.fail(f"{relative} prints")


def test_every_error_code_and_reject_reason_is_raised_somewhere() -> None:
    used = {word for path in SOURCE for word in words(parse(path))}
    assert [code for code in ErrorCode if f"ErrorCode.{code}" not in used] == []
    assert [reason for reason in RejectReason if f"RejectReason.{reason}" not in used] == []


def test_import_rules_are_kept() -> None:
    program = ROOT / ".venv" / "bin" / "lint-imports"
    if not program.exists():
        pytest.skip("import-linter is not installed; `make setup-dev` brings it")
    done = subprocess.run(
        [str(program), "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_two_parts_of_a_run_leave_no_test_out() -> None:
    """What tests/run takes together and alone is what pytest takes without parts."""
    together, alone, both = collected("--part=together"), collected("--part=alone"), collected()
    assert together
    assert alone
    assert sorted(together + alone) == sorted(both)


def collected(*options: str) -> list[str]:
    """Return the names of the tests of two small files, of which one holds tests marked alone."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *options]
    done = subprocess.run(
        [*command, "tests/test_validation.py", "tests/test_requirements.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return [line for line in done.stdout.splitlines() if "::" in line]
