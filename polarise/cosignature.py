"""A validator's cosignatures under a node's checkpoints: whose they are, and how they are handed back.

Rules:
- The validator's node key certifies its witness key (purpose ``witness``), which cosigns under ``<node key>/witness``.
- A cosignature names a checkpoint by its size; the log has the text, and only over that text it verifies.
"""

from __future__ import annotations

from pydantic import Field

from polarise.checkpoint import CosignatureVerifier, cosignature_time
from polarise.decode import WireModel
from polarise.notes import NoteInvalid, NoteSignature, parse_signatures
from polarise.signing import Certificate, Purpose

# What one pull brings: a checkpoint that others cosigned before, and the newest.
COSIGNATURES_MAX = 4
LINE_CHARS_MAX = 400
# `?witnesses=`: the newest checkpoint that so many cosigned (0 any), or the one that most did.
MOST = "most"
WITNESSES_PATTERN = rf"^({MOST}|0|[1-9][0-9]?)$"


class SizedCosignature(WireModel):
    """One cosignature.

    Attributes:
        size: Tree size of the checkpoint it is over.
        line: Signature line, as `polarise.checkpoint.cosign` makes it.
    """

    size: int = Field(ge=0, lt=2**53)
    line: str = Field(max_length=LINE_CHARS_MAX)

    def signature(self) -> NoteSignature:
        """Read the line; nothing is verified.

        Raises:
            NoteInvalid: Not exactly one cosignature.
        """
        found = parse_signatures(self.line.encode())
        if len(found) != 1:
            raise NoteInvalid(f"expected one signature line, got {len(found)}")
        cosignature_time(found[0].signature)
        return found[0]


class CosignatureRequest(WireModel):
    """POST /streams/{id}/cosignature.

    Attributes:
        certificate: The validator's word for its witness key.
        cosignatures: By rising size.
    """

    certificate: Certificate
    cosignatures: tuple[SizedCosignature, ...] = Field(min_length=1, max_length=COSIGNATURES_MAX)


def witness_name(node_key: str) -> str:
    """Return the key name a validator cosigns under."""
    return f"{node_key}/witness"


def witness_verifier(certificate: Certificate, node_key: str) -> CosignatureVerifier:
    """Return the key that a validator's cosignatures verify with.

    Raises:
        SignatureInvalid: The validator did not certify it as its witness key.
    """
    certificate.check(issuer=node_key, purpose=Purpose.WITNESS)
    return CosignatureVerifier(witness_name(node_key), certificate.subject)
