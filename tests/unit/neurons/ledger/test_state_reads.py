"""Reading the state over real HTTP, from an honest ledger and from one that lies to its reader."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest

from neurons.base.ledger_post import post
from neurons.base.outbox import Outbox
from neurons.cli import exit_status
from neurons.ledger import state_routes
from neurons.ledger.node import LedgerNode
from neurons.validator.chain import Chain
from polarise.block import Block, open_block
from polarise.block_follower import FileMemory
from polarise.canonical import JsonValue
from polarise.checkpoint import sign_checkpoint
from polarise.errors import AnswerInvalid, LogFork, StateNotProved, Unavailable
from polarise.http_client import HttpClient
from polarise.ledger_client import LedgerClient
from polarise.signing import Identity, SigningKey
from polarise.transaction import SetValue, SignedTransaction
from tests.unit.ledger.small_market import LOG_KEY, MINER, VALIDATOR, Sender
from tests.unit.neurons.ledger.ledger_process import SLOW, running
from tests.unit.neurons.ledger.lying_ledger import Answer, Lie, LyingDoor
from utils.clock import SystemClock

FOLDER = "/registry"
HERE = f"{FOLDER}/{MINER.public_key}"


@dataclass
class Stage:
    """A daemon, a door before it, and a reader who comes through the door and remembers what it saw."""

    node: LedgerNode
    door: LyingDoor
    reader: LedgerClient
    honest: LedgerClient
    memory: Path
    miner: Sender
    validator: Sender

    def take(self, *transactions: SignedTransaction) -> int:
        """Let the ledger take them, and make a block; returns its height."""
        for transaction in transactions:
            self.node.ledger.submit(transaction.raw)
        return self.node.ledger.make_block().block.height

    def lie(self, route: str, lie: Lie) -> None:
        self.door.lies[route] = lie

    def kept(self, kind: str) -> bytes:
        return self.memory.with_name(f"{self.memory.name}.{kind}").read_bytes()

    def chain(self, folder: Path) -> Chain:
        """The validator's own reader of the ledger."""
        outbox = Outbox(folder / "outbox.sqlite", VALIDATOR, self.reader, SystemClock())
        return Chain(self.reader, outbox, VALIDATOR.public_key)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with running(tmp_path / "ledger") as (node, url):
        door = LyingDoor(url)
        with door.running() as shown:
            memory = tmp_path / "seen"
            yield Stage(
                node,
                door,
                LedgerClient(shown, SLOW, memory=FileMemory(memory)),
                LedgerClient(url, SLOW),
                memory,
                Sender(MINER, net=SLOW.net),
                Sender(VALIDATOR, net=SLOW.net),
            )


def without_first(answer: Answer) -> Answer:
    values = cast(list[JsonValue], answer["values"])
    return {**answer, "values": values[1:]}


def test_values_absences_and_subtrees_are_read_with_their_proof(stage: Stage) -> None:
    assert stage.reader.read(HERE).text is None, "nobody has registered"
    assert stage.reader.read_below(FOLDER).texts == {}
    height = stage.take(stage.miner.register({"price": 7}), stage.validator.register("ö"))
    found = stage.reader.read(HERE, at_least=height)
    assert (found.value, found.text, found.block.block.height) == ({"price": 7}, b'{"price":7}', height)
    below = stage.reader.read_below(FOLDER)
    assert dict(below.texts) == {HERE: b'{"price":7}', f"{FOLDER}/{VALIDATOR.public_key}": '"ö"'.encode()}
    assert list(below.texts) == sorted(below.texts)
    assert stage.reader.read_below(HERE).texts == {HERE: b'{"price":7}'}
    assert stage.reader.read(FOLDER).text is None, "a folder without a value of its own"
    assert stage.reader.read("/registry/x/y").text is None
    assert stage.reader.read(f"/stakes/{VALIDATOR.public_key}").value == {"stake": 10}
    stage.take(stage.miner.sign(HERE, None))
    assert stage.reader.read(HERE).text is None
    assert list(stage.reader.read_below(FOLDER).texts) == [f"{FOLDER}/{VALIDATOR.public_key}"]


def test_what_waits_for_a_block_is_not_in_a_state(stage: Stage) -> None:
    stage.take(stage.miner.register("old"))
    stage.node.ledger.submit(stage.miner.register("new").raw)
    stage.node.ledger.submit(stage.validator.register("more").raw)
    assert stage.reader.read(HERE).value == "old"
    assert list(stage.reader.read_below(FOLDER).texts) == [HERE]
    stage.take()
    assert stage.reader.read(HERE).value == "new"


