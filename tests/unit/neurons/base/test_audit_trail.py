"""What requests leave in the audit log: each change a line, refusals in few, nothing lost, nothing twice, nothing secret."""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from neurons.agent.streams import Streams
from neurons.base.agent_client import AgentClient
from neurons.base.audit_sinks import FILE_NAME, LocalSink
from neurons.base.audit_spool import FILE_NAME as SPOOL_FILE
from neurons.base.audit_spool import AuditSpool, Event, note_command
from neurons.base.audit_trail import LINES_PER_WINDOW, ROWS_MAX, Actor, AuditTrail, about_node
from neurons.miner.node import MinerNode
from polarise.errors import RequestRejected, Unavailable
from polarise.payloads import check_container_kind
from polarise.signing import Identity, Purpose
from tests.support.http import send, signed
from tests.support.identities import People, identity
from tests.support.identities import node_identity as certified
from tests.support.miners import RunningMiner, engineless, running, wait_until
from utils.clock import SystemClock

NODE = certified("audited node", identity("owner"))
SECRET = "a-secret-key-of-the-owner-1234"
RENTER = Actor("ab" * 32, "renter")


def payload_of(line: dict[str, object]) -> dict[str, object]:
    payload = line["payload"]
    assert isinstance(payload, dict)
    return payload


class Away:
    """A log that answers only so often, and then is away once, after it has kept what it was given."""

    def __init__(self, log: LocalSink) -> None:
        self.log = log
        self.plan: list[str] = []

    def append(self, events: Sequence[Event]) -> None:
        step = self.plan.pop(0) if self.plan else "here"
        if step != "away":
            self.log.append(events)
        if step != "here":
            raise Unavailable("the log is away")


class Scene:
    """A trail with a real spool and a real log."""

    def __init__(self, root: Path, **spool: int) -> None:
        self.root = root
        self.spool = AuditSpool(root, **spool)
        self.log = LocalSink(root, NODE, "validator", SystemClock())
        self.sink = Away(self.log)
        self.trail = AuditTrail(self.spool, self.sink, {"role": "validator"})

    def lines(self) -> list[dict[str, object]]:
        """Return what stands in the log."""
        connection = sqlite3.connect(self.root / FILE_NAME)
        rows = connection.execute("SELECT line FROM leaf ORDER BY id").fetchall()
        connection.close()
        return [json.loads(row[0]) for row in rows]

    def payloads(self) -> list[dict[str, object]]:
        return [payload_of(line) for line in self.lines()]


@pytest.fixture(name="scene")
def small_scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    yield scene
    scene.spool.close()
    scene.log.__exit__(None, None, None)


def test_change_is_told_with_who_and_what(scene: Scene) -> None:
    scene.trail.did(RENTER, "DELETE /terminate/<container_id>", "0123456789ab")
    assert scene.trail.hand_on()
    (line,) = scene.lines()
    assert line["kind"] == "audit.action"
    assert line["payload"] == {
        "action": "DELETE /terminate/<container_id>",
        "actor": RENTER.key,
        "role": "renter",
        "object": "0123456789ab",
        "outcome": "OK",
    }
    assert line["stream"] == f"{NODE.public_key}/audit"


def test_log_that_is_away_loses_nothing_keeps_the_order_and_has_nothing_twice(scene: Scene) -> None:
    """A step "broken" keeps the lines and dies before it says so."""
    scene.sink.plan = ["away", "broken", "away", "broken"]
    for number in range(6):
        scene.trail.did(RENTER, "POST /allocate", f"lease {number}")
        scene.trail.hand_on()
    assert scene.trail.hand_on()
    assert [payload["object"] for payload in scene.payloads()] == [f"lease {number}" for number in range(6)]
    assert scene.spool.oldest() == []


def test_what_waits_outlives_the_process(tmp_path: Path) -> None:
    with AuditSpool(tmp_path) as spool:
        spool.put("audit.node", {"action": "daemon.started", "outcome": "OK"})
    with AuditSpool(tmp_path) as spool:
        assert [event["kind"] for _place, event in spool.oldest()] == ["audit.node"]


def test_flood_of_refusals_is_a_handful_of_lines_and_none_is_forgotten(scene: Scene) -> None:
    for number in range(5000):
        actor = Actor(f"{number % 2500:064x}", "renter")
        scene.trail.refused(actor, "POST /allocate", "NOT_PERMITTED", f"198.51.100.{number % 250}")
    assert len(scene.trail._refused) == ROWS_MAX + 1
    scene.trail.tell_refused()
    scene.trail.hand_on()
    told = scene.payloads()
    assert len(told) <= LINES_PER_WINDOW + 1
    assert sum(int(str(payload["count"])) for payload in told) == 5000
    assert "198.51" not in json.dumps(told), "a line cannot be taken out again, so no address is in one"
    scene.trail.tell_refused()
    scene.trail.hand_on()
    assert len(scene.payloads()) == len(told), "a window without refusals is silent"


def test_tokens_of_keys_that_cost_nothing_are_one_line_and_their_leases_are_all_told(scene: Scene) -> None:
    for number in range(1000):
        scene.trail.did(Actor(f"{number:064x}", "renter"), "POST /token", None, is_listed=False)
    scene.trail.did(Actor("cd" * 32, "renter"), "POST /allocate", "0123456789ab", is_listed=False)
    scene.trail.tell_refused()
    scene.trail.hand_on()
    told = [(line["kind"], payload_of(line).get("actor"), payload_of(line).get("count")) for line in scene.lines()]
    assert told == [("audit.action", "cd" * 32, None), ("audit.action", None, 1000)]


