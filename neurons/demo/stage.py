"""Cheats on stage: real miners that cheat, one after another beside the honest one, each to be caught with its reason."""

from __future__ import annotations

import time
from dataclasses import dataclass

from neurons.demo.market import Guest, Market
from neurons.demo.narrator import Narrator
from neurons.demo.process import Daemon
from neurons.miner.hardware import CLAIM_FIELDS
from polarise.errors import ConfigError, RejectReason
from polarise.hardware import HardwareClaim

CAUGHT_SECONDS = 150.0
HONEST_PROGRAM = ("main.py", "miner")


@dataclass(frozen=True, slots=True)
class Cheat:
    """One act.

    Attributes:
        name: For the command line and the log.
        boast: What it does.
        expected: The reason it must be caught with; None for the honest guest of the control.
        program: What runs.
        claim_percent: What it claims, of what was measured.
    """

    name: str
    boast: str
    expected: RejectReason | None
    program: tuple[str, ...] = HONEST_PROGRAM
    claim_percent: int = 100


CHEATS = (
    Cheat("overclaimer", "claims four times the hardware it has", RejectReason.CLAIM_NOT_MET, claim_percent=400),
    Cheat(
        "forger",
        "skips a fifth of the tiles",
        RejectReason.TILE_MISMATCH,
        ("-m", "neurons.demo.cheats", "tile-skipper"),
    ),
    Cheat(
        "share-forger",
        "sends nonces that it never searched for",
        RejectReason.SHARE_INVALID,
        ("-m", "neurons.demo.cheats", "share-forger"),
    ),
    Cheat(
        "memory-inventor",
        "holds three quarters of the memory it fills",
        RejectReason.BLOCK_MISMATCH,
        ("-m", "neurons.demo.cheats", "memory-inventor"),
    ),
    Cheat(
        "late-opener",
        "begins to look for its openings when it sees the questions",
        RejectReason.OPENING_LATE,
        ("-m", "neurons.demo.cheats", "late-opener"),
    ),
    Cheat(
        "limit-liar",
        "signs a memory limit that it never sets",
        RejectReason.LIMIT_NOT_HELD,
        ("-m", "neurons.demo.cheats", "limit-liar"),
    ),
    Cheat(
        "event-editor",
        "changes what its log said before",
        RejectReason.LOG_FORK,
        ("-m", "neurons.demo.cheats", "event-editor"),
    ),
)
CONTROL = Cheat("guest", "is a second honest miner", None)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one act.

    Attributes:
        name: Which.
        expected: The reason it had to be caught with.
        reasons: The reasons of its last score.
        score: Its last score.
    """

    name: str
    expected: RejectReason | None
    reasons: tuple[str, ...]
    score: str

    @property
    def is_right(self) -> bool:
        """Whether a cheat was caught for what it did, and an honest guest for nothing."""
        if self.expected is None:
            return float(self.score) >= 70.0
        return str(self.expected) in self.reasons and self.score == "0.00"


def chosen(names: str) -> tuple[Cheat, ...]:
    """Return the acts that ``--cheat`` names: all, none (the control), or a list with commas.

    Raises:
        ConfigError: An unknown name.
    """
    if names in {"all", "none"}:
        return CHEATS if names == "all" else (CONTROL,)
    known = {cheat.name: cheat for cheat in CHEATS}
    wanted = names.split(",")
    if unknown := [name for name in wanted if name not in known]:
        raise ConfigError(f"unknown cheat {unknown[0]!r}", origin="--cheat", allowed=f"all, none, {', '.join(known)}")
    return tuple(known[name] for name in wanted)


def play(
    market: Market, validator: Daemon, narrator: Narrator, hardware: HardwareClaim, cheats: tuple[Cheat, ...]
) -> list[Outcome]:
    """Let every act play, until the last one's epoch is recorded too, and return what came of each."""
    outcomes = [_play_one(market, validator, narrator, hardware, cheat) for cheat in cheats]
    if outcomes:
        validator.wait_for("epoch finished", CAUGHT_SECONDS)
    return outcomes


def _play_one(market: Market, validator: Daemon, narrator: Narrator, hardware: HardwareClaim, cheat: Cheat) -> Outcome:
    guest = market.add_miner(cheat.name, cheat.program, _claim(hardware, cheat.claim_percent))
    narrator.step(f"on stage: {cheat.name}, which {cheat.boast}", cheat=cheat.name)
    outcome = _watch(validator, guest, cheat)
    said = ", ".join(outcome.reasons) or "nothing found"
    verdict = "as it should be" if outcome.is_right else "NOT as it should be"
    narrator.step(
        f"{cheat.name} scored {outcome.score}: {said} ({verdict})",
        cheat=cheat.name,
        score=outcome.score,
        reasons=list(outcome.reasons),
        is_right=outcome.is_right,
    )
    market.dismiss(guest)
    return outcome


def _watch(validator: Daemon, guest: Guest, cheat: Cheat) -> Outcome:
    """Follow the validator until the guest is caught as expected, or the time is over; honest guests have one chance."""
    end = time.monotonic() + CAUGHT_SECONDS
    last = Outcome(cheat.name, cheat.expected, (), "0.00" if cheat.expected is None else "not scored")
    while (left := end - time.monotonic()) > 0:
        for event in validator.events(left):
            if event.get("event") == "miner scored" and event.get("miner_key") == guest.identity.public_key:
                reasons = event.get("reasons")
                shown = tuple(str(reason) for reason in reasons) if isinstance(reasons, list) else ()
                last = Outcome(cheat.name, cheat.expected, shown, str(event.get("score")))
                break
        else:
            return last
        if last.is_right or cheat.expected is None:
            return last
    return last


def _claim(hardware: HardwareClaim, percent: int) -> HardwareClaim:
    devices = tuple(
        device.model_copy(update={name: getattr(device, name) * percent // 100 for name in CLAIM_FIELDS.values()})
        for device in hardware.devices
    )
    return hardware.model_copy(update={"devices": devices})
