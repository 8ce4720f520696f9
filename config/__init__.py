"""Settings: one typed schema, one loader (defaults < file < environment < flag), the shipped YAML files."""
