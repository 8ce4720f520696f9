"""The daemon over real HTTP, through the client that verifies."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from neurons.ledger.access_table import LEDGER_ACCESS
from neurons.ledger.node import LedgerNode
from polarise import merkle
from polarise.beacon import check_beacon, find_beacon
from polarise.block import open_block
from polarise.block_follower import FileMemory
from polarise.cli import main as polarise_cli
from polarise.errors import AnswerInvalid, ErrorCode, RequestRejected, Unavailable
from polarise.hardware import DeviceClaim, HardwareClaim
from polarise.http_client import HttpClient
from polarise.ledger_client import LedgerClient, WaitState
from polarise.ledger_feed import Followed, follow
from polarise.ledger_registry import read_ledger_registry, registration, withdrawal
from polarise.log_proof import parse_log_proof
from polarise.registry import RegistryEntry
from polarise.signing import Certificate, Identity, Purpose
from polarise.statement import sign_statement
from polarise.transaction import decode_transaction
from tests.unit.ledger.small_market import LEDGER, MINER, VALIDATOR, Sender, genesis, identity
from tests.unit.neurons.ledger.ledger_process import SLOW, running
from tlog.tiles import parse_tile, read_tile


@dataclass
class Market:
    """A running daemon, a client of it, and two who write."""

    node: LedgerNode
    url: str
    client: LedgerClient
    miner: Sender
    validator: Sender

    def block(self) -> int:
        """Make a block; returns its height."""
        return self.node.ledger.make_block().block.height

    def raw(self, method: str, target: str, body: bytes = b"", **headers: str) -> tuple[int, dict[str, object]]:
        """One plain request."""
        response = HttpClient(self.url).request(method, target, body=body, headers=headers)
        return response.status, json.loads(response.body)


@pytest.fixture
def market(tmp_path: Path) -> Iterator[Market]:
    with running(tmp_path / "ledger") as (node, url):
        memory = FileMemory(tmp_path / "seen.note")
        client = LedgerClient(url, SLOW, memory=memory)
        yield Market(node, url, client, Sender(MINER, net=SLOW.net), Sender(VALIDATOR, net=SLOW.net))


def test_submit_get_prove_wait(market: Market, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole line, up to `polarise verify FILE --key K` on the saved proof."""
    sent = market.miner.register({"price": 7})
    path = sent.body.op.path
    assert market.client.submit(sent).index == 0
    assert market.client.wait(sent.hash, 0).state is WaitState.PENDING
    assert market.client.get(path) is None, "hidden until it is in a block"
    entry = market.client.get(path, "pending")
    assert entry is not None
    assert (entry.value, entry.hash, entry.confirmations) == ({"price": 7}, sent.hash, 0)
    with pytest.raises(Unavailable, match="not in a block"):
        market.client.prove(sent.hash)
    height = market.block()
    waited = market.client.wait(sent.hash, 5)
    assert (waited.state, waited.height) == (WaitState.FINAL, height)
    assert market.client.get(path) is not None
    proof, block, written = market.client.prove_path(path)
    assert (block.block.height, written.body.op.value) == (height, {"price": 7})
    file = tmp_path / "written.tlog-proof"
    file.write_bytes(proof.encode())
    for words in ([str(file)], ["proof", str(file)]):
        assert polarise_cli(["verify", *words, "--key", SLOW.log.public_key]) == 0
        assert polarise_cli(["verify", "--key", SLOW.log.vkey, *words, "-o", "json"]) == 0
    shown = capsys.readouterr().out
    assert f"from: {MINER.public_key}" in shown
    assert json.loads(shown[shown.rindex('{\n  "verified"') :])["height"] == height
    assert polarise_cli(["verify", str(file), "--key", VALIDATOR.public_key]) == 7
    file.write_bytes(proof.encode().replace(b"index 0", b"index 1"))
    assert polarise_cli(["verify", str(file), "--key", SLOW.log.public_key]) == 7


def test_every_refusal_has_its_code(market: Market) -> None:
    good = market.miner.register()
    cases: list[tuple[bytes, ErrorCode, int]] = [
        (b"", ErrorCode.BAD_JSON, 400),
        (b"[]", ErrorCode.INVALID_FIELD, 400),
        (good.raw[:-1], ErrorCode.BAD_JSON, 400),
        (good.raw.replace(b'"nonce":0', b'"nonce":0,"nonce":0'), ErrorCode.DUPLICATE_KEY, 400),
        (good.raw.replace(b'"nonce":0', b'"nonce":0.5'), ErrorCode.INVALID_FIELD, 400),
        (good.raw.replace(b'"nonce":0', b'"nonce":1'), ErrorCode.BAD_SIGNATURE, 403),
        (good.raw.replace(b"set_value", b"transfer"), ErrorCode.NOT_SUPPORTED, 422),
        (b"x" * 65536, ErrorCode.BODY_TOO_LARGE, 413),
        (b"x" * 1_000_000, ErrorCode.BODY_TOO_LARGE, 413),
        (Sender(MINER).register().raw, ErrorCode.WRONG_NET, 409),
        (market.miner.register().raw, ErrorCode.NONCE_GAP, 409),
        (Sender(MINER, net=SLOW.net).sign("/elsewhere", 1).raw, ErrorCode.RULE_REFUSED, 403),
    ]
    for body, code, status in cases:
        got, answer = market.raw("POST", "/submit", body, **{"Content-Type": "application/json"})
        assert (got, answer["code"]) == (status, str(code)), body[:80]
        assert answer["status"] == "failure"
    assert market.node.ledger.log.size == 0
    with pytest.raises(RequestRejected):
        market.client.submit(Sender(MINER, net=SLOW.net).sign("/elsewhere", 1))
    refused = market.client.wait(Sender(MINER, net=SLOW.net).sign("/elsewhere", 1).hash, 0)
    assert refused.state is WaitState.REFUSED
    assert refused.refusal is not None
    assert refused.refusal.code is ErrorCode.RULE_REFUSED


