"""How the engine is asked for a lease's GPUs: each by its exact UUID, never by a count and never by an environment variable.

Rules:
- ``nvidia``: the NVIDIA Container Toolkit's own way, which every engine it supports takes.
- ``cdi``: the Container Device Interface, for engines from version 25 on with ``nvidia-ctk cdi generate`` done. It needs no
  hook in the runtime, and works with user namespaces.
- Written from the documents of both; no GPU was at hand to run them.
Source: Docker Engine API 1.44, DeviceRequest; cncf-tags/container-device-interface, SPEC.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from docker.types import DeviceRequest

GpuAccess = Literal["nvidia", "cdi"]
CDI_KIND = "nvidia.com/gpu"


def gpu_requests(devices: Sequence[str], access: GpuAccess) -> list[DeviceRequest] | None:
    """Return what the engine is asked for; None for a lease without GPUs, which then sees none.

    Args:
        devices: UUIDs, ``GPU-...`` or ``MIG-...``.
        access: Which way.
    """
    if not devices:
        return None
    if access == "cdi":
        return [DeviceRequest(driver="cdi", device_ids=[f"{CDI_KIND}={uuid}" for uuid in devices])]
    return [DeviceRequest(driver="nvidia", device_ids=list(devices), capabilities=[["gpu", "compute", "utility"]])]
