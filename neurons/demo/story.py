"""The demo: a miner proves itself and rents out a container, a validator checks both, a renter logs in.

Nothing is simulated: the daemons are the real programs, the container is a real container, ssh is OpenSSH.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from neurons.demo.market import Market
from neurons.demo.narrator import Narrator
from neurons.demo.process import Daemon, Event
from neurons.demo.stage import Cheat, chosen, play
from neurons.demo.training import prove_training
from polarise.errors import SubnetError
from polarise.quantities import format_size
from polarise.receipt import Receipt
from polarise.statement import SignedStatement

EPOCH_SECONDS = 180
# Short epochs, so that every act is over soon.
STAGE_SETTINGS = {"validator": {"epoch_seconds": 10, "proof_target_seconds": 1}}
INTERRUPTED = 130
# What the training run in the container tells, epoch by epoch.
LOSSES = (0.9, 0.5, 0.3)
RENT = ("--memory", "512m", "--cpus", "0.5", "--ttl", "600")
# What a renter looks at first: how much memory, how many CPUs, how many processes (cgroup v1, then v2).
SHOW_LIMITS = (
    "echo memory_bytes=$(cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max);"
    "echo cpu_quota=$(cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null || cat /sys/fs/cgroup/cpu.max);"
    "echo pids=$(cat /sys/fs/cgroup/pids/pids.max 2>/dev/null || cat /sys/fs/cgroup/pids.max)"
)


def run(*, once: bool, json_file: Path | None, keep: Path | None, cheat: str | None = None) -> int:
    """Run the demo.

    Args:
        once: End after one round; else go on until Ctrl-C.
        json_file: Also write what happened there.
        keep: Folder to work in and leave; None for a temporary one.
        cheat: Which cheats play, see `neurons.demo.stage.chosen`; None for none of it.

    Returns:
        0 when the miner's score was acceptable and the renter got what was promised, 130 when stopped before.
    """
    signal.signal(signal.SIGTERM, _as_interrupt)
    if json_file is not None:
        json_file.touch()
    narrator = Narrator()
    acts = chosen(cheat) if cheat is not None else ()
    outcome: dict[str, object] = {"ok": False}
    status = 1
    try:
        with Market(keep, validator_settings=STAGE_SETTINGS if acts else None) as market:
            outcome, validator = _play(market, narrator, acts)
            if not once and outcome["ok"]:
                _stay(market, validator, narrator)
    except KeyboardInterrupt:
        narrator.note("stopped")
        if not outcome["ok"]:
            outcome["error"] = "stopped by the user"
            status = INTERRUPTED
    except SubnetError as err:
        outcome["error"] = str(err)
        print(f"demo: {err}", file=sys.stderr)
    narrator.note("everything is stopped and removed" + (f"; kept: {keep}" if keep else ""))
    if json_file is not None:
        narrator.write_json(json_file, outcome)
    return 0 if outcome["ok"] else status


def _play(market: Market, narrator: Narrator, acts: tuple[Cheat, ...]) -> tuple[dict[str, object], Daemon]:
    narrator.step("keys made: an owner, a ledger, a miner and a validator certified by it, a renter")
    market.start_ledger()
    narrator.step(
        f"ledger up at {market.ledger_url}, one block a second, net {market.genesis.net}", url=market.ledger_url
    )
    _, url = market.start_miner()
    narrator.step(f"miner up at {url}", url=url, node_key=market.miner_identity.public_key)
    entry = market.register_miner(url, lambda _device: None)
    for device in entry.hardware.devices:
        narrator.step(
            f"miner registered with measured hardware: {device.name}, {entry.hardware.cpu_milli / 1000:g} CPUs, "
            f"{format_size(entry.hardware.memory_bytes)} for lease; it claims {device.rates_text}",
            device=device.uuid,
            claimed_matmul_ops_per_second=device.matmul_ops_per_second,
            claimed_pow_hashes_per_second=device.pow_hashes_per_second,
            claimed_memory_bytes_per_second=device.memory_bytes_per_second,
        )
    validator = market.start_validator()
    narrator.step(
        f"validator up at {market.validator_url}; it imports no torch and needs no GPU",
        url=market.validator_url,
        node_key=market.validator_identity.public_key,
    )
    scored = _watch_epoch(validator, narrator)
    _rent(market, narrator, url)
    outcomes = play(market, validator, narrator, entry.hardware, acts)
    is_right = all(outcome.is_right for outcome in outcomes) and _audit(market, narrator)
    cheats = {outcome.name: list(outcome.reasons) for outcome in outcomes}
    score = str(scored.get("score"))
    outcome = {"ok": bool(scored.get("is_acceptable")) and is_right, "score": score, "reasons": scored.get("reasons")}
    return {**outcome, "cheats": cheats}, validator


def _audit(market: Market, narrator: Narrator) -> bool:
    """Derive every score anew from the ledger and the evidence."""
    status, report = market.audit()
    steps = report.get("steps")
    failures = report.get("failures")
    if status == 0 and isinstance(steps, list):
        narrator.step(f"audit clean: all {len(steps)} steps derived anew from ledger and evidence", report=report)
    else:
        narrator.step(f"audit FAILED with status {status}: {failures}", report=report)
    return status == 0


def _watch_epoch(validator: Daemon, narrator: Narrator) -> Event:
    """Tell the validator's events until the epoch is recorded; returns the miner's score."""
    scored: Event | None = None
    for event in validator.events(EPOCH_SECONDS):
        tell = _TELLERS.get(str(event.get("event")))
        if tell is not None:
            fields = {name: value for name, value in event.items() if name not in {"time", "level", "logger"}}
            narrator.step(tell(event), **fields)
        if event.get("event") == "miner scored":
            scored = event
        if event.get("event") == "epoch finished" and scored is not None:
            return scored
    raise SubnetError(f"the validator gave no score within {EPOCH_SECONDS} s\n{validator.tail()}")


def _rent(market: Market, narrator: Narrator, url: str) -> None:
    lease = market.run_renter_json("allocate", "--miner", url, *RENT)
    container_id = str(lease["container_id"])
    short = container_id[:12]
    narrator.step(
        f"renter allocated container {short}: 512 MiB, 0.5 CPU, ssh port {lease['ssh_port']}, host key "
        f"{lease['host_key_fingerprint']}",
        container_id=container_id,
    )
    seen = market.run_renter("ssh", short, "--", SHOW_LIMITS).split()
    narrator.step(f"renter logged in with the host key pinned from the receipt and saw: {' '.join(seen)}", seen=seen)
    for epoch, loss in enumerate(LOSSES, 1):
        event = f'{{"modelId": "demo", "epoch": {epoch}, "loss": {loss}}}'
        market.run_renter("ssh", short, "--", f"python3 /run/polarise/events.py emit training.epoch '{event}'")
    narrator.step(f"a training run in the container told {len(LOSSES)} events through its socket")
    renewed = market.run_renter_json("renew", short, "--ttl", "1200")
    narrator.step(f"renter renewed the lease until {renewed['expires_at']}")
    market.run_renter("release", short)
    narrator.step(f"renter released {short}; the container and all its traces are gone")
    height = prove_training(market, container_id, _lease_id(lease), len(LOSSES))
    narrator.step(
        f"the {len(LOSSES)} training events are proved, line by line, to a root in block {height} of the ledger"
    )


def _lease_id(answer: dict[str, object]) -> str:
    """Read the lease's id from the signed receipt that `renter allocate -o json` prints."""
    return SignedStatement.model_validate(answer["receipt"], strict=False).open("receipt", Receipt).lease_id


