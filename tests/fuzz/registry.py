"""The one list of all fuzz targets, and of what reads bytes and needs none, with the reason."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from tests.fuzz import (
    agent,
    cosigning,
    epochs,
    files,
    json_values,
    ledger,
    log_epochs,
    logs,
    memory,
    messages,
    network,
    proofs,
    signed,
    stamping,
    state,
    tls,
)
from tests.fuzz.target import Target


@dataclass(frozen=True)
class Registry:
    """All targets by name.

    Attributes:
        targets: In order of the families.
        excluded: Function or module -> why nobody fuzzes it.
    """

    targets: tuple[Target, ...]
    excluded: Mapping[str, str]

    def __iter__(self) -> Iterator[Target]:
        return iter(self.targets)

    def covered(self) -> frozenset[str]:
        """Return every function that a target reaches."""
        return frozenset(name for target in self.targets for name in (target.name, *target.covers))


_OWN_FILE = "reads what this node wrote itself, on its own disk"
_OWN_PROGRAM = "talks to a process that this program started from its own source"
_KERNEL = "reads files of the kernel, which escapes what a tenant can name"
_OPERATOR = "reads what the operator's own machine says, before anybody is let in"
_ASKS = "asks over HTTP; polarise.http_client reads the answer and the model of each answer is a target"
_INSIDE = "works on values that other targets have decoded"
_WRITES = "writes, and reads nothing"

EXCLUDED = {
    "challenges.cuda": "opens a device of this machine by its number",
    "challenges.cuda_memory": "opens a device of this machine by its number",
    "challenges.cuda_pow": "opens a device of this machine by its number",
    "challenges.fused_mixes": "opens a device of this machine by its number",
    "challenges.hardware.HardwareTable": "reads hardware.csv of this package",
    "challenges.memory_backends": _INSIDE,
    "challenges.memory_solver": _INSIDE,
    "challenges.pow_solver": _INSIDE,
    "challenges.proofs.open_prover": _INSIDE,
    "challenges.solver": _INSIDE,
    "challenges.wire.encode_base64": _WRITES,
    "ledger.kept_states.KeptStates": "reads what this ledger wrote itself, and holds it against the blocks it signed",
    "neurons.validator.opening_files": f"{_OWN_FILE}, under its digest; what a miner sent was decoded before",
    "neurons.base.event_log.EventLog": _OWN_FILE,
    "neurons.agent.lease_table.LeaseTable": _OWN_FILE,
    "neurons.agent.new_epoch.read_anchors": "polarise.ledger_client reads the answer; of a value only a whole number is taken",
    "neurons.agent.streams.Streams": _INSIDE,
    "neurons.base.health.Health": _WRITES,
    "neurons.base.startup": "reads options and settings; config.loader is a target",
    "neurons.base.tokens.load_token_secrets": _OWN_FILE,
    "neurons.demo.cheats.late_opener": "a cheat of the demo, which only waits",
    "neurons.ledger.node.LedgerNode": "reads settings; polarise.genesis is a target",
    "neurons.miner.counters.CounterReader": _KERNEL,
    "neurons.miner.enforced.read_enforced": _KERNEL,
    "neurons.miner.firewall.Family": _OPERATOR,
    "neurons.miner.firewall_rules": _OPERATOR,
    "neurons.miner.hard_limits.read_limits": _KERNEL,
    "neurons.miner.http_server.MinerRoutes": "every body is a model, and every model a target",
    "neurons.miner.lease_events.LeaseEvents": _INSIDE,
    "neurons.miner.meter.Meter": _OWN_FILE,
    "neurons.miner.metering.Metering": _INSIDE,
    "neurons.miner.pow.ChallengeHandler": _INSIDE,
    "neurons.miner.settings.open_quota": _OPERATOR,
    "neurons.miner.solver.SolverProcess": _OWN_PROGRAM,
    "neurons.miner.status": _OWN_FILE,
    "neurons.miner.usage_report": _OWN_FILE,
    "neurons.miner.trial": "asks its own solver, and checks the answer as a validator does",
    "neurons.miner.validations.ValidationTracker": _OWN_FILE,
    "neurons.renter.session.open_session": _OPERATOR,
    "neurons.setup": _OPERATOR,
    "neurons.validator.evidence_files.EvidenceFiles": "takes a name that has to match 64 hex digits; the bytes are not read",
    "neurons.validator.prices.PriceList.load": "reads hardware.csv of this package",
    "neurons.validator.gpu_probe": "runs inside the container and reads its driver; what it prints is a target",
    "neurons.validator.probe": "runs inside the container and reads its kernel; what it prints is a target",
    "neurons.validator.telemetry.TelemetryReader": "telemetry.puller is a target",
    "neurons.validator.verification.VerificationEngine": _INSIDE,
    "polarise.block_follower.FileMemory.save": _WRITES,
    "polarise.block_follower.ShortMemory": _INSIDE,
    "polarise.checkpoint.CosignatureVerifier": _INSIDE,
    "polarise.clients.read_status": _ASKS,
    "polarise.decode.decode_model": "called by the target of every model",
    "polarise.decode.validated": "called by the target of every model",
    "polarise.http_signatures.sign_request": _WRITES,
    "polarise.http_wire.SocketReader": "hands bytes on; polarise.http_client is a target",
    "polarise.http_wire.request_head": _WRITES,
    "polarise.merkle.leaf_hash": "hashes, whatever it is",
    "polarise.notes.Ed25519Verifier": _INSIDE,
    "polarise.notes.encode_base64": _WRITES,
    "telemetry.sampler.Sampler": _INSIDE,
    "tlog.store.LogStore": _OWN_FILE,
    "tlog.tiles.read_tile": _INSIDE,
    "tlog.tree.load_frontier": _OWN_FILE,
    "tlog.writer.Writer": _WRITES,
    "utils.crypto.read_passphrase": "asks the operator; utils.crypto.read_secret_file is a target",
    "utils.gpu.GpuSampler": "asks the driver of this machine",
    "utils.mounts.read_mounts": _KERNEL,
    "utils.ssh.read_banner": "receives 255 bytes and compares the first four",
}


REGISTRY = Registry(
    (
        *json_values.TARGETS,
        *messages.TARGETS,
        *logs.TARGETS,
        *log_epochs.TARGETS,
        *signed.TARGETS,
        *ledger.TARGETS,
        *proofs.TARGETS,
        *memory.TARGETS,
        *network.TARGETS,
        *agent.TARGETS,
        *files.TARGETS,
        *stamping.TARGETS,
        *cosigning.TARGETS,
        *state.TARGETS,
        *epochs.TARGETS,
        *tls.TARGETS,
    ),
    MappingProxyType(EXCLUDED),
)
