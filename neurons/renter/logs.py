"""`renter logs`: the output of a container, as bytes, to stdout."""

from __future__ import annotations

import argparse
import sys

from neurons.renter.session import open_session

FOLLOW_IDLE_SECONDS = 24 * 3600.0


def run(args: argparse.Namespace) -> int:
    """Print the output; with --follow, Ctrl-C is the normal end."""
    session = open_session(args)
    client, container_id, _ = session.target(args.id)
    idle_seconds = FOLLOW_IDLE_SECONDS if args.follow else session.timeout_seconds
    try:
        with client.logs(container_id, follow=args.follow, idle_seconds=idle_seconds) as chunks:
            for chunk in chunks:
                sys.stdout.buffer.write(chunk)
                sys.stdout.buffer.flush()
    except KeyboardInterrupt:
        if not args.follow:
            raise
    return 0
