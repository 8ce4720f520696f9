"""Miners that send broken messages: cut, oversized, of wrong types, NaN, or with negative indices.

A broken message must never be worth more than a wrong answer, and must not cost the validator more than its bound. A body
that cannot be read is MISSING for a commitment and OPENING_LATE once positions are known.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass

from neurons.validator.challenges import Challenge
from polarise.errors import RejectReason
from tests.adversaries.cheat import Cheat
from tests.adversaries.exam import Player, Positions, SignedWork, openings_body
from tests.adversaries.proofs import AnswerCheat, honest_work

Break = Callable[[random.Random, bytes], bytes]
Openings = list[dict[str, object]]
Bend = Callable[[random.Random, Openings], Openings]


def untouched(_rng: random.Random, body: bytes) -> bytes:
    """Send it as it is."""
    return body


def cut(rng: random.Random, body: bytes) -> bytes:
    """Stop anywhere before the end."""
    return body[: rng.randrange(1, len(body))]


def padded(rng: random.Random, body: bytes) -> bytes:
    """Add white space, which JSON allows, until it is longer than any honest answer."""
    return body + b" " * rng.randrange(1 << 17, 1 << 18)


def bent(*bends: Bend) -> Break:
    """Return a break that takes the openings, bends them in one of these ways, and writes them again."""

    def apply(rng: random.Random, body: bytes) -> bytes:
        openings: Openings = json.loads(body)["openings"]
        return openings_body(rng.choice(bends)(rng, openings))

    return apply


def fewer(_rng: random.Random, openings: Openings) -> Openings:
    """Leave one opening out."""
    return openings[:-1]


def more(_rng: random.Random, openings: Openings) -> Openings:
    """Send one twice."""
    return [*openings, openings[0]]


def replacing(field: str, values: Callable[[random.Random, object], object]) -> Bend:
    """Return a bend that replaces one field of one opening."""

    def bend(rng: random.Random, openings: Openings) -> Openings:
        chosen = rng.randrange(len(openings))
        changed = {**openings[chosen], field: values(rng, openings[chosen][field])}
        return [*openings[:chosen], changed, *openings[chosen + 1 :]]

    return bend


def numbers(*make: Callable[[int], object]) -> Callable[[random.Random, object], object]:
    """Return a change of one of three numbers."""

    def change(rng: random.Random, at: object) -> object:
        assert isinstance(at, list)
        place, changed = rng.randrange(len(at)), rng.choice(make)
        return [changed(number) if index == place else number for index, number in enumerate(at)]

    return change


def shorter(_rng: random.Random, text: object) -> object:
    """Cut a whole group of base64 off."""
    return str(text)[:-4]


def longer(_rng: random.Random, text: object) -> object:
    """Add twelve bytes of zeros."""
    return "A" * 16 + str(text)


def no_text(rng: random.Random, text: object) -> object:
    """Send another type, or a number list where base64 belongs."""
    return rng.choice((None, 0, True, [1, 2, 3], {"b64": text}, 1.5))


@dataclass(frozen=True, slots=True)
class Broken:
    """Works honestly and breaks its messages."""

    inner: SignedWork
    rng: random.Random
    commitment: Break
    openings: Break

    def commit(self) -> bytes:
        """Break the commitment, if that is the cheat."""
        return self.commitment(self.rng, self.inner.commit())

    def open(self, positions: Positions) -> bytes:
        """Break the openings, if that is the cheat."""
        return self.openings(self.rng, self.inner.open(positions))


@dataclass(frozen=True, slots=True, kw_only=True)
class BreaksMessages(AnswerCheat):
    """A miner whose messages are broken.

    Args:
        commitment: What becomes of the commitment's bytes.
        openings: What becomes of the openings' bytes.
    """

    commitment: Break = untouched
    openings: Break = untouched

    def player(self, challenge: Challenge, rng: random.Random) -> Player:
        """Work honestly."""
        return Broken(SignedWork(challenge, honest_work(challenge)), rng, self.commitment, self.openings)


CHEATS: tuple[Cheat, ...] = (
    BreaksMessages(
        name="truncated commitment",
        how="cuts the commitment's body anywhere",
        reasons=(RejectReason.MISSING,),
        commitment=cut,
    ),
    BreaksMessages(
        name="truncated openings",
        how="cuts the openings' body anywhere",
        reasons=(RejectReason.OPENING_LATE,),
        openings=cut,
    ),
    BreaksMessages(
        name="too few or too short openings",
        how="leaves out an opening, or the end of a leaf or path",
        reasons=(RejectReason.WRONG_COUNT, RejectReason.MALFORMED),
        openings=bent(fewer, replacing("leaf", shorter), replacing("path", shorter)),
    ),
    BreaksMessages(
        name="oversized commitment",
        how="pads the commitment beyond any honest one",
        reasons=(RejectReason.MISSING,),
        commitment=padded,
    ),
    BreaksMessages(
        name="oversized openings",
        how="pads the openings beyond any honest ones",
        reasons=(RejectReason.OPENING_LATE,),
        openings=padded,
    ),
    BreaksMessages(
        name="too many or too long openings",
        how="adds an opening, or bytes to a leaf or path",
        reasons=(RejectReason.WRONG_COUNT, RejectReason.MALFORMED),
        openings=bent(more, replacing("leaf", longer), replacing("path", longer)),
    ),
    BreaksMessages(
        name="wrong types",
        how="sends floats, truth values, text, null or lists where numbers and base64 belong",
        reasons=(RejectReason.MALFORMED,),
        openings=bent(
            replacing("at", numbers(float, str, lambda _: True, lambda _: None, lambda number: [number])),
            replacing("leaf", no_text),
            replacing("path", no_text),
        ),
    ),
    BreaksMessages(
        name="NaN and infinity",
        how="sends NaN or an infinity as a number",
        reasons=(RejectReason.OPENING_LATE,),
        openings=bent(
            replacing("at", numbers(lambda _: float("nan"), lambda _: float("inf"), lambda _: -float("inf")))
        ),
    ),
    BreaksMessages(
        name="negative indices",
        how="names tiles from the end, as Python would take them, or beyond it",
        reasons=(RejectReason.MALFORMED,),
        openings=bent(
            replacing("at", numbers(lambda number: number - 8, lambda _: -1, lambda _: 2**40, lambda _: 2**60))
        ),
    ),
)
