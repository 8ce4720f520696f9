"""`renter token`: a bearer token for plain HTTP clients such as curl."""

from __future__ import annotations

import argparse
import time

from neurons.renter.output import print_json, say
from neurons.renter.session import open_session
from polarise.answers import printable
from polarise.rented import CONSENT_MS_MAX, sign_consent

MAX_TOKEN_CHARS = 8192
# A miner whose clock is a little behind ours may grant a lease before we, by our clock, have consented.
CONSENT_SLACK_MS = 60_000


def run(args: argparse.Namespace) -> int:
    """Print the token alone, so that ``TOKEN=$(python main.py renter token)`` works.

    Whoever uses it cannot sign receipts. So the consent to show its leases goes along, for a day and this miner only.
    """
    session = open_session(args)
    client = session.client()
    begin_unix_ms = time.time_ns() // 1_000_000 - CONSENT_SLACK_MS
    consent = sign_consent(session.identity, client.node_key, begin_unix_ms, begin_unix_ms + CONSENT_MS_MAX)
    answer = client.token(None if args.no_consent else consent)
    if args.output == "json":
        print_json(answer.to_wire())
    else:
        print(printable(answer.token, MAX_TOKEN_CHARS))
        say(f"expires {printable(answer.expires_at)}")
    return 0
