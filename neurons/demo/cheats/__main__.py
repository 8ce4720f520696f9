"""`python -m neurons.demo.cheats NAME …`: run one cheating miner; it takes the options of `python main.py miner`."""

from __future__ import annotations

import argparse
import sys

from config.schema import RoleName
from neurons.base.options import add_daemon_options
from neurons.base.startup import load
from neurons.demo.cheats.event_editor import EventEditor
from neurons.demo.cheats.late_opener import LateOpener
from neurons.demo.cheats.limit_liar import LimitLiar
from neurons.demo.cheats.memory_inventor import MemoryInventor
from neurons.demo.cheats.share_forger import ShareForger
from neurons.demo.cheats.tile_skipper import TileSkipper

CHEATS = {
    "event-editor": EventEditor,
    "late-opener": LateOpener,
    "limit-liar": LimitLiar,
    "memory-inventor": MemoryInventor,
    "share-forger": ShareForger,
    "tile-skipper": TileSkipper,
}


def main() -> int:
    """Run the daemon until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m neurons.demo.cheats", description=__doc__)
    parser.add_argument("name", choices=sorted(CHEATS), help="which cheat")
    add_daemon_options(parser)
    args = parser.parse_args()
    started = load(args, RoleName.MINER)
    return CHEATS[args.name](started.config, started.data_dir, started.identity).run()


if __name__ == "__main__":
    sys.exit(main())
