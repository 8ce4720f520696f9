"""Small real parts that several tests share: keys, clocks, running miners, raw HTTP, OpenSSH, the engine."""
