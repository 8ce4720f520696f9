"""The generations of subkeys that stand on the ledger, proved under a block; see `polarise.generations`.

The ledger's rules let only a node's own later certificates get there; that is checked here again, because nobody has to
believe the ledger for it. That none was left out is shown by the state root of the block.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from polarise.block import SignedBlock
from polarise.decode import decode_json, decode_model
from polarise.errors import RequestRejected
from polarise.generations import EVERY_GENERATION, KEYS_FOLDER, REVOCABLE, REVOKED_FOLDER, Found
from polarise.ledger_client import LedgerClient
from polarise.signing import Certificate, Purpose, SignatureInvalid


def read_generations(client: LedgerClient, block: SignedBlock, on_error: Callable[[str, Exception], None]) -> Found:
    """Read all generations and revocations of a verified block; one that does not hold is reported and left out.

    Raises:
        StateNotProved: These are not all of them, or not the ones that stand there.
        AnswerInvalid: The ledger gives no proof, or more than `LedgerClient.read_below` reads.
    """
    found: dict[tuple[str, Purpose], int] = {}
    for path, text in client.read_below(KEYS_FOLDER, block).texts.items():
        node, _, purpose = path.removeprefix(f"{KEYS_FOLDER}/").partition("/")
        try:
            certificate = decode_model(Certificate, json.dumps(decode_json(text)).encode())
            certificate.check(issuer=node, purpose=Purpose(purpose))
        except (RequestRejected, SignatureInvalid, ValueError) as err:
            on_error(path, err)
            continue
        found[node, certificate.purpose] = certificate.counter
    for path in client.read_below(REVOKED_FOLDER, block).texts:
        node = path.rpartition("/")[2]
        found.update({(node, purpose): EVERY_GENERATION for purpose in REVOCABLE})
    return found
