"""The scan of the proof of work in compiled code, on every core: what a library made of `pow_native.c` finds.

Rules:
- An extra: nothing needs it, and numpy finds the same shares. It makes nothing and fetches nothing; the node compiles
  the library for itself (`neurons.miner.pow_library`) and says where it is.
- Code is loaded only from a plain file that belongs to this user, in a folder that does, neither writable for others.
- Before a library is used its answers are compared with hashlib's, lane by lane. A wrong one is not used.
- It finds candidates; each is hashed again by hashlib before it is a share. A fault can lose shares, never invent one.
- ctypes lets go of the interpreter's lock while the library works, so that threads are enough.

One Zen 5 core makes 125 MHash/s with AVX-512 where numpy makes 6 (`benchmarks/hashcat.py`).
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import stat
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from challenges.pow import share_prefix, share_value
from challenges.pow_messages import NONCE_BYTES, PowParams
from challenges.sha256_lanes import PREFIX_BYTES
from polarise.errors import SubnetError

SOURCE = Path(__file__).with_name("pow_native.c")

# 17 ms of one Zen 5 core: short beside a proof, long beside a call of Python.
SCAN_NONCES_MAX = 1 << 21
SCAN_NONCES_MIN = 1 << 12
SCANS_PER_WORKER = 4
ROOM = 4096
CHECKED_NONCES = 256

_WORD_END = 1 << 32
_WARM_UP_SEED = bytes(32)


class NativeUnavailable(SubnetError):
    """There is no compiled code that may be used; the proof of work stays with numpy."""


class NativeScan:
    """One loaded library that was found to hash as hashlib does; may be used by several threads.

    Args:
        library: What `neurons.miner.pow_library` compiled.

    Raises:
        NativeUnavailable: It is not ours alone, cannot be loaded, or hashes wrongly.
    """

    def __init__(self, library: Path) -> None:
        for path, is_kind in ((library.parent, stat.S_ISDIR), (library, stat.S_ISREG)):
            _require_own(path, is_kind)
        try:
            self._scan = ctypes.CDLL(str(library)).polarise_pow_scan
        except (OSError, AttributeError) as err:
            raise NativeUnavailable(f"{library} cannot be loaded: {err}") from err
        word = ctypes.c_uint32
        pointer = ctypes.POINTER(word)
        self._scan.argtypes = (ctypes.c_char_p, word, word, word, word, pointer, word, pointer)
        self._scan.restype = word
        _compare_with_hashlib(self)

    def candidates(self, prefix: bytes, last_word_max: int, start: int, count: int) -> list[int]:
        """Return the nonces of a stretch whose digest's last word is at most `last_word_max`, rising.

        Args:
            prefix: 44 bytes.
            last_word_max: 32 bits.
            start: First nonce.
            count: How many, a multiple of 16; all of them share their upper 32 bits.
        """
        high, low = divmod(start, _WORD_END)
        if len(prefix) != PREFIX_BYTES or count % 16 or not 0 <= low <= _WORD_END - count:
            raise ValueError(f"prefix of {len(prefix)} bytes, {count} nonces from {start}")
        found, done = (ctypes.c_uint32 * ROOM)(), ctypes.c_uint32()
        nonces: list[int] = []
        at = 0
        while at < count:
            written = self._scan(prefix, high, low + at, count - at, last_word_max, found, ROOM, ctypes.byref(done))
            nonces.extend((high << 32) + nonce for nonce in found[:written])
            at += done.value
        return nonces


class NativePowBackend:
    """Compiled code on several cores of this process, a thread for each.

    Args:
        scan: The loaded library.
        workers: How many threads, >= 1.
    """

    def __init__(self, scan: NativeScan, workers: int) -> None:
        self.scan_nonces = SCAN_NONCES_MIN
        self.scans_queued = 2 * workers
        self._scan = scan
        self._workers = workers
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="pow-native")

    def prepare(self, params: PowParams) -> None:
        """Choose stretches short enough that each thread has several, and let each scan one."""
        wanted = params.operations // (SCANS_PER_WORKER * self._workers)
        power_of_two = (1 << wanted.bit_length()) // 2
        self.scan_nonces = min(max(power_of_two, SCAN_NONCES_MIN), SCAN_NONCES_MAX)
        prefix, first = share_prefix(params, _WARM_UP_SEED), params.nonces.start
        starts = range(first, first + self._workers * self.scan_nonces, self.scan_nonces)
        for wait in [self.start_scan(prefix, params.target, start) for start in starts]:
            wait()

    def start_scan(self, prefix: bytes, target: int, start: int) -> Callable[[], Sequence[int]]:
        """Queue one stretch; its shares come from the returned call."""
        return self._threads.submit(self._shares, prefix, target, start, self.scan_nonces).result

    def _shares(self, prefix: bytes, target: int, start: int, count: int) -> list[int]:
        candidates = self._scan.candidates(prefix, target >> 32, start, count)
        return [nonce for nonce in candidates if share_value(prefix, nonce) <= target]


def _require_own(path: Path, is_kind: Callable[[int], bool]) -> None:
    """Refuse what somebody else could have put there; a link is neither kind."""
    try:
        status = path.lstat()
    except OSError as err:
        raise NativeUnavailable(f"{path}: {err.strerror}") from err
    if not is_kind(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise NativeUnavailable(f"{path} is not this user's alone, so that no code is loaded from there")


def _compare_with_hashlib(scan: NativeScan) -> None:
    """Compare last words bit for bit: at its own value a nonce is a candidate, and at one less it is not.

    Raises:
        NativeUnavailable: A nonce is missing, or there is one too many.
    """
    # Prefixes without a pattern, stretches on either side of a carry and at both ends of a word.
    for number, start in enumerate((0, (1 << 16) - 128, (7 << 48) + (1 << 31) - 128, (1 << 64) - CHECKED_NONCES)):
        prefix = hashlib.shake_256(number.to_bytes(8, "big")).digest(PREFIX_BYTES)
        nonces = range(start, start + CHECKED_NONCES)
        values = {nonce: _last_word(prefix, nonce) for nonce in nonces}
        # The extremes, and every value of one nonce in sixteen, each in another lane.
        for most in (0, _WORD_END - 1, *(values[nonce] - less for nonce in nonces[::17] for less in (0, 1))):
            expected = [nonce for nonce, value in values.items() if value <= most]
            if most >= 0 and scan.candidates(prefix, most, start, CHECKED_NONCES) != expected:
                raise NativeUnavailable(f"the compiled scan differs from hashlib among the nonces from {start}")


def _last_word(prefix: bytes, nonce: int) -> int:
    return int.from_bytes(hashlib.sha256(prefix + nonce.to_bytes(NONCE_BYTES, "big")).digest()[28:], "big")


if __name__ == "__main__":
    # Tried in a process of its own by whoever compiled it: code for another processor ends it with a signal.
    NativeScan(Path(sys.argv[1]))
