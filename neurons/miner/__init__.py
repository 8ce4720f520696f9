"""The miner: rents out containers and proves its hardware."""
