"""The event routes over real HTTP, from a real agent: who may read what, and a reader that believes only what verifies."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from flask import Flask, Response, request

from polarise.canonical import JsonValue
from polarise.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from polarise.envelope import open_line
from polarise.errors import ErrorCode, LogFork, ProofRejected, RejectReason, RequestRejected, SubnetError, Unavailable
from polarise.frontier import Frontier
from polarise.log_proof import parse_log_proof
from polarise.merkle import InvalidProof, consistency_proof, leaf_hash, root
from polarise.notes import Ed25519Verifier
from polarise.signing import Identity, Purpose, SigningKey
from polarise.sse import MEDIA_TYPE, Frame
from polarise.stream import StreamVerifier, log_verifier, origin_of
from polarise.telemetry_client import TelemetryClient
from telemetry.archive import Archive
from telemetry.puller import Puller
from tests.unit.neurons.agent.agent_process import IDENTITY, LEASE, NODE_KEY
from tests.unit.neurons.agent.served_agent import AUDITOR, OTHER, OWNER, RENTER_ID, VALIDATOR, Market, serve

STATUS: dict[str, JsonValue] = {"kind": "action.status", "payload": {"status": "RUNNING"}}


def test_a_validator_pulls_verifies_and_goes_on_where_it_stood(market: Market, tmp_path: Path) -> None:
    seen: list[int] = []
    with Archive(tmp_path / "archive.sqlite") as archive:
        puller = Puller(market.reader(VALIDATOR), archive, lambda verified: seen.append(len(verified.lines)))
        market.agent.client.append([STATUS] * 3)
        first = puller.pull("system")
        market.agent.kill()
        market.agent.start()
        market.agent.client.append([STATUS] * 300)
        assert puller.pull("system") >= 300
        assert puller.pull("system") in {0, 1}  # a sample may have come
        assert first >= 3
        lines = archive.lines(origin_of(NODE_KEY, "system"), 0, 10_000)
        assert [open_line(line).seq for line in lines] == list(range(len(lines)))
        assert sum(seen) == len(lines)
    with Archive(tmp_path / "archive.sqlite") as archive:
        frontier, note = archive.cursor(origin_of(NODE_KEY, "system"))
        assert (frontier.size, frontier.root()) == (len(lines), root(lines))
        assert note is not None


def test_a_stream_that_is_followed_brings_an_alert_at_once(market: Market) -> None:
    with market.reader(AUDITOR).stream("system", 0) as pieces:
        threading.Timer(0.3, lambda: market.agent.client.append([STATUS])).start()
        text = b""
        while b"event: checkpoint" not in text:
            text += next(pieces)
    assert b"event: certificate" in text
    assert b'"kind":"action.status"' in text


def test_who_may_read_what(market: Market) -> None:
    market.agent.client.open_stream(LEASE, RENTER_ID.public_key)
    for who, stream_id, may_read in (
        (VALIDATOR, "system", True),
        (AUDITOR, "system", True),
        (OWNER, "system", True),
        (RENTER_ID, "system", False),
        (RENTER_ID, LEASE, True),
        (OWNER, LEASE, True),
        (VALIDATOR, LEASE, False),
        (AUDITOR, LEASE, False),
        (OTHER, LEASE, False),
    ):
        reader = market.reader(who)
        assert reader.checkpoint(stream_id).certificate.subject
        if may_read:
            reader.events(stream_id, 0)
            reader.stream(stream_id, 0, follow=False).close()
            continue
        for read in (reader.events, reader.stream):
            with pytest.raises(RequestRejected) as caught:
                read(stream_id, 0)
            assert caught.value.code is ErrorCode.NOT_PERMITTED
    with pytest.raises(RequestRejected) as caught:
        market.reader(Identity(SigningKey(b"\x63" * 32))).checkpoint("system")
    assert caught.value.code is ErrorCode.NOT_PERMITTED


def test_a_lease_s_lines_stay_readable_for_its_renter_after_the_end(market: Market) -> None:
    market.agent.client.open_stream(LEASE, RENTER_ID.public_key)
    market.agent.client.close_stream(LEASE)
    page = market.reader(RENTER_ID).events(LEASE, 0)
    assert [open_line(line.encode()).kind for line in page.lines] == ["stream.opened", "stream.closed"]


def test_one_page_proves_itself_without_what_came_before(market: Market) -> None:
    market.agent.client.append([STATUS] * 9)
    page = market.reader(AUDITOR).events("system", 5)
    log = log_verifier(page.certificate, NODE_KEY, "system")
    assert page.checkpoint is not None
    for change in (0, 1):
        hashes = [bytes.fromhex(text) for text in page.frontier]
        hashes[0] = bytes([hashes[0][0] ^ change]) + hashes[0][1:]
        reader = StreamVerifier(log, Frontier(page.first, tuple(hashes)))
        for index, line in enumerate(page.lines):
            reader.add_line(page.first + index, line.encode())
        if change == 0:
            assert len(reader.add_checkpoint(page.checkpoint.encode()).lines) == len(page.lines)
        else:
            with pytest.raises(ProofRejected):
                reader.add_checkpoint(page.checkpoint.encode())


def test_one_event_is_proved_offline_by_a_file(market: Market) -> None:
    [done] = market.agent.client.append([STATUS])
    market.agent.client.append([STATUS] * 4)
    assert done.seq is not None
    proof = parse_log_proof(market.reader(AUDITOR).proof("system", done.seq).encode())
    log = log_verifier(market.reader(AUDITOR).checkpoint("system").certificate, NODE_KEY, "system")
    proof.verify(log)
    assert proof.extra is not None
    assert open_line(proof.extra).seq == done.seq
    with pytest.raises(InvalidProof):
        proof.verify(log, leaf=proof.extra.replace(b"RUNNING", b"RUNNINF"))
    with pytest.raises(RequestRejected, match="signed lines"):
        market.reader(AUDITOR).proof("system", 10_000)
    with pytest.raises(RequestRejected):
        market.reader(OTHER).proof("system", 0)


@pytest.mark.parametrize("target", ["system?from=99999", "system?from=-1", "system?from=x", "nosuch?from=0", "0" * 32])
def test_places_that_are_not_there_are_refused(market: Market, target: str) -> None:
    stream_id, _, first = target.partition("?from=")
    reader = market.reader(OWNER)
    with pytest.raises(RequestRejected):
        reader.events(stream_id, first or 0)  # type: ignore[arg-type]  # what a stranger might send
    with pytest.raises(RequestRejected):
        reader.stream(stream_id, first or 0)  # type: ignore[arg-type]  # as above


def test_without_the_agent_the_routes_are_unavailable(market: Market) -> None:
    market.agent.kill()
    with pytest.raises(Unavailable):
        market.reader(VALIDATOR).events("system", 0)
    market.agent.start()


# An adversary: a miner that serves a stream of its own making, signed with its real key.


@dataclass
class Editor:
    """Serves lines and checkpoints; ``tamper`` changes frames on their way out."""

    lines: list[bytes] = field(default_factory=lambda: [b'{"n":%d}' % number for number in range(6)])
    signed_lines: list[bytes] | None = None
    tamper: Callable[[list[Frame]], list[Frame]] = lambda frames: frames

    def app(self) -> Flask:
        flask, log = Flask("editor"), IDENTITY.subkey(Purpose.LOG)

        def note(size: int) -> str:
            lines = (self.signed_lines or self.lines)[:size]
            checkpoint = Checkpoint(origin_of(NODE_KEY, "system"), size, root(lines))
            return sign_checkpoint(checkpoint, log.key).raw.decode()

        def stream() -> Response:
            first = int(request.args["from"])
            frames = [Frame("certificate", log.certificate.model_dump_json().encode())]
            if first:
                frames.append(Frame("checkpoint", note(first).encode()))
            frames += [Frame("line", line, str(seq)) for seq, line in enumerate(self.lines)][first:]
            frames.append(Frame("checkpoint", note(len(self.lines)).encode()))
            return Response(b"".join(frame.encode() for frame in self.tamper(frames)), mimetype=MEDIA_TYPE)

        def checkpoint(_stream_id: str) -> dict[str, object]:
            size = int(request.args.get("size", len(self.lines)))
            hashes = [leaf_hash(line) for line in (self.signed_lines or self.lines)[:size]]
            proof = [value.hex() for value in consistency_proof(hashes, int(request.args["old"]))]
            certificate = log.certificate.model_dump(mode="json")
            return {"status": "success", "certificate": certificate, "checkpoint": note(size), "consistency": proof}

        flask.add_url_rule("/telemetry/stream", view_func=stream)
        flask.add_url_rule("/streams/<_stream_id>/checkpoint", view_func=checkpoint)
        return flask


def flipped(frames: list[Frame]) -> list[Frame]:
    return [Frame(f.event, f.data.replace(b'"n":4', b'"n":5'), f.id) for f in frames]


def reordered(frames: list[Frame]) -> list[Frame]:
    lines = [f for f in frames if f.event == "line"]
    swapped = {lines[-1].id: lines[-2].data, lines[-2].id: lines[-1].data}
    return [Frame(f.event, swapped.get(f.id, f.data), f.id) for f in frames]


def dropped(frames: list[Frame]) -> list[Frame]:
    return [f for f in frames if f.id != "4"]


@pytest.mark.parametrize(
    ("tamper", "reason"),
    [
        (flipped, RejectReason.LOG_MISMATCH),
        (reordered, RejectReason.LOG_MISMATCH),
        (dropped, RejectReason.LOG_GAP),
        (lambda frames: frames[1:], RejectReason.MALFORMED),
    ],
)
def test_a_carrier_that_changes_something_is_found_and_the_log_is_cleared(
    tmp_path: Path, tamper: Callable[[list[Frame]], list[Frame]], reason: RejectReason
) -> None:
    editor = Editor(lines=[b'{"n":%d}' % number for number in range(3)])
    supervisor, url = serve(editor.app())
    with Archive(tmp_path / "archive.sqlite") as archive:
        puller = Puller(TelemetryClient(url, NODE_KEY, VALIDATOR), archive)
        assert puller.pull("system") == 3
        editor.lines = [b'{"n":%d}' % number for number in range(6)]
        editor.tamper = tamper
        with pytest.raises(ProofRejected) as caught:
            puller.pull("system")
        assert caught.value.reason is reason
        assert archive.cursor(origin_of(NODE_KEY, "system"))[0].size == 3
        editor.tamper = lambda frames: frames
        assert puller.pull("system") == 3
    assert supervisor.stop(15)


@pytest.mark.parametrize("hides", [False, True], ids=["at the next look", "behind new lines"])
def test_an_event_edited_after_the_fact_is_a_fork_with_evidence(tmp_path: Path, hides: bool) -> None:
    """The cheat rewrites line 1 after it was signed and seen; with ``hides`` it sends no checkpoint of the old size."""
    editor = Editor()
    supervisor, url = serve(editor.app())
    origin = origin_of(NODE_KEY, "system")
    with Archive(tmp_path / "archive.sqlite") as archive:
        puller = Puller(TelemetryClient(url, NODE_KEY, VALIDATOR), archive)
        puller.pull("system")
        editor.lines = [editor.lines[0], b'{"n":"edited"}', *editor.lines[2:], b'{"n":6}']
        if hides:
            editor.tamper = lambda frames: [frames[0], *frames[2:]]
        with pytest.raises(LogFork):
            puller.pull("system")
        [(first, second)] = archive.forks(origin)
    # Anybody can check the evidence with the node's key alone.
    log = Ed25519Verifier(origin, IDENTITY.subkey(Purpose.LOG).key.public_key)
    old, new = open_checkpoint(first, log).checkpoint, open_checkpoint(second, log).checkpoint
    assert old.size == 6
    assert (new.size, new.root != old.root) == ((7 if hides else 6), True)
    assert supervisor.stop(15)


def test_errors_of_the_verifier_are_typed() -> None:
    assert issubclass(LogFork, SubnetError)
    assert not issubclass(InvalidProof, SubnetError)


def test_a_pull_with_a_bound_of_lines_goes_on_where_it_ended(tmp_path: Path) -> None:
    editor = Editor(lines=[b'{"n":%d}' % number for number in range(3)])
    supervisor, url = serve(editor.app())
    with Archive(tmp_path / "archive.sqlite") as archive:
        puller = Puller(TelemetryClient(url, NODE_KEY, VALIDATOR), archive)
        assert puller.pull("system", lines_max=1) == 3  # lines count once a checkpoint covers them
        editor.lines += [b'{"n":%d}' % number for number in range(3, 6)]
        assert puller.pull("system", lines_max=100, seconds_max=30) == 3
    assert supervisor.stop(15)
