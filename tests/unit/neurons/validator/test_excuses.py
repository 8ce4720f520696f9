"""What excuses a device from a proof, over real HTTP: two validators and one miner, its tenants, and its forgeries."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flask import Response

from neurons.base.access import Caller
from neurons.validator.challenges import FILL_SECONDS, PREPARE_SECONDS, START_SECONDS_MAX
from neurons.validator.opening_files import ExcuseFile, OpeningFolder
from neurons.validator.proof_trace import signed_bytes
from neurons.validator.rounds import proof_evidence
from neurons.validator.stamper import Stamper
from neurons.validator.verification import Verdict
from neurons.validator.wave import OPEN_SECONDS, OPEN_TURN_SECONDS, PREPARE_TURN_SECONDS, Ask, Wave
from polarise.canonical import canonical_bytes
from polarise.errors import ProofRejected, RejectReason
from polarise.excuse import ANSWER_BYTES_MAX, EXCUSE_BYTES_MAX, Excuse
from polarise.messages import OpenRequest, Position, PrepareAnswer
from polarise.occupied import HOUR_MS, ORDERS_MAX, TAKEN_MS, sign_order
from polarise.registry import STATEMENT_KIND as ENTRY_KIND
from polarise.registry import RegistryEntry
from polarise.rented import LEASES_MAX, ShownLease
from polarise.signing import Identity
from polarise.statement import SignedStatement
from tests.support.identities import identity
from tests.support.proving_miner import (
    MINER,
    OTHER_VALIDATOR,
    OWNER,
    VALIDATOR,
    ProvingMiner,
    challenge_of,
    entry_of,
    proving_miner,
)
from tests.support.rented import RENTER, Lease
from utils.clock import SystemClock

KNOWN = (VALIDATOR.public_key, OTHER_VALIDATOR.public_key)


@pytest.fixture(scope="module")
def stamper() -> Iterator[Stamper]:
    with Stamper() as stamper:
        yield stamper


@pytest.fixture
def wave(stamper: Stamper) -> Wave:
    return Wave(stamper, validators=KNOWN)


@pytest.fixture
def miner(tmp_path: Path) -> Iterator[ProvingMiner]:
    with proving_miner(tmp_path, validators=KNOWN) as miner:
        yield miner


def _asked(wave: Wave, miner: ProvingMiner, who: Identity = VALIDATOR) -> Ask:
    entry = entry_of(miner.endpoint).open(ENTRY_KIND, RegistryEntry)
    ask = Ask(entry, miner.client(who), challenge_of(entry_of())[1])
    wave.run([ask])
    return ask


def _reason(ask: Ask) -> RejectReason:
    assert ask.rejected is not None
    return ask.rejected.reason


def test_second_validator_hears_occupied_with_proof_and_measures_once_the_device_is_free(
    wave: Wave, miner: ProvingMiner
) -> None:
    _, first = challenge_of(entry_of())
    other = miner.client(OTHER_VALIDATOR)
    other.prepare(first.prepare_request(), deadline_seconds=30)
    declined = _asked(wave, miner)
    assert _reason(declined) is RejectReason.OCCUPIED
    assert isinstance(declined.trace.excuse, Excuse)
    (order,) = declined.trace.excuse.orders
    assert (order.signer, order.body["challenge_id"]) == (OTHER_VALIDATOR.public_key, first.challenge_id)
    assert declined.trace.ordered_unix_ms is not None
    assert declined.trace.ordered_unix_ms >= order.body["ordered_unix_ms"]  # type: ignore[operator]  # a number
    # The order of the start goes on excusing, as the proof goes on.
    now_unix_ms = SystemClock().wall_unix_ms()
    started = other.start(first.start_request(), first.ordered_work(now_unix_ms), deadline_seconds=10)
    still = _asked(wave, miner)
    assert isinstance(still.trace.excuse, Excuse)
    assert [order.body["step"] for order in still.trace.excuse.orders] == ["start"]
    drawn = first.positions(signed_bytes(started.answer.commitment))
    positions = tuple(Position(round_index=index, tile_row=row, tile_column=column) for index, row, column in drawn)
    other.open(OpenRequest(challenge_id=first.challenge_id, positions=positions), deadline_seconds=10)
    assert _asked(wave, miner).rejected is None


def _order(
    who: Identity = OTHER_VALIDATOR, *, age_ms: int = 1000, device: str = "cpu", miner_key: str = MINER.public_key
) -> SignedStatement:
    return sign_order(
        who,
        miner_key=miner_key,
        device=device,
        kind="pow",
        challenge_id="0" * 32,
        step="prepare",
        ordered_unix_ms=SystemClock().wall_unix_ms() - age_ms,
    )


def _forged() -> SignedStatement:
    order = _order()
    return order.model_copy(update={"signature": order.signature[:-1] + ("0" if order.signature[-1] != "0" else "1")})


def _shows(*orders: SignedStatement) -> Callable[[Caller | None, bytes], PrepareAnswer]:
    return lambda _caller, _body: PrepareAnswer(status="occupied", excuse=Excuse(orders=orders))


@pytest.mark.parametrize(
    "order",
    [
        pytest.param(_forged, id="forged"),
        pytest.param(lambda: _order(MINER), id="signed by the miner"),
        pytest.param(lambda: _order(identity("stranger")), id="by nobody of the ledger"),
        pytest.param(lambda: _order(VALIDATOR), id="our own"),
        pytest.param(lambda: _order(age_ms=HOUR_MS + 60_000), id="older than an hour"),
        pytest.param(lambda: _order(age_ms=TAKEN_MS["prepare"] + 60_000), id="of a proof that is over"),
        pytest.param(lambda: _order(age_ms=-60_000), id="later than ours"),
        pytest.param(lambda: _order(device="GPU-0"), id="for another device"),
        pytest.param(lambda: _order(miner_key=OWNER.public_key), id="for another miner"),
    ],
)
def test_order_that_does_not_hold_is_a_plain_decline(
    wave: Wave, miner: ProvingMiner, order: Callable[[], SignedStatement]
) -> None:
    miner.views["/challenge/prepare"] = lambda _caller, _body: _shows(_order())(None, b"")
    assert _reason(_asked(wave, miner)) is RejectReason.OCCUPIED
    miner.views["/challenge/prepare"] = lambda _caller, _body: _shows(order())(None, b"")
    assert _reason(_asked(wave, miner)) is RejectReason.DECLINED


def test_says_occupied_and_shows_nothing_or_a_lease(wave: Wave, miner: ProvingMiner) -> None:
    """What is shown has to be what is said."""
    miner.views["/challenge/prepare"] = _shows()
    assert _reason(_asked(wave, miner)) is RejectReason.DECLINED
    excuse = Excuse(leases=(_cpu_lease(),))
    miner.views["/challenge/prepare"] = lambda _caller, _body: PrepareAnswer(status="occupied", excuse=excuse)
    assert _reason(_asked(wave, miner)) is RejectReason.DECLINED
    miner.views["/challenge/prepare"] = lambda _caller, _body: PrepareAnswer(status="rented", excuse=excuse)
    assert _reason(_asked(wave, miner)) is RejectReason.RENTED
    orders = Excuse(orders=(_order(),))
    miner.views["/challenge/prepare"] = lambda _caller, _body: PrepareAnswer(status="rented", excuse=orders)
    assert _reason(_asked(wave, miner)) is RejectReason.MISSING


def _cpu_lease(cpu_milli: int = 601, seconds: int = 600, *, renter: Identity = RENTER, number: int = 1) -> ShownLease:
    now_unix_ms = SystemClock().wall_unix_ms()
    lease_id = f"{number:032x}"
    return Lease(
        lease_id=lease_id,
        countersigned_lease=lease_id,
        granted_unix_ms=now_unix_ms - 3_600_000,
        expires_unix_ms=now_unix_ms + seconds * 1000,
        devices=(),
        cpu_milli=cpu_milli,
        renter=renter,
        renter_key=renter.public_key,
    ).shown()


@pytest.mark.parametrize(
    ("leases", "reason"),
    [
        ((_cpu_lease,), RejectReason.RENTED),
        ((lambda: _cpu_lease(300), lambda: _cpu_lease(301, number=2)), RejectReason.RENTED),
        ((lambda: _cpu_lease(600),), RejectReason.DECLINED),
        ((lambda: _cpu_lease(400), lambda: _cpu_lease(400)), RejectReason.MALFORMED),
        ((lambda: _cpu_lease(seconds=-1),), RejectReason.MISSING),
        ((lambda: _cpu_lease(renter=Identity(OWNER)),), RejectReason.MALFORMED),
    ],
    ids=["enough", "enough together", "too little", "one twice", "ended", "own owner"],
)
def test_processor_is_excused_by_its_tenants_leases_alone(
    wave: Wave, miner: ProvingMiner, leases: tuple[Callable[[], ShownLease], ...], reason: RejectReason
) -> None:
    """Its entry claims two CPUs."""

    def rented(_caller: Caller | None, _body: bytes) -> PrepareAnswer:
        return PrepareAnswer(status="rented", excuse=Excuse(leases=tuple(lease() for lease in leases)))

    miner.views["/challenge/prepare"] = rented
    assert _reason(_asked(wave, miner)) is reason


def test_excuse_is_kept_with_the_proof_it_stands_for(wave: Wave, miner: ProvingMiner) -> None:
    miner.client(OTHER_VALIDATOR).prepare(challenge_of(entry_of())[1].prepare_request(), deadline_seconds=30)
    ask = _asked(wave, miner)
    assert isinstance(ask.rejected, ProofRejected)
    evidence = proof_evidence(ask.challenge, ask.trace, Verdict.of(ask.rejected))
    assert evidence.excuse == ask.trace.excuse
    assert evidence.ordered_unix_ms == ask.trace.ordered_unix_ms
    assert len(json.dumps(evidence.to_wire())) < 8192


def _filled(chars_count: int) -> SignedStatement:
    """An order that is none, and as long as its text."""
    return _order().model_copy(update={"body": {"x": "y" * chars_count}})


@pytest.mark.parametrize(("more", "reason"), [(0, RejectReason.DECLINED), (1, RejectReason.MISSING)])
def test_excuse_one_byte_longer_than_any_honest_one_is_not_kept(
    wave: Wave, miner: ProvingMiner, more: int, reason: RejectReason
) -> None:
    """Each device shows one per kind: with some megabytes each no bundle could hold them, nor what was found otherwise."""
    used = len(canonical_bytes(Excuse(orders=(_filled(0),)).to_wire()))
    miner.views["/challenge/prepare"] = _shows(_filled(EXCUSE_BYTES_MAX - used + more))
    ask = _asked(wave, miner)
    assert (_reason(ask), ask.trace.excuse is None) == (reason, bool(more))


def test_excuse_that_grows_in_its_canonical_form_is_not_kept(wave: Wave, miner: ProvingMiner) -> None:
    """``1e20`` is written with 21 digits there."""
    wire = PrepareAnswer(status="occupied", excuse=Excuse(orders=(_filled(0),))).to_wire()
    body = json.dumps(wire).replace('"x": ""', '"x": [' + ",".join(["1e20"] * 6000) + "]")
    assert len(body) < EXCUSE_BYTES_MAX
    miner.views["/challenge/prepare"] = lambda _caller, _body: Response(body, mimetype="application/json")
    ask = _asked(wave, miner)
    assert (_reason(ask), ask.trace.excuse) == (RejectReason.MISSING, None)


def test_prepare_answer_beyond_the_largest_excuse_is_not_read(wave: Wave, miner: ProvingMiner) -> None:
    miner.views["/challenge/prepare"] = lambda _caller, _body: Response(
        b" " * (ANSWER_BYTES_MAX + 1), mimetype="application/json"
    )
    ask = _asked(wave, miner)
    assert ask.rejected is not None
    assert str(ANSWER_BYTES_MAX) in ask.rejected.message


def test_largest_honest_excuses_are_read(wave: Wave, miner: ProvingMiner) -> None:
    """As many orders as may be shown, of the longest name of a device; as many leases, with all devices of a host."""
    orders = tuple(_order(device="d" * 96) for _ in range(ORDERS_MAX))
    lease = Lease(devices=tuple("d" * 80 + str(number) for number in range(10, 26))).shown()
    for excuse in (Excuse(orders=orders), Excuse(leases=(lease,) * LEASES_MAX)):
        assert len(canonical_bytes(excuse.to_wire())) <= EXCUSE_BYTES_MAX
        assert len(json.dumps(PrepareAnswer(excuse=excuse).to_wire())) <= ANSWER_BYTES_MAX


def test_excuse_lies_in_a_file_until_its_bundle(stamper: Stamper, miner: ProvingMiner, tmp_path: Path) -> None:
    """Decoded, that of each device takes twenty times its bytes of memory, whether it holds or not."""
    folder = OpeningFolder(tmp_path / "openings")
    miner.views["/challenge/prepare"] = lambda _caller, _body: _shows(_order(MINER))(None, b"")
    ask = _asked(Wave(stamper, validators=KNOWN, openings=folder), miner)
    assert isinstance(ask.trace.excuse, ExcuseFile)
    assert ask.rejected is not None
    evidence = proof_evidence(ask.challenge, ask.trace, Verdict.of(ask.rejected))
    assert (evidence.excuse, evidence.ordered_unix_ms) == (None, ask.trace.ordered_unix_ms)
    (order,) = folder.read_excuse(evidence.challenge_id).orders
    assert order.signer == MINER.public_key
    folder.drop(evidence.challenge_id)
    with pytest.raises(FileNotFoundError):
        folder.read_excuse(evidence.challenge_id)


def test_order_excuses_for_as_long_as_a_validator_can_take() -> None:
    """Whoever is asked last gets ready last; then its proof, its openings, and the pings between."""
    slack_ms = 8_000
    prepare_ms = (PREPARE_TURN_SECONDS + max(PREPARE_SECONDS, FILL_SECONDS)) * 1000
    start_ms = (START_SECONDS_MAX + OPEN_TURN_SECONDS + OPEN_SECONDS) * 1000
    assert prepare_ms + slack_ms <= TAKEN_MS["prepare"] <= prepare_ms + 2 * slack_ms
    assert start_ms <= TAKEN_MS["start"] <= start_ms + slack_ms
