"""The tables of the journal, and what brings a file of an older version there."""

from __future__ import annotations

_LEASE = """
CREATE TABLE lease (
    lease_id TEXT PRIMARY KEY,
    state TEXT NOT NULL CHECK (state IN ('CREATING', 'ACTIVE', 'DELETING')),
    renter_key TEXT NOT NULL,
    limits TEXT NOT NULL,
    devices TEXT NOT NULL,
    image TEXT NOT NULL,
    ssh_port INTEGER NOT NULL UNIQUE,
    nonce TEXT NOT NULL,
    created_unix_ms INTEGER NOT NULL,
    expires_unix_ms INTEGER NOT NULL,
    expires_boot_ms INTEGER NOT NULL,
    boot_id TEXT NOT NULL,
    container_id TEXT UNIQUE,
    image_id TEXT,
    host_key TEXT,
    has_password INTEGER NOT NULL,
    idempotency_key TEXT,
    request_digest TEXT NOT NULL,
    countersigned TEXT,
    UNIQUE (renter_key, idempotency_key)
) WITHOUT ROWID
"""
# The Idempotency-Keys of leases that were granted and are over: a late retry makes no second lease.
_SPENT_KEY = """
CREATE TABLE spent_key (
    renter_key TEXT NOT NULL,
    idempotency_key TEXT NOT NULL,
    request_digest TEXT NOT NULL,
    ended_unix_ms INTEGER NOT NULL,
    PRIMARY KEY (renter_key, idempotency_key)
) WITHOUT ROWID;
CREATE INDEX spent_key_by_end ON spent_key (ended_unix_ms)
"""

VERSION = 3
SCHEMA = f"{_LEASE}; {_SPENT_KEY}"
UPGRADES = {2: "ALTER TABLE lease ADD COLUMN countersigned TEXT", 3: _SPENT_KEY}
