"""The filter of system calls that every container gets, made here from our own list.

Rules:
- What `system_calls` allows is allowed; everything else ends with EPERM, and what is newer than the list with ENOSYS.
- No new namespaces: `clone` only without their flags, and `clone3`, whose flags a filter cannot see, does not exist, so
  that programs take `clone`.
- Sockets only of families that are needed (unix, IPv4, IPv6, netlink), and of each only the protocols: a protocol that
  is not there would be loaded as a module of the host's kernel on a tenant's word.
- Device files are never made; pipes, sockets and plain files are.
- One architecture: programs of another, 32-bit ones too, are ended.
Source: the OCI runtime specification (config-linux.md, seccomp); constants from the kernel's uapi headers.
"""

from __future__ import annotations

import errno
import json
import platform
from dataclasses import dataclass
from functools import cache

from neurons.miner.system_calls import allowed_on
from polarise.errors import ConfigError

ARCHITECTURES = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}

AF_UNIX, AF_INET, AF_INET6, AF_NETLINK = 1, 2, 10, 16
IPPROTO_DEFAULT, IPPROTO_ICMP, IPPROTO_TCP, IPPROTO_UDP, IPPROTO_ICMPV6 = 0, 1, 6, 17, 58
# Addresses and routes; `ss`; and what sshd tells when root opens a terminal.
NETLINK_ROUTE, NETLINK_SOCK_DIAG, NETLINK_AUDIT = 0, 4, 9
SOCKETS = (
    *((AF_INET, protocol) for protocol in (IPPROTO_DEFAULT, IPPROTO_ICMP, IPPROTO_TCP, IPPROTO_UDP)),
    *((AF_INET6, protocol) for protocol in (IPPROTO_DEFAULT, IPPROTO_TCP, IPPROTO_UDP, IPPROTO_ICMPV6)),
    *((AF_NETLINK, protocol) for protocol in (NETLINK_ROUTE, NETLINK_SOCK_DIAG, NETLINK_AUDIT)),
)
# CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
NAMESPACE_FLAGS = 0x0002_0000 | 0x0200_0000 | 0x0400_0000 | 0x0800_0000 | 0x1000_0000 | 0x2000_0000 | 0x4000_0000
S_IFMT = 0xF000
# No kind named (a plain file), pipe, plain file, socket; block and character devices are missing.
FILE_KINDS = (0x0000, 0x1000, 0x8000, 0xC000)
# PER_LINUX, the same without address randomisation (debuggers), and the question which it is.
PERSONALITIES = (0x0000_0000, 0x0004_0000, 0xFFFF_FFFF)


@dataclass(frozen=True, slots=True)
class Condition:
    """What one argument of a call must be: ``argument & mask == value``, or equal to it where no mask is given."""

    index: int
    value: int
    mask: int | None = None

    def to_wire(self) -> dict[str, object]:
        """Return it as the runtime specification writes it."""
        if self.mask is None:
            return {"index": self.index, "value": self.value, "op": "SCMP_CMP_EQ"}
        return {"index": self.index, "value": self.mask, "valueTwo": self.value, "op": "SCMP_CMP_MASKED_EQ"}


@cache
def seccomp_profile(machine: str | None = None) -> str:
    """Return the filter as JSON, as `security_opt` takes it after ``seccomp=``.

    Args:
        machine: ``x86_64`` or ``aarch64``; default: this machine's.

    Raises:
        ConfigError: There is no list for this kind of machine.
    """
    name = machine or platform.machine()
    if name not in ARCHITECTURES:
        raise ConfigError(
            f"there is no list of system calls for {name} machines",
            allowed=f"run the miner on one of {', '.join(sorted(ARCHITECTURES))}",
        )
    profile = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": [ARCHITECTURES[name]],
        "syscalls": [_allow(*allowed_on(name)), *_conditional(name), _absent("clone3")],
    }
    return json.dumps(profile, separators=(",", ":"), sort_keys=True)


def _conditional(machine: str) -> list[dict[str, object]]:
    rules = [
        _allow("clone", conditions=[Condition(0, 0, NAMESPACE_FLAGS)]),
        _allow("socket", "socketpair", conditions=[Condition(0, AF_UNIX)]),
        *(_allow("socket", conditions=[Condition(0, family), Condition(2, protocol)]) for family, protocol in SOCKETS),
        *(_allow("personality", conditions=[Condition(0, value)]) for value in PERSONALITIES),
        *(_allow("mknodat", conditions=[Condition(2, kind, S_IFMT)]) for kind in FILE_KINDS),
    ]
    if machine == "x86_64":
        rules += [_allow("mknod", conditions=[Condition(1, kind, S_IFMT)]) for kind in FILE_KINDS]
    return rules


def _allow(*names: str, conditions: list[Condition] | None = None) -> dict[str, object]:
    args = [condition.to_wire() for condition in conditions or ()]
    return {"names": list(names), "action": "SCMP_ACT_ALLOW", "args": args}


def _absent(name: str) -> dict[str, object]:
    return {"names": [name], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOSYS, "args": []}
