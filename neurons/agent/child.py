"""The agent as the miner's child: settings and the log subkey come over stdin, so that it never holds the node's key.

Started by `neurons.miner.agent_process` as ``python -m neurons.agent.child``; the kernel ends it with its parent.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pydantic import Field

from config.schema import Config
from neurons.agent.node import AgentNode
from polarise.decode import WireModel, decode_model
from polarise.signing import KEY_PATTERN, Certificate, SigningKey, Subkey
from utils.logging import configure_logging

ORDERS_BYTES_MAX = 256 * 1024


class ChildOrders(WireModel):
    """What the parent says, once.

    Attributes:
        config: The node's settings as JSON.
        node_dir: The node's data directory.
        node_key: The node's public key.
        log_seed: Seed of the log subkey, 64 hex digits.
        certificate: The node's certificate of that key.
    """

    config: str
    node_dir: str
    node_key: str = Field(pattern=KEY_PATTERN)
    log_seed: str = Field(pattern=KEY_PATTERN, repr=False)
    certificate: Certificate


def main() -> int:
    """Read the orders and run until SIGTERM."""
    orders = decode_model(ChildOrders, sys.stdin.buffer.read(ORDERS_BYTES_MAX), max_bytes=ORDERS_BYTES_MAX)
    config = Config.model_validate_json(orders.config)
    # The parent's file has one writer; what this process says goes to the parent's stderr.
    configure_logging(config.logging.level, config.logging.format, None)
    subkey = Subkey(SigningKey(bytes.fromhex(orders.log_seed)), orders.certificate)
    return AgentNode(config, Path(orders.node_dir), orders.node_key, subkey).run()


if __name__ == "__main__":
    sys.exit(main())
