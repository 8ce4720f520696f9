"""One thin wrapper per outside thing; no domain words here."""
