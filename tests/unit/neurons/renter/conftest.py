"""A renter's machine: a key file, a passphrase, a state folder, and a small miner to rent from."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from neurons.renter.command import add_parser
from polarise.keyfile import KeyKind, create_key_file
from tests.unit.polarise.small_miner import SmallMiner, identity

Renter = Callable[..., int]


@pytest.fixture(scope="session")
def key_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Argon2id costs a tenth of a second, so one key serves all tests."""
    folder = tmp_path_factory.mktemp("renter")
    passphrase = folder / "passphrase"
    passphrase.write_text("secret\n")
    passphrase.chmod(0o600)
    create_key_file(folder / "renter.key", KeyKind.RENTER, b"secret")
    return folder


@pytest.fixture
def miner() -> Iterator[SmallMiner]:
    with SmallMiner(identity(1)).running() as running:
        yield running


@pytest.fixture
def renter(key_files: Path, tmp_path: Path) -> Renter:
    """Run ``renter WORDS...`` with this machine's key and state, and return the exit status."""
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())

    def run(command: str, *words: str) -> int:
        own = ["--key", str(key_files / "renter.key"), "--passphrase-file", str(key_files / "passphrase")]
        args = parser.parse_args(["renter", command, *own, "--state-dir", str(tmp_path / "state"), *words])
        status: int = args.handler(args)
        return status

    return run
