"""`python main.py validator [scores|explain|replay]`: run the daemon, or read what it found.

This module is stdlib only at import, so that building the parser needs no virtual environment.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from neurons.validator.identification import DeviceLook
    from neurons.validator.metrics import MetricsHandler, StoredScore
    from neurons.validator.replay_finding import Finding
    from polarise.evidence import EvidenceBundle, ScoreRecord

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

EXIT_OK = 0
EXIT_NOT_VERIFIED = 7
BROKEN_OFF = "broken off"


def add_parser(subparsers: Subparsers) -> None:
    """Add ``validator`` with its verbs; without one it runs the daemon."""
    from neurons.base.options import add_daemon_options

    parser = subparsers.add_parser("validator", help="run a validator, or read its scores")
    add_daemon_options(parser)
    parser.set_defaults(handler=run)
    verbs = parser.add_subparsers(dest="verb", metavar="{scores,explain,replay}")
    scores = verbs.add_parser("scores", help="print every miner's newest score")
    _add_reading_options(scores)
    scores.set_defaults(handler=run_scores)
    explain = verbs.add_parser("explain", help="print each lost point of one miner, and its fix")
    explain.add_argument("miner", metavar="MINER", help="node key, or the unique beginning of one")
    explain.add_argument("--epoch", type=int, metavar="N", help="the score of this epoch (default: the newest)")
    _add_reading_options(explain)
    explain.set_defaults(handler=run_explain)
    replay = verbs.add_parser("replay", help="check an evidence bundle, offline")
    replay.add_argument(
        "bundle", type=Path, metavar="BUNDLE", help="file of evidence/, or of a validator's API; its name counts"
    )
    replay.add_argument(
        "--previous",
        type=Path,
        metavar="BUNDLE",
        help="the miner's bundle before it, where its smoothed score came from",
    )
    replay.add_argument(
        "--genesis",
        type=Path,
        metavar="FILE",
        help="the ledger's genesis: who may order a device, where one is excused by an order",
    )
    _add_output(replay)
    replay.set_defaults(handler=run_replay)


def run(args: argparse.Namespace) -> int:
    """Run the daemon until it is told to stop."""
    from config.schema import RoleName
    from neurons.base import startup
    from neurons.validator.node import ValidatorNode

    started = startup.load(args, RoleName.VALIDATOR)
    return ValidatorNode(started.config, started.data_dir, started.identity).run()


def run_scores(args: argparse.Namespace) -> int:
    """Print the newest score of every miner."""
    from neurons.validator.scoring import ACCEPTABLE_PPM, points

    with _open_metrics(args) as metrics:
        found, weights = metrics.newest_of_all(), metrics.weights()
        states = {score.epoch: metrics.epoch(score.epoch).state for score in found}
    rows = [
        {
            "miner_key": score.miner_key,
            "score": points(score.record.score_ppm),
            "is_acceptable": score.record.score_ppm >= ACCEPTABLE_PPM,
            "worth_ppb": weights[score.miner_key].worth_ppb if score.miner_key in weights else None,
            "weight_ppm": weights[score.miner_key].weight_ppm if score.miner_key in weights else None,
            "undrawn_count": score.record.undrawn_count,
            "epoch": score.epoch,
            "epoch_state": states[score.epoch],
            "reasons": [str(reason) for reason in score.record.reasons],
            "evidence": score.evidence,
        }
        for score in found
    ]
    if args.output == "json":
        print(json.dumps(rows, indent=2))
        return EXIT_OK
    print(f"{'MINER':<16}  {'SCORE':>6}  {'ACCEPTED':<8}  {'WEIGHT':>9}  {'EPOCH':<10}  REASONS")
    for score in found:
        record = score.record
        accepted = "yes" if record.score_ppm >= ACCEPTABLE_PPM else "no"
        broken_off = ["epoch broken off"] if states[score.epoch] == BROKEN_OFF else []
        reasons = ", ".join([*record.reasons, *_earlier(record), *broken_off]) or "-"
        weight = weights.get(score.miner_key)
        share = "-" if weight is None else f"{weight.weight_ppm / 10_000:.4f} %"
        line = f"{score.miner_key[:16]}  {points(record.score_ppm):>6}  {accepted:<8}  {share:>9}  {score.epoch:<10}"
        print(f"{line}  {reasons}")
    return EXIT_OK


def run_explain(args: argparse.Namespace) -> int:
    """Print where one miner lost its points."""
    from neurons.validator.explain import explain, explanation_wire
    from neurons.validator.scoring import points
    from polarise.verdict import weight_text

    with _open_metrics(args) as metrics:
        found = metrics.newest_of_all() if args.epoch is None else metrics.scores_of(args.epoch)
        stored = _find(found, args.miner)
        is_broken_off = metrics.epoch(stored.epoch).state == BROKEN_OFF
    looks = _looks(args, stored)
    if args.output == "json":
        print(json.dumps({**explanation_wire(stored), "devices": [look.to_wire() for look in looks]}, indent=2))
        return EXIT_OK
    end = " (broken off: it gives no weight)" if is_broken_off else ""
    print(f"miner {stored.miner_key}  epoch {stored.epoch}{end}  score {points(stored.record.score_ppm)}")
    print(f"evidence {stored.evidence}")
    for line in explain(stored.record):
        share = f"{line.weight_ppm / 10_000:.1f} %" if line.weight_ppm else "left out"
        compared = f"{line.measured} of {line.claimed}" if line.claimed else line.measured
        # What earlier measurements give is no loss.
        word = "kept" if line.lost_ppm < 0 else "lost"
        print(f"{line.part:<10}  weight {share:<8}  {word} {points(abs(line.lost_ppm)):>6}  {compared}")
        for rate in line.rates:
            print(f"            {rate}")
        if line.reasons or line.message:
            print(f"            {', '.join(line.reasons)}{': ' if line.reasons and line.message else ''}{line.message}")
        for fix in line.fixes:
            print(f"            fix: {fix}")
    if weight := weight_text(stored.record):
        print(f"weight      {weight}")
    for look in looks:
        print(f"device     {look.device}  {look.name}")
        for text in look.lines:
            print(f"            {text}")
    return EXIT_OK


def run_replay(args: argparse.Namespace) -> int:
    """Check a bundle; exit status 7 when something does not hold."""
    from neurons.validator.replay import replay
    from polarise.errors import RequestRejected
    from polarise.genesis import read_genesis
    from utils.clock import SystemClock

    path = args.bundle
    try:
        bundle = _read_bundle(path)
        path = args.previous
        previous = None if path is None else _read_bundle(path)
    except RequestRejected as err:
        print(f"{path}: does not hold: {err}")
        return EXIT_NOT_VERIFIED
    genesis = None if args.genesis is None else read_genesis(args.genesis)
    validators = None if genesis is None else frozenset(member.key for member in genesis.validators)
    findings = [_name("name", args.bundle, bundle), *replay(bundle, SystemClock().wall_unix_ms(), validators)]
    if previous is not None:
        findings.append(_name("name of the previous bundle", path, previous))
    findings.append(_previous(bundle, previous))
    is_broken = any(finding.holds is False for finding in findings)
    if args.output == "json":
        lines = [{"what": f.what, "holds": f.holds, "detail": f.detail} for f in findings]
        print(json.dumps({"name": bundle.digest(), "holds": not is_broken, "findings": lines}, indent=2))
        return EXIT_NOT_VERIFIED if is_broken else EXIT_OK
    print(f"bundle {bundle.digest()}  epoch {bundle.epoch}  miner {bundle.miner_key}")
    words = {True: "holds", False: "DOES NOT HOLD", None: "not recomputable"}
    for finding in findings:
        print(f"{words[finding.holds]:<16}  {finding.what}{': ' + finding.detail if finding.detail else ''}")
    return EXIT_NOT_VERIFIED if is_broken else EXIT_OK


def _earlier(record: ScoreRecord) -> list[str]:
    """Return a word where the newest measurements alone do not make the score."""
    from neurons.validator.scoring import points

    if record.raw_ppm is None or record.smoothed_ppm // 10_000 == record.raw_ppm // 10_000:
        return []
    return [f"smoothed (newest {points(record.raw_ppm)})"]


def _looks(args: argparse.Namespace, stored: StoredScore) -> list[DeviceLook]:
    """Return what the devices of the newest bundle look like; none where it is not on disk any more."""
    from challenges.hardware import HardwareTable
    from config.schema import RoleName
    from neurons.base import startup
    from neurons.validator.identification import looks_of
    from polarise.errors import SubnetError
    from polarise.evidence import read_bundle

    path = startup.data_dir_of(args, RoleName.VALIDATOR) / "evidence" / f"{stored.evidence}.json"
    try:
        return looks_of(read_bundle(path), HardwareTable.load())
    except (OSError, ValueError, SubnetError) as err:
        print(f"no devices shown: {path}: {err}", file=sys.stderr)
        return []


def _read_bundle(path: Path) -> EvidenceBundle:
    from polarise.errors import ConfigError
    from polarise.evidence import read_bundle

    try:
        return read_bundle(path)
    except OSError as err:
        raise ConfigError(
            f"cannot be read: {err.strerror}",
            origin=str(path),
            allowed="a file of a validator's evidence folder, or what GET /evidence/NAME gave",
        ) from err


def _name(what: str, path: Path, bundle: EvidenceBundle) -> Finding:
    """Compare a bundle with the name by which the ledger knows it, which is the file's."""
    from neurons.validator.replay_finding import Finding

    digest = bundle.digest()
    return Finding(what, path.name == f"{digest}.json", f"recomputed {digest}.json")


