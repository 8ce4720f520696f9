"""A real miner that kills itself with SIGKILL at one named step: what a power cut or the OOM killer does.

Started as ``python -m tests.support.crashing_miner``; everything comes from the environment.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from config.schema import Config
from neurons.miner.node import MinerNode
from polarise.signing import Certificate, Identity, Purpose, SigningKey
from utils.logging import configure_logging


def main() -> int:
    """Run until SIGTERM, or until the step named by MINER_CRASH_AT is reached."""
    owner = SigningKey(bytes.fromhex(os.environ["MINER_OWNER_SEED"]))
    key = SigningKey(bytes.fromhex(os.environ["MINER_SEED"]))
    identity = Identity(key, Certificate.issue(owner, key.public_key, Purpose.NODE))
    crash_at = os.environ["MINER_CRASH_AT"]

    def reach(step: str) -> None:
        if step == crash_at:
            os.kill(os.getpid(), signal.SIGKILL)

    configure_logging("INFO", "json", None)
    config = Config.model_validate_json(os.environ["MINER_CONFIG"])
    return MinerNode(config, Path(os.environ["MINER_DATA_DIR"]), identity, reach=reach).run()


if __name__ == "__main__":
    sys.exit(main())
