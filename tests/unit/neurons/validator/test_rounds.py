"""A round over real miners: who starts with whom, when it is run again, and what no second attempt can undo."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from flask import Response

from challenges.hardware import HardwareTable
from neurons.base.access import Caller
from neurons.validator.chain import Beacon
from neurons.validator.challenges import ChallengeGenerator, EpochSecret, recompute
from neurons.validator.rounds import ProofRounds, RoundOutcome, SameHost
from neurons.validator.scoring import ScoringSystem
from neurons.validator.stamper import Stamper
from neurons.validator.verification import VerificationEngine
from neurons.validator.wave import Ask, Wave
from polarise.clients import MinerClient
from polarise.errors import ErrorCode, RejectReason, RequestRejected, Unavailable
from polarise.evidence import ScoreRecord
from polarise.registry import STATEMENT_KIND, RegistryEntry
from polarise.signing import SigningKey
from tests.support.evidence import proof as measured
from tests.support.proving_miner import (
    BEACON,
    BEACON_BLOCK,
    CPU,
    SKIPPING,
    VALIDATOR,
    ProvingMiner,
    entry_of,
    proving_miner,
)

GENERATOR = ChallengeGenerator(VALIDATOR.public_key, target_seconds=1, openings=32)
DRAWN_BEACON = Beacon(BEACON, 1, BEACON_BLOCK)


class CountingWave(Wave):
    """Notes which miners and kinds started together."""

    def __init__(self, stamper: Stamper) -> None:
        super().__init__(stamper)
        self.started: list[list[tuple[str, str]]] = []

    def run(self, asks: Sequence[Ask]) -> None:
        self.started.append([(ask.entry.node_key[:4], ask.challenge.kind.value) for ask in asks])
        super().run(asks)


@pytest.fixture(scope="module")
def wave() -> Iterator[CountingWave]:
    with Stamper() as stamper:
        yield CountingWave(stamper)


@pytest.fixture(scope="module")
def engine() -> Iterator[VerificationEngine]:
    with VerificationEngine(HardwareTable.load()) as engine:
        yield engine


@pytest.fixture
def miner(tmp_path: Path) -> Iterator[ProvingMiner]:
    with proving_miner(tmp_path) as miner:
        yield miner


def _entry(endpoint: str, *, seed: bytes | None = None, devices: int = 1) -> RegistryEntry:
    claims = tuple(CPU.model_copy(update={"uuid": f"cpu{index}" if index else "cpu"}) for index in range(devices))
    entry = entry_of(endpoint, devices=claims).open(STATEMENT_KIND, RegistryEntry)
    return entry if seed is None else entry.model_copy(update={"node_key": SigningKey(seed * 32).public_key})


def _secret(entries: Sequence[RegistryEntry]) -> EpochSecret:
    return GENERATOR.begin_epoch(7, [entry_of(entry.endpoint) for entry in entries])


def _run(
    wave: Wave,
    engine: VerificationEngine,
    entries: Sequence[RegistryEntry],
    *,
    same_host: SameHost = "together",
    stop: threading.Event | None = None,
    met: Sequence[RegistryEntry] = (),
    earning: Sequence[RegistryEntry] = (),
) -> RoundOutcome | None:
    """Run a round; all miners but those that are ``met`` in it were measured before."""

    def client(entry: RegistryEntry) -> MinerClient:
        return MinerClient(entry.endpoint, entry.node_key, VALIDATOR, timeout_seconds=5)

    rounds = ProofRounds(GENERATOR, wave, engine, client, same_host=same_host, again_after_seconds=0)
    known = {entry.node_key: _score(entry) for entry in entries if entry.node_key not in {new.node_key for new in met}}
    keys = {entry.node_key for entry in earning}
    return rounds.run(_secret(entries), DRAWN_BEACON, entries, stop or threading.Event(), previous=known, earning=keys)


def _score(entry: RegistryEntry) -> ScoreRecord:
    """The score of a miner whose devices were all measured."""
    proofs = [measured(device=device.uuid) for device in entry.hardware.devices]
    return ScoringSystem().calculate_score(proofs, None, None)


def _reasons(outcome: RoundOutcome | None) -> dict[str, set[RejectReason | None]]:
    assert outcome is not None
    return {miner: {proof.verdict.reason for proof in proofs} for miner, proofs in outcome.proofs.items()}


def test_all_miners_start_together_in_one_wave_per_kind(
    wave: CountingWave, engine: VerificationEngine, miner: ProvingMiner
) -> None:
    entries = [_entry(miner.endpoint), _entry("http://127.0.0.1:1", seed=b"a"), _entry("http://[::1]:1", seed=b"b")]
    wave.started.clear()
    outcome = _run(wave, engine, entries)
    names = [entry.node_key[:4] for entry in entries]
    first, second = [(name, "pow") for name in names], [(name, "matmul") for name in names]
    # Two of three are missing, so that everybody is asked once more.
    assert wave.started == [first, second] * 2
    assert outcome is not None
    assert (outcome.evidence.attempt, outcome.evidence.devices_count, outcome.evidence.missing_count) == (1, 3, 2)
    reasons = _reasons(outcome)
    assert reasons[entries[0].node_key] == {None}
    assert reasons[entries[1].node_key] == reasons[entries[2].node_key] == {RejectReason.MISSING}


def test_miners_of_one_host_take_turns_where_the_setting_says_so(
    wave: CountingWave, engine: VerificationEngine, miner: ProvingMiner
) -> None:
    entries = [_entry(miner.endpoint), _entry("http://127.0.0.1:1", seed=b"a"), _entry("http://[::1]:1", seed=b"b")]
    wave.started.clear()
    _run(wave, engine, entries, same_host="in_turn")
    here, there, elsewhere = (entry.node_key[:4] for entry in entries)
    assert wave.started[:4] == [
        [(here, "pow"), (elsewhere, "pow")],
        [(here, "matmul"), (elsewhere, "matmul")],
        [(there, "pow")],
        [(there, "matmul")],
    ]


@pytest.mark.parametrize(("there_count", "attempt"), [(4, 0), (3, 1)])
def test_round_is_run_again_above_a_fifth_of_devices_missing(
    wave: CountingWave, engine: VerificationEngine, miner: ProvingMiner, there_count: int, attempt: int
) -> None:
    """One of five is no reason, one of four is. The miners that are there have devices that decline."""

    def busy(_caller: Caller, _body: bytes) -> Response:
        raise RequestRejected(ErrorCode.TOO_MANY_REQUESTS, "busy", status=429)

    miner.views["/challenge/prepare"] = busy
    entries = [_entry(miner.endpoint, devices=there_count), _entry("http://127.0.0.1:1", seed=b"a")]
    outcome = _run(wave, engine, entries)
    assert outcome is not None
    assert outcome.evidence.attempt == attempt
    assert {proof.attempt for proofs in outcome.proofs.values() for proof in proofs} == {attempt}


def test_new_devices_that_are_silent_make_nobody_suspect_its_network(
    wave: CountingWave, engine: VerificationEngine, miner: ProvingMiner
) -> None:
    """Keys cost nothing: else whoever needs a second attempt registers a fifth of the market anew."""
    here = _entry(miner.endpoint)
    new = [_entry("http://127.0.0.1:1", seed=bytes([number])) for number in range(1, 9)]
    outcome = _run(wave, engine, [here, *new], met=new)
    assert outcome is not None
    assert (outcome.evidence.attempt, outcome.evidence.devices_count, outcome.evidence.missing_count) == (0, 1, 0)
    assert _reasons(outcome)[here.node_key] == {None}
    # One that was measured before is enough among so few.
    again = _run(wave, engine, [here, *new], met=new[1:])
    assert again is not None
    assert (again.evidence.attempt, again.evidence.devices_count, again.evidence.missing_count) == (1, 2, 1)


def test_who_earns_is_checked_however_long_the_others_proofs_take(
    wave: CountingWave, engine: VerificationEngine, miner: ProvingMiner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key without weight can send what takes a second per device to check."""
    monkeypatch.setattr("neurons.validator.rounds.VERIFY_TURN_SECONDS", -1.0)
    entry = _entry(miner.endpoint)
    late = _run(wave, engine, [entry])
    assert late is not None
    assert [proof.verdict.message for proof in late.proofs[entry.node_key]] == [
        "this validator failed; nothing was measured: its turn to be checked did not come in time"
    ] * 2
    assert _reasons(late) == {entry.node_key: {RejectReason.NOT_MEASURED}}
    assert _reasons(_run(wave, engine, [entry], earning=[entry])) == {entry.node_key: {None}}


