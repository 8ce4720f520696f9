"""Targets: what a validator writes down of an epoch and of rates, and the leases that miners show instead of proofs."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

from challenges.averages import advance, band_of, edges
from challenges.bands import LOW_PPM, expect
from challenges.draw import ChallengeKind
from challenges.hardware import HardwareTable
from challenges.timing import judge_rate
from neurons.validator.audit.epochs import EpochReader, check_commitments, check_records
from neurons.validator.audit.history import History
from neurons.validator.audit.ledger_copy import LedgerCopy
from neurons.validator.audit.report import Report
from polarise.canonical import canonical_bytes
from polarise.decode import MAX_BODY_BYTES, WireModel, decode_json, decode_model
from polarise.epoch_record import (
    STATEMENT_KIND,
    EpochCommit,
    EpochRecord,
    EpochScores,
    WeighedLine,
    commit_path,
    evidence_root,
    page_path,
    pages_of,
    record_path,
    scores_path,
)
from polarise.errors import ProofRejected, RequestRejected
from polarise.occupied import HOUR_MS, SHARE_MS, check_occupied, sign_order
from polarise.occupied import STATEMENT_KIND as ORDER_KIND
from polarise.rate_average import RateAverage, RateSample
from polarise.receipt import STATEMENT_KIND as RECEIPT_KIND
from polarise.rented import CONSENT_KIND, ShownLease, check_rented, sign_consent
from polarise.rented import STATEMENT_KIND as COUNTERSIGNATURE_KIND
from polarise.signing import Identity, Purpose
from polarise.statement import SignedStatement
from polarise.transaction import MAX_TRANSACTION_BYTES, SetValue, decode_transaction, sign_transaction
from tests.fuzz.ledger import small_ledger
from tests.fuzz.target import KIB, Call, Target, plain
from tests.support.proving_miner import MINER, OTHER_VALIDATOR
from tests.support.rented import EXPIRES, GPU, GRANTED, RENTER, Lease
from tests.unit.ledger.small_market import GENESIS, VALIDATOR

EPOCH = 7
CARD = "NVIDIA H100 80GB HBM3"
OWNER = "0" * 64


class _Rates(WireModel):
    """State and samples of one epoch."""

    averages: tuple[RateAverage, ...]
    samples: tuple[RateSample, ...]


def _advance(raw: bytes) -> object:
    rates = decode_model(_Rates, raw)
    counted = 2**53 - 1 - len(rates.samples)
    if any(average.samples_count >= counted for average in rates.averages):
        return None  # so many samples are no state of ours
    moved = advance(rates.averages, rates.samples)
    for average in moved:
        low_ppm, high_ppm = edges(average)
        # A mean below the table's band is no state of ours: such samples do not count.
        assert 0 < low_ppm <= max(high_ppm, low_ppm if average.mean_ppm < LOW_PPM else 0)
        expectation = expect(HardwareTable.load().find(average.model), ChallengeKind(average.kind), 1)
        if expectation.model == average.model:
            judge_rate(average.mean_ppm, 1, expectation.peak, band_of(expectation, average))
    return moved


def _rates() -> list[bytes]:
    average = RateAverage(model=CARD, kind="matmul", samples_count=20, mean_ppm=1_000_000, deviation_ppm=9)
    sample = RateSample(model=CARD, kind="matmul", owner_key=OWNER, of_expected_ppm=990_000)
    known = average.model_copy(update={"recent_owners": (OWNER,)})
    made = [
        _Rates(averages=(average,), samples=(sample, sample.model_copy(update={"kind": "pow"}))),
        _Rates(averages=(known,), samples=(sample,)),
        _Rates(averages=(), samples=()),
    ]
    return [json.dumps(rates.to_wire()).encode() for rates in made]


def _signed(who: Identity, kind: str, body: object) -> SignedStatement:
    """Sign any body as a party that lies would.

    Raises:
        ValueError: It has no canonical form, or is none.
    """
    subkey = who.subkey(Purpose.STATEMENT)
    signature = subkey.key.sign(kind, canonical_bytes(body))  # type: ignore[arg-type]  # came through JSON
    return SignedStatement(
        kind=kind,
        body=cast(dict[str, object], body),
        signer=who.public_key,
        certificate=subkey.certificate,
        signature=signature,
    )


def _rented(raw: bytes) -> object:
    """Let miner and renter sign the bodies; the digest comes right where it is said to be."""
    value = decode_json(raw)
    if not isinstance(value, Mapping):
        return None
    try:
        receipt = _signed(MINER, RECEIPT_KIND, value.get("receipt"))
        body = value.get("countersignature")
        if isinstance(body, Mapping) and body.get("receipt") == "right":
            body = {**body, "receipt": receipt.digest()}
        countersignature = None if body is None else _signed(RENTER, COUNTERSIGNATURE_KIND, body)
        consent = value.get("consent")
        lease = ShownLease(
            receipt=receipt,
            countersignature=countersignature,
            consent=None if consent is None else _signed(RENTER, CONSENT_KIND, consent),
        )
    except ValueError:
        return None
    device = str(value.get("device"))
    return check_rented(
        (lease,), miner_key=MINER.public_key, owner_key=OWNER, device=device, claimed_cpu_milli=1, now_unix_ms=EXPIRES
    )


def _leases() -> list[bytes]:
    lease = Lease().signed()
    countersignature = {**lease.countersignature.body, "receipt": "right"}
    consent = sign_consent(RENTER, MINER.public_key, GRANTED, EXPIRES).body
    parts = ({"countersignature": countersignature}, {"consent": consent})
    return [
        json.dumps({"receipt": lease.receipt.body, "device": device, **part}).encode()
        for part in parts
        for device in (GPU, "cpu")
    ]


def _occupied(raw: bytes) -> object:
    """Let another validator sign the orders."""
    value = decode_json(raw)
    if not isinstance(value, list):
        return None
    try:
        orders = [_signed(OTHER_VALIDATOR, ORDER_KIND, body) for body in value]
    except ValueError:
        return None
    check_occupied(
        orders,
        validator_key=VALIDATOR.public_key,
        miner_key=MINER.public_key,
        device=GPU,
        validators={OTHER_VALIDATOR.public_key},
        ordered_unix_ms=EXPIRES,
    )
    return len(orders)


def _orders() -> list[bytes]:
    def order(number: int, ordered_unix_ms: int, work_ms: int) -> dict[str, object]:
        return sign_order(
            OTHER_VALIDATOR,
            miner_key=MINER.public_key,
            device=GPU,
            kind="pow",
            challenge_id=f"{number:032x}",
            step="start",
            ordered_unix_ms=ordered_unix_ms,
            work_ms=work_ms,
        ).body

    hour = [order(number, EXPIRES - HOUR_MS, SHARE_MS // 4) for number in range(4)]
    return [json.dumps(orders).encode() for orders in ([order(0, EXPIRES - 1, 0)], hour)]


def _line() -> WeighedLine:
    return WeighedLine(
        miner_key=MINER.public_key, score_ppm=1_000_000, raw_ppm=None, reasons=(), evidence="0" * 64,
        worth_ppb=1, weight_ppm=1_000_000,
    )  # fmt: skip


def _epoch() -> dict[str, object]:
    """The values of one epoch, as its validator writes them."""
    key = VALIDATOR.public_key
    pages = pages_of(2, [_line()])
    commit = EpochCommit(challenge_commit="0" * 64, miner_set_root="0" * 64, miners_count=1, started_unix_ms=1)
    record = EpochRecord(
        net=GENESIS.net, epoch=EPOCH, validator_key=key, status="complete", prev=None, started_unix_ms=1,
        finished_unix_ms=2, miners_count=1, challenge_commit="0" * 64, beacon=None, beacon_height=None,
        opening_key="0" * 64, scores_root=EpochScores.of_pages(pages).root(), challenge_root=evidence_root(["0" * 64]),
        telemetry_root=evidence_root([]), rules_version=2, software="0", config_hash="0" * 64, uri="http://127.0.0.1:1",
    )  # fmt: skip
    return {
        commit_path(key, EPOCH): commit.to_wire(),
        **{page_path(key, EPOCH, page.page): page.to_wire() for page in pages},
        record_path(key, EPOCH): record.to_wire(),
    }


def _epochs() -> list[bytes]:
    """An epoch of pages, and one with the sheet of rules 1."""
    made = _epoch()
    line = {key: value for key, value in _line().to_wire().items() if key not in {"worth_ppb", "weight_ppm"}}
    sheet = {"v": 1, "rules_version": 1, "lines": [line]}
    by_sheet = {path: value for path, value in made.items() if "/scores/" not in path}
    by_sheet[scores_path(VALIDATOR.public_key, EPOCH)] = sheet
    return [json.dumps(values).encode() for values in (made, by_sheet)]


@contextlib.contextmanager
def _reader() -> Iterator[Call]:
    """Put values on a ledger's copy, signed by the validator, and read the epochs that they make."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with small_ledger(folder / "ledger.sqlite") as ledger:
            note = ledger.blocks(0, 1)[0]
        copy = LedgerCopy(folder)

        def call(raw: bytes) -> Report:
            value = decode_json(raw, max_bytes=MAX_TRANSACTION_BYTES)
            leaves = (
                [leaf for path, item in value.items() for leaf in _leaf(path, item)] if isinstance(value, dict) else []
            )
            copy.clear()
            copy.add(leaves, note)
            history = History(GENESIS.final_confirmations)
            for index, leaf in enumerate(copy.leaves()):
                history.add(index, decode_transaction(leaf))
            reader, report = EpochReader(copy, history, None), Report(keep_going=True)
            with report.step("records"):
                check_records(reader, GENESIS.net, 0, report)
                check_commitments(reader, 0, report)
            assert all(place.message for place in report.failures)
            return report

        yield call


