"""A witness and real logs: honest growth, rollback, forks, forgeries, and a restart in between."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from polarise.checkpoint import Checkpoint, cosign, open_checkpoint, sign_checkpoint
from polarise.errors import LogFork, RequestRejected
from polarise.notes import Ed25519Verifier, parse_signatures
from polarise.signing import SigningKey
from tlog.store import LogStore
from tlog.witness import AddCheckpoint, StaleCheckpoint, Witness, log_name, parse_request

ORIGIN = "log.example/one"
KEY = SigningKey(bytes([3]) * 32)
WITNESS_KEY = SigningKey(bytes([4]) * 32)
LOG = Ed25519Verifier(ORIGIN, KEY.public_key)
NOW = 1_790_000_000


@pytest.fixture
def witness(tmp_path: Path) -> Iterator[Witness]:
    with Witness(tmp_path / "witness.sqlite", "w.example", WITNESS_KEY, [LOG]) as made:
        yield made


@pytest.fixture
def log(tmp_path: Path) -> Iterator[LogStore]:
    with LogStore(tmp_path / "log.sqlite", ORIGIN) as made:
        yield made


def request(log: LogStore, old_size: int) -> bytes:
    note = log.checkpoint(KEY)
    return AddCheckpoint(old_size, tuple(log.consistency(old_size, log.size)), note.raw).encode()


def status_of(witness: Witness, body: bytes) -> int:
    with pytest.raises(RequestRejected) as err:
        witness.add_checkpoint(body, NOW)
    return err.value.status


def test_a_growing_log_is_cosigned_at_every_size(witness: Witness, log: LogStore) -> None:
    known = 0
    for _ in range(6):
        log.append_many([b"x", b"y", b"z"])
        answer = witness.add_checkpoint(request(log, known), NOW)
        known = log.size
        (signature,) = parse_signatures(answer)
        note = open_checkpoint(log.latest_checkpoint() or b"", LOG).note
        witness.verifier.check(note.text, signature.signature)
        assert witness.latest(ORIGIN) == note.encode() + answer


def test_the_published_request_is_read() -> None:
    """The body of c2sp.org/tlog-witness, shortened to one signature."""
    body = (
        "old 20852014\n"
        "PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=\n"
        "jrJZDmY8Y7SyJE0MWLpLozkIVMSMZcD5kvuKxPC3swk=\n"
        "\n"
        "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n— x AAAAAAA=\n"
    ).encode()
    read = parse_request(body)
    assert (read.old_size, len(read.proof)) == (20852014, 2)
    assert read.encode() == body


def test_a_rollback_is_told_the_size_to_start_from(witness: Witness, log: LogStore) -> None:
    log.append_many([b"a", b"b"])
    early = request(log, 0)
    log.append(b"c")
    witness.add_checkpoint(request(log, 0), NOW)
    with pytest.raises(StaleCheckpoint) as err:
        witness.add_checkpoint(early, NOW)
    assert (err.value.status, err.value.known_size) == (409, 3)
    assert witness.evidence(ORIGIN) == []


def test_a_fork_is_refused_and_both_notes_are_kept(witness: Witness, log: LogStore, tmp_path: Path) -> None:
    log.append_many([b"a", b"b"])
    witness.add_checkpoint(request(log, 0), NOW)
    first = log.latest_checkpoint()
    with LogStore(tmp_path / "fork.sqlite", ORIGIN) as fork:
        fork.append_many([b"a", b"B"])
        with pytest.raises(LogFork) as err:
            witness.add_checkpoint(request(fork, 2), NOW)
        fork.append(b"c")
        with pytest.raises(LogFork):
            witness.add_checkpoint(request(fork, 2), NOW)
    assert (err.value.first, err.value.second) == witness.evidence(ORIGIN)[0]
    roots = [open_checkpoint(note, LOG).checkpoint.root for note in witness.evidence(ORIGIN)[0]]
    assert roots[0] != roots[1]
    assert len(witness.evidence(ORIGIN)) == 2
    assert (witness.latest(ORIGIN) or b"").startswith(first or b"?")


def test_what_was_seen_survives_a_restart(log: LogStore, tmp_path: Path) -> None:
    path = tmp_path / "witness.sqlite"
    log.append(b"a")
    with Witness(path, "w.example", WITNESS_KEY, [LOG]) as before:
        before.add_checkpoint(request(log, 0), NOW)
    with Witness(path, "w.example", WITNESS_KEY, [LOG]) as after, pytest.raises(StaleCheckpoint):
        after.add_checkpoint(request(log, 0), NOW)


def test_an_unknown_log_and_a_wrong_key_are_refused(witness: Witness, log: LogStore, tmp_path: Path) -> None:
    log.append(b"a")
    with LogStore(tmp_path / "other.sqlite", "log.example/two") as other:
        other.append(b"a")
        assert status_of(witness, request(other, 0)) == 404
    forged = sign_checkpoint(Checkpoint(ORIGIN, 1, log.root()), SigningKey(bytes([9]) * 32))
    assert status_of(witness, AddCheckpoint(0, (), forged.raw).encode()) == 403


def test_the_empty_tree_has_one_root_and_a_first_proof_is_empty(witness: Witness, log: LogStore) -> None:
    wrong = sign_checkpoint(Checkpoint(ORIGIN, 0, bytes(32)), KEY)
    assert status_of(witness, AddCheckpoint(0, (), wrong.raw).encode()) == 422
    witness.add_checkpoint(request(log, 0), NOW)
    log.append(b"a")
    note = log.checkpoint(KEY).raw
    with pytest.raises(LogFork):
        witness.add_checkpoint(AddCheckpoint(0, (bytes(32),), note).encode(), NOW)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"old 0",
        b"old 01\n\nx",
        b"new 0\n\nx",
        b"old 0\n!\n\nx",
        b"old 0\n" + b"CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n" * 64 + b"\nx",
        b"old 0\n" + b"A" * (1 << 20),
    ],
)
def test_what_is_no_request_is_refused(witness: Witness, body: bytes) -> None:
    assert status_of(witness, body) in {400, 413}


def test_an_old_size_beyond_the_checkpoint_is_refused(witness: Witness, log: LogStore) -> None:
    log.append(b"a")
    assert status_of(witness, AddCheckpoint(2, (), log.checkpoint(KEY).raw).encode()) == 400


def test_evidence_is_bounded(witness: Witness, log: LogStore) -> None:
    log.append_many([b"a", b"b"])
    witness.add_checkpoint(request(log, 0), NOW)
    log.append(b"c")
    note = log.checkpoint(KEY).raw
    for _ in range(40):
        with pytest.raises(LogFork):
            witness.add_checkpoint(AddCheckpoint(2, (bytes(32),), note).encode(), NOW)
    assert len(witness.evidence(ORIGIN)) == 16


def test_a_restart_still_knows_which_logs_it_follows(log: LogStore, tmp_path: Path) -> None:
    path = tmp_path / "witness.sqlite"
    log.append(b"a")
    with Witness(path, "w.example", WITNESS_KEY, []) as before:
        before.follow(LOG)
    with Witness(path, "w.example", WITNESS_KEY, []) as after:
        after.add_checkpoint(request(log, 0), NOW)
        assert [(seen.origin, seen.size) for seen in after.page("", 10)] == [(ORIGIN, 1)]


def test_a_log_that_changed_its_key_goes_on_from_what_the_old_one_signed(witness: Witness, log: LogStore) -> None:
    log.append(b"a")
    witness.add_checkpoint(request(log, 0), NOW)
    other = SigningKey(bytes([9]) * 32)
    witness.follow(Ed25519Verifier(ORIGIN, other.public_key))
    log.append(b"b")
    assert status_of(witness, request(log, 1)) == 403
    grown = sign_checkpoint(Checkpoint(ORIGIN, 2, log.root()), other).raw
    rewritten = sign_checkpoint(Checkpoint(ORIGIN, 2, bytes(32)), other).raw
    proof = tuple(log.consistency(1, 2))
    with pytest.raises(LogFork):
        witness.add_checkpoint(AddCheckpoint(1, proof, rewritten).encode(), NOW)
    witness.add_checkpoint(AddCheckpoint(1, proof, grown).encode(), NOW)


def test_the_same_note_gets_the_same_line_for_a_minute(witness: Witness, log: LogStore) -> None:
    log.append(b"a")
    first = witness.add_checkpoint(request(log, 0), NOW)
    again = AddCheckpoint(1, (), log.latest_checkpoint() or b"").encode()
    assert witness.add_checkpoint(again, NOW + 59) == first
    assert witness.add_checkpoint(again, NOW + 60) != first


def test_signatures_of_others_are_not_kept(witness: Witness, log: LogStore) -> None:
    log.append(b"a")
    signed = log.checkpoint(KEY)
    stranger = cosign(signed.note.text, "v.example", SigningKey(bytes([5]) * 32), NOW)
    crowded = signed.note.with_signatures([stranger] * 20).encode()
    line = witness.add_checkpoint(AddCheckpoint(0, (), crowded).encode(), NOW)
    assert witness.latest(ORIGIN) == signed.raw + line


def test_pages_are_in_the_order_of_the_names(tmp_path: Path) -> None:
    origins = [f"log.example/{number}" for number in range(5)]
    logs = [Ed25519Verifier(origin, KEY.public_key) for origin in origins]
    with Witness(tmp_path / "witness.sqlite", "w.example", WITNESS_KEY, logs) as witness:
        for origin in origins:
            note = sign_checkpoint(Checkpoint(origin, 1, bytes(32)), KEY).raw
            witness.add_checkpoint(AddCheckpoint(0, (), note).encode(), NOW)
        names = [seen.name for seen in witness.page("", 5)]
        assert names == sorted(log_name(origin) for origin in origins)
        assert [seen.name for seen in witness.page(names[1], 2)] == names[2:4]
