"""The renter's side: allocate, log in, look, renew, release."""
