"""Targets: statements that somebody signed, keys and their files.

A stranger may sign whatever it likes, so the bodies are changed before they are signed, and everything behind the
signature is reached.
"""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from neurons.base.keys import load_identity
from polarise.answers import open_receipt
from polarise.canonical import canonical_bytes
from polarise.cli import MAX_FILE_BYTES, main
from polarise.decode import MAX_BODY_BYTES, WireModel, decode_json, decode_model
from polarise.epoch_record import STATEMENT_KIND as RECORD_KIND
from polarise.epoch_record import EpochRecord
from polarise.errors import AnswerInvalid, ConfigError, RequestRejected
from polarise.evidence import ScoreRecord
from polarise.keyfile import KeyKind, create_key_file, read_key_header
from polarise.ledger_registry import open_value
from polarise.messages import CommitmentBody
from polarise.receipt import STATEMENT_KIND as RECEIPT_KIND
from polarise.registry import MAX_ENTRY_BYTES, RegistryEntry, open_entry, read_entry, read_registry
from polarise.registry import STATEMENT_KIND as REGISTRY_KIND
from polarise.signing import Certificate, Identity, Purpose, SignatureInvalid, verify
from polarise.ssh_keys import MAX_TEXT_CHARS, fingerprint, generate_key_pair, parse_public_key
from polarise.statement import SignedStatement
from polarise.usage import STATEMENT_KIND as USAGE_KIND
from polarise.usage import open_usage
from polarise.verdict import STATEMENT_KIND as VERDICT_KIND
from polarise.verdict import Verdict, lost_points, open_verdict, sign_verdict
from tests.fuzz.target import MEMORY_BASE_BYTES, Call, Target, plain, text_of
from tests.support.evidence import receipt, receipt_statement, score
from tests.support.proving_miner import MINER, VALIDATOR, entry_of
from tests.support.usage import usage_of
from utils.crypto import read_secret_file

PASSPHRASE = b"fuzz"
KINDS: tuple[tuple[str, type[WireModel]], ...] = (
    (REGISTRY_KIND, RegistryEntry),
    (RECORD_KIND, EpochRecord),
    ("commitment", CommitmentBody),
)


def wire(statement: SignedStatement) -> bytes:
    """Return a statement as it travels."""
    return json.dumps(statement.to_wire()).encode()


def statements() -> list[bytes]:
    """One statement of each kind that is opened by its own rules."""
    return [wire(entry_of()), wire(receipt_statement()), wire(sign_verdict(VALIDATOR, verdict()))]


def verdict() -> Verdict:
    """A verdict on the miner."""
    return Verdict(
        epoch=7,
        validator_key=VALIDATOR.public_key,
        miner_key=MINER.public_key,
        score=score(900_000),
        evidence="0" * 64,
        evidence_url="http://127.0.0.1:1",
    )


def body_of(statement: SignedStatement) -> bytes:
    """Return what a statement says."""
    return canonical_bytes(statement.body)  # type: ignore[arg-type]  # came through JSON, so it is JSON


def _signed(who: Identity, kind: str, opening: Callable[[SignedStatement], object]) -> Call:
    """Sign whatever body comes, and open the statement."""
    subkey = who.subkey(Purpose.STATEMENT)

    def call(raw: bytes) -> object:
        body = decode_json(raw)
        if not isinstance(body, dict):
            return None
        try:
            signature = subkey.key.sign(kind, canonical_bytes(body))
        except ValueError:
            return None  # without a canonical form nobody can sign it
        made = {"kind": kind, "body": body, "signer": who.public_key, "signature": signature}
        return opening(SignedStatement(certificate=subkey.certificate, **made))  # type: ignore[arg-type]

    return call


def _open_usage(made: SignedStatement) -> object:
    held = receipt()
    return open_usage(made, node_key=MINER.public_key, renter_key=held.renter_key, container_id=held.container_id)


def _opened_by_any(raw: bytes) -> None:
    statement = decode_model(SignedStatement, raw)
    for kind, model in KINDS:
        with contextlib.suppress(SignatureInvalid):
            statement.open(kind, model)
    statement.open(statement.kind, RegistryEntry, signer=MINER.public_key)


def _value(raw: bytes) -> object:
    return open_value(MINER.public_key, decode_json(raw))


def _certificate(raw: bytes) -> None:
    decode_model(Certificate, raw).check(issuer=MINER.public_key, purpose=Purpose.STATEMENT)


def _verify(raw: bytes) -> None:
    key, signature, payload = [*raw.split(b"\n", 2), b"", b""][:3]
    verify(text_of(key), "transaction", payload, text_of(signature))


def _lost_points(raw: bytes) -> object:
    return lost_points(decode_model(ScoreRecord, raw))


@contextlib.contextmanager
def _file(read: Callable[[Path], object]) -> Iterator[Call]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file.json"
        path.touch(0o600)

        def call(raw: bytes) -> object:
            path.write_bytes(raw)
            return read(path)

        yield call


def _key_file() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "key.json"
        create_key_file(path, KeyKind.NODE, PASSPHRASE, owner=VALIDATOR)
        return [path.read_bytes()]


def _registry(path: Path) -> object:
    return read_registry(path.parent, lambda _err: None)


