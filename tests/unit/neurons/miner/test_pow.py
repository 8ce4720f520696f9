"""The miner's side of challenges over real HTTP: who supersedes whom, all devices at once, orders, the share of an hour, leases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from neurons.miner.inventory import Inventory
from neurons.miner.lease import Expiry, Lease, LeaseState
from neurons.miner.receipts import ReceiptWriter
from neurons.miner.validations import ValidationTracker
from polarise.clients import OrderedWork
from polarise.errors import ErrorCode, RequestRejected, Unavailable
from polarise.hardware import DeviceClaim
from polarise.messages import CommitAnswer, PowSizes, PrepareAnswer, PrepareRequest, StartRequest
from polarise.occupied import sign_order
from polarise.rented import check_rented, countersign
from polarise.signing import Identity
from tests.support.clock import ManualClock
from tests.support.identities import identity
from tests.support.leases import LIMITS, lease
from tests.support.miners import wait_until
from tests.support.proving_miner import (
    CPU,
    MINER,
    OTHER_VALIDATOR,
    OWNER,
    VALIDATOR,
    ProvingMiner,
    proving_miner,
)
from utils.clock import SystemClock
from utils.gpu import Gpu

RENTER = identity("renter")
GPUS = tuple(
    DeviceClaim(
        uuid=f"GPU-{index}",
        kind="gpu",
        name="NVIDIA H200",
        memory_bytes=1 << 37,
        matmul_ops_per_second=1,
        pow_hashes_per_second=1,
    )
    for index in range(15)
)
STOCK = Inventory(
    memory_bytes=1 << 40,
    cpu_milli=100_000,
    gpus=tuple(Gpu(index, card.uuid, card.name, card.memory_bytes) for index, card in enumerate(GPUS)),
    ssh_ports=range(20_000, 20_100),
    leases_max=90,
    leases_per_key_max=90,
)
SECONDS = 20.0

# Says in a file how far it is, and waits at each step for the test's leave; it imports nothing heavy.
WAITING = """
import json, os, pathlib, sys, time
folder = pathlib.Path({folder!r})
def wait(step):
    (folder / f"{{step}}-{{os.getpid()}}").touch()
    while not (folder / f"may-{{step}}").exists():
        time.sleep(0.01)
for line in sys.stdin:
    asked = json.loads(line)
    wait(asked["op"])
    print(json.dumps({{"ready": True, "commitment": {{}}, "openings": []}}), flush=True)
"""


class Steps:
    """What the solvers of a test have reached and may do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.program = WAITING.format(folder=str(folder))

    def allow(self, step: str) -> None:
        """Let every solver take a step."""
        (self.folder / f"may-{step}").touch()

    def forbid(self, step: str) -> None:
        """Let no further solver take it."""
        (self.folder / f"may-{step}").unlink(missing_ok=True)

    def count(self, step: str) -> int:
        """Return how many have reached it."""
        return len(list(self.folder.glob(f"{step}-*")))

    def await_count(self, step: str, count: int) -> None:
        """Wait until so many have reached it."""
        wait_until(lambda: self.count(step) >= count, SECONDS, f"{count} solvers do not reach {step}")


@pytest.fixture(name="steps")
def new_steps(tmp_path: Path) -> Steps:
    return Steps(tmp_path / "steps")


@pytest.fixture(name="threads")
def client_threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(20) as threads:
        yield threads


def prepare(miner: ProvingMiner, number: int, device: str = "cpu", who: Identity = VALIDATOR) -> PrepareAnswer:
    sizes = PowSizes(shares=16, difficulty=1, slot=0)
    request = PrepareRequest(kind="pow", sizes=sizes, challenge_id=f"{number:032x}", device=device)
    return miner.client(who).prepare(request, deadline_seconds=SECONDS)


def start(
    miner: ProvingMiner, number: int, who: Identity = VALIDATOR, *, device: str = "cpu", work_ms: int = 1000
) -> CommitAnswer:
    request = StartRequest(challenge_id=f"{number:032x}", epoch=1, beacon="0" * 64, nonce="1" * 64)
    work = OrderedWork(device, "pow", work_ms, SystemClock().wall_unix_ms())
    return miner.client(who).start(request, work, deadline_seconds=SECONDS).answer


def refusal(work: Callable[[], object]) -> RequestRejected:
    with pytest.raises(RequestRejected) as caught:
        work()
    return caught.value


