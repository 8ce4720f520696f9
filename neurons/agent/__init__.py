"""The agent's room (owner of a node's log and its key)."""
