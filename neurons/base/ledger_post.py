"""One value put on the ledger by a command, which waits until it is final; daemons have `neurons.base.outbox`."""

from __future__ import annotations

import time

from polarise.errors import ErrorCode, RequestRejected, Unavailable
from polarise.ledger_client import LedgerClient, WaitState
from polarise.signing import Identity
from polarise.transaction import SetValue, SignedTransaction, encode_value, sign_transaction

FINAL_SECONDS = 60.0
SUBMIT_ATTEMPTS = 5


def post(client: LedgerClient, identity: Identity, op: SetValue) -> int:
    """Put one value on the ledger, wait until it is final, and see it proved that it stands there.

    Returns:
        Height of the first block that covers it.

    Raises:
        RequestRejected: The ledger refused it.
        Unavailable: The ledger is away, makes no blocks, or has something else on the path.
    """
    transaction = _submit(client, identity, op)
    waited = client.wait(transaction.hash, FINAL_SECONDS)
    if waited.refusal is not None:
        raise waited.refusal
    if waited.state is not WaitState.FINAL or waited.height is None:
        raise Unavailable(f"the value is {waited.state} after {FINAL_SECONDS:g} s; is the ledger making blocks?")
    standing = client.read(op.path, at_least=waited.height)
    if standing.text != (None if op.value is None else encode_value(op.value)):
        raise Unavailable(
            f"{op.path} holds another value in block {standing.block.block.height}; was it written again?"
        )
    return waited.height


def _submit(client: LedgerClient, identity: Identity, op: SetValue) -> SignedTransaction:
    """Sign and hand in; the node's daemon may write with the same key, so a nonce it took meanwhile is tried again."""
    for attempt in range(SUBMIT_ATTEMPTS):
        transaction = sign_transaction(
            identity,
            op,
            net=client.genesis.net,
            nonce=client.next_nonce(identity.public_key),
            time_unix_ms=time.time_ns() // 1_000_000,
        )
        try:
            client.submit(transaction)
        except RequestRejected as err:
            if err.code not in {ErrorCode.NONCE_REUSED, ErrorCode.NONCE_GAP} or attempt == SUBMIT_ATTEMPTS - 1:
                raise
        else:
            return transaction
    raise AssertionError("the loop returns or raises")
