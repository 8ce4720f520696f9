"""Targets: notes, checkpoints, blocks, proofs, streams of frames, and what a witness is asked."""

from __future__ import annotations

import contextlib
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from polarise.block import Block, block_hash, block_of, open_block
from polarise.block_follower import BlockFollower, FileMemory
from polarise.checkpoint import (
    Checkpoint,
    CosignatureVerifier,
    SignedCheckpoint,
    cosign,
    cosignature_time,
    open_checkpoint,
    parse_checkpoint,
    parse_log_key,
    parse_size,
    parse_witness_key,
    sign_checkpoint,
)
from polarise.cli_proof import verify_proof
from polarise.errors import AnswerInvalid, LogFork, ProofRejected, RequestRejected
from polarise.frontier import Frontier
from polarise.log_proof import MAX_PROOF_BYTES, LogProof, parse_log_proof
from polarise.merkle import (
    InvalidProof,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root_of_hashes,
    verify_consistency,
    verify_inclusion,
)
from polarise.notes import (
    MAX_NOTE_BYTES,
    Ed25519Verifier,
    Note,
    NoteInvalid,
    decode_base64,
    encode_base64,
    open_note,
    parse_note,
    parse_signatures,
    parse_vkey,
    sign_note,
)
from polarise.signing import Purpose, SignatureInvalid, SigningKey
from polarise.sse import MAX_FRAME_BYTES, BlockReader, Frame, FrameReader
from polarise.stream import StreamVerifier, log_verifier, origin_of
from telemetry.puller import _certificate as certificate_of
from telemetry.puller import _seq as seq_of
from tests.fuzz.target import Call, Target, plain, text_of
from tests.support.identities import identity
from tlog.tiles import Tile, parse_tile
from tlog.witness import MAX_REQUEST_BYTES, AddCheckpoint, Witness, parse_request

ORIGIN = "log.example/fuzz"
KEY, WITNESS_KEY = SigningKey(b"\x01" * 32), SigningKey(b"\x02" * 32)
LOG = Ed25519Verifier(ORIGIN, KEY.public_key)
WITNESS = CosignatureVerifier("witness.example", WITNESS_KEY.public_key)
NODE = identity("node")
LEAVES = [b"leaf %d" % index for index in range(7)]
HASHES = [leaf_hash(leaf) for leaf in LEAVES]


def note(size: int = 7, *extensions: str) -> SignedCheckpoint:
    """The log's checkpoint of its first leaves."""
    return sign_checkpoint(Checkpoint(ORIGIN, size, root_of_hashes(HASHES[:size]), extensions), KEY)


def block(height: int = 0, size: int = 7) -> bytes:
    """A signed block."""
    made = Block(ORIGIN, size, root_of_hashes(HASHES[:size]), height, 1_700_000_000_000 + height, "0" * 64, "0" * 64)
    return sign_checkpoint(made.checkpoint(), KEY).raw


def cosigned() -> bytes:
    """A checkpoint with a witness's word under it."""
    signed = note()
    return signed.note.with_signatures([cosign(signed.note.text, "witness.example", WITNESS_KEY, 5)]).encode()


def proofs() -> list[bytes]:
    """Proof files, with their leaf and without."""
    hashes = tuple(inclusion_proof(HASHES, 3))
    return [LogProof(3, hashes, cosigned(), LEAVES[3]).encode(), LogProof(3, hashes, note().raw).encode()]


def requests() -> list[bytes]:
    """What a log asks a witness."""
    return [
        AddCheckpoint(0, (), note(4).raw).encode(),
        AddCheckpoint(4, tuple(consistency_proof(HASHES, 4)), note(7).raw).encode(),
    ]


def stream() -> bytes:
    """A node's stream as it travels."""
    subkey = NODE.subkey(Purpose.LOG)
    checkpoint = sign_checkpoint(
        Checkpoint(origin_of(NODE.public_key, "system"), 7, root_of_hashes(HASHES)), subkey.key
    )
    frames = [
        Frame("certificate", subkey.certificate.model_dump_json().encode()),
        *(Frame("line", leaf, str(index)) for index, leaf in enumerate(LEAVES)),
        Frame("checkpoint", checkpoint.raw),
    ]
    return b": alive\n\n" + b"".join(frame.encode() for frame in frames)


def _signed_text(opening: Callable[[bytes], object]) -> Call:
    """Sign whatever text comes, as a log that lies would, and open it."""

    def call(raw: bytes) -> object:
        try:
            text = raw.decode()
            signature = sign_note(text, ORIGIN, KEY)
        except ValueError:
            return None
        return opening(Note(text, (signature,)).encode())

    return call


def _read_stream(raw: bytes) -> list[bytes]:
    """Read a stream as `telemetry.puller` does, in pieces of any size."""
    reader, verifier = FrameReader(), None
    lines: list[bytes] = []
    step = 1 + len(raw) % 97
    for start in range(0, len(raw), step):
        for frame in reader.feed(raw[start : start + step]):
            if verifier is None:
                verifier = StreamVerifier(log_verifier(certificate_of(frame), NODE.public_key, "system"))
            elif frame.event == "line":
                verifier.add_line(seq_of(frame), frame.data)
            elif frame.event == "checkpoint":
                lines.extend(verifier.add_checkpoint(frame.data).lines)
    return lines