def test_second_attempt_has_seeds_of_its_own(
    wave: CountingWave, engine: VerificationEngine, miner: ProvingMiner
) -> None:
    """A miner that knows the first seeds knows nothing of the second ones; an auditor derives both."""
    honest = miner.views["/challenge/start"]
    seen: list[str] = []

    def first_away(caller: Caller, body: bytes) -> object:
        seen.append(body.decode())
        if len(seen) == 1:
            raise Unavailable("the network")
        return honest(caller, body)

    miner.views["/challenge/start"] = first_away  # type: ignore[assignment]
    entry = _entry(miner.endpoint)
    secret = _secret([entry])
    with contextlib.ExitStack():
        client = MinerClient(entry.endpoint, entry.node_key, VALIDATOR, timeout_seconds=5)
        rounds = ProofRounds(
            GENERATOR, wave, engine, lambda _entry: client, same_host="together", again_after_seconds=0
        )
        known = {entry.node_key: _score(entry)}
        outcome = rounds.run(secret, DRAWN_BEACON, [entry], threading.Event(), previous=known)
    assert outcome is not None
    proofs = outcome.proofs[entry.node_key]
    assert [(proof.attempt, proof.verdict.reason) for proof in proofs] == [(1, None), (1, None)]
    for challenge, proof in zip(
        GENERATOR.challenges(secret, BEACON, entry.node_key, CPU, 0, attempt=1), proofs, strict=True
    ):
        assert challenge.nonce.hex() == proof.nonce
        again = dataclasses.replace(challenge, challenge_id=proof.challenge_id)
        assert (
            again.seed
            == recompute(
                challenge_id=proof.challenge_id,
                epoch=7,
                validator_key=VALIDATOR.public_key,
                miner_key=entry.node_key,
                device=CPU,
                device_index=0,
                params=challenge.params,
                opening_key=secret.opening_key,
                beacon=BEACON,
                attempt=1,
            ).seed
        )
        first = recompute(
            challenge_id=proof.challenge_id,
            epoch=7,
            validator_key=VALIDATOR.public_key,
            miner_key=entry.node_key,
            device=CPU,
            device_index=0,
            params=challenge.params,
            opening_key=secret.opening_key,
            beacon=BEACON,
        )
        assert first.seed.hex() != proof.seed


