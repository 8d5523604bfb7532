"""``python -m envmesh_autoscaler``: an autoscaler with the settings of the environment."""

from __future__ import annotations

import os
import sys

from envmesh import event_loop
from envmesh_autoscaler.service import run
from envmesh_autoscaler.settings import AutoscalerSettings
from envmesh_service.logs import configure
from envmesh_service.settings import SettingsError, load


def main() -> int:
    """Run an autoscaler. Returns the exit status: 0 after a clean end, 1 when it had to be forced or could not reach
    the API server or listen, 2 when the settings are wrong."""
    try:
        settings = load(AutoscalerSettings, os.environ)
        configure(settings.log_level, service="autoscaler", form=settings.log_form)
        shutdown = event_loop.run(run(settings))
    except SettingsError as error:
        sys.stderr.write(f"envmesh autoscale: {error}\n")
        return 2
    except OSError as error:
        sys.stderr.write(f"envmesh autoscale: {error}\n")
        return 1
    return 1 if shutdown.forced else 0


if __name__ == "__main__":
    sys.exit(main())
