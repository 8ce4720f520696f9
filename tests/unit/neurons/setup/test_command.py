"""The two commands: their flags, and that they run on the standard library alone."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from neurons.setup.command import doctor_parser, setup_parser
from neurons.setup.errors import SetupError
from neurons.setup.image import provide_image
from neurons.setup.progress import Progress

ROOT = Path(__file__).resolve().parents[4]


def test_setup_builds_everything_by_default() -> None:
    options = setup_parser().parse_args([])
    assert (options.no_engine, options.dev, options.image, options.preflight) == (False, False, None, False)


def test_setup_takes_its_four_flags() -> None:
    digest = "debian@sha256:" + "0" * 64
    options = setup_parser().parse_args(["--no-engine", "--dev", "--preflight", "--image", digest])
    assert (options.no_engine, options.dev, options.image, options.preflight) == (True, True, digest, True)


@pytest.mark.parametrize("argv", [["--no-engin=1"], ["extra"], ["--image"]])
def test_setup_refuses_what_it_does_not_know(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        setup_parser().parse_args(argv)
    assert ended.value.code == 2
    assert "usage: main.py setup" in capsys.readouterr().err


@pytest.mark.parametrize(
    "reference", ["debian:bookworm", "debian", "debian@sha256:" + "0" * 63, "a b@sha256:" + "0" * 64]
)
def test_an_image_without_a_whole_digest_is_refused(reference: str) -> None:
    with pytest.raises(SetupError, match="by digest only"):
        provide_image(Progress(1), reference)


def test_doctor_asks_for_a_miner_unless_told_otherwise() -> None:
    assert doctor_parser().parse_args([]).role == "miner"
    assert doctor_parser().parse_args(["--role", "renter"]).role == "renter"


def test_doctor_refuses_an_unknown_role(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        doctor_parser().parse_args(["--role", "ceo"])
    assert "invalid choice" in capsys.readouterr().err


def test_doctor_runs_without_any_installed_package() -> None:
    """`-I -S` hides site-packages, the user's packages and PYTHONPATH."""
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from neurons.setup.command import run_doctor; "
    program += "sys.exit(run_doctor(['--role', 'renter', '--json']))"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    checks = json.loads(done.stdout)
    assert {check["name"] for check in checks} >= {"python", "packages", "clock", "disk"}
    assert all(set(check) == {"name", "status", "measured", "required", "cause", "fix"} for check in checks)


def test_main_names_make_setup_where_no_venv_exists(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_bytes((ROOT / "main.py").read_bytes())
    command = [sys.executable, "-I", "-S", str(tmp_path / "main.py"), "miner"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "make setup" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_main_changes_into_the_venv_with_the_same_arguments(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_bytes((ROOT / "main.py").read_bytes())
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    command = [sys.executable, "-I", "-S", str(tmp_path / "main.py"), "miner", "--config", "a b.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [str(tmp_path / "main.py"), "miner", "--config", "a b.yaml"]
