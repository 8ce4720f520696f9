"""Prints the OpenAPI document of a role, so that the files under openapi/ cannot go stale; a test compares them.

python -m neurons.openapi miner > openapi/miner.json
python -m neurons.openapi validator > openapi/validator.json
python -m neurons.openapi ledger > openapi/ledger.json
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping

from neurons.base.openapi_routes import Document, document_text
from neurons.ledger.operations import ledger_document
from neurons.miner.operations import miner_document
from neurons.validator.operations import validator_document

DOCUMENTS: Mapping[str, Callable[[], Document]] = {
    "ledger": ledger_document,
    "miner": miner_document,
    "validator": validator_document,
}


def main(argv: list[str] | None = None) -> int:
    """Print one document."""
    parser = argparse.ArgumentParser(prog="python -m neurons.openapi", description="Print an OpenAPI document.")
    parser.add_argument("role", choices=sorted(DOCUMENTS))
    sys.stdout.write(document_text(DOCUMENTS[parser.parse_args(argv).role]()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
