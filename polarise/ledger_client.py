"""The ledger's HTTP API as methods: what is signed is verified, and a ledger that forks is caught by its own notes.

Rules:
- Every block is verified with the log's key from the genesis and must go on from the last one seen, which the caller
  keeps (`BlockMemory`): a higher block of a smaller or another tree is a `LogFork`, and nothing more is believed.
- `prove` and `wait` end at an inclusion proof under such a block, never at the ledger's word.
- `read` and `read_below` end at a state proof under such a block: what stands there, and that nothing else does. `get`
  and `children` are the ledger's word, for what is in no block yet and for looking around.
- A refusal is the `RequestRejected` it was; no answer is `Unavailable`; an answer that does not hold `AnswerInvalid`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import TypeVar
from urllib.parse import urlencode

from pydantic import BaseModel

from polarise.answers import MAX_ANSWER_BYTES, decoded, printable, raise_for_status
from polarise.block import SignedBlock
from polarise.block_follower import BlockFollower, BlockMemory, ShortMemory, check_chain
from polarise.errors import AnswerInvalid, RequestRejected
from polarise.frontier import Frontier
from polarise.genesis import Genesis
from polarise.http_client import ByteStream, HttpClient, Response
from polarise.ledger_messages import (
    BlocksAnswer,
    ConsistencyAnswer,
    Entry,
    FrontierAnswer,
    GetAnswer,
    LeavesAnswer,
    LedgerStatus,
    ListAnswer,
    SubmitAnswer,
    TransactionAnswer,
)
from polarise.ledger_state import ProvedSubtree, ProvedValue, StateReader
from polarise.log_proof import MAX_PROOF_BYTES, LogProof, parse_log_proof
from polarise.merkle import InvalidProof
from polarise.notes import MAX_NOTE_BYTES, NoteInvalid
from polarise.tls import Pin
from polarise.transaction import SignedTransaction, decode_transaction

POLL_SECONDS = 0.25
REFUSALS_KEPT = 1024

ModelT = TypeVar("ModelT", bound=BaseModel)
Query = Mapping[str, str | None]


class WaitState(StrEnum):
    """How far a transaction has come."""

    PENDING = "pending"
    INCLUDED = "included"
    FINAL = "final"
    REFUSED = "refused"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Waited:
    """What `LedgerClient.wait` found.

    Attributes:
        state: How far the transaction has come.
        proof: Inclusion proof, verified, once it is in a block.
        block: The block the proof ends at.
        height: First block that covers the transaction, by the ledger's word.
        refusal: Why it was refused.
    """

    state: WaitState
    proof: LogProof | None = None
    block: SignedBlock | None = None
    height: int | None = None
    refusal: RequestRejected | None = None


class LedgerClient:
    """One ledger, as one process sees it; safe to use from several threads.

    Args:
        endpoint: Base URL.
        genesis: The ledger's beginning, from a trusted place.
        memory: Where the last block seen is kept.
        allow_private: Whether loopback and private addresses may be connected to.
        timeout_seconds: Deadline of each request.

    Raises:
        AnswerInvalid: The kept note is not one of this ledger.
    """

    def __init__(
        self,
        endpoint: str,
        genesis: Genesis,
        *,
        memory: BlockMemory | None = None,
        allow_private: bool = True,
        timeout_seconds: float = 10.0,
    ) -> None:
        self.genesis = genesis
        self._http = HttpClient(endpoint, allow_private=allow_private, pin=Pin(genesis.ledger_key))
        self._follower = BlockFollower(genesis.log, memory or ShortMemory())
        self._state = StateReader(self._request, self._follower, self._consistency)
        self._timeout_seconds = timeout_seconds
        self._lock = threading.Lock()
        self._refused: dict[str, RequestRejected] = {}

    @property
    def endpoint(self) -> str:
        """Base URL of the ledger."""
        return self._http.base_url

    def status(self) -> LedgerStatus:
        """Ask who the ledger is and how far it has come; its word only."""
        return self._get(LedgerStatus, "/status")

    def checkpoint(self) -> SignedBlock:
        """Return the newest block, verified to go on from the last one seen.

        Raises:
            LogFork: It does not; both notes are in the error.
            AnswerInvalid: Not a block of this ledger, or an older one than was seen.
        """
        before = self._follower.seen
        block = self._follower.advance(self._raw("/checkpoint", {}, MAX_NOTE_BYTES), self._consistency)
        if before is not None and block.block.height < before.block.height:
            raise AnswerInvalid(
                f"the ledger shows block {block.block.height}, block {before.block.height} was seen before"
            )
        return block

    def submit(self, transaction: SignedTransaction) -> SubmitAnswer:
        """Hand in a transaction; it is on the ledger's disk when this returns.

        Raises:
            RequestRejected: Refused; `wait` will say so, too.
            AnswerInvalid: The ledger names another transaction.
        """
        response = self._http.request(
            "POST",
            "/submit",
            headers={"Content-Type": "application/json"},
            body=transaction.raw,
            timeout_seconds=self._timeout_seconds,
            max_bytes=MAX_ANSWER_BYTES,
        )
        try:
            answer = decoded(SubmitAnswer, response)
        except RequestRejected as err:
            self._remember_refusal(transaction.hash, err)
            raise
        if answer.hash != transaction.hash:
            raise AnswerInvalid(f"the ledger took {answer.hash[:12]}, {transaction.hash[:12]} was sent")
        return answer

    def read(self, path: str, at: SignedBlock | None = None, *, at_least: int = 0) -> ProvedValue:
        """Return what stands on a path in the state of a block, or that nothing does; proved.

        Args:
            path: Where to look.
            at: A verified block; the newest one when it is left out.
            at_least: Height that the newest one must have.

        Raises:
            StateNotProved: The answer does not follow from the block.
            AnswerInvalid: No proof, or one under an older block than was seen or asked for.
            LogFork: The block does not go on from the last one seen.
        """
        return self._state.value(path, at, at_least=at_least)

    def read_below(self, path: str, at: SignedBlock | None = None, *, at_least: int = 0) -> ProvedSubtree:
        """Return all that stands on a path and below it in the state of a block; proved, and fails as `read`.

        At most 100,000 values of 64 MiB together are read.
        """
        return self._state.subtree(path, at, at_least=at_least)

    def final_block(self) -> SignedBlock:
        """Return the newest block whose leaves are all final: one that the genesis' number of blocks has confirmed.

        Raises:
            AnswerInvalid: The blocks up to the newest one are not all there.
            LogFork: They are not of one chain.
        """
        newest = self.checkpoint()
        first = max(newest.block.height - self.genesis.final_confirmations + 1, 0)
        if first == newest.block.height:
            return newest
        blocks = list(islice(self.blocks(first), newest.block.height - first + 1))
        if not blocks or blocks[-1].block.height != newest.block.height:
            raise AnswerInvalid(f"the blocks from {first} to {newest.block.height} are not all there")
        if blocks[-1].hash != newest.hash:
            check_chain(newest, blocks[-1])  # raises: they are of one height
        return blocks[0]

    def get(self, path: str, concern: str | None = None) -> Entry | None:
        """Return what the ledger says stands on a path, None when nothing does; `read` proves it.

        Args:
            path: Where to look.
            concern: ``pending``, ``block`` or ``final``; None follows each writer's own wish.
        """
        try:
            entry = self._get(GetAnswer, "/get", {"path": path, "concern": concern}).entry
        except RequestRejected as err:
            if err.status == 404:
                return None
            raise
        if entry.path != path:
            raise AnswerInvalid(f"the ledger answered for {printable(entry.path, 80)}, {path} was asked for")
        return entry

    def children(self, path: str, concern: str | None = None, *, after: str = "") -> Iterator[tuple[str, Entry | None]]:
        """Yield what the ledger says are the names below a path, in order, each with its own value if it has one.

        Args:
            path: Whose children.
            concern: As in `get`.
            after: Only names greater than this one.
        """
        last: str | None = after
        while last is not None:
            page = self._get(ListAnswer, "/list", {"path": path, "concern": concern, "after": last})
            names = [child.name for child in page.children]
            if (
                names != sorted(set(names))
                or (names and names[0] <= last)
                or (page.next and (not names or page.next <= last))
            ):
                raise AnswerInvalid("the names of the page are out of order")
            yield from ((child.name, child.entry) for child in page.children)
            last = page.next

    def next_nonce(self, node_key: str) -> int:
        """Return the nonce of a sender's next transaction, the pending ones counted."""
        entry = self.get(f"/accounts/{node_key}", "pending")
        nonce = entry.value.get("nonce") if entry and isinstance(entry.value, dict) else 0
        if not isinstance(nonce, int) or isinstance(nonce, bool) or nonce < 0:
            raise AnswerInvalid(f"{printable(nonce, 80)} is no nonce")
        return nonce

    def transaction(self, transaction_hash: str) -> TransactionAnswer | None:
        """Return what the ledger says of a transaction; None when it knows none of that name.

        Raises:
            AnswerInvalid: The text is not the one of that name.
        """
        try:
            answer = self._get(TransactionAnswer, f"/tx/{transaction_hash}")
        except RequestRejected as err:
            if err.status == 404:
                return None
            raise
        if _named(answer.transaction).hash != transaction_hash:
            raise AnswerInvalid(f"the text is not the one of transaction {transaction_hash[:12]}")
        return answer

    def prove(self, transaction_hash: str) -> tuple[LogProof, SignedBlock]:
        """Return the proof that a transaction stands in the ledger, verified, with the block it ends at.

        Raises:
            Unavailable: It is in no block yet.
            LogFork: The block does not go on from the last one seen.
        """
        proof, block = self._proved({"hash": transaction_hash})
        if _named((proof.extra or b"").decode("utf-8", "replace")).hash != transaction_hash:
            raise AnswerInvalid(f"the proof is of another transaction than {transaction_hash[:12]}")
        return proof, block

    def prove_path(self, path: str) -> tuple[LogProof, SignedBlock, SignedTransaction]:
        """Return the proof of the transaction that wrote what stands on a path.

        It shows that this was written; `read` shows that it still stands.

        Raises:
            RequestRejected: Nothing stands there.
            LogFork: As `prove`.
        """
        proof, block = self._proved({"path": path})
        transaction = _named((proof.extra or b"").decode("utf-8", "replace"))
        if transaction.body.op.path != path:
            raise AnswerInvalid(f"the proof is for {transaction.body.op.path}, {path} was asked for")
        return proof, block, transaction

    def wait(
        self,
        transaction_hash: str,
        timeout_seconds: float,
        *,
        until: WaitState = WaitState.FINAL,
        stop: threading.Event | None = None,
    ) -> Waited:
        """Follow a transaction until it is included or final, was refused, is lost, or the time is over.

        Args:
            transaction_hash: Its name.
            timeout_seconds: How long to wait; the last state seen is returned then, LOST when the ledger was there
                and never knew it.
            until: INCLUDED or FINAL.
            stop: Ends the wait early.

        Raises:
            Unavailable: The ledger did not answer once.
            LogFork: As `checkpoint`.
        """
        if transaction_hash in self._refused:
            return Waited(WaitState.REFUSED, refusal=self._refused[transaction_hash])
        deadline = time.monotonic() + timeout_seconds
        resting = stop or threading.Event()
        while True:
            waited = self._look(transaction_hash)
            is_there = waited.state is WaitState.FINAL or waited.state is until
            left = deadline - time.monotonic()
            if is_there or left <= 0 or resting.wait(min(POLL_SECONDS, left)):
                return waited

    def blocks(self, first: int) -> Iterator[SignedBlock]:
        """Yield the blocks from a height on up to the newest, verified, each pointing at the one before.

        Raises:
            AnswerInvalid: A note is not the ledger's, or the chain has a gap.
            LogFork: Two of them do not fit together.
        """
        before: SignedBlock | None = None
        while page := self._get(BlocksAnswer, "/blocks", {"from": str(first)}).blocks:
            for view in page:
                block = self._follower.opened(view.note.encode())
                if block.block.height != first:
                    raise AnswerInvalid(f"block {block.block.height} came where {first} was due")
                if before is not None:
                    check_chain(before, block)
                yield block
                before, first = block, first + 1

    def leaves(self, first: int, end: int) -> Iterator[bytes]:
        """Yield the bytes of the leaves [first, end); whether they are under a root is checked by adding them up."""
        while first < end:
            page = self._get(LeavesAnswer, "/leaves", {"from": str(first), "limit": str(min(end - first, 256))})
            if page.first != first or not page.leaves:
                raise AnswerInvalid(f"the leaves from {first} on are missing")
            yield from (leaf.encode() for leaf in page.leaves)
            first += len(page.leaves)

    def opened(self, note: bytes) -> SignedBlock:
        """Verify the signature of a block that came some other way.

        Raises:
            AnswerInvalid: It is not one of this ledger.
        """
        return self._follower.opened(note)

    def accept(self, note: bytes) -> SignedBlock:
        """Verify a block that came some other way, and that it goes on from the last one seen; as `checkpoint`."""
        return self._follower.advance(note, self._consistency)

    def frontier(self, block: SignedBlock) -> Frontier:
        """Return the right edge of the tree under a verified block, to add further leaves to.

        Raises:
            AnswerInvalid: What the ledger sent does not lead to the block's root.
        """
        size = block.block.size
        answer = self._get(FrontierAnswer, "/frontier", {"size": str(size)})
        try:
            edge = Frontier(size, tuple(unhex(answer.hashes)))
        except InvalidProof as err:
            raise AnswerInvalid(str(err)) from err
        if edge.root() != block.block.root:
            raise AnswerInvalid(f"the edge of {size} leaves does not lead to the root of block {block.block.height}")
        return edge

    def consistency(self, old_size: int, new_size: int) -> list[bytes]:
        """Return the ledger's proof that its first ``old_size`` leaves are still the first; the caller verifies it."""
        return self._consistency(old_size, new_size)

    def stream(self, first: int, idle_seconds: float) -> ByteStream:
        """Open GET /subscribe from a height on; `polarise.ledger_feed` reads and verifies it."""
        return self._http.stream(
            f"/subscribe?from={first}", timeout_seconds=self._timeout_seconds, idle_seconds=idle_seconds
        )

    def _look(self, transaction_hash: str) -> Waited:
        answer = self.transaction(transaction_hash)
        if answer is None:
            return Waited(WaitState.LOST)
        if answer.state == "pending":
            return Waited(WaitState.PENDING)
        proof, block = self.prove(transaction_hash)
        return Waited(WaitState(answer.state), proof, block, answer.height)

    def _proved(self, query: Query) -> tuple[LogProof, SignedBlock]:
        raw = self._raw("/prove", query, MAX_PROOF_BYTES)
        try:
            proof = parse_log_proof(raw)
            proof.verify(self.genesis.log)
        except (NoteInvalid, InvalidProof) as err:
            raise AnswerInvalid(f"the proof does not hold: {err}") from err
        return proof, self._follower.advance(proof.checkpoint, self._consistency)

    def _consistency(self, old_size: int, new_size: int) -> list[bytes]:
        try:
            answer = self._get(ConsistencyAnswer, "/consistency", {"old": str(old_size), "new": str(new_size)})
        except RequestRejected as err:
            raise AnswerInvalid(
                f"the ledger will not show that {old_size} leaves are the first of its {new_size}: {err.message}"
            ) from err
        return unhex(answer.hashes)

    def _remember_refusal(self, transaction_hash: str, err: RequestRejected) -> None:
        with self._lock:
            while len(self._refused) >= REFUSALS_KEPT:
                self._refused.pop(next(iter(self._refused)))
            self._refused[transaction_hash] = err

    def _get(self, model: type[ModelT], path: str, query: Query | None = None) -> ModelT:
        return decoded(model, self._request(path, query or {}, MAX_ANSWER_BYTES))

    def _raw(self, path: str, query: Query, max_bytes: int) -> bytes:
        response = self._request(path, query, max_bytes)
        raise_for_status(response)
        return response.body

    def _request(self, path: str, query: Query, max_bytes: int) -> Response:
        given = {name: value for name, value in query.items() if value is not None}
        target = f"{path}?{urlencode(given)}" if given else path
        return self._http.request("GET", target, timeout_seconds=self._timeout_seconds, max_bytes=max_bytes)


def unhex(values: Sequence[str]) -> list[bytes]:
    """Return the hashes of an answer.

    Raises:
        AnswerInvalid: One is not hex.
    """
    try:
        return [bytes.fromhex(value) for value in values]
    except ValueError as err:
        raise AnswerInvalid("a hash in the answer is not hex") from err


def _named(text: str) -> SignedTransaction:
    try:
        return decode_transaction(text.encode())
    except RequestRejected as err:
        raise AnswerInvalid(f"the leaf is no transaction: {printable(err.message)}") from err
