"""Keeps a node's packet filter: writes the rules, compares them again and again, and stops leasing when they cannot hold.

Rules:
- Looked at when the node starts, every 30 seconds and before each allocation. What was changed is written again once;
  where that fails nothing is handed out (503 with cause and fix), and those who hold leases are told.
- `auto` goes without where it must (no root, no iptables, an engine in another network namespace) and says so loudly;
  `required` refuses to start there; `off` takes this node's rules away.
- A kernel that counts no connections (hashlimit, connlimit) still closes what is closed: `auto` then does without the
  limits and says so, `required` refuses.
- Only chains and jumps of this node are touched. They outlive the process as long as an interface of the node does.
"""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from neurons.miner.firewall_rules import (
    TABLE,
    Chains,
    RuleSet,
    as_written,
    compile_ipv4,
    compile_ipv6,
    differences,
    interface_prefix,
    parse_saved,
    private_prefix,
    read_nameservers,
    removal_text,
    restore_text,
)
from neurons.setup.shell import find_program, is_root, run
from polarise.errors import ConfigError, Unavailable

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 30
RETRY_SECONDS = 30
# Others may write rules at the same moment; the kernel then takes one and refuses the other.
WRITE_ATTEMPTS = 3
LOCK_WAIT_SECONDS = "5"
COMMAND_SECONDS = 20.0

NEVER = -1

Mode = Literal["auto", "required", "off"]
State = Literal["on", "off", "broken"]
# Seen from the process's own namespace, which /sys is not.
IPV6_SWITCH = Path("/proc/sys/net/ipv6")
FIX = "`iptables -t mangle -S` shows what is there; see docs/troubleshooting.md; network.firewall: off goes without"


class FirewallError(Exception):
    """iptables could not be asked, or did not do it; the message is what it said."""


@dataclass(frozen=True, slots=True)
class Family:
    """The programs of IPv4 or IPv6."""

    save: str
    restore: str

    def read(self) -> Chains:
        """Return the chains that stand now.

        Raises:
            FirewallError: They cannot be read.
        """
        return parse_saved(_output([self.save, "-t", TABLE]))

    def write(self, text: str) -> None:
        """Change them in one transaction.

        Raises:
            FirewallError: Nothing was changed.
        """
        _output([self.restore, "--noflush", "-w", LOCK_WAIT_SECONDS], text)


IPV4 = Family("iptables-save", "iptables-restore")
IPV6 = Family("ip6tables-save", "ip6tables-restore")


@dataclass(frozen=True, slots=True)
class Written:
    """What was asked for, and how iptables spelled it right afterwards."""

    rules: RuleSet
    chains: Chains