def state_of(folder: Path, number: int) -> str:
    with ValidationTracker(folder / "validations.sqlite") as tracker:
        found = tracker.find(f"{number:032x}")
    assert found is not None
    return found.state


def test_next_challenge_of_the_same_validator_takes_the_place_of_its_earlier_one(tmp_path: Path, steps: Steps) -> None:
    for step in ("prepare", "solve"):
        steps.allow(step)
    with proving_miner(tmp_path, program=steps.program) as miner:
        prepare(miner, 1)
        prepare(miner, 2)
        assert refusal(lambda: start(miner, 1)).code is ErrorCode.NOT_FOUND
        assert start(miner, 2).commitment.signer == MINER.public_key
    assert state_of(tmp_path, 1).startswith("failed: superseded")
    assert state_of(tmp_path, 2) == "committed"


def test_solver_at_work_is_killed_when_its_validator_begins_again(
    tmp_path: Path, steps: Steps, threads: ThreadPoolExecutor
) -> None:
    """And whoever waits for it hears why, while the next one goes on."""
    steps.allow("prepare")
    clock = ManualClock()
    with proving_miner(tmp_path, program=steps.program, clock=clock) as miner:
        prepare(miner, 1)
        first = threads.submit(start, miner, 1)
        steps.await_count("solve", 1)
        clock.advance(7)
        prepare(miner, 2)
        assert refusal(first.result).code is ErrorCode.CONFLICT
        steps.allow("solve")
        assert start(miner, 2).commitment.kind == "commitment"
    with ValidationTracker(tmp_path / "validations.sqlite") as tracker:
        assert sorted(work.work_ms for work in tracker.work_since("cpu", 0)) == [0, 7000]


def test_another_validator_is_shown_the_order_that_has_the_device(tmp_path: Path, steps: Steps) -> None:
    steps.allow("prepare")
    with proving_miner(tmp_path, program=steps.program) as miner:
        prepare(miner, 1)
        answer = prepare(miner, 2, who=OTHER_VALIDATOR)
        assert answer.status == "occupied"
        assert answer.excuse is not None
        (order,) = answer.excuse.orders
        assert (order.signer, order.body["challenge_id"]) == (VALIDATOR.public_key, f"{1:032x}")
        assert refusal(lambda: start(miner, 1, OTHER_VALIDATOR)).code is ErrorCode.NOT_FOUND
        assert steps.count("prepare") == 1


def test_order_that_nobody_would_believe_is_not_shown(tmp_path: Path, steps: Steps) -> None:
    """The device proves for somebody who is no validator of the ledger."""
    steps.allow("prepare")
    with proving_miner(tmp_path, program=steps.program, validators={OTHER_VALIDATOR.public_key}) as miner:
        prepare(miner, 1)
        refused = refusal(lambda: prepare(miner, 2, who=OTHER_VALIDATOR))
        assert (refused.status, refused.code) == (429, ErrorCode.TOO_MANY_REQUESTS)


def prepare_at(miner: ProvingMiner, number: int, who: Identity, ordered_unix_ms: int) -> PrepareAnswer:
    """Ask with an order of another moment."""
    sizes = PowSizes(shares=16, difficulty=1, slot=0)
    request = PrepareRequest(kind="pow", sizes=sizes, challenge_id=f"{number:032x}", device="cpu")
    return miner.client(who).prepare(request, deadline_seconds=SECONDS, ordered_unix_ms=ordered_unix_ms)


@pytest.mark.parametrize("earlier_ms", [1, -1])
def test_of_two_that_get_ready_the_earlier_order_has_the_device(
    tmp_path: Path, steps: Steps, threads: ThreadPoolExecutor, earlier_ms: int
) -> None:
    """Whoever came first: the later one is shown the earlier order, and never the other way round."""
    now_unix_ms = SystemClock().wall_unix_ms()
    with proving_miner(tmp_path, program=steps.program) as miner:
        first = threads.submit(prepare_at, miner, 1, VALIDATOR, now_unix_ms)
        steps.await_count("prepare", 1)
        second = threads.submit(prepare_at, miner, 2, OTHER_VALIDATOR, now_unix_ms - earlier_ms)
        if earlier_ms > 0:
            steps.await_count("prepare", 2)
        steps.allow("prepare")
        answers = {VALIDATOR.public_key: first.result(SECONDS), OTHER_VALIDATOR.public_key: second.result(SECONDS)}
        proves = [key for key, answer in answers.items() if answer.status == "success"]
        assert proves == [(OTHER_VALIDATOR if earlier_ms > 0 else VALIDATOR).public_key]
        (excuse,) = (answer.excuse for answer in answers.values() if answer.status == "occupied")
        assert excuse is not None
        assert [order.signer for order in excuse.orders] == proves


