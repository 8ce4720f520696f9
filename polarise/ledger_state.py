"""Reading the state of a ledger: every value, absence and subtree is checked against a block that was verified.

Rules:
- The block goes on from the last one seen (`BlockFollower`), and is not older than what was seen before the question
  or than the caller asks for.
- A subtree is read page by page under one block, and nothing of it is believed before all of it leads to the root.
- What does not lead there is `StateNotProved`. The answer itself is signed by nobody, so that it convicts nobody, but it
  is kept beside the notes of forks for whoever has to find out. A ledger that refuses to prove has not answered.
- Values, bytes and pages are bounded: a thousand entries of 64 KiB, the most a transaction can hold, are within.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from polarise.answers import MAX_ANSWER_BYTES, decoded, printable
from polarise.block import SignedBlock
from polarise.block_follower import BlockFollower, FetchConsistency
from polarise.canonical import JsonValue
from polarise.decode import decode_json
from polarise.errors import AnswerInvalid, RequestRejected, StateNotProved
from polarise.http_client import Response
from polarise.merkle import InvalidProof
from polarise.state_messages import StateAnswer, StateValue, SubtreeAnswer
from polarise.state_proof import check_subtree, check_value
from polarise.transaction import MAX_TRANSACTION_BYTES, PATH_PATTERN

SUBTREE_VALUES_MAX = 100_000
SUBTREE_BYTES_MAX = 64 * 1024 * 1024
SUBTREE_PAGES_MAX = 4096

AnswerT = TypeVar("AnswerT", StateAnswer, SubtreeAnswer)
# (route, query, most bytes) -> the answer.
SendRequest = Callable[[str, Mapping[str, str | None], int], Response]


@dataclass(frozen=True, slots=True)
class ProvedValue:
    """What stands on a path.

    Attributes:
        path: Which path.
        text: Exact bytes of the value, canonical JSON; None: nothing stands there.
        block: The block in whose state that is so.
    """

    path: str
    text: bytes | None
    block: SignedBlock

    @property
    def value(self) -> JsonValue:
        """The value; None when nothing stands there, for null is no value."""
        return None if self.text is None else decode_json(self.text, max_bytes=MAX_TRANSACTION_BYTES)


@dataclass(frozen=True, slots=True)
class ProvedSubtree:
    """All that stands on a path and below it.

    Attributes:
        path: Where it begins.
        texts: Whole path -> exact bytes of the value, in order of the paths.
        block: The block in whose state that is so.
    """

    path: str
    texts: Mapping[str, bytes]
    block: SignedBlock


class StateReader:
    """The state of one ledger, as one client sees it.

    Args:
        send: Asks the ledger.
        follower: The newest block seen.
        fetch_consistency: Asks the ledger for a consistency proof.
    """

    def __init__(self, send: SendRequest, follower: BlockFollower, fetch_consistency: FetchConsistency) -> None:
        self._send = send
        self._follower = follower
        self._fetch_consistency = fetch_consistency

    def value(self, path: str, at: SignedBlock | None = None, *, at_least: int = 0) -> ProvedValue:
        """Return what stands on a path, proved; see `LedgerClient.read`."""
        answer, block, raw = self._ask(StateAnswer, "/state", path, at, at_least)
        text = None if answer.value is None else answer.value.encode()
        children = None if answer.children is None else bytes.fromhex(answer.children)
        try:
            check_value(bytes.fromhex(block.block.state), path, text, children, answer.way.way())
        except InvalidProof as err:
            raise self._not_proved(path, block, raw, err) from err
        return ProvedValue(path, text, block)

    def subtree(self, path: str, at: SignedBlock | None = None, *, at_least: int = 0) -> ProvedSubtree:
        """Return all that stands on a path and below it, proved; see `LedgerClient.read_below`."""
        texts: dict[str, bytes] = {}
        size, after = 0, ""
        for _ in range(SUBTREE_PAGES_MAX):
            answer, at, raw = self._ask(SubtreeAnswer, "/state/values", path, at, at_least, after)
            size += _add(texts, answer.values, after)
            if len(texts) > SUBTREE_VALUES_MAX or size > SUBTREE_BYTES_MAX:
                raise AnswerInvalid(
                    f"more than {SUBTREE_VALUES_MAX} values or {SUBTREE_BYTES_MAX} bytes stand below {path}"
                )
            if answer.next is None:
                try:
                    check_subtree(bytes.fromhex(at.block.state), path, texts, answer.way.way())
                except InvalidProof as err:
                    raise self._not_proved(path, at, raw, err) from err
                return ProvedSubtree(path, texts, at)
            if answer.next < next(reversed(texts), "") or answer.next <= after:
                raise AnswerInvalid(f"the page after {printable(after, 80)} leads back to {printable(answer.next, 80)}")
            after = answer.next
        raise AnswerInvalid(f"more than {SUBTREE_PAGES_MAX} pages stand below {path}")

    def _ask(
        self, model: type[AnswerT], route: str, path: str, at: SignedBlock | None, at_least: int, after: str = ""
    ) -> tuple[AnswerT, SignedBlock, bytes]:
        """Return an answer about a path with the block it is about, verified, and its bytes."""
        seen = self._follower.seen
        height = None if at is None else str(at.block.height)
        response = self._send(route, {"path": path, "height": height, "after": after or None}, MAX_ANSWER_BYTES)
        try:
            answer = decoded(model, response)
        except RequestRejected as err:
            raise AnswerInvalid(f"the ledger does not prove what stands on {path}: {err.message}") from err
        if answer.path != path:
            raise AnswerInvalid(f"the ledger answered for {printable(answer.path, 80)}, {path} was asked for")
        block = self._block(answer.note.encode(), at)
        least = max(at_least, 0 if at is not None or seen is None else seen.block.height)
        if block.block.height < least:
            raise AnswerInvalid(f"the ledger shows the state of block {block.block.height}, block {least} is known")
        return answer, block, response.body

    def _block(self, note: bytes, at: SignedBlock | None) -> SignedBlock:
        if at is None:
            return self._follower.advance(note, self._fetch_consistency)
        block = self._follower.opened(note)
        if block.hash != at.hash:
            raise AnswerInvalid(
                f"the ledger shows another block {block.block.height} than {at.block.height}, asked for"
            )
        return block

    def _not_proved(self, path: str, block: SignedBlock, answer: bytes, cause: InvalidProof) -> StateNotProved:
        error = StateNotProved(
            f"what the ledger shows for {path} is not in block {block.block.height}: {cause}",
            path=path,
            note=block.raw,
            answer=answer,
        )
        self._follower.keep(error)
        return error


def _add(texts: dict[str, bytes], page: Sequence[StateValue], after: str) -> int:
    """Add a page, whose paths rise from the last one on; returns its bytes."""
    size = 0
    for value in page:
        if value.path <= after or not re.fullmatch(PATH_PATTERN, value.path):
            raise AnswerInvalid(f"{printable(value.path, 80)} comes after {printable(after, 80)}")
        after, text = value.path, value.value.encode()
        texts[after] = text
        size += len(after) + len(text)
    return size
