"""What an operator wants to know at a glance: leases, the newest challenges, what validators found and cosigned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

from neurons.base.agent_client import AgentClient
from neurons.base.data_dir import DataDir
from neurons.miner.drain import Drain
from neurons.miner.journal import Journal
from neurons.miner.lease import LeaseState
from neurons.miner.rented import shown_by
from neurons.miner.validations import KeptVerdict, ValidationTracker
from neurons.miner.verdicts import verdict_wire
from polarise.checkpoint import parse_checkpoint
from polarise.cosignature import MOST
from polarise.errors import ConfigError, SubnetError, Unavailable
from polarise.notes import parse_note
from polarise.quantities import format_size
from utils.clock import SystemClock, iso_utc

CHALLENGES_SHOWN = 10
# What a renter can do about a lease that no signature of its shows.
UNSHOWN = (
    "not shown as rented: its renter can `renter renew {id}` on its machine, which signs, or use a token of a current "
    "`renter token` for its next lease"
)


def read_status(root: Path) -> dict[str, list[dict[str, object]]]:
    """Read leases, challenges and verdicts of one miner, and ask its agent about the log.

    Raises:
        ConfigError: The folder is not a miner's.
    """
    leases = read_leases(root)
    with ValidationTracker(root / "validations.sqlite") as tracker:
        challenges: list[dict[str, object]] = [
            {
                "at": iso_utc(item.prepared_unix_ms),
                "validator_key": item.validator_key,
                "device": item.device,
                "kind": item.kind,
                "state": item.state,
                "work_ms": item.work_ms,
            }
            for item in tracker.newest(CHALLENGES_SHOWN)
        ]
        verdicts = [_verdict(kept) for kept in tracker.newest_verdicts()]
    drain: list[dict[str, object]] = [{"is_draining": Drain(root).is_on()}]
    log = _log(AgentClient(root))
    return {
        "drain": drain,
        "leases": leases,
        "firewall": _firewall(DataDir(root).firewall),
        "challenges": challenges,
        "verdicts": verdicts,
        "log": log,
    }


def read_leases(root: Path) -> list[dict[str, object]]:
    """Read the leases of one miner.

    Raises:
        ConfigError: The folder is not a miner's.
    """
    files = DataDir(root)
    if not files.journal.exists():
        raise ConfigError(f"{root} is not a miner's data directory", key_path="data_dir", allowed="--data-dir DIR")
    now_unix_ms = SystemClock().wall_unix_ms()
    with Journal(files.journal) as journal:
        return [
            {
                "container_id": lease.container_id,
                "state": str(lease.state),
                "renter_key": lease.renter_key,
                "ssh_port": lease.ssh_port,
                "memory_bytes": lease.limits.memory_bytes,
                "cpu_milli": lease.limits.cpu_milli,
                "expires_at": iso_utc(lease.expiry.wall_unix_ms),
                "shown_by": shown_by(lease, now_unix_ms),
            }
            for lease in journal.all()
            if not lease.is_slot
        ]


def _firewall(path: Path) -> list[dict[str, object]]:
    """Say how the packet filter stood when it last changed; nothing where the miner never ran."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [value] if isinstance(value, dict) else []


def _log(agent: AgentClient) -> list[dict[str, object]]:
    """Say how far the system log is signed and cosigned; nothing while the agent, which alone knows, is away."""
    try:
        stream_id = agent.epochs().system
        info = agent.info(stream_id)
        most = agent.checkpoint(stream_id, witnesses=MOST).note if info.cosigned else None
    except Unavailable:
        return []
    cosigned = None if most is None else parse_note(most.encode())
    return [
        {
            "stream": stream_id,
            "signed_size": info.signed_size,
            "cosigned_size": None if cosigned is None else parse_checkpoint(cosigned.text).size,
            "cosigned_by": 0 if cosigned is None else len(cosigned.signatures) - 1,
            "witnesses": [
                {
                    "validator_key": by.validator_key,
                    "size": by.size,
                    "cosigned_at": iso_utc(by.time_unix_s * 1000),
                }
                for by in info.cosigned
            ],
        }
    ]