def _leaf(path: str, value: object) -> list[bytes]:
    """Sign a value that is to stand on a path; nothing where nobody can."""
    try:
        if path.endswith("/record"):
            value = _signed(VALIDATOR, STATEMENT_KIND, value).to_wire()
        op = SetValue(path=path, value=value)
        return [sign_transaction(VALIDATOR, op, net=GENESIS.net, nonce=0, time_unix_ms=1).raw]
    except (ValueError, RequestRejected):
        return []


TARGETS = (
    Target(
        "challenges.averages.advance",
        plain(_advance),
        _rates,
        (RequestRejected,),
        MAX_BODY_BYTES,
        covers=("challenges.averages",),
        calls_base=60_000,
        weight=2,
    ),
    Target(
        "polarise.rented.check_rented",
        plain(_rented),
        _leases,
        (RequestRejected, ProofRejected),
        MAX_BODY_BYTES,
        covers=("polarise.rented.open_consent",),
        weight=2,
    ),
    Target(
        "polarise.occupied.check_occupied",
        plain(_occupied),
        _orders,
        (RequestRejected, ProofRejected),
        MAX_BODY_BYTES,
        covers=("polarise.occupied.open_order",),
        weight=2,
    ),
    Target(
        "neurons.validator.audit.epochs.EpochReader",
        _reader,
        _epochs,
        (RequestRejected,),
        MAX_TRANSACTION_BYTES,
        covers=("polarise.epoch_record.EpochScores.of_pages",),
        memory_base_bytes=1024 * KIB,
        weight=4,
    ),
)