def _previous(bundle: EvidenceBundle, previous: EvidenceBundle | None) -> Finding:
    """Compare the score that a bundle builds on with the one of the bundle before, where there is one."""
    from neurons.validator.replay_finding import Finding

    what = "previous score"
    if previous is None:
        said = "none" if bundle.previous is None else f"{bundle.previous.smoothed_ppm} ppm"
        return Finding(what, None, f"{said}: the validator's word; compare it with --previous BUNDLE")
    for name in ("validator_key", "miner_key"):
        if getattr(previous, name) != getattr(bundle, name):
            return Finding(what, False, f"the previous bundle has another {name}")
    if previous.epoch >= bundle.epoch:
        return Finding(what, False, f"the previous bundle is of epoch {previous.epoch}, this one of {bundle.epoch}")
    # Whether an examination lies between the two, only the validator's records on the ledger tell.
    return Finding(
        what, previous.score == bundle.previous, f"epoch {previous.epoch}: {previous.score.smoothed_ppm} ppm"
    )


def _add_reading_options(parser: argparse.ArgumentParser) -> None:
    # Not given again after the verb, the values given before it stay.
    parser.add_argument(
        "--data-dir", type=Path, metavar="DIR", default=argparse.SUPPRESS, help="the validator's folder"
    )
    parser.add_argument("--config", type=Path, metavar="FILE", default=argparse.SUPPRESS, help="settings file")
    _add_output(parser)


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table", help="how to print")


def _open_metrics(args: argparse.Namespace) -> MetricsHandler:
    from config.schema import RoleName
    from neurons.base import startup
    from neurons.validator.metrics import FILE_NAME, MetricsHandler
    from polarise.errors import ConfigError

    path = startup.data_dir_of(args, RoleName.VALIDATOR) / FILE_NAME
    if not path.exists():
        raise ConfigError(
            "no scores there yet",
            origin=str(path),
            allowed="run `python main.py validator` first, or name its folder with --data-dir",
        )
    return MetricsHandler(path)


def _find(scores: list[StoredScore], prefix: str) -> StoredScore:
    from polarise.errors import ErrorCode, RequestRejected

    found = [score for score in scores if score.miner_key.startswith(prefix.lower())]
    if len(found) == 1:
        return found[0]
    message = f"{len(found)} miners begin with {prefix!r}" if found else f"no miner begins with {prefix!r}"
    raise RequestRejected(
        ErrorCode.NOT_FOUND, message, hint="`python main.py validator scores` lists them", field="MINER", status=404
    )