def test_decline_in_the_second_attempt_does_not_undo_a_silence(
    wave: CountingWave, engine: VerificationEngine, miner: ProvingMiner
) -> None:
    """A device that would lose says nothing, and is busy when it is asked again."""
    calls = {"prepare": 0}
    honest = miner.views["/challenge/prepare"]

    def prepare(caller: Caller, body: bytes) -> object:
        calls["prepare"] += 1
        if calls["prepare"] > 2:
            raise RequestRejected(ErrorCode.TOO_MANY_REQUESTS, "busy", status=429)
        return honest(caller, body)

    def away(_caller: Caller, _body: bytes) -> Response:
        raise Unavailable("out of memory")

    miner.views["/challenge/prepare"] = prepare  # type: ignore[assignment]
    miner.views["/challenge/start"] = away
    entry = _entry(miner.endpoint)
    outcome = _run(wave, engine, [entry])
    assert _reasons(outcome) == {entry.node_key: {RejectReason.MISSING}}
    assert outcome is not None
    assert all("declined when asked again" in proof.verdict.message for proof in outcome.proofs[entry.node_key])


def test_decline_in_the_second_attempt_does_not_undo_a_rejection(
    wave: CountingWave, engine: VerificationEngine, tmp_path: Path
) -> None:
    """Whoever is caught, and sees that the round is run again, would be busy from then on."""
    calls = {"prepare": 0}
    with proving_miner(tmp_path, program=SKIPPING) as miner:
        honest = miner.views["/challenge/prepare"]

        def prepare(caller: Caller, body: bytes) -> object:
            calls["prepare"] += 1
            if calls["prepare"] > 2:
                raise RequestRejected(ErrorCode.TOO_MANY_REQUESTS, "busy", status=429)
            return honest(caller, body)

        miner.views["/challenge/prepare"] = prepare  # type: ignore[assignment]
        caught, absent = _entry(miner.endpoint), _entry("http://127.0.0.1:1", seed=b"a")
        outcome = _run(wave, engine, [caught, absent])
    assert outcome is not None
    assert outcome.evidence.attempt == 1
    pow_proof, matmul_proof = outcome.proofs[caught.node_key]
    # The proof of work held, so that declining it is what it always is.
    assert pow_proof.verdict.reason is RejectReason.DECLINED
    assert matmul_proof.verdict.reason is RejectReason.MISSING
    assert matmul_proof.verdict.message.startswith("TILE_MISMATCH, and declined when asked again")


def test_stop_before_a_wave_leaves_no_outcome(wave: CountingWave, engine: VerificationEngine) -> None:
    stop = threading.Event()
    stop.set()
    wave.started.clear()
    assert _run(wave, engine, [_entry("http://127.0.0.1:1")], stop=stop) is None
    assert wave.started == []


def test_round_of_nobody_is_over_at_once(wave: CountingWave, engine: VerificationEngine) -> None:
    outcome = _run(wave, engine, [])
    assert outcome is not None
    assert (outcome.proofs, outcome.evidence.devices_count) == ({}, 0)
