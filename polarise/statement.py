"""A signed statement: one typed body, the node that says it, and the certificate of the subkey that signed.

Receipts, registry entries, commitments and verdicts all travel in this one shape, so there is one place that
checks who said what.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from pydantic import BaseModel, Field

from polarise.canonical import JsonValue, canonical_bytes, digest_hex
from polarise.decode import WireModel, validated
from polarise.errors import RequestRejected
from polarise.field_names import check_names
from polarise.signing import KEY_PATTERN, SIGNATURE_PATTERN, Certificate, Identity, Purpose, SignatureInvalid, verify

BodyT = TypeVar("BodyT", bound=BaseModel)


class SignedStatement(WireModel):
    """A body with its signer.

    Attributes:
        kind: What is said, for example ``receipt``; part of the signature's domain.
        body: The statement; canonical JSON when hashed or signed.
        signer: Node key of whoever says it.
        certificate: The signer's word that ``certificate.subject`` signs statements for it.
        signature: By the certified subkey, over the canonical body.
    """

    kind: str = Field(pattern="^[a-z_]{1,32}$")
    body: dict[str, object]
    signer: str = Field(pattern=KEY_PATTERN)
    certificate: Certificate
    signature: str = Field(pattern=SIGNATURE_PATTERN)

    def digest(self) -> str:
        """Return the SHA-256 of the whole statement, signature included."""
        return digest_hex(self.to_wire())

    def open(self, kind: str, model: type[BodyT], *, signer: str | None = None) -> BodyT:
        """Verify the statement and return its body as a typed value.

        Args:
            kind: The kind the caller expects.
            model: The body's model; checked strictly.
            signer: The node key that must have signed; None accepts any key that certifies itself.

        Raises:
            SignatureInvalid: Another kind or signer, a bad certificate or signature, or a body of another shape.
        """
        if self.kind != kind:
            raise SignatureInvalid(f"expected a {kind} statement, got {self.kind}")
        if signer is not None and self.signer != signer:
            raise SignatureInvalid(f"signed by {self.signer[:12]}, expected {signer[:12]}")
        self.certificate.check(issuer=self.signer, purpose=Purpose.STATEMENT)
        body = _body_bytes(self.body)
        verify(self.certificate.subject, self.kind, body, self.signature)
        try:
            check_names(model, self.body)  # type: ignore[arg-type]  # came through JSON, so it is JSON
            return validated(model, body)
        except RequestRejected as err:
            # Quoted, for it may hold texts of whoever signed it.
            raise SignatureInvalid(f"the {self.kind} statement has another shape: {err.message[:200]!r}") from err


def sign_statement(identity: Identity, kind: str, body: BaseModel) -> SignedStatement:
    """Sign ``body`` with the identity's statement subkey."""
    subkey = identity.subkey(Purpose.STATEMENT)
    wire = body.model_dump(mode="json")
    return SignedStatement(
        kind=kind,
        body=wire,
        signer=identity.public_key,
        certificate=subkey.certificate,
        signature=subkey.key.sign(kind, _body_bytes(wire)),
    )


def _body_bytes(body: Mapping[str, object]) -> bytes:
    value: JsonValue = body  # type: ignore[assignment]  # came through JSON, so it is JSON
    try:
        return canonical_bytes(value)
    except ValueError as err:
        raise SignatureInvalid(f"the body has no canonical form: {err}") from err
