"""Looks at the first GPU inside a rented container, through the driver's own library; a part of what the probe sends.

Rules:
- Standard library only. Without ctypes, as in Debian's python3-minimal, without libcuda.so.1, or without a card it says so and
  does nothing else: `state` is LOOKED only where everything below was done.
- The kernel is ours, as PTX, and the driver compiles it: a mix of integers from two words that follow from the receipt's nonce
  and the card's UUID. Whoever has both computes the same words on a processor (`expected_words`): it shows that something
  computed for this lease, and not what.
- Locality: launches of two threads, one after the other, each from the eight bytes that the one before gave back. Next to a card
  they take some tens of microseconds each, over a network a round trip. The time is this machine's own word.
"""

from __future__ import annotations

import hashlib
import time

# Not imported inside a container: python3-minimal is not to be asked for more than is used.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LIBRARY = "libcuda.so.1"
LOOKED = "looked"
BLOCKS, THREADS, ROUNDS = 64, 128, 64
STEPS, STEP_ROUNDS = 1000, 4
NAME_BYTES = 256
# Multipliers and shifts are those of the proofs' own mixes.
PTX = """\
.version 7.0
.target sm_70
.address_size 64

.visible .entry mix(.param .u64 out, .param .u32 first, .param .u32 second, .param .u32 rounds)
{
    .reg .pred %go;
    .reg .b32 %block, %size, %thread, %index, %x, %y, %left, %shifted;
    .reg .b64 %place, %offset;
    mov.u32 %block, %ctaid.x;
    mov.u32 %size, %ntid.x;
    mov.u32 %thread, %tid.x;
    mad.lo.u32 %index, %block, %size, %thread;
    ld.param.u32 %x, [first];
    ld.param.u32 %y, [second];
    ld.param.u32 %left, [rounds];
    xor.b32 %x, %x, %index;
again:
    mad.lo.u32 %x, %x, 2221713035, %y;
    shr.u32 %shifted, %x, 15;
    xor.b32 %x, %x, %shifted;
    mul.lo.u32 %x, %x, 2146121005;
    shr.u32 %shifted, %x, 13;
    xor.b32 %x, %x, %shifted;
    sub.u32 %left, %left, 1;
    setp.ne.u32 %go, %left, 0;
    @%go bra again;
    ld.param.u64 %place, [out];
    mul.wide.u32 %offset, %index, 4;
    add.u64 %place, %place, %offset;
    st.global.u32 [%place], %x;
    ret;
}
"""


class CallFailed(Exception):
    """A call of the driver failed."""


def look_at_gpu(nonce: str) -> dict[str, object]:
    """Return what the first card is and computes.

    Args:
        nonce: The receipt's, in hex.
    """
    try:
        import ctypes
    except ImportError:
        return {"state": "no ctypes"}
    try:
        cuda = ctypes.CDLL(LIBRARY)
    except OSError:
        return {"state": "no libcuda"}
    try:
        return Card(ctypes, cuda).look(nonce)
    except (CallFailed, AttributeError) as err:
        return {"state": "".join(c for c in str(err) if c.isalnum() or c in " _")[:80]}


class Card:
    """The first card that the driver shows, with our kernel on it.

    Args:
        ctypes: The module, imported where it is known to be there.
        cuda: The driver's library.
    """

    def __init__(self, ctypes: Any, cuda: Any) -> None:  # noqa: ANN401  a module, and whatever the driver exports
        self.c = ctypes
        self.cuda = cuda
        self.memory = ctypes.c_uint64()
        self.kernel = ctypes.c_void_p()

    def look(self, nonce: str) -> dict[str, object]:
        """Do everything."""
        c = self.c
        device, context, module = c.c_int(), c.c_void_p(), c.c_void_p()
        count, total = c.c_int(), c.c_size_t()
        name, uuid = c.create_string_buffer(NAME_BYTES), c.create_string_buffer(16)
        self.call("cuInit", 0)
        self.call("cuDeviceGetCount", c.byref(count))
        self.call("cuDeviceGet", c.byref(device), 0)
        self.call("cuDeviceGetName", name, NAME_BYTES, device)
        self.call("cuDeviceGetUuid", uuid, device)
        self.call("cuDeviceTotalMem_v2", c.byref(total), device)
        self.call("cuDevicePrimaryCtxRetain", c.byref(context), device)
        self.call("cuCtxSetCurrent", context)
        try:
            self.call("cuModuleLoadData", c.byref(module), c.c_char_p(PTX.encode()))
            self.call("cuModuleGetFunction", c.byref(self.kernel), module, c.c_char_p(b"mix"))
            called = uuid_text(uuid.raw)
            first, second = seed_words(nonce, called)
            self.call("cuMemAlloc_v2", c.byref(self.memory), c.c_size_t(4 * BLOCKS * THREADS))
            words = self.run(BLOCKS, THREADS, first, second, ROUNDS)
            began = time.monotonic()
            for _ in range(STEPS):
                first, second = pair(self.run(1, 2, first, second, STEP_ROUNDS))
            step_us = int((time.monotonic() - began) * 1e6)
        finally:
            self.call("cuDevicePrimaryCtxRelease_v2", device)
        return {
            "state": LOOKED,
            "cards_count": count.value,
            "name": name.value.decode("ascii", "replace"),
            "uuid": called,
            "memory_bytes": total.value,
            "proof": hashlib.sha256(words).hexdigest(),
            "last_step": f"{first:08x}{second:08x}",
            "steps_us": step_us,
        }

    def run(self, blocks: int, threads: int, first: int, second: int, rounds: int) -> bytes:
        """Launch the kernel once and bring its words back, four bytes a thread."""
        c = self.c
        numbers = (self.memory, c.c_uint32(first), c.c_uint32(second), c.c_uint32(rounds))
        pointers = (c.c_void_p * 4)(*(c.cast(c.byref(number), c.c_void_p) for number in numbers))
        self.call("cuLaunchKernel", self.kernel, blocks, 1, 1, threads, 1, 1, 0, None, pointers, None)
        words = c.create_string_buffer(4 * blocks * threads)
        # Waits for the launch, which is on the same stream.
        self.call("cuMemcpyDtoH_v2", words, self.memory, c.c_size_t(len(words)))
        return bytes(words.raw)

    def call(self, name: str, *arguments: object) -> None:
        """Call the driver."""
        status = getattr(self.cuda, name)(*arguments)
        if status:
            raise CallFailed(f"{name} failed with status {status}")


def uuid_text(raw: bytes) -> str:
    """Return sixteen bytes as NVML writes them."""
    text = raw.hex()
    return f"GPU-{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def seed_words(nonce: str, uuid: str) -> tuple[int, int]:
    """Return the two words from which a card computes for one lease."""
    return pair(hashlib.sha256(b"polarise/inspect/gpu/1" + bytes.fromhex(nonce) + uuid.encode()).digest())


def pair(words: bytes) -> tuple[int, int]:
    """Read the first two words, little-endian."""
    return int.from_bytes(words[:4], "little"), int.from_bytes(words[4:8], "little")
