"""`python main.py ledger init` and `ledger fsck`, as an operator types them."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from neurons.cli import main
from neurons.ledger.node import GENESIS_FILE, LEDGER_FILE
from polarise.genesis import read_genesis
from polarise.keyfile import KeyKind, create_key_file
from tests.unit.ledger.small_market import LEDGER, VALIDATOR
from tests.unit.neurons.ledger.ledger_process import node_in

PASSPHRASE = b"correct horse"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data directory with a certified node key."""
    passphrase = tmp_path / "passphrase"
    passphrase.touch(mode=0o600)
    passphrase.write_bytes(PASSPHRASE)
    monkeypatch.setenv("POLARISE_PASSPHRASE_FILE", str(passphrase))
    monkeypatch.setenv("POLARISE_LOGGING_FILE", str(tmp_path / "log"))
    create_key_file(tmp_path / "data" / "keys" / "node.key", KeyKind.NODE, PASSPHRASE, owner=LEDGER)
    return tmp_path / "data"


def init(folder: Path, *more: str) -> int:
    return main(["ledger", "init", "--data-dir", str(folder), "--net", "demo", *more])


def test_init_writes_a_genesis_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert init(folder, "--validator", f"{VALIDATOR.public_key}=7", "--block-seconds", "2") == 0
    genesis = read_genesis(folder / GENESIS_FILE)
    assert (genesis.validators[0].stake, genesis.block_seconds) == (7, 2)
    assert genesis.net in capsys.readouterr().out
    assert init(folder, "--validator", VALIDATOR.public_key) == 2
    assert read_genesis(folder / GENESIS_FILE) == genesis
    assert "one genesis" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ("--validator", "nobody"),
        ("--validator", f"{VALIDATOR.public_key}=0"),
        ("--validator", f"{VALIDATOR.public_key}=-1"),
        ("--validator", VALIDATOR.public_key, "--validator", VALIDATOR.public_key),
        ("--validator", VALIDATOR.public_key, "--block-seconds", "0"),
        ("--validator", VALIDATOR.public_key, "--net", "Not A Name"),
    ],
)
def test_init_refuses_what_is_no_genesis(folder: Path, arguments: tuple[str, ...]) -> None:
    assert init(folder, *arguments) == 2
    assert not (folder / GENESIS_FILE).exists()


def test_fsck_says_what_holds_and_names_what_does_not(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    node = node_in(folder)
    with node.data_dir, node._resources:
        node.build_services()
        node.ledger.make_block()
    assert main(["ledger", "fsck", "--data-dir", str(folder)]) == 0
    assert "2 blocks" in capsys.readouterr().out
    connection = sqlite3.connect(folder / LEDGER_FILE)
    connection.execute("UPDATE value SET value = CAST(? AS BLOB) WHERE path = '/genesis'", (json.dumps({"hash": "0"}),))
    connection.commit()
    connection.close()
    assert main(["ledger", "fsck", "--data-dir", str(folder)]) == 7
    assert "value /genesis of leaf -1" in capsys.readouterr().out
    assert main(["ledger", "fsck", "--data-dir", str(folder), "--file", str(folder / "none")]) == 2


def test_a_node_without_a_genesis_does_not_start(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ledger", "--data-dir", str(folder), "--set", "network.port=0"]) == 2
    assert "ledger init" in capsys.readouterr().err