def test_stranger_to_the_ledger_displaces_nobody_and_is_displaced(
    tmp_path: Path, steps: Steps, threads: ThreadPoolExecutor
) -> None:
    """Its order would excuse from nothing, whatever its stamp says."""
    now_unix_ms = SystemClock().wall_unix_ms()
    with proving_miner(tmp_path, program=steps.program, validators={VALIDATOR.public_key}) as miner:
        stranger = threads.submit(prepare_at, miner, 1, OTHER_VALIDATOR, now_unix_ms - 1)
        steps.await_count("prepare", 1)
        known = threads.submit(prepare_at, miner, 2, VALIDATOR, now_unix_ms)
        steps.await_count("prepare", 2)
        again = refusal(lambda: prepare_at(miner, 3, OTHER_VALIDATOR, now_unix_ms - 1))
        steps.allow("prepare")
        assert known.result(SECONDS).status == "success"
        assert again.status == 429
        # The order that took its place is later than its own, which excuses from nothing.
        assert refusal(stranger.result).status == 429


def test_device_that_has_begun_to_wait_is_taken_by_no_earlier_order(tmp_path: Path, steps: Steps) -> None:
    steps.allow("prepare")
    now_unix_ms = SystemClock().wall_unix_ms()
    with proving_miner(tmp_path, program=steps.program) as miner:
        prepare_at(miner, 1, VALIDATOR, now_unix_ms)
        assert refusal(lambda: prepare_at(miner, 2, OTHER_VALIDATOR, now_unix_ms - 1)).status == 429
        assert prepare_at(miner, 3, OTHER_VALIDATOR, now_unix_ms + 1).status == "occupied"


def test_challenge_is_started_once_and_not_before_it_is_ready(
    tmp_path: Path, steps: Steps, threads: ThreadPoolExecutor
) -> None:
    with proving_miner(tmp_path, program=steps.program) as miner:
        preparing = threads.submit(prepare, miner, 1)
        steps.await_count("prepare", 1)
        assert refusal(lambda: start(miner, 1)).code is ErrorCode.CONFLICT
        steps.allow("prepare")
        preparing.result(SECONDS)
        solving = threads.submit(start, miner, 1)
        steps.await_count("solve", 1)
        assert refusal(lambda: start(miner, 1)).code is ErrorCode.CONFLICT
        steps.allow("solve")
        solving.result(SECONDS)
        assert steps.count("solve") == 1


def test_sixteen_devices_prove_at_once_and_the_miner_still_answers(
    tmp_path: Path, steps: Steps, threads: ThreadPoolExecutor
) -> None:
    """None of them can commit before all are at work; a ping gets through meanwhile."""
    steps.allow("prepare")
    devices = (*GPUS, CPU)
    with proving_miner(tmp_path, program=steps.program, devices=devices) as miner:
        for prepared in [threads.submit(prepare, miner, index, card.uuid) for index, card in enumerate(devices)]:
            assert prepared.result(SECONDS).status == "success"
        assert miner.handler.proving() == {card.uuid for card in devices}
        proofs: list[Future[CommitAnswer]] = [threads.submit(start, miner, index) for index in range(16)]
        steps.await_count("solve", 16)
        assert miner.client().ping(timeout_seconds=5) > 0
        steps.allow("solve")
        assert len({proof.result(SECONDS).commitment.signature for proof in proofs}) == 16
        assert miner.handler.proving() == frozenset()


def prove_for(
    miner: ProvingMiner, steps: Steps, threads: ThreadPoolExecutor, number: int, who: Identity, work_ms: int
) -> None:
    """Let the processor work for so long, by its own clock, on what announced as much."""
    clock = miner.clock
    assert isinstance(clock, ManualClock)
    steps.forbid("solve")
    before = steps.count("solve")
    assert prepare(miner, number, who=who).status == "success"
    proof = threads.submit(start, miner, number, who, work_ms=work_ms)
    steps.await_count("solve", before + 1)
    clock.advance(work_ms / 1000)
    steps.allow("solve")
    proof.result(SECONDS)


