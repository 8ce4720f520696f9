"""The transparency log under ledger and telemetry: append-only store, RFC 9162 tree, checkpoints, tiles, witness."""
