"""Miners that answer with work done for another seed: yesterday's, another identity's, or one guessed before the nonce."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from challenges import draw
from challenges.draw import ChallengeKind
from challenges.solver import MatmulWork
from neurons.validator.challenges import Challenge
from polarise.errors import RejectReason
from polarise.signing import Certificate, Identity, Purpose, SigningKey
from polarise.statement import SignedStatement
from tests.adversaries.cheat import Cheat
from tests.adversaries.exam import EPOCH, Player, Positions, SignedWork, body_of, commitment, new_challenge
from tests.adversaries.proofs import AnswerCheat, honest_work
from tests.support.proving_miner import OWNER, VALIDATOR

Send = Callable[[Challenge, Challenge, MatmulWork], SignedStatement]
Other = Callable[[Challenge, random.Random], Challenge]

_TWIN_KEY = SigningKey(b"t" * 32)
TWIN = Identity(_TWIN_KEY, Certificate.issue(OWNER, _TWIN_KEY.public_key, Purpose.NODE))


def yesterdays(challenge: Challenge, rng: random.Random) -> Challenge:
    """Return what the same miner was asked in the epoch before."""
    return new_challenge(rng, challenge.params, device=challenge.device, epoch=EPOCH - 1)


def twins(challenge: Challenge, rng: random.Random) -> Challenge:
    """Return what a second identity of the same owner is asked in the same epoch, by the same key."""
    twin = new_challenge(rng, challenge.params, device=challenge.device, miner=TWIN, opening_key=challenge.opening_key)
    return twin


def guessed(challenge: Challenge, rng: random.Random) -> Challenge:
    """Return the challenge as it follows from everything public but the nonce, which is guessed from last epoch's key.

    Beacon, epoch, keys, device and sizes are right: only the validator's part is missing.
    """
    old_key = rng.randbytes(32)
    kind = ChallengeKind.MATMUL
    nonce = draw.nonce(old_key, challenge.beacon, challenge.device.uuid, kind)
    seed = draw.seed(
        draw.SeedInputs(
            kind=kind,
            params=challenge.params.encode(),
            epoch=challenge.epoch,
            beacon=challenge.beacon,
            validator_key=bytes.fromhex(VALIDATOR.public_key),
            nonce=nonce,
            miner_key=bytes.fromhex(challenge.miner_key),
            device_uuid=challenge.device.uuid,
            device_index=challenge.device_index,
        )
    )
    return replace(challenge, nonce=nonce, seed=seed)


def replayed(_asked: Challenge, other: Challenge, work: MatmulWork) -> SignedStatement:
    """Send the old statement as it is."""
    return commitment(other, work.commitment.to_wire())


def renamed(asked: Challenge, other: Challenge, work: MatmulWork) -> SignedStatement:
    """Sign the old work under the new name, with the seed it was made from."""
    return commitment(asked, work.commitment.to_wire(), seed=other.seed)


def relabelled(asked: Challenge, _other: Challenge, work: MatmulWork) -> SignedStatement:
    """Sign the old work as if it were made from the new seed."""
    return commitment(asked, work.commitment.to_wire())


def forwarded(_asked: Challenge, other: Challenge, work: MatmulWork) -> SignedStatement:
    """Send what the twin signed."""
    return commitment(other, work.commitment.to_wire(), signer=TWIN)


@dataclass(frozen=True, slots=True)
class Borrowed:
    """Sends a statement about work for another challenge, and opens that work."""

    statement: SignedStatement
    inner: SignedWork

    def commit(self) -> bytes:
        """Send the statement."""
        return body_of(self.statement)

    def open(self, positions: Positions) -> bytes:
        """Open the borrowed work."""
        return self.inner.open(positions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Borrower(AnswerCheat):
    """A miner that has work, but for another seed.

    Args:
        other: Which challenge the work was done for.
        send: What is signed about it.
    """

    other: Other
    send: Send

    def player(self, challenge: Challenge, rng: random.Random) -> Player:
        """Do the other challenge's work and send it here."""
        other = self.other(challenge, rng)
        work = honest_work(other)
        return Borrowed(self.send(challenge, other, work), SignedWork(other, work))


CHEATS: tuple[Cheat, ...] = (
    Borrower(
        name="reused seed",
        how="signs yesterday's work as today's",
        reasons=(RejectReason.TILE_MISMATCH,),
        other=yesterdays,
        send=relabelled,
    ),
    Borrower(
        name="reused seed, said openly",
        how="signs yesterday's work under today's name, with yesterday's seed in the statement",
        reasons=(RejectReason.SEED_MISMATCH,),
        other=yesterdays,
        send=renamed,
    ),
    Borrower(
        name="replayed commitment",
        how="sends the statement it signed yesterday once more",
        reasons=(RejectReason.SEED_MISMATCH,),
        other=yesterdays,
        send=replayed,
    ),
    Borrower(
        name="another identity's answer",
        how="does one proof for two identities of one owner and signs it with each key",
        reasons=(RejectReason.TILE_MISMATCH,),
        other=twins,
        send=relabelled,
    ),
    Borrower(
        name="another identity's statement",
        how="forwards what a second identity signed",
        reasons=(RejectReason.BAD_SIGNATURE,),
        other=twins,
        send=forwarded,
    ),
    Borrower(
        name="precomputed",
        how="works before the nonce is out, with a nonce made from the opening key of the epoch before",
        reasons=(RejectReason.TILE_MISMATCH,),
        formula="1 - 2**-256 for a nonce of 256 bits",
        other=guessed,
        send=relabelled,
    ),
)
