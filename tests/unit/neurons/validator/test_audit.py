"""The audit: an honest market is clean, one flipped byte has a place, and whoever lies with a good signature is named."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from challenges import draw
from ledger.embedded import EmbeddedLedger
from neurons.cli import main
from neurons.validator.audit.ledger_copy import BLOCKS_FILE, LEAVES_FILE
from neurons.validator.scoring import ScoringSystem
from polarise import merkle
from polarise.block import open_block
from polarise.epoch_record import STATEMENT_KIND, EpochCommit, EpochRecord
from polarise.evidence import EvidenceBundle
from polarise.messages import position_of
from polarise.signing import Identity, SigningKey
from polarise.statement import sign_statement
from polarise.transaction import decode_transaction
from tests.support.audited_market import (
    DROP,
    Change,
    Lie,
    MarketFiles,
    Write,
    make_market,
    rebuild,
    record_of,
    record_value,
    validator_loop,
)
from tests.support.proving_miner import MINER, VALIDATOR, entry_of, proving_miner
from tests.support.small_ledger import SmallLedger, small_ledger
from tests.support.worker import made_once
from utils.clock import SystemClock

Json = dict[str, Any]


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> MarketFiles:
    """An honest market after two epochs, which takes seconds to make; no test changes it."""
    return MarketFiles(
        made_once(tmp_path_factory.getbasetemp(), "market", lambda folder: make_market(folder, epochs=2))
    )


@pytest.fixture
def offline(market: MarketFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """The market downloaded into a folder of this test's own."""
    folder = tmp_path / "copy"
    assert main(["audit", *market.arguments(), "--download", str(folder)]) == 0
    shutil.copytree(market.evidence, folder / "evidence")
    capsys.readouterr()
    return folder


def _audit(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Json]:
    status = main(["audit", *arguments, "-o", "json"])
    return status, json.loads(capsys.readouterr().out)


def _offline(market: MarketFiles, folder: Path) -> list[str]:
    return ["--offline", str(folder), "--genesis", str(market.genesis_file)]


def _place(capsys: pytest.CaptureFixture[str], *arguments: str) -> Json:
    """Audit what does not hold, and return the one place that is named."""
    status, answer = _audit(capsys, *arguments)
    assert status == 7
    assert answer["holds"] is False
    (failure,) = answer["failures"]
    assert failure["message"]
    place: Json = failure["place"]
    return place


def _flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def test_honest_market_is_clean(market: MarketFiles, capsys: pytest.CaptureFixture[str]) -> None:
    status, answer = _audit(capsys, *market.arguments())
    assert (status, answer["holds"], answer["failures"]) == (0, True, [])
    assert all(step["holds"] for step in answer["steps"])
    assert [step["name"] for step in answer["steps"]] == [
        *("ledger", "blocks", "leaves", "registry", "records", "beacons", "commitments", "evidence", "miner sets")
    ]
    said = {line["what"].partition(":")[0]: line["count"] for line in answer["not_recomputed"]}
    assert said["times of an answered proof"] >= 2
    assert main(["audit", *market.arguments()]) == 0
    assert "\nclean: " in capsys.readouterr().out


def test_rebuilt_market_is_the_same_to_the_bit(market: MarketFiles, tmp_path: Path) -> None:
    """What the lies below are measured against."""
    assert rebuild(market, tmp_path / "same", lambda _path, value, _ledger: value).notes() == market.notes()


# One flipped byte


@pytest.mark.parametrize("leaf", [0, 1, 2, 3])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_flipped_byte_in_a_leaf(
    market: MarketFiles, offline: Path, leaf: int, part: float, capsys: pytest.CaptureFixture[str]
) -> None:
    """Leaf 0 is the registry entry, 1 the commitment, 2 the scores, 3 the signed record."""
    lines = (offline / LEAVES_FILE).read_bytes().splitlines(keepends=True)
    _flip(offline / LEAVES_FILE, sum(map(len, lines[:leaf])) + int(len(lines[leaf]) * part))
    assert _place(capsys, *_offline(market, offline)) == {"leaf": leaf}


