"""``python -m envmesh_autoscaler``: an autoscaler with the settings of the environment."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from envmesh_autoscaler.service import run
from envmesh_autoscaler.settings import AutoscalerSettings
from envmesh_service.entry import run_service


def main(arguments: Sequence[str] = ()) -> int:
    """Run an autoscaler. Returns the exit status."""
    return run_service("autoscaler", AutoscalerSettings, run, command="autoscale", arguments=arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
