"""The base image: a name that follows from the recipe alone, and the archive lines it is built from."""

import subprocess
import sys
from pathlib import Path

import pytest

from neurons.setup import image

ROOT = Path(__file__).resolve().parents[4]
ONE_LINE = """\
# deb-src http://archive.example/debian bookworm main
deb [arch=amd64 signed-by=/usr/share/keyrings/a.gpg] http://archive.example/debian bookworm main contrib
deb http://archive.example/security bookworm-security main
deb http://other.example/apt stable tools
"""
DEB822 = """\
Types: deb
URIs: http://archive.example/debian
Suites: bookworm bookworm-updates
Components: main

Types: deb deb-src
URIs: http://archive.example/security
Suites: bookworm-security
Components: main contrib

Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main
Enabled: no
"""


def test_reference_is_the_same_in_every_process() -> None:
    command = [sys.executable, "-c", "from neurons.setup.image import base_image_reference as r; print(r())"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip()
    assert printed == image.base_image_reference()
    assert image.base_image_reference().startswith("polarise/base:")


@pytest.mark.parametrize("name", ["SUITE", "SOURCE_DATE_EPOCH", "INCLUDED", "HOOKS"])
def test_reference_changes_with_each_part_of_the_recipe(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    before = image.base_image_reference()
    value = getattr(image, name)
    monkeypatch.setattr(image, name, value + 1 if isinstance(value, int) else value + type(value)("x"))
    assert image.base_image_reference() != before


def test_recipe_leaves_no_host_key_and_no_machine_id() -> None:
    hooks = "\n".join(image.HOOKS)
    assert 'rm -f "$1"/etc/ssh/ssh_host_*' in hooks
    assert "machine-id" in hooks


def test_hooks_survive_single_quotes_of_the_debootstrap_path() -> None:
    assert not any("'" in hook for hook in image.HOOKS)


def test_archive_lines_are_read_from_one_line_sources() -> None:
    assert image.archive_lines([ONE_LINE], "bookworm") == [
        "deb http://archive.example/debian bookworm main",
        "deb http://archive.example/security bookworm-security main",
    ]


def test_archive_lines_are_read_from_deb822_sources_without_disabled_ones() -> None:
    assert image.archive_lines([DEB822], "bookworm") == [
        "deb http://archive.example/debian bookworm main",
        "deb http://archive.example/debian bookworm-updates main",
        "deb http://archive.example/security bookworm-security main",
    ]


def test_archive_lines_of_another_release_are_not_used() -> None:
    assert image.archive_lines([ONE_LINE, DEB822], "trixie") == []
