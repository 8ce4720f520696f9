"""Every setting with its type, unit, default and one line of prose; `docs/configuration.md` is generated from here.

Rules:
- The names under network, security, docker and logging are the seed document's.
- A sample secret, or an image tag that can move, is refused with the fix.
- Limits exist for everything that could grow: bodies, threads, leases, times.
"""

from __future__ import annotations

import re
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from polarise.addresses import is_loopback
from polarise.quantities import parse_size
from utils.host import cpu_numbers

SAMPLE_SECRET = "your-secret-key"  # noqa: S105  the seed's sample, refused below
KeyHex = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class RoleName(StrEnum):
    """What a bare ``python main.py`` runs."""

    DEMO = "demo"
    MINER = "miner"
    VALIDATOR = "validator"
    LEDGER = "ledger"


def _size(text: str) -> str:
    parse_size(text)
    return text


def _pinned_image(name: str) -> str:
    if re.fullmatch(r"polarise/base:[0-9a-f]{12}|(\S+@)?sha256:[0-9a-f]{64}", name):
        return name
    raise ValueError(
        "names an image that can change and may hold no sshd; leave docker.base_image out to use the image that "
        "`python main.py setup` builds, or give one by digest (repository@sha256:...)"
    )


def _own_secret(secret: str) -> str:
    if secret == SAMPLE_SECRET or len(secret) < 16:
        raise ValueError(
            "is a sample or shorter than 16 characters; leave security.secret_key out (one is generated) or set one "
            'made by: python3 -c "import secrets; print(secrets.token_urlsafe(32))"'
        )
    return secret


def _cpu_list(text: str) -> str:
    cpu_numbers(text)
    return text


def _switch(value: object) -> object:
    """Take the words that YAML reads as true and false."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


SizeText = Annotated[str, AfterValidator(_size)]


class Section(BaseModel):
    """Base of all sections: strict, immutable, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class NetworkConfig(Section):
    """The HTTP API and the address renters connect to."""

    host: str = Field("127.0.0.1", description="Address the HTTP API listens on; any other than loopback serves TLS.")
    port: int = Field(8080, ge=0, le=65535, description="TCP port of the HTTP API; 0 takes a free one.")
    advertised_host: str = Field(
        "127.0.0.1", pattern=r"^[A-Za-z0-9.\-:]+$", description="Host that registry entry and receipts name for ssh."
    )
    tls: Annotated[Literal["auto", "on", "off"], BeforeValidator(_switch)] = Field(
        "auto",
        description="TLS 1.3 with a certificate of the node's own: auto serves it everywhere but on loopback, on there too.",
    )
    threads: int = Field(
        16,
        ge=4,
        le=256,
        description="Requests served at once; streams may take half of them. A miner serves one more per device, for proofs.",
    )
    max_body_bytes: int = Field(65536, ge=1024, le=2**20, description="Largest request body that is read.")
    max_connections: int = Field(
        512,
        ge=16,
        le=65536,
        description="Connections at once; beyond it the one that took longest to send a request is closed.",
    )
    request_timeout_seconds: int = Field(
        30, ge=1, le=600, description="Idle connections end after this, and slow request heads and bodies are refused."
    )

    firewall: Annotated[Literal["auto", "required", "off"], BeforeValidator(_switch)] = Field(
        "auto",
        description="Keep tenants from this host, its network and each other, with iptables as root: auto warns where that cannot be, required refuses to start.",
    )
    lease_upload_bits_per_second: int = Field(
        0, ge=0, lt=2**40, description="Most that one container sends; 0 is no cap. Needs root, tc and ip."
    )
    lease_download_bits_per_second: int = Field(
        0, ge=0, lt=2**40, description="Most that one container receives; 0 is no cap. Needs root, tc and ip."
    )

    @model_validator(mode="after")
    def _loopback_without_tls(self) -> NetworkConfig:
        if self.is_loopback:
            return self
        if self.tls == "off":
            raise ValueError(
                f"network.host {self.host} is not loopback, and plain HTTP is served there only; "
                "leave network.tls out (TLS needs no further setting), or use 127.0.0.1"
            )
        if is_loopback(self.advertised_host):
            raise ValueError(
                f"network.host {self.host} is for others, and network.advertised_host {self.advertised_host} leads them "
                "nowhere; set it to the name or address they reach this host by, or use 127.0.0.1 for both"
            )
        return self

    @property
    def is_loopback(self) -> bool:
        """Whether the API listens on this machine alone."""
        return is_loopback(self.host)

    @property
    def is_tls(self) -> bool:
        """Whether the API speaks TLS."""
        return self.tls == "on" or (self.tls == "auto" and not self.is_loopback)


