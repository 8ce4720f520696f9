"""What a node's tenants may reach, as iptables rules, and whether the kernel still has them.

Rules:
- They stand in the table `mangle`, whose INPUT and FORWARD are asked before `filter`'s. A packet dropped there is gone:
  no ACCEPT of Docker, ufw or libvirt undoes it, and nobody has to win a race for the first place in DOCKER-USER.
- Chains carry the node's id and rules name its interfaces by their prefix, so that no rule is made or lost with a
  lease, and several nodes on one host never touch each other's.
- ESTABLISHED stands first in each chain. Without it the answers of a container's sshd to a private address are dropped,
  and ssh from a LAN goes silent while every check from inside still looks right. What a tenant began itself is judged by
  every packet: a connection that was opened while the rules were lost ends when they are back.
- A packet of a private network stays in the bridge it came from. From a lease's own bridge nothing goes out under an
  address of another range, which its second interface would otherwise lend it.
- What was written is read back at once, and what is compared later is that text: each iptables spells rules its own way.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

TABLE = "mangle"
Chains = Mapping[str, tuple[str, ...]]

# Source: the IANA registries of special-purpose IPv4 addresses; the last is where Azure's hosts answer their guests.
BLOCKED = (
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",  # shared by providers, and Alibaba's metadata
    "127.0.0.0/8",
    "169.254.0.0/16",  # link-local: the metadata address of most clouds
    "172.16.0.0/12",
    "192.0.0.0/24",  # Oracle's metadata
    "192.168.0.0/16",
    "198.18.0.0/15",
    "224.0.0.0/3",  # multicast, reserved, broadcast
    "168.63.129.16/32",
)
# The first is of the leases' own bridges, the second of the private networks among them.
LEASE_RANGE, PRIVATE_RANGE = "10.201.0.0/16", "10.202.0.0/16"
PRIVATE_NETWORKS_MAX = 32
MAIL_PORTS = "25,465,587"
CONNECTIONS_MAX = 512
NEW_PER_SECOND, NEW_BURST = 200, 400
# Per source and container; a password of 24 random characters needs no more, a client that opens many is slowed down.
LOGINS_PER_MINUTE, LOGINS_BURST = 30, 30

RESOLV_CONF = Path("/etc/resolv.conf")
# Docker reads this one where the first names nothing but systemd's own resolver.
SYSTEMD_RESOLV_CONF = Path("/run/systemd/resolve/resolv.conf")
SYSTEMD_RESOLVER = "127.0.0.53"

_CONNECTIONS = f"-m connlimit --connlimit-above {CONNECTIONS_MAX} --connlimit-mask 32 -j DROP"
_ANSWERS = "-m conntrack --ctstate RELATED,ESTABLISHED --ctdir REPLY -j RETURN"
# Both ways: a router's word about the size of sshd's packets belongs to a connection that began outside.
_ESTABLISHED = "-m conntrack --ctstate RELATED,ESTABLISHED -j RETURN"
_ANY_NODES_JUMP = re.compile(r"(! -i pv[0-9a-f]{9}-\+ )?-[io] p[lv][0-9a-f]{9}-\+ -j POLARISE-[0-9a-f]{12}-[A-Z]+")


def interface_prefix(node_id: str) -> str:
    """Return how the interfaces of a node's containers begin; three digits follow, 15 characters in all."""
    return f"pl{node_id[:9]}-"


def private_prefix(node_id: str) -> str:
    """Return how the interfaces of a node's private networks begin; three digits follow, 15 characters in all."""
    return f"pv{node_id[:9]}-"


@dataclass(frozen=True, slots=True)
class RuleSet:
    """The chains of one node for one family, and the jumps into them.

    Attributes:
        chains: Name -> rules, in their order.
        jumps: Built-in chain and rule; each stands before everything but other nodes' jumps.
    """

    chains: Chains
    jumps: tuple[tuple[str, str], ...]


