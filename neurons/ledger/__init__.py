"""The ledger daemon: one process owns the file and the log key, everyone else uses its HTTP API."""
