"""A program that puts itself under what a unit of `deploy/` asks of systemd, then becomes the daemon; no service manager.

Rules:
- Everything here is the kernel's own: capabilities and the user by setpriv before, and here the filter of system calls by
  libseccomp, the refusal of writable code by prctl, limits by setrlimit.
- What cannot be set is an error, never left out without a word.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import errno
import json
import os
import resource
import socket
import sys

ALLOW = 0x7FFF0000
REFUSE = 0x00050000 | errno.EPERM
EQUAL = 4
NO_SUCH_CALL = -1
PR_SET_MDWE, REFUSE_EXEC_GAIN = 65, 1


class _Comparison(ctypes.Structure):
    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


def main() -> None:
    """Confine this process as the JSON object in the first argument says, and become the command behind it."""
    wanted = json.loads(sys.argv[1])
    os.chdir(wanted["folder"])
    for name, limit in wanted["limits"].items():
        # Without capabilities nothing is raised above what this process began with.
        least = min(limit, resource.getrlimit(getattr(resource, name))[1])
        resource.setrlimit(getattr(resource, name), (least, least))
    if wanted["refuses_writable_code"]:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_MDWE, REFUSE_EXEC_GAIN, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "PR_SET_MDWE")
    if wanted["calls"]:
        filter_calls(wanted["calls"], wanted["families"])
    os.execv(sys.argv[2], sys.argv[2:])


def filter_calls(names: list[str], families: list[str]) -> None:
    """Allow these system calls and refuse all others with EPERM; sockets only of these address families, if any."""
    library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(REFUSE)))
    for name in names:
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number == NO_SUCH_CALL or number < -1:
            continue  # of another architecture
        if name == "socket" and families:
            for family in families:
                rule = _Comparison(0, EQUAL, getattr(socket, family), 0)
                _check(
                    library.seccomp_rule_add_array(context, ctypes.c_uint32(ALLOW), number, 1, ctypes.byref(rule)), name
                )
        else:
            _check(library.seccomp_rule_add_array(context, ctypes.c_uint32(ALLOW), number, 0, None), name)
    _check(library.seccomp_load(context), "load")


def _check(result: int, what: str) -> None:
    if result != 0:
        raise OSError(-result, what)


if __name__ == "__main__":
    main()
