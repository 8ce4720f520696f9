"""How large a memory proof is for a device: how much memory, how dear a unit, how many passes.

Rules:
- k is chosen so that making a unit takes 80 times as long as reading it, by the fastest kernel that is known: 1,222
  operations on an SM's 64 integer lanes per hash, counted in the machine code of a kernel compiled for these cards
  (research, section C). That leaves a quarter for what is not known: moving additions to the multipliers is estimated
  to gain as much (research, section A: from 18.5 to 23 GHash/s), so that the ratio is 64 even then.
- Reading is taken at 0.9 of the vendor's bandwidth (`challenges.hardware`). Cards with much arithmetic beside little
  bandwidth need a large k: from 6 on a B200 to 66 on an RTX 5000 Ada.
- 92 % of a card's memory is filled; the rest is for the driver's context, the kernels and the digests.
- The passes last the target, on a GPU 5 s or more, at the rate that the device claims.
- A card that is not in the table gets the largest k. A name is a claim; a card that makes everything anew under the name
  of another with as many integer lanes reaches 1/64 of the bandwidth which that name promises, and is paid by that share.
- A CPU fills 64 MiB with k = 8, so that filling takes seconds in numpy and a check 0.13 s; less only where it claims less
  memory. The proof is weak there, see `CPU_SCORE_CAP_PPM`.
- Fewer blocks are opened than the validator would like where units are so dear that the check would take longer than it may.

None of this was measured on a GPU yet: the ratios rest on counted instructions, clocks and vendors' figures.
"""

from __future__ import annotations

from challenges.hardware import PPM, GpuModel
from challenges.memory_messages import (
    BLOCK_BYTES,
    BLOCKS_MAX,
    BLOCKS_MIN,
    CHECK_HASHES_MAX,
    OPENINGS_MAX,
    PASSES_MAX,
    UNIT_BYTES,
    UNITS_PER_BLOCK,
    MemoryParams,
)
from challenges.timing import WorkTooSmall

GPU_FILL_PPM = 920_000
GPU_SECONDS_MIN = 5
PASSES_MIN = 4

RATIO_MIN = 64
RATIO_WANTED = 80
INTEGER_LANES_PER_SM = 64
OPERATIONS_PER_HASH = 1222
# The estimate above, 23 / 18.5 = 1.243, and what the choice of k leaves for it, 80 / 64 = 1.25.
FASTER_KERNEL_PPM = 1_243_243
HASHES_UNKNOWN_CARD = 66

CPU_MEMORY_BYTES = 64 << 20
CPU_HASHES = 8
# No more of the weight of the memory part than this on a CPU, for three reasons. Compiled code makes about 100 M hashes a second on
# one Zen 5 core (132 M of 49 rounds, research, section A): at k = 8 that is 0.4 GB/s of units beside the 3.5 GB/s that our
# passes read there, a ratio of 9 instead of 64. No table says what a CPU has to reach, so that a claim can be low enough
# to make everything anew in time. And 64 MiB say nothing of the rest. Half: a rate was shown, and memory was not.
CPU_SCORE_CAP_PPM = 500_000


def fit_gpu_memory_params(
    model: GpuModel | None, memory_bytes: int, rate_bytes_per_second: int, target_seconds: int, *, openings: int = 32
) -> MemoryParams:
    """Choose the sizes for a GPU: an H200 fills 138 GB with k = 9 and reads them 157 times in 5 s.

    Args:
        model: The card by `HardwareTable.find`; None where the table does not know it.
        memory_bytes: The device's claim, all of it.
        rate_bytes_per_second: The device's claim of its passes, >= 1.
        target_seconds: Wanted duration of the passes; 5 s at least are taken.
        openings: How many digests will be recomputed.

    Raises:
        WorkTooSmall: 1024 passes are less than half of what would be read without that limit, or the claim is below
            half a MiB.
    """
    blocks = memory_bytes * GPU_FILL_PPM // PPM // BLOCK_BYTES
    hashes = HASHES_UNKNOWN_CARD if model is None else hashes_for(model)
    return _fit(blocks, hashes, rate_bytes_per_second, max(target_seconds, GPU_SECONDS_MIN), openings, BLOCKS_MAX)


def fit_cpu_memory_params(
    rate_bytes_per_second: int, target_seconds: int, *, memory_bytes: int = CPU_MEMORY_BYTES, openings: int = 32
) -> MemoryParams:
    """Choose the sizes for a CPU: 64 MiB, read as often as the target takes at the claimed rate.

    Args:
        rate_bytes_per_second: The device's claim of its passes, >= 1.
        target_seconds: Wanted duration of the passes, >= 1.
        memory_bytes: The device's claim, all of it; nobody is asked for more.
        openings: How many digests will be recomputed.

    Raises:
        WorkTooSmall: Less than 64 MiB are claimed, and 1024 passes over them are less than half of what would be read.
            More than 1024 passes over 64 MiB, 69 GB, are never asked for, so that a large machine is refused nothing.
    """
    blocks = min(memory_bytes, CPU_MEMORY_BYTES) // BLOCK_BYTES
    return _fit(blocks, CPU_HASHES, rate_bytes_per_second, target_seconds, openings, CPU_MEMORY_BYTES // BLOCK_BYTES)


def hashes_for(model: GpuModel) -> int:
    """Return k: the fewest hashes per unit with which making all units takes 80 times as long as reading them."""
    return -(-RATIO_WANTED * unit_bytes_hashed_per_second(model) // model.memory_rate_expected)


def unit_bytes_hashed_per_second(model: GpuModel) -> int:
    """Return the bytes per second that the fastest known kernel makes at k = 1, by the card's integer lanes and clock."""
    return model.sm_count * model.boost_hz * INTEGER_LANES_PER_SM * UNIT_BYTES // OPERATIONS_PER_HASH


def fill_ratio_ppm(model: GpuModel, hashes: int, *, kernel_ppm: int = PPM) -> int:
    """Return rho, fill time over pass time, in millionths, rounded down.

    Args:
        model: The card.
        hashes: k.
        kernel_ppm: How much faster the kernel is than the fastest known one.
    """
    return model.memory_rate_expected * hashes * PPM**2 // (unit_bytes_hashed_per_second(model) * kernel_ppm)


def _fit(
    blocks: int, hashes: int, rate_bytes_per_second: int, target_seconds: int, openings: int, blocks_largest: int
) -> MemoryParams:
    if rate_bytes_per_second < 1 or target_seconds < 1:
        raise ValueError(f"rate {rate_bytes_per_second} bytes/s, target {target_seconds} s")
    blocks = min(max(blocks, BLOCKS_MIN), BLOCKS_MAX)
    openings = min(openings, OPENINGS_MAX, CHECK_HASHES_MAX // (UNITS_PER_BLOCK * hashes))
    budget = rate_bytes_per_second * target_seconds
    # Rounded up: passes that fill the target, not almost.
    passes = -(-budget // (blocks * BLOCK_BYTES))
    params = MemoryParams(blocks, hashes, min(max(passes, PASSES_MIN), PASSES_MAX), openings)
    operations_min = min(budget, blocks_largest * BLOCK_BYTES * PASSES_MAX) // 2
    if params.operations < operations_min:
        raise WorkTooSmall(
            params,
            "bandwidth",
            got=f"{params.operations} bytes in {params.passes} passes",
            expected=f">= {operations_min} bytes",
        )
    return params
