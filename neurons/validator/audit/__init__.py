"""The audit: every score derived anew from the ledger and the evidence, by anybody, offline once both are here."""