def compile_ipv4(node_id: str, nameservers: Sequence[str], *, has_limits: bool = True) -> RuleSet:
    """Return the rules of a node.

    Args:
        node_id: Twelve hex digits.
        nameservers: Addresses that containers resolve names with; port 53 of each stays open.
        has_limits: Whether the kernel counts connections (hashlimit, connlimit); what is closed is closed without, too.
    """
    to_host, outgoing, incoming, private = (f"POLARISE-{node_id}-{name}" for name in ("HOST", "OUT", "IN", "PRI"))
    ours, among = f"{interface_prefix(node_id)}+", f"{private_prefix(node_id)}+"
    names = [
        f"-d {address}/32 -p {protocol} -m {protocol} --dport 53 -j RETURN"
        for address in nameservers
        for protocol in ("udp", "tcp")
    ]
    rate = _above(f"{NEW_PER_SECOND}/sec", NEW_BURST, "srcip", f"{interface_prefix(node_id)}new")
    logins = _above(f"{LOGINS_PER_MINUTE}/min", LOGINS_BURST, "srcip,dstip", f"{interface_prefix(node_id)}ssh")
    limits = (rate, f"-p tcp --syn {_CONNECTIONS}", f"-p tcp --dport 22 {logins}") if has_limits else ()
    return RuleSet(
        chains={
            to_host: (_ANSWERS, f"! -s {LEASE_RANGE} -j DROP", *limits[:1], *names, "-j DROP"),
            outgoing: (
                _ANSWERS,
                f"! -s {LEASE_RANGE} -j DROP",
                f"-o {ours} -j DROP",
                *limits[:2],
                *names,
                *(f"-d {network} -j DROP" for network in BLOCKED),
                f"-p tcp -m multiport --dports {MAIL_PORTS} -j DROP",
            ),
            incoming: (_ESTABLISHED, *limits[2:], "-p tcp --dport 22 -j RETURN", "-j DROP"),
            private: _within_private(node_id, has_limits=has_limits),
        },
        jumps=(
            ("INPUT", f"-i {ours} -j {to_host}"),
            ("FORWARD", f"-i {ours} -j {outgoing}"),
            ("FORWARD", f"-o {ours} -j {incoming}"),
            ("INPUT", f"-i {among} -j {private}"),
            ("FORWARD", f"-i {among} -j {private}"),
            # Each packet once, or the limits would count it twice.
            ("FORWARD", f"! -i {among} -o {among} -j {private}"),
        ),
    )


def _within_private(node_id: str, *, has_limits: bool) -> tuple[str, ...]:
    """Return the rules for everything that a private network sends or gets.

    What two containers say to each other crosses them where `net.bridge.bridge-nf-call-iptables` is 1, and fills the
    host's table of connections then; what a network sends to the host, or would have routed, crosses them always.
    """
    prefix = private_prefix(node_id)
    rate = _above(f"{NEW_PER_SECOND}/sec", NEW_BURST, "srcip", f"{prefix}new")
    limits = (rate, f"-p tcp --syn {_CONNECTIONS}") if has_limits else ()
    return (
        f"! -s {PRIVATE_RANGE} -j DROP",
        f"! -d {PRIVATE_RANGE} -j DROP",
        *limits,
        # One for each: no rule says "out of where it came in".
        *(f"-i {prefix}{number:03d} -o {prefix}{number:03d} -j RETURN" for number in range(PRIVATE_NETWORKS_MAX)),
        "-j DROP",
    )


def compile_ipv6(node_id: str) -> RuleSet:
    """Return the rules of a node for IPv6, which its containers have none of: nothing passes."""
    chain = f"POLARISE-{node_id}-SIX"
    prefixes = (interface_prefix(node_id), private_prefix(node_id))
    return RuleSet(
        chains={chain: ("-j DROP",)},
        jumps=tuple((name, f"-{way} {ours}+ -j {chain}") for ours in prefixes for name, way in _WAYS_IPV6),
    )


_WAYS_IPV6 = (("INPUT", "i"), ("FORWARD", "i"), ("FORWARD", "o"))


def _above(rate: str, burst: int, mode: str, name: str) -> str:
    limit = f"--hashlimit-above {rate} --hashlimit-burst {burst} --hashlimit-mode {mode} --hashlimit-name {name}"
    return f"-m conntrack --ctstate NEW -m hashlimit {limit} -j DROP"


def read_nameservers(
    resolv_conf: Path = RESOLV_CONF, systemd_resolv_conf: Path = SYSTEMD_RESOLV_CONF
) -> tuple[str, ...]:
    """Return the IPv4 nameservers that Docker hands to containers, without the host's loopback ones.

    A query to a loopback address is forwarded by the engine itself and crosses no rule of ours.
    """
    found = _listed(resolv_conf)
    if found == [SYSTEMD_RESOLVER]:
        found = _listed(systemd_resolv_conf)
    return tuple(address for address in found if not ipaddress.ip_address(address).is_loopback)


