"""The agent as a process: nothing acknowledged is lost, nothing is there twice, and each container has its own voice."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

import pytest

from neurons.base.agent_client import AgentClient
from neurons.base.unix_socket import connect
from polarise.canonical import JsonValue
from polarise.envelope import Event, open_line
from polarise.errors import RequestRejected, Unavailable
from polarise.events import Emitter
from polarise.signing import Purpose
from polarise.stream import StreamVerifier, log_verifier
from tests.unit.neurons.agent.agent_process import IDENTITY, LEASE, NODE_KEY, RENTER, ROOT, AgentProcess

OTHER_LEASE = "cd" * 16
KILLS = 5
EVENTS = 2000


def verified_events(client: AgentClient, stream_id: str) -> list[Event]:
    """Read a whole stream with nothing but the node's key."""
    certificate, size = client.info(stream_id).certificate, client.info(stream_id).size
    assert certificate is not None
    reader, events = StreamVerifier(log_verifier(certificate, NODE_KEY, stream_id)), list[Event]()
    while reader.frontier.size < size:
        page = client.read(stream_id, reader.frontier.size, wait_seconds=10)
        assert page.note is not None
        for index, line in enumerate(page.lines):
            reader.add_line(page.first + index, line.encode())
        events += [open_line(line) for line in reader.add_checkpoint(page.note.encode()).lines]
    return events


def socket_of(client: AgentClient, lease_id: str) -> Path:
    client.open_stream(lease_id, RENTER)
    return client.events_folder(lease_id) / "events.sock"


def say(path: Path, *lines: bytes) -> int:
    """Send lines and return how many are acknowledged once all are."""
    with connect(path, 10.0) as connection:
        connection.sendall(b"".join(line + b"\n" for line in lines))
        received = b""
        while not received.endswith(b"\n") or int(received.split(b"\n")[-2]) < len(lines):
            piece = connection.recv(4096)
            assert piece
            received += piece
    return int(received.split(b"\n")[-2])


def message(kind: str = "training.epoch", fields: Mapping[str, object] | None = None) -> bytes:
    return json.dumps(
        {"message_id": str(uuid.uuid4()), "kind": kind, "payload": {"epoch": 1}, **(fields or {})}
    ).encode()


