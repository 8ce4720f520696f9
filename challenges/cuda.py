"""One CUDA device as the solver meets it: whether it is there, current while we launch, and the cause where it fails.

Rules:
- Whatever torch, Triton or the driver raise becomes Unavailable, which names the device, what was said, and what the
  operator can do. A failed device is nobody's cheat: it costs the miner this proof and no more.
- The driver's own words decide (`challenges.gpu_faults`); they are the same from its runtime, its driver interface and Triton.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from challenges.gpu_faults import sort_fault
from polarise.errors import SubnetError, Unavailable

_MESSAGE_LENGTH_MAX = 300


def open_device(name: str) -> torch.device:
    """Return the device, after looking whether it is there.

    Args:
        name: "cuda:N".

    Raises:
        Unavailable: This torch has no CUDA, or the driver shows no such device.
    """
    with causes_of(name):
        device = torch.device(name)
        torch.empty(0, device=device)
    return device


@contextmanager
def using(device: torch.device) -> Iterator[None]:
    """Make the device current, as Triton launches where torch stands, and turn its failures into causes."""
    with causes_of(str(device)):
        if device.type != "cuda":
            yield
            return
        with torch.cuda.device(device):
            yield


@contextmanager
def causes_of(name: str) -> Iterator[None]:
    """Turn whatever the device's libraries raise into Unavailable; what is ours already passes.

    Raises:
        Unavailable: With the device, the library's own words, and what to do.
    """
    try:
        yield
    except SubnetError:
        raise
    except Exception as err:
        raise Unavailable(explain(name, err)) from err


def explain(name: str, err: BaseException) -> str:
    """Return one line: the device, the fault, the first line of what was said, and what to do."""
    text = str(err)
    said = (text.strip().splitlines() or [type(err).__name__])[0][:_MESSAGE_LENGTH_MAX]
    fault, to_do = sort_fault(text)
    return f"{name}: {fault}: {said}: {to_do}"
