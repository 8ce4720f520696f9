"""How long after its expiry a lease's open ssh connection is cut, with the engine at work and with the engine hung.

    python benchmarks/expiry.py [--count 20]

Each lease lasts six seconds; a connection stays open, and the moment is taken at which it ends. The instant of the
expiry is that of the signed receipt, on the same wall clock. It runs in a lab, whose engine may be stopped; that needs root.
"""

from __future__ import annotations

import argparse
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

from polarise.clients import MinerClient
from polarise.messages import AllocateRequest
from polarise.receipt import Receipt
from polarise.ssh_keys import generate_key_pair
from tests.lab.engine import LabEngine, inside, lab, why_no_lab
from tests.support.identities import People, fresh_node_identity
from tests.support.machine import Machine
from tests.support.miners import miner_config
from tests.support.ssh import Login
from tests.support.worker import free_port
from utils import host

TTL_SECONDS = 6
CUT_SECONDS = 30.0


def main() -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20, help="leases of each kind (default: 20)")
    count = parser.parse_args().count
    print(f"command: {' '.join(['python', *sys.argv])}")
    print(f"hardware: {host.cpu_model()}, {host.cpu_count()} CPUs")
    if cause := why_no_lab():
        print(f"left out: {cause}")
        return 0
    people = People()
    with tempfile.TemporaryDirectory(prefix="polarise-expiry-") as folder, lab() as built, inside(built):
        config = miner_config(people, network={"port": free_port()}, docker={"host": built.host})
        machine = Machine(people, fresh_node_identity(people.owner), Path(folder) / "node", config)
        with machine.process() as process:
            client = machine.client(process)
            at_work = [_cut_ms(client, Path(folder), None) for _ in range(count)]
            hung = [_cut_ms(client, Path(folder), built.engine) for _ in range(count)]
            process.terminate()
    print(f"\n{'milliseconds after the expiry':<32}{'p50':>8}{'p95':>8}{'max':>8}")
    for name, values in (("engine at work", at_work), ("engine hung (SIGSTOP)", hung)):
        p95 = statistics.quantiles(values, n=20, method="inclusive")[18] if count > 1 else values[0]
        print(f"{name:<32}{statistics.median(values):8.0f}{p95:8.0f}{max(values):8.0f}")
    return 0


def _cut_ms(client: MinerClient, folder: Path, hung: LabEngine | None) -> float:
    private, public = generate_key_pair()
    answer = client.allocate(AllocateRequest(ssh_public_key=public, ttl_seconds=TTL_SECONDS))
    expires_ms = answer.receipt.open("receipt", Receipt).expires_unix_ms
    try:
        with Login.to(answer, folder, private_key=private).session() as session:
            session.ask("echo $$")
            if hung is not None:
                hung.send(signal.SIGSTOP)
            session.wait_cut(CUT_SECONDS)
            return time.time() * 1000 - expires_ms
    finally:
        if hung is not None:
            hung.send(signal.SIGCONT)


if __name__ == "__main__":
    sys.exit(main())