def test_five_kills_lose_nothing_and_repeat_nothing(agent: AgentProcess) -> None:
    emitter = Emitter(str(socket_of(agent.client, LEASE)))
    for number in range(EVENTS):
        assert emitter.emit("training.step", {"number": number})
        if number % (EVENTS // KILLS) == 123:
            agent.kill()
            agent.start()
        time.sleep(0.0002)
    assert emitter.flush(20)
    numbers = [e.payload["number"] for e in verified_events(agent.client, LEASE) if e.kind == "training.step"]
    assert numbers == list(range(EVENTS))
    assert (emitter.dropped_count, emitter.refused_count) == (0, 0)


def test_a_kill_in_the_middle_of_a_burst(agent: AgentProcess) -> None:
    """Everything is queued at once, so that the kill meets a full window of unacknowledged events."""
    emitter = Emitter(str(socket_of(agent.client, LEASE)))
    for number in range(1500):
        emitter.emit("training.step", {"number": number})
    for _ in range(2):
        time.sleep(0.05)
        agent.kill()
        agent.start()
    assert emitter.flush(20)
    numbers = [e.payload["number"] for e in verified_events(agent.client, LEASE) if e.kind == "training.step"]
    assert numbers == list(range(1500))


def test_a_lease_stream_is_known_and_goes_on_after_a_kill(agent: AgentProcess) -> None:
    agent.client.open_stream(LEASE, RENTER, ["GPU-1"])
    agent.kill()
    agent.start()
    assert agent.client.open_streams() == (LEASE,)
    assert agent.client.info(LEASE).renter_key == RENTER
    assert say(agent.client.events_folder(LEASE) / "events.sock", message()) == 1
    agent.client.open_stream(LEASE, RENTER, ["GPU-1"])
    agent.client.close_stream(LEASE)
    agent.client.close_stream(LEASE)
    assert not agent.client.events_folder(LEASE).exists()
    assert [e.kind for e in verified_events(agent.client, LEASE)] == [
        "stream.opened",
        "training.epoch",
        "stream.closed",
    ]
    with pytest.raises(RequestRejected):
        agent.client.open_stream(LEASE, RENTER)


def test_the_socket_decides_who_speaks(agent: AgentProcess) -> None:
    """Whatever a container writes, it comes out under its own lease."""
    a, b = socket_of(agent.client, LEASE), socket_of(agent.client, OTHER_LEASE)
    forged = {
        "stream": f"{NODE_KEY}/lease/{OTHER_LEASE}",
        "client_id": str(uuid.uuid4()),
        "action_id": str(uuid.UUID(OTHER_LEASE)),
        "visited": [{"svc": "agent", "tstamp": 1, "version": "1"}],
        "authenticated": True,
        "type": "CMD_SUBMIT",
    }
    assert (
        say(a, *(message(fields={name: value}) for name, value in forged.items()), message(), message("alert.raised"))
        == 8
    )
    assert say(b, message("training.b")) == 1
    own = [e for e in verified_events(agent.client, LEASE) if not e.kind.startswith("stream.")]
    assert [(e.kind, e.action_id) for e in own] == [("training.epoch", str(uuid.UUID(LEASE)))]
    assert [visit.svc for visit in own[0].visited] == ["container", "agent"]
    others = [e for e in verified_events(agent.client, OTHER_LEASE) if not e.kind.startswith("stream.")]
    assert [(e.kind, e.action_id) for e in others] == [("training.b", str(uuid.UUID(OTHER_LEASE)))]


def test_bad_lines_are_acknowledged_and_kept_out(agent: AgentProcess) -> None:
    path = socket_of(agent.client, LEASE)
    bad = [
        b"",
        b"{",
        b"[]",
        b'{"kind":"a.b","payload":{"x":NaN}}',
        b'{"kind":"a.b","payload":{"x":1,"x":1}}',
        b'{"kind":"a.b","payload":{"x":"' + b"y" * 16_000 + b'"}}',
        b'{"kind":"a.b","payload":{},"message_id":"1"}',
        b"\xff\xfe",
    ]
    assert say(path, *bad, message()) == len(bad) + 1
    kinds = [e.kind for e in verified_events(agent.client, LEASE)]
    assert kinds == ["stream.opened", "training.epoch"]


def test_a_line_without_end_is_hung_up_on_and_others_are_served(agent: AgentProcess) -> None:
    path = socket_of(agent.client, LEASE)
    with connect(path, 10.0) as greedy:
        greedy.sendall(b"x" * 65536)
        assert greedy.recv(1) == b""
        assert say(path, message()) == 1


def test_a_message_is_kept_once_however_often_it_comes(agent: AgentProcess) -> None:
    path = socket_of(agent.client, LEASE)
    line = message()
    assert say(path, line, line) == 2
    assert say(path, line) == 1
    assert len([e for e in verified_events(agent.client, LEASE) if e.kind == "training.epoch"]) == 1
    # The same id in another stream is another message: nobody can block somebody else's.
    assert say(socket_of(agent.client, OTHER_LEASE), line) == 1
    assert len([e for e in verified_events(agent.client, OTHER_LEASE) if e.kind == "training.epoch"]) == 1


def test_dropped_events_are_counted_and_told(agent: AgentProcess) -> None:
    path = socket_of(agent.client, LEASE)
    agent.kill()
    emitter = Emitter(str(path), queue_events_max=10)
    for number in range(25):
        assert emitter.emit("training.step", {"number": number})
    agent.start()
    assert emitter.flush(10)
    events = verified_events(agent.client, LEASE)
    assert [e.payload["number"] for e in events if e.kind == "training.step"] == list(range(15, 25))
    assert [e.payload["dropped_count"] for e in events if e.kind == "stream.dropped"] == [15]


def test_urgent_events_are_signed_at_once(agent: AgentProcess) -> None:
    status: dict[str, JsonValue] = {
        "kind": "action.status",
        "payload": {"status": "RUNNING", "message": "lease granted"},
    }
    [done] = agent.client.append([status])
    assert done.seq is not None
    assert agent.client.info("system").signed_size > done.seq


def test_events_of_the_miner_are_refused_whole_when_one_is_malformed(agent: AgentProcess) -> None:
    size = agent.client.info("system").size
    with pytest.raises(RequestRejected, match="nodots"):
        agent.client.append([{"kind": "node.x", "payload": {}}, {"kind": "nodots", "payload": {}}])
    assert agent.client.info("system").size <= size + 1  # a sample may have come meanwhile


def test_the_log_key_is_the_node_s_and_of_the_log_s_purpose(agent: AgentProcess) -> None:
    certificate = agent.client.info("system").certificate
    assert certificate is not None
    certificate.check(issuer=NODE_KEY, purpose=Purpose.LOG)
    assert certificate.subject == IDENTITY.key.derive(Purpose.LOG, 0).public_key


def test_only_this_user_may_control(agent: AgentProcess) -> None:
    path = agent.node_dir / "run" / "agent.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((agent.node_dir / "run" / "events").stat().st_mode) == 0o700
    if os.geteuid() != 0:
        return
    # Even with the file's mode opened by mistake, the kernel's word on the peer decides.
    path.chmod(0o666)
    script = (
        "import os, socket, sys; folder = os.open(sys.argv[1], os.O_PATH); uid = int(sys.argv[2]);"
        "os.setgid(uid); os.setuid(uid); peer = socket.socket(socket.AF_UNIX);"
        "peer.connect(f'/proc/self/fd/{folder}/agent.sock'); peer.sendall(b'{}\\n'); print(len(peer.recv(100)))"
    )
    answers = [
        subprocess.run(
            [sys.executable, "-c", script, str(path.parent), uid], capture_output=True, text=True, check=False
        ).stdout.strip()
        for uid in ("0", "65534")
    ]
    assert answers[0] == "100"
    assert answers[1] in {"", "0"}


def test_a_second_agent_on_the_same_node_ends_with_the_first_one_s_number(agent: AgentProcess) -> None:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("agent_process.py")), str(agent.node_dir)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode != 0
    assert "already runs on" in done.stderr