def test_flipped_byte_in_a_leaf_of_the_ledgers_own_file(
    market: MarketFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = MarketFiles(tmp_path / "flipped")
    shutil.copytree(market.folder, files.folder)
    with contextlib.closing(sqlite3.connect(files.ledger_file)) as stored, stored:
        ((line,),) = stored.execute("SELECT line FROM leaf WHERE id = 2").fetchall()
        stored.execute("DROP TRIGGER leaf_UPDATE")
        stored.execute("UPDATE leaf SET line = ? WHERE id = 2", (line[:99] + bytes([line[99] ^ 1]) + line[100:],))
    assert _place(capsys, *files.arguments()) == {"leaf": 2}


def test_flipped_digit_of_a_score_on_the_ledger(
    market: MarketFiles, offline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = (offline / LEAVES_FILE).read_bytes()
    _flip(offline / LEAVES_FILE, content.index(b'"score_ppm":') + len(b'"score_ppm":'))
    assert _place(capsys, *_offline(market, offline)) == {"leaf": market.leaf_of("/scores/")}


@pytest.mark.parametrize("height", [0, 2])
@pytest.mark.parametrize("part", [0.05, 0.3, 0.6, 0.9])
def test_flipped_byte_in_a_block(
    market: MarketFiles, offline: Path, height: int, part: float, capsys: pytest.CaptureFixture[str]
) -> None:
    """Origin, root, extension lines, signature."""
    lines = (offline / BLOCKS_FILE).read_bytes().splitlines(keepends=True)
    _flip(offline / BLOCKS_FILE, sum(map(len, lines[:height])) + int(len(lines[height]) * part))
    assert _place(capsys, *_offline(market, offline)) == {"block": height}


@pytest.mark.parametrize("part", [0.01, 0.2, 0.4, 0.6, 0.8, 0.99])
def test_flipped_byte_in_a_bundle(
    market: MarketFiles, offline: Path, part: float, capsys: pytest.CaptureFixture[str]
) -> None:
    """Openings, too, which stand under a digest of their own."""
    epoch = market.epochs()[1]
    name = market.bundles()[1].digest()
    path = offline / "evidence" / f"{name}.json"
    _flip(path, int(path.stat().st_size * part))
    place = _place(capsys, *_offline(market, offline))
    expected = {"validator": VALIDATOR.public_key, "epoch": epoch, "miner": MINER.public_key, "bundle": name}
    assert place == expected


# Lies with good signatures


def _rebuilt(market: MarketFiles, folder: Path, change: Change, **options: bool) -> MarketFiles:
    files = rebuild(market, folder, change, **options)
    if isinstance(change, Lie):
        change.write(files)
    return files


def _record_change(number: int, **fields: object) -> Change:
    """The record of one epoch says something else."""

    def change(path: str, value: object, _ledger: EmbeddedLedger) -> object:
        if not path.endswith(f"{number:010d}/record"):
            return value
        return record_value(record_of(value).model_copy(update=fields))

    return change


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("net", "test.0123456789abcdef"),
        ("epoch", 1),
        ("validator_key", MINER.public_key),
        ("prev", "ab" * 32),
        ("prev", None),
        ("started_unix_ms", 1),
        ("miners_count", 2),
        ("challenge_commit", "ab" * 32),
        ("beacon", "ab" * 32),
        ("beacon", None),
        ("beacon_height", 1),
        ("opening_key", "ab" * 32),
        ("scores_root", "ab" * 32),
        ("challenge_root", "ab" * 32),
        ("telemetry_root", "ab" * 32),
        ("rules_version", 99),
    ],
)
def test_record_that_says_something_else(
    market: MarketFiles, tmp_path: Path, field: str, value: object, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second record, signed by the validator."""
    epoch = market.epochs()[1]
    files = _rebuilt(market, tmp_path / "lie", _record_change(epoch, **{field: value}))
    assert _place(capsys, *files.arguments()) == {"validator": VALIDATOR.public_key, "epoch": epoch, "field": field}


@pytest.mark.parametrize("weight_ppm", [0, 1, 1_000_000])
def test_epoch_that_was_broken_off_gives_no_weight(
    market: MarketFiles, tmp_path: Path, weight_ppm: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Or a validator would break off an epoch in which only its friend was scored."""
    epoch = market.epochs()[1]
    lie = Lie({market.bundles()[1].digest(): market.bundles()[1]}, weight_ppm=weight_ppm)
    change = _record_change(epoch, status="broken_off")

    def both(path: str, value: object, ledger: EmbeddedLedger) -> object:
        if f"{epoch:010d}" not in path:
            return value
        return change(path, lie(path, value, ledger), ledger)

    files = _rebuilt(market, tmp_path / "lie", both)
    if weight_ppm == 0:
        assert main(["audit", *files.arguments()]) == 0
        return
    place = _place(capsys, *files.arguments())
    assert place == {
        "validator": VALIDATOR.public_key,
        "epoch": epoch,
        "miner": MINER.public_key,
        "field": "weight_ppm",
    }


def test_record_signed_by_another_key(market: MarketFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stranger = Identity(SigningKey(b"x" * 32))

    def change(path: str, value: object, _ledger: EmbeddedLedger) -> object:
        return sign_statement(stranger, STATEMENT_KIND, record_of(value)).to_wire() if "/record" in path else value

    files = _rebuilt(market, tmp_path / "lie", change)
    assert _place(capsys, *files.arguments())["field"] == "record"


def test_scores_that_are_none(market: MarketFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = _rebuilt(market, tmp_path / "lie", lambda path, value, _: 7 if path.startswith("/scores/") else value)
    assert _place(capsys, *files.arguments())["field"] == "scores"


def test_score_on_the_ledger_that_is_not_the_bundles(
    market: MarketFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A friend gets other points than its evidence is worth; record and roots fit."""
    newest = market.bundles()[-1]
    lie = Lie({newest.digest(): newest}, score_ppm=999_999)
    place = _place(capsys, *_rebuilt(market, tmp_path / "lie", lie).arguments())
    assert (place["bundle"], place["field"]) == (newest.digest(), "score.score_ppm")


def _with_score(bundle: EvidenceBundle) -> EvidenceBundle:
    return bundle.model_copy(update={"score": bundle.score.model_copy(update={"score_ppm": 999_999})})


def _with_positions(bundle: EvidenceBundle) -> EvidenceBundle:
    *others, last = bundle.proofs
    assert last.positions
    moved = tuple(position_of((p.numbers[0], *p.numbers[:0:-1])) for p in last.positions)
    return bundle.model_copy(update={"proofs": (*others, last.model_copy(update={"positions": moved}))})


def _with_stamp(bundle: EvidenceBundle) -> EvidenceBundle:
    first, *others = bundle.proofs
    changed = first.model_copy(update={"last_byte_after_ns": (first.last_byte_after_ns or 0) * 2})
    return bundle.model_copy(update={"proofs": (changed, *others)})


def _with_previous(bundle: EvidenceBundle) -> EvidenceBundle:
    """The score before was a better one, and this one is computed from it by the rules."""
    previous = (bundle.previous or bundle.score).model_copy(update={"smoothed_ppm": 900_000})
    score = ScoringSystem().calculate_score(bundle.proofs, bundle.inspection, previous, bundle.telemetry)
    return bundle.model_copy(update={"previous": previous, "score": score})


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (_with_score, "score"),
        (_with_positions, "matmul proof of cpu: positions"),
        (_with_stamp, "pow proof of cpu: rate from the stamps"),
        (_with_previous, "previous"),
        (lambda bundle: bundle.model_copy(update={"telemetry": None}), "score"),
        (lambda bundle: bundle.model_copy(update={"epoch": bundle.epoch + 1}), "epoch"),
        (lambda bundle: bundle.model_copy(update={"opening_key": "ab" * 32}), "opening_key"),
        (lambda bundle: bundle.model_copy(update={"miner_set_root": "ab" * 32}), "miner_set_root"),
        (lambda bundle: bundle.model_copy(update={"challenge_commit": "ab" * 32}), "challenge_commit"),
        (lambda bundle: bundle.model_copy(update={"miner_key": VALIDATOR.public_key}), "miner_key"),
        (lambda bundle: bundle.model_copy(update={"validator_key": MINER.public_key}), "validator_key"),
        (lambda bundle: bundle.model_copy(update={"proofs": ()}), "one proof per device and kind"),
        (lambda bundle: bundle.model_copy(update={"beacon_block": "no block"}), None),
    ],
)
def test_bundle_that_lies_though_everything_is_signed(
    market: MarketFiles,
    tmp_path: Path,
    change: Callable[[EvidenceBundle], EvidenceBundle],
    field: str | None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Name, line, roots and record all follow from the false bundle."""
    newest = market.bundles()[-1]
    false = change(newest)
    place = _place(capsys, *_rebuilt(market, tmp_path / "lie", Lie({newest.digest(): false})).arguments())
    expected = {
        "validator": VALIDATOR.public_key,
        "epoch": newest.epoch,
        "miner": MINER.public_key,
        "bundle": false.digest(),
    }
    assert place == ({**expected, "field": field} if field else expected)


def test_missing_bundle(market: MarketFiles, offline: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = market.bundles()[0].digest()
    (offline / "evidence" / f"{name}.json").unlink()
    assert _place(capsys, *_offline(market, offline))["bundle"] == name
    status, answer = _audit(capsys, *_offline(market, offline), "--keep-going")
    assert status == 7
    assert [failure["step"] for failure in answer["failures"]] == ["evidence"]


def test_withheld_record(market: MarketFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = market.epochs()[0]
    files = _rebuilt(
        market, tmp_path / "lie", lambda path, value, _: DROP if path.endswith(f"{first:010d}/record") else value
    )
    place = _place(capsys, *files.arguments())
    assert place == {"validator": VALIDATOR.public_key, "epoch": first, "field": "record"}


def test_newest_epoch_may_be_on_its_way(
    market: MarketFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last = market.epochs()[1]
    files = _rebuilt(
        market, tmp_path / "open", lambda path, value, _: DROP if path.endswith(f"{last:010d}/record") else value
    )
    status, answer = _audit(capsys, *files.arguments())
    assert status == 0
    assert any("is not recorded yet" in line["what"] for line in answer["not_recomputed"])


def test_record_that_came_after_the_next_epoch_began(
    market: MarketFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever waits with a record can look first how the next epoch goes."""
    first, second = (f"{epoch:010d}" for epoch in market.epochs())
    late: list[Write] = []

    def change(path: str, value: object, _ledger: EmbeddedLedger) -> object:
        if path.endswith(f"{first}/record"):
            late.append(Write(path, value))
            return DROP
        return (Write(path, value), *late) if path.endswith(f"{second}/commit") else value

    place = _place(capsys, *_rebuilt(market, tmp_path / "lie", change).arguments())
    assert (place["epoch"], place["field"]) == (int(first), "record")


def test_epoch_out_of_order_on_a_ledger_without_law(
    market: MarketFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second epoch is committed to under an earlier number; an honest ledger would have refused it."""
    second = market.epochs()[1]

    def change(path: str, value: object, _ledger: EmbeddedLedger) -> object:
        is_second = path.endswith(f"{second:010d}/commit")
        return (Write(path.replace(str(second), str(second - 2)), value),) if is_second else value

    files = _rebuilt(market, tmp_path / "lie", change, is_lawless=True)
    assert _place(capsys, *files.arguments()) == {"leaf": market.leaf_of("/commit", 1)}


def test_opening_key_that_was_shown_before(
    market: MarketFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Committed to again and opened right: only that everybody knows it already gives it away."""
    first, second = market.records()
    again: list[str] = []

    def change(path: str, value: object, ledger: EmbeddedLedger) -> object:
        if path.endswith(f"{second.epoch:010d}/commit"):
            commit = EpochCommit.model_validate(value)
            root = bytes.fromhex(commit.miner_set_root)
            again.append(draw.challenge_commit(second.epoch, bytes.fromhex(first.opening_key), root).hex())
            return commit.model_copy(update={"challenge_commit": again[0]}).to_wire()
        if path.endswith(f"{second.epoch:010d}/record"):
            note = ledger.blocks(second.beacon_height or 0, 1)[0]
            update = {
                "opening_key": first.opening_key,
                "challenge_commit": again[0],
                "beacon": open_block(note, ledger.genesis.log).hash,
            }
            return record_value(record_of(value).model_copy(update=update))
        return value

    place = _place(capsys, *_rebuilt(market, tmp_path / "lie", change).arguments())
    assert place == {"validator": VALIDATOR.public_key, "epoch": second.epoch, "field": "opening_key"}


class FastClock(SystemClock):
    """Almost as far ahead as the ledger takes transactions, so that an entry counts as old after seconds."""

    def wall_unix_ms(self) -> int:
        return super().wall_unix_ms() + 59_000


def test_miner_left_out_of_the_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A validator that examines nobody although a miner has stood in the registry all the time."""
    files = MarketFiles(tmp_path)

    with small_ledger(tmp_path) as ledger, validator_loop(files, ledger, FastClock()) as loop:
        ledger.register(entry_of())
        monkeypatch.setattr(loop._chain, "miners", lambda *_arguments: {})
        for _ in range(2):
            loop.run_epoch(threading.Event())
    place = _place(capsys, *files.arguments())
    assert (place["epoch"], place["miner"], place["field"]) == (files.epochs()[1], MINER.public_key, "registry")


def test_crash_before_the_commitment_breaks_no_chain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The ledger takes no record of an epoch that it never heard of, so the next record must not build on one."""
    files = MarketFiles(tmp_path)
    with small_ledger(tmp_path) as ledger:
        with validator_loop(files, ledger) as loop:
            loop.run_epoch(threading.Event())
            loop._begin(loop._number(), {})
        with validator_loop(files, ledger) as loop:
            loop.run_epoch(threading.Event())
    status, answer = _audit(capsys, *files.arguments())
    assert (status, answer["failures"]) == (0, [])
    assert len(files.epochs()) == 2


def test_audit_from_an_epoch_on_follows_the_earlier_ones(
    market: MarketFiles, offline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = market.epochs()
    (offline / "evidence" / f"{market.bundles()[0].digest()}.json").unlink()
    assert main(["audit", *_offline(market, offline), "--from", str(first)]) == 7
    capsys.readouterr()
    status, answer = _audit(capsys, *_offline(market, offline), "--from", str(second))
    assert status == 0
    assert any("score before the first epoch" in line["what"] for line in answer["not_recomputed"])


# Where it comes from


def test_download_over_http_goes_on_where_it_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each bundle comes from where its record says; here that is loopback, which has to be allowed."""
    files, folder = MarketFiles(tmp_path), tmp_path / "copy"
    with small_ledger(tmp_path) as ledger:
        arguments = ["--ledger", ledger.url, "--genesis", str(ledger.genesis_file), "--download", str(folder)]
        assert _audit(capsys, *arguments)[0] == 0
        with validator_loop(files, ledger) as loop, proving_miner(tmp_path) as miner:
            ledger.register(entry_of(miner.endpoint))
            loop.run_epoch(threading.Event())
            # What a crash left of a download.
            with (folder / LEAVES_FILE).open("ab") as handle:
                handle.write(b'{"half":')
            with (folder / BLOCKS_FILE).open("ab") as handle:
                handle.write(b'"half')
            status, answer = _audit(capsys, *arguments, "--allow-private")
        assert status == 0, answer
        assert "1 bundles" in {step["detail"] for step in answer["steps"]}
        _check_unreachable(ledger, capsys)
    assert main(["audit", "--offline", str(folder), "--genesis", str(ledger.genesis_file)]) == 0
    assert main(["audit", "--ledger", ledger.url, "--genesis", str(ledger.genesis_file)]) == 4


def _check_unreachable(ledger: SmallLedger, capsys: pytest.CaptureFixture[str]) -> None:
    """The record's own uri is a private address here, and nobody listens at the other one."""
    arguments = ["audit", "--ledger", ledger.url, "--genesis", str(ledger.genesis_file)]
    capsys.readouterr()
    assert main(arguments) == 4
    assert "--allow-private" in capsys.readouterr().err
    assert main([*arguments, "--evidence-url", "http://127.0.0.1:1"]) == 4
    assert "broken off" in capsys.readouterr().out


def test_wrong_genesis_is_not_this_ledger(market: MarketFiles, offline: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    wire = json.loads(market.genesis_file.read_text())
    other.write_text(json.dumps({**wire, "name": "other"}))
    assert main(["audit", "--offline", str(offline), "--genesis", str(other)]) == 7
    assert main(["audit", "--ledger-file", str(market.ledger_file), "--genesis", str(other)]) == 2


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--offline", "nowhere"],
        ["--offline", "a", "--ledger-file", "b", "--genesis", "c"],
        ["--offline", "a", "--genesis", "c", "--from", "-1"],
    ],
)
def test_usage_errors(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["audit", *arguments])


def test_no_copy_and_no_such_validator(market: MarketFiles, tmp_path: Path) -> None:
    assert main(["audit", "--offline", str(tmp_path), "--genesis", str(market.genesis_file)]) == 2
    assert main(["audit", *market.arguments(), "--validator", "ffff"]) == 5


def test_records_are_what_the_support_says(market: MarketFiles) -> None:
    records: list[EpochRecord] = market.records()
    assert [record.status for record in records] == ["complete", "complete"]
    assert records[0].telemetry_root == merkle.EMPTY_ROOT.hex()
    assert len({decode_transaction(line).hash for line in market.leaves()}) == len(market.leaves())
