"""The telemetry's room: sampler, thresholds, windows, exporter, and an archive that pulls."""
