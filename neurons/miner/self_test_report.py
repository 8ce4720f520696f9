"""What a self-test found, for a person and for a script."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from challenges.draw import ChallengeKind
from challenges.timing import PPM
from neurons.miner.self_test import DeviceReport
from neurons.miner.trial import Size, Trial
from neurons.miner.trials import NAMES
from polarise.fixes import FIXES

# Factor and unit in which a person reads a rate.
_UNITS = {
    ChallengeKind.POW: (10**6, "M hashes/s"),
    ChallengeKind.MATMUL: (10**9, "G operations/s"),
    ChallengeKind.MEMORY: (10**9, "G bytes/s"),
}


def is_passed(reports: Sequence[DeviceReport]) -> bool:
    """Whether every proof of every device held, and every rate was accepted; without a device nothing was shown."""
    return bool(reports) and all(report.is_passed for report in reports)


def to_wire(reports: Sequence[DeviceReport]) -> dict[str, object]:
    """Return everything as JSON."""
    return {"passed": is_passed(reports), "devices": [_device_wire(report) for report in reports]}


def render(reports: Sequence[DeviceReport]) -> str:
    """Return it as text, a block per device."""
    lines = [line for report in reports for line in _device_lines(report)]
    return "\n".join([*lines, "self-test passed" if is_passed(reports) else "self-test NOT passed"])


def _device_lines(report: DeviceReport) -> Iterator[str]:
    device = report.subject.device
    yield f"{device.name} ({device.uuid}), compared with {report.subject.basis}"
    if report.untested is not None:
        yield f"  NOT TESTED: {report.untested.cause}"
        yield f"    fix: {report.untested.fix}"
    for trial in report.trials:
        yield from _trial_lines(trial)
    for limit in report.limits:
        yield f"  limit: {limit}"


def _trial_lines(trial: Trial) -> Iterator[str]:
    name = f"{NAMES[trial.kind]:13}  {trial.size:5}"
    if trial.failure is not None:
        yield f"  FAIL  {name}  {trial.failure.cause}"
        yield f"    fix: {trial.failure.fix}"
        return
    times = f"verified, work {trial.work_ns / 1e9:.2f} s, check {trial.check_ns / 1e9:.3f} s"
    if trial.size is Size.SMALL or trial.rate is None:
        yield f"  ok    {name}  {times}"
        return
    factor, unit = _UNITS[trial.kind]
    rate, expectation = trial.rate, trial.expectation
    compared = (
        f"{rate.measured / factor:.1f} of claimed {trial.claimed / factor:.1f} {unit} ({rate.ratio_ppm / PPM:.2f})"
    )
    if expectation is not None and rate.of_expected_ppm is not None:
        compared += f", expected {expectation.rate / factor:.1f} ({rate.of_expected_ppm / PPM:.2f})"
    flag = "" if rate.flag is None else f", {rate.flag}"
    yield f"  {'ok  ' if trial.is_passed else 'FAIL'}  {name}  {times}: {compared}{flag}"
    if rate.reason is not None:
        yield f"    {rate.reason}; fix: {FIXES[rate.reason]}"


def _device_wire(report: DeviceReport) -> dict[str, object]:
    subject = report.subject
    return {
        "uuid": subject.device.uuid,
        "kind": subject.device.kind,
        "name": subject.device.name,
        "compared_with": subject.basis.value,
        "passed": report.is_passed,
        "untested": None if report.untested is None else dataclasses.asdict(report.untested),
        "proofs": [_trial_wire(trial) for trial in report.trials],
        "limits": list(report.limits),
    }


def _trial_wire(trial: Trial) -> dict[str, object]:
    rate, expectation = trial.rate, trial.expectation
    is_known = expectation is not None and expectation.model is not None
    return {
        "kind": trial.kind.value,
        "size": trial.size.value,
        "sizes": None if trial.params is None else dataclasses.asdict(trial.params),
        "passed": trial.is_passed,
        "verified": trial.failure is None,
        "failure": None if trial.failure is None else dataclasses.asdict(trial.failure),
        "work_ms": trial.work_ns // 1_000_000,
        "check_ms": trial.check_ns // 1_000_000,
        "measured_per_second": None if rate is None else rate.measured,
        "claimed_per_second": trial.claimed or None,
        "of_claim_ppm": None if rate is None else rate.ratio_ppm,
        "expected_per_second": expectation.rate if expectation is not None and is_known else None,
        "of_expected_ppm": None if rate is None else rate.of_expected_ppm,
        "reason": None if rate is None or rate.reason is None else rate.reason.value,
        "flag": None if rate is None or rate.flag is None else rate.flag.value,
    }