def test_a_thousand_entries_come_in_bounded_pages_of_one_block(stage: Stage) -> None:
    """Blocks are made between the pages, and entries change; the reader sees the one block it began with."""
    senders = [Sender(identity_of(number + 1), net=SLOW.net) for number in range(1000)]
    stage.take(*(sender.register("x" * 1700) for sender in senders))
    sizes: list[int] = []

    def watch(_query: dict[str, str], answer: Answer) -> Answer:
        sizes.append(len(json.dumps(answer)))
        stage.take(senders[len(sizes)].register("changed"))
        return answer

    stage.lie("/state/values", watch)
    below = stage.reader.read_below(FOLDER)
    assert len(below.texts) == 1000
    assert set(below.texts.values()) == {json.dumps("x" * 1700).encode()}
    assert len(sizes) > 6
    assert max(sizes) < 512 * 1024
    assert b'"changed"' in stage.reader.read_below(FOLDER).texts.values()


def test_entries_of_the_greatest_size_fit_an_answer(stage: Stage) -> None:
    """Text that JSON makes three times as long, in the largest transactions."""
    senders = [Sender(identity_of(number + 1), net=SLOW.net) for number in range(12)]
    stage.take(*(sender.register("ö" * 32_000) for sender in senders))
    assert len(stage.reader.read_below(FOLDER).texts) == 12


def test_removed_paths_fill_pages_without_values(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_routes, "PATHS_MAX", 64)
    senders = [Sender(identity_of(number + 1), net=SLOW.net) for number in range(150)]
    stage.take(*(sender.register(1) for sender in senders))
    gone = senders[:-1]
    stage.take(*(sender.sign(f"{FOLDER}/{sender.identity.public_key}", None) for sender in gone))
    pages: list[int] = []

    def watch(_query: dict[str, str], answer: Answer) -> Answer:
        pages.append(len(cast(list[JsonValue], answer["values"])))
        return answer

    stage.lie("/state/values", watch)
    assert list(stage.reader.read_below(FOLDER).texts) == [f"{FOLDER}/{senders[-1].identity.public_key}"]
    assert sorted(pages) == [0, 0, 1]


def test_states_outlive_a_restart_and_end_with_their_number(tmp_path: Path) -> None:
    with running(tmp_path / "ledger") as (node, _url):
        miner = Sender(MINER, net=SLOW.net)
        node.ledger.submit(miner.register("old").raw)
        before = node.ledger.make_block()
        node.ledger.submit(miner.register("new").raw)
        after = node.ledger.make_block()
        node.ledger.submit(miner.register("pending").raw)
    with running(tmp_path / "ledger") as (node, url):
        client = LedgerClient(url, SLOW)
        assert client.read(HERE, before).value == "old"
        assert client.read(HERE, after).value == "new"
        assert client.read(HERE).value == "pending", "a start makes a block"
        for _ in range(node.ledger.states.count_max):
            node.ledger.make_block()
        with pytest.raises(AnswerInvalid, match="not kept any more"):
            client.read(HERE, before)
        assert client.read(HERE).value == "pending"


def test_a_dropped_registry_entry_is_refused_and_kept(stage: Stage, tmp_path: Path) -> None:
    height = stage.take(stage.miner.register("a"), stage.validator.register("b"))
    stage.lie("/state/values", lambda _query, answer: without_first(answer))
    with pytest.raises(StateNotProved, match="/registry") as err:
        stage.reader.read_below(FOLDER)
    assert err.value.path == FOLDER
    assert open_block(stage.kept("unproved-note"), SLOW.log).block.height == height
    assert len(json.loads(stage.kept("unproved-answer"))["values"]) == 1
    with pytest.raises(StateNotProved):
        stage.chain(tmp_path).miners(lambda _name, _cause: None)
    stage.door.lies.clear()
    assert len(stage.reader.read_below(FOLDER).texts) == 2, "an honest answer is taken again"


def test_an_empty_or_invented_registry_is_refused(stage: Stage) -> None:
    stage.take(stage.miner.register("a"))
    nothing = stage.door.ask("/state/values?path=/nothing")
    more = {"path": f"{FOLDER}/{'f' * 64}", "value": "1"}
    lies: list[Lie] = [
        lambda _query, answer: {**answer, "values": []},
        lambda _query, answer: {**nothing, "path": FOLDER},
        lambda _query, answer: {**answer, "values": [*cast(list[JsonValue], answer["values"]), more]},
    ]
    for lie in lies:
        stage.lie("/state/values", lie)
        with pytest.raises(StateNotProved):
            stage.reader.read_below(FOLDER)