def _verified_by_command(path: Path) -> None:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        status = main(["verify", str(path), "--key", MINER.public_key])
    assert status in {0, 2, 7}, status


def _ssh_keys() -> list[bytes]:
    """Lines of every type; public numbers alone make a readable RSA key, and generating one would take seconds."""
    keys: list[ec.EllipticCurvePublicKey | rsa.RSAPublicKey] = [
        ec.derive_private_key(7, curve).public_key() for curve in (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1())
    ]
    keys.append(rsa.RSAPublicNumbers(65537, (1 << 3071) | 1).public_key())
    lines = [key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH) for key in keys]
    return [generate_key_pair()[1].encode() + b" comment", *lines]


def _ssh_key(raw: bytes) -> str:
    line = parse_public_key(text_of(raw))
    fingerprint(line)
    return line


TARGETS = (
    Target(
        "polarise.statement.SignedStatement.open",
        plain(_opened_by_any),
        lambda: statements()[:1],
        (RequestRejected, SignatureInvalid),
        MAX_BODY_BYTES,
        weight=2,
    ),
    Target(
        "polarise.registry.open_entry",
        plain(_signed(MINER, REGISTRY_KIND, open_entry)),
        lambda: [body_of(entry_of())],
        (RequestRejected, SignatureInvalid),
        MAX_BODY_BYTES,
        weight=2,
    ),
    Target(
        "polarise.ledger_registry.open_value",
        plain(_value),
        lambda: statements()[:1],
        (RequestRejected, SignatureInvalid),
        MAX_BODY_BYTES,
        weight=2,
    ),
    Target(
        "polarise.registry.read_entry",
        lambda: _file(read_entry),
        lambda: statements()[:1],
        (ConfigError,),
        MAX_ENTRY_BYTES,
        weight=2,
    ),
    Target(
        "polarise.registry.read_registry",
        lambda: _file(_registry),
        lambda: statements()[:1],
        (),
        MAX_ENTRY_BYTES,
        weight=2,
    ),
    Target(
        "polarise.answers.open_receipt",
        plain(
            _signed(
                MINER,
                RECEIPT_KIND,
                lambda made: open_receipt(made, node_key=MINER.public_key, renter_key=VALIDATOR.public_key),
            )
        ),
        lambda: [body_of(receipt_statement())],
        (RequestRejected, AnswerInvalid),
        MAX_BODY_BYTES,
        weight=2,
    ),
    Target(
        "polarise.usage.open_usage",
        plain(_signed(MINER, USAGE_KIND, _open_usage)),
        lambda: [canonical_bytes(usage_of(receipt()).to_wire())],
        (RequestRejected, AnswerInvalid),
        MAX_BODY_BYTES,
        weight=2,
    ),
    Target(
        "polarise.verdict.open_verdict",
        plain(_signed(VALIDATOR, VERDICT_KIND, lambda made: open_verdict(made, validator_key=VALIDATOR.public_key))),
        lambda: [body_of(sign_verdict(VALIDATOR, verdict()))],
        (RequestRejected, SignatureInvalid),
        MAX_BODY_BYTES,
        weight=2,
    ),
    Target(
        "polarise.verdict.lost_points",
        plain(_lost_points),
        lambda: [json.dumps(score(900_000).to_wire()).encode()],
        (RequestRejected,),
        MAX_BODY_BYTES,
    ),
    Target(
        "polarise.signing.Certificate.check",
        plain(_certificate),
        lambda: [MINER.subkey(Purpose.STATEMENT).certificate.model_dump_json().encode()],
        (RequestRejected, SignatureInvalid),
        MAX_BODY_BYTES,
    ),
    Target(
        "polarise.signing.verify",
        plain(_verify),
        lambda: [f"{MINER.public_key}\n{MINER.key.sign('transaction', b'payload')}\npayload".encode()],
        (SignatureInvalid,),
        MAX_BODY_BYTES,
    ),
    Target(
        "polarise.keyfile.read_key_header",
        lambda: _file(read_key_header),
        _key_file,
        (ConfigError,),
        MAX_BODY_BYTES,
    ),
    Target(
        "polarise.keyfile.load_key_file",
        lambda: _file(lambda path: load_identity(path, PASSPHRASE)),
        _key_file,
        (ConfigError,),
        MAX_BODY_BYTES,
        covers=("neurons.base.keys.load_identity", "neurons.base.keys.load_node_identity"),
        weight=8,
    ),
    Target(
        "utils.crypto.read_secret_file",
        lambda: _file(read_secret_file),
        lambda: [b"secret\n"],
        (ConfigError,),
        MAX_BODY_BYTES,
    ),
    Target(
        "polarise.ssh_keys.parse_public_key",
        plain(_ssh_key),
        _ssh_keys,
        (RequestRejected,),
        MAX_TEXT_CHARS,
        covers=("polarise.ssh_keys.fingerprint",),
        encode=lambda value: str(value).encode(),
    ),
    Target(
        "polarise.cli.main",
        lambda: _file(_verified_by_command),
        statements,
        (),
        MAX_FILE_BYTES,
        # The file is read into a buffer as large as any.
        memory_base_bytes=MAX_FILE_BYTES + MEMORY_BASE_BYTES,
        weight=4,
    ),
)
