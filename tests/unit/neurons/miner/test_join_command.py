"""`python main.py join` asks for its ledger before it measures, and keeps no entry that the ledger does not have."""

from __future__ import annotations

from pathlib import Path

import pytest

from neurons.cli import main
from neurons.ledger.genesis import new_genesis
from polarise.genesis import Member, write_genesis
from tests.support.proving_miner import VALIDATOR
from tests.support.small_ledger import LEDGER


def test_ledger_that_is_away_is_told_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = tmp_path / "passphrase"
    secret.write_text("secret\n")
    secret.chmod(0o600)
    owner, data, genesis = tmp_path / "owner.key", tmp_path / "data", tmp_path / "genesis.json"
    pass_by = ["--passphrase-file", str(secret)]
    assert main(["key", "new", "--kind", "owner", "--file", str(owner), *pass_by]) == 0
    assert main(["key", "new", "--kind", "node", "--data-dir", str(data), "--owner-key", str(owner), *pass_by]) == 0
    members = [Member(key=VALIDATOR.public_key, stake=1)]
    write_genesis(
        genesis, new_genesis(LEDGER, "test", members, block_seconds=1, final_confirmations=1, created_unix_ms=1)
    )
    capsys.readouterr()
    nobody = ["--set", "ledger.endpoint=http://127.0.0.1:1", "--set", f"ledger.genesis={genesis}"]
    assert main(["join", "--data-dir", str(data), *pass_by, *nobody]) == 4
    printed = capsys.readouterr()
    assert "measuring" not in printed.out
    assert "nothing listens there" in printed.err
    assert "fix: start it (`python main.py ledger`), or name another with --set ledger.endpoint=URL" in printed.err
    assert not (data / "registry.json").exists()
