"""Attacks on the containers: tried from inside real leases, in a lab, beside Docker's defaults and a control."""
