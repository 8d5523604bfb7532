"""``python -m envmesh_broker``: a broker with the settings of the environment."""

from __future__ import annotations

import sys

from envmesh_broker.broker import run
from envmesh_broker.settings import BrokerSettings
from envmesh_service.entry import run_service


def main() -> int:
    """Run a broker. Returns the exit status."""
    return run_service("broker", BrokerSettings, run, command="broker")


if __name__ == "__main__":
    sys.exit(main())