def _verdict(kept: KeptVerdict) -> dict[str, object]:
    try:
        return verdict_wire(kept)
    except SubnetError as err:
        raise ConfigError(
            f"a kept verdict does not verify: {err}",
            origin="validations.sqlite",
            allowed="remove the file; it is notes",
        ) from err


def render(status: dict[str, list[dict[str, object]]]) -> str:
    """Return the status as text."""
    lines = ["draining: no new leases are granted; `miner drain --off` ends it"] * _is_draining(status)
    lines.append(f"{len(status['leases'])} leases")
    for lease in status["leases"]:
        memory = format_size(int(str(lease["memory_bytes"])))
        lines.append(
            f"  {str(lease['container_id'])[:12]}  {lease['state']:<8}  port {lease['ssh_port']}  {memory}  "
            f"{int(str(lease['cpu_milli'])) / 1000:g} CPU  until {lease['expires_at']}  "
            f"renter {str(lease['renter_key'])[:12]}"
        )
        if lease["shown_by"] is None and lease["state"] == LeaseState.ACTIVE:
            lines.append(f"    {UNSHOWN.format(id=str(lease['container_id'])[:12])}")
    lines += [f"firewall {item.get('state')}  {item.get('cause') or ''}".rstrip() for item in status["firewall"]]
    lines.append(f"{len(status['challenges'])} newest challenges")
    for item in status["challenges"]:
        work = "" if item["work_ms"] is None else f"  work {item['work_ms']} ms"
        lines.append(
            f"  {item['at']}  {item['kind']} on {item['device']}  {item['state']}{work}  "
            f"validator {str(item['validator_key'])[:12]}"
        )
    lines.append(f"{len(status['verdicts'])} newest verdicts, one per validator")
    for verdict in status["verdicts"]:
        lines += _verdict_lines(verdict)
    lines += [line for log in status["log"] for line in _log_lines(log)] or ["log: the agent does not answer"]
    return "\n".join(lines)


def _is_draining(status: dict[str, list[dict[str, object]]]) -> bool:
    return any(row["is_draining"] for row in status["drain"])


def _log_lines(log: dict[str, object]) -> list[str]:
    signed = f"log {log['stream']}: {log['signed_size']} lines signed"
    if log["cosigned_size"] is None:
        return [f"{signed}, none cosigned yet"]
    lines = [f"{signed}, the first {log['cosigned_size']} cosigned by {log['cosigned_by']}"]
    for by in cast(list[dict[str, object]], log["witnesses"]):
        lines.append(f"  validator {str(by['validator_key'])[:12]}  up to {by['size']}  at {by['cosigned_at']}")
    return lines


def _verdict_lines(verdict: dict[str, object]) -> list[str]:
    lost = cast(list[dict[str, object]], verdict["lost"])
    undrawn = f"  epochs without a draw: {verdict['undrawn_count']}" if verdict["undrawn_count"] else ""
    lines = [
        f"  validator {str(verdict['validator_key'])[:12]}  epoch {verdict['epoch']}  score {verdict['score']}  "
        f"received {verdict['received_at']}{undrawn}",
        f"    evidence {verdict['evidence']}",
    ]
    if verdict["weight"]:
        lines.append(f"    {verdict['weight']}")
    if not lost:
        lines.append("    nothing was lost")
    for line in lost:
        reasons = ", ".join(cast(list[str], line["reasons"]))
        why = ": ".join(text for text in (reasons, str(line["message"])) if text)
        lines.append(f"    lost {line['points']:>6} to {line['part']}" + (f": {why}" if why else ""))
        lines += [f"      fix: {fix}" for fix in cast(list[str], line["fixes"])]
    return lines
