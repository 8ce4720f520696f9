"""How fast a container may be, each way, held by the kernel's token buckets on its bridge.

Rules:
- What goes to the container leaves through the bridge: one bucket there, lease after lease.
- The kernel has no bucket for what arrives: what a container sends is turned, where its cable meets the bridge, through a
  device that has one (`ifb`). Turned at the bridge itself it would come back to the bridge, round and round.
- A kernel or a host that cannot do it is said once, loudly; leases go on without.
"""

from __future__ import annotations

import logging
import threading

from neurons.setup.shell import Outcome, run

logger = logging.getLogger(__name__)

# Long enough for a burst of packets, short enough that ssh stays quick beside a transfer.
QUEUE_MILLISECONDS = 50
# A bucket must hold the largest packet the kernel hands over in one piece, and what passes between two timer ticks.
BURST_BYTES_MIN = 64 * 1024
TICKS_PER_SECOND = 100


class BandwidthCap:
    """The buckets of one node's bridges.

    Args:
        upload_bits_per_second: From a container; 0 is no cap.
        download_bits_per_second: To a container; 0 is no cap.
    """

    def __init__(self, upload_bits_per_second: int, download_bits_per_second: int) -> None:
        self._upload = upload_bits_per_second
        self._download = download_bits_per_second
        self._lock = threading.Lock()
        self.cause = ""

    def hold(self, interface: str) -> None:
        """Cap a bridge with a running container in it; what is capped already, or cannot be, is left as it is."""
        with self._lock:
            if self._download and not _has(interface, "root", "tbf"):
                self._change(f"qdisc replace dev {interface} root {_bucket(self._download)}\n")
            if self._upload:
                for port in _ports(interface):
                    if not _has(port, "ingress", "ingress"):
                        self._send_through_bucket(port, beside(interface))

    def forget(self, interface: str) -> None:
        """Take away what stands beside a bridge that is gone."""
        if interface and self._upload:
            run(["ip", "link", "delete", beside(interface)])

    def _send_through_bucket(self, port: str, bucket: str) -> None:
        # It is there already where the bridge had a lease before.
        run(["ip", "link", "add", bucket, "type", "ifb"])
        self._judge(run(["ip", "link", "set", bucket, "up"]))
        self._change(
            f"qdisc replace dev {bucket} root {_bucket(self._upload)}\n"
            f"qdisc add dev {port} handle ffff: ingress\n"
            f"filter add dev {port} parent ffff: protocol all prio 1 u32 match u32 0 0 "
            f"action mirred egress redirect dev {bucket}\n"
        )

    def _change(self, commands: str) -> None:
        self._judge(run(["tc", "-batch", "-"], stdin=commands))

    def _judge(self, outcome: Outcome) -> None:
        if outcome.ok or self.cause:
            return
        self.cause = outcome.tail(2)
        logger.warning(
            "NO BANDWIDTH CAP: leases take what the line gives",
            extra={
                "cause": self.cause,
                "fix": "needs root, tc and ip (iproute2), and sch_tbf, ifb, cls_u32, act_mirred",
            },
        )


def beside(interface: str) -> str:
    """Return the device that takes what comes from a bridge's container: ``pl…`` becomes ``pu…``."""
    return f"pu{interface[2:]}"


def _bucket(bits_per_second: int) -> str:
    burst = max(BURST_BYTES_MIN, bits_per_second // 8 // TICKS_PER_SECOND)
    return f"tbf rate {bits_per_second}bit burst {burst}b latency {QUEUE_MILLISECONDS}ms"


def _ports(interface: str) -> list[str]:
    """Return the container's ends that are plugged into a bridge; `ip` prints them as ``7: veth1@if6: <...``."""
    lines = run(["ip", "-o", "link", "show", "master", interface]).output.splitlines()
    return [line.split(": ")[1].partition("@")[0] for line in lines]


def _has(device: str, place: str, kind: str) -> bool:
    return f"qdisc {kind} " in run(["tc", "qdisc", "show", "dev", device, place]).output