def _inclusion(raw: bytes) -> None:
    index, size = struct.unpack(">qq", raw[:16].ljust(16, b"\0"))
    hashes = [raw[start : start + 32] for start in range(16, len(raw), 32)] or [b""]
    verify_inclusion(hashes[0], index, size, hashes[1:-1], hashes[-1])


def _consistency(raw: bytes) -> None:
    old, new = struct.unpack(">qq", raw[:16].ljust(16, b"\0"))
    hashes = [raw[start : start + 32] for start in range(16, len(raw), 32)] or [b""]
    verify_consistency(old, hashes[0], new, hashes[-1], hashes[1:-1])


def _frontier(raw: bytes) -> bytes:
    (size,) = struct.unpack(">Q", raw[:8].ljust(8, b"\0"))
    edge = Frontier(size, tuple(raw[start : start + 32] for start in range(8, len(raw), 32)))
    edge.add(HASHES[0])
    return edge.root()


@contextlib.contextmanager
def _witness() -> Iterator[Call]:
    with (
        tempfile.TemporaryDirectory() as folder,
        Witness(Path(folder) / "witness.sqlite", "witness.example", WITNESS_KEY, [LOG]) as witness,
    ):
        yield lambda raw: witness.add_checkpoint(raw, 5)


@contextlib.contextmanager
def _follower() -> Iterator[Call]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "block"

        def call(raw: bytes) -> object:
            path.write_bytes(raw)
            follower = BlockFollower(LOG, FileMemory(path))
            follower.advance(block(5), lambda _old, _new: [])
            return follower.advance(raw, lambda _old, _new: [])

        yield call


def _cosignature(raw: bytes) -> object:
    return open_note(raw, [WITNESS])