def test_share_of_an_hour_is_declined_by_the_orders_that_filled_it_and_survives_a_restart(
    tmp_path: Path, steps: Steps, threads: ThreadPoolExecutor
) -> None:
    clock = ManualClock()
    steps.allow("prepare")
    devices = (CPU, GPUS[0])
    with proving_miner(tmp_path, program=steps.program, devices=devices, duty_percent=2, clock=clock) as miner:
        prove_for(miner, steps, threads, 1, VALIDATOR, 71_999)
        prove_for(miner, steps, threads, 2, VALIDATOR, 1)
        answer = prepare(miner, 3, who=OTHER_VALIDATOR)
        assert (answer.status, answer.excuse is not None and len(answer.excuse.orders)) == ("occupied", 2)
        assert prepare(miner, 4, GPUS[0].uuid).status == "success"
    with proving_miner(tmp_path, program=steps.program, devices=devices, duty_percent=2, clock=clock) as miner:
        assert prepare(miner, 5, who=OTHER_VALIDATOR) == answer
        # Whose orders filled it has had its share, and they excuse from nobody's own.
        refused = refusal(lambda: prepare(miner, 6))
        assert (refused.status, refused.code, refused.field) == (429, ErrorCode.DUTY_CAP, "device")
        assert refused.retry_after_seconds == 3600 - 72 + 1
        assert str(refused.retry_after_seconds) in refused.hint
        clock.advance(3600 - 72)
        assert refusal(lambda: prepare(miner, 7)).retry_after_seconds == 1
        clock.advance(0.001)
        assert prepare(miner, 8).status == "success"


def test_share_that_cannot_be_shown_is_no_reason_to_decline(
    tmp_path: Path, steps: Steps, threads: ThreadPoolExecutor
) -> None:
    """Two validators filled it together: each would see less than the share, and call the decline by its name."""
    clock = ManualClock()
    steps.allow("prepare")
    with proving_miner(tmp_path, program=steps.program, duty_percent=2, clock=clock) as miner:
        prove_for(miner, steps, threads, 1, VALIDATOR, 40_000)
        prove_for(miner, steps, threads, 2, OTHER_VALIDATOR, 40_000)
        assert prepare(miner, 3).status == "success"
    with proving_miner(tmp_path, program=steps.program, duty_percent=2, clock=clock) as miner:
        prove_for(miner, steps, threads, 4, OTHER_VALIDATOR, 32_000)
        assert prepare(miner, 5).status == "occupied"
        assert refusal(lambda: prepare(miner, 6, who=OTHER_VALIDATOR)).code is ErrorCode.DUTY_CAP


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"miner_key": VALIDATOR.public_key}, ErrorCode.INVALID_FIELD),
        ({"device": "GPU-1"}, ErrorCode.INVALID_FIELD),
        ({"challenge_id": "0" * 32}, ErrorCode.INVALID_FIELD),
        ({"step": "start"}, ErrorCode.INVALID_FIELD),
        ({"identity": OTHER_VALIDATOR}, ErrorCode.INVALID_FIELD),
        (None, ErrorCode.INVALID_FIELD),
    ],
)
def test_order_of_another_challenge_is_refused_by_name_and_nothing_is_prepared(
    tmp_path: Path, changes: dict[str, object] | None, code: ErrorCode
) -> None:
    right: dict[str, object] = {
        "identity": VALIDATOR,
        "miner_key": MINER.public_key,
        "device": "cpu",
        "kind": "pow",
        "challenge_id": f"{1:032x}",
        "step": "prepare",
        "ordered_unix_ms": 1,
    }
    order = None if changes is None else sign_order(**{**right, **changes})  # type: ignore[arg-type]  # by name
    sizes = PowSizes(shares=16, difficulty=1, slot=0)
    request = PrepareRequest(kind="pow", sizes=sizes, challenge_id=f"{1:032x}", device="cpu", order=order)
    with proving_miner(tmp_path) as miner:
        refused = refusal(lambda: miner.handler.prepare(request, VALIDATOR.public_key))
        assert (refused.status, refused.code, refused.field) == (422, code, "order")
        assert miner.handler.proving() == frozenset()


