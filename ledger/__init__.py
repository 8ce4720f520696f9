"""The ledger's room: path tree, rules, embedded ledger, adapters; empty until the next step builds it."""