@pytest.mark.parametrize(
    "target",
    [
        "/get",
        "/get?path=",
        "/get?path=/A",
        "/get?path=/a&concern=soon",
        "/list?path=/a&limit=0",
        "/list?path=/a&limit=1000000",
        "/prove",
        "/prove?hash=zz",
        "/tx/zz",
        "/blocks?from=-1",
        "/blocks?limit=101",
        "/leaves?limit=257",
        "/leaves?from=99999999999999999999",
        f"/leaves?from={2**63}",
        f"/leaves?from={2**53}",
        f"/blocks?from={2**53}",
        "/consistency?old=1",
        "/consistency?old=0&new=5",
        "/frontier?size=1",
        "/subscribe?from=9",
        "/tile/0/000",
        "/tile/..%2f..%2fgenesis.json",
        "/get?path=/nothing",
        "/tx/" + "0" * 64,
    ],
)
def test_questions_without_an_answer_are_refused_in_the_one_shape(market: Market, target: str) -> None:
    status, answer = market.raw("GET", target)
    assert status in {400, 404}
    assert answer["status"] == "failure"


def test_page_behind_the_end_is_empty(market: Market) -> None:
    last = 2**53 - 1
    assert market.raw("GET", f"/leaves?from={last}") == (200, {"status": "success", "first": last, "leaves": []})
    assert market.raw("GET", f"/blocks?from={last}") == (200, {"status": "success", "blocks": []})


