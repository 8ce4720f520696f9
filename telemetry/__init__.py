"""The telemetry's room: sampler, thresholds, shipper, exporter; empty until the log exists."""
