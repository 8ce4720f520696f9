"""Encrypted folders of a mounted ext4, through the kernel's own ioctls (fscrypt, policies of version 2).

Rules:
- A key is read from the kernel's random numbers into the buffer that goes back to the kernel, and is overwritten there.
  It is never a value that could be returned, copied, printed or logged; what leaves here is its identifier, a hash.
- Contents are AES-256-XTS, names AES-256-CTS, names padded to 32 bytes.
- The kernel holds a key as long as the file system is mounted, and no longer.
Source: Linux Documentation/filesystems/fscrypt.rst, include/uapi/linux/fscrypt.h.
"""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path
from typing import NewType

# 16 bytes that the kernel derives from a key; they stand in the policy of every folder, and tell nothing about it.
KeyId = NewType("KeyId", bytes)

KEY_BYTES = 64
_POLICY_VERSION = 2
_AES_256_XTS, _AES_256_CTS = 1, 4
_PAD_NAMES_TO_32 = 3
_BY_IDENTIFIER = 2
_KEY_PRESENT = 2
# struct fscrypt_policy_v2: version, two modes, flags, four bytes of nothing, identifier.
_POLICY = struct.Struct("=BBBB4x16s")
# struct fscrypt_key_specifier: type, four bytes of nothing, identifier in a union of 32.
_SPECIFIER = struct.Struct("=I4x16s16x")
_RAW_SIZE_AT, _RAW_AT, _STATUS_AT = _SPECIFIER.size, 80, 64
_WRITE, _READ = 1, 2
# Python hands a buffer of more than 1024 bytes to the kernel as it is, and copies a smaller one onto the stack first.
_BUFFER_BYTES = 2048


def _request(direction: int, number: int, size: int) -> int:
    return direction << 30 | size << 16 | ord("f") << 8 | number


_SET_POLICY = _request(_READ, 19, 12)
_GET_POLICY = _request(_READ | _WRITE, 22, 9)
_ADD_KEY = _request(_READ | _WRITE, 23, 80)
_REMOVE_KEY = _request(_READ | _WRITE, 24, 64)
_KEY_STATUS = _request(_READ | _WRITE, 26, 128)


def add_random_key(mounted: Path) -> KeyId:
    """Give a mounted file system a key that nobody has seen, and return its identifier.

    Raises:
        OSError: The file system or the kernel has no encryption.
    """
    buffer = bytearray(_BUFFER_BYTES)
    _SPECIFIER.pack_into(buffer, 0, _BY_IDENTIFIER, b"")
    struct.pack_into("=I", buffer, _RAW_SIZE_AT, KEY_BYTES)
    # Waits at the very beginning of a boot, until there is randomness; what is read below has no way to say so.
    os.getrandom(1)
    try:
        with open("/dev/urandom", "rb", buffering=0) as random:
            if random.readinto(memoryview(buffer)[_RAW_AT : _RAW_AT + KEY_BYTES]) != KEY_BYTES:
                raise OSError(errno.EIO, "too little randomness")
        _ioctl(mounted, _ADD_KEY, buffer)
    finally:
        buffer[_RAW_AT : _RAW_AT + KEY_BYTES] = bytes(KEY_BYTES)
    return KeyId(_SPECIFIER.unpack_from(buffer)[1])


def encrypt_folder(folder: Path, key: KeyId) -> None:
    """Have everything that will be below an empty folder encrypted with a key of its file system.

    Raises:
        OSError: It is not empty, has another policy, or the file system has no such key.
    """
    buffer = bytearray(_BUFFER_BYTES)
    _POLICY.pack_into(buffer, 0, _POLICY_VERSION, _AES_256_XTS, _AES_256_CTS, _PAD_NAMES_TO_32, key)
    _ioctl(folder, _SET_POLICY, buffer)


def key_of(folder: Path) -> KeyId | None:
    """Return the identifier of the key that a folder is encrypted with, in our modes; None where it is not.

    Raises:
        OSError: It cannot be looked at.
    """
    buffer = bytearray(_BUFFER_BYTES)
    struct.pack_into("=Q", buffer, 0, _POLICY.size)
    try:
        _ioctl(folder, _GET_POLICY, buffer)
    except OSError as err:
        # No policy; no encryption on this file system; none in this kernel.
        if err.errno in {errno.ENODATA, errno.EOPNOTSUPP, errno.ENOTTY}:
            return None
        raise
    version, contents, names, _, key = _POLICY.unpack_from(buffer, 8)
    is_ours = (version, contents, names) == (_POLICY_VERSION, _AES_256_XTS, _AES_256_CTS)
    return KeyId(key) if is_ours else None


def has_key(mounted: Path, key: KeyId) -> bool:
    """Whether the kernel holds a key of a file system now.

    Raises:
        OSError: It cannot be asked.
    """
    buffer = _specified(key)
    _ioctl(mounted, _KEY_STATUS, buffer)
    return bool(struct.unpack_from("=I", buffer, _STATUS_AT)[0] == _KEY_PRESENT)


def remove_key(mounted: Path, key: KeyId) -> None:
    """Have the kernel forget a key; one that is gone is fine. Files that are open stay readable until they are closed.

    Raises:
        OSError: It cannot be asked.
    """
    try:
        _ioctl(mounted, _REMOVE_KEY, _specified(key))
    except OSError as err:
        if err.errno != errno.ENOKEY:
            raise


def _specified(key: KeyId) -> bytearray:
    buffer = bytearray(_BUFFER_BYTES)
    _SPECIFIER.pack_into(buffer, 0, _BY_IDENTIFIER, key)
    return buffer


def _ioctl(folder: Path, request: int, buffer: bytearray) -> None:
    import fcntl  # not on Windows, where commands of other roles import this file too

    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, request, buffer, True)
    finally:
        os.close(descriptor)
