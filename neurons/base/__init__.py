"""What every daemon has: start and stop, services, HTTP, identity, a data directory of its own."""
