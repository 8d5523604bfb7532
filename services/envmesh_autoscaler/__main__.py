"""``python -m envmesh_autoscaler``: an autoscaler with the settings of the environment."""

from __future__ import annotations

import sys

from envmesh_autoscaler.service import run
from envmesh_autoscaler.settings import AutoscalerSettings
from envmesh_service.entry import run_service


def main() -> int:
    """Run an autoscaler. Returns the exit status."""
    return run_service("autoscaler", AutoscalerSettings, run, command="autoscale")


if __name__ == "__main__":
    sys.exit(main())