def test_every_route_has_rights_and_counters_are_the_owners(market: Market) -> None:
    rules = {
        (method, str(rule))
        for rule in market.node.http._application.url_map.iter_rules()  # type: ignore[attr-defined]  # a Flask app
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert rules == set(LEDGER_ACCESS)
    assert market.raw("GET", "/metrics")[0] == 401
    for target in ("/healthz", "/readyz", "/status", "/genesis"):
        assert market.raw("GET", target)[0] == 200


def test_pages_follow_one_another(market: Market) -> None:
    for epoch in range(1, 8):
        market.client.submit(market.validator.commit(epoch, {"pad": "x" * 100}))
    market.block()
    folder = f"/epochs/{VALIDATOR.public_key}"
    assert [name for name, _ in market.client.children(folder)] == [f"{epoch:010d}" for epoch in range(1, 8)]
    status, page = market.raw("GET", f"/list?path={folder}&limit=3&after=0000000002")
    assert status == 200
    assert page["next"] == "0000000005"
    assert [leaf for leaf in market.client.leaves(2, 7)] == [sent.raw for sent in market.validator.sent[2:]]


def test_pages_are_bounded_in_bytes(market: Market) -> None:
    for number in range(12):
        sender = Sender(MINER, net=SLOW.net, nonce=number)
        market.client.submit(sender.register("x" * 60_000 + str(number)))
    response = HttpClient(market.url).request("GET", "/leaves?from=0&limit=256")
    assert len(response.body) < 700_000
    assert len(list(market.client.leaves(0, 12))) == 12


def test_blocks_are_a_chain_the_client_checks(market: Market) -> None:
    heights = [market.block() for _ in range(3)]
    blocks = list(market.client.blocks(0))
    assert [block.block.height for block in blocks] == list(range(heights[-1] + 1))
    assert all(after.block.prev == before.hash for before, after in itertools.pairwise(blocks))


def test_a_subscriber_verifies_each_leaf_and_comes_in_anywhere(market: Market) -> None:
    market.client.submit(market.miner.register(1))
    market.block()
    sent = [market.client.submit(market.miner.register(number)).hash for number in (2, 3)]
    height = market.block()
    from_the_start = follow(market.client, 0)
    seen: list[Followed] = [next(from_the_start) for _ in range(height + 1)]
    from_the_start.close()
    assert [len(followed.leaves) for followed in seen][-2:] == [1, 2]
    assert [decode_transaction(leaf).hash for leaf in seen[-1].leaves] == sent
    later = follow(market.client, height)
    assert next(later).leaves == seen[-1].leaves
    timer = threading.Timer(0.2, market.block)
    timer.start()
    assert next(later).block.block.height == height + 1
    timer.join()
    later.close()


def test_streams_are_capped_and_given_back(market: Market) -> None:
    """Half of the 16 threads; plain requests go on, and a closed stream makes room."""
    streams = [market.client.stream(0, 5) for _ in range(8)]
    assert all(stream.status == 200 for stream in streams)
    assert HttpClient(market.url).request("GET", "/subscribe").status == 503
    assert market.raw("GET", "/status")[0] == 200
    for stream in streams:
        stream.close()
    for _ in range(100):
        with market.client.stream(0, 5) as stream:
            if stream.status == 200:
                return
        threading.Event().wait(0.05)
    pytest.fail("no stream was given back")


def test_tiles_checkpoint_and_consistency_are_the_logs(market: Market) -> None:
    for number in range(3):
        market.client.submit(market.miner.register(number))
    market.block()
    first = market.client.checkpoint()
    market.client.submit(market.miner.register(3))
    market.block()
    second = market.client.checkpoint()
    assert (first.block.size, second.block.size) == (3, 4)
    response = HttpClient(market.url).request("GET", "/tile/0/000.p/4")
    tile = parse_tile("0/000.p/4")
    assert tile is not None
    assert response.body == read_tile(market.node.ledger.log, tile)
    hashes = [response.body[place : place + 32] for place in range(0, 128, 32)]
    assert merkle.root_of_hashes(hashes) == second.block.root


def test_the_client_remembers_what_it_saw(market: Market, tmp_path: Path) -> None:
    market.block()
    seen = market.client.checkpoint()
    note = (tmp_path / "seen.note").read_bytes()
    assert open_block(note, SLOW.log).block == seen.block
    again = LedgerClient(market.url, SLOW, memory=FileMemory(tmp_path / "seen.note"))
    assert again.checkpoint().block.height == seen.block.height
    with pytest.raises(AnswerInvalid, match="not a block"):
        LedgerClient(market.url, genesis(name="other"), memory=FileMemory(tmp_path / "seen.note"))


def test_the_next_nonce_counts_what_is_pending(market: Market) -> None:
    assert market.client.next_nonce(MINER.public_key) == 0
    market.client.submit(market.miner.register())
    assert market.client.next_nonce(MINER.public_key) == 1


def test_a_proof_over_http_is_the_standard_file(market: Market) -> None:
    sent = market.miner.register()
    market.client.submit(sent)
    market.block()
    raw = HttpClient(market.url).request("GET", f"/prove?hash={sent.hash}").body
    assert parse_log_proof(raw).verify(SLOW.log).checkpoint.size == 1
    assert LEDGER.public_key == market.client.status().node_key


def test_the_beacon_is_the_first_final_block_over_the_commitment(market: Market) -> None:
    market.client.submit(market.miner.register())
    before = market.block()
    commitment = market.validator.commit(1)
    market.client.submit(commitment)
    assert find_beacon(market.client, commitment.hash) is None
    market.block()
    market.client.submit(market.miner.register(2))
    market.block()
    beacon = find_beacon(market.client, commitment.hash)
    assert beacon is not None
    assert beacon.block.height == before + 1
    blocks = list(market.client.blocks(0))
    assert beacon.hash == blocks[before + 1].hash
    check_beacon(1, blocks[before], blocks[before + 1])
    for first, second in ((before - 1, before), (before + 1, before + 2), (before, before + 2)):
        with pytest.raises(AnswerInvalid):
            check_beacon(1, blocks[first], blocks[second])


def test_the_registry_is_read_from_the_ledger_and_checked_again(market: Market) -> None:
    """An entry that its own writer did not sign properly is reported, not believed."""
    owner = identity(9)
    certificate = Certificate.issue(owner.key, MINER.public_key, Purpose.NODE)
    entry = RegistryEntry(
        node_key=MINER.public_key,
        owner_key=owner.public_key,
        owner_certificate=certificate,
        endpoint="http://127.0.0.1:8080",
        advertised_host="127.0.0.1",
        hardware=HardwareClaim(
            cpu_model="a cpu",
            cpu_milli=1000,
            memory_bytes=1,
            devices=(
                DeviceClaim(
                    uuid="cpu", kind="cpu", name="a", memory_bytes=1, matmul_ops_per_second=1, pow_hashes_per_second=1
                ),
            ),
        ),
        price_micros_per_hour=5,
        created_unix_ms=1,
    )
    statement = sign_statement(Identity(MINER.key, certificate), "registry", entry)
    op = registration(statement)
    market.client.submit(market.miner.sign(op.path, op.value))
    market.client.submit(market.validator.register({"kind": "registry"}))
    market.block()
    errors: list[str] = []
    found = read_ledger_registry(market.client, lambda name, _err: errors.append(name))
    assert found == {MINER.public_key: (statement, entry)}
    assert errors == [VALIDATOR.public_key]
    market.client.submit(market.miner.sign(withdrawal(MINER.public_key).path, None))
    market.block()
    assert read_ledger_registry(market.client, lambda _name, _err: None) == {}
