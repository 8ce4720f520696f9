"""Transactions: one spelling each, and whatever is wrong with one is refused by name."""

from __future__ import annotations

import json

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from polarise.errors import ErrorCode, RequestRejected
from polarise.genesis import decode_genesis
from polarise.merkle import leaf_hash
from polarise.signing import Purpose, SignatureInvalid
from polarise.transaction import (
    MAX_TRANSACTION_BYTES,
    SetValue,
    SignedTransaction,
    TransactionVerifier,
    check_path,
    decode_transaction,
    sign_transaction,
)
from tests.unit.ledger.small_market import CREATED_UNIX_MS, GENESIS, LEDGER, MINER, VALIDATOR, Sender, genesis

PATH = f"/registry/{MINER.public_key}"
KEYS = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=20)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


def signed(value: object = 1, path: str = PATH) -> SignedTransaction:
    return Sender(MINER).sign(path, value)


def refused(raw: bytes) -> RequestRejected:
    with pytest.raises(RequestRejected) as err:
        decode_transaction(raw)
    return err.value


def respelled(transaction: SignedTransaction, **changes: object) -> bytes:
    """The same transaction with other fields, canonical, without a new signature."""
    return rfc8785.dumps(json.loads(transaction.raw) | changes)


@settings(max_examples=150, deadline=None)
@given(VALUES)
def test_bytes_are_rfc_8785_and_read_back(value: object) -> None:
    made = signed(value)
    assert made.raw == rfc8785.dumps(json.loads(made.raw))
    read = decode_transaction(made.raw)
    assert read.body.op.value == value
    assert read.hash == made.hash == leaf_hash(made.raw).hex()
    TransactionVerifier().verify(read)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_one_changed_byte_is_refused(data: st.DataObject) -> None:
    raw = signed({"a": [1, "x"]}).raw
    place, bit = data.draw(st.integers(0, len(raw) - 1)), data.draw(st.integers(0, 7))
    changed = raw[:place] + bytes([raw[place] ^ (1 << bit)]) + raw[place + 1 :]
    with pytest.raises((RequestRejected, SignatureInvalid)):
        TransactionVerifier().verify(decode_transaction(changed))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes_are_refused(raw: bytes) -> None:
    refused(raw)


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        (b'"nonce":0', b'"nonce":0.0', ErrorCode.INVALID_FIELD),
        (b'"nonce":0', b'"nonce":-0', ErrorCode.BAD_JSON),
        (b'"nonce":0', b'"nonce":0,"nonce":0', ErrorCode.DUPLICATE_KEY),
        (b'"nonce":0', b'"nonce": 0', ErrorCode.BAD_JSON),
        (b'"nonce":0', b'"nonce":NaN', ErrorCode.BAD_JSON),
        (b'"nonce":0', b'"nonce":1e400', ErrorCode.BAD_JSON),
        (b'"nonce":0', b'"nonce":9007199254740992', ErrorCode.INVALID_FIELD),
        (b'"nonce":0', b'"nonce":"0"', ErrorCode.INVALID_FIELD),
        (b'"nonce":0', b'"nonce":true', ErrorCode.INVALID_FIELD),
        (b'"amount":0', b'"amount":1', ErrorCode.INVALID_FIELD),
        (b'"v":1}', b'"v":2}', ErrorCode.INVALID_FIELD),
        (b'"v":1}', b'"v":1,"w":1}', ErrorCode.UNKNOWN_FIELD),
        (b'"v":1}', b'"v":1}\n', ErrorCode.BAD_JSON),
        (b'"v":1}', b'"v":1', ErrorCode.BAD_JSON),
        (b'"value":1', b'"value":1.5', ErrorCode.INVALID_FIELD),
        (b'"value":1', b'"value":"\\ud800"', ErrorCode.BAD_JSON),
        (b'"value":1', b'"value":"\\u0041"', ErrorCode.BAD_JSON),
        (b'"value":1', '"value":{"é":1}'.encode(), ErrorCode.INVALID_FIELD),
        (b'"value":1', b'"value":' + b"[" * 40 + b"]" * 40, ErrorCode.BAD_JSON),
        (b'"set_value"', b'"set_rule"', ErrorCode.NOT_SUPPORTED),
        (b'"set_value"', b'"set_trigger"', ErrorCode.NOT_SUPPORTED),
        (b'"set_value"', b'"transfer"', ErrorCode.NOT_SUPPORTED),
        (b'"set_value"', b'"steal"', ErrorCode.INVALID_FIELD),
    ],
)
def test_another_spelling_or_content_is_refused_by_name(old: bytes, new: bytes, code: ErrorCode) -> None:
    raw = signed().raw
    assert raw.count(old) == 1
    assert refused(raw.replace(old, new)).code is code


