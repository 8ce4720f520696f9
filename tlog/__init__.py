"""The log's room: append-only store, RFC 9162 tree, checkpoints; empty until the next step builds it."""
