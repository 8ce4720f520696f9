"""Targets: what validators hand a miner as cosigned, and what logs send a validator to be cosigned."""

from __future__ import annotations

import contextlib
import json
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from flask import Flask

from neurons.base.access import Caller, Role, Scope
from neurons.base.agent_client import AgentClient
from neurons.base.metrics import MetricsTracker
from neurons.miner.telemetry_routes import TelemetryRoutes
from neurons.validator.access_table import VALIDATOR_ACCESS
from neurons.validator.witness_routes import WitnessRoutes
from polarise.checkpoint import cosign
from polarise.cosignature import MOST, SizedCosignature, witness_name, witness_verifier
from polarise.decode import MAX_BODY_BYTES, decode_model
from polarise.errors import RequestRejected
from polarise.notes import NoteInvalid, NoteSignature, parse_note
from polarise.signing import Certificate, Purpose, SignatureInvalid
from polarise.stream import SYSTEM
from tests.fuzz.agent import small_agent
from tests.fuzz.logs import LOG, WITNESS_KEY, cosigned, note, requests
from tests.fuzz.network import exchange, serving
from tests.fuzz.target import KIB, Call, Target, plain
from tests.support.proving_miner import VALIDATOR
from tlog.witness import MAX_REQUEST_BYTES, Witness
from utils.clock import SystemClock

SUBKEY = VALIDATOR.subkey(Purpose.WITNESS)
NAME = witness_name(VALIDATOR.public_key)
CALLER = Caller(VALIDATOR.public_key, Role.VALIDATOR, Scope.OWN)
SIZE = 1


@contextlib.contextmanager
def _taken() -> Iterator[Call]:
    """The miner's route with a real agent behind its socket; a line that is a number is signed as of that time."""
    with small_agent() as (_doors, control, streams, folder):
        streams.emit(SYSTEM, "action.status", {"status": "RUNNING"})
        with streams.reading(SYSTEM) as log:
            signed = log.note_at(SIZE)
        assert signed is not None
        text = parse_note(signed).text
        control.prepare()
        stop = threading.Event()
        thread = threading.Thread(target=control.run, args=(stop,), name="control")
        thread.start()
        agent = AgentClient(folder)
        routes, application = TelemetryRoutes(agent), Flask("miner")

        def call(raw: bytes) -> str | None:
            # The body's type is asked of the request.
            with application.test_request_context():
                routes.cosignature(CALLER, _with_signatures(raw, text), SYSTEM)
            return agent.checkpoint(SYSTEM, None, None, witnesses=MOST).note

        try:
            yield call
        finally:
            stop.set()
            thread.join()


def _with_signatures(raw: bytes, text: str) -> bytes:
    """Sign as a validator that lies would: what it likes about size and time, but with its own key."""
    try:
        body = json.loads(raw)
        for item in body["cosignatures"]:
            if isinstance(item["line"], int):
                item["line"] = cosign(text, NAME, SUBKEY.key, item["line"]).line()
        return json.dumps(body).encode()
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError):
        return raw


def _cosignature_requests() -> list[bytes]:
    made = {"certificate": SUBKEY.certificate.model_dump(mode="json"), "cosignatures": [{"size": SIZE, "line": 5}]}
    return [json.dumps(made).encode(), json.dumps({**made, "cosignatures": [{"size": SIZE, "line": 6}] * 2}).encode()]


def _line(raw: bytes) -> object:
    return decode_model(SizedCosignature, raw).signature()


def _lines() -> list[bytes]:
    line = cosign(note().note.text, NAME, SUBKEY.key, 5).line()
    return [json.dumps({"size": 7, "line": line}).encode()]


def _sized(value: object) -> bytes:
    return json.dumps({"size": 7, "line": cast(NoteSignature, value).line()}).encode()


def _verifier(raw: bytes) -> object:
    return witness_verifier(decode_model(Certificate, raw), VALIDATOR.public_key)


@contextlib.contextmanager
def _witness() -> Iterator[Call]:
    """The validator's real route; one request a call."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Witness(Path(folder) / "witness.sqlite", NAME, WITNESS_KEY, [LOG]) as witness,
    ):
        routes = WitnessRoutes(witness, SUBKEY.certificate, MetricsTracker(), SystemClock())
        with serving(VALIDATOR_ACCESS, routes.register) as port:
            head = "POST /witness/add-checkpoint HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {}\r\n\r\n"
            yield lambda raw: exchange(port, head.format(len(raw)).encode() + raw)


TARGETS = (
    Target(
        "polarise.cosignature.SizedCosignature.signature",
        plain(_line),
        _lines,
        (RequestRejected, NoteInvalid),
        MAX_BODY_BYTES,
        encode=_sized,
    ),
    Target(
        "polarise.cosignature.witness_verifier",
        plain(_verifier),
        lambda: [SUBKEY.certificate.model_dump_json().encode()],
        (RequestRejected, SignatureInvalid),
        MAX_BODY_BYTES,
    ),
    Target(
        "neurons.miner.telemetry_routes.TelemetryRoutes.cosignature",
        _taken,
        _cosignature_requests,
        (RequestRejected,),
        MAX_BODY_BYTES,
        memory_base_bytes=1024 * KIB,
        covers=("neurons.agent.cosigned.Cosigned",),
        weight=6,
    ),
    Target(
        "neurons.validator.witness_routes.WitnessRoutes.add_checkpoint",
        _witness,
        lambda: [*requests(), cosigned()],
        (),
        MAX_REQUEST_BYTES,
        memory_base_bytes=4096 * KIB,
        weight=8,
    ),
)
