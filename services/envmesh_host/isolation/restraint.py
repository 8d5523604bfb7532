"""Workers that die before they have answered anything are replaced ever more slowly, and where there is no room for one
that is tried again later."""

from __future__ import annotations

import logging

__all__ = ["Restraint"]

log = logging.getLogger("envmesh.host")

DEATHS_WITHOUT_DELAY = 3
LONGEST_DELAY_SECONDS = 5.0
WITHOUT_ROOM_SECONDS = 1.0


class Restraint:
    """Of one environment. No worker is begun before ``until``, a moment of the event loop."""

    def __init__(self, environment: str):
        self._environment = environment
        self.failures = 0
        self.until = 0.0

    def failed(self, now: float) -> None:
        """Count a failure in a row; from the fourth on, the next worker has to wait."""
        self.failures += 1
        beyond = self.failures - DEATHS_WITHOUT_DELAY
        if beyond > 0:
            delay = min(0.1 * 2.0 ** min(beyond, 16), LONGEST_DELAY_SECONDS)
            self.until = now + delay
            log.warning(
                "workers die before they have answered anything",
                extra={"environment": self._environment, "deaths": self.failures, "delay_seconds": delay},
            )

    def no_room(self, now: float, error: OSError) -> None:
        """The machine has no room for another worker just now: too many open files, processes or pages."""
        self.until = now + WITHOUT_ROOM_SECONDS
        log.warning("no worker can be begun: %s", error, extra={"environment": self._environment})
