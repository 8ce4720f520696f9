"""The validator: challenges miners, checks proofs and containers, keeps scores and their evidence."""