def test_full_spool_says_how_much_it_lost_when_there_is_room(tmp_path: Path) -> None:
    scene = Scene(tmp_path, lines_max=2)
    for number in range(5):
        scene.trail.did(RENTER, "POST /allocate", str(number))
    scene.trail.hand_on()
    scene.trail.did(RENTER, "POST /allocate", "5")
    scene.trail.hand_on()
    told = [(payload["action"], payload.get("object"), payload.get("count")) for payload in scene.payloads()]
    assert told == [
        ("POST /allocate", "0", None),
        ("POST /allocate", "1", None),
        ("lines.lost", None, 3),
        ("POST /allocate", "5", None),
    ]


def test_commands_on_the_machine_are_told_where_a_log_is_kept(tmp_path: Path) -> None:
    note_command(tmp_path, "drain.on")
    assert not list(tmp_path.iterdir()), "this folder keeps no log"
    scene = Scene(tmp_path)
    note_command(tmp_path, "drain.on")
    scene.trail.hand_on()
    assert [line["kind"] for line in scene.lines()] == ["audit.command"]


def test_containers_cannot_speak_in_it() -> None:
    with pytest.raises(RequestRejected, match="may not emit"):
        check_container_kind("audit.action")


def test_settings_are_told_as_a_hash_that_knows_no_secret(people: People) -> None:
    told = {
        secret: about_node("miner", engineless(people, security={"secret_key": secret} if secret else {}))
        for secret in ("", SECRET)
    }
    assert told[""] == told[SECRET]
    assert about_node("miner", engineless(people, network={"port": 1})) != told[""]


def audit_lines(miner: RunningMiner) -> list[dict[str, object]]:
    answer = AgentClient(miner.node.data_dir.root).read("audit", 0)
    return [json.loads(line) for line in answer.lines]


@pytest.fixture(name="miner", scope="module")
def audited_miner(
    people: People, node_identity: Identity, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningMiner]:
    config = engineless(people, security={"secret_key": SECRET})
    with running(MinerNode(config, tmp_path_factory.mktemp("audited"), node_identity)) as miner:
        yield miner


def test_miner_tells_its_agent_who_did_what_and_keeps_every_secret(miner: RunningMiner, people: People) -> None:
    token = signed(miner.url, miner.key, people.renter, "POST", "/token").json["token"]
    signed(miner.url, miner.key, people.renter, "POST", "/allocate", body=b'{"memory": "128m"}')  # 503: no engine
    signed(miner.url, miner.key, people.auditor, "POST", "/allocate", body=b"{}").assert_refused(403, "NOT_PERMITTED")
    signed(miner.url, miner.key, people.stranger, "GET", "/containers").assert_refused(403, "NOT_PERMITTED")
    send(miner.url, "GET", "/containers", headers={"Authorization": "Bearer wrong-token"})
    miner.node.audit.tell_refused()
    wait_until(lambda: sum(line["kind"] == "audit.refused" for line in audit_lines(miner)) >= 4, 10, "no line")
    lines = audit_lines(miner)
    told = {(said.get("actor"), said["action"], said["outcome"]) for said in map(payload_of, lines)}
    assert {
        (None, "daemon.started", "OK"),
        (people.renter.public_key, "POST /token", "OK"),
        (people.renter.public_key, "POST /allocate", "UNAVAILABLE"),
        (people.auditor.public_key, "POST /allocate", "NOT_PERMITTED"),
        (None, "GET /containers", "NOT_PERMITTED"),
        (None, "GET /containers", "TOKEN_INVALID"),
    } <= told
    root = miner.node.data_dir.root
    kept = b"".join(
        path.read_bytes() for path in [*root.glob(f"{SPOOL_FILE}*"), *(root / "agent").glob("audit.sqlite*")]
    )
    assert b"daemon.started" in kept
    for secret in (str(token).encode(), SECRET.encode(), b"wrong-token"):
        assert secret not in kept


@pytest.mark.parametrize("name", ["validator", "auditor", "renter"])
def test_lines_are_the_owners_and_checkpoints_everybodys(miner: RunningMiner, people: People, name: str) -> None:
    who: Identity = getattr(people, name)
    for target in ("/streams/audit/events", "/telemetry/stream?stream=audit", "/streams/audit/proof?seq=0"):
        signed(miner.url, miner.key, who, "GET", target).assert_refused(403, "NOT_PERMITTED")
    assert signed(miner.url, miner.key, people.owner, "GET", "/streams/audit/events").status == 200
    assert signed(miner.url, miner.key, who, "GET", "/streams/audit/checkpoint").status == 200


def test_agent_takes_no_second_audit_log(tmp_path: Path) -> None:
    with Streams(tmp_path, NODE.public_key, NODE.subkey(Purpose.LOG), SystemClock()) as streams:
        with pytest.raises(RequestRejected):
            streams.open("audit", "ab" * 32, ())
        streams.close("audit")
        assert isinstance(streams.emit("audit", "audit.node", {"action": "daemon.started", "outcome": "OK"}), int)
