"""Public randomness after a commitment: the hash of the first block that covers it, once that block is final.

Rules:
- Nobody chooses it: the block's hash covers the commitment, the ledger's time, the state and the block before, and the
  chain of blocks lets the ledger sign only one of each height without being caught.
- Anybody finds it again: the block before covers fewer leaves than the commitment's index, this one covers it.
"""

from __future__ import annotations

from polarise.block import SignedBlock
from polarise.block_follower import check_chain
from polarise.errors import AnswerInvalid
from polarise.ledger_client import LedgerClient


def check_beacon(index: int, before: SignedBlock, block: SignedBlock) -> None:
    """Check that a block is the first that covers a leaf.

    Args:
        index: Leaf of the commitment; proven to be its place.
        before: The block below.
        block: The block whose hash is the beacon.

    Raises:
        AnswerInvalid: The leaf is not between the two.
        LogFork: The two are not of one chain.
    """
    if block.block.height != before.block.height + 1 or not before.block.size <= index < block.block.size:
        raise AnswerInvalid(
            f"leaf {index} is not first covered by block {block.block.height}, of {block.block.size} leaves; "
            f"block {before.block.height} has {before.block.size}"
        )
    check_chain(before, block)


def find_beacon(client: LedgerClient, transaction_hash: str) -> SignedBlock | None:
    """Return the block whose hash is the beacon of a commitment, None while it is not final.

    Raises:
        LogFork: The ledger contradicts what it showed before.
        AnswerInvalid: What it answers does not hold.
        Unavailable: It is away.
    """
    found = client.transaction(transaction_hash)
    if found is None or found.state != "final" or found.height is None:
        return None
    proof, _newest = client.prove(transaction_hash)
    blocks = client.blocks(found.height - 1)
    before, block = next(blocks, None), next(blocks, None)
    if before is None or block is None:
        raise AnswerInvalid(f"the ledger shows no block {found.height}")
    check_beacon(proof.index, before, block)
    # The chain from here to the newest block is the audit's to walk; that the leaves are the same is shown at once.
    client.accept(block.raw)
    return block
