"""What a miner says it has; every figure is a claim until a validator has measured it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from polarise.decode import WireModel

CPU_DEVICE = "cpu"


class DeviceClaim(WireModel):
    """One device that can prove work.

    Attributes:
        uuid: ``cpu`` for the processor as a whole, else the GPU's NVML UUID.
        kind: ``cpu`` or ``gpu``.
        name: Model name as the operating system or NVML gives it.
        memory_bytes: Host memory for a CPU, device memory for a GPU.
        matmul_ops_per_second: Claimed rate of the matmul proof, 2·n³ operations a round. A miner claims what it can
            hold: `join` takes 70 % of the measured median on CPUs.
        pow_hashes_per_second: Claimed rate of the proof of work, one SHA-256 compression a hash, likewise.
        memory_bytes_per_second: Claimed rate at which the memory proof reads memory, likewise; 0 claims none, and then
            no memory proof is asked for. Entries of before do not have it.
    """

    uuid: str = Field(min_length=1, max_length=96)
    kind: Literal["cpu", "gpu"]
    name: str = Field(max_length=200)
    memory_bytes: int = Field(ge=0, lt=2**53)
    matmul_ops_per_second: int = Field(ge=1, lt=2**53)
    pow_hashes_per_second: int = Field(ge=1, lt=2**53)
    memory_bytes_per_second: int = Field(default=0, ge=0, lt=2**53)

    @property
    def rates_text(self) -> str:
        """All claims as a person reads them."""
        memory = (
            f"{self.memory_bytes_per_second / 1e9:.1f} G bytes/s" if self.memory_bytes_per_second else "no bandwidth"
        )
        return (
            f"{self.matmul_ops_per_second / 1e9:.1f} G operations/s, {self.pow_hashes_per_second / 1e6:.1f} M hashes/s "
            f"and {memory}"
        )


class HardwareClaim(WireModel):
    """The whole host as its owner offers it.

    Attributes:
        cpu_model: Name of the processor.
        cpu_milli: Offered processors in thousandths, 1000 = one full CPU.
        memory_bytes: Memory that leases may use, together.
        devices: Devices that prove work: at most 16 GPUs and the processor.
        disk_bytes: Disk that leases may use, together; 0 claims none. Entries of before have neither of the two.
        network_bits_per_second: What the host sends and receives at least, each way; 0 claims none.
    """

    cpu_model: str = Field(max_length=200)
    cpu_milli: int = Field(ge=1, lt=2**31)
    memory_bytes: int = Field(ge=1, lt=2**53)
    devices: tuple[DeviceClaim, ...] = Field(min_length=1, max_length=17)
    disk_bytes: int = Field(default=0, ge=0, lt=2**53)
    network_bits_per_second: int = Field(default=0, ge=0, lt=2**53)

    @field_validator("devices")
    @classmethod
    def _distinct(cls, devices: tuple[DeviceClaim, ...]) -> tuple[DeviceClaim, ...]:
        """Refuse one device listed twice: it would prove once and be paid for twice."""
        if len({device.uuid for device in devices}) != len(devices):
            raise ValueError("a device is listed twice")
        return devices
