"""The doctor: measures what a role needs of this machine, judges it, and prints it so that the fix can be copied.

Rules:
- It changes nothing; `--deep` alone starts a container, and removes it.
- It never raises for the state of the machine: what cannot be measured is a finding too.
- What a role does not need is not measured for it.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from neurons.setup.check import Check, Role, Status
from neurons.setup.checkout import Checkout
from neurons.setup.checks import engine, image, interpreter, kernel, lease_disk, machine, network, service
from neurons.setup.errors import SetupError
from neurons.setup.image import built_unix_seconds, image_id
from neurons.setup.preflight import Login, preflight, read_login
from neurons.setup.shell import find_program

_COLOURS = {Status.OK: "\033[32m", Status.WARN: "\033[33m", Status.FAIL: "\033[31m"}
_RESET = "\033[0m"
_STATUS_WIDTH = 4


@dataclass(frozen=True, slots=True)
class Around:
    """What the operator says of the node: the address others are told, and its ledger; None leaves the check out."""

    advertised: str | None = None
    ledger: str | None = None


NOTHING_SAID = Around()


def examine(
    checkout: Checkout, role: Role, *, image: str, api_port: int, deep: bool, around: Around = NOTHING_SAID
) -> list[Check]:
    """Return every finding for a role, in the order in which an operator would fix them.

    Args:
        checkout: Whose .venv and stamps are meant.
        role: What the machine shall do.
        image: Reference of the base image to look for.
        api_port: The port the miner will listen on.
        deep: Log into a throw-away container now instead of believing the stamp.
        around: What the operator says of the node.
    """
    checks = _examine_role(checkout, role, image=image, api_port=api_port, deep=deep)
    return [*checks, *_examine_around(role, around, image if deep and role is Role.MINER else None)]


def _examine_around(role: Role, around: Around, image: str | None) -> list[Check]:
    checks = []
    if role is not Role.RENTER:
        folder = service.log_folder()
        checks.append(service.check_units(service.measure_units(role)))
        checks.append(service.check_log_space(machine.measure_disk_free_bytes(folder), str(folder)))
    if around.advertised is not None:
        checks.append(service.check_way_in(service.measure_way_in(around.advertised, image)))
    if around.ledger is not None:
        checks.append(service.check_ledger_clock(service.measure_ledger_clock(around.ledger)))
    return checks


def _examine_role(checkout: Checkout, role: Role, *, image: str, api_port: int, deep: bool) -> list[Check]:
    checks = _examine_python(checkout, role)
    if role is not Role.MINER:
        disk_free_bytes = machine.measure_disk_free_bytes(checkout.root)
        checks.append(network.check_ssh_client(find_program("ssh"), is_required=role is Role.RENTER))
        return [*checks, *_examine_machine(role, disk_free_bytes, str(checkout.root))]
    system = machine.check_platform(platform.system())
    if system.status is Status.FAIL:
        return [system, *checks]
    facts = engine.measure_engine()
    disk = Path(facts.root_dir or "/var/lib/docker")
    lease_disk_facts = lease_disk.measure_lease_disk()
    return [
        system,
        *checks,
        engine.check_client(find_program("docker")),
        engine.check_engine(facts),
        engine.check_limits(facts),
        *_examine_image(checkout, facts, image, deep=deep),
        *_examine_network(api_port),
        *_examine_machine(role, machine.measure_disk_free_bytes(disk), str(disk)),
        lease_disk.check_lease_disk(lease_disk_facts),
        lease_disk.check_disk_encryption(lease_disk_facts),
        machine.check_nvidia(machine.measure_nvidia(facts.runtimes)),
    ]


def is_healthy(checks: Sequence[Check]) -> bool:
    """Whether all that is required holds; warnings stop nothing."""
    return all(check.status is not Status.FAIL for check in checks)


def render_table(checks: Sequence[Check], role: Role, *, colour: bool) -> str:
    """Return the findings as an aligned table, cause and fix below each that is not met."""
    name_width = max(len(check.name) for check in checks)
    measured_width = max(len("measured"), *(len(check.measured) for check in checks))
    indent = " " * (_STATUS_WIDTH + 2)
    lines = [f"{'':{_STATUS_WIDTH}}  {'':{name_width}}  {'measured':{measured_width}}  required"]
    for check in checks:
        word = f"{check.status:{_STATUS_WIDTH}}"
        word = f"{_COLOURS[check.status]}{word}{_RESET}" if colour else word
        lines.append(f"{word}  {check.name:{name_width}}  {check.measured:{measured_width}}  {check.required}")
        if check.status is not Status.OK:
            lines += [
                f"{indent}{'':{name_width}}  cause: {check.cause}",
                f"{indent}{'':{name_width}}  fix:   {check.fix}",
            ]
    return "\n".join([*lines, "", _summary(checks, role)])


def _summary(checks: Sequence[Check], role: Role) -> str:
    count = {status: sum(check.status is status for check in checks) for status in Status}
    verdict = "ready" if is_healthy(checks) else "not ready"
    return f"{role}: {verdict}; {count[Status.OK]} ok, {count[Status.WARN]} to look at, {count[Status.FAIL]} to fix"


def _examine_python(checkout: Checkout, role: Role) -> list[Check]:
    packages = interpreter.packages_for(role)
    return [
        interpreter.check_python(interpreter.measure_python()),
        interpreter.check_packages(interpreter.measure_packages(checkout, packages), packages),
    ]


def _examine_image(checkout: Checkout, facts: engine.EngineFacts, reference: str, *, deep: bool) -> list[Check]:
    identity = None if facts.error else image_id(reference)
    login, problem = read_login(checkout), ""
    if deep:
        login, problem = _log_in_now(checkout, reference)
        verdict = image.check_deep_login(login, problem)
    else:
        verdict = image.check_login(login, identity=identity, engine=facts.server, kernel=platform.release())
    built = None if identity is None else built_unix_seconds(reference)
    age_seconds = 0.0 if built is None else time.time() - built
    return [image.check_image(reference, identity, age_seconds), verdict, image.check_sshd(login)]


def _log_in_now(checkout: Checkout, reference: str) -> tuple[Login | None, str]:
    try:
        return preflight(checkout, reference, force=True)[0], ""
    except SetupError as error:
        return None, " ".join(error.problem.split())


def _examine_network(api_port: int) -> list[Check]:
    return [
        network.check_ssh_client(find_program("ssh"), is_required=True),
        network.check_api_port(api_port, network.measure_port(api_port)),
        network.check_ssh_ports(*network.measure_local_ports()),
        network.check_firewall(network.measure_firewall()),
        kernel.check_packet_filter(kernel.measure_packet_filter()),
        kernel.check_settings(kernel.measure_settings()),
    ]


def _examine_machine(role: Role, disk_free_bytes: int, folder: str) -> list[Check]:
    return [
        machine.check_clock(machine.measure_clock()),
        machine.check_disk(disk_free_bytes, folder, role),
        machine.check_memory(machine.measure_memory_bytes(), role),
        machine.check_descriptors(machine.measure_descriptors()),
    ]
