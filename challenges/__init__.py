"""The proofs: pure challenges and their checks, without network, clock, containers or state."""