def test_an_entry_that_changed_since_is_refused_as_old(stage: Stage) -> None:
    """The whole old answer is under a block older than the one seen; the old value is not in the new state."""
    stage.take(stage.miner.register("old"))
    old = stage.door.ask(f"/state?path={HERE}")
    old_page = stage.door.ask(f"/state/values?path={FOLDER}")
    height = stage.take(stage.miner.register("new"))
    assert stage.reader.checkpoint().block.height == height
    stage.lie("/state", lambda _query, _answer: old)
    stage.lie("/state/values", lambda _query, _answer: old_page)
    for read in (stage.reader.read, stage.reader.read_below):
        with pytest.raises(AnswerInvalid, match=rf"block {height} is known"):
            read(FOLDER if read == stage.reader.read_below else HERE)
    stage.lie("/state", lambda _query, answer: {**answer, "value": old["value"]})
    stage.lie("/state/values", lambda _query, answer: {**answer, "values": old_page["values"]})
    with pytest.raises(StateNotProved):
        stage.reader.read(HERE)
    with pytest.raises(StateNotProved):
        stage.reader.read_below(FOLDER)


def test_a_reader_that_saw_nothing_asks_for_the_height_it_knows(stage: Stage) -> None:
    stage.take(stage.miner.register("old"))
    old = stage.door.ask(f"/state?path={HERE}")
    height = stage.take(stage.miner.register("new"))
    stage.lie("/state", lambda _query, _answer: old)
    with pytest.raises(AnswerInvalid, match=f"block {height} is known"):
        stage.reader.read(HERE, at_least=height)


def test_a_present_path_is_not_absent(stage: Stage) -> None:
    stage.take(stage.miner.register("a"), stage.validator.register("b"))
    absent = stage.door.ask(f"/state?path={FOLDER}/{'0' * 64}")
    folder = stage.door.ask(f"/state?path={FOLDER}")
    lies: list[Lie] = [
        lambda _query, answer: {**answer, "value": None},
        lambda _query, answer: {**answer, "value": None, "children": None},
        lambda _query, answer: {**absent, "path": HERE},
        lambda _query, answer: {**folder, "path": HERE},
        lambda _query, answer: {**answer, "value": None, "children": folder["children"]},
    ]
    for lie in lies:
        stage.lie("/state", lie)
        with pytest.raises(StateNotProved):
            stage.reader.read(HERE)


def test_a_value_of_another_path_is_not_this_ones(stage: Stage) -> None:
    stage.take(stage.miner.register("a"), stage.validator.register("b"))
    other = stage.door.ask(f"/state?path={FOLDER}/{VALIDATOR.public_key}")
    stage.lie("/state", lambda _query, _answer: other)
    with pytest.raises(AnswerInvalid, match="asked for"):
        stage.reader.read(HERE)
    stage.lie("/state", lambda _query, _answer: {**other, "path": HERE})
    with pytest.raises(StateNotProved):
        stage.reader.read(HERE)


def test_an_answer_under_another_block_than_the_one_asked_for_is_refused(stage: Stage) -> None:
    stage.take(stage.miner.register("old"))
    before = stage.reader.checkpoint()
    stage.take(stage.miner.register("new"))
    assert stage.reader.read(HERE, before).value == "old"
    newest = stage.door.ask(f"/state?path={HERE}")
    stage.lie("/state", lambda _query, _answer: newest)
    with pytest.raises(AnswerInvalid, match="asked for"):
        stage.reader.read(HERE, before)


def test_pages_that_go_round_or_leave_the_folder_end(stage: Stage) -> None:
    stage.take(stage.miner.register("a"), stage.validator.register("b"))
    lies: dict[str, Lie] = {
        "leads back": lambda _query, answer: {**answer, "next": f"{FOLDER}/0"},
        "comes after": lambda _query, answer: {
            **answer,
            "values": cast(list[JsonValue], answer["values"])[::-1],
        },
        "does not lie below": lambda _query, answer: {**answer, "values": [{"path": "/genesis", "value": "1"}]},
    }
    for message, lie in lies.items():
        stage.lie("/state/values", lie)
        with pytest.raises(AnswerInvalid, match=message):
            stage.reader.read_below(FOLDER)


def test_a_state_signed_for_one_reader_is_a_fork_and_kept(stage: Stage) -> None:
    """The ledger signs a second block of one height, whose state lacks an entry: both notes convict it."""
    stage.take(stage.miner.register("a"))
    honest = stage.reader.checkpoint()
    empty = stage.door.ask("/state?path=/nothing")
    block = dataclasses.replace(honest.block, state="ab" * 32)
    forged = signed(block)
    stage.lie("/state", lambda _query, _answer: {**empty, "path": HERE, "note": forged})
    with pytest.raises(LogFork):
        stage.reader.read(HERE)
    states = {open_block(stage.kept(f"fork-{number}"), SLOW.log).block.state for number in (1, 2)}
    assert states == {honest.block.state, "ab" * 32}


