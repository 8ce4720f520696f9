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
    isolation TEXT NOT NULL DEFAULT 'standard' CHECK (isolation IN ('standard', 'strict')),
    runtime TEXT,
    consent TEXT,
    address TEXT,
    lost TEXT,
    private TEXT,
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
# What the leases have used so far (`meter`), and the signed statements of those that are over.
_USAGE = """
CREATE TABLE usage (
    lease_id TEXT PRIMARY KEY,
    meter TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE usage_statement (
    lease_id TEXT PRIMARY KEY,
    container_id TEXT NOT NULL,
    renter_key TEXT NOT NULL,
    ended_unix_ms INTEGER NOT NULL,
    statement TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX usage_statement_by_end ON usage_statement (ended_unix_ms);
CREATE INDEX usage_statement_by_renter ON usage_statement (renter_key, ended_unix_ms);
CREATE INDEX usage_statement_by_container ON usage_statement (container_id)
"""
_PROFILE = """
ALTER TABLE lease ADD COLUMN isolation TEXT NOT NULL DEFAULT 'standard' CHECK (isolation IN ('standard', 'strict'));
ALTER TABLE lease ADD COLUMN runtime TEXT
"""
_CONSENT = "ALTER TABLE lease ADD COLUMN consent TEXT"
_ADDRESS = "ALTER TABLE lease ADD COLUMN address TEXT"
_PRIVATE = "ALTER TABLE lease ADD COLUMN private TEXT"

VERSION = 9
SCHEMA = f"{_LEASE}; {_SPENT_KEY}; {_USAGE}"
UPGRADES = {
    2: "ALTER TABLE lease ADD COLUMN countersigned TEXT",
    3: _SPENT_KEY,
    4: _USAGE,
    5: _PROFILE,
    6: _CONSENT,
    7: _ADDRESS,
    8: "ALTER TABLE lease ADD COLUMN lost TEXT",
    9: _PRIVATE,
}
