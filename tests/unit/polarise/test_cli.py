"""`polarise verify`: what an auditor without a checkout runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from polarise import __version__
from polarise.cli import main
from polarise.clients import MinerClient
from polarise.messages import AllocateRequest
from tests.unit.polarise.small_miner import SmallMiner, identity

MINER, RENTER = identity(1), identity(2)


@pytest.fixture(scope="module")
def answer() -> dict[str, object]:
    with SmallMiner(MINER).running() as miner:
        return MinerClient(miner.endpoint, MINER.public_key, RENTER).allocate(AllocateRequest()).model_dump(mode="json")


def written(folder: Path, value: object) -> str:
    path = folder / "receipt.json"
    path.write_text(json.dumps(value))
    return str(path)


def test_a_receipt_holds(answer: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "receipt", written(tmp_path, answer["receipt"]), "--key", MINER.public_key]) == 0
    shown = capsys.readouterr().out
    assert "holds" in shown
    assert "given by --key" in shown
    assert "ssh_port: 2222" in shown


def test_without_a_key_it_says_what_was_not_checked(
    answer: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also straight from the saved answer of POST /allocate."""
    assert main(["verify", "receipt", written(tmp_path, answer), "-o", "json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["signer"], shown["signer_is_given"]) == (MINER.public_key, False)


def test_another_key_or_kind_or_body_does_not_hold(
    answer: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    receipt = answer["receipt"]
    assert isinstance(receipt, dict)
    assert main(["verify", "receipt", written(tmp_path, receipt), "--key", RENTER.public_key]) == 7
    assert main(["verify", "registry", written(tmp_path, receipt)]) == 7
    changed = {**receipt, "body": {**receipt["body"], "ssh_port": 1}}
    assert main(["verify", "receipt", written(tmp_path, changed)]) == 7
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("value", [{}, [], "x", {"receipt": 1}])
def test_an_unreadable_file_is_a_usage_error(value: object, tmp_path: Path) -> None:
    assert main(["verify", "receipt", written(tmp_path, value)]) == 2
    assert main(["verify", "receipt", str(tmp_path / "none")]) == 2


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert __version__ in capsys.readouterr().out