class SecurityConfig(Section):
    """Bearer tokens; keys live in key files, never here."""

    secret_key: Annotated[str, AfterValidator(_own_secret)] | None = Field(
        None,
        repr=False,
        description="Secret that signs bearer tokens; generated into the data directory when left out.",
    )
    token_expiry: int = Field(3600, ge=60, le=86400, description="Life of a bearer token in seconds.")


class AccessConfig(Section):
    """Who may call this node, by public key; the owner's key always may."""

    open: bool = Field(False, description="Let any key act as a renter, within quota_leases and the open_* settings.")
    open_share: float = Field(
        0.5,
        gt=0,
        le=1,
        allow_inf_nan=False,
        description="Share of memory, CPUs, disk, GPUs, private networks and leases that keys on no list may hold together, with open.",
    )
    open_leases_per_address: int = Field(
        4,
        ge=1,
        le=1000,
        description="Leases that keys on no list may hold from one address (IPv6: one /64), with open.",
    )
    renters: tuple[KeyHex, ...] = Field((), description="Public keys that may rent.")
    validators: tuple[KeyHex, ...] = Field((), description="Public keys that may challenge and inspect.")
    min_validator_stake: int | None = Field(
        1,
        ge=1,
        lt=2**53,
        description="With ledger.genesis: validators with so much stake on the ledger may challenge and inspect, too; null: only those listed.",
    )
    auditors: tuple[KeyHex, ...] = Field((), description="Public keys that may read telemetry.")
    quota_leases: int = Field(4, ge=1, le=1000, description="Leases one key may hold at a time.")
    renter_ssh_keys: dict[KeyHex, str] = Field(
        default_factory=dict, description="OpenSSH key of a renter, used when a request names none."
    )


def _address(text: str) -> str:
    ip_address(text)
    return text


class RequestsConfig(Section):
    """How often the HTTP API may be asked; beyond it the answer is 429 with Retry-After."""

    anonymous_per_second: float = Field(
        100,
        gt=0,
        le=100_000,
        description="Requests of one address (IPv6: one /64) that no listed key signed; loopback is not counted.",
    )
    anonymous_burst: int = Field(1000, ge=1, le=1_000_000, description="Such requests at once.")
    failed_per_minute: float = Field(
        60, gt=0, le=100_000, description="Authentications of one address that fail; beyond it none of it is looked at."
    )
    failed_burst: int = Field(60, ge=1, le=1_000_000, description="Such failures at once.")
    key_per_second: float = Field(50, gt=0, le=100_000, description="Requests of one key.")
    key_burst: int = Field(500, ge=1, le=1_000_000, description="Requests of one key at once.")
    costly_per_minute: float = Field(
        60, gt=0, le=100_000, description="Of these, requests for a token, a lease, a password or another ssh key."
    )
    costly_burst: int = Field(60, ge=1, le=1_000_000, description="Such requests at once.")
    trusted_proxies: tuple[Annotated[str, AfterValidator(_address)], ...] = Field(
        (), description="Addresses of your own proxies; of them X-Forwarded-For is believed, of nobody else."
    )
    stream_seconds: int = Field(
        21600, ge=1, le=604800, description="Longest life of one stream (events, logs, blocks); its reader comes again."
    )