def _stay(market: Market, validator: Daemon, narrator: Narrator) -> None:
    """Keep the market running and tell each further score until Ctrl-C."""
    environ = market.environ()
    names = ("POLARISE_PASSPHRASE_FILE", "POLARISE_RENTER_KEY", "POLARISE_STATE_DIR")
    url = market.miner_url
    narrator.note(f"\nThe status page of the validator: {market.validator_url}/")
    narrator.note("\nThe market goes on until Ctrl-C. In another terminal, in this folder:")
    narrator.note("  export " + " ".join(f"{name}={environ[name]}" for name in names))
    narrator.note(f"  python main.py renter allocate --miner {url} --memory 512m")
    narrator.note("  python main.py renter ps; python main.py renter ssh ID")
    narrator.note(f"  python main.py validator scores --data-dir {market.root / 'validator'}")
    narrator.note(f"  python main.py miner status --data-dir {market.root / 'miner'}")
    narrator.note(f"  python main.py validator explain {market.miner_node_id} --data-dir {market.root / 'validator'}\n")
    for event in validator.events():
        if event.get("event") == "miner scored":
            narrator.step(_TELLERS["miner scored"](event), score=event.get("score"))


def _as_interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _proof_sent(event: Event) -> str:
    sizes = event.get("sizes")
    if not isinstance(sizes, dict):
        return "proof sent"
    if event.get("kind") == "pow":
        return f"proof of work sent: {sizes.get('shares')} shares of {sizes.get('difficulty')} hashes each"
    if event.get("kind") == "memory":
        mebibytes = int(str(sizes.get("blocks"))) // 16
        return f"memory proof sent: {mebibytes} MiB, filled before the clock, are read {sizes.get('passes')} times"
    return f"proof sent: matmul of {sizes.get('n')} x {sizes.get('n')}, {sizes.get('rounds')} chained rounds"