def test_the_agent_stops_cleanly(tmp_path: Path) -> None:
    agent = AgentProcess(tmp_path / "node").start()
    assert say(socket_of(agent.client, LEASE), message()) == 1
    assert agent.stop() == 0
    with pytest.raises(Unavailable):
        agent.client.open_streams()
    with agent:
        assert len(verified_events(agent.client, LEASE)) == 2


def test_eight_threads_at_once(agent: AgentProcess) -> None:
    path = socket_of(agent.client, LEASE)
    threads = [
        threading.Thread(target=say, args=(path, *(message(fields={"payload": {"epoch": i}}) for i in range(50))))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([e for e in verified_events(agent.client, LEASE) if e.kind == "training.epoch"]) == 400


def test_emit_never_raises(tmp_path: Path) -> None:
    class Odd:
        def __str__(self) -> str:
            raise RuntimeError("no text")

    emitter = Emitter(str(tmp_path / "nobody.sock"))
    loop: list[object] = []
    loop.append(loop)
    assert emitter.emit("training.x", {"nan": float("nan"), "set": {1}, "big": 2**70, "loop": loop, 3: b"bytes"})
    assert not emitter.emit("training.x", Odd())
    assert not emitter.emit("training.x", "x" * 20_000)
    assert emitter.emit("any thing", None)
    assert (emitter.refused_count, emitter.flush(0.05)) == (2, False)


def test_emit_in_a_forked_child_and_in_its_parent(agent: AgentProcess) -> None:
    path = socket_of(agent.client, LEASE)
    script = (
        "import os, sys; from polarise.events import Emitter; e = Emitter(sys.argv[1]); e.emit('training.parent', {});"
        "pid = os.fork();\n"
        "if pid == 0: e.emit('training.child', {}); os._exit(0 if e.flush(5) else 1)\n"
        "assert os.waitpid(pid, 0)[1] == 0 and e.flush(5)"
    )
    subprocess.run(
        [sys.executable, "-c", script, str(path)], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, timeout=30
    )
    kinds = [e.kind for e in verified_events(agent.client, LEASE) if e.kind.startswith("training.")]
    assert sorted(kinds) == ["training.child", "training.parent"]


def test_the_socket_works_however_long_its_path_is(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    with AgentProcess(deep / "node") as agent:
        assert say(socket_of(agent.client, LEASE), message()) == 1


def test_as_many_readers_wait_as_a_server_has_streams_and_a_plain_call_gets_through(agent: AgentProcess) -> None:
    """256 threads are the most that a server may have; half of them may be streams."""
    socket_of(agent.client, LEASE)
    size = agent.client.info(LEASE).size
    pages: list[int] = []

    def wait() -> None:
        pages.append(len(agent.client.read(LEASE, size, wait_seconds=10).lines))

    readers = [threading.Thread(target=wait, name="reader") for _ in range(128)]
    for reader in readers:
        reader.start()
    assert agent.client.info("system").is_open
    agent.client.append([{"kind": "training.epoch", "payload": {"epoch": 1}}], LEASE)
    for reader in readers:
        reader.join(20)
    assert [count > 0 for count in pages] == [True] * 128
