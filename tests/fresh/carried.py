"""What a fresh root takes along of this machine's own pip and apt settings, so that it reaches packages the same way.

Usage: python3 -m tests.fresh.carried SUITE FOLDER (standard library only). Written into FOLDER:
    sources.list   the archive lines this machine uses for the suite; empty for the tool's default
    apt.conf       how apt fetches here: proxies, retries, date checks
    environment    NAME=VALUE lines: pip's settings as PIP_*, proxies, certificate files
    folders        folders those settings name, to be shown read-only at the same place
    carried/       copies of the files those settings name, which the fresh root finds as /carried/
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from neurons.setup.image import archive_lines, host_sources

_FETCHING = re.compile(r"^Acquire::(https?|ftp|Check-|Retries|Force|Languages)")
_CARRIED_NAMES = re.compile(r"PIP_\w+|(https?|no|all)_proxy|(SSL_CERT_FILE|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE)", re.I)


def main(suite: str, folder: Path) -> None:
    """Write everything that is carried along into the folder."""
    lines = archive_lines(host_sources(), suite)
    _write(folder / "sources.list", lines)
    _write(folder / "apt.conf", [line for line in _output(["apt-config", "dump"]) if _FETCHING.match(line)])
    settings = {**pip_settings(_output([sys.executable, "-m", "pip", "config", "list"])), **_chosen(os.environ)}
    (folder / "carried").mkdir()
    folders: set[str] = set()
    environment = {name: _take(value, folder / "carried", folders) for name, value in settings.items()}
    _write(folder / "environment", [f"{name}={value}" for name, value in sorted(environment.items())])
    _write(folder / "folders", sorted(folders))


def pip_settings(lines: list[str]) -> dict[str, str]:
    """Return pip's own configuration as PIP_* variables, from the lines of `pip config list`."""
    settings = {}
    for line in lines:
        match = re.fullmatch(r"(?:global|install)\.([\w-]+)=(.*)", line)
        if match:
            settings["PIP_" + match[1].upper().replace("-", "_")] = " ".join(str(ast.literal_eval(match[2])).split())
    return settings


def _chosen(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if _CARRIED_NAMES.fullmatch(name)}


def _take(value: str, files: Path, folders: set[str]) -> str:
    """Carry what the words of a setting name: a folder is noted, a file is copied and named by its new place."""
    return " ".join(_take_word(word, files, folders) for word in value.split())


def _take_word(word: str, files: Path, folders: set[str]) -> str:
    is_url = word.startswith("file://")
    path = Path(urlsplit(word).path if is_url else word)
    if not path.is_absolute() or not path.exists():
        return word
    if path.is_dir():
        # The pages of an index may link beside it, so its parent comes along, unless that is a folder of the system.
        beside = path.parent if is_url and len(path.parts) > 3 else path
        folders.add(str(beside))
        return word
    shutil.copy(path, files / path.name)
    return f"/carried/{path.name}"


def _output(command: list[str]) -> list[str]:
    try:
        return subprocess.run(command, capture_output=True, check=False, text=True).stdout.splitlines()
    except FileNotFoundError:
        return []


def _write(path: Path, lines: list[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