def _proof_verified(event: Event) -> str:
    took = f"verified in {round(float(str(event.get('verify_ms'))))} ms"
    measured, claimed = (int(str(event.get(f"{name}_per_second", 0))) for name in ("measured", "claimed"))
    if event.get("kind") == "pow":
        return (
            f"proof of work {took}: {event.get('shares')} shares hashed, measured at least {measured / 1e6:.1f} of "
            f"claimed {claimed / 1e6:.1f} M hashes/s"
        )
    if event.get("kind") == "memory":
        return (
            f"memory proof {took}: {event.get('openings')} blocks made anew, measured {measured / 1e9:.1f} of claimed "
            f"{claimed / 1e9:.1f} G bytes/s"
        )
    return (
        f"proof {took}: {event.get('openings')} tiles recomputed, measured {measured / 1e9:.1f} of claimed "
        f"{claimed / 1e9:.1f} G operations/s"
    )


def _proof_name(event: Event) -> str:
    return {"pow": "proof of work", "memory": "memory proof"}.get(str(event.get("kind")), "proof")


_TELLERS: dict[str, Callable[[Event], str]] = {
    "epoch committed": lambda e: (
        f"epoch {e.get('epoch')} committed on the ledger; its beacon is block {e.get('beacon_height')}"
    ),
    "epoch finished": lambda e: (
        f"epoch {e.get('epoch')} recorded: scores and opening key "
        f"{'stand on the ledger' if e.get('is_on_ledger') else 'wait for the ledger'}"
    ),
    "proof sent": _proof_sent,
    "proof answered": lambda e: f"{_proof_name(e)} answered after {e.get('work_ms')} ms on the validator's clock",
    "proof verified": _proof_verified,
    "proof rejected": lambda e: f"{_proof_name(e)} REJECTED: {e.get('reason')}: {e.get('detail')}",
    "container inspected": lambda e: (
        f"container inspected from inside in {e.get('inspect_ms')} ms: {e.get('checks_count')} checks held"
    ),
    "inspection failed": lambda e: f"inspection FAILED: {e.get('reason')}: {e.get('detail')}",
    "telemetry verified": lambda e: f"telemetry verified: {e.get('new_lines')} new lines under a signed checkpoint",
    "telemetry rejected": lambda e: f"telemetry REJECTED: {e.get('reason')}: {e.get('detail')}",
    "miner scored": lambda e: (
        f"miner scored {e.get('score')} ({'accepted' if e.get('is_acceptable') else 'NOT accepted'}, 70.00 needed)"
    ),
}