class DockerConfig(Section):
    """Containers: what is offered and what is set when a request leaves it out."""

    host: str | None = Field(
        None, description="Engine to use, for example unix:///run/docker.sock; default: the local."
    )
    base_image: Annotated[str, AfterValidator(_pinned_image)] | None = Field(
        None, description="Image of the containers: the one set-up builds, or one by digest."
    )
    allowed_images: tuple[Annotated[str, AfterValidator(_pinned_image)], ...] = Field(
        (), description="Further images a renter may name, each by digest."
    )
    container_prefix: str = Field(
        "polarise-", pattern=r"^[a-z][a-z0-9-]{0,31}$", description="Container names start with it."
    )
    default_memory: SizeText = Field("1g", description="Memory of a lease that names none.")
    default_cpu_count: float = Field(1, gt=0, le=4096, description="CPUs of a lease that names none.")
    min_memory: SizeText = Field("64m", description="Smallest memory a lease may have; sshd needs some.")
    reserve_memory: SizeText = Field("512m", description="Memory of the host that leases never get.")
    reserve_cpu_count: float = Field(0, ge=0, le=4096, description="CPUs of the host that leases never get.")
    shm_size: SizeText = Field("64m", description="Size of /dev/shm, counted in the memory limit.")
    cpuset_cpus: Annotated[str, AfterValidator(_cpu_list)] | None = Field(
        None, description="CPUs that containers run on, as `taskset` writes them (`2-7,10`); default: all."
    )
    gpu_access: Literal["nvidia", "cdi"] = Field(
        "nvidia",
        description="How the engine is asked for GPUs: by the NVIDIA toolkit's driver, or by CDI (engine 25 or newer).",
    )
    runtime: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}$",
        description="Runtime of the engine that starts containers, by its name there (`docker info` lists them); default: the engine's own.",
    )
    disk: Literal["auto", "loop", "none"] = Field(
        "auto",
        description="A file system of its own per lease, over a loop device: where it works, always (or not start), or never.",
    )
    disk_encryption: Literal["auto", "required", "off"] = Field(
        "auto",
        description="Encrypt what leases write to their disks, with keys in memory only, which a restart of the host takes: where it works, always (or not start), or never.",
    )
    disk_folder: Path | None = Field(
        None,
        description="Where the disks of leases and the trees of images lie; default: disks in the data directory. Nodes may share it. Change it only without leases.",
    )
    default_disk: SizeText = Field("4g", description="Disk of a lease that names none; rounded up to 128 MiB.")
    total_disk: SizeText | None = Field(
        None, description="Disk all leases may have together; default: what is free, less reserve_disk."
    )
    reserve_disk: SizeText = Field("2g", description="Free space of the host's disk that leases never get.")
    pids_limit: int = Field(512, ge=32, le=32768, description="Processes and threads per container.")
    default_ttl_seconds: int = Field(3600, ge=1, le=31536000, description="Length of a lease that names none.")
    max_ttl_seconds: int = Field(
        86400,
        ge=1,
        le=31536000,
        description="Longest time a lease may have left, when granted and after each renewal; renewals are not counted.",
    )
    max_leases: int = Field(32, ge=1, le=90, description="Leases at a time on this node.")
    ssh_port_first: int | None = Field(
        None, ge=1024, le=65000, description="First port for ssh; default: derived from the node's key."
    )
    ssh_port_count: int = Field(100, ge=1, le=1000, description="How many ports for ssh, from the first on.")
    start_timeout_seconds: int = Field(
        30, ge=1, le=600, description="A container whose sshd is silent so long is removed."
    )
    warm_slots: int = Field(
        1,
        ge=0,
        le=32,
        description="Containers of the default image kept running for the next leases; each takes a port and some 10 MB.",
    )
    password_login: bool = Field(True, description="Give a one-time password when a request has no ssh key.")


class MinerConfig(Section):
    """The miner's offer and its part in challenges."""

    price_micros_per_hour: int = Field(0, ge=0, description="Asking price of the host per hour, in millionths.")
    claim_cpu: bool = Field(
        True, description="On a host with GPUs `join` claims the processor too, which is then proven like any device."
    )
    unprivileged_solver: bool = Field(
        True,
        description="Where the miner is root, solvers of CPUs run as a user without any right, if that one can read the program.",
    )
    compiled_pow: bool = Field(
        False,
        description="Hash on the processor with code that this node compiles at its start (needs gcc), else with numpy.",
    )
    network_bits_per_second: int = Field(
        0,
        ge=0,
        lt=2**53,
        description="What this host sends and receives at least, each way; `join` claims it and validators try it. 0 claims none.",
    )
    max_proof_seconds: int = Field(120, ge=1, le=3600, description="A solver that works longer is ended.")
    proof_duty_percent: float = Field(
        2.0,
        gt=0,
        le=100,
        allow_inf_nan=False,
        description="Share of an hour that a device spends on proofs before it declines whom it can show the orders of others; "
        "validators accept those from 2 on.",
    )


