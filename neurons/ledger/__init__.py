"""The ledger server's room; empty until the ledger exists."""
