"""Signed statements: who said what, and nothing else."""

from __future__ import annotations

import json

import pytest

from polarise.decode import WireModel, decode_model
from polarise.errors import RequestRejected
from polarise.signing import Certificate, Identity, Purpose, SignatureInvalid
from polarise.statement import SignedStatement, sign_statement
from tests.unit.polarise.small_miner import identity

NODE, OTHER = identity(1), identity(2)


class Word(WireModel):
    """A body to sign."""

    text: str
    number: int = 0


STATEMENT = sign_statement(NODE, "word", Word(text="so it is"))


def test_a_statement_survives_the_wire() -> None:
    wire = json.dumps(STATEMENT.to_wire()).encode()
    received = decode_model(SignedStatement, wire)
    assert received.open("word", Word, signer=NODE.public_key) == Word(text="so it is")
    assert received.digest() == STATEMENT.digest()


def test_key_order_and_blanks_do_not_matter() -> None:
    shuffled = dict(reversed(STATEMENT.to_wire().items()))
    received = decode_model(SignedStatement, json.dumps(shuffled, indent=4).encode())
    assert received.open("word", Word).text == "so it is"


def test_another_kind_or_signer_is_invalid() -> None:
    with pytest.raises(SignatureInvalid, match="expected a receipt"):
        STATEMENT.open("receipt", Word)
    with pytest.raises(SignatureInvalid, match="signed by"):
        STATEMENT.open("word", Word, signer=OTHER.public_key)


def request_certificate(node: Identity) -> Certificate:
    return node.subkey(Purpose.REQUEST).certificate


@pytest.mark.parametrize(
    "change",
    [
        {"body": {"text": "so it is not", "number": 0}},
        {"body": {"text": "so it is", "number": 1}},
        {"body": {"text": "so it is"}},
        {"signer": OTHER.public_key},
        {"signature": "0" * 128},
        {"certificate": request_certificate(NODE)},
        {"certificate": OTHER.subkey(Purpose.STATEMENT).certificate},
        {"certificate": NODE.subkey(Purpose.STATEMENT, 1).certificate},
    ],
)
def test_every_part_is_bound(change: dict[str, object]) -> None:
    with pytest.raises(SignatureInvalid):
        STATEMENT.model_copy(update=change).open("word", Word)


def test_the_kind_is_signed() -> None:
    with pytest.raises(SignatureInvalid, match="does not verify"):
        STATEMENT.model_copy(update={"kind": "receipt"}).open("receipt", Word)


def test_a_request_key_cannot_make_statements() -> None:
    """A stolen request subkey signs no receipts."""
    subkey = NODE.subkey(Purpose.REQUEST)
    forged = STATEMENT.model_copy(
        update={"certificate": subkey.certificate, "signature": subkey.key.sign("word", b"{}"), "body": {}}
    )
    with pytest.raises(SignatureInvalid, match="expected statement"):
        forged.open("word", Word)


def test_a_body_of_another_shape_is_invalid() -> None:
    class Other(WireModel):
        number: str

    with pytest.raises(SignatureInvalid, match="another shape"):
        STATEMENT.open("word", Other)


@pytest.mark.parametrize("value", [float("inf"), 2**60, "\ud800"])
def test_a_body_without_a_canonical_form_is_invalid(value: object) -> None:
    with pytest.raises(SignatureInvalid, match="canonical"):
        STATEMENT.model_copy(update={"body": {"text": value}}).open("word", Word)


@pytest.mark.parametrize("change", [{"kind": "Word!"}, {"signer": "x"}, {"signature": ""}, {"extra": 1}, {"body": []}])
def test_a_statement_of_another_shape_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(RequestRejected):
        decode_model(SignedStatement, json.dumps({**STATEMENT.to_wire(), **change}).encode())