def test_order_with_a_broken_signature_is_refused(tmp_path: Path) -> None:
    with proving_miner(tmp_path) as miner:
        order = sign_order(
            VALIDATOR, miner_key=MINER.public_key, device="cpu", kind="pow", challenge_id=f"{1:032x}", step="prepare",
            ordered_unix_ms=1,
        )  # fmt: skip
        broken = order.model_copy(update={"body": {**order.body, "ordered_unix_ms": 2}})
        sizes = PowSizes(shares=16, difficulty=1, slot=0)
        request = PrepareRequest(kind="pow", sizes=sizes, challenge_id=f"{1:032x}", device="cpu", order=broken)
        refused = refusal(lambda: miner.handler.prepare(request, VALIDATOR.public_key))
        assert (refused.code, refused.field) == (ErrorCode.BAD_SIGNATURE, "order")


def rent(miner: ProvingMiner, device: str = "GPU-0", *, renter: Identity = RENTER, seconds: int = 600) -> Lease:
    """Put an active lease of a device into the journal."""
    active = lease(
        len(miner.journal.all()),
        devices=(device,),
        state=LeaseState.ACTIVE,
        container_id=f"{len(miner.journal.all()):064x}",
        renter_key=renter.public_key,
        created_unix_ms=SystemClock().wall_unix_ms() - 60_000,
        expiry=Expiry.after(SystemClock(), seconds),
    )
    return miner.journal.reserve(lambda _leases: active)


def signed_by(miner: ProvingMiner, leased: Lease, renter: Identity = RENTER) -> None:
    """Countersign as the renter does."""
    receipt = ReceiptWriter(MINER, "127.0.0.1").sign(leased)
    miner.rented.countersign(leased, countersign(renter, receipt, 0))


def test_rented_gpu_shows_its_lease_only_once_the_renter_has_signed(tmp_path: Path, steps: Steps) -> None:
    with proving_miner(tmp_path, program=steps.program, devices=GPUS[:1]) as miner:
        leased = rent(miner)
        assert refusal(lambda: prepare(miner, 1, "GPU-0")).code is ErrorCode.TOO_MANY_REQUESTS
        signed_by(miner, leased)
        answer = prepare(miner, 2, "GPU-0")
        assert answer.status == "rented"
        assert answer.excuse is not None
        (receipt,) = check_rented(
            answer.excuse.leases,
            miner_key=MINER.public_key,
            owner_key=OWNER.public_key,
            device="GPU-0",
            claimed_cpu_milli=1,
            now_unix_ms=SystemClock().wall_unix_ms(),
        )
        assert receipt.lease_id == leased.lease_id
        assert miner.handler.proving() == frozenset()
    assert steps.count("prepare") == 0
    with proving_miner(tmp_path, program=steps.program, devices=GPUS[:1]) as miner:
        assert prepare(miner, 3, "GPU-0") == answer


@pytest.mark.parametrize("state", [LeaseState.CREATING, LeaseState.DELETING])
def test_lease_that_is_not_active_is_busy_and_not_rented(tmp_path: Path, steps: Steps, state: LeaseState) -> None:
    with proving_miner(tmp_path, program=steps.program, devices=GPUS[:1]) as miner:
        leased = rent(miner)
        signed_by(miner, leased)
        miner.journal.update(leased, state=state)
        assert refusal(lambda: prepare(miner, 1, "GPU-0")).code is ErrorCode.TOO_MANY_REQUESTS


def test_lease_that_the_validator_would_not_believe_is_not_shown(tmp_path: Path, steps: Steps) -> None:
    """Its time is over, and nobody has ended it yet."""
    clock = ManualClock()
    with proving_miner(tmp_path, program=steps.program, devices=GPUS[:1], clock=clock) as miner:
        signed_by(miner, rent(miner, seconds=60))
        assert prepare(miner, 1, "GPU-0").status == "rented"
        clock.advance(120)
        refused = refusal(lambda: prepare(miner, 2, "GPU-0"))
        assert refused.code is ErrorCode.TOO_MANY_REQUESTS
        assert "does not last now" in refused.message


def test_processor_is_never_rented(tmp_path: Path, steps: Steps) -> None:
    steps.allow("prepare")
    with proving_miner(tmp_path, program=steps.program) as miner:
        signed_by(miner, rent(miner, "cpu"))
        assert prepare(miner, 1).status == "success"


