"""What an event costs: to emit it beside an HTTP keep-alive POST, and to verify it beside one Ed25519 verification.

Everything in one run on one machine, as CPU time; the ratios are what counts. ``python benchmarks/events.py [-n COUNT]``
"""

from __future__ import annotations

import argparse
import http.client
import json
import platform
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path

from config.schema import Config
from neurons.agent.node import AgentNode
from neurons.base.agent_client import AgentClient
from polarise.canonical import JsonValue
from polarise.checkpoint import Checkpoint, sign_checkpoint
from polarise.envelope import open_line
from polarise.errors import Unavailable
from polarise.events import Emitter
from polarise.frontier import Frontier
from polarise.ingress import Hop, Sender, dispatch, draft_of, place
from polarise.merkle import leaf_hash
from polarise.signing import Identity, Purpose, SigningKey, verify
from polarise.stream import StreamVerifier, log_verifier, origin_of
from utils.host import cpu_model

NODE = Identity(SigningKey(b"\x07" * 32))
LEASE = "ab" * 16
PAYLOAD: dict[str, JsonValue] = {
    "epoch": 3,
    "loss": 0.2137418,
    "batchId": "b-000017",
    "additionalParams": {"learning_rate": 0.001},
}
SERVER = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()
    def log_message(self, *_):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=5000, help="events per measurement")
    parser.add_argument("--agent", metavar="DIR", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.agent:
        sys.exit(AgentNode(Config(), Path(args.agent), NODE.public_key, NODE.subkey(Purpose.LOG)).run())
    print(f"{cpu_model()}, Python {platform.python_version()}, {args.n} events")
    compare_emit(args.n)
    compare_verify(args.n)


def compare_emit(count: int) -> None:
    """Print emit() beside a POST on a connection that stays open; the client's CPU, and the caller's wall time."""
    with tempfile.TemporaryDirectory(prefix="pl-") as folder:
        agent = subprocess.Popen([sys.executable, __file__, "--agent", folder], stderr=subprocess.DEVNULL)
        server = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True)
        try:
            emitter = Emitter(str(_open_stream(AgentClient(Path(folder))) / "events.sock"), queue_events_max=count)
            emitter.emit("training.warm", {})
            emitter.flush(10)
            calls: list[int] = []
            cpu, thread, wall = time.process_time_ns(), time.thread_time_ns(), time.perf_counter_ns()
            for _ in range(count):
                begin = time.perf_counter_ns()
                emitter.emit("training.epoch", PAYLOAD)
                calls.append(time.perf_counter_ns() - begin)
            in_caller = (time.thread_time_ns() - thread) / count / 1000
            idle = _pauses(sum(calls))
            if not emitter.flush(60):
                raise Unavailable("the agent did not keep up")
            durable = count / ((time.perf_counter_ns() - wall) / 1e9)
            whole = (time.process_time_ns() - cpu) / count / 1000
            assert server.stdout is not None
            post = _time_posts(int(server.stdout.readline()), min(count, 3000))
        finally:
            for process in (agent, server):
                process.terminate()
                process.wait()
    print(f"HTTP keep-alive POST       {post:8.2f} us CPU")
    print(f"emit(), in the caller      {in_caller:8.2f} us CPU   1/{post / in_caller:.1f} of a POST")
    print(f"emit(), with its thread    {whole:8.2f} us CPU   1/{post / whole:.1f} of a POST")
    calls.sort()
    p50, p99 = (calls[int(len(calls) * share)] / 1000 for share in (0.5, 0.99))
    print(f"emit(), wall in the caller {p50:8.2f} us p50, {p99:.1f} us p99, longest {calls[-1] / 1000:.0f} us")
    print(f"an empty loop as long      {'':11} longest pause {idle / 1000:.0f} us, while the agent works")
    print(f"pipelined until durable    {durable:8.0f} events/s")


def compare_verify(count: int) -> None:
    """Print what a reader pays per event, beside one signature per event."""
    lines = _lines(count)
    message = b"x" * 32
    signature = NODE.key.sign("benchmark", message)
    single = _cpu_us(lambda: verify(NODE.public_key, "benchmark", message, signature), 2000)
    print(f"one Ed25519 verification   {single:8.2f} us; a line has {sum(map(len, lines)) // count} bytes")
    print("batch   hash+tree+signature      and opened (canonical, typed)")
    for batch in (1, 10, 50, 256):
        notes = _notes(lines, batch)
        bare = _cpu_us(partial(_verify, lines, batch, notes, opens=False), 1) / count
        opened = _cpu_us(partial(_verify, lines, batch, notes, opens=True), 1) / count
        print(
            f"{batch:5d} {bare:10.2f} us = {100 * bare / single:5.1f} %   {opened:10.2f} us = {100 * opened / single:5.1f} %"
        )


def _verify(lines: list[bytes], batch: int, notes: list[bytes], *, opens: bool) -> None:
    reader = StreamVerifier(log_verifier(NODE.subkey(Purpose.LOG).certificate, NODE.public_key, "system"))
    for number, note in enumerate(notes):
        for seq in range(number * batch, min((number + 1) * batch, len(lines))):
            reader.add_line(seq, lines[seq])
        verified = reader.add_checkpoint(note)
        if opens:
            for line in verified.lines:
                open_line(line)


def _notes(lines: list[bytes], batch: int) -> list[bytes]:
    key, frontier, notes = NODE.subkey(Purpose.LOG).key, Frontier(), []
    for first in range(0, len(lines), batch):
        for line in lines[first : first + batch]:
            frontier.add(leaf_hash(line))
        checkpoint = Checkpoint(origin_of(NODE.public_key, "system"), frontier.size, frontier.root())
        notes.append(sign_checkpoint(checkpoint, key).raw)
    return notes


def _lines(count: int) -> list[bytes]:
    draft = draft_of({"kind": "training.epoch", "payload": PAYLOAD})
    sender, hop = Sender(str(uuid.uuid4()), str(uuid.uuid4())), Hop("agent", "v0.1.0", NODE.public_key[:12])
    origin = origin_of(NODE.public_key, "system")
    begin = time.process_time_ns()
    lines = [place(dispatch(draft, sender, hop, 1_700_000_000_000_000_000), origin, seq) for seq in range(count)]
    print(f"agent: complete and encode {(time.process_time_ns() - begin) / count / 1000:8.2f} us CPU")
    return lines


def _open_stream(client: AgentClient) -> Path:
    deadline = time.monotonic() + 30
    while True:
        try:
            return client.open_stream(LEASE, NODE.public_key)
        except Unavailable:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _time_posts(port: int, count: int) -> float:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    body = {"message_id": str(uuid.uuid4()), "kind": "training.epoch", "payload": PAYLOAD}

    def post() -> None:
        connection.request("POST", "/", json.dumps(body), {"Content-Type": "application/json"})
        connection.getresponse().read()

    post()
    return _cpu_us(post, count)


def _pauses(duration_ns: int) -> int:
    """Return the longest time this thread was away from a loop that does nothing: what the machine itself adds."""
    end, last, longest = time.perf_counter_ns() + duration_ns, time.perf_counter_ns(), 0
    while last < end:
        now = time.perf_counter_ns()
        longest, last = max(longest, now - last), now
    return longest


def _cpu_us(call: Callable[[], object], count: int) -> float:
    begin = time.process_time_ns()
    for _ in range(count):
        call()
    return (time.process_time_ns() - begin) / count / 1000


if __name__ == "__main__":
    main()
