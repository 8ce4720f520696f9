"""Who is served first: miners that hang must cost nobody who earns anything, however many they are."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from flask import Response

from challenges.matmul_messages import MatmulParams
from neurons.base.access import Caller
from neurons.validator.challenges import START_SECONDS_MAX, Challenge, ChallengeGenerator
from neurons.validator.stamper import Stamper
from neurons.validator.turns import in_turn
from neurons.validator.wave import Ask, Wave
from polarise.errors import RejectReason
from polarise.messages import CommitAnswer, CommitmentBody, PrepareAnswer
from polarise.registry import STATEMENT_KIND, RegistryEntry
from polarise.statement import sign_statement
from tests.support.proving_miner import (
    BEACON,
    CPU,
    MINER,
    VALIDATOR,
    ProvingMiner,
    challenge_of,
    entry_of,
    proving_miner,
)


def test_who_earns_comes_first_then_first_devices_then_lots() -> None:
    items = [(miner, device) for miner in ("new", "earns", "also new") for device in range(3)]
    orders = {
        tuple(in_turn(items, is_earning=lambda item: item[0] == "earns", ordinal=lambda item: item[1]))
        for _ in range(50)
    }
    for order in orders:
        assert order[:3] == (("earns", 0), ("earns", 1), ("earns", 2))
        assert [device for _, device in order[3:]] == [0, 0, 1, 1, 2, 2]
    assert len(orders) > 1


@pytest.fixture
def wave() -> Iterator[Wave]:
    with Stamper() as stamper:
        yield Wave(stamper)


def _invented(challenges: Sequence[Challenge]) -> Callable[[Caller, bytes], CommitAnswer]:
    """Commit to nothing, in the right shape."""
    of_id = {challenge.challenge_id: challenge for challenge in challenges}

    def start(_caller: Caller, body: bytes) -> CommitAnswer:
        challenge = of_id[json.loads(body)["challenge_id"]]
        assert isinstance(challenge.params, MatmulParams)
        fields = CommitmentBody(
            challenge_id=challenge.challenge_id,
            device="cpu",
            seed=challenge.seed.hex(),
            proof={"roots": ["0" * 64] * challenge.params.rounds},
        )
        return CommitAnswer(commitment=sign_statement(MINER, "commitment", fields))

    return start


def _ask(miner: ProvingMiner, *, is_earning: bool) -> Ask:
    entry = entry_of(miner.endpoint).open(STATEMENT_KIND, RegistryEntry)
    return Ask(entry, miner.client(), challenge_of(entry_of())[1], is_earning=is_earning)


def test_miners_that_hang_take_no_turn_from_one_that_earns(
    wave: Wave, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More of them than there are threads, and none answers before nobody's turn comes any more."""
    monkeypatch.setattr("neurons.validator.wave.THREADS_MAX", 2)
    monkeypatch.setattr("neurons.validator.wave.PREPARE_TURN_SECONDS", 1.0)
    monkeypatch.setattr("neurons.validator.challenges.PREPARE_SECONDS", 3.0)
    (tmp_path / "hanging").mkdir()
    released = threading.Event()

    def hang(_caller: Caller, _body: bytes) -> Response:
        released.wait(30)
        return Response("{}", mimetype="application/json")

    with proving_miner(tmp_path) as honest, proving_miner(tmp_path / "hanging") as hanging:
        hanging.views["/challenge/prepare"] = hang
        earning = _ask(honest, is_earning=True)
        others = [_ask(hanging, is_earning=False) for _ in range(8)]
        wave.run([*others, earning])
        released.set()
    assert earning.rejected is None
    reasons = Counter(ask.rejected.reason for ask in others if ask.rejected is not None)
    assert reasons == {RejectReason.MISSING: 2, RejectReason.NOT_MEASURED: 6}


def test_openings_of_who_earns_wait_for_nobody_elses(
    wave: Wave, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever works for nothing answers first, and can let each of its openings wait for two seconds."""
    monkeypatch.setattr("neurons.validator.wave.THREADS_MAX", 2)
    monkeypatch.setattr("neurons.validator.wave.OPEN_TURN_SECONDS", 1.0)
    (tmp_path / "hanging").mkdir()
    released, answered = threading.Event(), threading.Event()

    def hang(_caller: Caller, _body: bytes) -> Response:
        answered.set()
        released.wait(10)
        return Response("{}", mimetype="application/json")

    with proving_miner(tmp_path) as honest, proving_miner(tmp_path / "hanging") as hanging:
        start = honest.views["/challenge/start"]

        def late(caller: Caller, body: bytes) -> object:
            answered.wait(10)
            return start(caller, body)

        honest.views["/challenge/start"] = late  # type: ignore[assignment]
        hanging.views["/challenge/prepare"] = lambda _caller, _body: PrepareAnswer()
        hanging.views["/challenge/open"] = hang
        earning = _ask(honest, is_earning=True)
        others = [_ask(hanging, is_earning=False) for _ in range(4)]
        hanging.views["/challenge/start"] = _invented([ask.challenge for ask in others])
        wave.run([*others, earning])
        released.set()
    assert earning.rejected is None
    reasons = Counter(ask.rejected.reason for ask in others if ask.rejected is not None)
    assert reasons == {RejectReason.OPENING_LATE: 2, RejectReason.NOT_MEASURED: 2}


@pytest.mark.parametrize("target_seconds", [1, 3, 10, 60])
def test_claim_of_one_operation_holds_up_no_wave(target_seconds: int) -> None:
    """Its smallest proof would take months; an honest claim of any size is waited for as long as it is worth."""
    generator = ChallengeGenerator(VALIDATOR.public_key, target_seconds=target_seconds, openings=32)
    secret = generator.begin_epoch(7, [])
    longest = 2 * max(target_seconds, 5) / 0.3 + 10
    tiny = {"matmul_ops_per_second": 1, "pow_hashes_per_second": 1, "memory_bytes_per_second": 1}
    for challenge in generator.challenges(secret, BEACON, MINER.public_key, CPU.model_copy(update=tiny), 0):
        assert challenge.start_deadline_seconds <= min(longest, START_SECONDS_MAX)
    for size in (1, 30, 1000, 10**5):
        # No processor reads less than 100 MB a second; four passes over 64 MiB take three seconds then.
        claim = {name: size * 10**7 for name in tiny} | {"memory_bytes": 1 << 36}
        claim["memory_bytes_per_second"] = max(size * 10**7, 10**8)
        for challenge in generator.challenges(secret, BEACON, MINER.public_key, CPU.model_copy(update=claim), 0):
            wanted = challenge.expected_seconds / 0.3 + 10
            assert challenge.start_deadline_seconds == min(wanted, START_SECONDS_MAX)
