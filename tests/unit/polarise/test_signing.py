"""Keys, domains and certificates."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from polarise.signing import Certificate, Identity, Purpose, SignatureInvalid, SigningKey, verify

# RFC 8032 section 7.1, TEST 3.
SEED = bytes.fromhex("c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7")
PUBLIC = "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025"
SIGNATURE = (
    "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
    "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a"
)

KEY, OTHER = SigningKey(bytes([1]) * 32), SigningKey(bytes([2]) * 32)


def test_vector_of_rfc_8032() -> None:
    key = SigningKey(SEED)
    assert key.public_key == PUBLIC
    assert key.private.sign(b"\xaf\x82").hex() == SIGNATURE


def test_a_signature_covers_its_domain() -> None:
    signature = KEY.sign("receipt", b"x")
    verify(KEY.public_key, "receipt", b"x", signature)
    for public, domain, payload in (
        (KEY.public_key, "receip", b"x"),
        (KEY.public_key, "registry", b"x"),
        (KEY.public_key, "receipt", b"y"),
        (OTHER.public_key, "receipt", b"x"),
    ):
        with pytest.raises(SignatureInvalid):
            verify(public, domain, payload, signature)


def test_a_raw_signature_is_good_for_no_domain() -> None:
    with pytest.raises(SignatureInvalid):
        verify(KEY.public_key, "receipt", b"x", KEY.private.sign(b"x").hex())


@pytest.mark.parametrize(
    "public", ["", "0" * 63, "0" * 65, KEY.public_key.upper(), KEY.public_key + "\n", "g" * 64, "f" * 64]
)
def test_a_malformed_public_key_is_invalid(public: str) -> None:
    with pytest.raises(SignatureInvalid):
        verify(public, "receipt", b"x", KEY.sign("receipt", b"x"))


def test_every_flipped_bit_of_a_signature_is_invalid() -> None:
    signature = bytes.fromhex(KEY.sign("receipt", b"x"))
    for bit in range(512):
        flipped = bytearray(signature)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(SignatureInvalid):
            verify(KEY.public_key, "receipt", b"x", flipped.hex())


def test_seed_has_32_bytes() -> None:
    for size in (0, 31, 33):
        with pytest.raises(ValueError, match="32 bytes"):
            SigningKey(bytes(size))


def test_repr_shows_no_secret() -> None:
    text = repr(Identity(KEY))
    assert "***" in text
    assert "01" * 8 not in text


def test_subkeys_differ_by_purpose_and_counter() -> None:
    keys = {KEY.derive(purpose, counter).public_key for purpose in Purpose for counter in (0, 1)}
    assert len(keys) == 2 * len(Purpose)
    seed = HKDF(hashes.SHA256(), 32, b"polarise/subkey/1", b"request/0").derive(bytes([1]) * 32)
    assert KEY.derive(Purpose.REQUEST, 0).public_key == SigningKey(seed).public_key


def test_certificate_holds_for_its_issuer_and_purpose_only() -> None:
    certificate = Identity(KEY).subkey(Purpose.STATEMENT).certificate
    certificate.check(issuer=KEY.public_key, purpose=Purpose.STATEMENT)
    with pytest.raises(SignatureInvalid, match="expected request"):
        certificate.check(issuer=KEY.public_key, purpose=Purpose.REQUEST)
    with pytest.raises(SignatureInvalid):
        certificate.check(issuer=OTHER.public_key, purpose=Purpose.STATEMENT)


@pytest.mark.parametrize(
    "change",
    [
        {"subject": KEY.public_key},
        {"issuer": OTHER.public_key},
        {"purpose": Purpose.REQUEST},
        {"counter": 1},
        {"issued_unix_ms": 1},
        {"signature": "0" * 128},
    ],
)
def test_every_field_of_a_certificate_is_signed(change: dict[str, object]) -> None:
    certificate = Certificate.issue(KEY, OTHER.public_key, Purpose.NODE)
    changed = certificate.model_copy(update=change)
    with pytest.raises(SignatureInvalid):
        changed.check(issuer=changed.issuer, purpose=changed.purpose)