class ValidatorConfig(Section):
    """Rounds, sizes and what is inspected."""

    public_url: str | None = Field(
        None,
        pattern=r"^https?://[A-Za-z0-9.\-\[\]:]+$",
        max_length=300,
        description="Base URL others reach this API by; stands in epoch records. Default: network.host and port.",
    )
    epoch_seconds: int = Field(
        300, ge=5, le=86400, description="Length of an epoch; they begin at its multiples on the wall clock."
    )
    proof_target_seconds: int = Field(3, ge=1, le=60, description="How long each proof should take a miner.")
    openings: int = Field(32, ge=8, le=256, description="Tiles recomputed per proof.")
    proof_every: int = Field(
        12,
        ge=1,
        le=1000,
        description="One epoch of about so many, drawn from the beacon, proves every miner at the same moment.",
    )
    inspect_every: int = Field(
        12, ge=1, le=1000, description="A container is inspected in about one epoch of so many, drawn from the beacon."
    )
    same_host: Literal["together", "in_turn"] = Field(
        "together",
        description="Miners on one host prove at the same moment; in_turn where a test or demo shares one machine.",
    )
    parallel: int = Field(8, ge=1, le=64, description="Miners inspected and read at the same time.")
    inspect: bool = Field(True, description="Rent a container from each miner and check its limits from inside.")
    read_telemetry: bool = Field(True, description="Pull and verify each miner's event log.")
    inspect_memory: SizeText = Field("256m", description="Memory of the inspected container.")
    inspect_cpu_count: float = Field(0.5, gt=0, le=64, description="CPUs of the inspected container.")
    allow_private_endpoints: bool = Field(
        False, description="Call endpoints on loopback and private addresses (one machine, test nets)."
    )
    evidence_retention_hours: int = Field(
        48,
        ge=1,
        le=87600,
        description="Openings are kept this long, and every bundle says so; verdicts for ever.",
    )
    evidence_max_size: SizeText = Field(
        "20g",
        description="Room of all bundles with openings; beyond it the oldest openings go before their time, and audits show it.",
    )


class TelemetryConfig(Section):
    """The agent that keeps the event log, and where its alerts begin; they clear five points below."""

    start_agent: bool = Field(
        True,
        description="The miner starts its agent itself; false where a service manager runs `python main.py agent`.",
    )
    gpu_usage_percent: float = Field(90, gt=5, le=100, description="Alert above this GPU utilisation.")
    memory_usage_percent: float = Field(90, gt=5, le=100, description="Alert above this share of any memory.")
    temperature_celsius: float = Field(85, gt=5, le=150, description="Alert above this GPU temperature.")


class LedgerConfig(Section):
    """Which ledger this node uses, or, for the ledger itself, what it takes."""

    endpoint: str = Field(
        "http://127.0.0.1:8090", pattern=r"^https?://[A-Za-z0-9.\-\[\]:]+$", description="Base URL of the ledger."
    )
    genesis: Path | None = Field(
        None, description="The ledger's genesis file; default: genesis.json in the ledger's own data directory."
    )
    max_block_transactions: int = Field(
        10_000, ge=1, le=1_000_000, description="Transactions the ledger takes between two blocks."
    )
    max_nodes: int = Field(
        10_000,
        ge=1,
        le=14_000,
        description="Nodes that may ever write on this ledger, beside its validators; readers take no more at once.",
    )


class LoggingConfig(Section):
    """Where the log goes; secrets never do."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="Least severe line that is written."
    )
    file: Path | None = Field(None, description="Also write the log to this file (rotated at 10 MiB, 5 kept).")
    format: Literal["text", "json"] = Field("text", description="One line of text, or one JSON object, per entry.")


class Config(Section):
    """All settings of a node.

    Relative paths are resolved against the folder that holds ``main.py``.
    """

    role: RoleName = Field(RoleName.DEMO, description="What a bare `python main.py` runs.")
    data_dir: Path | None = Field(None, description="Keys, journal and evidence of this node; default: data/<role>.")
    network: NetworkConfig = NetworkConfig()
    security: SecurityConfig = SecurityConfig()
    access: AccessConfig = AccessConfig()
    requests: RequestsConfig = RequestsConfig()
    docker: DockerConfig = DockerConfig()
    miner: MinerConfig = MinerConfig()
    validator: ValidatorConfig = ValidatorConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    ledger: LedgerConfig = LedgerConfig()
    logging: LoggingConfig = LoggingConfig()

    @model_validator(mode="after")
    def _claim_within_caps(self) -> Config:
        claim = self.miner.network_bits_per_second
        for name in ("lease_upload_bits_per_second", "lease_download_bits_per_second"):
            if 0 < getattr(self.network, name) < claim:
                raise ValueError(
                    f"network.{name} is below miner.network_bits_per_second ({claim}): validators measure inside a "
                    "lease, and would find less than is claimed; raise the cap or lower the claim"
                )
        return self