def _listed(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    found: list[str] = []
    for word in re.findall(r"^\s*nameserver\s+(\S+)", text, re.MULTILINE):
        try:
            address = ipaddress.IPv4Address(word)
        except ValueError:
            continue
        if str(address) not in found:
            found.append(str(address))
    return found


def parse_saved(text: str) -> dict[str, tuple[str, ...]]:
    """Return chain -> rules out of what iptables-save prints of one table."""
    chains: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith(":"):
            chains.setdefault(line[1:].split()[0], [])
        elif line.startswith("-A "):
            _, chain, rule = line.split(" ", 2)
            chains.setdefault(chain, []).append(rule.strip())
    return {name: tuple(rules) for name, rules in chains.items()}


def restore_text(rules: RuleSet, found: Chains) -> str:
    """Return the input of `iptables-restore --noflush` that puts everything in place in one transaction.

    Args:
        rules: What shall stand.
        found: What stands; jumps of ours in it are taken out first, wherever they are.
    """
    lines = [f"*{TABLE}", *(f":{name} - [0:0]" for name in rules.chains)]
    lines += [f"-A {name} {rule}" for name, chain in rules.chains.items() for rule in chain]
    lines += _without_jumps(rules, found)
    # Inserted last to first, so that the first of each chain comes to stand first.
    lines += [f"-I {builtin} 1 {rule}" for builtin, rule in reversed(rules.jumps)]
    return "\n".join([*lines, "COMMIT", ""])


def removal_text(rules: RuleSet, found: Chains) -> str | None:
    """Return the input that takes everything of this node away; None when nothing of it stands."""
    names = [name for name in rules.chains if name in found]
    lines = _without_jumps(rules, found)
    if not names and not lines:
        return None
    lines += [f"-F {name}" for name in names] + [f"-X {name}" for name in names]
    return "\n".join([f"*{TABLE}", *lines, "COMMIT", ""])


def _without_jumps(rules: RuleSet, found: Chains) -> list[str]:
    return [
        f"-D {builtin} {rule}" for builtin, rule in rules.jumps for other in found.get(builtin, ()) if other == rule
    ]


def as_written(rules: RuleSet, found: Chains) -> Chains:
    """Return the chains of ``rules`` as this iptables spells them, right after they were written.

    Raises:
        ValueError: They do not stand there.
    """
    for name, wanted in rules.chains.items():
        if [_verdict(rule) for rule in found.get(name, ())] != [_verdict(rule) for rule in wanted]:
            raise ValueError(f"{name} has {len(found.get(name, ()))} rules after {len(wanted)} were written")
    if wrong := _wrong_jumps(rules, found):
        raise ValueError("; ".join(wrong))
    return {name: found[name] for name in rules.chains}


def _verdict(rule: str) -> str:
    return rule.rpartition("-j ")[2]


def differences(rules: RuleSet, written: Chains, found: Chains) -> list[str]:
    """Return one sentence for each thing that is not as it was written; empty when all is.

    Args:
        rules: For the jumps.
        written: What `as_written` returned.
        found: What stands now.
    """
    wrong = [sentence for name in written if (sentence := _wrong_chain(name, written[name], found.get(name)))]
    return wrong + _wrong_jumps(rules, found)


def _wrong_chain(name: str, written: tuple[str, ...], found: tuple[str, ...] | None) -> str | None:
    if found == written:
        return None
    if found is None:
        return f"the chain {name} is gone"
    if missing := [rule for rule in written if rule not in found]:
        return f"{name} lost {len(missing)} of {len(written)} rules, the first: {missing[0]}"
    if further := [rule for rule in found if rule not in written]:
        return f"{name} has a rule that is not ours: {further[0]}"
    return f"the rules of {name} stand in another order"


def _wrong_jumps(rules: RuleSet, found: Chains) -> list[str]:
    wrong = []
    for builtin in dict.fromkeys(name for name, _ in rules.jumps):
        wanted = [rule for name, rule in rules.jumps if name == builtin]
        present = list(found.get(builtin, ()))
        if missing := [rule for rule in wanted if rule not in present]:
            wrong.append(f"{builtin} has no `{missing[0]}`")
            continue
        last = max(present.index(rule) for rule in wanted)
        if ahead := [rule for rule in present[:last] if not _ANY_NODES_JUMP.fullmatch(rule)]:
            wrong.append(f"in {builtin} a rule stands before ours: {ahead[0]}")
    return wrong
