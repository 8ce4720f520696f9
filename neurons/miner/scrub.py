"""Overwrites the memory of a lease's GPUs before somebody else gets them, in a process of its own for each.

Rules:
- Between the last tenant's container and the end of its row: until every card is clean the row stays, so that none of them
  can be leased, and reconcile tries again.
- What is not free is not reached. A card of which less than nine tenths was overwritten is not clean: somebody still
  holds its memory.
- Written from the driver's documents and run against a small driver in memory; no GPU was at hand.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Sequence

from polarise.errors import Unavailable
from utils.cuda import CudaFailed, overwrite_memory

logger = logging.getLogger(__name__)

# 141 GB at the slowest of memories take some ten seconds; a driver that hangs must not hold the lock of a lease for ever.
DEADLINE_SECONDS = 60.0
RETRY_SECONDS = 30
CLEAN_PERCENT = 90


def scrub(devices: Sequence[str]) -> None:
    """Overwrite the memory of these GPUs, one after the other; nothing to do for a lease without any.

    Args:
        devices: UUIDs.

    Raises:
        Unavailable: One of them is not clean; the message says which and why.
    """
    for device in devices:
        try:
            done = _run(device)
        except (CudaFailed, OSError, ValueError, subprocess.SubprocessError) as err:
            raise Unavailable(
                f"the memory of {device} was not overwritten after a lease, so nobody gets it: {err}",
                retry_after_seconds=RETRY_SECONDS,
            ) from err
        logger.info("memory of a GPU overwritten", extra={"device": device, "overwritten_bytes": done})


def _run(device: str) -> int:
    command = [sys.executable, "-m", "neurons.miner.scrub"]
    ended = subprocess.run(
        command,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": device},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    if ended.returncode != 0:
        raise CudaFailed(ended.stderr.decode(errors="replace").strip()[-300:] or f"status {ended.returncode}")
    found = json.loads(ended.stdout)
    done, total = int(found["bytes_count"]), int(found["total_bytes"])
    if done * 100 < total * CLEAN_PERCENT:
        raise CudaFailed(f"only {done} of {total} bytes are free; which process still holds the others?")
    return done


def main() -> int:
    """Overwrite the one visible card and print what became of it."""
    try:
        found = overwrite_memory()
    except CudaFailed as err:
        sys.stderr.write(f"{err}\n")
        return 1
    sys.stdout.write(json.dumps({"bytes_count": found.bytes_count, "total_bytes": found.total_bytes}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
