"""What crosses machines: formats, signatures and clients that renters, auditors and daemons share."""

__version__ = "0.1.0"