class Firewall:
    """The rules of one node; a service of it.

    Args:
        node_id: Twelve hex digits.
        mode: `network.firewall`.
        state_file: Where `miner status` reads how it stands; None writes none.
        on_change: Called with a cause when the rules are lost, with None when they hold again.
    """

    name = "firewall"

    def __init__(
        self,
        node_id: str,
        mode: Mode,
        state_file: Path | None = None,
        on_change: Callable[[str | None], None] = lambda _cause: None,
    ) -> None:
        self._node_id = node_id
        self._mode = mode
        self._state_file = state_file
        self._on_change = on_change
        self._lock = threading.Lock()
        self._is_wanted = False
        self._has_limits = True
        self._written: dict[str, Written] = {}
        # When the newest look began that found all well.
        self._good_since_ns = NEVER
        self.state: State = "off"
        self.cause = "not looked at yet"

    def prepare(self) -> None:
        """Write the rules, or say why there are none.

        Raises:
            ConfigError: They are required and cannot be set.
        """
        if self._mode == "off":
            self.go_without("network.firewall is off")
            return
        if cause := why_no_firewall():
            self.go_without(cause)
            return
        self._is_wanted = True
        try:
            self.guard()
        except Unavailable as err:
            if self._mode == "required":
                raise ConfigError(err.message, key_path="network.firewall", allowed="a host where it works") from err
            self._try_without_limits(err.message)

    def run(self, stop: threading.Event) -> None:
        """Compare every 30 seconds; at the end take the rules away unless an interface of the node is left."""
        while not stop.wait(INTERVAL_SECONDS):
            # What is wrong is logged and told where it changes.
            with contextlib.suppress(Unavailable):
                self.guard()
        if self._is_wanted and not has_interfaces(self._node_id):
            self.remove()

    def guard(self) -> None:
        """See to it that the rules stand as they were written; nothing to do where there are none.

        Raises:
            Unavailable: They do not, and could not be written again.
        """
        if not self._is_wanted:
            return
        asked_ns = time.monotonic_ns()
        try:
            with self._lock:
                # Many allocations at once share a look: one that began after this was asked for answers it.
                if self._good_since_ns >= asked_ns:
                    return
                began_ns, self._good_since_ns = time.monotonic_ns(), NEVER
                self._hold()
                self._good_since_ns = began_ns
        except FirewallError as err:
            cause = f"the rules that keep tenants from this host's network do not hold: {err}"
            self._turn("broken", cause)
            raise Unavailable(f"{cause}; {FIX}", retry_after_seconds=RETRY_SECONDS) from err
        self._turn("on", "")

    def guard_interface(self, interface: str, *, is_new: bool) -> None:
        """See to it that a bridge the engine made lies where the rules are.

        Args:
            interface: Its name.
            is_new: It was made just now, so that nobody else can have taken it away.

        Raises:
            Unavailable: It does not, and rules are required, or it was there once.
        """
        if not self._is_wanted or interface in (name for _, name in socket.if_nameindex()):
            return
        cause = f"the engine's bridge {interface} is not in this network namespace: its engine runs elsewhere"
        if self._mode == "required" or not is_new:
            fix = "run the miner beside it; where somebody deleted the interface, `docker network rm` its network"
            raise Unavailable(f"{cause}; {fix}", retry_after_seconds=RETRY_SECONDS)
        self.remove()
        self.go_without(cause)

    def check(self) -> None:
        """Say how the last look ended, for /readyz.

        Raises:
            Unavailable: The rules do not hold.
        """
        if self.state == "broken":
            raise Unavailable(self.cause, retry_after_seconds=RETRY_SECONDS)

    def go_without(self, cause: str) -> None:
        """Do without rules, and say so.

        Raises:
            ConfigError: They are required.
        """
        if self._mode == "required":
            raise ConfigError(cause, key_path="network.firewall", allowed="root and iptables on this host, or auto")
        if self._mode == "off":
            self.remove()
        self._is_wanted = False
        self._turn("off", cause)

    def remove(self) -> None:
        """Take this node's chains and jumps away; what is gone already is fine."""
        self._written.clear()
        remove_rules(self._node_id)

    def _try_without_limits(self, cause: str) -> None:
        self._has_limits = False
        try:
            self.guard()
        except Unavailable:
            # Something else is the matter. The limits are asked for again, so that mending that brings them back.
            self._has_limits = True
        else:
            logger.warning(
                "NO CONNECTION LIMITS: one tenant can take all of this host's connections",
                extra={"cause": cause, "fix": "load xt_hashlimit and xt_connlimit, restart the miner"},
            )

    def _hold(self) -> None:
        for rules, family in self._families():
            known = self._written.get(family.save)
            if known is None:
                self._write(rules, family)
            elif known.rules != rules:
                logger.info("nameservers have changed, rules are written again")
                self._write(rules, family)
            elif wrong := differences(rules, known.chains, family.read()):
                logger.warning("rules were changed by somebody else and are written again", extra={"wrong": wrong})
                self._write(rules, family)

    def _write(self, rules: RuleSet, family: Family) -> None:
        for attempt in range(1, WRITE_ATTEMPTS + 1):
            try:
                family.write(restore_text(rules, family.read()))
                self._written[family.save] = Written(rules, as_written(rules, family.read()))
            except (FirewallError, ValueError) as err:
                self._written.pop(family.save, None)
                if attempt == WRITE_ATTEMPTS:
                    raise FirewallError(str(err)) from err
            else:
                return

    def _families(self) -> list[tuple[RuleSet, Family]]:
        found = [(compile_ipv4(self._node_id, read_nameservers(), has_limits=self._has_limits), IPV4)]
        return [*found, (compile_ipv6(self._node_id), IPV6)] if IPV6_SWITCH.exists() else found

    def _turn(self, state: State, cause: str) -> None:
        """Note how it stands; log and tell it where that is new."""
        is_new = (state, cause) != (self.state, self.cause)
        was_broken = self.state == "broken"
        self.state, self.cause = state, cause
        if not is_new:
            return
        self._write_state()
        if state == "broken":
            logger.error("firewall broken: nothing is leased", extra={"cause": cause, "fix": FIX})
        elif state == "off":
            logger.warning(
                "NO FIREWALL: tenants reach this host's services, its network and the metadata of its cloud",
                extra={"cause": cause, "fix": "run the miner as root where iptables is; see docs/security.md"},
            )
        else:
            logger.info("firewall on", extra={"interfaces": f"{interface_prefix(self._node_id)}*"})
        if was_broken != (state == "broken"):
            self._on_change(None if was_broken else cause)

    def _write_state(self) -> None:
        if self._state_file is None:
            return
        try:
            self._state_file.write_text(json.dumps({"state": self.state, "cause": self.cause}) + "\n", encoding="utf-8")
        except OSError as err:
            # A note for `miner status`; a full disk must not end what keeps tenants in.
            logger.warning("the firewall's state is not noted", extra={"cause": str(err)})


def why_no_firewall() -> str | None:
    """Return why no rules can be set here, None when they can."""
    if not is_root():
        return "only root sets packet filter rules, and this process is not root"
    needed = [IPV4] if not IPV6_SWITCH.exists() else [IPV4, IPV6]
    for program in (name for family in needed for name in (family.save, family.restore)):
        if find_program(program) is None:
            return f"there is no program {program!r} (Debian: iptables)"
    try:
        for family in needed:
            family.read()
    except FirewallError as err:
        return str(err)
    return None


def remove_rules(node_id: str) -> None:
    """Take a node's chains and jumps away; what is gone already, or cannot be looked at, is fine."""
    for rules, family in ((compile_ipv4(node_id, ()), IPV4), (compile_ipv6(node_id), IPV6)):
        try:
            if (text := removal_text(rules, family.read())) is not None:
                family.write(text)
        except FirewallError as err:
            logger.debug("rules not removed", extra={"cause": str(err)})


def has_interfaces(node_id: str) -> bool:
    """Whether a bridge of the node is left in this network namespace."""
    prefixes = (interface_prefix(node_id), private_prefix(node_id))
    return any(name.startswith(prefixes) for _, name in socket.if_nameindex())


def _output(command: list[str], stdin: str = "") -> str:
    outcome = run(command, timeout_seconds=COMMAND_SECONDS, stdin=stdin)
    if not outcome.ok:
        raise FirewallError(f"{command[0]} ended with {outcome.status}: {outcome.tail(3) or 'no word'}")
    return outcome.output
