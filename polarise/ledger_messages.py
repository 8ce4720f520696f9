"""Answers of the ledger's HTTP API. What is signed travels as the exact text that was signed.

Blocks are notes, leaves are the transactions' own bytes; everything beside them is the ledger's word and a client that
needs more asks for a proof.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from polarise.decode import WireModel
from polarise.merkle import SIZE_MAX
from polarise.transaction import HASH_PATTERN

LEAVES_MAX = 256


class SubmitAnswer(WireModel):
    """200 of POST /submit: the transaction is on the ledger's disk.

    Attributes:
        status: Always ``success``.
        hash: Name of the transaction.
        index: Its leaf.
        height: First block that covers it; None while it waits for one.
    """

    status: Literal["success"] = "success"
    hash: str = Field(pattern=HASH_PATTERN)
    index: int = Field(ge=0, le=SIZE_MAX)
    height: int | None = Field(default=None, ge=0)


class Entry(WireModel):
    """A value on a path.

    Attributes:
        path: Where it stands.
        value: JSON.
        hash: Transaction that wrote it; None for the genesis.
        index: Its leaf; None for the genesis.
        height: First block that covers it.
        confirmations: Blocks that cover it.
    """

    path: str
    value: object
    hash: str | None
    index: int | None
    height: int | None
    confirmations: int


class GetAnswer(WireModel):
    """200 of GET /get."""

    status: Literal["success"] = "success"
    entry: Entry


class Child(WireModel):
    """A name below a path; ``entry`` is None when only its own children hold values."""

    name: str
    entry: Entry | None


class ListAnswer(WireModel):
    """200 of GET /list.

    Attributes:
        status: Always ``success``.
        children: In order of their names.
        next: Give it as ``after`` for what follows; None at the end.
    """

    status: Literal["success"] = "success"
    children: tuple[Child, ...]
    next: str | None


class TransactionAnswer(WireModel):
    """200 of GET /tx/{hash}.

    Attributes:
        status: Always ``success``.
        state: How far it has come.
        hash: Its name.
        index: Its leaf.
        height: First block that covers it.
        confirmations: Blocks that cover it.
        transaction: Its exact text.
    """

    status: Literal["success"] = "success"
    state: Literal["pending", "included", "final"]
    hash: str
    index: int
    height: int | None
    confirmations: int
    transaction: str


class BlockView(WireModel):
    """One block as its signed note."""

    height: int
    note: str


class BlocksAnswer(WireModel):
    """200 of GET /blocks."""

    status: Literal["success"] = "success"
    blocks: tuple[BlockView, ...]


class LeavesAnswer(WireModel):
    """200 of GET /leaves: exact texts from ``first`` on, fewer than asked for when the answer would grow too large."""

    status: Literal["success"] = "success"
    first: int
    leaves: tuple[str, ...] = Field(max_length=LEAVES_MAX)


class ConsistencyAnswer(WireModel):
    """200 of GET /consistency: hashes of 64 hex digits."""

    status: Literal["success"] = "success"
    old: int
    new: int
    hashes: tuple[str, ...] = Field(max_length=128)


class FrontierAnswer(WireModel):
    """200 of GET /frontier: roots of the complete subtrees of the first ``size`` leaves, from left to right, in hex."""

    status: Literal["success"] = "success"
    size: int
    hashes: tuple[str, ...] = Field(max_length=64)


class FeedLeaf(WireModel):
    """Data of an ``event: leaf`` of GET /subscribe."""

    index: int = Field(ge=0, le=SIZE_MAX)
    transaction: str


class FeedBlock(WireModel):
    """Data of an ``event: block`` of GET /subscribe."""

    height: int = Field(ge=0)
    note: str


class LedgerStatus(WireModel):
    """GET /status."""

    status: Literal["success"] = "success"
    role: Literal["ledger"] = "ledger"
    version: str
    node_key: str
    net: str
    log: str
    height: int
    size: int
    time_unix_ms: int
