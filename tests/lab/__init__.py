"""A second Docker engine in a network namespace of its own, for tests that attack what no other engine may feel."""