def test_size_is_bounded_at_what_an_entry_bundle_carries() -> None:
    room = MAX_TRANSACTION_BYTES - len(signed("").raw)
    assert len(signed("x" * room).raw) == MAX_TRANSACTION_BYTES
    with pytest.raises(RequestRejected) as err:
        signed("x" * (room + 1))
    assert err.value.code is ErrorCode.BODY_TOO_LARGE


@pytest.mark.parametrize(
    "path",
    ["", "/", "registry", "/registry/", "//a", "/A", "/a b", "/a/../b", "/" + "a" * 81, "/a" * 9, "/a\n", "/é", "/a.b"],
)
def test_what_is_no_path_is_refused(path: str) -> None:
    with pytest.raises(RequestRejected):
        check_path(path)
    assert refused(respelled(signed(), op={"kind": "set_value", "path": path, "value": 1})).field == "op.path"


def test_a_certificate_of_another_purpose_or_sender_is_refused() -> None:
    verifier = TransactionVerifier()
    op = SetValue(path=PATH, value=1)
    for subkey in (MINER.subkey(Purpose.STATEMENT), VALIDATOR.subkey(Purpose.LEDGER)):
        made = sign_transaction(MINER, op, net=GENESIS.net, nonce=0, time_unix_ms=0, subkey=subkey)
        with pytest.raises(SignatureInvalid, match="certificate is for"):
            verifier.verify(made)


def test_a_signature_of_another_key_or_for_another_body_is_refused() -> None:
    verifier = TransactionVerifier()
    mine, theirs = signed(1), signed(2)
    for changes in ({"signature": theirs.body.signature}, {"nonce": 1}, {"net": genesis(name="other").net}):
        with pytest.raises(SignatureInvalid):
            verifier.verify(decode_transaction(respelled(mine, **changes)))
    with pytest.raises(SignatureInvalid):
        verifier.verify(decode_transaction(respelled(mine, **{"from": VALIDATOR.public_key})))


def test_a_float_is_refused_before_it_is_signed() -> None:
    with pytest.raises(RequestRejected, match="integer"):
        Sender(MINER).sign(PATH, {"a": [0.5]})


def test_a_genesis_binds_its_ledger() -> None:
    """Another detail, another net id, and a log key nobody certified is refused."""
    assert GENESIS.net != genesis(created_unix_ms=CREATED_UNIX_MS + 1).net
    assert decode_genesis(json.dumps(GENESIS.to_wire()).encode()) == GENESIS
    forged = {**GENESIS.to_wire(), "log_certificate": VALIDATOR.subkey(Purpose.LOG).certificate.to_wire()}
    with pytest.raises(SignatureInvalid):
        decode_genesis(json.dumps(forged).encode())
    wrong_purpose = {**GENESIS.to_wire(), "log_certificate": LEDGER.subkey(Purpose.REQUEST).certificate.to_wire()}
    with pytest.raises(SignatureInvalid):
        decode_genesis(json.dumps(wrong_purpose).encode())
    twice = {**GENESIS.to_wire(), "validators": [member.to_wire() for member in GENESIS.validators[:1] * 2]}
    with pytest.raises(RequestRejected, match="each once"):
        decode_genesis(json.dumps(twice).encode())
