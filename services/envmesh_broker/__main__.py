"""``python -m envmesh_broker``: a broker with the settings of the environment."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from envmesh_broker.broker import run
from envmesh_broker.settings import BrokerSettings
from envmesh_service.entry import run_service


def main(arguments: Sequence[str] = ()) -> int:
    """Run a broker. Returns the exit status."""
    return run_service("broker", BrokerSettings, run, command="broker", arguments=arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
