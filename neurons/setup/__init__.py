"""Set-up and doctor: what a machine needs before a node can run on it, built and checked with the standard library alone.

Nothing in this package imports a third-party module or any other package of ours: it runs before the venv exists.
"""