def pick(miner: ProvingMiner, leases: list[Lease], device: str = "GPU-0") -> Lease:
    """Decide on a reservation as `allocate` does."""
    picked = STOCK.pick_devices((device,), leases, miner.handler.proving())
    return lease(9, devices=picked, limits=LIMITS, ssh_port=STOCK.pick_port(leases, ()))


def test_gpu_that_proves_is_not_handed_out(tmp_path: Path, steps: Steps) -> None:
    steps.allow("prepare")
    with proving_miner(tmp_path, program=steps.program, devices=GPUS[:2]) as miner:
        prepare(miner, 1, "GPU-0")
        refused = refusal(lambda: miner.journal.reserve(lambda leases: pick(miner, leases)))
        assert (refused.code, refused.field) == (ErrorCode.NO_CAPACITY, "devices")
        assert "proving" in refused.message
        assert miner.journal.all() == []
        assert miner.journal.reserve(lambda leases: pick(miner, leases, "GPU-1")).devices == ("GPU-1",)


def test_proof_that_comes_while_a_gpu_is_being_handed_out_finds_it_taken(
    tmp_path: Path, steps: Steps, threads: ThreadPoolExecutor
) -> None:
    """The reservation has looked and not written yet; the proof has said what it wants and not looked yet."""
    with proving_miner(tmp_path, program=steps.program, devices=GPUS[:1]) as miner:
        asked: list[Future[PrepareAnswer]] = []

        def decide(leases: list[Lease]) -> Lease:
            reserved = pick(miner, leases)
            asked.append(threads.submit(prepare, miner, 1, "GPU-0"))
            wait_until(lambda: "GPU-0" in miner.handler.proving(), SECONDS, "the proof does not come")
            return reserved

        miner.journal.reserve(decide)
        assert refusal(asked[0].result).code is ErrorCode.TOO_MANY_REQUESTS
        assert miner.handler.proving() == frozenset()


def test_solver_that_talks_nonsense_leaves_no_device_taken(tmp_path: Path) -> None:
    """A defect of the solver's is answered as one, and the next challenge finds the device free."""
    with proving_miner(tmp_path, program="print('nonsense', flush=True); input()") as miner:
        for number, who in enumerate((VALIDATOR, OTHER_VALIDATOR)):
            with pytest.raises(Unavailable, match="500"):
                prepare(miner, number, who=who)
            assert miner.handler.proving() == frozenset()


def test_solver_dies_with_the_processes_it_started(tmp_path: Path, steps: Steps) -> None:
    program = f"""
import json, pathlib, subprocess, sys
child = subprocess.Popen(["sleep", "600"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
for line in sys.stdin:
    pathlib.Path({str(steps.folder)!r}, f"child-{{child.pid}}").touch()
    print(json.dumps({{"ready": True}}), flush=True)
"""
    with proving_miner(tmp_path, program=program) as miner:
        prepare(miner, 1)
        child = int(next(steps.folder.glob("child-*")).name.partition("-")[2])
        miner.handler.close()

        def is_gone() -> bool:
            status = Path(f"/proc/{child}/stat")
            return not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"

        wait_until(is_gone, SECONDS, "the solver's child lives on")


# Ends a proof as a card does that has no room.
NO_ROOM = """
import contextlib, json, sys
from challenges.gpu_faults import sort_fault
for line in sys.stdin:
    said = "CUDA out of memory. Tried to allocate 2.00 GiB."
    fault, to_do = sort_fault(said)
    print(json.dumps({"error": f"Unavailable: cuda:0: {fault}: {said}: {to_do}"}), flush=True)
"""


def test_a_fault_of_the_gpu_reaches_validator_operator_and_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with proving_miner(tmp_path, program=NO_ROOM, devices=GPUS[:1]) as miner:
        with pytest.raises(Unavailable, match="GPU_NO_ROOM: CUDA out of memory") as refused:
            prepare(miner, 1, GPUS[0].uuid)
        assert "nvidia-smi" in str(refused.value)
        # Nothing is left: the next one is told the same, and not that the device is taken.
        with pytest.raises(Unavailable, match="GPU_NO_ROOM"):
            prepare(miner, 2, GPUS[0].uuid)
    assert "GPU_NO_ROOM" in state_of(tmp_path, 1)
    assert [vars(record).get("fault") for record in caplog.records if record.message == "proof failed"] == [
        "GPU_NO_ROOM",
        "GPU_NO_ROOM",
    ]
