"""`polarise verify`: what an auditor without a checkout runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from polarise import __version__
from polarise.cli import KINDS, main
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


def test_a_receipt_holds_straight_from_the_saved_answer(
    answer: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, answer)
    assert main(["verify", "receipt", path, "--key", MINER.public_key, "-o", "json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["verified"], shown["signer"]) == (True, MINER.public_key)


@pytest.mark.parametrize("kind", [[], *([kind] for kind in KINDS)])
def test_without_a_key_nothing_is_checked_and_that_is_no_success(
    kind: list[str], answer: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Anybody can sign a statement with a key of its own."""
    with pytest.raises(SystemExit) as ended:
        main(["verify", *kind, written(tmp_path, answer)])
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "nothing was checked: name who must have signed with --key" in printed.err


def test_another_key_or_kind_or_body_does_not_hold(
    answer: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    receipt = answer["receipt"]
    assert isinstance(receipt, dict)
    assert main(["verify", "receipt", written(tmp_path, receipt), "--key", RENTER.public_key]) == 7
    assert main(["verify", "registry", written(tmp_path, receipt), "--key", MINER.public_key]) == 7
    changed = {**receipt, "body": {**receipt["body"], "ssh_port": 1}}
    assert main(["verify", "receipt", written(tmp_path, changed), "--key", MINER.public_key]) == 7
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("value", [{}, [], "x", {"receipt": 1}])
def test_an_unreadable_file_is_a_usage_error(value: object, tmp_path: Path) -> None:
    assert main(["verify", "receipt", written(tmp_path, value), "--key", MINER.public_key]) == 2
    assert main(["verify", "receipt", str(tmp_path / "none"), "--key", MINER.public_key]) == 2


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert __version__ in capsys.readouterr().out