def test_a_block_of_another_key_proves_nothing(stage: Stage) -> None:
    stage.take(stage.miner.register("a"))
    forged = signed(stage.honest.checkpoint().block, SigningKey(b"z" * 32))
    stage.lie("/state", lambda _query, answer: {**answer, "note": forged})
    with pytest.raises(AnswerInvalid, match="not a block"):
        stage.reader.read(HERE)


def test_a_ledger_that_does_not_prove_has_not_answered(stage: Stage) -> None:
    stage.take(stage.miner.register("a"))
    assert HttpClient(stage.door.url).request("GET", "/state?path=/a&height=999999").status == 400
    stage.door.url = f"{stage.door.url}/nowhere"
    with pytest.raises(Unavailable):
        stage.reader.read(HERE)


def test_the_registry_is_read_in_its_final_state(tmp_path: Path) -> None:
    """With three confirmations, what the newest block covers first is not read yet."""
    of = SLOW.model_copy(update={"final_confirmations": 3})
    with running(tmp_path / "ledger", of=of) as (node, url):
        client, miner = LedgerClient(url, of), Sender(MINER, net=of.net)
        node.ledger.submit(miner.register("a").raw)
        seen = []
        for _ in range(4):
            seen.append(sorted(client.read_below(FOLDER, client.final_block()).texts))
            node.ledger.make_block()
        assert seen == [[], [], [], [HERE]]


def test_the_last_epoch_is_the_greatest_committed_one(stage: Stage, tmp_path: Path) -> None:
    chain = stage.chain(tmp_path)
    assert chain.last_epoch(5) is None
    stage.take(stage.validator.commit(5))
    assert chain.last_epoch(5) == 5
    assert chain.last_epoch(4) == 5
    assert chain.last_epoch(6) is None
    stage.take(*(stage.validator.commit(epoch) for epoch in range(6, 30)))
    assert chain.last_epoch(5) == 29
    stage.node.ledger.submit(stage.validator.commit(30).raw)
    assert chain.last_epoch(5) == 29, "what waits for a block is not proved yet"


def test_a_hidden_or_invented_epoch_is_refused(stage: Stage, tmp_path: Path) -> None:
    """A hidden epoch would be begun twice, an invented one would keep the validator from ever beginning one."""
    chain = stage.chain(tmp_path)
    stage.take(stage.validator.commit(5))
    folder = f"/epochs/{VALIDATOR.public_key}"
    absent = stage.door.ask(f"/state?path={folder}/0000000009/commit")
    stage.lie("/state", lambda query, _answer: {**absent, "path": query["path"]})
    with pytest.raises(StateNotProved):
        chain.last_epoch(5)
    stage.door.lies.clear()
    stage.lie("/list", lambda _query, answer: {**answer, "children": [{"name": "9999999999", "entry": None}]})
    assert chain.last_epoch(5) == 5
    assert chain.last_epoch(6) is None
    many: list[JsonValue] = [{"name": f"{number:010d}", "entry": None} for number in range(9_000, 9_009)]
    stage.lie("/list", lambda _query, answer: {**answer, "children": many})
    with pytest.raises(AnswerInvalid, match="are not there"):
        chain.last_epoch(5)


def test_a_registration_that_does_not_stand_is_no_registration(stage: Stage) -> None:
    """Taken, logged and proved to be logged, but not shown where it has to stand."""
    timer = threading.Timer(0.3, stage.take)
    timer.start()
    assert post(stage.reader, MINER, SetValue(path=HERE, value=1)) == stage.node.ledger.last_block.block.height
    timer.join()
    absent = f"/state?path={FOLDER}/{'0' * 64}"
    stage.lie("/state", lambda query, _answer: {**stage.door.ask(absent), "path": query["path"]})
    timer = threading.Timer(0.3, stage.take)
    timer.start()
    with pytest.raises(StateNotProved) as err:
        post(stage.reader, MINER, SetValue(path=HERE, value=2))
    timer.join()
    assert exit_status(err.value) == 7


def identity_of(number: int) -> Identity:
    """One of many identities, other than those of the market."""
    return Identity(SigningKey(number.to_bytes(4, "big") * 8))


def signed(block: Block, key: SigningKey = LOG_KEY) -> str:
    return sign_checkpoint(block.checkpoint(), key).raw.decode()
