"""OpenSSH public keys as renters send them, and as attackers do."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    SSHCertificateBuilder,
    SSHCertificateType,
)
from hypothesis import given
from hypothesis import strategies as st

from polarise.errors import ErrorCode, RequestRejected
from polarise.ssh_keys import fingerprint, generate_key_pair, parse_public_key
from tests.support.identities import public_key_line

LINE = public_key_line("renter")


def openssh(key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey) -> str:
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


@pytest.mark.parametrize("text", [LINE, LINE + "\n", f"  {LINE} me@host, with blanks\r\n", LINE.replace(" ", "\t")])
def test_only_the_key_itself_comes_back(text: str) -> None:
    assert parse_public_key(text) == LINE


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
def test_ecdsa_is_accepted(curve: ec.EllipticCurve) -> None:
    line = openssh(ec.generate_private_key(curve).public_key())
    assert parse_public_key(line) == line


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
@pytest.mark.parametrize("form", [2, 3, 6, 7])
def test_ecdsa_point_in_another_form_is_refused(curve: ec.EllipticCurve, form: int) -> None:
    """Compressed (2, 3) and hybrid (6, 7) points; RFC 5656 lets nobody have to read them."""
    point = ec.generate_private_key(curve).public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    length = len(point) if form > 3 else len(point) // 2 + 1
    words = [f"ecdsa-sha2-{curve.name.replace('secp', 'nistp').removesuffix('r1')}".encode()]
    words += [words[0].removeprefix(b"ecdsa-sha2-"), bytes([form]) + point[1:length]]
    blob = b"".join(len(word).to_bytes(4, "big") + word for word in words)
    with pytest.raises(RequestRejected, match="not a readable"):
        parse_public_key(f"{words[0].decode()} {base64.b64encode(blob).decode()}")


# Public numbers alone make a readable key; generating RSA keys of this size would take seconds.
def rsa_line(bits: int) -> str:
    return openssh(rsa.RSAPublicNumbers(65537, (1 << (bits - 1)) | 1).public_key())


def test_rsa_of_3072_bits_is_accepted_and_one_bit_less_is_not() -> None:
    assert parse_public_key(rsa_line(3072)) == rsa_line(3072)
    for bits in (1024, 2048, 3071):
        with pytest.raises(RequestRejected, match=f"RSA-{bits} is refused"):
            parse_public_key(rsa_line(bits))


def certificate() -> str:
    signer = ed25519.Ed25519PrivateKey.generate()
    builder = SSHCertificateBuilder().public_key(signer.public_key()).serial(1).type(SSHCertificateType.USER)
    builder = builder.key_id(b"x").valid_principals([b"root"]).valid_after(0).valid_before(2**63)
    raw: bytes = builder.sign(signer).public_bytes()
    return raw.decode()


def dss() -> str:
    numbers = dsa.DSAParameterNumbers((1 << 1023) | 1, (1 << 159) | 1, 2)
    parts = [b"ssh-dss", *(value.to_bytes(129, "big") for value in (numbers.p, numbers.q, numbers.g, 5))]
    blob = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    return "ssh-dss " + base64.b64encode(blob).decode()


def hardware_key() -> str:
    blob = base64.b64decode(LINE.split()[1])[19:]
    parts = b"\0\0\0\x1ask-ssh-ed25519@openssh.com" + blob + b"\0\0\0\x04ssh:"
    return "sk-ssh-ed25519@openssh.com " + base64.b64encode(parts).decode()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("\n", "empty"),
        (f"{LINE}\n{LINE}", "more than one line"),
        (f"{LINE}\rcommand", "more than one line"),
        (f"{LINE}\x0b{LINE}", "more than one line"),
        (f"{LINE}\u2028{LINE}", "more than one line"),
        (f'command="sh" {LINE}', "without options"),
        (f"no-pty {LINE}", "without options"),
        (f"restrict,pty {LINE}", "without options"),
        (f"@cert-authority * {LINE}", "without options"),
        (f"# {LINE}", "without options"),
        ("ssh-ed25519", "nothing follows"),
        ("ssh-ed25519 AAAA", "not a readable"),
        ("ssh-ed25519 ****", "not a readable"),
        ("ssh-rsa " + LINE.split()[1], "not a readable"),
        (LINE[:-4], "not a readable"),
        (LINE + "AAAA", "not a readable"),
        ("x" * 16385, "at most 16384"),
        (dss(), "DSS"),
        (certificate(), "certificates"),
        (hardware_key(), "hardware keys"),
    ],
)
def test_everything_else_is_refused_with_its_reason(text: str, reason: str) -> None:
    with pytest.raises(RequestRejected, match=reason) as refused:
        parse_public_key(text)
    assert refused.value.code is ErrorCode.KEY_REFUSED
    assert (refused.value.field, refused.value.status) == ("ssh_public_key", 400)


@given(st.text(max_size=200) | st.binary(max_size=80).map(lambda raw: "ssh-rsa " + base64.b64encode(raw).decode()))
def test_any_text_is_a_key_or_a_refusal(text: str) -> None:
    try:
        line = parse_public_key(text)
    except RequestRejected as refused:
        assert refused.code is ErrorCode.KEY_REFUSED  # noqa: PT017  both outcomes are fine
    else:
        assert parse_public_key(line) == line


@given(st.integers(0, 50), st.integers(0, 255))
def test_a_flipped_byte_never_gives_a_second_spelling_of_the_same_key(index: int, value: int) -> None:
    blob = bytearray(base64.b64decode(LINE.split()[1]))
    blob[index] = value
    text = "ssh-ed25519 " + base64.b64encode(blob).decode()
    try:
        assert parse_public_key(text) == text
    except RequestRejected:
        assert text != LINE


def test_openssh_agrees_on_key_and_fingerprint(tmp_path: Path) -> None:
    """ssh-keygen reads what we write."""
    pem, line = generate_key_pair()
    private = tmp_path / "key"
    private.write_text(pem)
    private.chmod(0o600)
    derived = subprocess.run(["ssh-keygen", "-y", "-f", str(private)], capture_output=True, text=True, check=True)
    assert parse_public_key(derived.stdout) == line
    shown = subprocess.run(["ssh-keygen", "-l", "-f", str(private)], capture_output=True, text=True, check=True)
    assert fingerprint(line) in shown.stdout
