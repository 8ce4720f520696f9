"""The embedded ledger: what it takes, what it refuses and why, what a reader sees when, and what survives."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger.embedded import EmbeddedLedger
from ledger.fsck import fsck
from ledger.views import Concern
from polarise.block import open_block
from polarise.errors import ConfigError, ErrorCode, LogDamaged, RequestRejected, Unavailable
from polarise.signing import Identity, Purpose
from polarise.transaction import SetValue, SignedTransaction, sign_transaction
from tests.unit.ledger.small_market import (
    CREATED_UNIX_MS,
    GENESIS,
    LOG_KEY,
    MINER,
    OTHER_VALIDATOR,
    VALIDATOR,
    ManualClock,
    Sender,
    genesis,
    open_ledger,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def ledger(path: Path, clock: ManualClock) -> Iterator[EmbeddedLedger]:
    with open_ledger(path, clock) as made:
        yield made
    fsck(path, GENESIS)


def refused(ledger: EmbeddedLedger, transaction: SignedTransaction) -> RequestRejected:
    size, state = ledger.log.size, ledger.last_block.block.size
    with pytest.raises(RequestRejected) as err:
        ledger.submit(transaction.raw)
    assert (ledger.log.size, ledger.last_block.block.size) == (size, state), "a refusal changes nothing"
    return err.value


def value_on(ledger: EmbeddedLedger, path: str, concern: Concern | None = None) -> bytes | None:
    stored = ledger.views.get(path, concern)
    return None if stored is None else stored.value


def test_a_transaction_is_taken_covered_and_proved(ledger: EmbeddedLedger) -> None:
    sent = Sender(MINER).register({"price": 5})
    taken = ledger.submit(sent.raw)
    assert (taken.hash, taken.index, taken.depth.height) == (sent.hash, 0, None)
    with pytest.raises(Unavailable, match="not in a block yet"):
        ledger.prove(0)
    block = ledger.make_block()
    proof = ledger.prove(taken.index)
    assert proof.verify(GENESIS.log).checkpoint.size == 1
    assert proof.extra == sent.raw
    assert ledger.submit(sent.raw).depth.height == block.block.height == 1


def test_block_zero_is_the_genesis(ledger: EmbeddedLedger) -> None:
    (note,) = ledger.blocks(0, 1)
    block = open_block(note, GENESIS.log).block
    assert (block.height, block.size, block.time_unix_ms) == (0, 0, CREATED_UNIX_MS)
    assert GENESIS.hash.encode() in (value_on(ledger, "/genesis") or b"")
    assert value_on(ledger, f"/stakes/{VALIDATOR.public_key}") == b'{"stake":10}'


def test_blocks_have_no_gaps_and_their_times_grow_even_when_the_clock_is_set_back(
    ledger: EmbeddedLedger, clock: ManualClock
) -> None:
    first = ledger.make_block()
    clock.now_unix_ms -= 3_600_000
    second = ledger.make_block()
    assert second.block.height == first.block.height + 1
    assert second.block.time_unix_ms == first.block.time_unix_ms + 1
    assert second.block.prev == first.hash
    assert second.block.size == 0, "an empty block is made, too"


def test_a_block_is_not_earlier_than_its_transactions_could_be(ledger: EmbeddedLedger, clock: ManualClock) -> None:
    ledger.make_block()
    sender = Sender(MINER, time_unix_ms=clock.now_unix_ms + 3_000_000)
    clock.now_unix_ms += 3_000_000
    ledger.submit(sender.register().raw)
    clock.now_unix_ms -= 3_000_000
    assert ledger.make_block().block.time_unix_ms == sender.time_unix_ms - 60_000


def test_the_same_bytes_again_give_the_same_answer(ledger: EmbeddedLedger) -> None:
    sender = Sender(MINER)
    first, second = sender.register(1), sender.register(2)
    for _ in range(3):
        assert ledger.submit(first.raw).index == 0
    assert ledger.submit(second.raw).index == 1
    assert ledger.submit(first.raw).index == 0
    assert ledger.log.size == 2


def test_nonces_stand_in_order(ledger: EmbeddedLedger) -> None:
    sender = Sender(MINER)
    zero, one, two = (sender.register(number) for number in range(3))
    assert refused(ledger, one).code is ErrorCode.NONCE_GAP
    ledger.submit(zero.raw)
    assert refused(ledger, two).code is ErrorCode.NONCE_GAP
    sender.nonce = 0
    replay = refused(ledger, sender.register("another"))
    assert replay.code is ErrorCode.NONCE_REUSED
    assert "the next one is 1" in replay.message
    assert ledger.submit(Sender(VALIDATOR).register().raw).index == 1, "each sender has an order of its own"


def test_a_refused_transaction_uses_no_nonce(ledger: EmbeddedLedger) -> None:
    sender = Sender(MINER)
    assert refused(ledger, sender.sign("/nowhere", 1)).code is ErrorCode.RULE_REFUSED
    sender.nonce = 0
    ledger.submit(sender.register().raw)


def test_another_net_is_refused(ledger: EmbeddedLedger) -> None:
    """Also one of the same name whose genesis differs in a millisecond."""
    for other in (genesis(name="other"), genesis(created_unix_ms=CREATED_UNIX_MS + 1)):
        assert refused(ledger, Sender(MINER, net=other.net).register()).code is ErrorCode.WRONG_NET


def test_a_transaction_from_the_future_is_refused(ledger: EmbeddedLedger, clock: ManualClock) -> None:
    edge = clock.now_unix_ms + 60_000
    late = refused(ledger, Sender(MINER, time_unix_ms=edge + 1).register())
    assert late.code is ErrorCode.CLOCK_SKEW
    ledger.submit(Sender(MINER, time_unix_ms=edge).register().raw)


def test_forged_signatures_and_certificates_are_refused(ledger: EmbeddedLedger) -> None:
    op = SetValue(path=f"/registry/{MINER.public_key}", value=1)

    def signed(by: Identity, purpose: Purpose) -> SignedTransaction:
        return sign_transaction(MINER, op, net=GENESIS.net, nonce=0, time_unix_ms=0, subkey=by.subkey(purpose))

    for forged in (signed(VALIDATOR, Purpose.LEDGER), signed(MINER, Purpose.STATEMENT), signed(MINER, Purpose.LOG)):
        assert refused(ledger, forged).code is ErrorCode.BAD_SIGNATURE
    sent = Sender(MINER).register()
    place = sent.raw.rindex(b'"signature":"') + 13
    flipped = sent.raw[:place] + (b"0" if sent.raw[place : place + 1] != b"0" else b"1") + sent.raw[place + 1 :]
    with pytest.raises(RequestRejected) as err:
        ledger.submit(flipped)
    assert err.value.code is ErrorCode.BAD_SIGNATURE


def test_an_older_subkey_is_refused_once_a_newer_one_was_used(ledger: EmbeddedLedger) -> None:
    op = SetValue(path=f"/registry/{MINER.public_key}", value=1)

    def signed(nonce: int, counter: int) -> SignedTransaction:
        subkey = MINER.subkey(Purpose.LEDGER, counter)
        return sign_transaction(MINER, op, net=GENESIS.net, nonce=nonce, time_unix_ms=0, subkey=subkey)

    ledger.submit(signed(0, 0).raw)
    ledger.submit(signed(1, 2).raw)
    refusal = refused(ledger, signed(2, 1))
    assert refusal.code is ErrorCode.KEY_REFUSED
    assert "key rotate" in refusal.hint
    ledger.submit(signed(2, 2).raw)


def test_rules_say_who_where_and_in_which_order(ledger: EmbeddedLedger) -> None:
    miner, validator, other = Sender(MINER), Sender(VALIDATOR), Sender(OTHER_VALIDATOR)

    def take(transaction: SignedTransaction) -> None:
        ledger.submit(transaction.raw)

    def refuse(sender: Sender, path: str, code: ErrorCode, value: object = 1) -> None:
        assert refused(ledger, sender.sign(path, value)).code is code
        sender.nonce -= 1

    v, m = VALIDATOR.public_key, MINER.public_key
    refuse(validator, f"/registry/{m}", ErrorCode.RULE_REFUSED)
    refuse(miner, f"/epochs/{m}/0000000001/commit", ErrorCode.RULE_REFUSED)
    refuse(other, f"/epochs/{v}/0000000001/commit", ErrorCode.RULE_REFUSED)
    refuse(miner, f"/accounts/{m}", ErrorCode.RULE_REFUSED)
    refuse(miner, f"/stakes/{m}", ErrorCode.RULE_REFUSED)
    refuse(miner, f"/roots/{m}/system", ErrorCode.RULE_REFUSED)
    refuse(validator, f"/epochs/{v}/1/commit", ErrorCode.RULE_REFUSED)
    refuse(validator, f"/epochs/{v}/0000000005/record", ErrorCode.CONFLICT)
    take(validator.commit(5))
    refuse(validator, f"/epochs/{v}/0000000005/commit", ErrorCode.CONFLICT)
    refuse(validator, f"/epochs/{v}/0000000004/commit", ErrorCode.CONFLICT)
    refuse(validator, f"/epochs/{v}/0000000005/commit", ErrorCode.CONFLICT, None)
    take(validator.record(5))
    refuse(validator, f"/epochs/{v}/0000000005/record", ErrorCode.CONFLICT)
    take(validator.sign(f"/scores/{v}/0000000005/{m}", {"score_ppm": 1}))
    refuse(validator, f"/scores/{v}/0000000006/{m}", ErrorCode.CONFLICT)
    take(validator.commit(7))
    take(other.commit(1))
    take(miner.register())
    take(miner.sign(f"/roots/{m}/system", "ab"))
    take(miner.sign(f"/roots/{m}/system", "cd"))
    take(miner.sign(f"/registry/{m}", None))
    assert value_on(ledger, f"/registry/{m}", Concern.PENDING) is None
    refuse(miner, f"/roots/{m}/system", ErrorCode.RULE_REFUSED)


def test_pages_of_scores_come_in_order_once_and_before_the_record(ledger: EmbeddedLedger) -> None:
    validator, other = Sender(VALIDATOR), Sender(OTHER_VALIDATOR)
    folder = f"/scores/{VALIDATOR.public_key}/0000000005"

    def take(path: str) -> None:
        ledger.submit(validator.sign(path, 1).raw)

    def refuse(
        path: str, code: ErrorCode = ErrorCode.CONFLICT, *, value: object = 1, sender: Sender = validator
    ) -> None:
        assert refused(ledger, sender.sign(path, value)).code is code
        sender.nonce -= 1

    refuse(f"{folder}/00")
    ledger.submit(validator.commit(5).raw)
    refuse(f"{folder}/01")
    refuse(f"{folder}/00", ErrorCode.RULE_REFUSED, sender=other)
    take(f"{folder}/00")
    refuse(f"{folder}/00")
    refuse(f"{folder}/00", value=None)
    refuse(f"{folder}/02")
    for page in range(1, 11):
        take(f"{folder}/{page:02d}")
    refuse(f"{folder}/10")
    refuse(f"{folder}/12")
    for name in ("11a", "1", "011", "-1"):
        refuse(f"{folder}/{name}", ErrorCode.RULE_REFUSED)
    ledger.submit(validator.record(5).raw)
    refuse(f"{folder}/11")


def test_a_reader_sees_what_its_concern_allows(path: Path) -> None:
    of = genesis(final_confirmations=3)
    sender = Sender(MINER, net=of.net)
    here = f"/registry/{MINER.public_key}"
    with open_ledger(path, of=of) as ledger:
        ledger.submit(sender.register("old").raw)
        for _ in range(3):
            ledger.make_block()
        ledger.submit(sender.sign(here, "new", read_concern=2).raw)
        seen = []
        for _ in range(4):
            seen.append([value_on(ledger, here, concern) for concern in (None, *Concern)])
            ledger.make_block()
    old, new = b'"old"', b'"new"'
    assert seen == [
        [old, new, old, old],
        [old, new, new, old],
        [new, new, new, old],
        [new, new, new, new],
    ]
    fsck(path, of)


def test_names_below_a_path_come_in_order_and_in_pages(ledger: EmbeddedLedger) -> None:
    validator = Sender(VALIDATOR)
    for epoch in (1, 2, 3):
        ledger.submit(validator.commit(epoch).raw)
    folder = f"/epochs/{VALIDATOR.public_key}"
    names = [name for name, _ in ledger.views.children(folder)]
    assert names == ["0000000001", "0000000002", "0000000003"]
    assert [name for name, _ in ledger.views.children(folder, limit=1, after="0000000001")] == ["0000000002"]
    ((name, stored),) = ledger.views.children(f"{folder}/0000000001", Concern.PENDING)
    assert stored is not None
    assert (name, stored.value) == ("commit", b'"c0"')
    assert [name for name, _ in ledger.views.children("")] == ["accounts", "epochs", "genesis", "stakes"]


def test_a_full_block_asks_to_come_back(path: Path) -> None:
    sender = Sender(MINER)
    with open_ledger(path, block_transactions_max=2) as ledger:
        for number in range(2):
            ledger.submit(sender.register(number).raw)
        third = sender.register(3)
        with pytest.raises(Unavailable, match="full"):
            ledger.submit(third.raw)
        ledger.make_block()
        assert ledger.submit(third.raw).index == 2


def test_a_restart_goes_on_where_it_was(path: Path, clock: ManualClock) -> None:
    sender = Sender(MINER)
    with open_ledger(path, clock) as ledger:
        ledger.submit(sender.register(1).raw)
        block = ledger.make_block()
        pending = sender.register(2)
        ledger.submit(pending.raw)
    with open_ledger(path, clock) as ledger:
        assert ledger.last_block.raw == block.raw
        assert ledger.submit(pending.raw).index == 1
        ledger.submit(sender.register(3).raw)
        assert ledger.make_block().block.prev == block.hash
    report = fsck(path, GENESIS)
    assert (report.leaves_count, report.blocks_count, report.pending_count) == (3, 3, 0)


def test_values_that_do_not_give_the_signed_state_are_not_served(path: Path) -> None:
    """An edited value is found when the ledger starts, not by its readers."""
    with open_ledger(path) as ledger:
        ledger.submit(Sender(MINER).register("here").raw)
        height = ledger.make_block().block.height
        ledger.make_block()
    with sqlite3.connect(path) as other:
        other.execute("UPDATE value SET value = CAST('\"hera\"' AS BLOB) WHERE path LIKE '/registry/%'")
    other.close()
    with pytest.raises(LogDamaged, match="state root") as err, open_ledger(path):
        pass
    assert err.value.place == f"block {height}"


def test_another_genesis_or_key_does_not_open_the_file(path: Path) -> None:
    with open_ledger(path):
        pass
    with pytest.raises(ConfigError, match="expected"), open_ledger(path, of=genesis(name="other")):
        pass
    with pytest.raises(ConfigError, match="log key"):
        EmbeddedLedger(path, GENESIS, MINER.subkey(Purpose.LOG).key, ManualClock())
    assert LOG_KEY.public_key == GENESIS.log.public_key


def test_threads_share_one_ledger(ledger: EmbeddedLedger) -> None:
    """Two senders of fifty, each in order, blocks in between; every answer is the leaf it names."""
    senders = [Sender(MINER), Sender(VALIDATOR)]
    answers: list[tuple[int, bytes]] = []
    failures: list[Exception] = []

    def work(sender: Sender) -> None:
        try:
            for number in range(50):
                sent = sender.register(number)
                answers.append((ledger.submit(sent.raw).index, sent.raw))
        except Exception as err:  # noqa: BLE001  shown by the test, not by the thread
            failures.append(err)

    threads = [threading.Thread(target=work, args=(sender,)) for sender in senders]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        ledger.make_block()
    for thread in threads:
        thread.join()
    assert failures == []
    assert sorted(index for index, _ in answers) == list(range(100))
    assert all(ledger.leaf(index) == raw for index, raw in answers)


def test_two_threads_with_one_nonce_get_one_yes_and_one_no(ledger: EmbeddedLedger) -> None:
    start = threading.Barrier(2)
    outcomes: list[str] = []

    def work(value: int) -> None:
        sent = Sender(MINER).register(value)
        start.wait()
        try:
            ledger.submit(sent.raw)
            outcomes.append("taken")
        except RequestRejected as err:
            outcomes.append(str(err.code))

    threads = [threading.Thread(target=work, args=(value,)) for value in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["NONCE_REUSED", "taken"]


def test_a_commit_that_fails_leaves_ledger_and_memory_as_they_were(
    ledger: EmbeddedLedger,
) -> None:
    """The disk is full in the middle of a batch: nothing was taken, and the next block's state root is right."""
    sender = Sender(MINER)
    ledger.submit(sender.register(1).raw)
    second = sender.register(2)
    with sqlite3.connect(ledger.log.path) as other:
        other.execute(
            "CREATE TRIGGER full BEFORE INSERT ON child WHEN NEW.parent = '' BEGIN SELECT RAISE(FAIL, 'full'); END"
        )
    other.close()
    with pytest.raises(sqlite3.IntegrityError, match="full"):
        ledger.submit(second.raw)
    with sqlite3.connect(ledger.log.path) as other:
        other.execute("DROP TRIGGER full")
    other.close()
    assert ledger.log.size == 1
    ledger.make_block()
    assert ledger.submit(second.raw).index == 1
    ledger.make_block()


def test_blocks_made_at_once_stand_in_one_chain(ledger: EmbeddedLedger) -> None:
    threads = [threading.Thread(target=lambda: [ledger.make_block() for _ in range(20)]) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ledger.last_block.block.height == 60