TARGETS = (
    Target(
        "polarise.notes.parse_note",
        plain(parse_note),
        lambda: [note().raw, cosigned()],
        (NoteInvalid,),
        MAX_NOTE_BYTES,
        encode=lambda value: value.encode() if isinstance(value, Note) else b"",
    ),
    Target(
        "polarise.notes.parse_signatures",
        plain(parse_signatures),
        lambda: [cosigned().partition(b"\n\n")[2]],
        (NoteInvalid,),
        MAX_NOTE_BYTES,
        encode=lambda value: "".join(line.line() for line in value).encode() if isinstance(value, tuple) else b"",
    ),
    Target(
        "polarise.notes.open_note",
        plain(_cosignature),
        lambda: [cosigned()],
        (NoteInvalid,),
        MAX_NOTE_BYTES,
        covers=("polarise.notes.verify_note", "polarise.notes.check_ed25519"),
    ),
    Target(
        "polarise.notes.parse_vkey",
        plain(lambda raw: parse_vkey(text_of(raw))),
        lambda: [LOG.vkey.encode(), WITNESS.vkey.encode()],
        (NoteInvalid,),
        4096,
    ),
    Target(
        "polarise.notes.decode_base64",
        plain(lambda raw: decode_base64(text_of(raw), "text")),
        lambda: [b"AAEC", b"AA==", b""],
        (NoteInvalid,),
        MAX_NOTE_BYTES,
        encode=lambda value: encode_base64(value).encode() if isinstance(value, bytes) else b"",
    ),
    Target(
        "polarise.checkpoint.parse_checkpoint",
        plain(lambda raw: parse_checkpoint(text_of(raw))),
        lambda: [note().note.text.encode(), note(3, "extension", "another").note.text.encode()],
        (NoteInvalid,),
        MAX_NOTE_BYTES,
        encode=lambda value: value.text().encode("utf-8", "surrogateescape") if isinstance(value, Checkpoint) else b"",
    ),
    Target(
        "polarise.checkpoint.parse_size",
        plain(lambda raw: parse_size(text_of(raw))),
        lambda: [b"0", b"7", b"9223372036854775807"],
        (NoteInvalid,),
        4096,
        encode=lambda value: str(value).encode(),
    ),
    Target(
        "polarise.checkpoint.open_checkpoint",
        plain(_signed_text(lambda raw: open_checkpoint(raw, LOG))),
        lambda: [note().note.text.encode(), note(3, "extension").note.text.encode()],
        (NoteInvalid,),
        MAX_NOTE_BYTES,
    ),
    Target(
        "polarise.checkpoint.parse_log_key",
        plain(lambda raw: parse_log_key(text_of(raw), ORIGIN)),
        lambda: [LOG.vkey.encode(), KEY.public_key.encode()],
        (NoteInvalid,),
        4096,
    ),
    Target(
        "polarise.checkpoint.parse_witness_key",
        plain(lambda raw: parse_witness_key(text_of(raw))),
        lambda: [WITNESS.vkey.encode()],
        (NoteInvalid,),
        4096,
        encode=lambda value: value.vkey.encode() if isinstance(value, CosignatureVerifier) else b"",
    ),
    Target("polarise.checkpoint.cosignature_time", plain(cosignature_time), lambda: [bytes(72)], (NoteInvalid,), 4096),
    Target(
        "polarise.block.open_block",
        plain(_signed_text(lambda raw: open_block(raw, LOG))),
        lambda: [block().rpartition(b"\n\n")[0] + b"\n"],
        (NoteInvalid,),
        MAX_NOTE_BYTES,
    ),
    Target(
        "polarise.block.block_of",
        plain(lambda raw: block_of(parse_checkpoint(text_of(raw)))),
        lambda: [block().rpartition(b"\n\n")[0] + b"\n"],
        (NoteInvalid,),
        MAX_NOTE_BYTES,
    ),
    Target("polarise.block.block_hash", plain(block_hash), lambda: [block()], (NoteInvalid,), MAX_NOTE_BYTES),
    Target(
        "polarise.block_follower.BlockFollower.advance",
        _follower,
        lambda: [block(4), block(5), block(6, 7)],
        (AnswerInvalid, LogFork),
        MAX_NOTE_BYTES,
        covers=("polarise.block_follower.BlockFollower.opened", "polarise.block_follower.FileMemory.load"),
        weight=4,
    ),
    Target(
        "polarise.log_proof.parse_log_proof",
        plain(parse_log_proof),
        proofs,
        (NoteInvalid,),
        MAX_PROOF_BYTES,
        encode=lambda value: value.encode() if isinstance(value, LogProof) else b"",
    ),
    Target(
        "polarise.log_proof.LogProof.verify",
        plain(lambda raw: parse_log_proof(raw).verify(LOG, leaf=LEAVES[3], witnesses=[WITNESS], witnesses_min=0)),
        proofs,
        (NoteInvalid, InvalidProof),
        MAX_PROOF_BYTES,
    ),
    Target(
        "polarise.cli_proof.verify_proof",
        plain(lambda raw: verify_proof(raw, LOG.vkey, [WITNESS.vkey], 1)),
        lambda: proofs()[:1],
        (NoteInvalid, InvalidProof, SignatureInvalid),
        MAX_PROOF_BYTES,
        covers=("polarise.cli_proof.is_proof",),
    ),
    Target(
        "polarise.merkle.verify_inclusion",
        plain(_inclusion),
        lambda: [struct.pack(">qq", 3, 7) + b"".join([HASHES[3], *inclusion_proof(HASHES, 3), root_of_hashes(HASHES)])],
        (InvalidProof,),
        16 + 70 * 32,
    ),
    Target(
        "polarise.merkle.verify_consistency",
        plain(_consistency),
        lambda: [
            struct.pack(">qq", 4, 7)
            + b"".join([root_of_hashes(HASHES[:4]), *consistency_proof(HASHES, 4), root_of_hashes(HASHES)])
        ],
        (InvalidProof,),
        16 + 130 * 32,
    ),
    Target(
        "polarise.frontier.Frontier",
        plain(_frontier),
        lambda: [struct.pack(">Q", 5) + HASHES[0] + HASHES[1]],
        (InvalidProof,),
        8 + 64 * 32,
    ),
    Target(
        "polarise.sse.FrameReader.feed",
        plain(lambda raw: list(FrameReader().feed(raw))),
        lambda: [stream(), b"event: a\nid: 1\ndata: x\ndata: y\n\n"],
        (AnswerInvalid,),
        MAX_FRAME_BYTES,
    ),
    Target(
        "polarise.sse.BlockReader.feed",
        plain(lambda raw: list(BlockReader(4096).feed(raw))),
        lambda: [b"a\n\nb\n\nc"],
        (AnswerInvalid,),
        MAX_FRAME_BYTES,
    ),
    Target(
        "polarise.stream.StreamVerifier",
        plain(_read_stream),
        lambda: [stream()],
        (ProofRejected, LogFork, AnswerInvalid),
        MAX_FRAME_BYTES,
        covers=(
            "polarise.stream.StreamVerifier.add_line",
            "polarise.stream.StreamVerifier.add_checkpoint",
            "polarise.stream.log_verifier",
        ),
    ),
    Target(
        "tlog.witness.parse_request",
        plain(parse_request),
        requests,
        (RequestRejected,),
        MAX_REQUEST_BYTES,
        encode=lambda value: value.encode() if isinstance(value, AddCheckpoint) else b"",
    ),
    Target(
        "tlog.witness.Witness.add_checkpoint",
        _witness,
        requests,
        (RequestRejected, LogFork),
        MAX_REQUEST_BYTES,
        weight=4,
    ),
    Target(
        "tlog.tiles.parse_tile",
        plain(lambda raw: parse_tile(text_of(raw))),
        lambda: [b"0/000", b"entries/x001/234.p/7", b"63/999"],
        (),
        4096,
        encode=lambda value: value.path.encode() if isinstance(value, Tile) else b"",
    ),
)
