"""What a request for a lease may say, and what it gets where it says nothing.

Rules:
- Every refusal names the field and what would be accepted.
- What this miner cannot enforce is refused, never silently left out.
- A disk is never smaller than asked for: it is rounded up to what can be made exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from neurons.miner.disk import inodes_of, round_size
from neurons.miner.disk_offer import DiskOffer
from polarise.errors import ErrorCode, RequestRejected
from polarise.messages import AllocateRequest
from polarise.quantities import format_size, parse_size
from polarise.receipt import Isolation, Limits
from polarise.ssh_keys import parse_public_key

# Beyond this a number is not the same in every JSON reader, and no receipt can carry it.
MEMORY_BYTES_MAX = 2**53
PAGE_BYTES = 4096
# ext4 holds no more files, at one per 16 KiB.
DISK_BYTES_MAX = 2**45


@dataclass(frozen=True, slots=True)
class AllocationDefaults:
    """What a request gets where it says nothing, and the bounds of what it may say.

    Attributes:
        image: Image reference.
        allowed_images: References a request may name, the default included.
        memory_bytes: Memory.
        memory_bytes_min: Smallest memory that may be asked for.
        cpu_milli: CPUs in thousandths.
        shm_bytes: Size of /dev/shm, at most half the memory.
        pids_count: Processes and threads.
        ttl_seconds: Length of a lease.
        ttl_seconds_max: Longest time a lease may have before it, when it is granted and at each renewal.
        password_login: Whether a request without a key gets a password.
        registered_ssh_keys: Renter key -> OpenSSH key line.
    """

    image: str
    allowed_images: frozenset[str]
    memory_bytes: int
    memory_bytes_min: int
    cpu_milli: int
    shm_bytes: int
    pids_count: int
    ttl_seconds: int
    ttl_seconds_max: int
    password_login: bool
    registered_ssh_keys: dict[str, str]


@dataclass(frozen=True, slots=True)
class ValidRequest:
    """A request that this host could serve, everything left out filled in."""

    limits: Limits
    image: str
    public_key: str | None
    isolation: Isolation
    ttl_seconds: int


class Admission:
    """Checks requests against what the owner offers.

    Args:
        defaults: Defaults and bounds.
        disks: Whether there are disks, and of which size where a request names none.
        why_no_private: Returns why this miner gives no private networks, None where it does.
    """

    def __init__(
        self,
        defaults: AllocationDefaults,
        disks: DiskOffer,
        why_no_private: Callable[[], str | None] = lambda: None,
    ) -> None:
        self.defaults = defaults
        self._disks = disks
        self._why_no_private = why_no_private

    def validate(self, request: AllocateRequest, renter_key: str) -> ValidRequest:
        """Fill in defaults and check every field.

        Raises:
            RequestRejected: 422 or 400 naming the field.
        """
        isolation = request.isolation or "standard"
        public_key = self._public_key(request.ssh_public_key, renter_key)
        if isolation == "strict" and public_key is None:
            raise rejected(
                ErrorCode.INVALID_FIELD,
                "ssh_public_key",
                "a strict lease has no password",
                "send a key, see ssh-keygen",
            )
        self._check_private(request.private_network)
        return ValidRequest(
            limits=self._limits(request),
            image=self._image(request.image),
            public_key=public_key,
            isolation=isolation,
            ttl_seconds=self.ttl_seconds(request.ttl_seconds),
        )

    def ttl_seconds(self, wanted: int | None) -> int:
        """Return the length of a lease or of its renewal.

        Raises:
            RequestRejected: INVALID_FIELD (422), longer than the owner allows.
        """
        ttl = self.defaults.ttl_seconds if wanted is None else wanted
        if ttl > self.defaults.ttl_seconds_max:
            most = self.defaults.ttl_seconds_max
            raise rejected(
                ErrorCode.INVALID_FIELD,
                "ttl_seconds",
                f"{ttl} s is too long",
                f"at most {most} s from now, as often as you like",
            )
        return ttl

    def _limits(self, request: AllocateRequest) -> Limits:
        defaults = self.defaults
        memory = parse_size(request.memory) if request.memory is not None else defaults.memory_bytes
        if memory < defaults.memory_bytes_min:
            least = format_size(defaults.memory_bytes_min)
            raise rejected(
                ErrorCode.INVALID_FIELD, "memory", f"{format_size(memory)} is too little", f"ask for at least {least}"
            )
        if memory >= MEMORY_BYTES_MAX:
            raise rejected(
                ErrorCode.EXCEEDS_HOST, "memory", f"{request.memory} is more than any host has", "ask for less"
            )
        disk = self._disk_bytes(request.disk)
        # The kernel counts in pages; a limit that is no multiple would be read back smaller than it was asked for.
        return Limits(
            memory_bytes=memory - memory % PAGE_BYTES,
            swap_bytes=0,
            cpu_milli=round(request.cpu_count * 1000) if request.cpu_count is not None else defaults.cpu_milli,
            pids_count=defaults.pids_count,
            shm_bytes=min(defaults.shm_bytes, memory // 2 // PAGE_BYTES * PAGE_BYTES),
            disk_bytes=disk,
            disk_inodes=None if disk is None else inodes_of(disk),
            disk_encrypted=None if disk is None else self._disks.encrypts(),
        )

    def _disk_bytes(self, wanted: str | None) -> int | None:
        why_none = self._disks.why_none()
        if why_none is not None:
            if wanted is not None:
                message = f"this miner gives no disk of its own: {why_none}"
                raise rejected(ErrorCode.NOT_SUPPORTED, "disk", message, "leave disk out")
            return None
        size = self._disks.settings.default_bytes if wanted is None else parse_size(wanted)
        if size >= DISK_BYTES_MAX:
            raise rejected(ErrorCode.EXCEEDS_HOST, "disk", f"{wanted} is more than any host has", "ask for less")
        return round_size(size)

    def _check_private(self, wanted: str | None) -> None:
        if wanted is not None and (cause := self._why_no_private()) is not None:
            raise rejected(
                ErrorCode.NOT_SUPPORTED,
                "private_network",
                f"this miner gives no private networks: {cause}",
                "leave private_network out; its owner turns them on with network.firewall, as root and with iptables",
            )

    def _image(self, wanted: str | None) -> str:
        if wanted is None or wanted == self.defaults.image:
            return self.defaults.image
        if wanted not in self.defaults.allowed_images:
            allowed = ", ".join(sorted(self.defaults.allowed_images | {self.defaults.image}))
            raise rejected(
                ErrorCode.IMAGE_NOT_ALLOWED, "image", f"{wanted!r} is not offered here", f"allowed: {allowed}"
            )
        return wanted

    def _public_key(self, sent: str | None, renter_key: str) -> str | None:
        text = sent if sent is not None else self.defaults.registered_ssh_keys.get(renter_key)
        if text is not None:
            return parse_public_key(text)
        if not self.defaults.password_login:
            raise rejected(
                ErrorCode.INVALID_FIELD, "ssh_public_key", "missing, and this miner gives no passwords", "send a key"
            )
        return None


def rejected(code: ErrorCode, field: str, message: str, hint: str) -> RequestRejected:
    """Return a refusal of one field, HTTP 422."""
    return RequestRejected(code, message, hint=hint, field=field, status=422)
