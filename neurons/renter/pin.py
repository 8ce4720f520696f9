"""`renter pin`: the miner's TLS key as curl pins it."""

from __future__ import annotations

import argparse

from neurons.renter.miners import MinerBook
from neurons.renter.output import print_json
from neurons.renter.session import TIMEOUT_SECONDS, state_dir_of
from polarise.errors import ConfigError
from polarise.http_client import HttpClient
from polarise.tls import curl_pin


def run(args: argparse.Namespace) -> int:
    """Print the pin alone, so that ``curl -k --pinnedpubkey "$(python main.py renter pin)"`` works.

    It is printed only when the miner's node key signed it, and the registry, where there is one, names the same key.
    """
    timeout_seconds = args.timeout or TIMEOUT_SECONDS
    miner = MinerBook(state_dir_of(args), args.registry).find(args.miner, args.miner_key, timeout_seconds)
    word = HttpClient(miner.endpoint, pin=miner.pin).shown_word(timeout_seconds)
    if word is None:
        raise ConfigError(
            f"{miner.endpoint} has no certificate", origin="--miner", allowed="https://host:port; http:// needs no pin"
        )
    if args.output == "json":
        print_json({"endpoint": miner.endpoint, "node_key": word.issuer, "pin": curl_pin(word.subject)})
    else:
        print(curl_pin(word.subject))
    return 0
