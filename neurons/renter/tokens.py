"""`renter token`: a bearer token for plain HTTP clients such as curl."""

from __future__ import annotations

import argparse

from neurons.renter.output import print_json, say
from neurons.renter.session import open_session
from polarise.answers import printable

MAX_TOKEN_CHARS = 8192


def run(args: argparse.Namespace) -> int:
    """Print the token alone, so that ``TOKEN=$(python main.py renter token)`` works."""
    answer = open_session(args).client().token()
    if args.output == "json":
        print_json(answer.to_wire())
    else:
        print(printable(answer.token, MAX_TOKEN_CHARS))
        say(f"expires {printable(answer.expires_at)}")
    return 0
