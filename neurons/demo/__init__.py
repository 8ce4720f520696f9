"""The demo: starts the real daemons as subprocesses and tells what happens."""
